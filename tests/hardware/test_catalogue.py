"""The catalogue against the recorded facts, its schemas, and how a board is added."""

import csv
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpuforge.errors import FormatError
from dpuforge.load.boards.board_files import build_board, expand_configurations
from dpuforge.load.boards.catalogue import load_catalogue
from dpuforge.load.boards.resolve_board import resolve_board
from dpuforge.paths import find_shipped
from dpuforge.records.hardware import Catalogue, Configuration, Engine, Limit

ENGINE_OPERATIONS = {"pool": "pool_type", "alu": "alu_type", "eltwise": "elew_type"}
ENGINE_LIMITS = {"pool": {"max": "max_limit", "avg": "avg_limit"}, "dwconv": {"all": "dwconv_limit"}}
ENGINE_LIMITS |= {"alu": {"all": "alu_limit"}, "eltwise": {}}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV of facts."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compact(limit: Limit) -> dict[str, list[str]]:
    """Write a limit as the facts do: {"kernel_size": ["1-8"], "stride": ["1-4"]}, ranges expanded."""
    return {"kernel_size": expand(str(limit.kernel)), "stride": expand(str(limit.stride))}


def expand(text: str) -> list[str]:
    """Return every size that "1-3,7" or "1 to 3, 7" stands for."""
    values: list[int] = []
    for part in text.replace(" to ", "-").split(","):
        low, _, high = part.strip().partition("-")
        values += range(int(low), int(high or low) + 1)
    return [str(value) for value in sorted(set(values))]


def compare_engine(name: str, engine: Engine | None, text: str) -> None:
    """Assert that an engine says what the JSON of the facts says."""
    if not text:
        assert engine is None
        return
    row: dict[str, Any] = json.loads(text)
    assert engine is not None
    assert [str(engine.channels)] == row["channel_parallel"]
    assert [str(engine.pixels)] == row["pixel_parallel"]
    assert list(engine.operations) == row.get(ENGINE_OPERATIONS.get(name, ""), [])
    assert (
        list(engine.nonlinear) == [kind for item in row["nonlinear"] for kind in item.get("nonlinear_type", [])]
        if "nonlinear" in row
        else engine.nonlinear == ()
    )
    for kind, column in ENGINE_LIMITS[name].items():
        stated = row.get(column, [{}])[0]
        expected = {key: expand(stated[key][0]) for key in ("kernel_size", "stride") if key in stated}
        assert (compact(engine.limits[kind]) if kind in engine.limits else {}) == expected
    pad = {side.removeprefix("pad_"): expand(sizes[0]) for side, sizes in row.get("pad_limit", [{}])[0].items()}
    assert {side: expand(str(sizes)) for side, sizes in engine.pad.items()} == pad


def test_every_target_of_the_facts_is_in_the_catalogue_number_for_number(catalogue: Catalogue, facts: Path) -> None:
    """All 276 rows of targets.csv: parallelism, banks, limits, engines and fingerprints are equal."""
    rows = read_rows(facts / "targets.csv")
    assert len(rows) == 276
    for row in rows:
        release = row["release"].lstrip("v").replace("1.3.2", "1.3")
        dpu = catalogue.dpus[row["target"]].at_release(release)
        revision = dpu.revision(release)
        assert revision is not None
        assert f"{revision.fingerprint:#x}" == row["fingerprint"]
        numbers = (dpu.isa, dpu.batch, dpu.input_channels, dpu.output_channels, dpu.pixels, dpu.peak_ops_per_cycle)
        columns = ("batch", "icp", "ocp", "pixel_parallel", "peak_ops_per_cycle_per_batch_engine")
        assert numbers == (int(row["isa"], 16), *(int(row[column]) for column in columns))
        optional = (dpu.channel_augmentation, dpu.load_channels, dpu.save_channels)
        assert optional == tuple(
            int(row[k]) if row[k] else None for k in ("channel_augmentation", "load_cp", "save_cp")
        )
        banks = " ".join(f"{b.name}:{b.count}x{b.width_bytes}x{b.depth}({b.kind})" for b in dpu.banks)
        assert banks == row["all_banks"]
        conv = dpu.engines["conv"]
        assert " ".join(conv.nonlinear) == row["conv_nonlinear"]
        assert " ".join(conv.input_banks) == row["conv_input_banks"]
        stated = json.loads(row["conv_limit"])
        assert compact(conv.limits["all"]) == {key: expand(stated[key][0]) for key in ("kernel_size", "stride")}
        assert dpu.save_argmax == (row["save_argmax"] == "true")
        assert (dpu.family, revision.source) == (row["family"], row["source"])
        for name in ("pool", "dwconv", "alu", "eltwise"):
            compare_engine(name, dpu.engines.get(name), row[name])


def configurations(catalogue: Catalogue) -> Iterator[Configuration]:
    """Yield every configuration of every board."""
    for board in catalogue.boards.values():
        yield from board.configurations


def test_every_board_of_the_facts_is_in_the_catalogue_number_for_number(catalogue: Catalogue, facts: Path) -> None:
    """Each row of boards.csv is found under its release with the same target, clock, cores, batch and arch.json."""
    known = {
        (item.source, item.target, item.fingerprint, item.clock_mhz, item.cores, item.arch_json_path, item.status)
        for item in configurations(catalogue)
    }
    rows = read_rows(facts / "boards.csv")
    assert len(rows) == 86
    for row in rows:
        fingerprint = int(row["fingerprint"], 16) if row["fingerprint"] else None
        clock = float(row["clock_mhz"]) if row["clock_mhz"] else None
        cores = int(row["cores"]) if row["cores"] else None
        key = (row["source"], row["target_name"], fingerprint, clock, cores, row["arch_json_path"], row["status"])
        assert key in known, row


def test_what_is_derived_of_a_board_is_what_the_facts_say(catalogue: Catalogue, facts: Path) -> None:
    """Name, family, peak, batch, TOPS, clock note and note of each row of boards.csv, stated in the file or derived."""
    known = {
        (item.family, item.target, item.peak_ops_per_cycle, item.peak_tops, item.batch, item.clock_note, item.note)
        for item in configurations(catalogue)
    }
    for row in read_rows(facts / "boards.csv"):
        peak = int(row["peak_ops_per_cycle"]) if row["peak_ops_per_cycle"] else None
        tops = float(row["peak_tops"]) if row["peak_tops"] else None
        batch = int(row["batch_per_core"]) if row["batch_per_core"].isdigit() else 1
        key = (row["family"], row["target_name"], peak, tops, batch, row["ops_clock_note"], row["note"])
        assert key in known, row


def test_arch_json_of_every_board_is_what_the_facts_say(catalogue: Catalogue, facts: Path) -> None:
    """The content of arch.json is copied from boards.csv: a target for released boards, a fingerprint for others."""
    for row in read_rows(facts / "boards.csv"):
        if row["arch_json_content"]:
            same = [item for item in configurations(catalogue) if item.source == row["source"]]
            assert json.loads(row["arch_json_content"]) in [dict(item.arch_json) for item in same], row


def test_every_overlay_configuration_of_the_facts_is_in_the_catalogue(catalogue: Catalogue, facts: Path) -> None:
    """Each DPU-PYNQ and Kria overlay row is present with the fingerprint of its generation."""
    stated = [
        (item.source, f"{item.fingerprint:#x}", item.cores) for item in configurations(catalogue) if item.fingerprint
    ]
    for row in read_rows(facts / "pynq_kria_dpu_configs.csv"):
        old = row["tag"].startswith(("v1.", "xilinx-v2020", "xilinx_v2021"))
        fingerprint = row["fp_isa0" if old else "fp_isa1"]
        leaf = f"{row['board'].rpartition('/')[2]}/dpu_conf.vh@"  # Kria moved its examples between tags
        wanted = (fingerprint, int(row["cores"]))
        assert any(
            source.startswith(row["repo"].replace("+", "/"))
            and leaf in source
            and row["tag"] in source
            and (value, cores) == wanted
            for source, value, cores in stated
        ), row


def test_compiled_models_of_the_facts_carry_fingerprints_that_the_catalogue_knows(
    catalogue: Catalogue, facts: Path
) -> None:
    """Every (dpu_name, fingerprint) read out of a compiled xmodel is a board configuration or a registered target."""
    known = {(item.target, item.fingerprint) for item in configurations(catalogue)}
    known |= {(name, r.fingerprint) for name in catalogue.dpus for r in catalogue.dpus[name].revisions}
    for row in read_rows(facts / "xmodel_fingerprints.csv"):
        if not row["dpu_fingerprint"]:
            continue
        value = int(row["dpu_fingerprint"], 16)
        synthesised = row["dpu_name"].endswith(f"_{value:016X}")
        assert synthesised or (row["dpu_name"], value) in known, row


def test_every_catalogue_file_is_valid_and_named_after_its_entry(catalogue: Catalogue) -> None:
    """Reading all files raises nothing, and each holds the board, target or release of its file name."""
    assert all(catalogue.boards[name].name == name for name in catalogue.boards)
    assert all(catalogue.dpus[name].target == name for name in catalogue.dpus)
    assert all(catalogue.releases[name].name == name for name in catalogue.releases)


def test_no_release_names_a_floating_image(catalogue: Catalogue) -> None:
    """Every image has a tag, and none is latest."""
    for release in catalogue.releases.values():
        for image in release.images:
            assert image.image.rpartition(":")[2] not in ("", "latest"), image


def test_adding_a_board_takes_one_file(tmp_path: Path) -> None:
    """A YAML file dropped into boards/ is resolved, with no change of code."""
    for folder in ("boards", "dpus", "releases"):
        shutil.copytree(find_shipped(f"spec/{folder}"), tmp_path / folder)
    (tmp_path / "boards" / "MYBOARD.yaml").write_text(
        "board: MYBOARD\n"
        "description: A board of our own\n"
        "device: zynq_ultrascale_plus\n"
        "custom_families: [DPUCZDX8G]\n"
        "source: our block design\n"
        "configurations:\n"
        "  - {name: MYBOARD, release: '3.0', family: DPUCZDX8G, target: DPUCZDX8G_ISA1_B1600,\n"
        "     fingerprint: '0x101000056010404', clock_mhz: 250, cores: 1, batch: 1,\n"
        "     arch_json: {fingerprint: '0x101000056010404'}, prebuilt: false, status: ours, source: xdputil query}\n"
    )
    found = resolve_board(load_catalogue(tmp_path), "MYBOARD", "3.0")
    assert (found.target, found.clock_mhz) == ("DPUCZDX8G_ISA1_B1600", 250)
    assert found.arch_json == {"fingerprint": "0x101000056010404"}


def test_a_board_file_with_a_mistake_is_refused_with_its_field(tmp_path: Path) -> None:
    """A misspelt or missing key raises FormatError that names the file, the key and the schema."""
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "BAD.yaml").write_text("board: BAD\ndescripton: misspelt\n")
    with pytest.raises(FormatError, match=r"BAD\.yaml.*descripton.*unknown field") as caught:
        load_catalogue(tmp_path).boards["BAD"]
    assert "spec/schema/board.yaml" in caught.value.remedy


def test_a_new_board_takes_fifteen_lines(tmp_path: Path) -> None:
    """A board with a released image and an overlay, under two releases each, is complete in fifteen lines."""
    for folder in ("dpus", "releases"):
        shutil.copytree(find_shipped(f"spec/{folder}"), tmp_path / folder)
    text = (
        "board: MYBOARD\n"
        "description: A board of our own\n"
        "device: zynq_ultrascale_plus\n"
        "custom_families: [DPUCZDX8G]\n"
        "configurations:\n"
        "  - {target: DPUCZDX8G_ISA1_B4096, fingerprint: '0x101000056010407', clock_mhz: 300, cores: 2,\n"
        "     prebuilt: true, status: ours, source: xdputil query, releases: ['3.0', '3.5']}\n"
        "  - name: MYBOARD small\n"
        "    target: DPUCZDX8G_ISA1_B1600\n"
        "    fingerprint: '0x101000056010404'\n"
        "    cores: 1\n"
        "    status: ours\n"
        "    releases:\n"
        "      - {release: '3.0', clock_mhz: 250, source: xdputil query under 3.0}\n"
        "      - {release: '3.5', clock_mhz: 275, source: xdputil query under 3.5}\n"
    )
    assert len(text.splitlines()) <= 15
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "MYBOARD.yaml").write_text(text)
    own = load_catalogue(tmp_path)
    released, small = resolve_board(own, "MYBOARD", "3.5"), resolve_board(own, "MYBOARD", "3.5", "MYBOARD small")
    assert (released.arch_json, released.cores) == ({"target": "DPUCZDX8G_ISA1_B4096"}, 2)
    assert released.arch_json_path == "/opt/vitis_ai/compiler/arch/DPUCZDX8G/MYBOARD/arch.json"
    assert (small.arch_json, small.clock_mhz) == ({"fingerprint": "0x101000056010404"}, 275)
    assert (small.peak_ops_per_cycle, small.batch, small.source) == (1600, 1, "xdputil query under 3.5")
    assert [item.peak_tops for item in own.boards["MYBOARD"].configurations] == [2.458, 2.458, 0.4, 0.44]


def test_the_board_that_the_guide_shows_is_a_board(tmp_path: Path) -> None:
    """The example of CONTRIBUTING.md is complete as it stands, in fifteen lines at most."""
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = guide.partition("```yaml\nboard: MYBOARD")[2].partition("```")[0]
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "MYBOARD.yaml").write_text(f"board: MYBOARD{text}")
    found = load_catalogue(tmp_path).boards["MYBOARD"]
    assert [(item.release, item.source) for item in found.configurations] == [
        ("3.0", "xdputil query under 3.0"),
        ("3.5", "xdputil query under 3.5"),
    ]
    assert len(text.splitlines()) <= 15


def test_what_a_release_states_stands_before_what_its_configuration_states() -> None:
    """A configuration's facts hold under all its releases, except where a release states its own."""
    shared = {"status": "verified", "source": "a log", "clock_mhz": 300}
    rows = [{"release": "2.5", "clock_mhz": 275}, "3.0"]
    document = {"board": "B", "configurations": [{**shared, "releases": rows}, {**shared, "release": "1.3"}]}
    assert [(facts["name"], facts["release"], facts["clock_mhz"]) for _, facts in expand_configurations(document)] == [
        ("B", "2.5", 275),
        ("B", "3.0", 300),
        ("B", "1.3", 300),
    ]


def test_no_board_file_states_what_follows_from_its_other_facts(catalogue: Catalogue) -> None:
    """Leaving out any stated value that can be derived changes the board: no file says a thing twice."""
    derivable = {"name", "family", "batch", "peak_ops_per_cycle", "peak_tops", "clock_note"}
    derivable |= {"arch_json", "arch_json_path", "prebuilt"}
    for name, board in catalogue.boards.items():
        document = yaml.safe_load((find_shipped("spec/boards") / f"{name}.yaml").read_text(encoding="utf-8"))
        for configuration in document["configurations"]:
            for place in (configuration, *configuration.get("releases", ())):
                for key in derivable & set(place) if isinstance(place, dict) else ():
                    value = place.pop(key)
                    assert build_board(document, catalogue.dpus, catalogue.families) != board, (name, place, key)
                    place[key] = value


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        (7, "    cores: two", "BAD.yaml:7: configurations[0].cores: must be of integer type"),
        (10, "      - {release: 3.0, source: a log}", "BAD.yaml:10: configurations[0].releases[0].release: must be of"),
        (10, "      - {release: '3.0'}", "BAD.yaml:10: configurations[0].releases[0].source: required field"),
        (10, "      - {source: a log}", "BAD.yaml:10: configurations[0].releases[0].release: required field"),
        (11, "      - 3.5", "BAD.yaml:11: configurations[0].releases[1]: must be of"),
        (5, "  - fingerprint: '0x0'", "BAD.yaml:5: configurations[0].fingerprint: value does not match regex"),
        (7, "    prebuilt: true", "BAD.yaml:10: configurations[0].releases[0].target: required field of a released"),
        (8, "    satus: ours", "BAD.yaml:8: configurations[0].satus: unknown field"),
        (5, "  - fingerprint: 0x101000056010404", "BAD.yaml:5: configurations[0].fingerprint: must be of string"),
        (9, "    release: '3.0'", "BAD.yaml:10: not YAML"),
    ],
)
def test_every_mistake_in_a_board_file_is_told_with_its_line(
    tmp_path: Path, line: int, changed: str, message: str
) -> None:
    """The message leads to the line of the file, in a configuration as in one of its releases."""
    lines = [
        "board: BAD",
        "description: A board with one mistake",
        "device: zynq_ultrascale_plus",
        "configurations:",
        "  - fingerprint: '0x101000056010404'",
        "    clock_mhz: 300",
        "    cores: 1",
        "    status: ours",
        "    releases:",
        "      - {release: '3.0', source: a log}",
        "      - {release: '3.5', source: a log}",
    ]
    (tmp_path / "boards").mkdir()
    path = tmp_path / "boards" / "BAD.yaml"
    path.write_text("\n".join(lines))
    assert len(load_catalogue(tmp_path).boards["BAD"].configurations) == 2
    lines[line - 1] = changed
    path.write_text("\n".join(lines))
    with pytest.raises(FormatError) as caught:
        load_catalogue(tmp_path).boards["BAD"]
    assert message in caught.value.message


def test_reading_one_board_does_not_read_the_other_files() -> None:
    """What generate needs (one board, its release and target) costs a fraction of a second of processor time."""
    start = time.process_time()
    resolve_board(load_catalogue(), "KV260", "3.0")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("name", ["board", "dpu", "dpu_family", "release"])
def test_the_shipped_schemas_are_sound_cerberus_rules(name: str) -> None:
    """Cerberus accepts the rules themselves; runs take them as they are."""
    from cerberus import Validator

    from dpuforge.load.boards.catalogue import _read_schema

    Validator(_read_schema(name))
