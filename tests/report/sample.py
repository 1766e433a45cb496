"""A project's results as the stages leave them, made of a fixed rule: thirty classes, some with names that bite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.result import StageResult, Status
from dpuforge.report.charts import encode_map
from dpuforge.report.document import build_report
from dpuforge.report.facts import Facts, SpecText

BITING = (
    "<script>alert(1)</script>",
    "\"'&<b>",
    "ä漢😀" * 66 + "é文",  # 200 characters
    "</script><!--",
    "{{ 7 * 7 }}",
    "a|b\\c`d`",
    "  padded  ",
    "javascript:alert(1)",
    "&amp;&lt;",
    "\u202eright to left\u2028line",
)
BOARDS = tuple(
    BoardTarget(name, "3.0", "DPUCZDX8G_ISA1_B4096", "DPUCZDX8G", 0x101000056010407, {}, name, True, "", "")
    for name in ("KV260", "ZCU104")
)
STAGES = ("prepare", "train", "inspect", "calibrate", "evaluate", "deploy", "preflight", "compile/KV260")
EMULATOR = {"name": "emulator", "versions": {"python": "3.11", "torch": "2.4.0", "pytorch_nndct": "3.5 emulator"}}
PICTURE = encode_map([[0.1, 0.9], [0.5, 0.2]])
SPEC = "# A demo\nproject: demo\nquantization:\n  max_accuracy_drop: 1.0\n  include_cle: false\n"


def name_classes(count: int = 30) -> list[str]:
    """Return names of classes, the biting ones first."""
    return [*BITING, *(f"fruit {number}" for number in range(count))][:count]


def predict(count: int, per_class: int = 10) -> tuple[list[int], list[int], list[int]]:
    """Return labels and what float and int8 make of them: float is wrong on every 17th image, int8 on every 11th ."""
    labels = [place for place in range(count) for _ in range(per_class)]
    of_float = [(label + 1) % count if at % 17 == 0 else label for at, label in enumerate(labels)]
    of_int8 = [
        (label + 2) % count if at % 11 == 3 else made
        for at, (label, made) in enumerate(zip(labels, of_float, strict=True))
    ]
    return labels, of_float, of_int8


def percent(part: int, whole: int) -> float | None:
    """Return a share in percent."""
    return round(100 * part / whole, 4) if whole else None


def bound(part: int, whole: int) -> list[float]:
    """Return something like an interval around a share, in percent."""
    share = 100 * part / whole
    return [round(share - 4.5678, 4), round(min(100.0, share + 3.4567), 4)]


def tabulate(names: Sequence[str], labels: Sequence[int], networks: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Return rows of classes as evaluate writes them."""
    rows = []
    for place, name in enumerate(names):
        row: dict[str, Any] = {"class": name, "images": labels.count(place)}
        for network, made in networks.items():
            right = sum(a == b == place for a, b in zip(labels, made, strict=True))
            row |= {f"{network}_right": right, f"{network}_recall": percent(right, row["images"])}
            row[f"{network}_precision"] = percent(right, made.count(place))
            row[f"{network}_taken_for"] = names[(place + 2) % len(names)]
        row["recall_drop"] = round(row["float_recall"] - row["int8_recall"], 4)
        rows.append(row)
    return rows


def make_layer(number: int) -> dict[str, Any]:
    """Return a layer's row of the diagnosis; its name bites."""
    weights = {"rounding_sqnr_db": 40.0 - number, "fix": 7, "saturated": 0.0}
    activation = {"sqnr_db": 35.5 - number, "fix": 4, "saturated": 0.001 * number, "bits": 8}
    name = f"layer{number}.<conv>"
    return {
        "layer": name,
        "node": f"Net::{number}",
        "kind": "conv2d",
        "cost_db": 1.5 / (number + 1),
        "weights": weights,
        "activation": activation,
    }


def make_histogram(number: int) -> dict[str, Any]:
    """Return a layer's histograms."""
    counts = [max(0, 900 - (place - 32) ** 2) for place in range(64)]
    grid = {"bits": 8, "counts": counts, "below": 0, "above": 2, "low": -0.4, "high": 0.41, "levels": 180}
    return {
        "layer": f"layer{number}.<conv>",
        "node": f"Net::{number}",
        "weights": {**grid, "fix": 7},
        "activation": {**grid, "fix": 4},
    }


def make_operator(number: int) -> dict[str, Any]:
    """Return a row of the network's graph; the third runs on the CPU."""
    cpu = number == 3
    return {
        "op": f"op_{number}",
        "label": f"layer{number}",
        "kind": "conv2d" if not cpu else "softmax",
        "shape": [1, 8, 8, 64],
        "device": "input" if not number else "cpu" if cpu else "dpu",
        "subgraph": -1 if cpu else 0,
        "reason": "softmax: no engine of the DPU computes it" if cpu else "",
        "help": "leave it to the application" if cpu else "",
        "reads": sorted({max(0, number - 1), *([number - 3] if number % 4 == 0 and number > 3 else [])} - {number}),
        "ms": None if cpu or not number else 0.01 * number,
        "bound": None if cpu or not number else ("memory", "compute")[number % 2],
        "workload": 4_000_000 * number,
        "ops_per_byte": 12.5 * (number + 1),
    }


def make_hardware() -> dict[str, Any]:
    """Return what describing makes of a deployed network."""
    rates = {"KV260": [400.0, 500.0, 600.0], "ZCU104": [600.0, 700.0, 830.0], "U50": [5000.0, 9000.0, 20000.0]}
    boards = [
        {
            "board": name,
            "target": "DPUCZDX8G_ISA1_B4096",
            "own": name != "U50",
            "fps": fps,
            "latency_ms": [1.0, 2.0, 3.0],
            "dpu_subgraphs": 1,
            "cpu_ops": 1,
            "measured_fps": 512.0 if name == "KV260" else None,
            "measured_emulated": False,
            "notes": [],
        }
        for name, fps in rates.items()
    ]
    boards.append({**boards[0], "board": "VEK999", "own": False, "fps": None, "measured_fps": None})
    return {
        "release": "3.0",
        "boards": boards,
        "board": "KV260",
        "target": "DPUCZDX8G_ISA1_B4096",
        "clock_mhz": 300.0,
        "cores": 1,
        "graph": [make_operator(number) for number in range(12)],
        "roofline": {"peak_gops": 1228.8, "bandwidth_gb_per_s": 9.0},
        "latency_ms": [1.0, 2.0, 3.0],
        "dpu_subgraphs": 1,
        "workload": 10**9,
    }


def make_results(names: Sequence[str]) -> dict[str, StageResult]:
    """Return the stages' results, compiling left out as on a machine without AMD's compiler."""
    labels, of_float, of_int8 = predict(len(names))
    right = {
        name: sum(a == b for a, b in zip(labels, made, strict=True))
        for name, made in (("float", of_float), ("int8", of_int8))
    }
    shares = {name: round(100 * count / len(labels), 4) for name, count in right.items()}
    pairs = Counter((a == f, a == q) for a, f, q in zip(labels, of_float, of_int8, strict=True))
    metrics = {
        **{f"{name}_accuracy": share for name, share in shares.items()},
        **{f"{name}_balanced_accuracy": share for name, share in shares.items()},
        **{f"{name}_interval": bound(count, len(labels)) for name, count in right.items()},
        "float_top5_accuracy": 99.5,
        "int8_top5_accuracy": 99.0,
        "accuracy_drop": round(shares["float"] - shares["int8"], 4),
        "drop_interval": [5.1234, 12.5],
        "max_accuracy_drop": 1.0,
        "test_images": len(labels),
        "lost": pairs[True, False],
        "gained": pairs[False, True],
        "per_class": tabulate(names, labels, {"float": of_float, "int8": of_int8}),
        "accuracy_warnings": [
            {"code": "DROP_IN_ONE_CLASS", "classes": [names[0]], "text": f"the drop is in {names[0]}"}
        ],
        "diagnosis": {
            "advice": [
                {
                    "code": "EQUALISATION",
                    "text": "channels differ by far",
                    "layers": ["layer0"],
                    "spec": ["quantization.include_cle: true"],
                }
            ],
            "tried": [],
            "images": 16,
            "layers": [make_layer(number) for number in (2, 0, 1, 3)],
        },
    }
    history = [
        {
            "train_accuracy": 50.0 + 4 * at,
            "val_accuracy": 48.0 + 4 * at,
            "train_loss": 1 / (at + 1),
            "val_loss": 1.1 / (at + 1),
        }
        for at in range(8)
    ]
    counts = {split: dict.fromkeys(names, many) for split, many in (("train", 40), ("validation", 5), ("test", 10))}
    sheet = {f"{split}_images": sum(found.values()) for split, found in counts.items()}
    sheet |= {f"{split}_repeated": 0 for split in counts}
    view = {"seen_share": 0.766, "picture_px": [300, 400], "input_px": [224, 224]}
    board = {"dpu_subgraphs": 1, "fps_estimate": [400.0, 500.0, 600.0], "latency_ms": [1.0, 2.0, 3.0], "cpu_ops": []}
    stages = {
        "prepare": {
            "class_images": counts,
            **sheet,
            "copies": 0,
            "imbalance": 1.0,
            "view": view,
            "warnings": [f"look at {names[1]}"],
        },
        "train": {"history": history, "best_epoch": 8},
        "inspect": {},
        "calibrate": {},
        "evaluate": metrics,
        "deploy": {},
        "preflight": {
            "boards": {each.board: board for each in BOARDS},
            "integer_run": {"tensors": 32, "values": 1000, "rounded": 0},
        },
    }
    return {
        name: StageResult(
            name,
            Status.DONE,
            seconds=1.5,
            toolchain=EMULATOR,
            outputs={f"build/demo/{name}/x": "0" * 64},
            metrics=found,
        )
        for name, found in stages.items()
    }


def make_facts(names: Sequence[str]) -> Facts:
    """Return the files of the stages and the spec."""
    labels, of_float, of_int8 = predict(len(names))
    confusion = {}
    for network, made in (("float", of_float), ("int8", of_int8)):
        for pair, count in Counter(zip(labels, made, strict=True)).items():
            confusion.setdefault(pair, {"float": 0, "int8": 0})[network] = count
    judged = {
        "picture": PICTURE,
        "file": "data/x.png",
        "class": names[0],
        "float": names[0],
        "int8": names[1],
        "float_confidence": 0.91,
        "int8_confidence": 0.5,
    }
    seen = [{"class": name, "picture": PICTURE} for name in names]
    files = {
        "prepare/pictures.json": {
            "sizes": [[300, 400, 900], [200, 200, 3]],
            "kinds": {"JPEG RGB": 903},
            "seen": seen,
            "copies": [],
        },
        "evaluate/confusion.json": [
            {"true": names[a], "predicted": names[b], **counts} for (a, b), counts in sorted(confusion.items())
        ],
        "evaluate/predictions.json": {"label": labels, "float": of_float, "int8": of_int8},
        "evaluate/pictures.json": {
            "changed": [judged] * 24,
            "changed_images": 27,
            "wrong": [judged] * 24,
            "wrong_images": 40,
            "augmented": seen[:24],
            "maps": [{**judged, "layer": "layer4.1", "float_map": [[0.0, 1.0], [0.4, 0.2]], "int8_map": None}],
        },
        "evaluate/histograms.json": [make_histogram(number) for number in range(4)],
    }
    settings = {"train.optimizer.lr": 0.001, "quantization.include_cle": False}
    spec = SpecText(
        "spec/demo.yaml",
        SPEC,
        {"quantization.max_accuracy_drop": 4, "quantization.include_cle": 5},
        "A <demo> & more",
        "3.0",
        "resnet18",
        "IMAGENET1K_V1",
        {},
        settings,
    )
    return Facts(spec, files, make_hardware(), {}, STAGES)


def make_report(count: int = 30) -> tuple[dict[str, Any], Facts]:
    """Return the document of a project with all stages but compiling, and its facts."""
    names = name_classes(count)
    facts = make_facts(names)
    return build_report("demo", "0" * 64, "emulator", BOARDS, make_results(names), {}, facts=facts), facts
