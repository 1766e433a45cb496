"""The one place where the Jinja2 environment and its value filters are built."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.bccache

from dpuforge.errors import FormatError
from dpuforge.paths import find_shipped
from dpuforge.records.own import OwnFile
from dpuforge.render.own_templates import OwnEnvironment, OwnLoader

_LINE_LENGTH = 100


def format_py_literal(value: Any, indent: int = 0, column: int = 0) -> str:
    """Return value as Python source: double quotes, one item a line where one line would be too long.

    indent is the column of the statement and column the place where the literal starts, both in characters.
    """
    flat = _flat_literal(value)
    if column + indent + len(flat) <= _LINE_LENGTH or not isinstance(value, (list, tuple, Mapping)) or not value:
        return flat
    opening, closing = {list: ("[", "]"), tuple: ("(", ")")}.get(type(value), ("{", "}"))
    pad = " " * (indent + 4)
    if isinstance(value, Mapping):
        items = [f"{_flat_literal(key)}: {format_py_literal(item, indent + 4)}" for key, item in value.items()]
    else:
        items = [format_py_literal(item, indent + 4) for item in value]
    return opening + "\n" + "".join(f"{pad}{item},\n" for item in items) + " " * indent + closing


def _flat_literal(value: Any) -> str:
    if isinstance(value, str):
        return _quote_python(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flat_literal(k)}: {_flat_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_flat_literal, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat_literal, value)) + "]"
    raise TypeError(f"no Python literal for {type(value).__name__}")


def _quote_python(text: str) -> str:
    """Return text as a string literal in double quotes, or in single ones where that saves escapes."""
    literal = repr(text)
    if literal[0] == '"' or ('"' in text and "'" not in text):
        return literal
    return '"' + literal[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'


def format_sh_quote(value: Any) -> str:
    """Return value as one word of a POSIX shell."""
    return shlex.quote(str(value))


def format_json(value: Any, indent: int | None = 2) -> str:
    """Return value as JSON text, keys in the order given; refuse NaN and infinities."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def format_cpp_literal(value: Any) -> str:
    """Return text as a C++ string literal of its UTF-8 bytes; octal escapes have three digits, so none runs on."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in str(value).encode()) + '"'


def format_env_value(value: Any) -> str:
    """Return value as a line of data ends: 'value', which bash and Python cut out without evaluating anything.

    Raises FormatError where it holds the quote, or anything but printable ASCII.
    """
    text = str(value)
    if not re.fullmatch(r"[ -&(-~]*", text):
        raise FormatError(f"{text!r} cannot stand in a board.env", "it takes printable ASCII without the quote '")
    return f"'{text}'"


class _CompiledTemplates(jinja2.FileSystemBytecodeCache):
    """Keeps compiled templates in the user's temporary folder, by their content; halves the time of rendering."""

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        """Keep what was compiled; a full or read-only disk costs time, not the result."""
        with contextlib.suppress(OSError):
            super().dump_bytecode(bucket)


def _open_cache(pattern: str) -> _CompiledTemplates | None:
    try:
        return _CompiledTemplates(pattern=pattern)
    except (OSError, RuntimeError):  # no temporary folder, or one that others may write to
        return None


def make_environment(folder: Path | None = None, own: Sequence[OwnFile] = ()) -> jinja2.Environment:
    """Return the environment every template is rendered in; folder defaults to the shipped templates/.

    own are a project's own files, which come before those of the folder; with them all templates run in a sandbox.
    """
    shipped = jinja2.FileSystemLoader(str(folder or find_shipped("templates")))
    environment = (OwnEnvironment if own else jinja2.Environment)(
        loader=OwnLoader(shipped, own) if own else shipped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        bytecode_cache=_open_cache("__jinja2_own_%s.cache" if own else "__jinja2_%s.cache"),
    )
    environment.filters["py_literal"] = format_py_literal
    environment.filters["sh_quote"] = format_sh_quote
    environment.filters["to_json"] = format_json
    environment.filters["cpp_literal"] = format_cpp_literal
    environment.filters["env_value"] = format_env_value
    return environment
