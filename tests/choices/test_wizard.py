"""`dpuforge init` as a person meets it, at a real terminal, and as a script calls it, without one."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pexpect
import pytest
import yaml
from PIL import Image

from dpuforge import cli
from dpuforge.commands.choices.answers import inline
from dpuforge.load.load_spec import load_project, validate_file
from dpuforge.load.text import read_document

ENV = {**os.environ, "NO_COLOR": "1", "COLUMNS": "140"}
FRUITS = ("apple", "no", "plum tree")


def start(folder: Path, *args: object) -> pexpect.spawn[str]:
    """Start init at a terminal of its own."""
    command = ["-m", "dpuforge", "init", *map(str, args)]
    return pexpect.spawn(
        sys.executable, command, cwd=str(folder), env=ENV, encoding="utf-8", dimensions=(50, 140), timeout=100
    )


def talk(child: pexpect.spawn[str], turns: Iterable[tuple[str, str]]) -> str:
    """Wait for each question, give its answer, and return all that was on the screen; the program must have ended."""
    seen = ""
    for question, answer in turns:
        child.expect_exact(question)
        seen += child.before + question
        child.sendline(answer)
    child.expect(pexpect.EOF)
    seen += child.before
    child.close()
    return seen


def without_terminal(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Run init as a script does, without a terminal; in this process, which is ten times faster."""
    before, argv, stdin = Path.cwd(), sys.argv, sys.stdin
    code, out, err = 0, io.StringIO(), io.StringIO()
    os.chdir(folder)
    sys.argv = ["dpuforge", "init", *map(str, args)]
    try:
        with redirect_stdout(out), redirect_stderr(err), open(os.devnull, encoding="utf-8") as sys.stdin:
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os.chdir(before)
        sys.argv, sys.stdin = argv, stdin
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def make_images(folder: Path, names: Iterable[str], count: int = 4) -> None:
    """Put small pictures of noise into class folders."""
    noise = random.Random(str(folder))
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.frombytes("L", (8, 8), noise.randbytes(64)).save(folder / name / f"{number}.png")


def list_tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_wrong_answer_is_asked_again_and_the_others_are_kept(tmp_path: Path) -> None:
    """One wrong board, backbone, number of classes and freeze policy cost one line each; the spec is good."""
    turns = [
        ("[data/fruits]: ", ""),
        ("a file: ", "one"),
        ("a file: ", "30"),
        ("[KV260]: ", "KV26"),
        ("[KV260]: ", "kv260, ZCU104"),
        ("[resnet18]: ", "resnet19"),
        ("[resnet18]: ", "4"),
        ("[IMAGENET1K_V1]: ", "IMAGENET1K_V9"),
        ("[IMAGENET1K_V1]: ", ""),
        ("[all_but_head]: ", "head"),
        ("[all_but_head]: ", "until:layer3"),
    ]
    child = start(tmp_path, "spec/fruits.yaml")
    seen = talk(child, turns)
    assert child.exitstatus == 0, seen
    assert "did you mean KV260?" in seen
    assert "did you mean resnet18?" in seen
    assert ".partial" not in seen
    assert ".edited" not in seen
    project = load_project(tmp_path / "spec" / "fruits.yaml").project
    assert project.classes.count == 30
    assert [choice.board for choice in project.target.boards] == ["KV260", "ZCU104"]
    assert project.model.backbone == "resnet18"
    assert list_tree(tmp_path) == {"spec", "spec/fruits.yaml", "spec/schema", "spec/schema/project.schema.json"}


def test_backbones_that_fit_come_first_with_frames_per_second(tmp_path: Path) -> None:
    """The list has the backbones of one DPU subgraph, ? the others, and one that does not fit is taken on demand."""
    turns = [
        ("[KV260]: ", ""),
        ("[resnet18]: ", "?"),
        ("[resnet18]: ", "mobilenet_v3_small"),
        ("take it all the same?", "n"),
        ("[resnet18]: ", "mobilenet_v3_small"),
        ("take it all the same?", "y"),
        ("[IMAGENET1K_V1]: ", ""),
        ("[all_but_head]: ", "2"),
    ]
    child = start(tmp_path, "spec/fruits.yaml", "--classes", "5", "--data", "data/later")
    child.expect_exact("later? [y/N]: ")
    child.sendline("y")
    seen = talk(child, turns)
    assert child.exitstatus == 0, seen
    first = seen.partition("[resnet18]")[0]
    assert "squeezenet1_1" in first
    assert "vit_b_16" not in first
    assert "vit_b_16" in seen
    spec = yaml.safe_load((tmp_path / "spec" / "fruits.yaml").read_text(encoding="utf-8"))
    assert spec["target"] == {"vitis_ai": "3.0", "boards": ["KV260"], "dpu_subgraphs": 10}
    assert spec["transfer"]["method"] == "fine_tuning"


def test_ctrl_c_and_the_end_of_input_leave_nothing(tmp_path: Path) -> None:
    """Neither the spec nor its folder nor a partial file is there after an interview that was broken off."""
    for stop in ("sendintr", "sendeof"):
        child = start(tmp_path, "spec/deep/fruits.yaml", "--classes", "5")
        child.expect_exact("[data/fruits]: ")
        child.sendline("")
        child.expect_exact("[KV260]: ")
        getattr(child, stop)()
        child.expect_exact("nothing was written")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 130
        assert list_tree(tmp_path) == set()


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM in the middle of the interview is as clean as Ctrl-C."""
    child = start(tmp_path, "spec/fruits.yaml")
    child.expect_exact("[data/fruits]: ")
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert list_tree(tmp_path) == set()


def test_one_folder_is_split_by_the_spec_and_nothing_is_moved(tmp_path: Path) -> None:
    """Classes come from the folder; shares are asked, a wrong one again; the images stay where they are."""
    make_images(tmp_path / "pictures", FRUITS)
    before = list_tree(tmp_path)
    turns = [
        ("[data/fruits]: ", "picturs"),
        ("later? [y/N]: ", "n"),
        ("[data/fruits]: ", "pictures"),
        ("[0.1]: ", "1.5"),
        ("[0.1]: ", "0.25"),
        ("[0.2]: ", "a fifth"),
        ("[0.2]: ", "0.25"),
    ]
    child = start(
        *(tmp_path, "spec/fruits.yaml", "--board", "KV260", "--backbone", "resnet18", "--weights", "IMAGENET1K_V1"),
        *("--freeze", "all_but_head", "--seed", "7"),
    )
    seen = talk(child, turns)
    assert child.exitstatus == 0, seen
    assert "pictures: 3 classes, 12 images" in seen
    spec = yaml.safe_load((tmp_path / "spec" / "fruits.yaml").read_text(encoding="utf-8"))
    assert spec["data"] == {"split": {"from": "pictures", "validation": 0.25, "test": 0.25, "seed": 7}}
    assert spec["classes"] == list(FRUITS)
    assert before <= list_tree(tmp_path)


def test_a_missing_split_is_asked_about(tmp_path: Path) -> None:
    """With train and val alone the images can be listed in a CSV file and split anew; they stay where they are."""
    for split in ("train", "val"):
        make_images(tmp_path / "data" / "fruits" / split, FRUITS)
    turns = [("[data/fruits]: ", ""), ("What now [pool]: ", "pol"), ("What now [pool]: ", "1"), ("[0.1]: ", "")]
    child = start(
        *(tmp_path, "spec/fruits.yaml", "--board", "KV260", "--backbone", "resnet18", "--weights", "none"),
        *("--freeze", "none", "--test", "0.3"),
    )
    seen = talk(child, turns)
    assert child.exitstatus == 0, seen
    assert "there is no test" in seen
    listed = (tmp_path / "data" / "fruits_images.csv").read_text(encoding="utf-8").splitlines()
    assert len(listed) == 1 + 2 * len(FRUITS) * 4
    assert listed[1] == "fruits/train/apple/0.png,apple"
    spec = yaml.safe_load((tmp_path / "spec" / "fruits.yaml").read_text(encoding="utf-8"))
    assert spec["data"]["split"]["from"] == "data/fruits_images.csv"
    assert spec["data"]["split"]["test"] == 0.3


def test_without_a_terminal_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """A script gets every mistake with its option, exit code 2, and nothing is written."""
    done = without_terminal(tmp_path, "spec/x.yaml", "--board", "KV26", "--backbone", "resnet19", "--freeze", "head")
    assert done.returncode == 2
    for words in ("--classes is missing", "--board: there is no board 'KV26'", "--backbone: ", "--freeze: "):
        assert words in done.stderr
    assert list_tree(tmp_path) == set()


@pytest.mark.parametrize(
    ("layout", "args", "code", "words"),
    [
        # hymenoptera_data, imagenette: train and val
        ("data/train data/val", ["--split", "train"], 0, "from: data/train"),
        ("data/train data/val", ["--split", "later"], 0, "test: data/test"),
        ("data/train data/val", [], 2, "there is no test"),
        # Fruits-360: an archive's folder around Training and Test
        ("data/fruits-360/Training data/fruits-360/Test", ["--split", "later"], 0, "train: data/fruits-360/Training"),
        # Caltech-101: one folder in another
        ("data/101_ObjectCategories", [], 0, "from: data/101_ObjectCategories"),
        ("data/train data/valid data/test data/__MACOSX", [], 0, "validation: data/valid"),
    ],
)
def test_layouts_of_published_data_sets(tmp_path: Path, layout: str, args: list[str], code: int, words: str) -> None:
    """The folders of well-known archives are understood as they are unpacked."""
    for folder in layout.split():
        make_images(tmp_path / folder, FRUITS, 2)
    done = without_terminal(tmp_path, "spec/x.yaml", "--data", "data", *args)
    assert done.returncode == code, done.stderr
    written = (tmp_path / "spec" / "x.yaml").read_text(encoding="utf-8") if code == 0 else done.stderr
    assert words in written
    assert code or validate_file(tmp_path / "spec" / "x.yaml") == ()


def make_flat(folder: Path) -> None:
    """Kaggle's flat folders: images without classes."""
    make_images(folder, ["train", "test"])


def make_yolo(folder: Path) -> None:
    """A detection data set: pictures here, text files there."""
    make_images(folder, ["images"])
    (folder / "labels").mkdir()
    (folder / "labels" / "0.txt").write_text("0 0.5 0.5 1 1\n", encoding="utf-8")


def make_inside_out(folder: Path) -> None:
    """Splits below the classes."""
    for name in FRUITS:
        make_images(folder / name, ["train", "test"])


def make_other_classes(folder: Path) -> None:
    """Three splits of which one lacks a class."""
    make_images(folder / "train", FRUITS)
    make_images(folder / "val", FRUITS)
    make_images(folder / "test", FRUITS[:2])


def make_label_file(folder: Path) -> None:
    """A CSV file in place of the folder, whose pictures are elsewhere."""
    shutil.rmtree(folder)
    folder.write_text("path,label\nmissing.png,apple\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_flat, "has 0 class folders"),
        (make_yolo, "class folders without an image: labels"),
        (make_inside_out, "every class folder has train and test folders of its own"),
        (make_other_classes, "has not the classes of train: missing ['plum tree']"),
        (make_label_file, "has 0 class folders"),
        (lambda folder: None, "has 0 class folders"),
    ],
)
def test_data_that_no_classifier_can_use_is_refused(tmp_path: Path, make: object, words: str) -> None:
    """A folder that is there and no data set for a classifier is told apart from one that comes later."""
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")  # type: ignore[operator]
    done = without_terminal(tmp_path, "spec/x.yaml", "--data", "data")
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "spec").exists()


def test_classes_that_are_given_must_be_those_of_the_images(tmp_path: Path) -> None:
    """A number that contradicts the folder is refused; names are a person's own order."""
    make_images(tmp_path / "data", FRUITS)
    wrong = without_terminal(tmp_path, "spec/x.yaml", "--data", "data", "--classes", "4")
    assert wrong.returncode == 2
    assert "data holds 3 classes, got 4" in wrong.stderr
    done = without_terminal(tmp_path, "spec/x.yaml", "--data", "data", "--classes", "no,plum tree,apple")
    assert done.returncode == 0, done.stderr
    spec = yaml.safe_load((tmp_path / "spec" / "x.yaml").read_text(encoding="utf-8"))
    assert spec["classes"] == ["no", "plum tree", "apple"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("spec/fruits", "ends in .yaml"), ("spec.yaml/", "is a folder"), ("there.yaml", "there.yaml exists")],
)
def test_paths_that_cannot_be_written(tmp_path: Path, path: str, words: str) -> None:
    """A path without suffix, a folder and a file that exists are refused before anything is asked."""
    (tmp_path / "spec.yaml").mkdir()
    (tmp_path / "there.yaml").write_text("mine\n", encoding="utf-8")
    done = without_terminal(tmp_path, path, "--classes", "3")
    assert done.returncode == 2
    assert words in done.stderr
    assert (tmp_path / "there.yaml").read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize(
    ("board", "release"),
    [("KV260", "3.0"), ("VEK280", "3.5"), ("U50", "1.4"), ("CUSTOM_ZYNQMP:B2304", "3.0"), ("ZU4EV", "2.5")],
)
def test_the_release_is_found_out(tmp_path: Path, board: str, release: str) -> None:
    """Without --release it is the newest that ships an image for the board, else 3.0, else what has its DPU."""
    done = without_terminal(tmp_path, "spec/x.yaml", "--classes", "3", "--board", board)
    assert done.returncode == 0, done.stderr
    assert load_project(tmp_path / "spec" / "x.yaml").project.target.vitis_ai == release


def test_boards_without_a_common_release_are_named(tmp_path: Path) -> None:
    """Boards that no release serves together are refused with the releases of each."""
    done = without_terminal(tmp_path, "spec/x.yaml", "--classes", "3", "--board", "V70,U50")
    assert done.returncode == 2
    assert "no release has a DPU for V70, U50" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "no",
        "1e3",
        "0x10",
        "a: b",
        "x # y",
        "é",
        "\u2028",
        '"',
        "{",
        "2026-11-26",
        "~",
        "a" * 300,
        "日本",
        "🍎",
        "-",
        "*a",
    ],
)
def test_any_name_of_a_class_comes_back_as_it_was(name: str) -> None:
    """Text that YAML could read otherwise is quoted."""
    document = read_document(f"classes: [{inline(name)}, other]\n".encode(), "x.yaml")
    assert document.findings == []
    assert document.value == {"classes": [name, "other"]}
