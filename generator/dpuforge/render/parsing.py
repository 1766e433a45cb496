"""Every rendered file is parsed in its own language before anything is written; what a project added, more strictly."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dpuforge.records.files import RenderedFile
from dpuforge.render.render_text import TemplateError


def _parse_python(text: str) -> None:
    ast.parse(text, feature_version=(3, 7))


_PARSERS: dict[str, Callable[[str], Any]] = {".py": _parse_python, ".json": json.loads}
_BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)


def parse_text(path: str, text: str) -> None:
    """Parse text in the language that its path names; raise TemplateError where it does not parse."""
    parser = _PARSERS.get("." + path.rpartition(".")[2])
    if parser is None:
        return
    try:
        parser(text)
    except _BROKEN as error:
        line = getattr(error, "lineno", None) or 0
        what = f"{path}: the rendered file does not parse: {error}"
        raise TemplateError(what, "mend its template", path, line) from error


def parse_shell(files: Sequence[RenderedFile]) -> None:
    """Parse shell scripts with `bash -n`; a machine without bash cannot run them and does not check them."""
    bash = shutil.which("bash")
    if bash is None:
        return
    for text in dict.fromkeys(file.text for file in files):
        done = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            names = [file.path for file in files if file.text == text]
            line = re.search(r"line ([0-9]+):", done.stderr)
            what = f"{', '.join(names)}: the rendered script does not parse: {done.stderr.strip()}"
            raise TemplateError(what, "mend its template", names[0], int(line[1]) if line else 0)


def check_script(path: str, text: str) -> None:
    """Check a Python script with a project's own code in it as its interpreter would, before it runs.

    Raises TemplateError where it does not compile, imports dpuforge, or defines a name of the script anew.
    """
    tree = ast.parse(text, feature_version=(3, 7))
    try:
        compile(text, path, "exec", dont_inherit=True)
    except _BROKEN as error:
        what = getattr(error, "msg", None) or str(error)
        raise TemplateError(f"{path}: {what}", "mend it", path, getattr(error, "lineno", None) or 0) from error
    for line, what, remedy in (*_find_imports(tree), *_find_twins(tree)):
        raise TemplateError(f"{path}: {what}", remedy, path, line)


def _find_imports(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        if any(name.split(".")[0] == "dpuforge" for name in names):
            remedy = "generated scripts stand alone, where dpuforge is not installed"
            yield node.lineno, "it imports dpuforge", remedy


def _find_twins(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield the functions and classes of a module that take the name of one before them."""
    seen: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name in seen:
                yield node.lineno, f"{node.name} is defined twice", "give one of the two another name"
            seen.add(node.name)
