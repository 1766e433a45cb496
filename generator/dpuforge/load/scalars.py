"""How load reads one YAML scalar: YAML 1.1's readings, with the surprising ones refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from dpuforge.load.findings import MAX_SHOWN

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_EXPONENT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")
_OCTAL = re.compile(r"[-+]?0[0-9]+|0o[0-7]+")

Complaint = tuple[str, str] | None


def _read_text(text: str, quoted: bool) -> tuple[Any, Complaint]:
    if quoted or not any(character.isdigit() for character in text):
        return text, None
    if _EXPONENT.fullmatch(text):
        return text, (f"YAML 1.1 reads this number as text, got {text}", f"write {_respell(text)}")
    if _OCTAL.fullmatch(text):
        return text, (
            f"YAML 1.1 reads this number as text, got {text}",
            f'write a decimal number, or quote it: "{text}"',
        )
    return text, None


def _respell(text: str) -> str:
    """Return 1e-3 as 1.0e-3: YAML 1.1 wants a point in the mantissa and a sign in the exponent."""
    mantissa, exponent = text.lower().split("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"


def _read_flag(text: str, _: bool) -> tuple[Any, Complaint]:
    value = text.lower() in ("true", "yes", "on")
    if text.lower() in ("true", "false"):
        return value, None
    meaning = str(value).lower()
    return value, (f"YAML 1.1 reads this as {meaning}, got {text}", f'write {meaning}, or quote it: "{text}"')


def _read_whole(text: str, _: bool) -> tuple[Any, Complaint]:
    if _DECIMAL.fullmatch(text):
        return int(text), None
    if len(text) > 18:
        return 0, (f"the number is too large, got {text[:MAX_SHOWN]}", "quote it if it is text")
    return 0, (
        f"the number should be plain decimal, got {text}",
        f'write it in decimal, or quote it: "{text}"',
    )


def _read_real(text: str, _: bool) -> tuple[Any, Complaint]:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value, None
    if ":" in text:
        return 0.0, (f"YAML 1.1 reads this as a number in base 60, got {text}", f'quote it: "{text}"')
    return 0.0, (f"the number should be finite, got {text[:MAX_SHOWN]}", "write an ordinary decimal number")


def _read_date(text: str, _: bool) -> tuple[Any, Complaint]:
    return text, (f"YAML 1.1 reads this as a date, got {text}", f'quote it: "{text}"')


KINDS = {"bool": "a boolean", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
CONVERT: dict[str, Callable[[str, bool], tuple[Any, Complaint]]] = {
    "str": _read_text,
    "bool": _read_flag,
    "int": _read_whole,
    "float": _read_real,
    "null": lambda _text, _quoted: (None, None),
    "timestamp": _read_date,
    "value": lambda text, _quoted: (text, None),
    "merge": lambda text, _quoted: (text, None),
}
