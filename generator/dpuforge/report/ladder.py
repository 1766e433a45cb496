"""The ladder of accuracies: float, fake-quantised, xmodel on integers, compiled, board; what each step costs.

Intervals are Wilson's, by those who measured; drops between neighbours are judged on the same images by McNemar's
exact test (1947).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpuforge.chance.paired_tests import ALPHA, judge_pairs
from dpuforge.records.result import StageResult, Status
from dpuforge.report.facts import Facts

_ON_INTEGERS = "xmodel, on integers"
_ANSWERS = ("files", "integers", "label")


def build_ladder(results: Mapping[str, StageResult], facts: Facts, emulated: bool) -> dict[str, Any]:
    """Return rungs, gate and the step that lost the accuracy.

    Each rung has name, top1 and top5 in percent (None where they were not measured), interval, images, toolchain,
    emulated, drop from the rung measured before it, note (what is known instead), command (that measures it).
    """
    rungs = [
        _float_rung(results),
        _int8_rung(results, emulated),
        _integer_rung(results, facts, emulated),
        *_compiled_rungs(results, facts),
        *_board_rungs(results, facts),
    ]
    _compare_neighbours(rungs, facts, _is_apart(results))
    return {"rungs": rungs, "gate": _gate(results), "lost_by": _find_loss(rungs)}


def _rung(kind: str, name: str, **known: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("top1", "top5", "interval", "images", "drop", "drop_interval", "mcnemar", "against"))
    return {"kind": kind, "name": name, **empty, "toolchain": "", "emulated": False, "note": "", "command": "", **known}


def name_toolchain(result: StageResult | None) -> str:
    """Return who made a result, with versions that matter: "emulator (torch 2.4, ...)"."""
    if result is None or not result.toolchain:
        return ""
    versions = result.toolchain.get("versions", {})
    kept = [f"{name} {versions[name]}" for name in ("pytorch_nndct", "torch", "dpuforge") if versions.get(name)]
    name = str(result.toolchain.get("name", ""))
    return f"{name} ({', '.join(kept)})" if kept else name


def _is_emulated(result: StageResult | None) -> bool:
    return result is not None and result.toolchain.get("name") == "emulator"


def _float_rung(results: Mapping[str, StageResult]) -> dict[str, Any]:
    return _of_network("float", "float", results, "float network, in torch", False)


def _int8_rung(results: Mapping[str, StageResult], emulated: bool) -> dict[str, Any]:
    own = results["evaluate"].metrics.get("not_amd", ()) if "evaluate" in results else ()
    name = f"int8, {' and '.join(own)} not AMD's" if own else "int8, fake-quantised"
    rung = _of_network("int8", name, results, "", emulated or _is_emulated(results.get("evaluate")))
    if rung["top1"] is not None:
        metrics = results["evaluate"].metrics
        rung["drop_interval"] = metrics.get("drop_interval")
        if "lost" in metrics and "gained" in metrics:
            rung["mcnemar"] = judge_pairs(metrics["lost"], metrics["gained"])
    return rung


def _of_network(kind: str, name: str, results: Mapping[str, StageResult], made: str, emulated: bool) -> dict[str, Any]:
    result = results.get("evaluate")
    metrics = result.metrics if result is not None else {}
    if metrics.get(f"{kind}_accuracy") is None:
        return _rung(kind, name, note="not measured yet", command="dpuforge run {spec} --until evaluate")
    return _rung(
        kind,
        name,
        top1=metrics[f"{kind}_accuracy"],
        top5=metrics.get(f"{kind}_top5_accuracy"),
        interval=metrics.get(f"{kind}_interval"),
        images=metrics.get("test_images"),
        toolchain=made or name_toolchain(result),
        emulated=emulated,
    )


def _integer_rung(results: Mapping[str, StageResult], facts: Facts, emulated: bool) -> dict[str, Any]:
    result = results.get("preflight")
    known = {"toolchain": name_toolchain(result), "emulated": _is_emulated(results.get("deploy")) or emulated}
    found = result.metrics if result is not None else {}
    run = found.get("integer_run")
    note = f"{run.get('tensors')} tensors of one image equal the int8 network's" if isinstance(run, Mapping) else ""
    if isinstance(found.get("integer_accuracy"), (int, float)):
        return _rung(
            "integers",
            _ON_INTEGERS,
            top1=found["integer_accuracy"],
            top5=found.get("integer_top5_accuracy"),
            interval=found.get("integer_interval"),
            images=found.get("integer_images"),
            note="; ".join(filter(None, (_count_of(found), note))),
            **_pair_integers(facts),
            **known,
        )
    if note:
        why = found.get("integer_note") or "run the preflight stage again"
        return _rung("integers", _ON_INTEGERS, note=f"{note}; no accuracy: {why}", **known)
    command = "dpuforge run {spec} --until preflight"
    return _rung("integers", _ON_INTEGERS, note="not checked yet", command=command)


def _count_of(found: Mapping[str, Any]) -> str:
    count, whole = found.get("integer_images"), found.get("integer_images_of")
    return "" if count is None or count == whole else f"{count} of {whole} test images, spread evenly"


def _pair_integers(facts: Facts) -> dict[str, Any]:
    """Return the drop from the int8 network to the integers on the images that both classified, with McNemar's test."""
    here, there = facts.table("preflight/predictions.json"), facts.table("evaluate/predictions.json")
    try:
        int8 = dict(zip(there["files"], there["int8"], strict=True))
        rows = [(int8[name], made, label) for name, made, label in zip(*map(here.get, _ANSWERS), strict=True)]
    except (KeyError, TypeError, ValueError):  # one of them has not run, or was made of other images
        return {}
    lost, gained = (sum((a == t, b == t) == pair for a, b, t in rows) for pair in ((True, False), (False, True)))
    drop = round(100.0 * (lost - gained) / len(rows), 4) if rows else None
    return {"drop": drop, "mcnemar": judge_pairs(lost, gained), "against": "int8, same images"}


def _compiled_rungs(results: Mapping[str, StageResult], facts: Facts) -> Iterator[dict[str, Any]]:
    names = [key.partition("/")[2] for key in facts.stages if key.startswith("compile/")]
    for board in names or ["each board"]:
        result = results.get(f"compile/{board}")
        name = f"compiled for {board}"
        if result is not None and result.status is Status.DONE:
            note = "compiled; what it computes is known once it ran on the board"
            yield _rung("compiled", name, note=note, toolchain=name_toolchain(result), emulated=_is_emulated(result))
        else:
            note = result.reason if result is not None and result.reason else "not compiled yet"
            yield _rung("compiled", name, note=note, command="dpuforge run {spec} --toolchain native --from compile")


def _board_rungs(results: Mapping[str, StageResult], facts: Facts) -> Iterator[dict[str, Any]]:
    names = [key.partition("/")[2] for key in facts.stages if key.startswith("compile/")]
    for board in names or ["a board"]:
        found = facts.boards.get(board, {})
        top1 = found.get("accuracy")
        if top1 is None:
            command = f"dpuforge board test {{spec}} --host HOST --board {board}"
            yield _rung("board", f"on {board}", note=found.get("reason") or "not measured yet", command=command)
            continue
        here, outputs = found.get("accuracy_here"), found.get("outputs") or {}
        yield _rung(
            "board",
            f"on {board}",
            top1=top1,
            interval=found.get("interval"),
            images=found.get("images"),
            toolchain=found.get("toolchain", ""),
            emulated=bool(found.get("emulated")),
            drop=None if here is None else round(here - top1, 4),
            mcnemar=found.get("mcnemar"),
            against="the integers here, same images" if here is not None else None,
            note=_describe_outputs(outputs),
        )


def _describe_outputs(outputs: Mapping[str, Any]) -> str:
    if "equal" not in outputs or "images" not in outputs:
        return ""
    return f"{outputs['equal']} of {outputs['images']} raw outputs equal the integer run, bit for bit"


def _is_apart(results: Mapping[str, StageResult]) -> bool:
    """Say whether evaluate measured another split than the integers and the board, which have the test images."""
    return "evaluate" in results and results["evaluate"].metrics.get("split", "test") != "test"


def _compare_neighbours(rungs: Sequence[dict[str, Any]], facts: Facts, apart: bool) -> None:
    """Fill drop and mcnemar of every measured rung against the measured rung before it, where they are not known.

    apart says that the int8 network was measured on other images than those after it.
    """
    before: dict[str, Any] | None = None
    for rung in rungs:
        if rung["top1"] is None:
            continue
        if before is not None and rung["drop"] is None and not (apart and rung["kind"] == "integers"):
            rung["against"] = before["name"]
            rung["drop"] = round(before["top1"] - rung["top1"], 4)
            if rung["mcnemar"] is None:
                _test(before, rung, facts)
        if rung["kind"] != "board":
            before = rung


def _test(before: Mapping[str, Any], rung: dict[str, Any], facts: Facts) -> None:
    """Compare a rung with the one before, image by image, where evaluate says what both made of the same images."""
    listed = facts.table("evaluate/predictions.json")
    first, second, labels = listed.get(before["kind"]), listed.get(rung["kind"]), listed.get("label")
    if first and second and labels and len({len(first), len(second), len(labels)}) == 1:
        pairs = [(a == t, b == t) for a, b, t in zip(first, second, labels, strict=True)]
        rung["mcnemar"] = judge_pairs(pairs.count((True, False)), pairs.count((False, True)))


def _gate(results: Mapping[str, StageResult]) -> dict[str, Any]:
    """Return the gate on the drop from float to int8: limit, drop, and kept (None where it is not known)."""
    metrics = results["evaluate"].metrics if "evaluate" in results else {}
    limit, drop = metrics.get("max_accuracy_drop"), metrics.get("accuracy_drop")
    kept = None if limit is None or drop is None else drop <= limit
    return {"limit": limit, "drop": drop, "interval": metrics.get("drop_interval"), "kept": kept}


_STEPS = {
    "int8": "quantisation (calibrate)",
    "integers": "the export (deploy)",
    "board": "compiler or board",
}


def _find_loss(rungs: Sequence[Mapping[str, Any]]) -> str:
    """Say in words which step lost the accuracy."""
    steps = [rung for rung in rungs if rung["drop"] is not None]
    if not steps:
        return "no two rungs have been measured: no step can be named yet"
    worst = max(steps, key=lambda rung: rung["drop"])
    if worst["drop"] <= 0:
        return "no step lost accuracy"
    step = _STEPS.get(worst["kind"], worst["name"])
    text = f"{step} lost {worst['drop']:.2f} points, from {worst['against']} to {worst['name']}"
    found = worst["mcnemar"]
    if found and found["p"] > ALPHA:
        text += f"; that may be chance (McNemar p = {found['p']:.2g}: {found['lost']} images lost, "
        return text + f"{found['gained']} gained)"
    return text + (f" (McNemar p = {found['p']:.2g})" if found else "")
