"""Graph + images -> outputs, on integers alone: the proof that the file, not only the network in memory, is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpuforge.errors import FormatError, UsageError
from dpuforge.xmodel.forward_outputs import forward_outputs
from dpuforge.xmodel.integers.calls import read_calls
from dpuforge.xmodel.integers.fixed_point import Value, align, real_value
from dpuforge.xmodel.integers.operands import Machine
from dpuforge.xmodel.integers.operators import run_op
from dpuforge.xmodel.nouns import Graph, Op
from dpuforge.xmodel.read import order_ops

Images = NDArray[np.float32]
Watch = Callable[[Op, Value], Value | None]


@dataclass(frozen=True)
class Program:
    """A graph made ready: constants computed once, the other ops in order, and after which op a value may go.

    one_by_one: some op mixes the images of a batch, as far as the file tells: each image runs alone.
    """

    source: Op
    steps: tuple[Op, ...]
    constants: Mapping[str, Value]
    outputs: tuple[str, ...]
    last_use: Mapping[str, str]
    machine: Machine
    one_by_one: bool = False


def run_xmodel(
    graph: Graph,
    x: NDArray[np.generic],
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
    *,
    use_torch: bool = True,
) -> Images:
    """Execute an uncompiled quantised xmodel on float32 images (N, H, W, C) and return its float32 output (N, ...).

    Integers throughout: int8 activations, int32 sums, half up rounding. `progress(done, total)` is called after each
    batch; torch runs the convolutions where it is installed and `use_torch` is true, with the same result.
    Raises FormatError where the graph cannot be run, UsageError where x does not fit or there are several outputs.
    """
    outputs = run_outputs(graph, x, batch_size, progress, use_torch=use_torch)
    if len(outputs) != 1:
        raise UsageError(f"the network has {len(outputs)} outputs: {', '.join(outputs)}", "call run_outputs")
    return next(iter(outputs.values()))


def run_outputs(
    graph: Graph,
    x: NDArray[np.generic],
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
    *,
    use_torch: bool = True,
    watch: Watch | None = None,
    exponent: float | None = None,
) -> dict[str, Images]:
    """Execute as `run_xmodel` and return every output by name: in forward's order where the file says it.

    exponent: that of aten::pow in files of AMD's tool, which leave it out.
    `watch(op, value)` sees every tensor of every batch; what it returns, if anything, is what readers of op get.
    """
    program = prepare(graph, use_torch=use_torch, exponent=exponent)
    images = _check_images(program.source, x)
    if batch_size < 1:
        raise UsageError(f"a batch has at least one image, got {batch_size}")
    batches: dict[str, list[Images]] = {name: [] for name in program.outputs}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        for name, value in run_batch(program, batch, watch).items():
            batches[name].append(value.real.astype(np.float32))
        if progress is not None:
            progress(start + len(batch), len(images))
    return {name: np.concatenate(parts) for name, parts in batches.items()}


def prepare(graph: Graph, *, use_torch: bool = True, exponent: float | None = None) -> Program:
    """Order the ops and compute what depends on constants alone. Raises FormatError where the graph cannot be run."""
    sources = [op for op in graph.ops if op.type in ("data", "data-fix")]
    if len(sources) != 1 or sources[0].type != "data":
        compiled = any(op.type.endswith("-fix") for op in graph.ops)
        message = (
            "a compiled xmodel runs on a DPU" if compiled else f"the graph has {len(sources)} inputs, one is known"
        )
        raise FormatError(message, "give the uncompiled xmodel that the quantiser wrote")
    if len(sources[0].dims) < 2 or sources[0].dims[0] != 1:
        raise FormatError(f"the input is declared as {list(sources[0].dims)}, the first dimension must be 1")
    machine, constants, steps = Machine(use_torch, read_calls(graph), exponent=exponent), dict[str, Value](), []
    for op in order_ops(graph):
        if op.type == "data":
            continue
        if all(name in constants for name in op.all_inputs):
            constants[op.name] = run_op(machine, op, _inputs(op, constants))
        else:
            steps.append(op)
    last_use = {name: op.name for op in steps for name in op.all_inputs}
    outputs = tuple(dict.fromkeys(name for name in forward_outputs(graph) if name not in constants))
    alone = bool(machine.calls) or any(op.dims[:1] != (1,) for op in steps)
    return Program(sources[0], tuple(steps), constants, outputs, last_use, machine, alone)


def _check_images(source: Op, x: NDArray[np.generic]) -> Images:
    images = np.asarray(x)
    if images.dtype.kind not in "fiu" or images.shape[1:] != source.dims[1:] or len(images) == 0:
        wanted = f"(N, {', '.join(map(str, source.dims[1:]))})"
        message = f"the network takes float32 {wanted} with N > 0, got {images.dtype} {images.shape}"
        raise UsageError(message, "give images in NHWC order, already normalised")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise UsageError("the images hold NaN or infinity", "check the preprocessing")
    return images


def run_batch(program: Program, batch: Images, watch: Watch | None = None) -> dict[str, Value]:
    """Execute a prepared graph on one batch, float32 (N, H, W, C), and return its outputs by name.

    Threads may share a program; `watch(op, value)` sees every tensor that is not a constant, and may replace it.
    """
    if not program.one_by_one or len(batch) == 1:
        return _run_together(program, batch, watch)
    seen: dict[str, list[Value]] = {}

    def gather(op: Op, value: Value) -> Value | None:
        seen.setdefault(op.name, []).append(value)
        return None

    found = [_run_together(program, batch[i : i + 1], gather if watch else None) for i in range(len(batch))]
    if watch is not None:
        for op in program.steps:
            watch(op, _joined(seen[op.name]))
    return {name: _joined([values[name] for values in found]) for name in program.outputs}


def _joined(values: list[Value]) -> Value:
    values = list(align(values))
    return values[0].with_data(np.concatenate([np.atleast_1d(value.data) for value in values]))


def _run_together(program: Program, batch: Images, watch: Watch | None) -> dict[str, Value]:
    values: dict[str, Value] = {**program.constants, program.source.name: real_value(batch)}
    for op in program.steps:
        values[op.name] = run_op(program.machine, op, _inputs(op, values))
        replaced = watch(op, values[op.name]) if watch is not None else None
        if replaced is not None:
            values[op.name] = replaced
        for name in set(op.all_inputs):
            if program.last_use[name] == op.name and name not in program.outputs:
                del values[name]
    return {name: values[name] for name in program.outputs}


def _inputs(op: Op, values: Mapping[str, Value]) -> dict[str, tuple[Value, ...]]:
    return {arg.name: tuple(values[name] for name in arg.ops) for arg in op.args}
