"""Reads what vai_c_xir prints, in every release from 1.3 to 3.5: what it made, or why it failed and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dpuforge.execute.faults import line_of, match_rows

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Embedded compilers (inspector, WeGO) prefix lines as glog does: "I20230407 00:14:50.378973 13777 file.cpp:287] ".
_GLOG = re.compile(r"^[IWEF]\d{8} [\d:.]+ +\d+ [\w.]+:\d+\] ", re.MULTILINE)


@dataclass(frozen=True)
class CompileFailure:
    """One known failure: the line that shows it, its cause, what to do, and the spec's keys that lead there."""

    line: str
    cause: str
    remedy: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.line.strip()}: {self.cause}; {self.remedy}"


@dataclass(frozen=True)
class CompileReport:
    """What the log says; numbers are None and texts empty where it does not say."""

    done: bool
    target: str = ""
    graph: str = ""
    operators: int | None = None
    device_subgraphs: int | None = None
    dpu_subgraphs: int | None = None
    debug_mode: str = ""
    xmodel: str = ""
    meta_json: str = ""
    md5: str = ""
    removed_operators: tuple[str, ...] = ()
    failures: tuple[CompileFailure, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a compiled xmodel was reported and nothing failed."""
        return self.done and bool(self.xmodel) and not self.failures


# "[UNILOG][FATAL][CODE][headline] message": how XIR and the compiler say why they stop, whatever the code.
_FATAL = re.compile(r"\[FATAL\] *\[(?P<code>\w+)\](?:\[(?P<headline>[^\]\n]*)\])?(?P<message>[^\n]*)")
_OPERATOR = re.compile(r"xir::Op\{name = (?P<name>.+?), type = (?P<type>[^},]+)\}")


def read_compile_log(text: str) -> CompileReport:
    """Return what a log of vai_c_xir (stdout and stderr together, any release) says; never raises."""
    plain = _GLOG.sub("", _COLOUR.sub("", text))
    totals = re.search(r"Total device subgraph number (\d+), DPU subgraph number (\d+)", plain)
    graph = re.search(r"Graph name: (.+?), with op num: (\d+)", plain)
    return CompileReport(
        done="Compile done." in plain,
        target=_last(r"Target architecture: (\S+)", plain),
        graph=graph[1] if graph else "",
        operators=int(graph[2]) if graph else None,
        device_subgraphs=int(totals[1]) if totals else None,
        dpu_subgraphs=int(totals[2]) if totals else None,
        debug_mode=_last(r"Debug mode: (\S+)", plain),
        xmodel=_last(r'The compiled xmodel is saved to "([^"]+)"', plain),
        meta_json=_last(r'The meta json is saved to "([^"]+)"', plain),
        md5=_last(r"md5sum is ([0-9a-f]{32})", plain),
        removed_operators=tuple(
            re.findall(r"xir::Op\{name = (.+?), type = .+?\}'s input and output is unchanged", plain)
        ),
        failures=find_failures(plain),
    )


def find_failures(text: str) -> tuple[CompileFailure, ...]:
    """Return every failure in a log: known ones in the table's order, then FATAL lines of any other code.

    How the program ended (abort, signal) is told only where nothing explains it.
    """
    known = _match_rows("compiler", text)
    told = {failure.line for failure in known}
    unknown = [
        _describe_fatal(line_of(text, match.start()), match)
        for match in _FATAL.finditer(text)
        if line_of(text, match.start()) not in told
    ]
    return tuple([*known, *dict.fromkeys(unknown)] or _match_rows("ends", text)[:1])


def _match_rows(section: str, text: str) -> list[CompileFailure]:
    return [
        CompileFailure(item.line, item.fault.cause, item.fault.remedy, item.fault.keys)
        for item in match_rows(section, text)
    ]


def _describe_fatal(line: str, match: re.Match[str]) -> CompileFailure:
    """Explain a FATAL line whose code has no row: by its own words, and by the operator that it names."""
    operator = _OPERATOR.search(match["message"])
    if operator is None:
        return CompileFailure(
            line,
            f"the compiler stops with {match['code']}",
            "no cause is on record; `dpuforge estimate` on the xmodel shows operators near a limit",
        )
    return CompileFailure(
        line,
        f"the compiler stops with {match['code']} at operator {operator['name']} of type {operator['type']}",
        f"look at {operator['name']}: replace it, or leave it to the CPU; `dpuforge xmodel show` lists the operators",
    )


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return str(found[-1]) if found else ""
