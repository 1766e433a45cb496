"""Properties of load on arbitrary input: a verdict, never a traceback, always a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpuforge.errors import Problem
from dpuforge.load.load_spec import validate_file
from dpuforge.load.spec_schema import read_schema

from .conftest import GOOD

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(folder: Path, content: bytes) -> tuple[Problem, ...]:
    """Validate content as a spec; every problem must be printable and stand inside the file."""
    path = folder / "any.yaml"
    path.write_bytes(content)
    problems = validate_file(path)
    lines = content.count(b"\n") + content.count(b"\r") + content.count(b"\xc2\x85") + content.count(b"\xe2\x80") + 2
    for problem in problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.message
        assert "\n" not in problem.message
    assert list(problems) == sorted(problems)
    return problems


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a project folder without anything in it."""
    return tmp_path


@QUIET
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_a_bad_spec_and_never_a_traceback(place: Path, content: bytes) -> None:
    """Any file at all gives at least one located problem."""
    assert check(place, content)


@QUIET
@given(content=st.text(alphabet=" \n\t:-[]{}&*!|>'\"#%@,?ab01.~<=", max_size=80))
def test_arbitrary_yaml_like_text_never_ends_in_a_traceback(place: Path, content: str) -> None:
    """Text made of YAML's own signs gives at least one located problem."""
    assert check(place, content.encode())


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES: Any = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def collect_keys(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the path of every key that the schema names."""
    found: list[tuple[str, ...]] = []
    for key, rules in schema.items():
        found.append((key,))
        if rules.get("type") == "mapping" and "schema" in rules:
            found += [(key, *rest) for rest in collect_keys(rules["schema"])]
    return found


PATHS = [
    *collect_keys(read_schema()),
    ("quantization", "overall", "method"),
    ("quantization", "overall", "percentage"),
    ("quantization", "tensors", "bias"),
    ("quantization", "tensors", "bias", "bit_width"),
    ("transfer", "teacher", "backbone"),
]


def put(document: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return the document with the value at a path, mappings made on the way."""
    if not path:
        return value
    document = dict(document) if isinstance(document, dict) else {}
    document[path[0]] = put(document.get(path[0]), path[1:], value)
    return document


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), value=TREES, second=st.sampled_from(PATHS), other=TREES)
def test_any_value_at_any_key_gets_a_verdict(
    place: Path, path: tuple[str, ...], value: Any, second: tuple[str, ...], other: Any
) -> None:
    """Two keys of a good spec with arbitrary values: a verdict, never a traceback."""
    document = put(put(yaml.safe_load(GOOD), path, value), second, other)
    check(place, yaml.safe_dump(document, sort_keys=False).encode())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=TREES, key=st.sampled_from(["classes", "layers", "boards", "augment", "base", "resize"]))
def test_any_entry_of_a_list_gets_a_verdict(place: Path, entry: Any, key: str) -> None:
    """Lists with arbitrary entries: a verdict, never a traceback."""
    paths = {
        "classes": ("classes",),
        "layers": ("quantization", "layers"),
        "boards": ("target", "boards"),
        "augment": ("data", "augment"),
        "base": ("base",),
        "resize": ("data", "preprocess", "resize"),
    }
    document = put(yaml.safe_load(GOOD), paths[key], [entry, entry])
    check(place, yaml.safe_dump(document, sort_keys=False).encode())


@QUIET
@given(name=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
def test_an_unknown_key_is_always_named(place: Path, name: str) -> None:
    """A key outside the schema is refused under its own name, whatever it is spelt like."""
    document = {**yaml.safe_load(GOOD), f"x{name}": 1}
    problems = check(place, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    assert [problem.field for problem in problems] == [f"x{name}"]
