"""What user scripts pass to the quantizer's classes, read as the real tool reads it: modes, devices, config files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.graph.nodes import map_template
from dpuforge.emulator.nndct import log
from dpuforge.emulator.nndct.tool_options import current_options
from dpuforge.emulator.quantise.settings import Settings, ToolOptions
from dpuforge.quant_config import check_config, resolve_config


def choose_device(device: torch.device | str) -> torch.device:
    """Return the device to run on; CUDA falls back to the CPU with the real tool's warning."""
    wanted = torch.device(device)
    if wanted.type == "cuda" and not torch.cuda.is_available():
        log.warn("CUDA_UNAVAILABLE", "CUDA (HIP) is not available, change device to CPU.")
        return torch.device("cpu")
    return wanted


def choose_mode(mode: str | int) -> str:
    if isinstance(mode, int):
        log.warn(
            "",
            "quant_mode will not support integer value in future version. "
            "It supports string values 'calib' and 'test'.",
        )
        mode = "test" if mode == 2 else "calib"
    if mode not in ("calib", "test"):
        log.warn("", "quant_mode supported values are 'calib' and 'test'. Change it to 'calib' as calibration mode.")
        mode = "calib"
    what = "calibration" if mode == "calib" else "test"
    log.note(f"Quantization {what} process start up...")
    return mode


def load_settings(config_file: str | None, bits: int | None, options: ToolOptions | None) -> Settings:
    """Read a quant config; raises QuantizerError for what the real parser refuses."""
    options = options or current_options()
    if config_file is None:
        log.note("Quant config file is empty, use default quant configuration")
        return Settings(resolve_config(None), options, bits)
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    violations = check_config(config)
    if violations:
        first = violations[0]
        where = ".".join(str(part) for part in first.path)
        raise log.fail(first.code, first.message, f"{config_file}: {where}: {first.help}")
    effective = resolve_config(config)
    for role in ("weights", "bias", "activation", "input"):
        if bits is not None and effective.tensors[role].bit_width != bits:
            log.warn(
                "BITWIDTH_MISMATCH",
                f"Bitwidth of {role} in configuration file is different from that passed from torch_quantizer api, "
                "use the bitwidth in configuration file",
            )
    return Settings(effective, options)


def note_target(target: str, config_file: str | None) -> None:
    if config_file is not None:
        log.warn("HW_AWARE_QUANT", "The hardware-aware quantization is turned off by quant_config_file.")
        return
    log.note(f"target {target}: the emulator quantises as if no target were named; see the hardware check instead.")


def warn_ignored(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if value:
            log.warn("", f"{name}={value!r} has no effect in dpuforge's emulator.")


def unwrap(module: nn.Module) -> nn.Module:
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        log.warn(
            "DATA_PARALLEL",
            "Data parallel is not supported. The wrapper 'torch.nn.DataParallel' has been removed in quantizer.",
        )
        inner: nn.Module = module.module
        return inner
    return module


def as_arguments(input_args: Any) -> tuple[Any, ...]:
    if input_args is None:
        return ()
    return tuple(input_args) if isinstance(input_args, (tuple, list)) else (input_args,)


def mover(device: torch.device) -> Callable[[Any], Any]:
    def move(template: Any) -> Any:
        return map_template(template, lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf)

    return move


def make_folder(path: str) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
