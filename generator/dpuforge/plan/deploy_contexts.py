"""What is derived for the boards: deploy/ and bundle.py of all of them, and board.env of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dpuforge.plan.contexts import scale_pixels
from dpuforge.plan.flow_contexts import find_image
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.project import Project

_KRIA_APP = re.compile(r"kria app ([\w.-]+)")
_TOP_K = 5


@dataclass(frozen=True)
class BoardContext:
    """Context of board.env, and a row of README.md; sd_image and kria_app are "" where none is known."""

    target: BoardTarget
    image: str
    sd_image: str
    kria_app: str
    threads: int


@dataclass(frozen=True)
class BundleContext:
    """Context of bundle.py; mean and scale in the order blue, green, red, for pixels 0..255."""

    mean_bgr: tuple[float, ...]
    scale_bgr: tuple[float, ...]


@dataclass(frozen=True)
class PrototxtContext(BundleContext):
    """Context of <net>.prototxt."""

    top_k: int
    vgg_preprocess: bool


@dataclass(frozen=True)
class HeaderFileContext:
    """Context of preprocess.hpp; absent sizes are None."""

    resize_short_px: int | None
    resize_height_px: int | None
    resize_width_px: int | None
    wide_range: tuple[float, float]
    channels: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class ReadmeContext:
    """Context of README.md; paths are relative to the project root, with BOARD for the board's name."""

    boards: tuple[BoardContext, ...]
    image: str
    prototxt: str
    filename: str
    compile_command: str
    compiled: str
    quantised: str
    bundle: str
    app: str
    board_file: str
    vgg_preprocess: bool


def make_board_context(target: BoardTarget, release: Release) -> BoardContext:
    """Return what one board is: two threads a core, one preparing while the other waits for the DPU."""
    kria = _KRIA_APP.search(target.note)
    return BoardContext(
        target=target,
        image=find_image(release),
        sd_image=release.sd_images.get(target.board, ""),
        kria_app=kria.group(1) if kria else "",
        threads=2 * target.cores,
    )


def _scale_bgr(project: Project) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, scale) in the order blue, green, red, whatever order the network takes."""
    mean, scale = scale_pixels(project.data.preprocess)
    step = 1 if project.data.preprocess.color == "BGR" else -1
    return mean[::step], scale[::step]


def _is_vgg_preprocess(project: Project) -> bool:
    """Tell whether the Vitis AI Library's VGG_PREPROCESS (shorter side 256, centred crop) is the project's."""
    preprocess = project.data.preprocess
    return preprocess.resize == 256 and preprocess.crop is not None and preprocess.channels == 3


def make_bundle_context(project: Project) -> BundleContext:
    """Return the context of bundle.py."""
    return BundleContext(*_scale_bgr(project))


def make_prototxt_context(project: Project) -> PrototxtContext:
    """Return the context of <net>.prototxt."""
    return PrototxtContext(*_scale_bgr(project), min(_TOP_K, project.classes.count), _is_vgg_preprocess(project))


def make_header_file_context(project: Project) -> HeaderFileContext:
    """Return the context of preprocess.hpp."""
    resize = project.data.preprocess.resize
    short = resize if isinstance(resize, int) else None
    height, width = resize if isinstance(resize, tuple) else (None, None)
    preprocess = project.data.preprocess
    wide = preprocess.range or (0.0, 65535.0)
    return HeaderFileContext(short, height, width, wide, preprocess.channels, *scale_pixels(preprocess))


def make_readme_context(project: Project, targets: Sequence[BoardTarget], release: Release) -> ReadmeContext:
    """Return the context of README.md."""
    name, generated, build = project.target.net_name, f"generated/{project.project}", f"build/{project.project}"
    return ReadmeContext(
        boards=tuple(make_board_context(target, release) for target in targets),
        image=find_image(release),
        prototxt=f"{name}.prototxt",
        filename=f"{name}.xmodel",
        compile_command=_make_compile_command(release, generated),
        compiled=f"{build}/compile/BOARD/{name}.xmodel",
        quantised=f"{build}/deploy/{name}_int.xmodel",
        bundle=f"{build}/bundle/BOARD",
        app=f"{generated}/deploy/app.py",
        board_file=f"{generated}/boards/BOARD/board.env",
        vgg_preprocess=_is_vgg_preprocess(project),
    )


def _make_compile_command(release: Release, folder: str) -> str:
    """Return what to run inside the image: its conda environment first, then compile.sh."""
    conda = release.environment.conda if release.environment else "vitis-ai-pytorch"
    activate = f"source /opt/vitis_ai/conda/etc/profile.d/conda.sh && conda activate {conda}"
    return f"{activate} && bash {folder}/compile.sh BOARD"
