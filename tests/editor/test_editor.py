"""yaml-language-server reads the schema that `dpuforge schema` prints: hover, completion and diagnostics."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpuforge.load.backbones import load_backbones
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.json_schema import project_json_schema
from tests.conftest import REPO
from tests.editor.language_server import LanguageServer

pytestmark = pytest.mark.editor
Keys = tuple[str, ...]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as `dpuforge init` leaves it: a spec and the schema beside it."""
    folder = tmp_path_factory.mktemp("project")
    command = [sys.executable, "-m", "dpuforge", "init", "spec/mine.yaml", "--classes", "30", "--board", "KV260"]
    subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[LanguageServer]:
    """The language server that `nox -s editor` installed."""
    found = LanguageServer(os.environ["DPUFORGE_LANGUAGE_SERVER"], project)
    yield found
    found.close()


def follow(schema: dict[str, Any], top: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and its alternatives, references followed."""
    yield schema
    for part in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        named = top["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        yield from follow(named, top)


def list_keys(schema: dict[str, Any], top: dict[str, Any], above: Keys = ()) -> Iterator[Keys]:
    """Yield the path of every key, "-" for the items of a list."""
    for part in follow(schema, top):
        for key, inner in part.get("properties", {}).items():
            yield (*above, key)
            yield from list_keys(inner, top, (*above, key))
        if "items" in part:
            yield from list_keys(part["items"], top, (*above, "-"))


def write_path(path: Keys) -> tuple[str, int, int]:
    """Return a document that leads to a key, and the line and column of the key, from 0."""
    lines, indent, dash = [HEAD], 0, ""
    for key in path:
        if key == "-":
            dash = "- "
            continue
        lines.append(f"{' ' * indent}{dash}{key}:")
        indent, dash = indent + len(dash) + 2, ""
    last = lines[-1]
    return "\n".join(lines) + "\n", len(lines) - 1, len(last) - len(path[-1]) - 1


HEAD = "# yaml-language-server: $schema=schema/project.schema.json"
SCHEMA = project_json_schema()
EVERY_KEY = sorted(set(list_keys(SCHEMA, SCHEMA)))


def test_the_walk_finds_the_keys() -> None:
    """There are as many keys to hover over as the schema has, lists and references among them."""
    assert len(EVERY_KEY) > 180
    assert ("quantization", "layers", "-", "tensors", "weights", "bit_width") in EVERY_KEY
    assert ("target", "boards", "-", "fingerprint") in EVERY_KEY


def test_a_new_spec_is_clean_in_the_editor(server: LanguageServer, project: Path) -> None:
    """What init writes has no diagnostics, and so have the shipped specs."""
    for spec in (project / "spec" / "mine.yaml", *sorted((REPO / "spec").glob("*.yaml"))):
        uri = server.open(project / "spec" / f"open_{spec.name}", _with_head(spec.read_text(encoding="utf-8")))
        assert server.diagnostics[uri] == [], spec


def _with_head(text: str) -> str:
    return text if text.startswith(HEAD) else f"{HEAD}\n{text}"


def test_every_key_has_hover_text(server: LanguageServer, project: Path) -> None:
    """Over each key the editor shows what the key means."""
    families: dict[Keys, list[Keys]] = {}
    for path in EVERY_KEY:
        alone = path[:-1] == ("transfer", "freeze", "layers")  # one of them, never both
        families.setdefault(path if alone else path[:-1], []).append(path)
    silent = []
    for number, paths in enumerate(families.values()):
        text, line, column = write_path(paths[0])
        others = "".join(f"{' ' * column}{path[-1]}:\n" for path in paths[1:])
        uri = server.open(project / "spec" / f"hover_{number}.yaml", text + others)
        for below, path in enumerate(paths):
            lines = server.hover(uri, line + below, column + 1).splitlines()
            shown = " ".join(text for text in lines if not text.startswith(("####", "Source:")))
            if not shown.strip():
                silent.append((".".join(path), shown))
    assert silent == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  backbone: |", set(load_backbones())),
        ("target:\n  boards: [|]", set(shipped_catalogue().boards)),
        ("target:\n  boards:\n    - |", set(shipped_catalogue().boards)),
        ("target:\n  boards:\n    - board: |", set(shipped_catalogue().boards)),
        ("target:\n  vitis_ai: |", {"2.5", "3.0", "3.5"}),
        ("transfer:\n  method: |", {"feature_extraction", "fine_tuning", "distillation"}),
        ("transfer:\n  freeze:\n    layers: |", {"none", "all_but_head"}),
        ("run:\n  toolchain: |", {"emulator", "native", "container"}),
        ("quantization:\n  overall:\n    method: |", {"maxmin", "entropy", "mse", "percentile", "diffs"}),
        ("data:\n  augment: [|]", {"horizontal_flip", "mixup"}),
        ("train:\n  |", {"epochs", "optimizer", "scheduler"}),
        ("quantization:\n  layers:\n    - |", {"layer_type", "overall"}),
        ("|", {"project", "model", "classes", "data", "target"}),
    ],
)
def test_completion_offers_what_the_schema_knows(
    server: LanguageServer, project: Path, text: str, expected: set[str]
) -> None:
    """At a value the editor offers the known ones, at a key the keys that may stand there."""
    before = f"{HEAD}\n{text}".partition("|")[0]
    name = f"complete_{abs(hash(text))}.yaml"
    uri = server.open(project / "spec" / name, f"{HEAD}\n{text.replace('|', '')}\n")
    line = before.count("\n")
    offered = {label.strip("\"'") for label in server.complete(uri, line, len(before.rpartition("\n")[2]))}
    assert expected <= offered, offered


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("transfer:", "trasnfer:", "trasnfer"),
        ("  backbone: resnet18", "  backbone: resnet19", "resnet18"),
        ("classes: 30", "classes: 1", ""),
        ("method: feature_extraction", "method: extraction", "feature_extraction"),
        ("  boards: [KV260]", "  boards: []", "items"),
        ("project: mine", "project: Mine", "pattern"),
        ("batchnorm: frozen", "batchnorm: frozen, momentum: 1", "momentum"),
        ("  toolchain: emulator", "  toolchain: docker", "emulator"),
        ("  input: {height: 224", "  input: {height: 3", "8"),
        ("classes: 30", "", "classes"),
    ],
)
def test_diagnostics_name_what_is_wrong(server: LanguageServer, project: Path, old: str, new: str, words: str) -> None:
    """A wrong key or value is marked on its own line, with the key or the values that are known."""
    text = (project / "spec" / "mine.yaml").read_text(encoding="utf-8")
    assert old in text
    uri = server.open(project / "spec" / f"wrong_{abs(hash(new + old))}.yaml", text.replace(old, new))
    found = server.diagnostics[uri]
    assert found, new
    assert words in " ".join(str(one["message"]) for one in found)
    line = text[: text.index(old)].count("\n")
    assert not new or found[0]["range"]["start"]["line"] == line
