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
from PIL import Image, ImageOps
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


def test_gray_is_one_channel_of_brightness(tmp_path: Path) -> None:
    """With color: GRAY a colour file gives Pillow's brightness in one channel, a grey one its own values."""
    module = load_preprocess(tmp_path, color="GRAY", mean=(0.5,), std=(0.25,))
    image = make_image(32, 32)
    image.save(tmp_path / "color.png")
    image.convert("L").save(tmp_path / "gray.png")
    made = module.to_input(module.load_image(tmp_path / "color.png"))
    assert made.shape == (1, 32, 32)
    assert np.allclose(made[0], (np.asarray(image.convert("L")) / 255.0 - 0.5) / 0.25, atol=2e-6)
    assert np.array_equal(made, module.to_input(module.load_image(tmp_path / "gray.png")))


WIDE = {
    "png": ("image.png", np.uint16),
    "tiff": ("image.tif", np.uint16),
    "big_endian": ("image.tif", np.dtype(">u2")),
    "pgm": ("image.pgm", np.uint16),
}


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("limits", [None, (1000.0, 5000.0)])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, kind: str, limits: tuple[float, float] | None) -> None:
    """16-bit files of every kind give round(255 (value - low) / (high - low)), cut to 0..255, in every channel."""
    name, dtype = WIDE[kind]
    values = np.random.default_rng(1).integers(0, 65536, (20, 30)).astype(np.uint16)
    Image.fromarray(values.astype(dtype)).save(tmp_path / name)
    made = np.asarray(load_preprocess(tmp_path, range=limits).load_image(tmp_path / name))
    low, high = limits or (0.0, 65535.0)
    expected = np.floor(np.clip((values - low) * (255.0 / (high - low)), 0, 255) + 0.5)
    assert np.array_equal(made, np.repeat(expected.astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_floats_and_32_bits_need_a_range(tmp_path: Path, dtype: type) -> None:
    """What becomes white in a float or 32-bit image is the user's to say; with a range it is scaled."""
    Image.fromarray(np.array([[0, 1], [2, 4]], dtype)).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=r"values from 0 to 4: data\.preprocess\.range"):
        load_preprocess(tmp_path).load_image(tmp_path / "image.tif")
    made = load_preprocess(tmp_path, range=(0.0, 4.0)).load_image(tmp_path / "image.tif")
    assert np.asarray(made)[..., 0].tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_tags_turn_the_picture(tmp_path: Path, orientation: int, suffix: str) -> None:
    """A file with an EXIF orientation gives the picture upright, as Pillow's exif_transpose does."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    make_image(20, 30).save(path, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(load_preprocess(tmp_path).load_image(path)), np.asarray(expected))


def test_orientation_can_be_left_alone(tmp_path: Path) -> None:
    """With exif: false a picture stays as it lies in the file; a damaged tag is no reason to fail."""
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image(20, 30).save(tmp_path / "image.png", exif=exif)
    assert load_preprocess(tmp_path, exif=False).load_image(tmp_path / "image.png").size == (20, 30)
    make_image(20, 30).save(tmp_path / "bad.png", exif=b"Exif\x00\x00MM\x00*\x00")
    assert load_preprocess(tmp_path).load_image(tmp_path / "bad.png").size == (20, 30)


def test_a_wrong_size_is_refused(tmp_path: Path) -> None:
    """An image that was not cut to the network's size is refused with both sizes."""
    with pytest.raises(ValueError, match=r"\(32, 32\) x 3 pixels, got \(40, 50, 3\)"):
        load_preprocess(tmp_path).to_input(make_image(50, 40))


@given(st.floats(1e-6, 255.0))
def test_constants_read_back_as_the_nearest_float32(value: float) -> None:
    """A printed mean or scale is a decimal that reads back as exactly the float32 nearest to the value."""
    assert np.float32(round_to_float32(value)) == np.float32(value)
