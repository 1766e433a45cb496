"""Any string in any free-string key of a spec: refused at its place, or a value in every generated file, never code.

The keys come from the schema itself, so that a new key is covered. A spec with a plain marker and one with an odd
string must render to the same files but for that string: Python and the Snakefile by their syntax trees, shell by its
words and by what bash makes of its assignments, JSON by its values.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpuforge import pipeline
from dpuforge.load.load_spec import validate_file
from dpuforge.load.spec_schema import read_schema
from tests.conftest import REPO

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
MARKER = "zqmark9"
QUANTISED = ["weights", "bias", "activation"]
# The form around a free string where a key wants more than any text.
FORMS: dict[str, Callable[[str], Any]] = {
    "model.backbone": "nets/{}.py:make".format,
    "transfer.teacher.backbone": "nets/{}.py:make".format,
    "model.weights": "weights/{}.pth".format,
    "transfer.teacher.weights": "weights/{}.pth".format,
    "run.container.conda": "/opt/{}".format,
    "run.container.image": "{}:1".format,
    "transfer.freeze.layers": lambda text: {"match": [text]},
    "quantization.layers": lambda text: [{"layer_name": text, "quantizable_data_type": QUANTISED}],
}
# Texts that only name what is known elsewhere: the catalogue's names, numbers, files that must exist.
NAMES = {"target.vitis_ai", "target.boards", "base", "data.preprocess.resize", "data.preprocess.crop", "classes:text"}
MORE = ("quantization.layers:text",)  # free text in a form that the schema leaves to check_with
NASTY = (
    "'",
    '"',
    "'''",
    '"""',
    "a\nb",
    "a\n; touch /tmp/evil",
    "\r\n",
    "{{ project }}",
    "{% raw %}",
    "{# x",
    "$(touch /tmp/evil)",
    "`touch /tmp/evil`",
    "${HOME}",
    "a; rm -rf x",
    "\\",
    "\\n",
    "a\\",
    "*/",
    "--",
    "-rf",
    "# x",
    "%s %(x)s",
    "{wildcards.board}",
    "{0}",
    "é ü 日本語 \U0001f600",
    "‮evil",
    " ",
    "﻿x",
    "a" * 300,
    "'\"" * 150,
    "x' || true #",
    "\t",
    "??/",
    "null",
    "|",
    "&&",
    "~",
    "$1",
    "!x",
    '"settings": null',
    "EOF\nEOF",
)


def list_strings(schema: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield "key:text" of every dotted key that takes free text, "key:list" where it takes a list of it."""
    for key, rules in schema.items():
        name, kinds = f"{above}{key}", rules.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "mapping" in kinds and "schema" in rules:
            yield from list_strings(rules["schema"], f"{name}.")
        if "allowed" in rules or name in NAMES:
            continue
        items = (rules.get("schema") or {}).get("type", "text")
        found = ["text"] * ("text" in kinds) + ["list"] * ("list" in kinds and items == "text")
        yield from (f"{name}:{kind}" for kind in found if f"{name}:{kind}" not in NAMES)


KEYS = (*list_strings(read_schema()), *MORE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project."""
    root = tmp_path_factory.mktemp("strings")
    (root / "spec").mkdir()
    return root


@cache
def make_base(split: bool) -> dict[str, Any]:
    """Return the quickstart with a teacher and a folder of images, or with three."""
    document: dict[str, Any] = yaml.safe_load((REPO / "spec/quickstart.yaml").read_text())
    document["data"] = {key: document["data"][key] for key in ("preprocess", "augment")}
    document["data"] |= {"split": {"from": "all"}} if split else {key: key for key in ("train", "validation", "test")}
    document["transfer"] |= {"method": "distillation", "teacher": {"backbone": "resnet50"}}
    return document


def put(document: dict[str, Any], key: str, text: str) -> dict[str, Any]:
    """Return the document with a text at a key of KEYS."""
    document = deepcopy(document)
    name, _, kind = key.partition(":")
    *above, last = name.split(".")
    here = document
    for part in above:
        here = here.setdefault(part, {})
    value = FORMS.get(name, str)(text)
    here[last] = [value, "other"] if kind == "list" else value
    return document


def write(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write a spec as YAML."""
    spec = folder / "spec/strings.yaml"
    spec.write_text(yaml.dump(document, Dumper=DUMPER, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return spec


def is_taken(folder: Path, document: Mapping[str, Any]) -> bool:
    """Say whether a spec is good; where it is not, each mistake has a place and stands on one line."""
    errors = [problem for problem in validate_file(write(folder, document)) if problem.severity == "error"]
    assert all(problem.line >= 1 and "\n" not in f"{problem.message}{problem.help}" for problem in errors)
    return not errors


def render(folder: Path, document: Mapping[str, Any]) -> dict[str, str]:
    """Return {path: text} of a good spec."""
    job = pipeline.load(write(folder, document))
    return {file.path: file.text for file in pipeline.render(pipeline.plan(job))}


def fill(folder: Path, text: str, split: bool) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return a spec with the text at every key that takes it, the same with the marker there, and those keys."""
    odd = plain = make_base(split)
    taken = []
    for key in KEYS:
        if key.startswith("data.split") != split and key.startswith(
            ("data.split", "data.train", "data.v", "data.test")
        ):
            continue
        tried = put(odd, key, text)
        if key.startswith("data.") and not split:
            tried["data"][key.partition(":")[0].removeprefix("data.")] = f"{key[5:8]}/{text}"  # three folders
        if is_taken(folder, tried):
            odd, taken = tried, [*taken, key]
            plain = put(plain, key, MARKER)
            if key.startswith("data.") and not split:
                plain["data"][key.partition(":")[0].removeprefix("data.")] = f"{key[5:8]}/{MARKER}"
    return odd, plain, taken


class _Replace(ast.NodeTransformer):
    """Puts a text in the marker's place, in every literal."""

    def __init__(self, text: str) -> None:
        self.text = text

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Replace in one literal."""
        if isinstance(node.value, str):
            return ast.Constant(node.value.replace(MARKER, self.text))
        return node


def dump(source: str, text: str = MARKER) -> str:
    """Return the syntax tree of Python source with a text in the marker's place."""
    return ast.dump(_Replace(text).visit(ast.parse(source, feature_version=(3, 7))))


def parse_snakefile(source: str) -> str:
    """Return the Python that snakemake's own parser makes of a Snakefile, without numbers of lines."""
    parser = pytest.importorskip("snakemake.parser", reason="snakemake comes with the extras all and dev")
    cache = SimpleNamespace(open=lambda path: io.StringIO(source))
    path = SimpleNamespace(get_path_or_uri=lambda secret_free: "Snakefile")
    made, _ = parser.parse(path, SimpleNamespace(sourcecache=cache), {})
    return re.sub(r"lineno=[0-9]+", "lineno=0", made)


def read_assignments(text: str) -> dict[str, str]:
    """Return what bash itself makes of the assignments of quoted values at the start of a script's lines."""
    lines = re.findall(r"^(?:net_name|spec|dpu_subgraphs)=.*(?:\n(?![a-z_]+=|\n).*)*", text, re.MULTILINE)
    script = "\n".join(lines) + '\nprintf "%s\\0" "$net_name" "$spec" "$dpu_subgraphs"\n'
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={})
    return dict(zip(("net_name", "spec", "dpu_subgraphs"), done.stdout.decode().split("\0"), strict=False))


def read_cpp(source: str) -> tuple[str, list[str]]:
    """Return C++ without its string literals, and what they say: octal escapes and those of one character decoded."""

    def decode(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        return bytes([int(digits, 8)]) if digits.isdigit() else {b"n": b"\n", b"t": b"\t"}.get(digits, digits)

    literal = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
    said = [re.sub(rb"\\([0-7]{1,3}|.)", decode, text.encode()).decode() for text in literal.findall(source)]
    return literal.sub('""', source), said


def compare(plain: Mapping[str, str], odd: Mapping[str, str], text: str) -> None:
    """Fail where an odd string did more to a file than stand in the marker's place."""
    renamed = {path.replace(MARKER, text): path for path in plain}
    assert set(odd) == set(renamed)
    for path, source in odd.items():
        before = plain[renamed[path]]
        if source == before:
            continue
        if path.endswith(".py"):
            assert dump(source) == dump(before, text), path
        elif path == "Snakefile":
            assert dump(parse_snakefile(source)) == dump(parse_snakefile(before), text)
        elif path.endswith(".sh"):
            assert shlex.split(source, comments=True) == [
                word.replace(MARKER, text) for word in shlex.split(before, comments=True)
            ]
            assert read_assignments(source)["net_name"] == read_assignments(before)["net_name"].replace(MARKER, text)
        elif path.endswith(".json") and path != "manifest.json":
            assert json.loads(source) == json.loads(before.replace(MARKER, json.dumps(text)[1:-1])), path
        elif path.endswith(".cpp"):
            (code, said), (code_before, said_before) = read_cpp(source), read_cpp(before)
            assert code == code_before.replace(MARKER, text), path
            assert said == [one.replace(MARKER, text) for one in said_before], path
        elif path == "manifest.json":
            assert list(json.loads(source)) == list(json.loads(before))
        else:
            assert source.count("\n") == before.count("\n"), path
            assert source == before.replace(MARKER, text) or text not in source, path


def judge(folder: Path, text: str, split: bool) -> list[str]:
    """Put a string wherever it is taken and judge what becomes of it; return the keys that took it."""
    odd, plain, taken = fill(folder, text, split)
    if taken:
        compare(render(folder, plain), render(folder, odd), text)
    return taken


def test_the_schema_has_the_free_strings_that_people_write() -> None:
    """The walk over the schema finds description, class names, paths, layers, options; a new key is found likewise."""
    names = {key.partition(":")[0] for key in KEYS}
    assert {
        "description",
        "classes",
        "data.train",
        "model.backbone",
        "run.container.options",
        "target.net_name",
    } <= names
    new = {"fresh": {"type": "mapping", "schema": {"key": {"type": "text"}, "keys": {"type": "list"}}}}
    assert list(list_strings(new)) == ["fresh.key:text", "fresh.keys:list"]


def test_a_plain_marker_is_taken_everywhere(folder: Path) -> None:
    """Every free-string key takes a plain word, in the form that FORMS gives it: the search is not blind."""
    taken = {key for split in (False, True) for key in fill(folder, MARKER, split)[2]}
    assert set(KEYS) - taken == set()


def test_the_judge_sees_what_breaks_out() -> None:
    """A string that ends its literal, starts a command or adds a line is noticed in each kind of file."""
    for path, plain, odd, text in (
        ("a.py", f'x = "{MARKER}"\n', 'x = "a"; y = 1\n', 'a"; y = 1'),
        ("a.sh", f"net_name='{MARKER}'\n", "net_name='a'; b\n", "a'; b"),
        ("a.json", f'["{MARKER}"]', '["a", "b"]', 'a", "b'),
        ("a.env", f"x='{MARKER}'\n", "x='a'\ny='b'\n", "a'\ny='b"),
    ):
        with pytest.raises(AssertionError):
            compare({path: plain}, {path: odd}, text)


ONE_LINE = "".join(text for text in NASTY if text.isprintable())[:900]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("text", [ONE_LINE, "a'\nb\"\n$(c)\n{{ d }}\\", "'\"" * 150], ids=["one line", "lines", "long"])
def test_nasty_strings_are_values_or_refused(folder: Path, text: str, split: bool) -> None:
    """Quotes, newlines, braces, $(), backslashes, unicode, 300 characters: refused, or a value everywhere."""
    assert "description:text" in judge(folder, text, split)
    assert not Path("/tmp/evil").exists()


@pytest.mark.long  # forty renderings of a whole project
@pytest.mark.parametrize("text", NASTY)
def test_each_nasty_string_alone_is_a_value_or_refused(folder: Path, text: str) -> None:
    """Each string by itself, so that none hides behind another that a key refuses."""
    judge(folder, text, split=False)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.text(min_size=1, max_size=300).filter(lambda text: MARKER not in text))
def test_random_strings_are_values_or_refused(folder: Path, text: str) -> None:
    """Whatever characters there are."""
    judge(folder, text, split=False)
