"""Pages that follow from data, made while the site is built: spec keys, codes and errors, pitfalls, the zoo.

MkDocs loads this file as a hook (mkdocs.yml). Nothing that it makes is written into docs/.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from dpuforge import errors
from dpuforge.execute.faults import Fault, read_rows
from dpuforge.load.json_schema import project_json_schema
from dpuforge.load.spec_schema import read_schema
from dpuforge.quant_config.pitfalls import PITFALLS
from dpuforge.quant_config.tables import KEY_SINCE, TENSOR_TYPES
from dpuforge.zoo.entries import describe_entry, list_entries

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

KEYS, CODES, ERRORS = "keys", "codes", "errors"  # folders of the site
PARAMETERS = "quantization.overall"  # its keys are the quantizer's, not those of spec/schema/project.yaml
_KINDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
_KINDS |= {"array": "a list", "object": "a mapping of keys to values", "null": "null"}
_BOUNDS = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than", "minLength": "characters from"}
_BOUNDS |= {"maxLength": "characters to", "minItems": "entries from", "maxItems": "entries to", "pattern": "pattern"}
_PARAMETER_DOCS = {
    "bit_width": "Bits of a value; a DPU takes 8.",
    "calib_statistic_method": "How the fix positions of several calibration batches become one.",
    "datatype": "The type of number that stands for a value.",
    "method": "How a range is chosen from the values seen.",
    "narrow_range": "Leave out the lowest value (-128), so that the range is symmetrical.",
    "per_channel": "One scale for each channel; a DPU takes one for the tensor.",
    "percentage": "Percentile that the method percentile cuts at.",
    "round_mode": "How halves are rounded.",
    "scale_type": "Whether scales are powers of two (a DPU's) or any number.",
    "signed": "Whether values have a sign.",
    "symmetry": "Whether the range lies evenly around zero.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site, and each group to the navigation where its name stands."""
    from mkdocs.structure.files import File

    made = make_pages()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    config.nav = [_fill(entry, sorted(made)) for entry in config.nav or []]
    return files


def _fill(entry: Any, pages: list[str]) -> Any:
    """Return an entry of the navigation with a folder's name ("keys/") replaced by the folder's pages."""
    if isinstance(entry, dict):
        return {title: _fill(below, pages) for title, below in entry.items()}
    if isinstance(entry, list):
        return [_fill(below, pages) for below in entry]
    if isinstance(entry, str) and entry.endswith("/"):
        return sorted((page for page in pages if page.startswith(entry)), key=lambda page: page != f"{entry}index.md")
    return entry


def make_pages() -> dict[str, str]:
    """Return {path: markdown} of every page that follows from data."""
    return {**_make_keys(), **_make_codes(), **_make_errors(), "zoo.md": _make_zoo()}


# --- keys of a spec ---


def list_keys() -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return every key of a spec by its dotted name, with its rules and its JSON Schema; those of the quantizer too."""
    schema = project_json_schema()
    found = dict(_walk(read_schema(), schema["properties"], ""))
    for name, form in schema["definitions"]["parameters"]["properties"].items():
        doc = {"meta": {"doc": _PARAMETER_DOCS[name], "source": "the quantizer's own, by tensor type"}}
        found[f"{PARAMETERS}.{name}"] = (doc, form)
    return found


def _walk(
    rules: Mapping[str, Any], forms: Mapping[str, Any], above: str
) -> Iterator[tuple[str, tuple[Mapping[str, Any], Mapping[str, Any]]]]:
    for name, rule in rules.items():
        form = forms[name]
        yield f"{above}{name}", (rule, form)
        if rule.get("type") == "mapping" and "schema" in rule:
            yield from _walk(rule["schema"], form.get("properties", {}), f"{above}{name}.")


def _make_keys() -> dict[str, str]:
    keys, leading = list_keys(), _find_leading_codes()
    pages = {f"{KEYS}/{name}.md": _write_key(name, keys, leading.get(name, [])) for name in keys}
    rows = [f"| [`{name}`]({name}.md) | {_cell(rule['meta']['doc'])} |" for name, (rule, _) in keys.items()]
    head = "# Keys of a spec\n\nMade from the schema that `dpuforge validate` judges by. `dpuforge explain SPEC` shows "
    head += "every value of a spec and where it comes from.\n\n| key | means |\n|---|---|\n"
    return {**pages, f"{KEYS}/index.md": head + "\n".join(rows) + "\n"}


def _write_key(name: str, keys: Mapping[str, Any], codes: list[str]) -> str:
    rule, form = keys[name]
    meta = rule.get("meta", {})
    lines = [f"# `{name}`", "", meta["doc"], "", "| | |", "|---|---|", f"| form | {_cell(_describe_form(form))} |"]
    if rule.get("required"):
        lines.append("| required | yes |")
    elif "default" in rule and "schema" not in rule:
        shown = f"`{_yaml(rule['default'])}`"
        lines.append(f"| default | {_cell(shown)} |")
    if meta.get("source"):
        lines.append(f"| why this default | {_cell(meta['source'])} |")
    if name.rpartition(".")[2] in KEY_SINCE and name.startswith("quantization"):
        lines.append(f"| since | Vitis AI {KEY_SINCE[name.rpartition('.')[2]]} |")
    if meta.get("help"):
        lines.append(f"| help | {_cell(meta['help'])} |")
    below = [other for other in keys if other.startswith(f"{name}.") and "." not in other[len(name) + 1 :]]
    if below:
        lines += ["", "## Keys below", ""]
        lines += [f"- [`{other}`]({other}.md): {keys[other][0]['meta']['doc']}" for other in below]
    if name == "quantization.tensors":
        parts = ", ".join(f"`{part}`" for part in TENSOR_TYPES)
        lines += ["", f"Below it {parts}; each takes the keys of [`{PARAMETERS}`]({PARAMETERS}.md)."]
    if codes:
        lines += ["", "## Codes that lead here", "", *[f"- [{code}](../{CODES}/{code}.md)" for code in codes]]
    above = name.rpartition(".")[0]
    lines += ["", f"Above: [`{above}`]({above}.md)" if above else "Above: [all keys](index.md)", ""]
    return "\n".join(lines)


def _describe_form(form: Mapping[str, Any]) -> str:
    """Say in words what a JSON Schema allows."""
    if "anyOf" in form:
        return "; or ".join(_describe_form(one) for one in form["anyOf"])
    if "enum" in form:
        return "one of " + ", ".join(f"`{_yaml(value)}`" for value in form["enum"])
    if "$ref" in form:
        return _KINDS["object"]
    kinds = form.get("type", "string")
    words = " or ".join(_KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
    bounds = [f"{text} `{form[key]}`" for key, text in _BOUNDS.items() if key in form]
    if isinstance(form.get("items"), dict) and "enum" in form["items"]:
        bounds.append("of " + ", ".join(f"`{value}`" for value in form["items"]["enum"]))
    return ", ".join([words, *bounds])


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _cell(text: str) -> str:
    """Return a text that stays in one cell of a table; < and > outside of code are no HTML."""
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " ").replace("|", "\\|"))
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    """Return a text in which nothing is taken for HTML or for emphasis."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*_\[\]])", r"\\\1", escaped)


# --- codes of the quantizer, and what else goes wrong in AMD's tools and the engines ---


def _find_leading_codes() -> dict[str, list[str]]:
    """Return for each key the codes whose row names it."""
    found: dict[str, list[str]] = {}
    for row in read_rows("quantizer"):
        for key in row.keys:
            codes = found.setdefault(key, [])
            codes += [row.code] if row.code not in codes else []
    return found


def _make_codes() -> dict[str, str]:
    rows: dict[str, list[Fault]] = {}
    for row in read_rows("quantizer"):
        rows.setdefault(row.code, []).append(row)
    head = "# Codes of the quantizer\n\nWhat `dpuforge explain CODE` says, for every code of AMD's quantizer. In a log "
    head += "they read `QUANTIZER_TORCH_<code>`.\n\n| code | number | severity | cause |\n|---|---|---|---|\n"
    lines = [
        f"| [{code}]({code}.md) | {row.number or ''} | {row.severity} | {_cell(row.cause)} |"
        for code, found in rows.items()
        for row in found
    ]
    pages = {f"{CODES}/{code}.md": _write_code(code, found) for code, found in rows.items()}
    return {**pages, f"{CODES}/index.md": head + "\n".join(lines) + "\n"}


def _write_code(code: str, rows: list[Fault]) -> str:
    lines = [f"# {code}", ""]
    for row in rows:
        number = f", number {row.number}" if row.number else ""
        lines += [f"`QUANTIZER_TORCH_{code}`, {row.severity}{number}.", "", *_write_fault(row)]
    return "\n".join([*lines, f"Ask for it with a spec: `dpuforge explain {code} SPEC` names the lines.", ""])


def _write_fault(row: Fault) -> list[str]:
    lines = [f"**Cause.** {_plain(_say(row.cause))}", "", f"**Remedy.** {_plain(_say(row.remedy))}", ""]
    known = [key for key in row.keys if key in list_keys()]
    if known:
        lines += ["**Keys that lead there.** " + ", ".join(f"[`{key}`](../{KEYS}/{key}.md)" for key in known), ""]
    return lines


def _say(text: str) -> str:
    """Return a row's text with words for what a log's line would fill in."""
    return re.sub(r"\{\d\}", "...", text)


# --- errors ---

_GROUPS = {"compiler": "of the compiler", "ends": "how a tool ended", "engine": "of docker and podman"}


def _make_errors() -> dict[str, str]:
    pages: dict[str, str] = {}
    sections: list[str] = ["# Errors", "", "Made from the tables that the commands themselves use."]
    for title, found in (
        ("dpuforge's own", dict(_own_errors())),
        ("A disk that says no", dict(_disk_errors())),
        ("Accepted by AMD's parser, and yet not done", dict(_pitfalls())),
        *((f"In a log: {what}", dict(_log_errors(group))) for group, what in _GROUPS.items()),
    ):
        sections += ["", f"## {title}", ""]
        for slug, text in found.items():
            pages[f"{ERRORS}/{slug}.md"] = text
            sections.append(f"- [{text.splitlines()[0].removeprefix('# ')}]({slug}.md)")
    return {**pages, f"{ERRORS}/index.md": "\n".join(sections) + "\n"}


def _own_errors() -> Iterator[tuple[str, str]]:
    for kind in (errors.UserError, *errors.UserError.__subclasses__()):
        if kind.__module__ != errors.__name__:
            continue  # a narrower case of one of them
        doc = (kind.__doc__ or "").replace("printed as a message", "printed as one message")
        yield (
            _slug(kind.__name__),
            f"# {kind.__name__}\n\n{doc}\n\nExit code {int(kind.exit_code)}. The message stands on stderr, "
            "`error: what is wrong`, and below it `help: what to do`.\n",
        )


def _disk_errors() -> Iterator[tuple[str, str]]:
    for number, remedy in errors.DISK_ERRORS.items():
        name = errno.errorcode[number]
        yield (
            f"disk-{name.lower()}",
            f"# {name}\n\n{os.strerror(number)}: {remedy}.\n\n"
            f"Exit code {int(errors.ExitCode.STAGE_FAILED)}; the file is named, and what was finished is kept.\n",
        )


def _pitfalls() -> Iterator[tuple[str, str]]:
    for pitfall in PITFALLS:
        words = pitfall.name.replace("_", " ")
        yield (
            f"pitfall-{_slug(words)}",
            f"# {words.capitalize()}\n\nA value of this kind in [`quantization`](../{KEYS}/quantization.md) is "
            f"{'refused' if pitfall.severity == 'error' else 'let pass with a warning'}: {_plain(pitfall.reason)}.\n\n"
            f"**Remedy.** {_plain(pitfall.remedy)}\n",
        )


def _log_errors(group: str) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(read_rows(group), 1):
        title = _say(row.cause).partition(":")[0]
        body = [f"# {_plain(title)}", "", *_write_fault(row), "A line of the log shows it that matches", ""]
        yield f"{group}-{number:02d}-{_slug(title)[:40].strip('-')}", "\n".join([*body, f"    {row.pattern}", ""])


def _slug(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", text)
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")


# --- the zoo ---


def _make_zoo() -> str:
    lines = [
        "# Starting points",
        "",
        "Specs that ship with dpuforge: `dpuforge zoo` lists them, `dpuforge zoo copy NAME ",
    ]
    lines[-1] += "--as PROJECT` takes one. Frame rates are estimated, not measured; the band is one of 80 %."
    for entry in list_entries():
        card = describe_entry(entry)
        lines += ["", f"## `{card['name']}`", "", card["description"] + ".", "", "| | |", "|---|---|"]
        lines.append(f"| network | `{card['backbone']}`, {card['method']}, {card['parameters']:,} parameters |")
        for board, found in card["boards"].items():
            low, mid, high = found["fps"]
            lines.append(
                f"| {board} | `{found['dpu']}`, {found['dpu_subgraphs']} DPU subgraph, {found['workload_gop']} GOP, "
                f"{mid:g} frames/s ({low:g} to {high:g}) |"
            )
        lines += [f"| weights | {_cell(it['source'])}; licence: {_cell(it['licence'])} |" for it in card["weights"]]
        lines.append(f"| images | {_cell(card['data']['source'])}; licence: {_cell(card['data']['licence'])} |")
    return "\n".join(lines) + "\n"
