"""Finds the commands in the documentation: blocks of shell lines, and what is written in backquotes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import REPO

PAGES = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s(/`])dpuforge (?P<rest>[a-z][^`]*)")
_SPAN = re.compile(r"`(?P<code>[^`]+)`")
_CHOICES = re.compile(r"[\w-]+(?: / [\w-]+)+")


@dataclass(frozen=True)
class Line:
    """A line of a shell block: the page, the info of its fence ("sh", or "" for an indented line) and the text."""

    page: str
    info: str
    text: str

    @property
    def argv(self) -> tuple[str, ...]:
        """The words behind `dpuforge`, without comment and redirection; empty for another program."""
        found = _COMMAND.search(self.text)
        return tuple(split_words(found["rest"])) if found else ()


def list_pages() -> list[str]:
    """Return the pages that people read, relative to the repository."""
    docs = sorted(path.relative_to(REPO).as_posix() for path in (REPO / "docs").rglob("*.md"))
    return [*PAGES, *docs]


def split_words(text: str) -> list[str]:
    """Split a command line into words up to a comment, a pipe or a redirection."""
    text = re.split(r"\s#|\s[>|]\s?|\s&&|\)$", text.strip())[0]
    return shlex.split(text)


def find_lines(page: str) -> list[Line]:
    """Return the lines of a page's shell blocks, in order, and its indented lines that begin with `dpuforge`."""
    text = (REPO / page).read_text(encoding="utf-8")
    found: list[tuple[int, Line]] = []
    for fence in _FENCE.finditer(text):
        info = fence["info"].strip()
        if info.partition(" ")[0] in ("sh", "bash", "console"):
            body = fence["body"].replace("&&\n", "&& ").splitlines()
            found += [(fence.start(), Line(page, info, line.strip())) for line in body if line.strip()]
    outside = _FENCE.sub(lambda fence: "\n" * fence.group().count("\n"), text)
    for match in re.finditer(r"^ {4}(dpuforge [^\n]*)$", outside, re.MULTILINE):
        found.append((match.start(), Line(page, "", match[1])))
    return [line for _, line in found]


def find_mentions(page: str) -> Iterator[list[str]]:
    """Yield the words of every command that a page names, with the signs of a synopsis taken away.

    "check / push SPEC" is two commands; "[--keep or --overwrite]" names both options.
    """
    text = re.sub(r"^    .*$", "", _FENCE.sub("", (REPO / page).read_text(encoding="utf-8")), flags=re.MULTILINE)
    spans = [_COMMAND.search(span["code"].replace("\n", " ")) for span in _SPAN.finditer(text)]
    texts = [found["rest"] for found in spans if found]
    texts += [found["rest"] for line in find_lines(page) if (found := _COMMAND.search(line.text))]
    for rest in texts:
        for one in expand(rest):
            yield split_words(one)


def expand(synopsis: str) -> list[str]:
    """Return the commands that a synopsis stands for."""
    plain = re.sub(r"[\[\]]|\.\.\.", "", synopsis).replace(" or --", " --")
    plain = re.sub(r" or [\w.-]+", "", plain)
    choices = _CHOICES.search(plain)
    if choices is None:
        return [plain]
    return [plain[: choices.start()] + word + plain[choices.end() :] for word in choices.group().split(" / ")]
