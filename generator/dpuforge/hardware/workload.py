"""Counts an operator's work as the compiler does: workload, and workload_on_arch after padding to the engine's grain.

The formulas reproduce every operator of the compiled models on record (v2.0 to v3.5; tests/hardware/test_workload.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from dpuforge.records.hardware import Dpu, DpuFamily, Engine
from dpuforge.records.operator import Operator, OpKind, count_elements


@dataclass(frozen=True)
class Work:
    """Operations (a multiply and an add are two): as the network has them, and as the engine computes them."""

    workload: int = 0
    on_arch: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.workload + other.workload, self.on_arch + other.on_arch)


def measure_work(operator: Operator, dpu: Dpu, family: DpuFamily) -> Work:
    """Return the work of one operator on one image; operators that move data only count as nothing."""
    if operator.kind in (OpKind.CONV, OpKind.DENSE):
        return convolution_work(operator, dpu, bool(family.rules["augmentation_counted"]))
    if operator.kind is OpKind.DEPTHWISE:
        return _depthwise(operator, dpu)
    if operator.kind in (OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED):
        return _transposed(operator, dpu)
    if operator.kind in (OpKind.MAX_POOL, OpKind.AVERAGE_POOL):
        return _pool(operator, dpu)
    if operator.kind in (OpKind.ADD, OpKind.MUL):
        return _eltwise(operator, dpu)
    return Work()


def alu_engine(dpu: Dpu, *names: str) -> Engine:
    """Return the first of the DPU's engines called names, or an engine of grain 1 where it has none."""
    found = next((dpu.engines[name] for name in names if name in dpu.engines), None)
    return found or Engine(channels=1, pixels=1)


def round_up(value: int, grain: int) -> int:
    """Return the smallest multiple of grain that is not below value."""
    return -(-value // grain) * grain


def convolution_work(operator: Operator, dpu: Dpu, augment: bool = True) -> Work:
    """oh ow oc (2 kw kh ic + 1); on the engine rows go up to PP, output channels to OCP, input channels to ICP.

    With channel augmentation the engine folds the kernel's width into few input channels (the first layer). The
    compiler's accounting leaves that out on DPUCAHX8H, whose engine has it all the same: augment False.
    """
    (height, width), (rows, columns) = operator.out_size, operator.kernel
    inside, outside = operator.in_channels, operator.out_channels
    if augment and columns * inside <= (dpu.channel_augmentation or 0):
        terms = rows * round_up(columns * inside, dpu.input_channels)
    else:
        terms = rows * columns * round_up(inside, dpu.input_channels)
    grid = round_up(height, dpu.pixels) * width * round_up(outside, dpu.output_channels)
    return Work(height * width * outside * (2 * rows * columns * inside + 1), grid * (2 * terms + 1))


def _depthwise(operator: Operator, dpu: Dpu) -> Work:
    engine = alu_engine(dpu, "alu", "dwconv")
    (height, width), channels = operator.out_size, operator.out_channels
    each = 2 * operator.kernel[0] * operator.kernel[1] + 1
    grid = round_up(height, engine.pixels) * width * round_up(channels, engine.channels)
    return Work(height * width * channels * each, grid * each)


def _transposed(operator: Operator, dpu: Dpu) -> Work:
    """A transposed convolution runs as stride_h * stride_w small ones: rows are padded before the stride."""
    (height, width), (rows, columns), (down, right) = operator.out_size, operator.kernel, operator.stride
    area = (-(-rows // down)) * (-(-columns // right))
    depthwise = operator.kind is OpKind.DEPTHWISE_TRANSPOSED
    inside, outside = (1 if depthwise else operator.in_channels), operator.out_channels
    padded = inside if depthwise else round_up(inside, dpu.input_channels)
    grid = round_up(-(-height // down), dpu.pixels) * down * width * round_up(outside, dpu.output_channels)
    return Work(height * width * outside * (2 * area * inside + 1), grid * (2 * area * padded + 1))


def _pool(operator: Operator, dpu: Dpu) -> Work:
    engine = alu_engine(dpu, "alu", "pool")
    height, width = operator.out_size
    each = operator.kernel[0] * operator.kernel[1] * (2 if operator.kind is OpKind.AVERAGE_POOL else 1)
    grid = round_up(height, engine.pixels) * width * round_up(operator.out_channels, engine.channels)
    return Work(height * width * operator.out_channels * each, grid * each)


def _eltwise(operator: Operator, dpu: Dpu) -> Work:
    """Each operand counts once; a constant operand makes a 1 x 1 depthwise convolution of it."""
    if operator.constant:
        return _depthwise(operator, dpu)
    engine = alu_engine(dpu, "eltwise", "alu")
    height, width = operator.out_size
    operands = max(2, len(operator.inputs))
    grid = round_up(height, engine.pixels) * width * round_up(operator.out_channels, engine.channels)
    return Work(operands * count_elements(operator.out_shape), operands * grid)
