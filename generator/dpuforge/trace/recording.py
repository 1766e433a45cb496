"""Which fields of a project a function reads: recorded by handing it records that take note of every access."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

_Record = TypeVar("_Record")


def make_recorder(record: _Record, prefix: str, read: dict[str, None]) -> _Record:
    """Return a record equal to the given one (and of its type) that notes in read the dotted path of every field read.

    A field that is itself a record is noted only through its own fields. Raises TypeError where record is none.
    """
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{type(record).__name__} is no record")
    names = {item.name for item in fields(record)}

    def look_up(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name not in names:
            return value
        path = f"{prefix}.{name}" if prefix else name
        if is_dataclass(value) and not isinstance(value, type):
            return make_recorder(value, path, read)
        read[path] = None
        return value

    kind = type(record)
    recorder: Any = object.__new__(type(kind.__name__, (kind,), {"__getattribute__": look_up}))
    object.__getattribute__(recorder, "__dict__").update(object.__getattribute__(record, "__dict__"))
    found: _Record = recorder
    return found
