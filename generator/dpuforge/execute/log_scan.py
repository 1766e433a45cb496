"""Find in a stage's log what its exit code hides: the quantizer logs errors and goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dpuforge.execute.faults import Fault, find_code, find_uncoded

_DIAGNOSTIC = re.compile(r"\[VAIQ_(?P<severity>ERROR|WARN)\](?:\[(?P<code>[A-Z0-9_]+)\])?:\s*(?P<text>.*)")


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic line of the quantizer."""

    severity: str
    code: str
    text: str

    @property
    def fault(self) -> Fault | None:
        """What the table knows of it; an error without a row is still an error."""
        severity = "error" if self.severity == "ERROR" else "warning"
        return find_code(self.code, severity) if self.code else find_uncoded(self.text)

    def __str__(self) -> str:
        fault = self.fault
        return f"[{self.code}] {self.text}" + (f" ({fault.remedy})" if fault else "")


def scan_log(text: str) -> tuple[Diagnostic, ...]:
    """Return every error and warning line of the quantizer, in order, each once; colour codes must be gone."""
    found = (Diagnostic(m["severity"], m["code"] or "", m["text"].strip()) for m in _DIAGNOSTIC.finditer(text))
    return tuple(dict.fromkeys(found))
