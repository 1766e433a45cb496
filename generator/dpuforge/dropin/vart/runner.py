"""Runners: the DPU part of an uncompiled xmodel, computed on integers by one worker thread each."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import dpuforge_dropin  # type: ignore[import-not-found]  # found at run time: this folder is on PYTHONPATH
import numpy as np
from xir import Graph, Subgraph, Tensor  # type: ignore[import-not-found]
from xir.graph import NOTICE  # type: ignore[import-not-found]

from dpuforge.errors import UserError
from dpuforge.xmodel.integers.fixed_point import Value
from dpuforge.xmodel.integers.run import Program, prepare, run_batch
from dpuforge.xmodel.nouns import Op

from .buffers import Array, TensorBuffer, make_buffer, store_integers, to_integers, view_buffer

BATCH_VARIABLE = "DPUFORGE_VART_BATCH"
Job = tuple[int, int]


@dataclass(frozen=True)
class Network:
    """What runners of one graph share: the program of its DPU part, the tensors that enter and leave it."""

    program: Program
    source: Tensor
    targets: tuple[Tensor, ...]


_networks: WeakKeyDictionary[Graph, Network] = WeakKeyDictionary()
_networks_lock = threading.Lock()


class Runner:
    """Runs the DPU subgraph; make one with create_runner. Threads may share it, or each have their own."""

    def __init__(self, network: Network, batch: int) -> None:
        self._network = network
        self._inputs = [network.source.with_batch(batch)]
        self._outputs = [tensor.with_batch(batch) for tensor in network.targets]
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dpuforge-vart")
        self._jobs: dict[int, Future[None]] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    @classmethod
    def create_runner(cls, subgraph: Subgraph, mode: str = "") -> Runner:
        """Return a runner of the DPU subgraph of an uncompiled xmodel.

        One run takes DPUFORGE_VART_BATCH images (default 1). Raise RuntimeError where the subgraph was compiled, is no
        DPU's, or cannot be run.
        """
        dpuforge_dropin.announce(NOTICE)
        _check_subgraph(subgraph, mode)
        with _networks_lock:
            graph = subgraph.get_graph()
            if graph not in _networks:
                _networks[graph] = _make_network(subgraph)
            network = _networks[graph]
        return cls(network, _read_batch())

    def get_input_tensors(self) -> list[Tensor]:
        """Return the tensors to feed: int8, NHWC, the DPU's batch first, with their fix_point."""
        return list(self._inputs)

    def get_output_tensors(self) -> list[Tensor]:
        """Return the tensors that come out."""
        return list(self._outputs)

    def execute_async(self, inputs: Sequence[Any], outputs: Sequence[Any], enable_dynamic_array: bool = False) -> Job:
        """Start one run and return (job id, 0); the buffers must be left alone until wait(job) returns.

        Raise TypeError or ValueError where a buffer does not fit its tensor.
        """
        sources = _view_buffers(inputs, self._inputs, enable_dynamic_array)
        targets = _view_buffers(outputs, self._outputs, enable_dynamic_array)
        count = len(sources[0])
        if any(len(target) < count for target in targets):
            raise ValueError(f"{count} images go in, an output buffer has fewer rows")
        number = next(self._numbers)
        with self._lock:
            self._jobs[number] = self._worker.submit(self._compute, sources[0], targets)
        return number, 0

    def wait(self, job_id: Job) -> int:
        """Wait until the outputs of a job are written and return 0; raise what went wrong in it."""
        number, _ = job_id
        with self._lock:
            future = self._jobs.pop(number, None)
        if future is None:
            raise RuntimeError(f"job {number} is not under way in this runner: it was never started, or waited for")
        future.result()
        return 0

    def _compute(self, source: Array, targets: list[Array]) -> None:
        integers = to_integers(source, self._inputs[0])
        images = np.ldexp(integers.astype(np.float32), -int(self._inputs[0].get_attr("fix_point")))
        wanted = {_producer(tensor) for tensor in self._outputs}
        found: dict[str, Array] = {}

        def keep(op: Op, value: Value) -> None:
            if op.name in wanted:
                found[op.name] = value.data

        run_batch(self._network.program, images, keep)
        for tensor, target in zip(self._outputs, targets, strict=True):
            store_integers(found[_producer(tensor)], target[: len(source)], tensor)

    def __repr__(self) -> str:
        return f"vart::Runner@{id(self):#x} (dpuforge's emulation)"


class RunnerExt(Runner):
    """A runner that also hands out buffers for its tensors."""

    def get_inputs(self) -> list[TensorBuffer]:
        """Return new buffers for the inputs."""
        return [make_buffer(tensor) for tensor in self._inputs]

    def get_outputs(self) -> list[TensorBuffer]:
        """Return new buffers for the outputs."""
        return [make_buffer(tensor) for tensor in self._outputs]


def _check_subgraph(subgraph: Subgraph, mode: str) -> None:
    if subgraph.get_graph().compiled:
        raise RuntimeError(
            "this xmodel is compiled for a DPU and dpuforge's vart runs uncompiled ones only: run it on the board, "
            "with AMD's vart, or give the xmodel that the quantizer wrote (<net>_int.xmodel)"
        )
    if not subgraph.has_attr("device") or subgraph.get_attr("device") != "DPU":
        raise RuntimeError(f"{subgraph.get_name()} is not a DPU subgraph: choose the one whose device is DPU")
    if mode not in ("", "run"):
        raise RuntimeError(f"mode {mode!r} is not known here: use 'run'")


def _make_network(subgraph: Subgraph) -> Network:
    record, names = subgraph.get_graph().record, {op.get_name() for op in subgraph.get_ops()}
    sources = list(subgraph.get_input_tensors())
    order = [op.get_name() for op in subgraph.get_graph().toposort()]
    targets = sorted(subgraph.get_output_tensors(), key=lambda tensor: order.index(_producer(tensor)))
    if len(sources) != 1:
        raise RuntimeError(f"{subgraph.get_name()} has {len(sources)} inputs, dpuforge's vart runs those with one")
    entry = record.by_name[_producer(sources[0])]
    kept = names | {entry.name, *entry.all_inputs}
    part = replace(record, root=None, ops=tuple(op for op in record.ops if op.name in kept))
    try:
        return Network(prepare(part), sources[0], tuple(targets))
    except UserError as error:
        raise RuntimeError(str(error)) from error


def _producer(tensor: Tensor) -> str:
    return str(tensor.producer.get_name())


def _read_batch() -> int:
    text = os.environ.get(BATCH_VARIABLE, "1")
    if not text.isdecimal() or int(text) < 1:
        raise RuntimeError(f"{BATCH_VARIABLE} must be a whole number from 1, got {text!r}")
    return int(text)


def _view_buffers(buffers: Sequence[Any], tensors: list[Tensor], dynamic: bool) -> list[Array]:
    if len(buffers) != len(tensors):
        raise ValueError(f"there are {len(tensors)} tensors, got {len(buffers)} buffers")
    return [view_buffer(buffer, tensor, dynamic) for buffer, tensor in zip(buffers, tensors, strict=True)]
