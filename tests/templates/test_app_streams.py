"""The board application with streams: cameras, videos, JSON lines, pictures, a preview, SIGTERM, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import shapes_project as shapes
from PIL import Image
from test_board_files import board, run_app

__all__ = ["board"]

CV2 = str(shapes.HERE / "fake_cv2")
RUNTIME = os.pathsep.join([str(shapes.HERE / "fake_vart"), CV2])


def start_app(root: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start app.py in a process of its own, with a stand-in OpenCV."""
    app = root / "generated/shapes/app.py"
    return subprocess.Popen(
        [sys.executable, str(app), *arguments],
        env={**os.environ, "PYTHONPATH": RUNTIME, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_lines_come_in_order_and_raw_outputs_are_those_of_the_dpu(board: Path) -> None:
    """--lines and --raw hold every image in the order of the files, with four threads in batches of two."""
    lines, raw = board / "lines.jsonl", board / "raw.npz"
    ran = run_app(board, "--threads", "4", "--lines", str(lines), "--raw", str(raw), str(board / "images"))
    assert ran.status == 0, ran.output
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [Path(row["name"]).name for row in rows] == [f"{number}.png" for number in range(7)]
    with np.load(raw) as kept:
        assert kept["rows"].tolist() == [[80, 8, 8]] * 3 + [[8, 80, 8]] * 2 + [[8, 8, 80]] * 2
        assert kept["rows"].dtype == np.int8
        assert (int(kept["input_fix"]), int(kept["output_fix"])) == (5, 3)
        assert len(set(kept["inputs"].tolist())) == 7


def test_pictures_are_annotated(board: Path) -> None:
    """--annotate writes a picture an image, of its size, with words on it."""
    ran = run_app(board, "--annotate", str(board / "shown"), str(board / "images"))
    assert ran.status == 0, ran.output
    pictures = sorted((board / "shown").iterdir())
    assert [path.name for path in pictures] == [f"{number:06d}_{number}.png" for number in range(7)]
    for number, path in enumerate(pictures):
        before, after = (np.asarray(Image.open(p)) for p in (board / "images" / f"{number}.png", path))
        assert after.shape == before.shape
        assert (after != before).any()


def test_a_camera_that_vanishes_is_waited_for(board: Path) -> None:
    """Frames before and after a gap are classified; the gap is told; a video file ends where it ends."""
    words = ("--camera", "0", "--frames", "4", "--json", "--threads", "1")
    app = start_app(board, *words, FAKE_CV2="ddx!bb", FAKE_CV2_SECONDS="0.2")
    told, said = app.communicate(timeout=60)
    assert app.returncode == 0, said
    assert "camera 0 gives no frames: waiting" in said
    names = [image["top"][0]["class"] for image in json.loads(told)["images"]]
    assert names[:1] == ["across"]
    assert names[-1:] == ["upright"]
    app = start_app(
        board, "--video", "clip.mp4", "--frames", "0", "--annotate", str(board / "out.avi"), FAKE_CV2="dbbx"
    )
    told, said = app.communicate(timeout=60)
    assert app.returncode == 0, said
    assert "3 images in" in told
    assert (board / "out.avi").read_text() == "(40, 50, 3)\n" * 3


def test_frames_that_nobody_has_time_for_are_dropped_and_counted(board: Path) -> None:
    """A live source does not wait: what was classified and what was dropped add up to what came."""
    app = start_app(board, "--camera", "0", "--frames", "200", "--json", "--threads", "1", FAKE_CV2="db" * 100)
    told, said = app.communicate(timeout=60)
    assert app.returncode == 0, said
    report = json.loads(told)
    assert report["count"] + report["dropped"] == 200
    assert report["count"] == len(report["images"]) > 0
    assert report["dropped"] > 0


def test_a_camera_that_is_not_there_is_said_to_be_so(board: Path) -> None:
    """An absent stream, and OpenCV that is not installed, end with one line."""
    app = start_app(board, "--video", "absent", FAKE_CV2="")
    assert "absent cannot be opened" in app.communicate(timeout=60)[1]
    assert app.returncode == 3
    ran = run_app(board, "--camera", "0")
    if ran.status != 3:  # 3: OpenCV is installed here, and has no camera
        assert ran.status == 4
        assert "need OpenCV" in ran.output
    assert "Traceback" not in ran.output


def test_sigterm_ends_an_endless_stream_in_order(board: Path) -> None:
    """On SIGTERM what was read is finished, the last line is whole, and the exit status is 0, as systemd expects."""
    lines = board / "lines.jsonl"
    words = ("--camera", "0", "--frames", "0", "--lines", str(lines))
    app = start_app(board, *words, FAKE_CV2="db" * 5000, FAKE_CV2_SECONDS="0.01")
    until = time.monotonic() + 60
    while not (lines.is_file() and lines.read_text().count("\n") > 3):
        assert time.monotonic() < until
        time.sleep(0.05)
    app.send_signal(signal.SIGTERM)
    told, said = app.communicate(timeout=30)
    assert app.returncode == 0, said
    text = lines.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert all(json.loads(line)["name"].startswith("frame") for line in text.splitlines())
    assert "images in" in told


def test_the_preview_shows_the_last_picture_to_browsers(board: Path) -> None:
    """--serve gives a page, the last result as JSON, and a stream of JPEG pictures, on the loopback alone."""
    words = ("--camera", "0", "--frames", "0", "--serve", "0")
    app = start_app(board, *words, FAKE_CV2="db" * 5000, FAKE_CV2_SECONDS="0.02")
    assert app.stderr is not None
    address = next(line.split()[-1] for line in app.stderr if line.startswith("preview: "))
    assert address.startswith("http://127.0.0.1:")
    try:
        assert b"/stream" in urllib.request.urlopen(address, timeout=30).read()
        with urllib.request.urlopen(address + "stream", timeout=30) as stream:
            assert stream.readline() == b"--frame\r\n"
            headers = [stream.readline() for _ in range(3)]
            size = int(headers[1].split(b":")[1])
            assert stream.read(size)[:3] == b"\xff\xd8\xff"
        document = json.loads(urllib.request.urlopen(address + "result.json", timeout=30).read())
        assert document["top"][0]["class"] in ("across", "upright")
    finally:
        app.send_signal(signal.SIGTERM)
        app.communicate(timeout=30)
    assert app.returncode == 0


def test_a_full_disk_is_said_to_be_one(board: Path) -> None:
    """Results that cannot be written end with one line and status 3."""
    ran = run_app(board, "--lines", "/dev/full", str(board / "images"))
    assert ran.status == 3
    assert "the disk is full" in ran.output
    assert "Traceback" not in ran.output
