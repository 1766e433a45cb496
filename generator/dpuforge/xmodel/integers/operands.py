"""Attributes and inputs of an op, checked: what the operators read from a file that anyone may have written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers.calls import Call
from dpuforge.xmodel.integers.fixed_point import Array, Value
from dpuforge.xmodel.integers.kernels import Window, output_size
from dpuforge.xmodel.nouns import Kind, Op

Inputs = Mapping[str, tuple[Value, ...]]
_SCALARS: dict[str, tuple[Kind, ...]] = {
    "int": (Kind.INT32, Kind.UINT32, Kind.INT64, Kind.UINT64),
    "bool": (Kind.BOOL,),
    "string": (Kind.STRING,),
    "float": (Kind.FLOAT, Kind.DOUBLE),
    "bytes": (Kind.BYTES,),
}


@dataclass
class Machine:
    """What the operators share during a run: whether torch convolves, the file's calls, sums of |weights| taken.

    exponent: that of powers whose file leaves it out.
    """

    use_torch: bool = True
    calls: Mapping[str, Call] = field(default_factory=dict)
    weight_sums: dict[str, int] = field(default_factory=dict)
    exponent: float | None = None


def attribute(op: Op, key: str, kind: str, default: Any = None) -> Any:
    """Return a scalar attribute of the wanted kind. Raises FormatError where it is missing or of another kind."""
    found = op.attrs.get(key)
    if found is None and default is not None:
        return default
    if found is None or found.kind not in _SCALARS[kind]:
        got = "nothing" if found is None else found.kind.value
        raise FormatError(f"op {op.name!r}: attribute {key!r} must be of type {kind}, got {got}")
    return found.value


def vector(op: Op, key: str, length: int | None = None, smallest: float | None = None) -> tuple[Any, ...]:
    """Return a vector attribute of `length` entries, none below `smallest`. Raises FormatError."""
    found = op.attrs.get(key)
    if found is None or not found.kind.is_vector or length not in (None, len(found.value)):
        got = "nothing" if found is None else repr(found.value)[:80]
        raise FormatError(f"op {op.name!r}: attribute {key!r} must be a list of {length or 'some'} numbers, got {got}")
    if smallest is not None and min(found.value, default=smallest) < smallest:
        raise FormatError(f"op {op.name!r}: attribute {key!r} must be at least {smallest}, got {found.value}")
    return tuple(found.value)


def single(op: Op, inputs: Inputs, arg: str = "input") -> Value:
    """Return the one value of an argument. Raises FormatError where there are none or several."""
    values = inputs.get(arg, ())
    if len(values) != 1:
        raise FormatError(f"op {op.name!r}: argument {arg!r} takes one input, got {len(values)}")
    return values[0]


def pair(op: Op, inputs: Inputs) -> tuple[Value, Value]:
    """Return the two values of `input`. Raises FormatError otherwise."""
    values = inputs.get("input", ())
    if len(values) != 2:
        raise FormatError(f"op {op.name!r} takes two inputs, got {len(values)}")
    return values[0], values[1]


def window_of(op: Op) -> Window:
    """Read the geometry of a convolution or pool: [w, h] pairs and [left, right, top, bottom] pads of the file."""
    width, height = vector(op, "kernel", 2, 1)
    stride = vector(op, "stride", 2, 1)
    dilation = vector(op, "dilation", 2, 1) if "dilation" in op.attrs else (1, 1)
    left, right, top, bottom = vector(op, "pad", 4)
    mode = attribute(op, "pad_mode", "string", "FLOOR")
    if mode not in ("FLOOR", "CEIL"):
        raise FormatError(f"op {op.name!r}: pad_mode {mode!r} is not known", "known: FLOOR, CEIL")
    return Window((height, width), stride[::-1], dilation[::-1], (top, bottom, left, right))


def four_dims(op: Op, value: Value) -> Array:
    """Return the integers of an NHWC image. Raises FormatError for any other tensor."""
    if value.data.ndim != 4 or not value.exact:
        raise FormatError(f"op {op.name!r} wants a fixed NHWC image, got a tensor of {list(value.data.shape)}")
    return value.data


def check_size(op: Op, value: Value, window: Window) -> None:
    """Raise FormatError, before anything is computed, where a window does not give the size that the file declares."""
    size = output_size(four_dims(op, value).shape, window)
    if len(op.dims) != 4 or size != op.dims[1:3]:
        raise FormatError(f"op {op.name!r}: its window gives {size[0]}x{size[1]}, the file declares {list(op.dims)}")
