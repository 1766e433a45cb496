"""A board's folder: the application, the C++ preprocessing and the settings say the same as training."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes_project as shapes
from PIL import Image as Picture
from test_rendered_text import check_with_ruff, check_with_vermin

from dpuforge.records import project as records
from dpuforge.records.hardware import BoardTarget

NAMES = records.Classes(3, ("across", "diagonal", "upright"))


PARTS = ("deploy/", "boards/KV260/")


def render(project: records.Project, board: BoardTarget = shapes.TARGETS[0]) -> dict[str, str]:
    """Return {file name: text} of what the folder of one board is assembled from."""
    files = shapes.render_files(project, board).items()
    return {path.rpartition("/")[2]: text for path, text in files if path.startswith(PARTS)}


def write(project: records.Project, folder: Path, board: BoardTarget = shapes.TARGETS[0]) -> None:
    """Write what a board's folder is assembled from into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render(project, board).items():
        (folder / name).write_text(text, encoding="utf-8")


def load_preprocess(folder: Path) -> Any:
    """Import a rendered preprocess.py."""
    spec = importlib.util.spec_from_file_location("board_preprocess", folder / "preprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_board_prepares_images_with_the_file_of_training() -> None:
    """deploy/preprocess.py is byte for byte the preprocess.py of training."""
    project = shapes.make_project()
    assert render(project)["preprocess.py"] == shapes.render_scripts(project)["preprocess.py"]


def bundle(project: records.Project, root: Path) -> Path:
    """Write a project and a compiled network, run bundle.py as compile.sh does, and return the board's folder."""
    for path, text in shapes.render_files(project).items():
        (root / "generated/shapes" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "generated/shapes" / path).write_text(text, encoding="utf-8")
    compiled = root / "build/shapes/compile/KV260"
    compiled.mkdir(parents=True)
    (compiled / "shapes_net.xmodel").write_bytes(b"compiled")
    (compiled / "md5sum.txt").write_text(hashlib.md5(b"compiled").hexdigest() + "\n")
    ran = shapes.run_script(root, "bundle.py", "KV260")
    assert ran.status == 0, ran.output
    return root / "build/shapes/bundle/KV260"


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_prototxt_and_meta_are_in_the_order_blue_green_red(color: str, tmp_path: Path) -> None:
    """Mean and scale are printed in BGR order, whichever order the network takes."""
    folder = bundle(shapes.make_project(data=shapes.make_data(color=color)), tmp_path)
    prototxt = (folder / "shapes_net.prototxt").read_text(encoding="utf-8")
    means = [float(value) for value in re.findall(r"mean: (\S+)", prototxt)]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert means == meta["mean_bgr"] == ([103.53, 116.28, 123.675] if color == "RGB" else [123.675, 116.28, 103.53])
    assert len(re.findall(r"scale: 0\.0\d+", prototxt)) == 3
    assert (meta["board"], meta["target"], meta["fingerprint"]) == (
        "KV260",
        "DPUCZDX8G_ISA1_B4096",
        "0x101000056010407",
    )


def test_readme_names_image_fingerprint_and_commands() -> None:
    """The README names the SD image, the way to load the DPU on Kria, the fingerprint and every copy command."""
    board = dataclasses.replace(shapes.TARGETS[0], note="kria app kv260-benchmark-b4096", batch=1)
    files = render(shapes.make_project(), board)
    row = "| KV260 | DPUCZDX8G_ISA1_B4096 | 0x101000056010407 | kv260.img.gz | kv260-benchmark-b4096 | 1 | 2 |"
    for words in (
        row,
        "sudo xmutil loadapp KRIA_APP",
        "scp -r build/shapes/bundle/BOARD root@ADDRESS:shapes_net",
        "bash generated/shapes/compile.sh BOARD",
        "xdputil query",
    ):
        assert words in files["README.md"]
    for line in ("SD_IMAGE='kv260.img.gz'", "KRIA_APP='kv260-benchmark-b4096'", "BATCH='1'", "THREADS='2'"):
        assert line in files["board.env"].splitlines()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resize": (32, 32), "crop": None},
        {"resize": None},
        {"color": "BGR", "resize": 41},
        {"color": "GRAY", "mean": (0.449,), "std": (0.226,)},
    ],
)
def test_cpp_preprocessing_equals_python_to_the_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The compiled C++ header gives the same int8 input as preprocess.py, enlarging and reducing, odd margins too."""
    write(shapes.make_project(data=shapes.make_data(**settings)), tmp_path)
    compile_cpp(tmp_path, CPP_MAIN)
    module = load_preprocess(tmp_path)
    for height, width in ((32, 32), (47, 61), (200, 133), (40, 41), (33, 300)):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
        arguments = [str(tmp_path / "main"), str(height), str(width), "5"]
        made = subprocess.run(arguments, input=pixels.tobytes(), capture_output=True, check=True).stdout
        values = module.to_input(module.resize_and_crop(module.to_color(Picture.fromarray(pixels))))
        expected = module.to_int8(values, 5).transpose(1, 2, 0)
        assert np.array_equal(np.frombuffer(made, np.int8).reshape(32, 32, -1), expected), (height, width)


def compile_cpp(folder: Path, text: str) -> None:
    """Compile a program against the rendered header, without warnings."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    (folder / "main.cpp").write_text(text, encoding="utf-8")
    flags = ["-std=c++14", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    command = [compiler, *flags, "main.cpp", "-o", "main"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cpp_turns_pictures_as_python_does(tmp_path: Path) -> None:
    """upright() of the C++ header gives the pixels that preprocess.py loads, for all eight orientations."""
    write(shapes.make_project(), tmp_path)
    compile_cpp(tmp_path, CPP_UPRIGHT)
    module = load_preprocess(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    for orientation in range(1, 9):
        exif = Picture.Exif()
        exif[0x0112] = orientation
        Picture.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
        expected = np.asarray(module.load_image(tmp_path / "turned.png"))
        command = [str(tmp_path / "main"), "5", "7", str(orientation)]
        made = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True).stdout
        assert made == bytes([expected.shape[0], expected.shape[1]]) + expected.tobytes(), orientation


@pytest.mark.parametrize("limits", [None, (100.0, 40000.0)])
def test_cpp_scales_sixteen_bits_as_python_does(tmp_path: Path, limits: tuple[float, float] | None) -> None:
    """to_8_bits() of the C++ header gives the pixels that preprocess.py loads from a 16-bit file, for every value."""
    write(shapes.make_project(data=shapes.make_data(range=limits)), tmp_path)
    compile_cpp(tmp_path, CPP_WIDE)
    values = np.arange(65536).astype(np.uint16).reshape(256, 256)
    Picture.fromarray(values).save(tmp_path / "wide.png")
    expected = np.asarray(load_preprocess(tmp_path).load_image(tmp_path / "wide.png"))
    made = subprocess.run([str(tmp_path / "main")], capture_output=True, check=True).stdout
    assert made == expected.tobytes()


CPP_UPRIGHT = """
#include <cstdlib>
#include <iostream>
#include <iterator>
#include "preprocess.hpp"

int main(int, char** words) {
  preprocess::Image image{std::atoi(words[1]), std::atoi(words[2]), {}};
  image.rgb.assign(std::istreambuf_iterator<char>(std::cin), {});
  const auto turned = preprocess::upright(image, std::atoi(words[3]));
  std::cout.put(turned.height).put(turned.width);
  for (auto value : turned.rgb) std::cout.put(value);
}
"""
CPP_WIDE = """
#include <iostream>
#include "preprocess.hpp"

int main() {
  std::vector<std::uint16_t> grey;
  for (int value = 0; value < 65536; ++value) grey.push_back(static_cast<std::uint16_t>(value));
  for (auto value : preprocess::to_8_bits(256, 256, grey).rgb) std::cout.put(value);
}
"""


CPP_MAIN = """
#include <cstdlib>
#include <iostream>
#include <iterator>
#include "preprocess.hpp"

int main(int, char** words) {
  preprocess::Image image{std::atoi(words[1]), std::atoi(words[2]), {}};
  image.rgb.assign(std::istreambuf_iterator<char>(std::cin), {});
  for (auto value : preprocess::prepare(image, std::atoi(words[3]))) std::cout.put(value);
}
"""


def test_int8_rounding_is_the_hardware_s(tmp_path: Path) -> None:
    """Ties go upwards, values saturate, and 0.49999997 becomes 0."""
    write(shapes.make_project(), tmp_path)
    values = np.array([0.5, -0.5, 1.5, -1.5, 0.49999997, -0.50000006, 1e9, -1e9, 127.5, -128.5], np.float32)
    made = load_preprocess(tmp_path).to_int8(values, 0)
    assert made.tolist() == [1, 0, 2, -1, 0, -1, 127, -128, 127, -128]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Return a root with the deploy folder of a board, an xmodel for the stand-in runtime, and seven images."""
    folder = tmp_path / "generated" / "shapes"
    write(shapes.make_project(classes=NAMES), folder)
    subgraphs = [{"device": "USER"}, {"device": "DPU", "batch": 2, "dpu_fingerprint": 0x101000056010407}]
    (folder / "shapes_net.xmodel").write_text(json.dumps(subgraphs), encoding="utf-8")
    for number in range(7):
        picture = Picture.new("RGB", (40, 50), (40 * number, 90, 30))
        (tmp_path / "images").mkdir(exist_ok=True)
        picture.save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def run_app(root: Path, *arguments: str, **environment: str) -> shapes.Ran:
    """Run app.py against the stand-in runtime."""
    return shapes.run_script(root, "app.py", *arguments, PYTHONPATH=str(shapes.HERE / "fake_vart"), **environment)


def test_app_classifies_every_image_in_order(board: Path) -> None:
    """With four threads and batches of two, seven images come back in order, named, and marked as an emulation."""
    ran = run_app(board, "--json", "--threads", "4", "--top", "2", str(board / "images"))
    assert ran.status == 0, ran.output
    assert "EMULATION" in ran.output
    report = json.loads(ran.output[ran.output.index("{") :])
    assert [Path(image["name"]).name for image in report["images"]] == [f"{number}.png" for number in range(7)]
    assert [image["top"][0]["class"] for image in report["images"]] == ["across"] * 3 + ["diagonal"] * 2 + [
        "upright"
    ] * 2
    assert report["emulated"] is True
    assert report["batch"] == 2
    assert report["images"][0]["top"][0]["probability"] == pytest.approx(1 / (1 + 2 * np.exp(-9.0)))
    assert [len(image["top"]) for image in report["images"]] == [2] * 7


def test_app_feeds_the_dpu_what_training_prepared(board: Path) -> None:
    """The int8 batch that reaches the runner equals preprocess.py's, the last batch padded with zeros."""
    dump = board / "inputs.npy"
    ran = run_app(board, "--threads", "1", str(board / "images"), FAKE_VART_DUMP=str(dump))
    assert ran.status == 0, ran.output
    seen = np.load(dump)
    module = load_preprocess(board / "generated/shapes")
    assert seen.shape == (8, 32, 32, 3)
    assert not seen[7].any()
    for number in range(7):
        expected = module.to_int8(module.prepare_file(board / "images" / f"{number}.png"), 5)
        assert np.array_equal(seen[number], expected.transpose(1, 2, 0))


def test_app_prints_a_table(board: Path) -> None:
    """Without --json one line an image and the rate are printed."""
    ran = run_app(board, str(board / "images/0.png"))
    assert ran.status == 0, ran.output
    assert re.search(r"0\.png: across 100\.0%, diagonal 0\.0%", ran.output)
    assert "images/s with 2 threads" in ran.output


@pytest.mark.parametrize(
    ("subgraphs", "words"),
    [
        (
            [{"device": "DPU", "batch": 1, "dpu_fingerprint": 7}],
            "compiled for the DPU 0x7, KV260 has 0x101000056010407",
        ),
        ([{"device": "DPU", "batch": 1}, {"device": "DPU", "batch": 1}], "has 2 DPU subgraphs"),
    ],
)
def test_app_refuses_an_xmodel_that_does_not_fit(board: Path, subgraphs: list[dict[str, Any]], words: str) -> None:
    """Another DPU's fingerprint and a network cut into pieces are refused before anything runs."""
    (board / "generated/shapes/shapes_net.xmodel").write_text(json.dumps(subgraphs), encoding="utf-8")
    ran = run_app(board, str(board / "images"))
    assert ran.status == 3
    assert words in ran.output
    assert "Traceback" not in ran.output


def test_app_names_what_is_missing(board: Path) -> None:
    """Without runtime, xmodel or images the application says so in one line."""
    (board / "broken.png").write_bytes(b"nothing")
    assert "run on the board" in shapes.run_script(board, "app.py", "x.png").output
    assert "absent.xmodel does not exist" in run_app(board, "--xmodel", "absent.xmodel", "x.png").output
    assert "no images given" in run_app(board).output
    assert "board.env does not exist" in run_app(board, "--board", str(board / "board.env"), "x.png").output
    (board / "board.env").write_text("BOARD='KV260'\nrm -rf /\n", encoding="utf-8")
    assert "not of the form KEY='value': rm" in run_app(board, "--board", str(board / "board.env"), "x.png").output
    broken = run_app(board, str(board / "broken.png"))
    assert broken.status == 3
    assert "broken.png" in broken.output
    assert "Traceback" not in broken.output


def test_app_takes_class_names_from_training_when_the_spec_has_none(board: Path) -> None:
    """With a number of classes only, the names come from the model.json that training wrote."""
    write(shapes.make_project(), board / "generated/shapes")
    assert re.search(r"0\.png: 0 100\.0%", run_app(board, str(board / "images")).output)
    card = {"classes": ["across", "diagonal", "upright"]}
    (board / "generated/shapes/model.json").write_text(json.dumps(card), encoding="utf-8")
    assert re.search(r"0\.png: across 100\.0%", run_app(board, str(board / "images")).output)


def test_app_is_tidy_python_3_7(tmp_path: Path) -> None:
    """app.py parses as Python 3.7 and passes ruff and vermin."""
    write(shapes.make_project(classes=NAMES), tmp_path)
    ast.parse((tmp_path / "app.py").read_text(), feature_version=(3, 7))
    check_with_ruff(tmp_path)
    check_with_vermin(tmp_path)
