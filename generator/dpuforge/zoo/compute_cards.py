"""python -m dpuforge.zoo.compute_cards: works out the cards of the shipped specs anew and writes spec/zoo/cards.json.

The figures are those of `dpuforge estimate` on a copy of each spec. It needs torch, and the packages that the specs'
weights come from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpuforge.errors import StageError
from dpuforge.estimating import estimate_spec
from dpuforge.hardware.estimate import Estimate
from dpuforge.paths import find_shipped
from dpuforge.records.operator import Operator, OpKind
from dpuforge.writing import replacing
from dpuforge.zoo.entries import CARDS, Entry, digest_network, list_entries, write_copy

_WITH_BIAS = {OpKind.CONV, OpKind.DEPTHWISE, OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED, OpKind.DENSE}


def compute_card(entry: Entry) -> dict[str, Any]:
    """Return the computed part of a card, from a copy of the spec in a folder of its own."""
    with TemporaryDirectory(prefix="dpuforge-zoo-") as name:
        root = Path(name)
        spec, *companions = write_copy(entry, entry.name, root)
        for network in companions if any(source.needs for source in entry.weights) else ():
            done = subprocess.run([sys.executable, str(network)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise StageError(f"{entry.name}: {done.stderr.strip()}")
        boards = tuple(choice.board for choice in entry.project.target.boards)
        return describe_estimates(entry, estimate_spec(spec, boards, ""))


def describe_estimates(entry: Entry, estimates: Iterable[Estimate]) -> dict[str, Any]:
    """Return the computed part of a card from the estimates of its boards."""
    found = sorted(estimates, key=lambda estimate: estimate.board.board)
    places = (*found[0].partition.dpu, *found[0].partition.cpu)
    return {
        "network": digest_network(entry),
        "parameters": count_parameters([place.operator for place in places]),
        "boards": {estimate.board.board: _describe_board(estimate) for estimate in found},
    }


def count_parameters(operators: Sequence[Operator]) -> int:
    """Return weights and biases as the xmodel holds them: batch norm folded, a bias for each output channel."""
    scales = sum(2 * it.out_channels for it in operators if it.kind is OpKind.BATCH_NORM)
    return scales + sum(it.weights + it.out_channels for it in operators if it.kind in _WITH_BIAS)


def _describe_board(found: Estimate) -> dict[str, Any]:
    return {
        "dpu": found.board.target,
        "dpu_subgraphs": found.partition.dpu_subgraphs,
        "on_the_cpu": len(found.partition.cpu),
        "workload_gop": round(found.work.workload / 1e9, 3),
        "fps": [_round(value) for value in found.fps_multi or ()],
    }


def _round(value: float) -> float:
    """Return a frame rate to three digits: the band is wider by far."""
    return float(f"{value:.3g}")


def main(names: Sequence[str]) -> None:
    """Compute the cards of the named specs, or of all, and write the file."""
    path = find_shipped("spec/zoo") / CARDS
    cards: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and names else {}
    for entry in list_entries():
        if not names or entry.name in names:
            cards[entry.name] = compute_card(entry)
            print(f"computed  {entry.name}", flush=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(dict(sorted(cards.items())), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
