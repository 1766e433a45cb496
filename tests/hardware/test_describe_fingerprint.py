"""A fingerprint in words, from the function and from the command line."""

import json
import subprocess
import sys

import pytest

from dpuforge.hardware.describe_fingerprint import describe_fingerprint
from dpuforge.records.hardware import Catalogue


def test_the_two_releases_of_one_target_differ_in_saving_argmax() -> None:
    """DPUCZDX8G_ISA1_B4096 of 2.5 and of 3.0 read alike but for bit 30."""
    old, new = describe_fingerprint(0x101000016010407), describe_fingerprint(0x101000056010407)
    assert (old["family"], old["isa"], old["architecture"]) == ("DPUCZDX8G", 1, "B4096")
    differing = {name for name in old["features"] if old["features"][name] != new["features"][name]}
    assert differing == {"saves argmax (release 3.0 and later)"}


def test_words_follow_the_documented_bits() -> None:
    """An ISA0 B1152 (release 1.4) reads as its bit fields say."""
    found = describe_fingerprint(0x1000020F6012203)
    assert (found["architecture"], found["peak_ops_per_cycle"]) == ("B1152", 1152)
    assert found["features"]["size"] == "4 pixels, 12 input and 12 output channels at once"
    assert found["features"]["depthwise convolution engine"] == "2 pixels at once"
    assert found["features"]["image banks"] == "2 groups (low RAM usage)"
    assert found["features"]["elementwise multiplication"] == "no"
    assert describe_fingerprint(0x1000020F7010203)["features"]["depthwise convolution engine"] == "none"


def test_every_registered_fingerprint_is_described(catalogue: Catalogue) -> None:
    """Family and ISA of every registered target come out of its fingerprint, and what is not said is noted."""
    for dpu in catalogue.dpus.values():
        for revision in dpu.revisions:
            found = describe_fingerprint(revision.fingerprint)
            assert dpu.target.startswith(("AMD_AIE2", "V70", found["family"])), dpu.target
            assert bool(found["features"]) == (found["family"] == "DPUCZDX8G")
            assert found["features"] or found["note"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0xFF00000000000001, "no release knows DPU type 255"),
        (0x0107000000000000, "no release knows DPUCZDX8G of ISA 7"),
        (0x010100001601040F, "no release knows architecture code 15"),
    ],
)
def test_what_no_release_knows_is_said(value: int, words: str) -> None:
    """An unknown type, ISA or architecture gives a note instead of a guess."""
    assert words in describe_fingerprint(value)["note"]


def test_values_outside_64_bits_are_refused() -> None:
    """Zero and 2^64 raise ValueError."""
    for value in (0, 1 << 64):
        with pytest.raises(ValueError, match="64 bits"):
            describe_fingerprint(value)


def run_boards(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dpuforge boards --fingerprint`."""
    command = [sys.executable, "-m", "dpuforge", "boards", "--fingerprint", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_says_where_a_fingerprint_occurs() -> None:
    """The target, the boards whose image has it and the releases that accept it are printed, as JSON too."""
    done = run_boards("0x101000056010407", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {"target": "DPUCZDX8G_ISA1_B4096", "releases": ["3.0", "3.5", "master"]} in document["targets"]
    assert {"KV260", "ZCU102", "ZCU104"} <= {row["board"] for row in document["boards"] if row["default"]}
    assert "3.0" in document["accepted_by"]
    assert "DPUCZDX8G ISA1 B4096" in run_boards("0x101000056010407").stdout


def test_the_command_refuses_what_is_no_fingerprint() -> None:
    """Text without 0x ends with exit code 2 and the form that is wanted."""
    done = run_boards("B4096")
    assert done.returncode == 2
    assert "0x101000056010407" in done.stderr or "0x101000016010407" in done.stderr
