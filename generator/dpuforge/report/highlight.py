"""The spec as written, coloured, with the lines marked that decide what the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import YamlLexer

from dpuforge.report.facts import SpecText

# Keys whose lines are marked: what is judged, and on what.
_DECISIVE = (
    *("model.backbone", "model.weights", "transfer.method", "train.epochs"),
    *("quantization.max_accuracy_drop", "target.vitis_ai", "target.boards", "target.dpu_subgraphs", "run.toolchain"),
)


def highlight_spec(spec: SpecText, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec as HTML, and why lines are marked: (line, key, why)."""
    if not spec.text:
        return {"html": Markup(""), "marked": []}
    marked = [(spec.lines[key], key, "decides what is shown here") for key in _DECISIVE if key in spec.lines]
    for item in document["quantisation"]["advice"]:
        for setting in item.get("spec") or ():
            key = setting.partition(":")[0].strip()
            if key in spec.lines:
                marked.append((spec.lines[key], key, f"the advice {item['code']} changes it"))
    formatter = HtmlFormatter(hl_lines=[line for line, _, _ in marked], linenos="inline", cssclass="yaml")
    return {"html": Markup(highlight(spec.text, YamlLexer(stripnl=False), formatter)), "marked": sorted(marked)}
