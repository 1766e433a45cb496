"""One archive of a project: spec, generated files, results and xmodels, no images; and the judge of such an archive.

The archive is a ZIP file that compresses nothing, so that equal files give equal bytes everywhere, and so that none
can be larger unpacked than packed. It is checked without being unpacked.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dpuforge.errors import DriftError, FormatError
from dpuforge.execute.data_listing import SEEN
from dpuforge.execute.results import RESULT, hash_file
from dpuforge.prove.digests import FolderStore, Verdict, verify_generated, verify_results
from dpuforge.records.job import Job
from dpuforge.records.result import StageResult
from dpuforge.writing import replacing

CONTENTS = "dpuforge-pack.json"
_VERSION = 1
_DATE = (1980, 1, 1, 0, 0, 0)
_MOST_FILES = 100_000
_LONGEST_NAME = 1024
_PIECE = 1 << 20
_BAD_NAME = re.compile(r'[\x00-\x1f\\:*?"<>|]')


def pack(job: Job, results: Mapping[str, StageResult], out: Path) -> list[str]:
    """Write the archive and return the names in it; files outside the project root are left out."""
    names = sorted(set(_choose_files(job, results)))
    document = {
        "dpuforge_pack": _VERSION,
        "project": job.project.project,
        "spec": [source.path for source in (job.project.spec, *job.project.bases)],
        "files": {name: hash_file(job.root / name) for name in names},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(_describe(CONTENTS, False), json.dumps(document, indent=2, sort_keys=True) + "\n")
        for name in names:
            path = job.root / name
            with path.open("rb") as source, archive.open(_describe(name, _runs(path)), "w", force_zip64=True) as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
    return names


def _choose_files(job: Job, results: Mapping[str, StageResult]) -> Iterator[str]:
    """Yield the paths of all that is packed."""
    build = f"build/{job.project.project}"
    named = [source.path for source in (job.project.spec, *job.project.bases)]
    named += [PurePosixPath(job.project.spec.path).with_suffix(".lock.yaml").as_posix(), job.project.classes.file or ""]
    named += [file.path for file in job.project.own]
    named += [f"{build}/{name}" for name in ("report.json", "report.md", "report.html", f"prepare/{SEEN}")]
    for key, result in results.items():
        named += [f"{build}/{key}/{RESULT}", *result.outputs]
        named += [name for name in result.inputs if name.endswith(".py")]
    generated = [name for name in FolderStore(job.root, job.project.project).names() if name.startswith("generated/")]
    for name in (*named, *generated):
        if name and _explain_name(name) == "" and (job.root / name).is_file():
            yield name


def _runs(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXUSR)


def _describe(name: str, runs: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = 3  # Unix, wherever it is written
    info.external_attr = (stat.S_IFREG | (0o755 if runs else 0o644)) << 16
    return info


@dataclass(frozen=True)
class ArchiveStore:
    """The files of an archive that was found sound."""

    archive: zipfile.ZipFile
    files: frozenset[str]

    def names(self) -> Sequence[str]:
        """Return the paths in the archive."""
        return sorted(self.files)

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""
        return self.archive.read(name) if name in self.files else None

    def hash(self, name: str) -> str:
        """Return a file's sha256."""
        if name not in self.files:
            return ""
        digest = hashlib.sha256()
        with self.archive.open(name) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        return digest.hexdigest()


def verify_archive(path: Path) -> Verdict:
    """Hold an archive against itself; raise FormatError for one that is none, or is not to be trusted with a disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_hostile(archive, path)
            return _verify(archive, path)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, UnicodeDecodeError, ValueError) as error:
        raise FormatError(f"{path} is no archive of `dpuforge pack`: {error}") from None


def _verify(archive: zipfile.ZipFile, path: Path) -> Verdict:
    contents = _read_contents(archive, path)
    files, project = contents["files"], contents["project"]
    store, verdict = ArchiveStore(archive, frozenset(archive.namelist()) - {CONTENTS}), Verdict()
    for name, digest in files.items():
        verdict.compare(name, str(digest), store.hash(name))
    verdict.differs += [f"{name} is not among the contents" for name in sorted(store.files - set(files))]
    spec = verify_generated(store, project, verdict)
    verdict.compare("the spec of the manifest", spec, _hash_spec(store, contents["spec"]))
    verify_results(store, project, set(), verdict)
    verdict.unseen += ["the images are not in the archive", "versions: this is not the machine that made it"]
    return verdict


def _read_contents(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(archive.read(CONTENTS))
        spec_is_good = isinstance(found["spec"], list) and all(isinstance(name, str) for name in found["spec"])
        if found["dpuforge_pack"] == _VERSION and spec_is_good and isinstance(found["files"], dict):
            return {**found, "project": str(found["project"])}
    except (KeyError, TypeError, RecursionError):
        pass
    raise FormatError(f"{path} is no archive of `dpuforge pack`: it has no {CONTENTS} that can be read")


def _hash_spec(store: ArchiveStore, names: Sequence[str]) -> str:
    """Return the digest of the spec and its bases, as a manifest has it."""
    digests = [store.hash(name) for name in names]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _refuse_hostile(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise FormatError for what could harm whoever unpacks it."""
    entries = archive.infolist()
    if len(entries) > _MOST_FILES:
        raise FormatError(f"{path} holds {len(entries)} files, at most {_MOST_FILES} are taken")
    seen: set[str] = set()
    for entry in entries:
        reason = _explain_entry(entry) or ("it is there twice" if entry.filename in seen else "")
        if reason:
            raise FormatError(f"{path}: refused: {entry.filename!r}: {reason}", "do not unpack it")
        seen.add(entry.filename)
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise FormatError(f"{path}: refused: its files are larger together than it is", "do not unpack it")


def _explain_entry(entry: zipfile.ZipInfo) -> str:
    if reason := _explain_name(entry.orig_filename):
        return reason
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind not in (0, stat.S_IFREG):
        return "a link or a folder, not a file"
    if entry.flag_bits & 0x1:
        return "it is encrypted"
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        return "it is compressed, which `dpuforge pack` never does"
    return ""


def _explain_name(name: str) -> str:
    """Return what is wrong with a path in an archive, "" where nothing is."""
    parts = name.split("/")
    if name.startswith(("/", "~")) or PurePosixPath(name).is_absolute():
        return "an absolute path"
    if any(part in ("", ".", "..") for part in parts):
        return "a path that leads out of the archive, or is no path"
    if _BAD_NAME.search(name) or len(name) > _LONGEST_NAME:
        return "a name that is not taken"
    return ""


def refuse_to_pack(verdict: Verdict) -> None:
    """Raise DriftError where what would be packed does not match its record."""
    if verdict.differs:
        found = "\n  ".join(verdict.differs[:20])
        raise DriftError(
            f"not packed, {len(verdict.differs)} digests do not match:\n  {found}", "see `dpuforge verify`"
        )
