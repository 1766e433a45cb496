"""What is copied to a board: the bundle of compile.sh, or on a stand-in the same files with the quantised network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpuforge.errors import StageError
from dpuforge.execute.assemble import assemble_bundle
from dpuforge.execute.results import hash_file
from dpuforge.execute.run_stages import Folders
from dpuforge.records.job import Job


@dataclass(frozen=True)
class Contents:
    """Files to copy, {name on the board: path here}; network is the xmodel that runs there."""

    files: Mapping[str, Path]
    network: Path

    def digests(self) -> dict[str, str]:
        """Return {name on the board: sha256}."""
        return {name: hash_file(path) for name, path in self.files.items()}


@dataclass(frozen=True)
class Image:
    """One image of a split: its path relative to the project root, and the index of its class."""

    path: str
    label: int


def quantised_xmodel(job: Job) -> Path:
    """Return the path of the xmodel that the quantizer wrote; raise StageError where there is none."""
    path = job.build / "deploy" / f"{job.project.target.net_name}_int.xmodel"
    if not path.is_file():
        raise StageError(f"{path} does not exist", f"run `dpuforge run {job.project.spec.path}` first")
    return path


def gather_contents(job: Job, board: str, emulated: bool) -> Contents:
    """Return what a board's folder holds.

    A stand-in runs the quantised xmodel, since nothing that is compiled runs without a DPU. Raises StageError where the
    network is not compiled for a real board, or not quantised.
    """
    if not emulated:
        folders = Folders(job.root, job.generated(), job.build)
        assemble_bundle(folders, board)
        folder = job.build / "bundle" / board
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        return Contents(files, folder / f"{job.project.target.net_name}.xmodel")
    generated = job.generated()
    parts = [*(generated / "deploy").iterdir(), *(generated / "boards" / board).iterdir()]
    parts += [job.build / "train" / "model.json"]
    network = quantised_xmodel(job)
    files = {path.name: path for path in sorted(parts) if path.is_file()}
    return Contents({**files, f"{job.project.target.net_name}.xmodel": network}, network)


def choose_images(root: Path, build: Path, count: int) -> tuple[Image, ...]:
    """Return the images of a project's test split, or `count` of them spread evenly over it (0: all).

    Raises StageError where the prepare stage has not fixed the splits.
    """
    path = build / "prepare" / "data.json"
    try:
        files: Mapping[str, int] = json.loads(path.read_text(encoding="utf-8"))["test"]["files"]
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"{path} does not say which images there are", "run the prepare stage") from error
    images = [Image(name, label) for name, label in files.items()]
    if count and count < len(images):
        images = [images[index * len(images) // count] for index in range(count)]
    missing = [image.path for image in images if not (root / image.path).is_file()]
    if missing:
        raise StageError(
            f"{missing[0]} does not exist any more, nor {len(missing) - 1} others", "run the prepare stage"
        )
    return tuple(images)


def name_images(job: Job, images: Sequence[Image]) -> dict[str, Path]:
    """Return {name on the board: path here}; the names sort as the images are ordered."""
    return {f"{number:06d}{Path(image.path).suffix}": job.root / image.path for number, image in enumerate(images)}
