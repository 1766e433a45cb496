"""results.py and malloc: memory of freed tensors is used again, and who sets malloc decides alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import shapes_project as shapes

# Prints what keep_freed_memory says, and the page faults of 20 blocks of 64 MiB that are filled and freed.
COUNT = """
import resource, sys
sys.path.insert(0, "generated/shapes")
import results
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = bytearray(b"x") * (1 << 26); del block
print(results.keep_freed_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ONE_BLOCK = (1 << 26) // os.sysconf("SC_PAGE_SIZE")  # pages
glibc_alone = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is told under glibc alone")


def count_faults(root: Path, code: str = COUNT, **environment: str) -> tuple[str, int]:
    """Run the lines in a process of its own; return what was set and how many faults there were."""
    shapes.write_scripts(shapes.make_project(), root)
    env = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**env, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said, faults = done.stdout.split()
    return said, int(faults)


@glibc_alone
def test_freed_memory_is_used_again(root: Path) -> None:
    """Twenty large blocks, one after the other, cost the page faults of one or two."""
    said, faults = count_faults(root)
    assert said == "True"
    assert faults < 3 * ONE_BLOCK


@glibc_alone
@pytest.mark.parametrize(
    "chosen",
    [
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
        {"GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=512:glibc.malloc.mmap_threshold=131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
    ],
)
def test_the_users_own_settings_stay(root: Path, chosen: dict[str, str]) -> None:
    """Tunables of malloc that the user set are not overruled: each block is mapped as they say."""
    said, faults = count_faults(root, **chosen)
    assert said == "False"
    assert faults > 10 * ONE_BLOCK


@glibc_alone
def test_other_tunables_do_not_switch_it_off(root: Path) -> None:
    """GLIBC_TUNABLES that do not speak of malloc leave it on."""
    assert count_faults(root, GLIBC_TUNABLES="glibc.rtld.optional_static_tls=512")[0] == "True"


@pytest.mark.parametrize(
    "lack",
    [
        "def no(name): raise ValueError(name)\nos.confstr = no",  # musl
        "del os.confstr",  # Windows
        "ctypes.CDLL = lambda name: object()",  # a C library without mallopt
        "def no(name): raise OSError(name)\nctypes.CDLL = no",  # nothing to open
        "ctypes.CDLL = lambda name: __import__('types').SimpleNamespace(mallopt=lambda *option: 0)",  # it refuses
    ],
)
def test_other_systems_are_left_as_they_are(root: Path, lack: str) -> None:
    """Where the C library is not glibc, or refuses, the scripts start all the same and nothing is set."""
    code = f"import ctypes, os\n{lack}\nimport sys; sys.path.insert(0, 'generated/shapes'); import results\n"
    assert count_faults(root, code + "print(results.keep_freed_memory(), 0)") == ("False", 0)
