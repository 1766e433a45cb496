"""What part of a picture the network sees: the arithmetic of the generated preprocess.py, for pictures of any shape."""

from __future__ import annotations

from dpuforge.records.project import Preprocess, Project

_SHAPES = {"a square picture": (1000, 1000), "a 4:3 picture": (960, 1280), "an upright 3:4 picture": (1280, 960)}


def find_seen_sides(preprocess: Preprocess, height: int, width: int) -> tuple[float, float]:
    """Return the shares of a picture's height and width that are left of it by resize and crop."""
    resize, crop = preprocess.resize, preprocess.crop
    if crop is None:
        return 1.0, 1.0
    if isinstance(resize, tuple):
        height, width = resize
    elif resize is not None:
        short = min(height, width)
        height, width = int(resize * height / short), int(resize * width / short)
    return min(1.0, crop[0] / height), min(1.0, crop[1] / width)


def is_stretched(preprocess: Preprocess, height: int, width: int) -> bool:
    """Tell whether a picture of this shape changes its proportions, by more than a hundredth."""
    if not isinstance(preprocess.resize, tuple):
        return False
    return abs(preprocess.resize[0] * width / (preprocess.resize[1] * height) - 1.0) > 0.01


def describe_view(project: Project) -> tuple[str, ...]:
    """Return one line for each shape of picture: how much of it the network sees, and whether it is stretched."""
    size, preprocess = project.model.input, project.data.preprocess
    shapes = {f"a picture of {size.height} x {size.width} pixels, the input's": (size.height, size.width), **_SHAPES}
    lines = []
    for name, (height, width) in shapes.items():
        tall, wide = find_seen_sides(preprocess, height, width)
        stretched = ", stretched" if is_stretched(preprocess, height, width) else ""
        middle = "" if tall == wide == 1.0 else f" (the middle {tall:.1%} of its height, {wide:.1%} of its width)"
        lines.append(f"of {name} the network sees {tall * wide:.1%}{middle}{stretched}")
    return tuple(lines)
