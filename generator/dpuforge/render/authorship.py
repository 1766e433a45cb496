"""Who made a file of generated/<project>/: the manifest of the last write knows what dpuforge wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpuforge.records.files import Cause, Change, RenderedFile, hash_text
from dpuforge.render.render import MANIFEST
from dpuforge.writing import PARTIAL

NEXT = f".{MANIFEST}.next"  # what a write that has begun is about to write; a killed one leaves it


@dataclass(frozen=True)
class Authorship:
    """What the last write left in a folder, and what moved between it and the files rendered now.

    written holds, for each path, the sha256 of every text that dpuforge wrote there; a write that was killed adds its
    own to the one before. moved is the cause of a difference that no person made.
    """

    written: Mapping[str, frozenset[str]] = field(default_factory=dict)
    moved: Cause = Cause.DPUFORGE

    def explain(self, path: str, change: Change, content: bytes | None) -> Cause:
        """Say why a file differs; content is what lies on disk, None where that is no file."""
        if change is Change.CREATE:
            return Cause.DELETED if path in self.written else self.moved
        if path in (MANIFEST, NEXT) or _is_partial(path):
            return self.moved
        if path not in self.written:
            return Cause.FOREIGN
        return self.moved if content is not None and self._is_own(path, content) else Cause.EDITED

    def _is_own(self, path: str, content: bytes) -> bool:
        """Say whether dpuforge wrote this; line ends that a checkout on Windows made do not count."""
        texts = (content, content.replace(b"\r\n", b"\n"))
        return any(hashlib.sha256(text).hexdigest() in self.written[path] for text in texts)


def read_authorship(folder: Path, files: Sequence[RenderedFile]) -> Authorship:
    """Hold the manifests in folder against the files rendered now; without a readable one nothing there is ours."""
    last, begun = (read_manifest(folder, name) for name in (MANIFEST, NEXT))
    written = _join(last.get("files", {}), begun.get("files", {}))
    rendered: dict[str, Any] = next((json.loads(file.text) for file in files if file.path == MANIFEST), {})
    return Authorship(written, _find_moved(last, rendered) if last else Cause.NEW)


def format_next(authorship: Authorship, files: Sequence[RenderedFile]) -> str:
    """Return the text of the file NEXT: every digest of before and those of the files to be written."""
    digests = {file.path: hash_text(file.text) for file in files}
    joined = _join(authorship.written, digests)
    return json.dumps({"files": {path: sorted(joined[path]) for path in sorted(joined)}}, indent=2) + "\n"


def _join(*listings: Mapping[str, str | Collection[str]]) -> dict[str, frozenset[str]]:
    """Join the digests of each path; a listing gives one digest or several."""
    joined: dict[str, frozenset[str]] = {}
    for listing in listings:
        for path, digests in listing.items():
            joined[path] = joined.get(path, frozenset()) | ({digests} if isinstance(digests, str) else set(digests))
    return joined


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Return the manifest of a folder, empty where there is none or it is none (half merged, a person's own)."""
    try:
        document = json.loads((folder / name).read_bytes())
    except (OSError, ValueError):
        return {}
    is_manifest = isinstance(document, dict) and isinstance(document.get("files"), dict)
    return document if is_manifest and all(map(_is_digests, document["files"].values())) else {}


def _is_digests(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


_MOVED = {  # what differs between two manifests: spec, dpuforge's templates, the project's own files
    (True, False, False): Cause.SPEC,
    (False, True, False): Cause.TEMPLATES,
    (False, False, True): Cause.OWN,
    (True, True, False): Cause.BOTH,
    (True, False, True): Cause.OWN_AND_SPEC,
    (False, True, True): Cause.OWN_AND_TEMPLATES,
    (True, True, True): Cause.ALL,
    (False, False, False): Cause.DPUFORGE,
}


def _find_moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> Cause:
    spec, templates, own = (before.get(key) != now.get(key) for key in ("spec", "templates", "own"))
    return _MOVED[spec, templates, own]


def _is_partial(path: str) -> bool:
    """Tell what a killed write left from a person's file."""
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(PARTIAL)
