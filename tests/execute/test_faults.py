"""The table of what goes wrong: every code has a row, every row is complete, recorded logs lead to their rows."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpuforge.execute.compile_log import find_failures
from dpuforge.execute.faults import explain_container, explain_engine, find_code, look_up, read_rows
from dpuforge.execute.log_scan import scan_log
from dpuforge.explaining import explain_log
from dpuforge.load.findings import Path as Keys
from dpuforge.load.spec_schema import find_rules
from tests.conftest import REPO

ERRORS = range(20001, 20035)
WARNINGS = range(21001, 21035)  # 21035 to 21038 exist too; three of them have a name on record and no number


def test_every_numbered_code_of_the_quantizer_has_one_row() -> None:
    """34 errors, the numbered warnings and the note: each number once, and 37 warnings of the tool's by name."""
    rows = [row for row in read_rows("quantizer") if row.code != "NOT_EMULATED"]
    numbers = [row.number for row in rows if row.number is not None]
    assert sorted(numbers) == [*ERRORS, *WARNINGS, 22001]
    assert len({row.code for row in rows if row.severity == "error"}) == 34
    assert len({row.code for row in rows if row.severity == "warning"}) == 37


def test_every_code_of_the_recorded_messages_has_a_row(facts: Path) -> None:
    """Each code that a message of releases 3.0 and 3.5 names is explained, in its own severity."""
    with (facts / "quantizer_messages.csv").open(newline="") as stream:
        codes = {row["code"] for row in csv.DictReader(stream)} - {""}
    kinds = {"QError": "error", "QWarning": "warning", "QNote": "note"}
    known = {(row.severity, row.code) for row in read_rows("quantizer")}
    assert len(codes) > 50
    assert [code for code in codes if (kinds[code.split(".")[0]], code.split(".")[1]) not in known] == []


def test_every_code_that_the_emulator_prints_has_a_row() -> None:
    """What the emulator says in the tool's words is explained too."""
    source = "".join(path.read_text() for path in (REPO / "generator/dpuforge/emulator").rglob("*.py"))
    for call, severity in (("fail", "error"), ("warn", "warning")):
        codes = re.findall(rf'\b{call}\(\s*"([A-Z_]+)"', source)
        assert codes
        assert [code for code in codes if find_code(code, severity) is None] == []


@pytest.mark.parametrize("section", ["quantizer", "compiler", "ends", "engine"])
def test_rows_are_complete_and_name_keys_of_the_spec(section: str) -> None:
    """Each row has a cause, a remedy, a pattern that compiles or a code, and keys that the schema knows."""
    for row in read_rows(section):
        assert row.cause, row
        assert row.remedy, row
        assert row.code or re.compile(row.pattern)
        for key in row.keys:
            path: Keys = tuple(key.split("."))
            assert find_rules(path), f"{key} is no key of the spec"


COMPILER_CODES = [
    "TARGET_FACTORY_UNREGISTERED_TARGET",
    "TARGET_FACTORY_INVALID_TYPE",
    "TARGET_FACTORY_INVALID_ISA_VERSION",
    "TARGET_FACTORY_INVALID_FEATURE_CODE",
    "TARGET_FACTORY_INVALID_ARCH",
    "TARGET_FACTORY_PARSE_TARGET_FAIL",
    "TARGET_FACTORY_MULTI_REGISTERED",
    "XCOM_DATA_OUTRANGE",
    "XCOM_ITEM_UNDEFINED",
    "XCOM_UNEXPECTED_VALUE",
    "XCOM_ACGEN_ERROR",
    "XCOM_PM_FAIL",
    "XCOM_UTIL_INVALID_VALUE",
    "XCOM_OPFACTORY_OP_UNSUPPORTED",
]


@pytest.mark.parametrize("code", COMPILER_CODES)
def test_every_known_failure_of_the_compiler_is_explained(code: str) -> None:
    """A fatal line with a code of the table of failures has a cause of its own, and `explain` finds it by the code."""
    tail = "Cannot find target with name X, valid names are: {}" if "UNREGISTERED" in code else "x"
    (failure,) = find_failures(f"[UNILOG][FATAL][{code}][headline] {tail}")
    assert "no cause is on record" not in failure.remedy
    assert failure.keys
    assert look_up(code)


LOGS = {
    "err_bias_corr_missing.log": ("BIAS_CORRECTION", "run the calibrate stage again"),
    "err_test_without_calib.log": ("BIAS_CORRECTION", "run the calibrate stage again"),
    "err_mismatch_model.log": ("CALIB_RESULT_MISMATCH", "run the calibrate stage again"),
    "err_export_cfg_no_forward.log": ("NO_CALIBRATION", "calibration split must hold images"),
    "err_onnx_no_forward.log": ("NO_FORWARD", "quantize.py does"),
    "err_xmodel_no_forward.log": ("NO_FORWARD", "quantize.py does"),
    "err_xmodel_batch2.log": ("XMODEL_BATCHSIZE", "batch size 1"),
    "err_target_bad.log": ("UNREGISTERED_TARGET", "dpuforge boards"),
}


@pytest.mark.parametrize("name", sorted(LOGS))
def test_recorded_logs_lead_to_their_rows(golden: Path, name: str) -> None:
    """A log of the real tool's misuse names its code; the row of that code says what to do."""
    code, remedy = LOGS[name]
    text = re.sub(r"\x1b\[[0-9;]*m", "", (golden / "logs" / name).read_text(errors="replace"))
    errors = [item for item in scan_log(text) if item.severity == "ERROR"]
    assert [item.code for item in errors] == [f"QUANTIZER_TORCH_{code}"]
    assert errors[0].fault is not None
    assert remedy in errors[0].fault.remedy


@pytest.mark.parametrize("name", ["err_calib_ok.log", "err_mode_int.log", "resnet18_calib.txt", "tiny_test.txt"])
def test_recorded_good_logs_hold_no_error(golden: Path, name: str) -> None:
    """What is no failure is not made one."""
    text = (golden / "logs" / name).read_text(errors="replace")
    assert [item for item in scan_log(text) if item.severity == "ERROR"] == []


def test_an_error_without_a_code_is_explained_by_its_words() -> None:
    """Releases before 3.0 print no codes; the words lead to the same row."""
    (found,) = scan_log("[VAIQ_ERROR]: Batch size must be 1 when exporting xmodel.")
    assert found.fault is not None
    assert found.fault.code == "XMODEL_BATCHSIZE"
    assert "export with batch size 1" in str(found)


ENGINE_TEXTS = {
    "systemctl start": "Cannot connect to the Docker daemon at unix:///docker.sock. Is the docker daemon running?",
    "usermod -aG docker": "permission denied while trying to connect to the Docker daemon socket at unix:///docker.sock",
    "--add-subuids": "ERRO[0000] cannot find UID/GID for user ann: no subuid ranges found for user ann in /etc/subuid",
    "system migrate": "potentially insufficient UIDs or GIDs available in user namespace",
    "not on this machine": "Error: localhost/x:1: image not known",
    "no such image": "Error response from daemon: manifest unknown: manifest unknown",
    "--runtime, runc": "Error: OCI runtime error: crun: create keyring: Function not implemented",
    "nofile=1024:1024": "Error: runc: error setting rlimits for ready process: RLIMIT_NOFILE",
    "disk is full": "write /var/lib/docker/tmp/x: no space left on device",
    "flavour: cpu": 'could not select device driver "" with capabilities: [[gpu]].',
    "engine died": "error during connect: Post http://%2Fvar%2Frun%2Fdocker.sock/v1.24: EOF",
    "cannot be reached": "dial tcp: lookup registry-1.docker.io: no such host",
    "another processor": "exec /bin/bash: exec format error",
    "run.container.options": "unknown flag: --memroy",
}


@pytest.mark.parametrize("words", sorted(ENGINE_TEXTS))
def test_what_engines_say_is_explained_in_one_line(words: str) -> None:
    """Each of these sentences of docker or podman leads to one line with its remedy."""
    told = explain_engine(ENGINE_TEXTS[words])
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Error: lsetxattr /home/u/p: operation not permitted", "SELinux"),
        ("Error: statfs /home/u/p: permission denied", "cannot be mounted"),
        ("Error: unlinkat /home/u/.local/share/containers/storage: read-only file system", "read-only"),
        ("mkdir /run/user/1000: permission denied", "no session of this user"),
        ('XDG_RUNTIME_DIR directory "/run/user/1000" is not owned by the current user', "no session of this user"),
        ("Error: cannot re-exec process to join the existing user namespace", "podman system migrate"),
        ("Error: $HOME is not defined", "export HOME"),
        ("Error: kernel does not support overlay fs: 'overlay' is not supported over extfs", "podman's store"),
        ('database graph driver "overlay" does not match our graph driver "vfs"', "podman's store"),
        ('Error: short-name "x/y" did not resolve to an alias', "registry/owner/name:tag"),
        ("Error: invalid reference format: repository name must be lowercase", "small letters"),
        ("denied: requested access to the resource is denied", "login"),
        ("x509: certificate signed by unknown authority", "certificate"),
        ("exec /bin/bash: exec format error", "another processor"),
    ],
)
def test_what_users_of_engines_report_is_told_by_its_cause(said: str, words: str) -> None:
    """Sentences as docker and podman say them, each with the cause that helped there."""
    assert words in explain_engine(said)


@pytest.mark.parametrize(
    ("code", "out_of_memory", "words"),
    [
        (137, True, "memory ran out: the container was killed at the limit of 4 GB"),
        (137, False, "killed from outside"),
        (125, False, "did not start"),
        (3, False, ""),
        (1, True, "memory ran out"),
    ],
)
def test_the_end_of_a_container_is_told_from_that_of_its_stage(code: int, out_of_memory: bool, words: str) -> None:
    """Kills and failures of the engine are named; a stage's own exit code is left to the stage."""
    told = explain_container(code, "Error: something", out_of_memory, 4.0, "image:1")
    assert words in told
    assert bool(told) == bool(words)


def explain(*args: str) -> subprocess.CompletedProcess[str]:
    """Run `dpuforge explain` in the repository."""
    argv = [sys.executable, "-m", "dpuforge", "explain", *args]
    return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["XMODEL_BATCHSIZE", "QUANTIZER_TORCH_XMODEL_BATCHSIZE", "20019", "xmodel_batchsize"])
def test_explain_takes_a_code_in_any_form(word: str) -> None:
    """Name, full name and number give the same row; with a spec, the line that leads there."""
    done = explain(word, "spec/quickstart.yaml")
    assert done.returncode == 0, done.stderr
    assert "batch size 1" in done.stdout
    assert re.search(r"quantization\.calibration\.batch_size \(spec/quickstart\.yaml:\d+:\d+\)", done.stdout)


def test_explain_answers_in_json_and_refuses_what_is_no_code() -> None:
    """--json gives the rows; an unknown word is a usage error that names the nearest code."""
    (row,) = json.loads(explain("--json", "NO_FORWARD").stdout)["found"]
    assert (row["severity"], row["number"]) == ("error", 20012)
    done = explain("NO_FORWARDS")
    assert done.returncode == 2
    assert "did you mean NO_FORWARD" in done.stderr


def test_a_failed_stage_names_the_key_and_line_that_led_there(tmp_path: Path) -> None:
    """From a log to cause, key with its place in the spec, and remedy; errors first, each once; no log, no words."""
    log = tmp_path / "log.txt"
    log.write_text(
        "[VAIQ_WARN][QUANTIZER_TORCH_SHIFT_CHECK]: weight x value is too small\n"
        "[VAIQ_ERROR][QUANTIZER_TORCH_XMODEL_BATCHSIZE]: Batch size must be 1 when exporting xmodel.\n"
        "[VAIQ_ERROR][QUANTIZER_TORCH_XMODEL_BATCHSIZE]: Batch size must be 1 when exporting xmodel.\n"
    )
    told = explain_log(REPO / "spec/quickstart.yaml", log)
    assert told[0].startswith("error XMODEL_BATCHSIZE (20019): ")
    assert re.search(r"quantization\.calibration\.batch_size \(.*quickstart\.yaml:\d+:\d+\)", told[1])
    assert told[2].startswith("  what to do: export with batch size 1")
    assert told[3].startswith("warning SHIFT_CHECK")
    assert len(told) == 6
    assert explain_log(REPO / "spec/quickstart.yaml", tmp_path / "absent") == []
