"""Which boards a user has, and how ssh reaches them: ~/.config/dpuforge/boards.yaml, or a plain ssh destination."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cerberus import Validator

from dpuforge.errors import FormatError, UsageError
from dpuforge.load.text import read_document
from dpuforge.paths import find_shipped


@dataclass(frozen=True)
class Host:
    """One board that ssh reaches; "" leaves a choice to ssh's own configuration, or to what the board says of itself.

    folder and lock are paths on the board (relative to the home folder there); environment is a file that the board's
    shell sources first; sensors is where the kernel shows hwmon and thermal zones.
    """

    name: str
    destination: str
    board: str = ""
    user: str = ""
    port: int | None = None
    folder: str = "dpuforge"
    environment: str = ""
    python: str = "python3"
    lock: str = "/tmp/dpuforge.lock"
    sensors: str = "/sys"
    ssh_config: str = ""


def find_hosts_file() -> Path:
    """Return where the user's boards are listed (XDG base directory)."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "dpuforge" / "boards.yaml"


def find_host(name: str) -> Host:
    """Return the board called name in the user's file, or the ssh destination of that name.

    Raises UsageError where a name could be an option of ssh, FormatError where the file is broken.
    """
    path = find_hosts_file()
    hosts = read_hosts(path)
    if name in hosts:
        return hosts[name]
    if not name or name.startswith("-"):
        raise UsageError(f"{name!r} is no host", f"name a host that ssh knows, or one of {path}")
    return Host(name, name)


def read_hosts(path: Path) -> dict[str, Host]:
    """Return the boards of a file by name, none where there is no file; raise FormatError where it is broken."""
    try:
        document = read_document(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    faults = [f"{finding.place or path}: {finding.message}" for finding in document.findings]
    validator = Validator(_read_schema())
    if not faults and not validator.validate(document.value):
        faults = [f"{path}: {json.dumps(getattr(validator, 'errors', {}))}"]
    if faults:
        raise FormatError("; ".join(faults), "docs/board.md shows such a file")
    return {name: _make_host(name, entry, path.parent) for name, entry in document.value["boards"].items()}


def _make_host(name: str, entry: dict[str, Any], folder: Path) -> Host:
    fields = {key: value for key, value in entry.items() if key != "host"}
    if fields.get("ssh_config"):
        fields["ssh_config"] = str(folder / Path(fields["ssh_config"]).expanduser())
    return Host(name, entry["host"], **fields)


def _read_schema() -> dict[str, Any]:
    text = (find_shipped("spec/schema") / "boards.yaml").read_text(encoding="utf-8")
    schema: dict[str, Any] = yaml.safe_load(text)
    return schema
