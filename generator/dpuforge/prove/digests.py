"""Holds every recorded digest against what is there: in a project's folders, or in an archive that was made of them.

A digest says that a file is the one that was recorded; nothing here is signed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from dpuforge.execute.data_listing import SEEN, find_data_changes, show
from dpuforge.execute.results import RESULT, hash_file
from dpuforge.execute.staleness import find_version_changes
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.files import hash_text
from dpuforge.records.job import VARIANTS, Job
from dpuforge.records.plan import Plan, PlannedStage
from dpuforge.records.result import StageResult, Status, parse_result

SPLITS = ("train", "validation", "test")


class Store(Protocol):
    """Where files are: paths are relative to the project root, with forward slashes."""

    def names(self) -> Sequence[str]:
        """Return the paths below build/ and generated/."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None where there is none."""

    def hash(self, name: str) -> str:
        """Return a file's sha256, "" where there is none."""


@dataclass(frozen=True)
class FolderStore:
    """A project's own folders."""

    root: Path
    project: str

    def names(self) -> Sequence[str]:
        """Return the paths below build/<project>/ and generated/<project>/."""
        folders = [self.root / top / self.project for top in ("generated", "build")]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def hash(self, name: str) -> str:
        """Return a file's sha256."""
        path = self.root / name
        return hash_file(path) if path.is_file() else ""


@dataclass
class Verdict:
    """What was held against its record: how many digests, what differs, and what could not be looked at."""

    checked: int = 0
    differs: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    stages: dict[str, str] = field(default_factory=dict)

    def compare(self, what: str, recorded: str, now: str) -> None:
        """Enter one digest."""
        self.checked += 1
        if not now:
            self.differs.append(f"{what} is missing, recorded {recorded[:8]}")
        elif recorded != now:
            self.differs.append(f"{what} is {now[:8]}, recorded {recorded[:8]}")

    def to_json(self) -> dict[str, Any]:
        """Return the document of `verify --json`."""
        return {"ok": not self.differs, **vars(self)}


def verify_project(job: Job, plan: Plan, rendered: Mapping[str, str], place: ToolchainPlace | None) -> Verdict:
    """Recompute every digest of a project: spec, generated files, images, inputs, outputs, versions."""
    verdict, store = Verdict(), FolderStore(job.root, job.project.project)
    spec = verify_generated(store, job.project.project, verdict)
    verdict.compare(f"{job.project.spec.path} of the manifest", spec, plan.spec_sha256)
    for name, text in rendered.items():
        now = store.hash(f"generated/{job.project.project}/{name}")
        verdict.compare(f"generated/{job.project.project}/{name} (of the spec)", hash_text(text), now)
    planned = {stage.key: stage for stage in plan.stages}
    folders = {name for stage in plan.stages for name in stage.folders}
    for key, result in verify_results(store, job.project.project, folders, verdict).items():
        if place is not None and key in planned:
            verdict.differs += [f"{key}: {text}" for text in find_version_changes(planned[key], result, place)]
        if key in planned and planned[key].folders and result.status is Status.DONE:
            verdict.differs += _verify_images(store, job, planned[key])
    report = _read_json(store, f"build/{job.project.project}/report.json")
    if report:
        verdict.compare("the spec of report.json", str(report.get("spec_sha256")), plan.spec_sha256)
    if place is None:
        verdict.unseen.append("versions: the toolchain is not complete on this machine")
    return verdict


def _verify_images(store: FolderStore, job: Job, stage: PlannedStage) -> Iterator[str]:
    """Read every image and hold it against what prepare saw."""
    seen = _read_json(store, f"build/{store.project}/{stage.key}/{SEEN}")
    yield from (f"images: {text}" for text in find_data_changes(seen, stage.folders, job.root, trusting=False))


def verify_generated(store: Store, project: str, verdict: Verdict) -> str:
    """Hold the generated files against their manifest; return the digest of the spec that it names."""
    folder = f"generated/{project}"
    manifest = _read_json(store, f"{folder}/manifest.json")
    files, spec = manifest.get("files"), manifest.get("spec")
    if not isinstance(files, dict) or not isinstance(spec, dict):
        verdict.differs.append(f"{folder}/manifest.json is missing, or damaged")
        return ""
    for name, digest in files.items():
        verdict.compare(f"{folder}/{name}", str(digest), store.hash(f"{folder}/{name}"))
    own = manifest.get("own")
    for name, digest in own.items() if isinstance(own, dict) else ():
        verdict.compare(f"{name} of the manifest", str(digest), store.hash(name))
    return str(spec.get("sha256"))


def verify_results(store: Store, project: str, folders: set[str], verdict: Verdict) -> dict[str, StageResult]:
    """Hold every result against the files it names; folders are those of images, which are not judged here."""
    results: dict[str, StageResult] = {}
    for name in store.names():
        path = PurePosixPath(name)
        if path.name != RESULT or path.parts[:2] != ("build", project) or {"set_aside", VARIANTS} & set(path.parts):
            continue
        key = "/".join(path.parts[2:-1])
        result = parse_result(_read_json(store, name))
        if result is None:
            verdict.differs.append(f"{name} is damaged")
            continue
        results[key] = result
        before = len(verdict.differs)
        count = _verify_result(store, f"generated/{project}", key, result, folders, verdict)
        wrong = len(verdict.differs) - before
        verdict.stages[key] = f"{count} digests" + (f", {wrong} differ" if wrong else "")
    _verify_splits(store, project, results, verdict)
    return results


def _verify_result(
    store: Store, generated: str, key: str, result: StageResult, folders: set[str], verdict: Verdict
) -> int:
    before = verdict.checked
    recorded = [(f"{generated}/{name}", digest) for name, digest in result.scripts.items()]
    recorded += [item for item in result.inputs.items() if item[0] not in folders]
    for name, digest in (*recorded, *result.outputs.items()):
        now = store.hash(name)
        if not now and not isinstance(store, FolderStore) and not _belongs(name):
            verdict.unseen.append(f"{key}: {show(name)} is not in the archive")
        else:
            verdict.compare(f"{key}: {show(name)}", str(digest), now)
    return verdict.checked - before


def _belongs(name: str) -> bool:
    """Say whether an archive holds such a file: all but the user's own."""
    return name.startswith(("build/", "generated/"))


def _verify_splits(store: Store, project: str, results: Mapping[str, StageResult], verdict: Verdict) -> None:
    """Recompute what stands for the images of each split from the digest of each."""
    data = _read_json(store, f"build/{project}/prepare/data.json")
    seen = _read_json(store, f"build/{project}/prepare/{SEEN}")
    if "prepare" not in results or not data or not seen:
        return
    try:
        digests = {path: row[2] for source in seen.values() for path, row in source["files"].items()}
        for name in SPLITS:
            lines = [f"{digests[path]} {show(path)}\n" for path in sorted(data[name]["files"])]
            now = hash_text("".join(lines))
            verdict.compare(f"images of {name}, in data.json", str(data[name]["sha256"]), now)
            recorded = results["prepare"].inputs.get(data[name]["folder"])
            if recorded is not None and len({data[split]["folder"] for split in SPLITS}) == len(SPLITS):
                verdict.compare(f"images of {name}, in the result of prepare", recorded, now)
    except (KeyError, TypeError, IndexError, AttributeError):
        verdict.differs.append(f"build/{project}/prepare: data.json and {SEEN} do not fit together")


def _read_json(store: Store, name: str) -> dict[str, Any]:
    """Return a JSON object, {} where there is none that can be read."""
    try:
        found = json.loads(store.read(name) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
