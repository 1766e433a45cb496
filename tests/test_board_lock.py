"""board-lock: what a board printed is read, kept beside the spec, and held against everything that is built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dpuforge import pipeline
from dpuforge.commands.lock_board import board_lock
from dpuforge.errors import ExitCode, FormatError, SpecError, UserError
from dpuforge.estimating import estimate_spec
from dpuforge.load.boards.board_query import read_query, read_query_file
from dpuforge.load.boards.catalogue import load_catalogue
from dpuforge.load.boards.lock_file import check_lock, find_lock, find_releases, read_lock, write_lock
from dpuforge.load.boards.resolve_board import resolve_board
from dpuforge.records.board_lock import BoardFacts
from tests.board_queries import KRIA_LOG, make_core, make_query
from tests.conftest import REPO

CATALOGUE = load_catalogue()
IMAGE_25 = make_query(make_core())
IMAGE_30 = make_query(make_core(fingerprint="0x101000056010407"), release="3.0.0", ip="v4.1.0")
ACCELERATOR = {"DPU Arch": "", "cu_name": "pp_pipeline_accel:pp_1", "fingerprint": "0x0", "name": "DPU Core 1"}
VERSAL = make_core(
    **{
        "DPU Arch": "DPUCVDX8G_ISA3_C32B6",
        "fingerprint": "0x603000b56011861",
        "DPU Frequency (MHz)": 333,
        "AIE Frequency (Hz)": 1250000000,
        "DPU Batch Number": 6,
    }
)


def test_log_lines_prompts_and_accelerators_are_passed_over() -> None:
    """Of a captured terminal with warnings around the JSON, the DPU core is read and the foreign kernel named."""
    facts = read_query(KRIA_LOG + make_query(make_core(), ACCELERATOR) + "\nroot@kv260:~# {\n")
    assert (facts.target, facts.fingerprint, len(facts.cores)) == ("DPUCZDX8G_ISA1_B4096", 0x101000016010407, 1)
    assert facts.cores[0].clock_mhz == 300
    assert facts.other_kernels == ("pp_pipeline_accel:pp_1",)
    assert facts.source == "xdputil query, VART 2.5.0, DPU IP 4.0.0"


@pytest.mark.parametrize(
    ("text", "clock", "batch", "cores"),
    [
        (make_query(make_core(0), make_core(1), make_core(2)), 300, None, 3),
        (make_query(VERSAL), 1250, 6, 1),
        (make_query(make_core(cu_name=None, is_vivado_flow=True, **{"DPU Frequency (MHz)": 275})), 275, None, 1),
        (make_query(make_core(**{"DPU Frequency (MHz)": None})), None, None, 1),
        (make_query(make_core()).replace("\n", "\r\n"), 300, None, 1),
        ("\x1b[32m" + make_query(make_core()).replace("300", "\x1b[1m300\x1b[0m"), 300, None, 1),
        (make_query(make_core(fingerprint=0x101000016010407)), 300, None, 1),
    ],
    ids=["three cores", "versal", "vivado flow", "no clock", "crlf", "coloured", "number"],
)
def test_every_family_s_shape_is_read(text: str, clock: float | None, batch: int | None, cores: int) -> None:
    """Clock (of the AI engines on Versal), batch and number of cores are read where the board prints them."""
    facts = read_query(text)
    assert (facts.cores[0].clock_mhz, facts.cores[0].batch, len(facts.cores)) == (clock, batch, cores)


def test_a_runtime_that_does_not_name_the_dpu_gets_the_name_from_the_fingerprint() -> None:
    """Where `DPU Arch` is missing, the target is named as releases name an unregistered one."""
    assert read_query(make_query(make_core(**{"DPU Arch": None}))).target == "DPUCZDX8G_ISA1_B4096_0101000016010407"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_every_usual_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    """UTF-8 with and without mark, and the UTF-16 that PowerShell redirects into."""
    path = tmp_path / "query.json"
    path.write_bytes(IMAGE_25.encode(encoding))
    assert read_query_file(path).fingerprint == 0x101000016010407


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no output of xdputil query"),
        ('{"kernels": "none"} {"a": [1]}', "its JSON is broken or cut short"),
        (IMAGE_25[:-30], "its JSON is broken or cut short"),
        (make_query(), "the board shows no DPU, got 0 kernel"),
        (make_query(ACCELERATOR), "the board shows no DPU, got 1 kernel"),
        (make_query(make_core(), make_core(1, fingerprint="0x101000016010406")), "DPUs of several kinds: .*407, .*406"),
        (make_query(make_core(fingerprint="B4096")), "got fingerprint 'B4096'"),
        (make_query(make_core(fingerprint="0x10101000016010407")), "got fingerprint '0x10101000016010407'"),
        (make_query(make_core(fingerprint=[1])), r"got fingerprint \[1\]"),
    ],
)
def test_what_is_no_query_is_refused(text: str, words: str) -> None:
    """Other text, JSON cut short, no DPU, several kinds of DPU and impossible fingerprints say what is wrong."""
    with pytest.raises(FormatError, match=words):
        read_query(text)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A missing file, binary content and a file too large raise FormatError."""
    (tmp_path / "binary").write_bytes(b"\x80\x81\x82")
    (tmp_path / "large").write_bytes(b"{" * 1_000_001)
    for name, words in (("absent", "cannot be read"), ("binary", "not text"), ("large", "1000001 bytes")):
        with pytest.raises(FormatError, match=words):
            read_query_file(tmp_path / name)


@given(st.text(alphabet='{}[]"kernels:,0x1 \n') | st.integers(0, len(IMAGE_25)).map(lambda end: IMAGE_25[:end]))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text leads to anything but facts or a FormatError."""
    with suppress(FormatError):
        assert isinstance(read_query(text), BoardFacts)


def test_a_lock_keeps_every_board_and_the_last_word_of_each(tmp_path: Path) -> None:
    """Entries are added and replaced by board, sorted, read back as written, and no partial file stays."""
    spec = tmp_path / "fruits.yaml"
    assert read_lock(spec) == {}
    write_lock(spec, "ZCU104", read_query(IMAGE_25))
    write_lock(spec, "VCK190", read_query(make_query(VERSAL)))
    path = write_lock(spec, "ZCU104", read_query(IMAGE_30))
    locks = read_lock(spec)
    assert list(locks) == ["VCK190", "ZCU104"]
    assert (locks["VCK190"].clock_mhz, locks["VCK190"].batch, locks["VCK190"].cores) == (1250, 6, 1)
    assert locks["ZCU104"].fingerprint == 0x101000056010407
    assert locks["ZCU104"].source == "xdputil query, VART 3.0.0, DPU IP 4.1.0"
    assert [item.name for item in tmp_path.iterdir()] == [path.name] == ["fruits.lock.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "boards: {}",
        "lock_version: 2\nboards: {}",
        "lock_version: 1\nboards: {KV260: {target: x, fingerprint: 0x12, cores: 1, source: y}}",
        'lock_version: 1\nboards: {KV260: {target: x, fingerprint: "12", cores: 1, source: y}}',
        'lock_version: 1\nboards: {KV260: {target: x, fingerprint: "0x12", cores: 0, source: y}}',
        "lock_version: 1\nlock_version: 1\nboards: {}",
    ],
)
def test_a_lock_that_was_edited_badly_is_refused(tmp_path: Path, text: str) -> None:
    """A lock of another form raises FormatError that names the file; it is never taken for no lock."""
    find_lock(tmp_path / "fruits.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"fruits\.lock\.yaml: not a lock"):
        read_lock(tmp_path / "fruits.yaml")


def explain(text: str, board: str = "KV260", release: str = "3.0", tmp: Path | None = None) -> str:
    """Return what check_lock says of a spec's default DPU when the board printed `text`."""
    assert tmp is not None
    target = resolve_board(CATALOGUE, board, release)
    write_lock(tmp / "x.yaml", target.board, read_query(text))
    findings = check_lock(CATALOGUE, (target,), read_lock(tmp / "x.yaml"))
    return "".join(f"{finding.message}\n{finding.help}" for finding in findings)


def test_a_mismatch_names_the_releases_and_images_that_fit(tmp_path: Path) -> None:
    """An image of 2.5 under a spec for 3.0: the remedy is release 2.5, the image of 3.0, or the fingerprint."""
    text = explain(IMAGE_25, tmp=tmp_path)
    assert "KV260 reported the DPU DPUCZDX8G_ISA1_B4096, fingerprint 0x101000016010407" in text
    assert "got DPUCZDX8G_ISA1_B4096, fingerprint 0x101000056010407, of Vitis AI 3.0" in text
    assert 'set target.vitis_ai: "2.5" (its image is xilinx-kv260-dpu-v2022.1-v2.5.0.img.gz)' in text
    assert "boot the image of 3.0 (xilinx-kv260-dpu-v2022.2-v3.0.0.img.gz)" in text
    assert 'boards: [{board: KV260, fingerprint: "0x101000016010407"}]' in text
    assert explain(IMAGE_30, tmp=tmp_path) == ""
    assert explain(IMAGE_25, release="2.5", tmp=tmp_path) == ""


def test_the_release_offered_resolves_to_the_board_s_dpu() -> None:
    """Every release that find_releases offers by default resolves to that fingerprint, and no other release does."""
    for board in ("KV260", "ZCU102", "VCK190"):
        for fingerprint in (0x1000020F6014407, 0x101000016010407, 0x101000056010407, 0x603000B56011861, 0x1):
            offered = {fit.release for fit in find_releases(CATALOGUE, board, fingerprint) if not fit.dpu}
            found = set()
            for release in CATALOGUE.releases:
                try:
                    target = resolve_board(CATALOGUE, board, release)
                except UserError:
                    continue
                found |= {release} if target.fingerprint == fingerprint else set()
            assert offered == found
    named = find_releases(CATALOGUE, "KV260", 0x101000016010406)
    assert named[0].dpu.startswith("KV260 smartcam")


def make_project(tmp_path: Path, boards: str = "[KV260, ZCU104]", release: str = "3.0") -> Path:
    """Write a project with the quickstart spec for other boards and return the spec's path."""
    text = (REPO / "spec/quickstart.yaml").read_text(encoding="utf-8")
    text = text.replace("boards: [KV260, ZCU104]", f"boards: {boards}").replace('"3.0"', f'"{release}"')
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec/quickstart.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "spec/quickstart.yaml"


def lock(spec: Path, text: str, *arguments: str) -> Any:
    """Run the command with `text` on standard input."""
    app = typer.Typer()
    app.command()(board_lock)
    return CliRunner().invoke(app, [str(spec), "--from", "-", *arguments], input=text)


def test_the_command_writes_the_lock_and_says_whether_the_spec_fits(tmp_path: Path) -> None:
    """Exit code 0 with the DPU that the spec builds for, 1 with another one; the lock is written in both cases."""
    spec = make_project(tmp_path)
    done = lock(spec, IMAGE_30, "--board", "kv260")
    assert done.exit_code == ExitCode.DONE
    assert "KV260 carries DPUCZDX8G_ISA1_B4096, fingerprint 0x101000056010407" in done.output
    done = lock(spec, IMAGE_25, "--board", "KV260", "--json")
    assert done.exit_code == ExitCode.DRIFT
    document = json.loads(done.stdout)
    assert (document["fits"], document["fingerprint"], document["cores"]) == (False, "0x101000016010407", 1)
    assert "v2.5.0.img.gz" in document["problems"][0]["help"]
    assert read_lock(spec)["KV260"].fingerprint == 0x101000016010407


@pytest.mark.parametrize(
    ("count", "fingerprint", "board"), [(1, 0x101000016010407, "KV260"), (2, 0x101000056010407, "ZCU104")]
)
def test_the_board_shows_in_the_number_of_cores(tmp_path: Path, count: int, fingerprint: int, board: str) -> None:
    """Without --board one core is taken for the KV260 and two for the ZCU104 of a spec with both, and that is said."""
    spec = make_project(tmp_path)
    done = lock(spec, make_query(*(make_core(index, fingerprint=f"{fingerprint:#x}") for index in range(count))))
    assert f"taken for {board}: {count} core(s)" in done.output
    assert [item.fingerprint for item in read_lock(spec).values()] == [fingerprint]
    assert list(read_lock(spec)) == [board]


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (
            make_query(*map(make_core, range(4))),
            (),
            "it does not show which one carries DPUCZDX8G_ISA1_B4096",
        ),
        (IMAGE_25, ("--board", "ZCU102"), "has no board ZCU102"),
        (make_query(VERSAL), ("--board", "KV260"), "is a DPUCVDX8G, got board KV260"),
        ("nothing", ("--board", "KV260"), "standard input: no output of xdputil query"),
    ],
)
def test_a_query_that_cannot_be_this_board_s_writes_nothing(
    tmp_path: Path, text: str, arguments: tuple[str, ...], words: str
) -> None:
    """No board named among several, a board that the spec has not, another family's DPU and other text are refused."""
    spec = make_project(tmp_path)
    done = lock(spec, text, *arguments)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
    assert not find_lock(spec).exists()


def test_an_unknown_fingerprint_is_taken_from_the_board(tmp_path: Path) -> None:
    """Where no source gives a fingerprint, the lock's is used if the target agrees, and refused if it does not."""
    (board, release, target), *_ = (
        (board.name, item.release, item.target)
        for board in CATALOGUE.boards.values()
        for item in board.configurations
        if item.usable and item.prebuilt and item.fingerprint is None
    )
    spec = make_project(tmp_path, f"[{board}]", release)
    write_lock(
        spec, board, read_query(make_query(make_core(**{"DPU Arch": target, "fingerprint": "0x900000000000123"})))
    )
    assert pipeline.load(spec).targets[0].fingerprint == 0x900000000000123
    write_lock(spec, board, read_query(make_query(make_core())))
    with pytest.raises(SpecError, match="of unknown fingerprint"):
        pipeline.load(spec)


def run_dpuforge(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a project."""
    command = [sys.executable, "-m", "dpuforge", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_generate_and_compile_refuse_another_dpu_than_the_board_s(tmp_path: Path) -> None:
    """After a lock for another DPU generate stops at the spec's boards and writes nothing; compile.sh of that board
    stops too, that of the other board does not; with the release that fits both go on."""
    spec = make_project(tmp_path)
    assert run_dpuforge("generate", cwd=tmp_path).returncode == 0
    before = (tmp_path / "generated/quickstart/manifest.json").read_bytes()
    (tmp_path / "query.json").write_text(KRIA_LOG + IMAGE_25, encoding="utf-8")
    arguments = ("board-lock", "spec/quickstart.yaml", "--from", "query.json", "--board", "KV260")
    assert run_dpuforge(*arguments, cwd=tmp_path).returncode == ExitCode.DRIFT
    refused = run_dpuforge("generate", cwd=tmp_path)
    assert refused.returncode == ExitCode.BAD_SPEC
    line = spec.read_text(encoding="utf-8").splitlines().index("  boards: [KV260, ZCU104]") + 1
    assert f"spec/quickstart.yaml:{line}:11: target.boards[0]: KV260 reported" in refused.stderr
    assert (tmp_path / "generated/quickstart/manifest.json").read_bytes() == before
    assert "the board reported the DPU 0x101000016010407" in compile_board(tmp_path, "KV260", ExitCode.STAGE_FAILED)
    assert "vai_c_xir is not on PATH" in compile_board(tmp_path, "ZCU104", ExitCode.ENVIRONMENT)
    spec.write_text(spec.read_text(encoding="utf-8").replace('"3.0"', '"2.5"'), encoding="utf-8")
    assert run_dpuforge("generate", cwd=tmp_path).returncode == 0
    assert "vai_c_xir is not on PATH" in compile_board(tmp_path, "KV260", ExitCode.ENVIRONMENT)


def test_estimate_refuses_another_dpu_than_the_board_s(tmp_path: Path) -> None:
    """It predicts the spec's boards as they are built, lock included, and any board under another release."""
    spec = make_project(tmp_path, "[KV260]")
    write_lock(spec, "KV260", read_query(IMAGE_25))
    with pytest.raises(SpecError, match="KV260 reported the DPU"):
        estimate_spec(spec, ("KV260",), "")
    (found,) = estimate_spec(spec, ("KV260",), "2.5")
    assert found.board.fingerprint == 0x101000016010407


def compile_board(root: Path, board: str, expected: ExitCode) -> str:
    """Run a board's compile.sh, where the compiler is not installed, and return its message."""
    if shutil.which("vai_c_xir"):
        pytest.skip("vai_c_xir is on this machine: the order of its messages would differ")
    script = root / "generated/quickstart/compile.sh"
    done = subprocess.run(["bash", str(script), board], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr
    return done.stderr
