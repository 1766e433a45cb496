"""Inspector: which operators of a float network a DPU takes, predicted from published limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.export.network_operators import list_operators
from dpuforge.emulator.graph.capture import capture_shapes
from dpuforge.emulator.graph.nodes import leaves
from dpuforge.emulator.nndct import log
from dpuforge.errors import UserError
from dpuforge.hardware.dpu_features import find_dpu
from dpuforge.hardware.inspect_report import cpu_rows, inspect_file_name, render_inspect_file, render_summary
from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import partition_operators
from dpuforge.load.boards.catalogue import shipped_catalogue

_RELEASE = "3.5"


class Inspector:
    """Inspects networks for one DPU, named by target ("DPUCZDX8G_ISA1_B4096") or fingerprint ("0x101000016010407")."""

    def __init__(self, name_or_fingerprint: str) -> None:
        log.announce()
        self.name = name_or_fingerprint
        catalogue = shipped_catalogue()
        try:
            if self.name.lower().startswith("0x"):
                dpu = find_dpu(catalogue, "", int(self.name, 16), _RELEASE)
            else:
                dpu = catalogue.dpus[self.name].at_release(_RELEASE)
            self._target = Target(dpu, catalogue.families[dpu.family])
        except (KeyError, ValueError, UserError) as error:
            remedy = f"known targets: {', '.join(sorted(catalogue.dpus)[:8])} ..."
            raise log.fail("UNREGISTERED_TARGET", f"{self.name} is invalid target name.", remedy) from error
        log.note("Inspector is on.")

    def inspect(
        self,
        module: nn.Module,
        input_args: Any,
        device: torch.device | str = "cuda",
        output_dir: str = "quantize_result",
        verbose_level: int = 1,
        image_format: str | None = None,
    ) -> None:
        """Write inspect_<target>.txt and print what runs on the CPU; image_format is noted, no image is drawn."""
        log.note("=>Start to inspect model...")
        given = input_args if isinstance(input_args, (tuple, list)) else (input_args,)
        shapes = [tuple(leaf.shape) for leaf in leaves(given) if isinstance(leaf, torch.Tensor)]
        graph = capture_shapes(module, *shapes)
        for line in graph.frozen:
            log.warn("", f"Python reads a tensor's value at {line}: what it decided is frozen as for zeros.")
        operators = list_operators(graph)
        partition = partition_operators(operators, self._target)
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / inspect_file_name(self.name)
        path.write_text(render_inspect_file(partition, operators), encoding="utf-8")
        rows = cpu_rows(partition)
        if rows:
            table = "\n".join(f"  {name}  {kind}  {reason}" for name, kind, reason in rows)
            log.note(f"The operators assigned to the CPU are as follows(see more details in '{path}'):\n{table}")
        else:
            log.note(f"All the operators are assigned to the DPU(see more details in '{path}')")
        if verbose_level > 1:
            print(render_summary(partition))
        if image_format:
            log.warn("", f"No image is drawn (image_format {image_format}): the text report holds everything.")
        log.note("=>Finish inspecting.")
