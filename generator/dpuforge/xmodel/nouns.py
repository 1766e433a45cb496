"""What an .xmodel holds, as frozen values: the nouns that read, write, show, diff and run pass to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property
from typing import Any


class Kind(str, Enum):
    """Type of an attribute's value; each is the name of the AttrValue field without `_value`."""

    BOOL = "bool"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    BYTES = "bytes"
    BOOL_VEC = "bool_vec"
    INT32_VEC = "int32_vec"
    UINT32_VEC = "uint32_vec"
    INT64_VEC = "int64_vec"
    UINT64_VEC = "uint64_vec"
    FLOAT_VEC = "float_vec"
    DOUBLE_VEC = "double_vec"
    STRING_VEC = "string_vec"
    BYTES_VEC = "bytes_vec"
    MAP_INT32 = "map_string_2_int32"
    MAP_UINT32 = "map_string_2_uint32"
    MAP_INT64 = "map_string_2_int64"
    MAP_UINT64 = "map_string_2_uint64"
    MAP_STRING = "map_string_2_string"
    MAP_BYTES = "map_string_2_bytes"
    MAP_INT32_VEC = "map_string_2_int32_vec"
    MAP_UINT32_VEC = "map_string_2_uint32_vec"
    MAP_INT64_VEC = "map_string_2_int64_vec"
    MAP_UINT64_VEC = "map_string_2_uint64_vec"
    MAP_STRING_VEC = "map_string_2_string_vec"
    EMPTY = "empty"

    @property
    def is_vector(self) -> bool:
        """Tell whether the value is a tuple of scalars."""
        return self.value.endswith("_vec") and not self.is_map

    @property
    def is_map(self) -> bool:
        """Tell whether the value is a tuple of (key, value) pairs sorted by key."""
        return self.value.startswith("map_")


class DataType(IntEnum):
    """Number kinds of a tensor (`Tensor.data_type`)."""

    INT = 0
    UINT = 1
    XINT = 2
    XUINT = 3
    FLOAT = 4
    BFLOAT = 5
    UNKNOWN = 6


@dataclass(frozen=True)
class Attribute:
    """One typed value: a scalar, bytes, a tuple of scalars, or (key, value) pairs sorted by key."""

    kind: Kind
    value: Any


Attributes = Mapping[str, Attribute]


@dataclass(frozen=True)
class Argument:
    """One named input of an op and the names of the ops that feed it, in order."""

    name: str
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """The one output of an op; dims are NHWC for images, bit_width is in bits."""

    name: str
    dims: tuple[int, ...]
    data_type: int = DataType.FLOAT
    bit_width: int = 32
    attrs: Attributes = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """A node: what it computes, its attributes, its inputs and its output tensor."""

    name: str
    type: str
    attrs: Attributes = field(default_factory=dict)
    args: tuple[Argument, ...] = ()
    tensor: Tensor | None = None

    def inputs(self, arg: str = "input") -> tuple[str, ...]:
        """Return the names of the ops that feed `arg`, empty if it has none."""
        return next((argument.ops for argument in self.args if argument.name == arg), ())

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """Return the names of every op that feeds this one, argument by argument."""
        return tuple(name for argument in self.args for name in argument.ops)

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the shape of the output, () without an output tensor."""
        return self.tensor.dims if self.tensor else ()


@dataclass(frozen=True)
class SubGraph:
    """A named set of ops with attributes (`device`, `dpu_fingerprint` ...) and nested sets."""

    name: str
    ops: tuple[str, ...] = ()
    attrs: Attributes = field(default_factory=dict)
    children: tuple[SubGraph, ...] = ()


@dataclass(frozen=True)
class ArgumentDefinition:
    """An argument that an op type takes; occurs: 0 required, 1 optional, 2 repeated, 3 required and repeated."""

    name: str
    occurs: int
    data_type: int
    annotation: str = ""


@dataclass(frozen=True)
class AttributeDefinition:
    """An attribute that an op type has; occurs: 0 required, 1 optional; list_length 0 is any length."""

    name: str
    occurs: int
    default: Attribute
    list_length: int
    annotation: str = ""


@dataclass(frozen=True)
class OpDefinition:
    """An entry of the op dictionary that travels in the file."""

    name: str
    args: tuple[ArgumentDefinition, ...] = ()
    attrs: tuple[AttributeDefinition, ...] = ()
    annotation: str = ""


@dataclass(frozen=True)
class Graph:
    """A whole .xmodel; `ops` keep the order of the file, names in it are unique and every input exists."""

    name: str
    ops: tuple[Op, ...]
    root: SubGraph | None = None
    attrs: Attributes = field(default_factory=dict)
    definitions: tuple[OpDefinition, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, Op]:
        """Return the ops keyed by name."""
        return {op.name: op for op in self.ops}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """Return for each op the names of the ops that read it, in the order of the file."""
        readers: dict[str, list[str]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for name in dict.fromkeys(op.all_inputs):
                readers[name].append(op.name)
        return {name: tuple(names) for name, names in readers.items()}

    @cached_property
    def outputs(self) -> tuple[Op, ...]:
        """Return the ops that nothing reads, in the order of the file."""
        return tuple(op for op in self.ops if not self.consumers[op.name])
