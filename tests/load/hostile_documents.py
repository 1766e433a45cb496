"""Random, mutated and hostile specs for the loader, and the process that tries them under limits.

`python -m tests.load.hostile_documents SEED COUNT` tries COUNT documents and prints what went wrong as JSON: any
exception but the user's own errors, more than SECONDS, more than MEGABYTES beyond what the loader takes by itself.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpuforge.errors import UserError
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.load_spec import load_project
from tests.conftest import REPO

SECONDS = 2.0
MEGABYTES = 200
GOOD = [path.read_bytes() for path in sorted((REPO / "spec").glob("*.yaml"))]
Make = Callable[[random.Random], bytes]

SCALARS = (
    *("0", "-1", "1e999", ".nan", "-.inf", "0x" + "f" * 50, "9" * 5000, "1_000", "0o17", "017", "190:20:30"),
    *(
        "true",
        "no",
        "~",
        "null",
        "''",
        '"\\0"',
        '"\\ud800"',
        "2026-11-26",
        "!!binary aGk=",
        "!!python/object:os.system x",
    ),
    *(
        "[]",
        "{}",
        "[[]]",
        "{a: 1, a: 2}",
        "? x",
        "&a x",
        "*a",
        "|\n  x",
        ">-\n  y",
        "<<",
        "=",
        "-",
        "!",
        "!!str",
        "@x",
        "%x",
    ),
    *("/dev/zero", "/dev/stdin", "/proc/self/mem", "..", "/", ".", "pipe", "~", "spec/x.yaml", "x.yaml", "a" * 300),
    *(
        "timm/" + "a." * 2000,
        "a/" * 2000 + "net.py:f",
        "resnet" * 200,
        "${HOME}",
        "{{ 7*7 }}",
        "$(id)",
        "`id`",
        "\\",
        "é",
        "日本",
    ),
    *("KV260 " * 50, "1.0e+308", "-0.0", "4294967296", "0.30000000000000004", "[1, [2, [3]]]", "[KV260, KV260]"),
)
TOKENS = (
    b": ",
    b"- ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"'",
    b'"',
    b"\n",
    b"\t",
    b"#",
    b"&a ",
    b"*a",
    b"!!",
    b"---\n",
    b"...\n",
    b"<<: ",
)


def random_bytes(r: random.Random) -> bytes:
    return r.randbytes(r.choice((0, 1, 10, 1000, 20_000)))


def random_text(r: random.Random) -> bytes:
    return "".join(
        chr(r.choice((r.randrange(32, 127), r.randrange(0xD7FF), 10, 0x85, 0x2028))) for _ in range(500)
    ).encode()


def token_soup(r: random.Random) -> bytes:
    return b"".join(r.choice((*TOKENS, b"a", b"1", b" ")) for _ in range(r.choice((20, 500, 5000))))


def mutated(r: random.Random) -> bytes:
    """A good spec with bytes flipped, cut, doubled, or replaced by YAML's own signs."""
    text = bytearray(r.choice(GOOD))
    for _ in range(r.choice((1, 1, 2, 5, 30))):
        at, length = r.randrange(len(text) + 1), r.choice((0, 1, 2, 10, 100))
        text[at : at + length] = r.choice((b"", r.randbytes(1), r.choice(TOKENS), bytes(text[at : at + length]) * 2))
    return bytes(text)


def spliced(r: random.Random) -> bytes:
    one, other = r.choice(GOOD), r.choice(GOOD)
    return one[: r.randrange(len(one))] + other[r.randrange(len(other)) :]


def other_values(r: random.Random) -> bytes:
    """A good spec some of whose values are hostile."""
    lines = r.choice(GOOD).decode().splitlines()
    for _ in range(r.choice((1, 2, 5))):
        at = r.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        lines[at] = f"{key}{colon} {r.choice(SCALARS)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def long_value(r: random.Random) -> bytes:
    """A good spec with one value of up to a million characters."""
    lines = r.choice(GOOD).decode().splitlines()
    at = r.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    fill = r.choice(
        ("a", "a/", "a.", "9", "é", "a, ", "[", "- ", "a: ", "# ", "0.", "\\\\", "'' ", "*", "timm/", "resnet")
    )
    length = r.choice((10_000, 990_000)) // len(fill.encode())
    opening, closing = r.choice((("", ""), ('"', '"'), ("[", "]"), ("'", ""), ("{", "}"), ("#", "")))
    lines[at] = f"{key}{colon} {opening}{fill * length}{closing}"
    return "\n".join(lines).encode()[:1_000_001]


def long_list(r: random.Random) -> bytes:
    """Many values: classes, boards, augmentations, bases, unknown keys."""
    count = r.choice((1000, 9_000, 19_000, 40_000))
    items = [f"{r.choice(('a', 'KV26', 'x'))}{number}" for number in range(count)]
    key = r.choice(("classes", "base", "target: {boards", "data: {augment", "model: {head", "quantization: {layers"))
    listed = f"{key}: [{', '.join(items)}]" + ("}" if "{" in key else "")
    keys = "\n".join(f"{item}: {item}" for item in items)
    return (r.choice(GOOD).decode() + "\n" + r.choice((listed, keys)) + "\n").encode()[:1_000_000]


def deep(r: random.Random) -> bytes:
    depth = r.choice((25, 200, 5000, 200_000))
    one = r.choice(("[", "{a: ", "- ", "{? [", "[[", "!x [", "&a ["))
    return (r.choice(("", "project: ")) + one * depth).encode()[:1_000_000]


def deep_block(r: random.Random) -> bytes:
    return "".join(f"{' ' * depth}k:\n" for depth in range(r.choice((30, 300, 1300)))).encode()


def bomb(r: random.Random) -> bytes:
    """A billion laughs, by lists, by maps, by merge keys."""
    width, levels = r.choice((2, 9, 100)), r.choice((9, 30))
    lines = ["a0: &a0 [lol, lol]" if r.random() < 0.7 else "a0: &a0 {lol: lol}"]
    for level in range(1, levels):
        again = ", ".join([f"*a{level - 1}"] * width)
        lines.append(r.choice((f"a{level}: &a{level} [{again}]", f"a{level}: &a{level} {{<<: [{again}]}}")))
    return "\n".join(lines).encode()


def recursive(r: random.Random) -> bytes:
    return r.choice(
        (b"&a [*a]", b"a: &a {b: *a}", b"&a {*a : 1}", b"a: &a [&b [*a, *b], *b]", b"a: *a", b"&a : *a\n<<: *a")
    )


def anchors(r: random.Random) -> bytes:
    count = r.choice((10, 5000, 15_000))
    return ("a: [" + ", ".join(f"&x{number} y" for number in range(count)) + "]\nb: " + "*x0").encode()


def twice(r: random.Random) -> bytes:
    text = r.choice(GOOD)
    return text * r.choice((2, 3, 50)) if r.random() < 0.5 else b"---\n".join([text] * r.choice((2, 200)))


def other_encoding(r: random.Random) -> bytes:
    """The encodings that editors of other systems save in, with and without their mark, and bytes that are none."""
    text = r.choice(GOOD).decode()
    name = r.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp037"))
    return text.encode(name) if r.random() < 0.7 else text.replace("e", "\0", 3).encode() + b"\xff\xfe\xed\xa0\x80"


MAKERS: tuple[Make, ...] = (
    *(random_bytes, random_text, token_soup, mutated, mutated, mutated, spliced, other_values, other_values),
    *(other_values, long_value, long_list, deep, deep_block, bomb, recursive, anchors, twice, other_encoding),
)


def make_document(seed: int) -> tuple[str, bytes]:
    """Return the document of a seed, and the name of its maker."""
    r = random.Random(seed)
    maker = MAKERS[seed % len(MAKERS)]
    return maker.__name__, maker(r)


class TooSlow(Exception):
    """A document took longer than SECONDS by far."""


def _stop(number: int, frame: Any) -> None:
    raise TooSlow


def try_document(path: Path) -> str:
    """Load a spec; return the last lines of a traceback, "" where it was loaded or refused in words."""
    try:
        load_project(path)
    except UserError as error:
        return "" if str(error).strip() else "an error without words"
    except BaseException:
        return "".join(traceback.format_exc().splitlines(keepends=True)[-6:])
    return ""


def limit_memory() -> None:
    """Let this process have MEGABYTES more than it has now; what exceeds them is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def try_documents(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Try documents one by one; return the failures, and the longest time of a document in seconds of this process."""
    path = folder / "spec" / "x.yaml"
    path.parent.mkdir()
    (folder / "pipe").touch()
    path.write_bytes(GOOD[0])
    try_document(path)  # what is read once and kept
    shipped_catalogue()
    limit_memory()
    signal.signal(signal.SIGALRM, _stop)
    failures, slowest = [], (0.0, 0, "")
    for seed in range(first, first + count):
        name, content = make_document(seed)
        path.write_bytes(content)
        start = time.process_time()
        signal.alarm(30)
        trouble = try_document(path)
        signal.alarm(0)
        spent = time.process_time() - start
        slowest = max(slowest, (spent, seed, name))
        if trouble or spent > SECONDS:
            failures.append((seed, name, round(spent, 2), trouble))
    return {"tried": count, "slowest": slowest, "failures": failures}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dpuforge-") as where:
        print(json.dumps(try_documents(Path(where), int(sys.argv[1]), int(sys.argv[2])), indent=1))
