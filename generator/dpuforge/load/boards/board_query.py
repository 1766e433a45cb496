"""Text that `xdputil query` printed on a board -> BoardFacts; tolerant of prompts and log lines around the JSON.

Its shape: xdputil_query.cpp (vai_library usefultools, v1.4 to v3.5).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.errors import FormatError
from dpuforge.records.board_lock import BoardFacts, DpuCore
from dpuforge.records.fingerprint import Fingerprint

MAX_BYTES = 1_000_000
REMEDY = "on the board run `xdputil query > query.json` and hand over that file"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)*")


def read_query_file(path: Path) -> BoardFacts:
    """Read the file that holds what `xdputil query` printed (UTF-8, or the UTF-16 that PowerShell redirects into)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}", REMEDY) from error
    return read_query(decode_text(content, str(path)), str(path))


def decode_text(content: bytes, file: str) -> str:
    """Return the text of a query's output; raise FormatError where it is none."""
    if len(content) > MAX_BYTES:
        raise FormatError(f"{file}: {len(content)} bytes are no output of xdputil query", REMEDY)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise FormatError(f"{file}: not text", REMEDY) from None


def read_query(text: str, file: str = "xdputil query") -> BoardFacts:
    """Return what the board reported; `file` names the text in messages.

    Raise FormatError where there is no such JSON, no DPU in it, or DPUs of several kinds.
    """
    document = _find_document(_ESCAPES.sub("", text), file)
    kernels = [item for item in document["kernels"] if isinstance(item, dict)]
    found = [(item, _read_fingerprint(item, file)) for item in kernels]
    cores = tuple(_read_core(item, value) for item, value in found if value)
    if not cores:
        raise FormatError(
            f"{file}: the board shows no DPU, got {len(kernels)} kernel(s) without a fingerprint",
            "load the DPU's design first (Kria: `xmutil loadapp`), then query again",
        )
    kinds = sorted({core.fingerprint for core in cores})
    if len(kinds) > 1:
        shown = ", ".join(f"{core.name} {core.fingerprint:#x}" for core in cores)
        raise FormatError(f"{file}: the board carries DPUs of several kinds: {shown}", "lock a design with one kind")
    return BoardFacts(
        cores=cores,
        other_kernels=tuple(_name_kernel(item) for item, value in found if not value),
        ip_version=_text(document.get("DPU IP Spec"), "IP version").removeprefix("v"),
        runtime=_find_runtime(document.get("VAI Version")),
    )


def _find_document(text: str, file: str) -> dict[str, Any]:
    """Return the first JSON object with kernels; log lines may stand before it, a prompt behind it."""
    decoder = json.JSONDecoder(strict=False)
    start = text.find("{")
    while start >= 0:
        try:
            document, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(document, dict) and isinstance(document.get("kernels"), list):
                return document
        start = text.find("{", end)
    what = "its JSON is broken or cut short" if '"kernels"' in text else "no output of xdputil query"
    raise FormatError(f"{file}: {what}", REMEDY)


def _read_fingerprint(kernel: Mapping[str, Any], file: str) -> int:
    """Return the fingerprint of a kernel, 0 where it has none: accelerators beside the DPU show 0x0."""
    value = kernel.get("fingerprint", 0)
    try:
        if value in (0, "0x0", "0"):
            return 0
        return (Fingerprint.parse(value.strip()) if isinstance(value, str) else Fingerprint.decode(int(value))).value
    except (TypeError, ValueError):
        raise FormatError(f"{file}: kernel {_name_kernel(kernel)}: got fingerprint {value!r}", REMEDY) from None


def _read_core(kernel: Mapping[str, Any], fingerprint: int) -> DpuCore:
    target = _text(kernel, "DPU Arch") or Fingerprint.decode(fingerprint).target_name
    array = _number(kernel, "AIE Frequency (Hz)")  # on Versal the AI engines are the convolution array
    clock = array / 1e6 if array else _number(kernel, "DPU Frequency (MHz)")
    batch = _number(kernel, "DPU Batch Number")
    return DpuCore(_name_kernel(kernel), target, fingerprint, clock, int(batch) if batch else None)


def _name_kernel(kernel: Mapping[str, Any]) -> str:
    return _text(kernel, "cu_name") or _text(kernel, "name") or "without a name"


def _find_runtime(versions: Any) -> str:
    """Return the release of the board's VART ("3.0.0"), or of its target factory."""
    for library in ("libvart-runner.so", "target_factory", "libvitis_ai_library-dpu_task.so"):
        found = _VERSION.search(_text(versions, library))
        if found:
            return found.group()
    return ""


def _text(document: Any, key: str) -> str:
    value = document.get(key) if isinstance(document, dict) else None
    return value.strip() if isinstance(value, str) else ""


def _number(document: Mapping[str, Any], key: str) -> float | None:
    value = document.get(key)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e12
    return float(value) if good and value is not None else None
