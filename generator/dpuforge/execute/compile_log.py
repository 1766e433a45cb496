"""Reads what vai_c_xir prints, in every release from 1.3 to 3.5: what it made, or why it failed and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Embedded compilers (inspector, WeGO) prefix lines as glog does: "I20230407 00:14:50.378973 13777 file.cpp:287] ".
_GLOG = re.compile(r"^[IWEF]\d{8} [\d:.]+ +\d+ [\w.]+:\d+\] ", re.MULTILINE)


@dataclass(frozen=True)
class CompileFailure:
    """One known failure: the line that shows it, its cause, and what to do."""

    line: str
    cause: str
    remedy: str

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

# (pattern, cause, remedy); the first group of a pattern replaces {0} in the texts, the second {1}.
_FAILURES: tuple[tuple[str, str, str], ...] = (
    (
        r"TARGET_FACTORY_UNREGISTERED_TARGET.*?Cannot find target with name (\S+?)[,\s]",
        "arch.json names target {0}, which this release does not know: it is of another release",
        "set target.vitis_ai to the release of the container, then `dpuforge generate`",
    ),
    (
        r"Cannot find or create target with fingerprint=(0x[0-9a-fA-F]+)",
        "no DPU of this release has fingerprint {0}: the IP on the board is of another release or family",
        "compare with `xdputil query` on the board and set dpu or fingerprint in the spec",
    ),
    (
        r"TARGET_FACTORY_(INVALID_TYPE|INVALID_ISA_VERSION|INVALID_FEATURE_CODE|INVALID_ARCH|PARSE_TARGET_FAIL"
        r"|MULTI_REGISTERED)",
        "the target data in arch.json is malformed ({0})",
        "do not edit arch.json by hand: `dpuforge generate` writes it",
    ),
    (
        r"NO FRONT END SPECIFIED",
        "arch.json has neither a known target nor a fingerprint, so that a legacy front end was tried",
        "use the arch.json that `dpuforge generate` writes",
    ),
    (
        r"XCOM_DATA_OUTRANGE|XCOM_FRONTEND_QUANT_ATTR_OUT_OF_RANGE",
        "a fix position or shift is outside the hardware's range",
        "look for tensors with very small or large values (dead channels, unscaled input); calibrate with real images",
    ),
    (
        r"XCOM_OPFACTORY_OP_UNSUPPORTED",
        "the compiler does not know an operator of the network",
        "`dpuforge estimate` names the operators that leave the DPU, with what to use instead",
    ),
    (
        r"XIR_REMOVE_OP_FAIL",
        "a pass of the compiler could not take an operator out of the graph: others still read it",
        "replace that operator (a norm or a constant that is computed twice is typical), or leave it to the CPU",
    ),
    (
        r"XIR_UNREGISTERED_ATTR.*?attribute (\w+)",
        "an operator lacks the attribute {0} that this release's compiler asks for",
        "quantise and compile with the same release: target.vitis_ai is the one of the container",
    ),
    (
        r"XCOM_UTIL_INVALID_VALUE",
        "the compiler divided by zero: a shape it derived has a zero",
        "export with batch 1 and a fixed input size; look for empty slices",
    ),
    (
        r"(XCOM_ITEM_UNDEFINED|XCOM_UNEXPECTED_VALUE|XCOM_ACGEN_ERROR|XCOM_PM_FAIL)",
        "a pass of the compiler failed ({0}): usually an unusual operator or shape",
        "`dpuforge estimate` on the xmodel shows operators near a limit; compile parts of the network to find it",
    ),
    (
        r"CHECK fingerprint fail ?! model_fingerprint (0x[0-9a-fA-F]+) is un-matched with actual dpu_fingerprint"
        r" (0x[0-9a-fA-F]+)",
        "the model was compiled for {0} but the board's DPU is {1}",
        'put fingerprint: "{1}" under the board in the spec and compile again',
    ),
    (
        r"no dpu cu detected",
        "the runtime found no DPU: the overlay is not loaded",
        "load it (Kria: `xmutil loadapp`), or set firmware in /etc/vart.conf",
    ),
    (
        r"vai_c_xir: (?:command )?not found",
        "the compiler is not on this machine: it comes with AMD's container only",
        "run in the container of the release (`dpuforge doctor --toolchain container`)",
    ),
    (
        r"(?:cannot open|No such file or directory).*?(\S+\.xmodel|\S+arch\.json)",
        "{0} is missing",
        "run the deploy stage first",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free space where build/ and /tmp lie: the compiler writes to both",
    ),
    (
        r"(?i)licen[cs]e (?:checkout|check) (?:failed|error)|(?:no|invalid) licen[cs]e|do you (?:agree|accept).*\(?y/n",
        "a licence is asked for or missing",
        "start the container once by hand and accept its licence; a script cannot answer for you",
    ),
    (
        r"std::bad_alloc|(?i:out of memory)|Cannot allocate memory|oom-kill",
        "memory ran out",
        "give the container more memory, or compile fewer boards side by side (--jobs 1)",
    ),
    (
        r"[\w./+-]+:\d+:.*Assertion .* failed|AssertionError\b.*",
        "an assertion inside the compiler failed",
        "an unusual operator or shape: `dpuforge estimate` on the xmodel shows operators near a limit",
    ),
    (
        r"Permission denied.*",
        "a file or folder may not be read or written",
        "build/ must belong to the user inside the container",
    ),
)

# What only says that the program ended; told where nothing above explains it. Same columns.
_ENDS: tuple[tuple[str, str, str], ...] = (
    (
        r"terminate called after throwing an instance of '([^']+)'(?:\s+what\(\): *[^\n]*)?",
        "the compiler died of an exception ({0})",
        "the lines before it say where; keep them when you report it",
    ),
    (
        r"Segmentation fault",
        "the compiler crashed",
        "compile parts of the network to find the operator; quantise and compile with the same release",
    ),
    (
        r"^(?:.*: *\d* *)?Killed\b",
        "the system killed the compiler: memory ran out",
        "give the container more memory, or compile fewer boards side by side (--jobs 1)",
    ),
    (
        r"Check failure stack trace|^Aborted|\bcore dumped\b",
        "the compiler aborted",
        "the lines before it say why; keep them when you report it",
    ),
)


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
    known = _match_rows(_FAILURES, text)
    told = {failure.line for failure in known}
    unknown = [
        _describe_fatal(_line_of(text, match.start()), match)
        for match in _FATAL.finditer(text)
        if _line_of(text, match.start()) not in told
    ]
    return tuple([*known, *dict.fromkeys(unknown)] or _match_rows(_ENDS, text)[:1])


def _match_rows(rows: tuple[tuple[str, str, str], ...], text: str) -> list[CompileFailure]:
    found = []
    for pattern, cause, remedy in rows:
        match = re.search(pattern, text, re.MULTILINE)
        if match:
            words = match.groups()
            found.append(CompileFailure(_line_of(text, match.start()), cause.format(*words), remedy.format(*words)))
    return found


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


def _line_of(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return str(found[-1]) if found else ""
