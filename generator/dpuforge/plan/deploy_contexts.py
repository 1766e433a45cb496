"""Contexts of boards/<BOARD>/deploy/: the application, its settings and its instructions for one board."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dpuforge.plan.contexts import PreprocessContext, make_preprocess_context, scale_pixels
from dpuforge.plan.flow_contexts import find_image
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.project import Project

_KRIA_APP = re.compile(r"kria app ([\w.-]+)")
_TOP_K = 5


@dataclass(frozen=True)
class AppContext:
    """Context of app.py; fingerprint is None where no source gives it, sd_image "" where no image is recorded."""

    board: str
    release: str
    sd_image: str
    fingerprint: str | None
    threads: int


@dataclass(frozen=True)
class PrototxtContext:
    """Context of <net>.prototxt; mean and scale in the order blue, green, red, for pixels 0..255."""

    mean_bgr: tuple[float, ...]
    scale_bgr: tuple[float, ...]
    top_k: int
    vgg_preprocess: bool


@dataclass(frozen=True)
class MetaContext:
    """Context of meta.json; labels is empty where only model.json knows the class names."""

    filename: str
    board: str
    target: str
    fingerprint: str | None
    mean_bgr: tuple[float, ...]
    scale_bgr: tuple[float, ...]


@dataclass(frozen=True)
class HeaderFileContext:
    """Context of preprocess.hpp; absent sizes are None."""

    resize_short_px: int | None
    resize_height_px: int | None
    resize_width_px: int | None
    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class ReadmeContext:
    """Context of README.md; paths are relative to the project root, sd_image and kria_app may be empty."""

    board: str
    release: str
    target: str
    fingerprint: str
    fingerprint_known: bool
    image: str
    sd_image: str
    kria_app: str
    prototxt: str
    filename: str
    compile_command: str
    compiled: str
    quantised: str
    card: str
    deploy_folder: str
    threads: int
    batch: int
    vgg_preprocess: bool


def make_app_context(project: Project, target: BoardTarget, release: Release) -> AppContext:
    """Return the context of app.py: two threads a core, one preparing while the other waits for the DPU."""
    return AppContext(
        board=target.board,
        release=target.release,
        sd_image=release.sd_images.get(target.board, ""),
        fingerprint=target.fingerprint_text or None,
        threads=2 * target.cores,
    )


def make_board_preprocess_context(project: Project, target: BoardTarget, release: Release) -> PreprocessContext:
    """Return the context of the board's preprocess.py: that of training, so that both files are equal."""
    return make_preprocess_context(project)


def _scale_bgr(project: Project) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, scale) in the order blue, green, red, whatever order the network takes."""
    mean, scale = scale_pixels(project.data.preprocess)
    step = 1 if project.data.preprocess.color == "BGR" else -1
    return mean[::step], scale[::step]


def _is_vgg_preprocess(project: Project) -> bool:
    """Tell whether the Vitis AI Library's VGG_PREPROCESS (shorter side 256, centred crop) is the project's."""
    preprocess = project.data.preprocess
    return preprocess.resize == 256 and preprocess.crop is not None


def make_prototxt_context(project: Project, target: BoardTarget, release: Release) -> PrototxtContext:
    """Return the context of <net>.prototxt."""
    mean, scale = _scale_bgr(project)
    return PrototxtContext(
        mean_bgr=mean,
        scale_bgr=scale,
        top_k=min(_TOP_K, project.classes.count),
        vgg_preprocess=_is_vgg_preprocess(project),
    )


def make_meta_context(project: Project, target: BoardTarget, release: Release) -> MetaContext:
    """Return the context of meta.json."""
    mean, scale = _scale_bgr(project)
    return MetaContext(
        filename=f"{project.target.net_name}.xmodel",
        board=target.board,
        target=target.target,
        fingerprint=target.fingerprint_text or None,
        mean_bgr=mean,
        scale_bgr=scale,
    )


def make_header_file_context(project: Project, target: BoardTarget, release: Release) -> HeaderFileContext:
    """Return the context of preprocess.hpp."""
    preprocess = project.data.preprocess
    mean, scale = scale_pixels(preprocess)
    pair = preprocess.resize if isinstance(preprocess.resize, tuple) else (None, None)
    return HeaderFileContext(
        resize_short_px=preprocess.resize if isinstance(preprocess.resize, int) else None,
        resize_height_px=pair[0],
        resize_width_px=pair[1],
        mean=mean,
        scale=scale,
    )


def make_readme_context(project: Project, target: BoardTarget, release: Release) -> ReadmeContext:
    """Return the context of README.md."""
    name, folder = project.target.net_name, f"generated/{project.project}/boards/{target.board}"
    kria = _KRIA_APP.search(target.note)
    return ReadmeContext(
        board=target.board,
        release=target.release,
        target=target.target,
        fingerprint=target.fingerprint_text or "unknown",
        fingerprint_known=target.fingerprint is not None,
        image=find_image(release),
        sd_image=release.sd_images.get(target.board, ""),
        kria_app=kria.group(1) if kria else "",
        prototxt=f"{name}.prototxt",
        filename=f"{name}.xmodel",
        compile_command=_make_compile_command(release, folder),
        compiled=f"build/{project.project}/compile/{target.board}/{name}.xmodel",
        quantised=f"build/{project.project}/deploy/{name}_int.xmodel",
        card=f"build/{project.project}/train/model.json",
        deploy_folder=f"{folder}/deploy",
        threads=2 * target.cores,
        batch=target.batch,
        vgg_preprocess=_is_vgg_preprocess(project),
    )


def _make_compile_command(release: Release, folder: str) -> str:
    """Return what to run inside the image: its conda environment first, then compile.sh."""
    conda = release.environment.conda if release.environment else "vitis-ai-pytorch"
    return f"source /opt/vitis_ai/conda/etc/profile.d/conda.sh && conda activate {conda} && bash {folder}/compile.sh"
