"""preprocess.py: the same pixels as torchvision's evaluation transform, and the arithmetic of the board."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import shapes_project as shapes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from dpuforge.plan.contexts import round_to_float32


def load_preprocess(folder: Path, **settings: object) -> ModuleType:
    """Render preprocess.py with these settings and import it."""
    project = shapes.make_project(data=shapes.make_data(**settings))  # type: ignore[arg-type]
    path = folder / "preprocess.py"
    path.write_text(shapes.render_scripts(project)["preprocess.py"], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("rendered_preprocess", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_image(width: int, height: int) -> Image.Image:
    """Return noise as an RGB image."""
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(40, 40), (37, 53), (53, 37), (36, 36), (200, 36), (33, 129)])
def test_pixels_equal_torchvision(tmp_path: Path, size: tuple[int, int]) -> None:
    """Resize and crop give the same bytes as torchvision's Resize and CenterCrop."""
    module = load_preprocess(tmp_path)
    reference = transforms.Compose([transforms.Resize(36), transforms.CenterCrop(32)])
    image = make_image(*size)
    assert np.array_equal(np.asarray(module.resize_and_crop(image)), np.asarray(reference(image)))


@pytest.mark.parametrize("settings", [{"resize": None, "crop": (32, 32)}, {"resize": (32, 32), "crop": None}])
def test_resize_and_crop_can_be_left_out(tmp_path: Path, settings: dict[str, object]) -> None:
    """A crop alone cuts, an exact resize alone stretches; both give the network's size."""
    module = load_preprocess(tmp_path, **settings)
    assert module.resize_and_crop(make_image(50, 41)).size == (32, 32)


def test_values_are_normalised_per_channel(tmp_path: Path) -> None:
    """The input is (pixel - 255 mean) / (255 std) in float32, channels first."""
    module = load_preprocess(tmp_path)
    image = make_image(32, 32)
    values = module.to_input(image)
    pixels = np.asarray(image, np.float64) / 255
    expected = ((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)
    assert values.dtype == np.float32
    assert values.flags["C_CONTIGUOUS"]
    assert np.allclose(values, expected, atol=2e-6)


def test_bgr_reverses_the_channels(tmp_path: Path) -> None:
    """With color: BGR the first channel of the input is blue, normalised with the first mean."""
    module = load_preprocess(tmp_path, color="BGR")
    blue = Image.new("RGB", (32, 32), (0, 0, 255))
    first, _, last = module.to_input(blue)[:, 0, 0]
    assert first == pytest.approx((1 - 0.485) / 0.229, abs=1e-5)
    assert last == pytest.approx(-0.406 / 0.225, abs=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_every_kind_of_file_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """Grey, palette, transparent and CMYK files give an input of three channels."""
    module = load_preprocess(tmp_path)
    suffix = "tif" if mode == "CMYK" else "png"
    make_image(40, 40).convert("L" if mode == "LA" else mode).convert(mode).save(tmp_path / f"image.{suffix}")
    assert module.prepare_file(tmp_path / f"image.{suffix}").shape == (3, 32, 32)


def test_a_wrong_size_is_refused(tmp_path: Path) -> None:
    """An image that was not cut to the network's size is refused with both sizes."""
    with pytest.raises(ValueError, match=r"\(32, 32\) x 3 pixels, got \(40, 50, 3\)"):
        load_preprocess(tmp_path).to_input(make_image(50, 40))


@given(st.floats(1e-6, 255.0))
def test_constants_read_back_as_the_nearest_float32(value: float) -> None:
    """A printed mean or scale is a decimal that reads back as exactly the float32 nearest to the value."""
    assert np.float32(round_to_float32(value)) == np.float32(value)
