"""What this machine has for a toolchain and a spec, what it lacks, and the command that closes each gap.

Everything is asked of other processes: nothing is imported here that a run would import, torch above all.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dpuforge.errors import MissingToolError, UserError
from dpuforge.execute.container import Wish, choose_image
from dpuforge.execute.engine import ENGINES, Engine, find_engines, inspect_image
from dpuforge.execute.faults import explain_engine
from dpuforge.execute.toolchain import OLDEST_TORCH, RUN_EXTRA, find_candidate_pythons, find_toolchain, probe_python
from dpuforge.foreseeing import find_parameters
from dpuforge.plan.flow_contexts import find_image
from dpuforge.records.job import Job
from dpuforge.records.project import Method

_OLDEST_PYTHON = (3, 10)
_GIGA = 1e9
_IMPORT_SECONDS = 180  # AMD's quantizer loads torch and its own libraries
# Of the run: torch's own memory; floats that one pixel of one image keeps alive, with and without gradients (ResNet-50
# keeps 220, MobileNetV2 130); copies of the weights (gradients, and two for Adam).
_TORCH_GB = 0.6
_FLOATS_TRAINED, _FLOATS_READ = 600, 40
_COPIES_TRAINED, _COPIES_READ = 4, 2
_FILES_OF_WEIGHTS = 10  # checkpoints, exports and the quantizer's files, each about as large as the weights
_FREE_GB = 0.3  # beside them: logs, dumps, reports

_IN_IMAGE = "`dpuforge run SPEC --toolchain container` has it in AMD's image"
_RUN = "pip install 'dpuforge[run]'"
_PACKAGES = (
    ("torch", "training and the emulator", _RUN, True),
    ("torchvision", "backbones and images", _RUN, True),
    ("numpy", "arrays", _RUN, True),
    ("PIL", "reading images", _RUN, True),
    ("tqdm", "progress of the generated scripts", _RUN, True),
    ("google.protobuf", "xmodel files", _RUN, True),
    ("onnx", "ONNX export", _RUN, False),
    ("snakemake", "running the Snakefile, and run --cluster", "pip install 'dpuforge[cluster]'", False),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: found is a version, a place or a size, "" where it is missing.

    gap says what is wrong, "" where nothing is; needed that this toolchain or spec cannot do without.
    """

    name: str
    found: str
    use: str
    gap: str = ""
    remedy: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and why the toolchain cannot run ("" where it can)."""

    toolchain: str
    findings: tuple[Finding, ...]
    problem: str = ""

    @property
    def ready(self) -> bool:
        """Whether a run of the spec with this toolchain can work here."""
        return not self.problem and not any(finding.gap and finding.needed for finding in self.findings)


def examine_machine(job: Job | None, toolchain: str) -> Diagnosis:
    """Return what this machine has for a toolchain ("" means the spec's, else the emulator)."""
    name = toolchain or (job.project.run.toolchain.value if job else "emulator")
    engines = dict(_find_engines())
    findings = [
        *_look_at_python(name),
        _look_at_quantizer(name),
        *_look_at_programs(name),
        *_look_at_engines(name, engines, job),
        *(_look_at_room(job) if job else ()),
        _look_at_cuda(job),
    ]
    try:
        find_toolchain(name, find_image(job.release) if job else "")
        problem = ""
    except MissingToolError as error:
        problem = str(error)
    return Diagnosis(name, tuple(findings), problem)


def _look_at_python(name: str) -> Iterator[Finding]:
    version, host = sys.version.split()[0], name != "native"
    old = "" if sys.version_info[:2] >= _OLDEST_PYTHON else "dpuforge needs 3.10 or newer"
    yield Finding("Python", version, "dpuforge itself", old, "install Python 3.10 or newer" if old else "", True)
    found = probe_python(sys.executable, tuple(package for package, *_ in _PACKAGES), {})
    for package, use, remedy, needed in _PACKAGES:
        gap = "" if package in found else "cannot be imported"
        if package == "torch" and not gap and name == "emulator" and _is_old(found[package]):
            gap = f"the emulator needs {'.'.join(map(str, OLDEST_TORCH))} or newer"
        yield Finding(package, found.get(package, ""), use, gap, remedy if gap else "", needed and host)


def _is_old(version: str) -> bool:
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    return len(numbers) == 2 and tuple(numbers) < OLDEST_TORCH


def _look_at_quantizer(name: str) -> Finding:
    """Import AMD's quantizer in every Python that a native run would try."""
    remedy = f"{_IN_IMAGE}, or name its Python: export DPUFORGE_PYTHON=/path/to/python"
    said = "no Python here has it"
    for python in find_candidate_pythons():
        if "pytorch_nndct" not in probe_python(python, ("pytorch_nndct",), {}):
            continue
        done = _ask([python, "-c", "import pytorch_nndct; print(pytorch_nndct.__version__)"], _IMPORT_SECONDS)
        if done.returncode == 0:
            return Finding("pytorch_nndct", f"{done.stdout.strip()} ({python})", "AMD's quantizer", needed=True)
        said = f"{python} has it, and its import fails: {_last_line(done.stderr)}"
    return Finding("pytorch_nndct", "", "AMD's quantizer", said, remedy, name == "native")


def _look_at_programs(name: str) -> Iterator[Finding]:
    programs = (
        ("bash", "compile.sh", tell_install("bash")),
        ("vai_c_xir", "compiling for a board", _IN_IMAGE),
    )
    for program, use, remedy in programs:
        path = shutil.which(program) or ""
        yield Finding(program, path, use, "" if path else "not on PATH", "" if path else remedy, name == "native")


def _find_engines() -> Iterator[tuple[str, Engine | str]]:
    """Yield each engine that may be used, or why it may not."""
    for name in ENGINES:
        try:
            yield name, find_engines(name)[0]
        except UserError as error:
            yield name, error.message.partition("answers here: ")[2] or error.message


def _look_at_engines(toolchain: str, engines: Mapping[str, Engine | str], job: Job | None) -> Iterator[Finding]:
    usable = {name: engine for name, engine in engines.items() if isinstance(engine, Engine)}
    for name, engine in engines.items():
        if isinstance(engine, Engine):
            yield Finding(name, f"{engine.version}{' (rootless)' if engine.rootless else ''}", "starting AMD's image")
        else:
            needed = toolchain == "container" and not usable
            yield Finding(name, "", "starting AMD's image", engine, _mend_engine(name, engine), needed)
    if job is not None:
        yield _look_at_image(usable, job, toolchain == "container")


def _mend_engine(name: str, said: str) -> str:
    if shutil.which(name) is None:
        return tell_install(name)
    known = explain_engine(said) or said
    return known.partition("; ")[2] or f"`{name} info` says more"


def tell_install(package: str) -> str:
    """Return the command of this system's package manager that installs a package."""
    managers = {"apt-get": "install", "dnf": "install", "zypper": "install", "apk": "add", "brew": "install"}
    found = next(((name, word) for name, word in managers.items() if shutil.which(name)), None)
    if found is None:
        return f"install {package} with the system's package manager"
    root = "" if found[0] == "brew" else "sudo "
    package = {"docker": "docker.io"}.get(package, package) if found[0] == "apt-get" else package
    return f"{root}{found[0]} {found[1]} {package}"


def _look_at_image(engines: Mapping[str, Engine], job: Job, needed: bool) -> Finding:
    """Look for the very image that a run would start: the spec's own, or the release's of its flavour."""
    given = job.project.run.container
    try:
        known = choose_image(Wish(given, job.release.images, "", job.release.name))
    except UserError as error:
        return Finding("image", "", "AMD's tools", error.message, error.remedy, needed)
    image, wanted = known.image, given.engine
    for name, engine in engines.items():
        facts = inspect_image(engine, image) if wanted in ("auto", name) else None
        if facts is not None:
            found = f"{image} ({name}, {facts.size_bytes / _GIGA:.1f} GB)"
            return Finding("image", found, "AMD's tools", needed=needed)
    gap = f"{image} is not here" if engines else f"{image}: no engine answers"
    named = next(((name, engine.qualify(image)) for name, engine in engines.items() if wanted in ("auto", name)), None)
    name, full = named or ("docker" if wanted == "auto" else wanted, image)
    remedy = f"{name} pull {full}" if known.pull else known.note or "build it with AMD's docker/docker_build.sh"
    return Finding("image", "", "AMD's tools", gap, remedy, needed)


def _look_at_room(job: Job) -> Iterator[Finding]:
    """Yield disk and memory against an estimate for the spec."""
    needed_gb = estimate_disk_gb(job)
    free_gb = shutil.disk_usage(job.root).free / _GIGA
    gap = "" if free_gb >= needed_gb else f"about {needed_gb:.1f} GB are needed in build/"
    there = next(path for path in (job.build, *job.build.parents) if path.exists())
    remedy = f"free space there: du -sh {shlex.quote(str(job.build.parent))}/*"
    if not os.access(there, os.W_OK):
        gap, remedy = f"{there} may not be written", f"ls -ld {shlex.quote(str(there))}: let this user write there"
    yield Finding("disk", f"{free_gb:.1f} GB free", f"about {needed_gb:.1f} GB", gap, remedy, True)
    needed_gb, left_gb = estimate_memory_gb(job), read_free_memory_gb()
    use = f"about {needed_gb:.1f} GB, a rough estimate"
    if left_gb is None:
        yield Finding("memory", "", use, "this system does not say how much is free")
        return
    gap = "" if left_gb >= needed_gb else f"about {needed_gb:.1f} GB are needed"
    yield Finding("memory", f"{left_gb:.1f} GB free", use, gap, "lower train.batch_size and calibration.batch_size")


def estimate_disk_gb(job: Job) -> float:
    """Return the gigabytes that a run writes into build/: files as large as the weights, and a rest."""
    return find_parameters(job.project) * 4 * _FILES_OF_WEIGHTS / _GIGA + _FREE_GB


def estimate_memory_gb(job: Job) -> float:
    """Return the gigabytes that the hungriest stage takes, roughly: torch, weights, and a batch's activations."""
    project = job.project
    learns = project.transfer.method is not Method.FEATURE_EXTRACTION
    floats, copies = (_FLOATS_TRAINED, _COPIES_TRAINED) if learns else (_FLOATS_READ, _COPIES_READ)
    pixels = project.model.input.height * project.model.input.width
    train = project.train.batch_size * pixels * floats
    calibrate = project.quantization.calibration.batch_size * pixels * 2 * _FLOATS_READ
    return _TORCH_GB + 4 * (find_parameters(project) * copies + max(train, calibrate)) / _GIGA


def read_free_memory_gb() -> float | None:
    """Return the memory that may still be taken: the machine's or the container's, whichever is less."""
    free = [_read_machine(), _read_cgroup()]
    known = [value for value in free if value is not None]
    return min(known) / _GIGA if known else None


def _read_machine() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _read_cgroup() -> float | None:
    """Return what a container's limit leaves, None without one."""
    folder = Path("/sys/fs/cgroup")
    try:
        return float((folder / "memory.max").read_text()) - float((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def _look_at_cuda(job: Job | None) -> Finding:
    """Ask torch for a GPU where the machine has one."""
    needed = job is not None and job.project.train.device == "cuda"
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not devices and shutil.which("nvidia-smi") is None:
        return Finding(
            "CUDA",
            "",
            "faster training",
            "no NVIDIA GPU here",
            "no command brings one; set train.device: cpu in the spec",
            needed,
        )
    code = "import torch; print(torch.cuda.is_available() and torch.cuda.get_device_name(0))"
    done = _ask([sys.executable, "-c", code], _IMPORT_SECONDS)
    name = done.stdout.strip()
    if done.returncode == 0 and name not in ("", "False"):
        return Finding("CUDA", name, "faster training", needed=needed)
    gap = "torch sees no GPU: a build without CUDA, or its driver is too old"
    return Finding("CUDA", "", "faster training", gap, f"{RUN_EXTRA} from torch's index for CUDA", needed)


def _ask(argv: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
