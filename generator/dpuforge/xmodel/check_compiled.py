"""Holds what vai_c_xir wrote against what the board carries: fingerprint, target and number of DPU subgraphs."""

from __future__ import annotations

from dpuforge.records.fingerprint import Fingerprint
from dpuforge.records.hardware import BoardTarget
from dpuforge.xmodel.show import CompiledSummary


def check_compiled(summary: CompiledSummary, board: BoardTarget, dpu_subgraphs: int) -> tuple[str, ...]:
    """Return what is wrong with a compiled xmodel, one sentence each with a remedy; empty where it fits the board.

    A fingerprint that no source gives for the board is not compared; the number of subgraphs always is.
    """
    if not summary.dpu_subgraphs:
        return ("the xmodel has no DPU subgraph: it is not compiled; run compile.sh BOARD in AMD's container",)
    return (*_wrong_fingerprints(summary, board), *_wrong_subgraphs(summary, dpu_subgraphs))


def _wrong_fingerprints(summary: CompiledSummary, board: BoardTarget) -> tuple[str, ...]:
    known = board.fingerprint is not None
    others = [text for text in summary.fingerprints if known and text != board.fingerprint_text]
    carried = f"{board.board} under Vitis AI {board.release} carries {board.fingerprint_text} ({board.target})"
    remedy = "use the board's arch.json, as compile.sh does, or correct dpu or fingerprint in the spec"
    return tuple(
        f"the xmodel is compiled for fingerprint {text} ({_name(text)}), but {carried}: {remedy}"
        " (`xdputil query` shows the board's)"
        for text in others
    )


def _wrong_subgraphs(summary: CompiledSummary, wanted: int) -> tuple[str, ...]:
    if summary.dpu_subgraphs == wanted:
        return ()
    return (
        f"the compiler made {summary.dpu_subgraphs} DPU subgraphs, the spec demands {wanted}: `dpuforge estimate` names"
        " the operators that leave the DPU; change them or target.dpu_subgraphs",
    )


def _name(text: str) -> str:
    try:
        fingerprint = Fingerprint.parse(text)
    except ValueError:
        return "unreadable"
    return f"{fingerprint.family or 'unknown DPU'} ISA{fingerprint.isa} {fingerprint.architecture}".strip()
