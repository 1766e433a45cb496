"""A folder as it was in a git revision."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpuforge.errors import MissingToolError, UsageError


@contextmanager
def check_out(root: Path, revision: str, folder: str) -> Iterator[Path]:
    """Yield a temporary copy of root/folder as it was in a revision, empty where it was not there yet.

    Raises UsageError where root is in no git repository or the revision is unknown, MissingToolError without git.
    """
    prefix = _run(root, "rev-parse", "--show-prefix").decode().strip()
    top = Path(_run(root, "rev-parse", "--show-toplevel").decode().strip())  # git reads paths from where it stands
    _run(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", what=f"{revision} is no git revision here")
    with tempfile.TemporaryDirectory(prefix="dpuforge-") as name:
        there = Path(name, folder)
        there.mkdir(parents=True)
        if _run(top, "ls-tree", "--name-only", f"{revision}:{prefix}", folder):
            archive = _run(top, "archive", "--format=tar", f"{revision}:{prefix}", folder)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(name, filter="data")
        yield there


def _run(root: Path, *arguments: str, what: str = "") -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingToolError("git is not on PATH", "install it, or leave out --against") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip() or "git failed"
        raise UsageError(what or f"{root}: {said}", "name a commit, a branch or a tag of the repository")
    return done.stdout
