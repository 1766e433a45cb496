"""The arrays that a script hands to a runner: checked as VART would read them, turned into integers and back.

VART reads and writes the memory of a buffer as it lies there. What it would get wrong without a word (another size,
strides, a float beyond int8) is refused here, so that a rehearsal finds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xir import Tensor  # type: ignore[import-not-found]

Array = NDArray[Any]


def view_buffer(buffer: Any, tensor: Tensor, dynamic: bool) -> Array:
    """Return the buffer's own memory in the tensor's shape, its first dimension smaller where `dynamic` allows it.

    Raise TypeError where it is no buffer of a known type, ValueError where its memory does not fit the tensor.
    """
    array = buffer if isinstance(buffer, np.ndarray) else np.asarray(memoryview(buffer))
    where = f"the buffer of {tensor.name}"
    if array.dtype not in (integer_type(tensor), np.dtype(np.float32)):
        raise TypeError(f"{where} must be {integer_type(tensor)} or float32, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{where} has strides, VART reads plain memory: use numpy.ascontiguousarray")
    if not array.flags.writeable:
        raise ValueError(f"{where} is read-only, VART takes writable ones only: copy it")
    if array.size == tensor.get_element_num():
        shaped: Array = array.reshape(tensor.dims)
        return shaped
    if dynamic and list(array.shape[1:]) == tensor.dims[1:] and 0 < len(array) <= tensor.dims[0]:
        return array
    raise ValueError(f"{where} must have the shape {tensor.dims}, got {list(array.shape)}")


def integer_type(tensor: Tensor) -> np.dtype[Any]:
    """Return the numpy type of the tensor's integers."""
    bits, signed = tensor.get_attr("bit_width"), tensor.get_attr("if_signed")
    return np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}")


def to_integers(array: Array, tensor: Tensor) -> Array:
    """Return the integers of an input; float32 is multiplied by 2^fix_point and cut towards zero, as VART does
    (tensor_buffer.cpp of vart, 1.4 to 3.5). Raise ValueError where a float falls outside, which VART would wrap."""
    if array.dtype != np.float32:
        return array
    scaled = np.trunc(np.ldexp(array.astype(np.float64), tensor.get_attr("fix_point")))
    limits = np.iinfo(integer_type(tensor))
    if not ((scaled >= limits.min) & (scaled <= limits.max)).all():
        raise ValueError(f"a float of {tensor.name} is outside the integers at fix position {_fix_point(tensor)}")
    integers: Array = scaled.astype(integer_type(tensor))
    return integers


def store_integers(integers: Array, array: Array, tensor: Tensor) -> None:
    """Write integers into an output; a float32 output gets them times 2^-fix_point, which is exact."""
    if array.dtype == np.float32:
        array[...] = np.ldexp(integers.astype(np.float64), -_fix_point(tensor))
    else:
        array[...] = integers


def _fix_point(tensor: Tensor) -> int:
    return int(tensor.get_attr("fix_point"))


class TensorBuffer(np.ndarray[Any, Any]):
    """Memory for one tensor of a runner: numpy sees an array, get_tensor says whose it is."""

    _tensor: Tensor

    def get_tensor(self) -> Tensor:
        """Return the tensor."""
        return self._tensor


def make_buffer(tensor: Tensor) -> TensorBuffer:
    """Return zeroed memory for a tensor."""
    buffer = np.zeros(tensor.dims, integer_type(tensor)).view(TensorBuffer)
    buffer._tensor = tensor
    return buffer
