"""A small image with the layout of AMD's, from this machine's own files: its compiler and quantizer are stand-ins.

The image holds links, a conda folder with the environment vitis-ai-pytorch, and the compiler's arch folder. Programs
and Python come from the machine by read-only mounts, so nothing is downloaded. `python` in the environment is this very
Python with dpuforge's emulator as pytorch_nndct, `vai_c_xir` the stand-in of tests/test_compile_script.py.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import dpuforge
from dpuforge.paths import emulator_path, find_shipped
from tests.test_compile_script import FAKE

IMAGE = "localhost/dpuforge-stand-in:1"
SOURCES = Path(dpuforge.__file__).resolve().parent.parent
CONDA = "opt/vitis_ai/conda"
# What podman needs inside machines that are containers themselves: runc, and limits that it may set.
OPTIONS = ("--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=2048:2048")
_CONDA_SH = f"""\
conda() {{
    if [ "$1" != activate ] || [ ! -d "/{CONDA}/envs/$2" ]; then
        echo "EnvironmentNameNotFound: $2" >&2
        return 1
    fi
    export CONDA_DEFAULT_ENV="$2" PATH="/{CONDA}/envs/$2/bin:$PATH"
}}
"""
_PYTHON = f"""\
#!/bin/bash
export PYTHONPATH='{emulator_path()}:{SOURCES}'
exec '{sys.executable}' "$@"
"""


def mounted() -> tuple[str, ...]:
    """Return the folders of this machine that the image borrows: its programs, this Python, dpuforge's sources."""
    programs = [Path("/usr"), *(path for name in ("/bin", "/lib", "/lib64") if not (path := Path(name)).is_symlink())]
    python = (Path(sys.base_prefix), Path(sys.prefix), Path(sys.executable).resolve().parent.parent)
    wanted = [path for path in (*programs, *python, SOURCES, find_shipped("spec/dpus").parent) if path.exists()]
    return tuple(dict.fromkeys(str(path) for path in wanted if not any(p in path.parents for p in wanted)))


def engine_options() -> list[str]:
    """Return the options that a spec gives the engine in these tests."""
    return [*OPTIONS, *(f"--volume={path}:{path}:ro" for path in mounted())]


def make_image(engine: str, folder: Path, label: str = "vai_c_xir") -> None:
    """Import the image into an engine; label says which of its tools are stand-ins."""
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path(f"/{name}").is_symlink():
                _link(tar, name, os.readlink(f"/{name}"))
        for name in ("usr", "etc", "proc", "sys", "dev", "root"):
            _folder(tar, name)
        _folder(tar, "tmp", 0o1777)
        _file(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
        _file(tar, f"{CONDA}/etc/profile.d/conda.sh", _CONDA_SH)
        for name, text in (("python", _PYTHON), ("python3", _PYTHON), ("vai_c_xir", FAKE)):
            _file(tar, f"{CONDA}/envs/vitis-ai-pytorch/bin/{name}", text, 0o755)
        arch = json.dumps({"target": "DPUCZDX8G_ISA1_B4096"})
        _file(tar, "opt/vitis_ai/compiler/arch/DPUCZDX8G/KV260/arch.json", arch)
    change = f'LABEL dpuforge.stand-in="{label}"'
    subprocess.run([engine, "import", "--change", change, str(archive), IMAGE], check=True, capture_output=True)


def _file(tar: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    data = text.encode()
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _folder(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)
