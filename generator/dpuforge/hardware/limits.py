"""Operator limits in a person's words: why an operator cannot run on a DPU, and what to change.

The numbers are data: spec/dpus/<target>.yaml (engines and banks) and spec/dpus/families/<family>.yaml (common rules).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dpuforge.hardware.fuse import ACTIVATIONS
from dpuforge.records.hardware import Dpu, DpuFamily, Engine, Limit, Sizes
from dpuforge.records.operator import Operator, OpKind


@dataclass(frozen=True)
class Refusal:
    """Why an operator runs on the CPU, and what would bring it to the DPU."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Target:
    """A DPU with the rules of its family."""

    dpu: Dpu
    family: DpuFamily

    @property
    def name(self) -> str:
        """How messages call it: "DPUCZDX8G ISA0"."""
        return f"{self.dpu.family} ISA{self.dpu.isa}"

    @property
    def channels(self) -> int:
        """The channel parallelism of the rules: the target's own on DPUCZDX8G, the family's elsewhere."""
        return self.dpu.input_channels if self.dpu.family == "DPUCZDX8G" else self.rule("channel_parallel")

    def rule(self, name: str, default: Any = None) -> Any:
        """Return a rule of the family."""
        return self.family.rules.get(name, default)


Check = Callable[[Operator, Target], Iterator[Refusal]]


def find_refusal(operator: Operator, target: Target) -> Refusal | None:
    """Return the first limit that an operator breaks, or None where the DPU runs it."""
    if operator.kind.value in target.rule("cpu_operators"):
        return Refusal(
            f"{_describe(operator)}: no {target.dpu.family} computes it", _REPLACEMENTS.get(operator.kind, "")
        )
    if not operator.in_shapes and operator.kind is not OpKind.INPUT:
        return Refusal(f"{_describe(operator)}: works on constants only", "compute it once, outside the network")
    check = _CHECKS.get(operator.kind)
    if check is None:
        label = operator.label or operator.kind.value
        return Refusal(f"{label}: has no counterpart on a DPU", "move it behind the network, or replace it")
    return next(check(operator, target), None)


_REPLACEMENTS = {
    OpKind.SOFTMAX: "fine as the last operator; elsewhere it splits the network",
    OpKind.SIGMOID: "use hard sigmoid",
    OpKind.SILU: "use hard swish (Vitis AI 3.0 and later: convert_silu_to_hswish: true) or ReLU",
    OpKind.GELU: "use ReLU or hard swish and retrain",
    OpKind.TANH: "use ReLU and retrain",
    OpKind.PERMUTE: "keep channels last out of the network, or move it to the input or output",
}


def _describe(operator: Operator) -> str:
    """Name an operator with its size, as a person would: "global average pool 14x14", "conv2d 3x3, stride 2"."""
    words = f"global {operator.kind}" if operator.is_global else str(operator.kind)
    if operator.kind in _SIZED and operator.kernel != (1, 1):
        words += f" {operator.kernel[0]}x{operator.kernel[1]}"
    return words


_SIZED = (
    OpKind.CONV,
    OpKind.DEPTHWISE,
    OpKind.TRANSPOSED,
    OpKind.DEPTHWISE_TRANSPOSED,
    OpKind.MAX_POOL,
    OpKind.AVERAGE_POOL,
)


def _check_convolution(operator: Operator, target: Target) -> Iterator[Refusal]:
    what, conv, rule = _describe(operator), target.dpu.engines["conv"], target.rule
    if operator.groups != 1:
        yield Refusal(
            f"grouped {what} ({operator.groups} groups): a DPU runs plain and depthwise convolutions only",
            "use groups=1, or groups equal to the channels",
        )
    kernel = Sizes.parse(rule("conv_kernel"))
    yield from _check_sizes(f"{what}: kernel", operator.kernel, kernel, f"{target.name} convolves with kernels")
    limit = conv.limits["all"]
    if operator.kernel != operator.in_shapes[0][1:3]:
        strides = (
            limit.stride if limit.stride.largest < Sizes.parse(rule("stride")).largest else Sizes.parse(rule("stride"))
        )
        yield from _check_sizes(f"{what}: stride", operator.stride, strides, f"{target.name} convolves with strides")
    yield from _check_kernel_area(operator, target)
    yield from _check_channels(operator, target)
    yield from _check_weights(operator, target)
    yield from _check_pad(operator)


def _check_kernel_area(operator: Operator, target: Target) -> Iterator[Refusal]:
    area, channels = operator.kernel[0] * operator.kernel[1], target.rule("conv_area_channels", 0)
    most = target.rule("conv_kernel_area")
    if most and area * -(-operator.in_channels // channels) > most:
        yield Refusal(
            f"{_describe(operator)} of {operator.in_channels} channels: on {target.name} kernel height * width *"
            f" ceil(channels / {channels}) is at most {most}, got {area * -(-operator.in_channels // channels)}",
            "use a smaller kernel",
        )
    most = target.rule("conv_kernel_area_256")
    if most and 256 * area > most:
        yield Refusal(
            f"{_describe(operator)}: on {target.name} 256 * height * width is at most {most}", "use a smaller kernel"
        )


def _check_channels(operator: Operator, target: Target) -> Iterator[Refusal]:
    most = target.rule("channel_factor") * target.channels
    inside, outside = operator.in_channels, operator.out_channels
    what = f"fully connected layer of {inside} inputs" if operator.kind is OpKind.DENSE else _describe(operator)
    if inside > most or outside > most:
        side = "input" if inside > most else "output"
        yield Refusal(
            f"{what}: {target.name} takes up to {most} {side} channels, got {max(inside, outside)}",
            "use fewer channels",
        )
    elif max(operator.dilation) > 1 and max(operator.dilation) * inside > most:
        yield Refusal(
            f"{what} with dilation {max(operator.dilation)}: on {target.name} dilation * input channels is at most"
            f" {most}, got {max(operator.dilation) * inside}",
            "use a smaller dilation or fewer channels",
        )


def _check_weights(operator: Operator, target: Target) -> Iterator[Refusal]:
    """kw * kh * ceil(ic / cp) rows of the weight bank (UG1414); DPUCV2DX8G stores ceil(cp / 4) rows each, plus 4."""
    bank = target.dpu.bank(target.dpu.engines["conv"].weight_bank)
    depth = target.rule("bank_depth", bank.depth if bank else None)
    rows = operator.kernel[0] * operator.kernel[1] * -(-operator.in_channels // target.channels)
    if target.rule("weight_rule") == "depth4":
        rows = rows * -(-target.channels // 4) + 4
    if depth is not None and rows > depth:
        yield Refusal(
            f"{_describe(operator)} of {operator.in_channels} input channels: its weights need {rows} rows of the"
            f" weight bank, {target.name} has {depth}",
            "use a smaller kernel or fewer input channels (pool before a fully connected layer)",
        )


def _check_pad(operator: Operator) -> Iterator[Refusal]:
    most = [(size - 1) * step for size, step in zip(operator.kernel, operator.dilation, strict=True)]
    if max(operator.pad[:2]) > most[0] or max(operator.pad[2:]) > most[1]:
        yield Refusal(f"{_describe(operator)}: padding {operator.pad} exceeds (kernel - 1) * dilation", "pad less")


def _check_depthwise(operator: Operator, target: Target) -> Iterator[Refusal]:
    what, engine = _describe(operator), _engine(target, "alu", "dwconv")
    if engine is None or not target.rule("depthwise"):
        yield Refusal(f"{what}: {target.name} ({target.dpu.target}) has no depthwise engine", "use a plain convolution")
        return
    if operator.out_channels != operator.in_channels:
        times = operator.out_channels // max(1, operator.in_channels)
        yield Refusal(f"{what} with {times} outputs per channel: a DPU makes one", "use a plain convolution")
    limit = engine.limits["all"]
    yield from _check_limit(what, operator, limit, f"{target.name} convolves depthwise")
    area = target.rule("depthwise_kernel_area")
    if area and operator.kernel[0] * operator.kernel[1] > area:
        yield Refusal(f"{what}: on {target.name} height * width is at most {area}", "use a smaller kernel")
    yield from _check_channels(operator, target)
    yield from _check_engine_pad(operator, engine, target)


def _check_pool(operator: Operator, target: Target) -> Iterator[Refusal]:
    engine, kind = _engine(target, "alu", "pool"), "max" if operator.kind is OpKind.MAX_POOL else "avg"
    what = _describe(operator)
    if engine is None or not _pools(engine, kind):
        yield Refusal(f"{what}: {target.dpu.target} has no {operator.kind} engine", "use a strided convolution")
        return
    limit = engine.limits.get("all") or engine.limits[kind]
    yield from _check_limit(what, operator, limit, f"{target.name} pools", strides=not operator.is_global)
    square = target.rule("average_pool_square") and kind == "avg" and "alu" not in target.dpu.engines
    if square and operator.kernel[0] != operator.kernel[1]:
        yield Refusal(f"{what}: {target.name} averages over squares only", "use a square window")
    yield from _check_engine_pad(operator, engine, target)


def _pools(engine: Engine, kind: str) -> bool:
    # The ALU of DPUCV2DX8G lists its macro operations (macc_temp, comp_temp) in place of pools.
    return any(name in engine.operations for name in (kind, f"{kind}_pool", "macc_temp"))


def _check_limit(what: str, operator: Operator, limit: Limit, whose: str, strides: bool = True) -> Iterator[Refusal]:
    yield from _check_sizes(what, operator.kernel, limit.kernel, whose, square=True)
    if strides:
        yield from _check_sizes(f"{what}: stride", operator.stride, limit.stride, f"{whose} with strides")


def _check_sizes(
    what: str, sizes: tuple[int, int], allowed: Sizes, whose: str, square: bool = False
) -> Iterator[Refusal]:
    if all(size in allowed for size in sizes):
        return
    largest = allowed.largest
    got = "" if square else f", got {sizes[0]}x{sizes[1]}"
    if max(sizes) > largest:
        extent = f"up to {largest}x{largest}" if square else f"up to {largest}"
        yield Refusal(f"{what}: {whose} {extent}{got}", f"keep it at {largest} or below (a smaller input does it too)")
    else:
        yield Refusal(f"{what}: {whose} of {allowed}{got}", f"use one of {allowed}")


def _check_engine_pad(operator: Operator, engine: Engine, target: Target) -> Iterator[Refusal]:
    for side, value in zip(("top", "bottom", "left", "right"), operator.pad, strict=True):
        if side in engine.pad and value not in engine.pad[side]:
            yield Refusal(
                f"{_describe(operator)}: {target.name} pads {engine.pad[side]} {side}, got {value}", "pad less"
            )


def _check_transposed(operator: Operator, target: Target) -> Iterator[Refusal]:
    what, allowed = _describe(operator), Sizes.parse(target.rule("transposed_ratio"))
    if operator.kind is OpKind.DEPTHWISE_TRANSPOSED and _engine(target, "alu", "dwconv") is None:
        yield Refusal(f"{what}: {target.name} has no depthwise engine", "use a plain transposed convolution")
    if operator.groups != 1 and operator.kind is OpKind.TRANSPOSED:
        yield Refusal(f"grouped {what}: a DPU has no grouped convolution", "use groups=1")
    padding = operator.attributes.get("output_padding", (0, 0))
    if isinstance(padding, tuple) and any(padding):
        yield Refusal(
            f"{what}: output_padding must be 0 on a DPU, got {padding}", "choose kernel and stride so that it is 0"
        )
    for size, step in zip(operator.kernel, operator.stride, strict=True):
        if max(1, size // step) not in allowed or (size % step and size // step + 1 not in allowed):
            yield Refusal(f"{what}: kernel / stride must be {allowed} on {target.name}", "use a smaller kernel")
    yield from _check_channels(operator, target)


def _check_eltwise(operator: Operator, target: Target) -> Iterator[Refusal]:
    name = "add" if operator.kind is OpKind.ADD else "mult"
    engines = [target.dpu.engines[key] for key in ("eltwise", "alu") if key in target.dpu.engines]
    if operator.constant:
        if operator.kind is OpKind.MUL and _engine(target, "alu", "dwconv") is None:
            yield Refusal(
                f"multiply by a constant: {target.name} has no depthwise engine", "fold it into a convolution"
            )
        return
    if not any(name in engine.operations or f"elew_{name}" in engine.operations for engine in engines):
        yield Refusal(
            f"{operator.kind} of two feature maps: {target.dpu.target} adds only", "choose a DPU with eltwise multiply"
        )
    if len(set(operator.in_shapes)) > 1:
        shapes = " and ".join("x".join(str(size) for size in shape[1:]) for shape in operator.in_shapes)
        yield Refusal(
            f"{operator.kind} of unequal feature maps ({shapes}): a DPU takes equal shapes only",
            "squeeze-and-excitation does this; take a network without it",
        )


def _check_concat(operator: Operator, target: Target) -> Iterator[Refusal]:
    if operator.attributes.get("dim", 1) not in (1, -3) or len(operator.out_shape) != 4:
        yield Refusal(
            f"concat over axis {operator.attributes.get('dim')}: a DPU joins channels of 4-D tensors", "join channels"
        )


def _check_activation(operator: Operator, target: Target) -> Iterator[Refusal]:
    """An activation that nothing before it could take in: it needs the ALU, or the depthwise engine."""
    name, engines = ACTIVATIONS[operator.kind], target.dpu.engines
    alu = engines.get("alu")
    if operator.kind is OpKind.HARD_SWISH:
        able = alu is not None and _hard(alu) and _multiplies(target.dpu)
    elif operator.kind is OpKind.HARD_SIGMOID:
        able = alu is not None and _hard(alu)
    elif operator.kind is OpKind.PRELU:
        able = alu is not None and "prelu" in alu.operations
    else:
        able = any(
            name in engines[key].nonlinear or name in engines[key].operations
            for key in ("alu", "dwconv")
            if key in engines
        )
    if not able:
        yield Refusal(
            f"{operator.kind}: {target.name} ({target.dpu.target}) fuses {', '.join(engines['conv'].nonlinear)} only",
            "use ReLU, or place it right behind a convolution",
        )


def _hard(alu: Engine) -> bool:
    return "hsigmoid" in alu.operations or "hsigmoid" in alu.nonlinear


def _multiplies(dpu: Dpu) -> bool:
    names = [name for key in ("eltwise", "alu") if key in dpu.engines for name in dpu.engines[key].operations]
    return "mult" in names or "elew_mult" in names


def _check_resize(operator: Operator, target: Target) -> Iterator[Refusal]:
    scale, mode = operator.attributes.get("scale"), operator.attributes.get("mode")
    factors = tuple(float(factor) for factor in scale) if isinstance(scale, tuple) else ()
    if not factors or any(factor != int(factor) for factor in factors):
        yield Refusal(f"resize by {scale}: a DPU resizes by whole numbers", "resize by a whole number")
    elif mode == "bilinear":
        allowed = target.rule(
            "resize_bilinear" if operator.attributes.get("align_corners") else "resize_bilinear_half_pixel"
        )
        if len(set(factors)) > 1 or int(factors[0]) not in allowed:
            yield Refusal(f"bilinear resize by {scale}: a DPU does {allowed} on both axes", f"use one of {allowed}")
    elif mode != "nearest":
        yield Refusal(f"{mode} resize: a DPU does nearest and bilinear", "use nearest or bilinear")


def _check_pad_operator(operator: Operator, target: Target) -> Iterator[Refusal]:
    mode = operator.attributes.get("mode", "constant")
    if mode not in ("constant", "symmetric"):
        yield Refusal(f"pad, mode {mode}: a DPU pads with constants", "use zero padding")


def _check_four_axes(operator: Operator, target: Target) -> Iterator[Refusal]:
    shapes = (*operator.in_shapes, operator.out_shape)
    if any(len(shape) > 4 for shape in shapes):
        yield Refusal(
            f"{operator.label or operator.kind} to more than 4 axes: a DPU handles up to 4", "avoid the reshape"
        )


def _check_slice(operator: Operator, target: Target) -> Iterator[Refusal]:
    if len(operator.out_shape) != 4 or operator.in_shapes[0][0] != operator.out_shape[0]:
        yield Refusal(
            f"{operator.label or 'slice'}: a DPU slices height, width and channels of 4-D tensors", "avoid it"
        )


def _check_argmax(operator: Operator, target: Target) -> Iterator[Refusal]:
    rule = "argmax_channels" if operator.kind is OpKind.ARGMAX else "reduce_max_channels"
    most = target.rule(rule)
    if operator.in_channels > most:
        yield Refusal(f"{operator.kind} over {operator.in_channels} channels: {target.name} takes up to {most}", "")


def _check_conv3d(operator: Operator, target: Target) -> Iterator[Refusal]:
    if not target.rule("conv3d"):
        yield Refusal(f"conv3d: {target.dpu.family} has none (DPUCVDX8G has)", "use 2-D convolutions")


def _allow(operator: Operator, target: Target) -> Iterator[Refusal]:
    return iter(())


def _engine(target: Target, *names: str) -> Engine | None:
    return next((target.dpu.engines[name] for name in names if name in target.dpu.engines), None)


_CHECKS: dict[OpKind, Check] = {
    OpKind.INPUT: _allow,
    OpKind.CONV: _check_convolution,
    OpKind.DENSE: _check_convolution,
    OpKind.DEPTHWISE: _check_depthwise,
    OpKind.TRANSPOSED: _check_transposed,
    OpKind.DEPTHWISE_TRANSPOSED: _check_transposed,
    OpKind.CONV3D: _check_conv3d,
    OpKind.MAX_POOL: _check_pool,
    OpKind.AVERAGE_POOL: _check_pool,
    OpKind.ADD: _check_eltwise,
    OpKind.MUL: _check_eltwise,
    OpKind.CONCAT: _check_concat,
    OpKind.RESIZE: _check_resize,
    OpKind.PAD: _check_pad_operator,
    OpKind.RESHAPE: _check_four_axes,
    OpKind.SLICE: _check_slice,
    OpKind.ARGMAX: _check_argmax,
    OpKind.REDUCE_MAX: _check_argmax,
    OpKind.IDENTITY: _allow,
    OpKind.PIXEL_SHUFFLE: _check_four_axes,
    **dict.fromkeys(ACTIVATIONS, _check_activation),
}
