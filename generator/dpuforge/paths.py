"""The one module that finds folders: the shipped data (templates, schemas, boards) and a project's root."""

from __future__ import annotations

from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
_SHIPPED = PACKAGE_DIR / "_data"


def find_shipped(name: str) -> Path:
    """Return the folder of shipped data called name ("templates", "spec/schema", ...).

    A wheel carries the folders inside the package; a checkout has them at its top level.
    """
    packed = _SHIPPED / name
    return packed if packed.is_dir() else PACKAGE_DIR.parent.parent / name


def find_root(spec_path: Path) -> Path:
    """Return the project root of a spec: the folder above spec/, or the spec's own folder.

    Data paths of a spec, generated/ and build/ are relative to it.
    """
    folder = spec_path.resolve().parent
    return folder.parent if folder.name == "spec" else folder


def name_below(path: Path, root: Path) -> str:
    """Return how specs and results name a path: relative to the project root where it lies below, with slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def emulator_path() -> Path:
    """Return the folder that provides pytorch_nndct, xir and vart when it is put on PYTHONPATH."""
    return PACKAGE_DIR / "dropin"
