"""The protobuf message classes of xir.proto, and a bounded scan of the wire before anything is parsed.

The classes are built at import from `xir.desc`, so that any protobuf runtime from 4.25 on serves; after an edit of
xir.proto run, in this folder: `python -m grpc_tools.protoc -I . --descriptor_set_out=xir.desc xir.proto`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from dpuforge.errors import FormatError

MAX_FIELDS = 1_000_000  # resnet18 has 11 thousand, most of them in the op dictionary
MAX_VECTOR_BYTES = 64 << 20  # weights lie in `bytes`, never in vectors
MAX_DEPTH = 60  # protobuf itself stops at 100
REMEDY = "check that the file is an .xmodel, copied whole"

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MESSAGE, _STRING, _BYTES = 11, 9, 12  # FieldDescriptor types that are not numbers


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Build a private pool, so that a program with its own serial_v2 messages does not collide with ours."""
    data = resources.files(__package__).joinpath("xir.desc").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


@cache
def message_class(name: str) -> Any:
    """Return the protobuf class of message `name` of xir.proto."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"serial_v2.{name}"))


def check_wire(data: bytes) -> None:
    """Walk the fields of a serialised Graph and refuse what would blow up memory or is cut short.

    A message of two bytes becomes an object of hundreds, so a small hostile file could fill the memory; the number of
    fields, the size of packed vectors and the depth of nesting are bounded before protobuf sees the data.
    Raises FormatError.
    """
    fields = vectors = 0
    pending = [(0, len(data), message_class("Graph").DESCRIPTOR, 0)]
    while pending:
        start, end, descriptor, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise FormatError(f"not an .xmodel: messages nested deeper than {MAX_DEPTH}", REMEDY)
        while start < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise FormatError(f"refusing an .xmodel with more than {MAX_FIELDS} fields", REMEDY)
            number, wire, start, stop = _next_field(data, start, end)
            known = descriptor.fields_by_number.get(number)
            if known is not None and wire == _LENGTH:
                if known.type == _MESSAGE:
                    pending.append((start, stop, known.message_type, depth + 1))
                elif known.type not in (_STRING, _BYTES):
                    vectors += stop - start
            start = stop
    if vectors > MAX_VECTOR_BYTES:
        raise FormatError(f"refusing an .xmodel with {vectors} bytes of packed vectors", REMEDY)


def _next_field(data: bytes, start: int, end: int) -> tuple[int, int, int, int]:
    """Return (field number, wire type, start of the payload, end of the payload)."""
    tag, start = _varint(data, start, end)
    number, wire = tag >> 3, tag & 7
    if wire == _LENGTH:
        length, start = _varint(data, start, end)
    elif wire == _VARINT:
        length = _varint(data, start, end)[1] - start
    elif wire in (_FIXED32, _FIXED64):
        length = 4 if wire == _FIXED32 else 8
    else:
        raise FormatError(f"not an .xmodel: wire type {wire} at byte {start}", REMEDY)
    if number == 0 or length > end - start:
        raise FormatError(f"not an .xmodel or cut short: field {number} at byte {start} wants {length} bytes", REMEDY)
    return number, wire, start, start + length


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Return (value, next position); a varint has at most ten bytes."""
    value = 0
    for index in range(start, min(end, start + 10)):
        value |= (data[index] & 0x7F) << (7 * (index - start))
        if data[index] < 0x80:
            return value, index + 1
    raise FormatError(f"not an .xmodel or cut short: bad number at byte {start}", REMEDY)
