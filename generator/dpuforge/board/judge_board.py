"""What a board says of itself, held against what a spec was built for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.board.session import Session
from dpuforge.errors import FormatError, StageError, UsageError
from dpuforge.load.boards.board_query import read_query
from dpuforge.load.boards.lock_file import check_lock, guess_board
from dpuforge.records.board_lock import BoardFacts, LockedDpu
from dpuforge.records.hardware import BoardTarget
from dpuforge.records.job import Job

_NEEDED = ("vart", "xir", "numpy", "PIL")
_LEAST_MEMORY_KB = 200_000
# Asked of the board's own Python (3.7 or newer).
_ASK_MODULES = """
import importlib, json
found = {}
for name in ("vart", "xir", "numpy", "PIL", "cv2"):
    try:
        module = importlib.import_module(name)
    except Exception as error:
        found[name] = {"error": "{}: {}".format(type(error).__name__, error)}
    else:
        emulated = bool(getattr(module, "__emulator__", False))
        found[name] = {"version": str(getattr(module, "__version__", "")), "emulated": emulated}
print(json.dumps(found))
"""
_VERSION = re.compile(r"-v(\d+\.\d+)\.\d+\.img")


@dataclass(frozen=True)
class Fault:
    """One thing that does not fit, and what helps; a warning does not stop a run."""

    message: str
    help: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Checked:
    """One board: whose it is among the spec's, what it said, and what does not fit.

    dpu is None where the board has no xdputil. emulated says that its vart is dpuforge's: no DPU is there.
    """

    target: BoardTarget
    facts: Mapping[str, Any]
    dpu: BoardFacts | None
    emulated: bool
    faults: tuple[Fault, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing stops a run."""
        return all(fault.warning for fault in self.faults)

    def describe(self) -> dict[str, Any]:
        """Return what result.json and --json say of the board."""
        dpu = self.dpu
        return {
            "board": self.target.board,
            "emulated": self.emulated,
            "target": dpu.target if dpu else None,
            "fingerprint": f"{dpu.fingerprint:#x}" if dpu else None,
            "cores": len(dpu.cores) if dpu else None,
            "clock_mhz": dpu.cores[0].clock_mhz if dpu else None,
            "runtime": dpu.runtime if dpu else None,
            "ip_version": dpu.ip_version if dpu else None,
            "built_for": {
                "target": self.target.target,
                "fingerprint": self.target.fingerprint_text,
                "release": self.target.release,
            },
            **{name: value for name, value in self.facts.items() if name != "query"},
            "fits": self.fits,
            "problems": [vars(fault) for fault in self.faults],
        }


def check_board_over(session: Session, job: Job, wanted: str) -> Checked:
    """Ask a board what it is and judge it; wanted names one of the spec's boards, "" lets the host or the DPU say."""
    facts = session.ask("facts", modules=_ASK_MODULES)
    query = facts["query"]
    facts["modules"] = _read_modules(facts["modules"])
    dpu, fault = _read_dpu(query, session.host.name)
    target = _choose_target(job.targets, wanted or session.host.board, dpu, session.host.name)
    emulated = bool(facts["modules"].get("vart", {}).get("emulated"))
    faults = [*([fault] if fault else []), *_judge_modules(facts), *_judge_room(facts)]
    if dpu is not None:
        faults += _judge_dpu(job, target, dpu)
    return Checked(target, facts, dpu, emulated, tuple(faults))


def _read_modules(answer: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(answer.get("text", "").strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"python": {"error": answer.get("error") or "it printed nothing"}}
    return found


def _read_dpu(query: Mapping[str, Any], name: str) -> tuple[BoardFacts | None, Fault | None]:
    if "text" not in query:
        remedy = "the fingerprint is not checked before the runtime does; `environment` in boards.yaml may lack PATH"
        return None, Fault(f"xdputil is not on the board: {query['error']}", remedy, warning=True)
    try:
        return read_query(query["text"], f"xdputil query on {name}"), None
    except FormatError as error:
        said = " ".join(query.get("error", "").split())[-300:]
        return None, Fault(error.message + (f"; it said: {said}" if said else ""), error.remedy)


def _choose_target(targets: Sequence[BoardTarget], wanted: str, dpu: BoardFacts | None, host: str) -> BoardTarget:
    names = list(dict.fromkeys(target.board for target in targets))
    if wanted:
        for target in targets:
            if target.board.lower() == wanted.lower():
                return target
        raise UsageError(f"the spec has no board {wanted}", f"its target.boards are {', '.join(names)}")
    guessed = guess_board(targets, dpu) if dpu is not None else None
    if guessed is None and len(names) > 1:
        raise UsageError(f"it does not show which of the spec's boards {host} is", f"say --board {' or '.join(names)}")
    return guessed or targets[0]


def _judge_dpu(job: Job, target: BoardTarget, dpu: BoardFacts) -> list[Fault]:
    core = dpu.cores[0]
    locked = LockedDpu(target.board, core.target, core.fingerprint, len(dpu.cores), dpu.source, core.clock_mhz)
    findings = check_lock(job.catalogue, (target,), {target.board: locked})
    faults = [Fault(finding.message, finding.help) for finding in findings]
    image = job.release.sd_images.get(target.board, "")
    named = _VERSION.search(image)
    release = named.group(1) if named else target.release
    if dpu.runtime and not dpu.runtime.startswith(release):
        text = f"the board's runtime is {dpu.runtime}, the spec's release {target.release} runs on {image or release}"
        faults.append(Fault(text, f"boot {image or 'an image of ' + release}, or set target.vitis_ai", warning=True))
    if core.clock_mhz and target.clock_mhz and abs(core.clock_mhz - target.clock_mhz) > 1.0:
        text = f"the DPU runs at {core.clock_mhz:g} MHz, {target.clock_mhz:g} MHz are known of {target.board}"
        faults.append(Fault(text, "estimates are for the known clock; `board-lock` keeps the board's", warning=True))
    return faults


def _judge_modules(facts: Mapping[str, Any]) -> list[Fault]:
    modules = facts["modules"]
    if "python" in modules:
        return [Fault(f"the board's Python cannot be asked: {modules['python']['error']}", "boards.yaml: `python`")]
    return [
        Fault(
            f"the board's Python {facts['python']} cannot import {name}: {modules[name]['error']}",
            "boot the release's image; boards.yaml says which `python`, and which `environment` to source first",
        )
        for name in _NEEDED
        if "error" in modules.get(name, {"error": "not found"})
    ]


def _judge_room(facts: Mapping[str, Any]) -> list[Fault]:
    free = facts["memory_kb"].get("MemAvailable", _LEAST_MEMORY_KB)
    if free >= _LEAST_MEMORY_KB:
        return []
    text = f"the board has {free / 1e3:.0f} MB of free memory"
    return [Fault(text, "end other programs on it, or add swap", warning=True)]


def refuse_misfit(checked: Checked, host: str) -> None:
    """Raise StageError where something stops a run on the board."""
    stops = [fault for fault in checked.faults if not fault.warning]
    if stops:
        text = "\n".join(f"  {fault.message}" for fault in stops)
        helps = "; ".join(dict.fromkeys(fault.help for fault in stops if fault.help))
        raise StageError(f"{host} does not fit {checked.target.board} of the spec:\n{text}", helps)
