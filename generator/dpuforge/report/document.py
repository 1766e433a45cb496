"""Collect the results of all stages into the one document that report.json holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.result import StageResult, Status
from dpuforge.report.facts import Facts
from dpuforge.report.ladder import build_ladder
from dpuforge.report.sections import (
    describe_data,
    describe_provenance,
    describe_quantisation,
    describe_training,
    list_missing,
)

_ACCURACY = ("float_accuracy", "int8_accuracy", "accuracy_drop", "test_images", "split")
# What stands beside every accuracy: a figure alone hides which class is never recognised.
_SHADOWS = (
    *(
        f"{name}_{figure}"
        for name in ("float", "int8")
        for figure in ("balanced_accuracy", "top5_accuracy", "interval")
    ),
    "drop_interval",
    "max_accuracy_drop",
)
_NOT_RUN = "the compile stage has not run"


def build_report(
    project: str,
    spec_sha256: str,
    toolchain: str,
    targets: Sequence[BoardTarget],
    results: Mapping[str, StageResult],
    outdated: Mapping[str, str] | None = None,
    measured: Mapping[str, Mapping[str, Any]] | None = None,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """Return the document of report.json.

    results maps stage keys ("evaluate", "compile/KV260") to what the stages left; a stage that has not run is
    absent and its figures are null. outdated says of which of them the figures are of an earlier configuration, and
    why: they are left out. measured says what `dpuforge board` found on each board, facts hold what is not in the
    results themselves. Accuracies are percentages of top-1 on the split that
    metrics.split names: test, unless the spec says otherwise.
    """
    known, stale = facts or Facts(), dict(outdated or {})
    current = {key: result for key, result in results.items() if key not in stale}
    document = {
        "project": project,
        "description": known.spec.description,
        "toolchain": toolchain,
        "spec_sha256": spec_sha256,
        **_describe_makers(toolchain, current),
        "warnings": [*_warn_of_age(stale), *_gather_warnings(current)],
        "metrics": _gather_metrics(current),
        "boards": {target.board: _describe_board(target, current, stale, measured or {}) for target in targets},
        "stages": [_describe_stage(result, stale.get(key, "")) for key, result in results.items()],
        "ladder": build_ladder(current, known, toolchain == "emulator"),
        "training": describe_training(current, known),
        "data": describe_data(current, known),
        "quantisation": describe_quantisation(current, known),
        "hardware": dict(known.hardware),
        "provenance": describe_provenance(current, known),
    }
    document = keep_finite(document)
    return {**document, "missing": list_missing(document, known)}


def keep_finite(value: Any) -> Any:
    """Return a document without NaN and infinity, which JSON does not know: None stands in their places."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: keep_finite(item) for key, item in value.items()}
    return [keep_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _describe_makers(toolchain: str, current: Mapping[str, StageResult]) -> dict[str, Any]:
    """Say what of the figures is not of AMD's own tools."""
    stand_ins = _list_stand_ins(current)
    return {
        "emulated": toolchain == "emulator" or bool(stand_ins),
        "stand_ins": stand_ins,
        "not_amd": sorted({step for result in current.values() for step in result.metrics.get("not_amd", ())}),
        "calibration": _describe_calibration(current),
    }


def _gather_metrics(current: Mapping[str, StageResult]) -> dict[str, Any]:
    """Return the figures of evaluate; those that a page shows are there, None where nothing measured them."""
    evaluated = current["evaluate"].metrics if "evaluate" in current else {}
    return {**dict.fromkeys((*_ACCURACY, *_SHADOWS)), **evaluated}


def _list_stand_ins(current: Mapping[str, StageResult]) -> list[str]:
    """Return the tools of AMD's that stand-ins played in a container."""
    return sorted({name for result in current.values() for name in result.toolchain.get("stand_ins", ())})


def _describe_calibration(current: Mapping[str, StageResult]) -> list[str]:
    """Return sentences on where the calibration and the weights came from, and what of it another torch could move."""
    metrics = current["calibrate"].metrics if "calibrate" in current else {}
    lines = []
    imported = metrics.get("imported")
    if imported:
        maker = imported["toolchain"]["declared"]
        lines.append(f"The calibration was not made here: imported from {imported['folder']}, made by {maker}.")
    if metrics.get("biases"):
        lines.append(
            f"{metrics['biases_unsure']} of {metrics['biases']} biases lie so near a rounding border that another "
            "version of torch could move them by one; given these calibration files, everything else is exact."
        )
    trained = current["qat"].metrics if "qat" in current else {}
    if trained:
        lines.append(
            f"The network was quantised by training ({trained['epochs']} epochs, the best is {trained['best_epoch']}): "
            f"{trained['val_accuracy_before']:.2f} % on the validation split before, {trained['val_accuracy']:.2f} % "
            "after; given qat/quantize_result, the quantised network is exact."
        )
    adjusted = current["adjust"].metrics if "adjust" in current else {}
    if adjusted.get("adjusted"):
        lines.append("The float weights were adjusted before calibration (adjust/model.pth).")
    return lines


def _warn_of_age(stale: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a warning for each stage whose figures a reader would look for and not find."""
    shown = [key for key in stale if key in ("evaluate", "preflight") or key.startswith("compile/")]
    text = "what {} left is of an earlier configuration and is not shown: {}"
    return [{"stage": key, "code": "OUT_OF_DATE", "text": text.format(key, stale[key])} for key in shown]


def _gather_warnings(current: Mapping[str, StageResult]) -> list[dict[str, Any]]:
    """Return what the accuracies hide: evaluate's word, or train's, who knows the float network alone."""
    for key in ("evaluate", "train"):
        if key in current and "accuracy_warnings" in current[key].metrics:
            return [{"stage": key, **item} for item in current[key].metrics["accuracy_warnings"]]
    return []


def _describe_stage(result: StageResult, why_stale: str) -> dict[str, Any]:
    """Return the row of a stage; the figures of an outdated one are left out."""
    document = result.to_json()
    return {**document, "metrics": {}, "stale": why_stale} if why_stale else document


def _describe_board(
    target: BoardTarget,
    results: Mapping[str, StageResult],
    stale: Mapping[str, str],
    measured: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    compiled = results.get(f"compile/{target.board}")
    checked = results["preflight"].metrics if "preflight" in results else {}
    predicted = checked.get("boards", {}).get(target.board, {})
    done = compiled is not None and compiled.status is Status.DONE
    old = stale.get(f"compile/{target.board}")
    absent = f"compiled by an earlier configuration only: {old}" if old else _NOT_RUN
    return {
        "target": target.target,
        "fingerprint": target.fingerprint_text,
        "dpu_subgraphs": predicted.get("dpu_subgraphs"),
        "fps_estimate": predicted.get("fps_estimate"),
        "latency_ms_estimate": predicted.get("latency_ms"),
        "cpu_ops": predicted.get("cpu_ops", []),
        "compiled": done,
        "reason": "" if done else (compiled.reason if compiled is not None else absent),
        "measured": _describe_measured(measured.get(target.board)),
    }


def _describe_measured(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what was measured on a board, with its best frame rate from end to end; None where nothing was."""
    if found is None:
        return None
    rows = found.get("bench", {}).get("rows", ())
    best = max((row["end_to_end"]["fps"] for row in rows), default=None)
    shown = ("host", "emulated", "note", "status", "reason", "run", "outputs", "answers", "bench")
    return {"fps": best, **{name: found.get(name) for name in shown}}
