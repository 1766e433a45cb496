"""The model card: what goes beside an xmodel, so that who finds it knows what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpuforge.report.facts import Facts
from dpuforge.report.figures_shown import Figures
from dpuforge.report.pages import make_environment, sort_classes

_SHOWN = ("transfer.method", "train.optimizer.name", "train.optimizer.lr", "train.batch_size", "train.seed")
_WORST = 3


def render_card(document: Mapping[str, Any], facts: Facts) -> str:
    """Return card.md."""
    figures, rows = Figures(document, in_html=False), sort_classes(document)
    known = [row for row in rows if row[1]["int8_recall"] is not None]
    settings = facts.spec.settings
    return (
        make_environment(escape=False)
        .get_template("card.md.j2")
        .render(
            report=document,
            facts=facts,
            at=figures.at,
            span=figures.interval,
            classes=rows,
            worst=sorted(known, key=lambda row: (row[1]["int8_recall"], row[1]["class"]))[:_WORST],
            licence=describe_licence(facts.spec.weights, facts.spec.backbone),
            settings=", ".join(f"{key.rpartition('.')[2]} {settings[key]}" for key in _SHOWN if key in settings),
            artefacts=_find_artefacts(document),
            measured=any(rung["kind"] == "board" and rung["top1"] is not None for rung in document["ladder"]["rungs"]),
        )
    )


def describe_licence(weights: str, backbone: str) -> str:
    """Return what is known of the licence of the weights that training started from."""
    if not weights:
        return "Not known: the spec does not say what training started from."
    if weights == "none":
        return "Trained from random weights: no licence of anyone else's weights applies, that of the images does."
    if "/" in weights or "." in weights:
        return f"Started from the project's own file `{weights}`: say here whose it is and what its licence allows."
    if backbone.startswith("timm/"):
        return (
            f"Started from timm's weights `{weights}`: each of its models has a licence of its own, on its page. "
            "Weights trained on ImageNet also depend on the terms of that data set."
        )
    return (
        f"Started from torchvision's weights `{weights}`. torchvision's code has the BSD 3-Clause licence; its weights "
        "may have terms that follow from the data they were trained on (ImageNet: non-commercial research). Whether "
        "your use is allowed is yours to find out."
    )


def _find_artefacts(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the exported files with their digests."""
    stages = document["provenance"]["stages"]
    outputs = [
        stage["outputs"] for stage in stages if stage["stage"] == "deploy" or stage["stage"].startswith("compile/")
    ]
    return {path: digest for found in outputs for path, digest in found.items()}
