"""Behind the stand-in for VART's headers: reads int8 batches, runs the xmodel with the drop-in vart, writes int8."""

from __future__ import annotations

import sys

import numpy as np
import vart
import xir

root = xir.Graph.deserialize(sys.argv[1]).get_root_subgraph()
subgraph = next(child for child in root.toposort_child_subgraph() if child.get_attr("device") == "DPU")
runner = vart.Runner.create_runner(subgraph, "run")
source, target = runner.get_input_tensors()[0], runner.get_output_tensors()[0]
each = int(np.prod(target.dims[1:]))
shapes = (*source.dims, source.get_attr("fix_point"), each, target.get_attr("fix_point"))
sys.stdout.buffer.write((" ".join(map(str, shapes)) + "\n").encode())
sys.stdout.buffer.flush()
while len(block := sys.stdin.buffer.read(int(np.prod(source.dims)))) == int(np.prod(source.dims)):
    data, rows = np.frombuffer(block, np.int8).reshape(source.dims).copy(), np.zeros(target.dims, np.int8)
    runner.wait(runner.execute_async([data], [rows]))
    sys.stdout.buffer.write(rows.tobytes())
    sys.stdout.buffer.flush()
