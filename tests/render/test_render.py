"""Rendering: literals that read back, files that parse, and refusal of those that do not."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpuforge.render.environment import format_json, format_py_literal, format_sh_quote
from dpuforge.render.parsing import parse_text
from dpuforge.render.render_text import TemplateError, tidy_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_a_literal_reads_back_as_its_value(value: Any) -> None:
    """Whatever a spec holds, the literal in the script is that value."""
    assert ast.literal_eval(format_py_literal(value)) == value


def test_a_long_literal_takes_one_line_per_item() -> None:
    """Names that do not fit one line stand below each other, so that a review shows which one changed."""
    text = format_py_literal(["a long class name"] * 10)
    assert text.count("\n") == 11
    assert all(len(line) <= 100 for line in text.splitlines())


def test_an_unprintable_value_is_refused() -> None:
    """A template that prints an object is a bug, found when it is rendered."""
    with pytest.raises(TypeError, match="object"):
        format_py_literal(object())
    with pytest.raises(ValueError, match="JSON"):
        format_json(float("nan"))


def test_a_shell_word_is_quoted() -> None:
    """A hostile name stays one word."""
    assert format_sh_quote("a; rm -rf /") == "'a; rm -rf /'"


@pytest.mark.parametrize(("path", "text"), [("a.py", "x ="), ("a.py", "x: int = (y := 1)"), ("a.json", "{")])
def test_a_file_that_does_not_parse_is_refused(path: str, text: str) -> None:
    """Neither broken Python, nor Python above 3.7, nor broken JSON gets as far as the disk."""
    with pytest.raises(TemplateError, match=path):
        parse_text(path, text)


def test_tidying_keeps_two_empty_lines_and_one_final_newline() -> None:
    """Blanks that template tags leave behind do not reach the file."""
    assert tidy_text("\n\na  \n\n\n\n\nb\n\n") == "a\n\n\nb\n"
