"""Attributes and tensors of an xmodel, under the names that xir gives them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Protocol

from dpuforge.xmodel.nouns import Attribute, DataType
from dpuforge.xmodel.nouns import Tensor as TensorRecord


class Producer(Protocol):
    """The op that makes a tensor, as far as a tensor knows it."""

    def get_attr(self, name: str) -> Any:
        """Return an attribute."""


class Attributed:
    """Something that carries attributes by name."""

    def __init__(self, name: str, attrs: Mapping[str, Any]) -> None:
        self._name = name
        self._attrs = dict(attrs)

    def has_attr(self, name: str) -> bool:
        """Tell whether the attribute is set."""
        return name in self._attrs

    def get_attr(self, name: str) -> Any:
        """Return an attribute; raise RuntimeError that lists those there are."""
        if name not in self._attrs:
            known = ", ".join(sorted(self._attrs)) or "none"
            raise RuntimeError(f"{self._name} has no attribute {name!r}; it has: {known}")
        return self._attrs[name]

    def get_attrs(self) -> dict[str, Any]:
        """Return all attributes."""
        return dict(self._attrs)


class Tensor(Attributed):
    """The output of an op: a name, dims (NHWC for images), a data type such as "xint8", attributes."""

    def __init__(
        self, name: str, dims: list[int], dtype: str, attrs: Mapping[str, Any], producer: Producer | None
    ) -> None:
        super().__init__(name, attrs)
        self.name = name
        self.dims = dims
        self.dtype = dtype
        self.producer = producer

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.dims)

    def get_element_num(self) -> int:
        """Return the number of elements."""
        return prod(self.dims)

    def get_data_size(self) -> int:
        """Return the size in bytes."""
        bits = int("".join(filter(str.isdigit, self.dtype)) or 0)
        return -(-bits // 8) * self.get_element_num()

    def with_batch(self, batch: int) -> Tensor:
        """Return the tensor for a DPU that takes `batch` images at a time."""
        return Tensor(self.name, [batch, *self.dims[1:]], self.dtype, self._attrs, self.producer)

    def __repr__(self) -> str:
        return f"<xir.Tensor named '{self.name}'>"

    def __str__(self) -> str:
        return f"{{name: '{self.name}', shape: {self.dims}, type: '{self.dtype}', attrs: {self._attrs}}}"


def python_values(attrs: Mapping[str, Attribute]) -> dict[str, Any]:
    """Return attributes as xir hands them to Python: vectors as lists, maps as dicts."""
    return {name: _python_value(attribute) for name, attribute in attrs.items()}


def _python_value(attribute: Attribute) -> Any:
    if attribute.kind.is_map:
        return {key: list(item) if isinstance(item, tuple) else item for key, item in attribute.value}
    return list(attribute.value) if attribute.kind.is_vector else attribute.value


def make_tensor(record: TensorRecord, producer: Producer) -> Tensor:
    """Return the tensor that the file declares."""
    kind = DataType(record.data_type) if record.data_type in set(DataType) else DataType.UNKNOWN
    dtype = f"{kind.name.lower()}{record.bit_width}"
    return Tensor(record.name, list(record.dims), dtype, python_values(record.attrs), producer)


def make_fixed_tensor(record: TensorRecord, fix: Producer) -> Tensor:
    """Return the integer tensor that a `fix` op of an uncompiled graph stands for, with its fix position."""
    names = ("fix_point", "bit_width", "if_signed", "round_mode")
    attrs = {name: fix.get_attr(name) for name in names}
    kind = "xint" if attrs["if_signed"] else "xuint"
    return Tensor(record.name, list(record.dims), f"{kind}{attrs['bit_width']}", attrs, fix)
