"""The sections of the report beside the ladder: training, data, quantisation, provenance, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpuforge.records.result import StageResult
from dpuforge.report.facts import Facts
from dpuforge.report.ladder import name_toolchain

_MOST_CONFUSED = 10
_CURVES = ("train_accuracy", "val_accuracy", "val_balanced_accuracy", "train_loss", "val_loss")
_RATES = ("learning_rate", "lr", "rate")
_TIMES = ("seconds", "epoch_seconds")


def describe_training(results: Mapping[str, StageResult], facts: Facts) -> dict[str, Any]:
    """Return the curves by name ("train_accuracy": [..]), learning rate and seconds by epoch, and confusions."""
    metrics = results["train"].metrics if "train" in results else {}
    history = _read_history(metrics, facts)
    confusions = sorted(
        (row for row in facts.rows("evaluate/confusion.json", "true", "predicted") if row["true"] != row["predicted"]),
        key=lambda row: (-row.get("int8", 0), -row.get("float", 0), row["true"], row["predicted"]),
    )
    return {
        "epochs": len(history),
        "best_epoch": metrics.get("best_epoch"),
        "curves": {name: _column(history, (name,)) for name in _CURVES if _column(history, (name,))},
        "learning_rate": _column(history, _RATES),
        "seconds": _column(history, _TIMES),
        "whole_seconds": results["train"].seconds if "train" in results else None,
        "confused": confusions[:_MOST_CONFUSED],
    }


def _read_history(metrics: Mapping[str, Any], facts: Facts) -> list[Mapping[str, Any]]:
    """Return one row an epoch: of history.csv where training wrote it, else of its result."""
    found = facts.rows("train/history.csv") or metrics.get("history", [])
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def _column(history: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[float | None]:
    """Return the first of these columns that the history has, [] where it has none; None for a cell without number."""
    for name in names:
        if any(name in row for row in history):
            cells = [row.get(name) for row in history]
            return [float(cell) if isinstance(cell, (int, float)) else None for cell in cells]
    return []


def describe_data(results: Mapping[str, StageResult], facts: Facts) -> dict[str, Any]:
    """Return images per class and split, sizes, kinds, copies, and the warnings of prepare."""
    metrics = results["prepare"].metrics if "prepare" in results else {}
    sheet = facts.table("prepare/pictures.json")
    splits = ("train", "validation", "test")
    counts = metrics.get("class_images", {})
    names = list(next(iter(counts.values()), {}))
    return {
        "classes": [{"class": name, **{split: counts[split].get(name, 0) for split in counts}} for name in names],
        "images": {split: metrics[f"{split}_images"] for split in splits if f"{split}_images" in metrics},
        "repeated": {split: metrics[f"{split}_repeated"] for split in splits if f"{split}_repeated" in metrics},
        "copies": metrics.get("copies"),
        "imbalance": metrics.get("imbalance"),
        "view": metrics.get("view"),
        "sizes": sheet.get("sizes", []),
        "kinds": sheet.get("kinds", {}),
        "left_out": metrics.get("left_out", {}),
        "warnings": list(metrics.get("warnings", ())),
        "leaks": find_leaks(facts),
    }


def find_leaks(facts: Facts) -> list[str]:
    """Return prepare's lines on images that lie in two splits, or under two labels: problems that stop a run."""
    return [line for line in facts.rows("prepare/problems.txt") if " = " in str(line)]


def describe_quantisation(results: Mapping[str, StageResult], facts: Facts) -> dict[str, Any]:
    """Return the layers in execution order with the figures that the pictures show, and the advice in words."""
    metrics = results["evaluate"].metrics if "evaluate" in results else {}
    found = metrics.get("diagnosis") or {}
    order = {row["node"]: place for place, row in enumerate(facts.rows("evaluate/histograms.json", "layer", "node"))}
    rows = [_describe_layer(row) for row in found.get("layers", ())]
    rows.sort(key=lambda row: order.get(row["node"], len(order)))
    return {
        "layers": rows,
        "in_order": bool(order),
        "images": found.get("images"),
        "output": found.get("output"),
        "advice": [
            {name: item.get(name) for name in ("code", "text", "layers", "spec")} for item in found.get("advice", ())
        ],
        "refused": [
            {"spec": item["spec"], "text": item["text"]}
            for item in found.get("tried", ())
            if "gain" in item and not item["helps"]
        ],
    }


def _describe_layer(row: Mapping[str, Any]) -> dict[str, Any]:
    weights, activation = row.get("weights") or {}, row.get("activation") or {}
    return {
        "layer": row["layer"],
        "node": row.get("node", row["layer"]),
        "kind": row.get("kind", ""),
        "cost_db": row.get("cost_db"),
        "weights_sqnr_db": weights.get("rounding_sqnr_db"),
        "weights_fix": weights.get("fix"),
        "activation_sqnr_db": activation.get("sqnr_db"),
        "activation_fix": activation.get("fix"),
        "saturated": activation.get("saturated"),
    }


def describe_provenance(results: Mapping[str, StageResult], facts: Facts) -> dict[str, Any]:
    """Return what made the results: the spec's files, and of each stage its duration, tools and command."""
    spec = facts.spec
    return {
        "spec": spec.path,
        "bases": dict(spec.bases),
        "stages": [
            {
                "stage": key,
                "status": result.status.value,
                "seconds": result.seconds,
                "toolchain": name_toolchain(result),
                "inputs": dict(result.inputs),
                "outputs": dict(result.outputs),
                "command": reproduce(key, spec.path),
            }
            for key, result in results.items()
        ],
    }


def reproduce(key: str, spec: str) -> str:
    """Return the command that runs one stage again."""
    stage, _, board = key.partition("/")
    chosen = f" --board {board}" if board else ""
    return f"dpuforge run {spec or 'SPEC'} --from {stage} --until {stage}{chosen}"


def list_missing(document: Mapping[str, Any], facts: Facts) -> list[dict[str, str]]:
    """Return what the report cannot show yet: section, what, and the command that fills it."""
    spec = facts.spec.path or "SPEC"
    found = [
        {"section": section, "what": what, "command": command.format(spec=spec)}
        for section, what, command in _find_missing(document, facts)
    ]
    for rung in document["ladder"]["rungs"]:
        rung["command"] = rung["command"].format(spec=spec)
    rungs = [rung for rung in document["ladder"]["rungs"] if rung["command"]]
    return [{"section": "ladder", "what": rung["name"], "command": rung["command"]} for rung in rungs] + found


def _find_missing(document: Mapping[str, Any], facts: Facts) -> Iterator[tuple[str, str, str]]:
    evaluate = "dpuforge run {spec} --until evaluate"
    if not document["training"]["curves"]:
        yield "training", "training curves", "dpuforge run {spec} --until train"
    if not document["metrics"].get("per_class"):
        yield "classes", "the table of classes", evaluate
    if not facts.rows("evaluate/confusion.json", "true", "predicted"):
        yield "classes", "the confusion matrix", evaluate
    if not facts.table("evaluate/pictures.json"):
        yield "images", "changed and wrong images, class activation maps", evaluate
    if not document["data"]["images"]:
        yield "data", "images per class and split", "dpuforge run {spec} --until prepare"
    if not facts.table("prepare/pictures.json"):
        yield "data", "the contact sheet", "dpuforge run {spec} --until prepare"
    if not document["quantisation"]["layers"]:
        how = evaluate if not document["metrics"].get("int8_accuracy") else evaluate + " --toolchain emulator"
        yield "quantisation", "figures of each layer (AMD's quantizer tells none, the emulator does)", how
    elif not facts.rows("evaluate/histograms.json", "layer", "node"):
        yield "quantisation", "histograms of weights and activations", "dpuforge run {spec} --from evaluate"
    if not document["hardware"].get("graph"):
        yield "hardware", "the network on the DPU, time per layer, roofline", "dpuforge run {spec} --until preflight"
    if not any(row.get("measured_fps") for row in document["hardware"].get("boards", ())):
        yield "hardware", "measured frames per second", "dpuforge board bench {spec} --host HOST"
