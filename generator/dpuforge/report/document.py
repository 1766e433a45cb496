"""Collect the results of all stages into the one document that report.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.result import StageResult, Status

_ACCURACY = ("float_accuracy", "int8_accuracy", "accuracy_drop", "test_images")
_NOT_RUN = "the compile stage has not run"


def build_report(
    project: str,
    spec_sha256: str,
    toolchain: str,
    targets: Sequence[BoardTarget],
    results: Mapping[str, StageResult],
) -> dict[str, Any]:
    """Return the document of report.json.

    results maps stage keys ("evaluate", "compile/KV260") to what the stages left; a stage that has not run is
    absent and its figures are null. Accuracies are percentages of top-1 on the test split.
    """
    evaluated = results["evaluate"].metrics if "evaluate" in results else {}
    metrics = {name: evaluated.get(name) for name in _ACCURACY}
    extra = {name: value for name, value in evaluated.items() if name not in _ACCURACY}
    return {
        "project": project,
        "toolchain": toolchain,
        "emulated": toolchain == "emulator",
        "spec_sha256": spec_sha256,
        "metrics": {**metrics, **extra},
        "boards": {target.board: _describe_board(target, results) for target in targets},
        "stages": [result.to_json() for result in results.values()],
    }


def _describe_board(target: BoardTarget, results: Mapping[str, StageResult]) -> dict[str, Any]:
    compiled = results.get(f"compile/{target.board}")
    checked = results["preflight"].metrics if "preflight" in results else {}
    predicted = checked.get("boards", {}).get(target.board, {})
    done = compiled is not None and compiled.status is Status.DONE
    return {
        "target": target.target,
        "fingerprint": target.fingerprint_text,
        "dpu_subgraphs": predicted.get("dpu_subgraphs"),
        "fps_estimate": predicted.get("fps_estimate"),
        "latency_ms_estimate": predicted.get("latency_ms"),
        "cpu_ops": predicted.get("cpu_ops", []),
        "compiled": done,
        "reason": "" if done else (compiled.reason if compiled is not None else _NOT_RUN),
    }
