"""AMD's pruner by its names: it can be imported, and stops where it is used, because pruning is not emulated."""

from typing import Any

from dpuforge.emulator.nndct import log

_REMEDY = "prune in AMD's container (or with another tool), and give the emulator the smaller network"


def _refuse(what: str) -> log.QuantizerError:
    return log.fail("NOT_EMULATED", f"{what}: dpuforge's emulator does not prune.", _REMEDY)


class _Pruner:
    """Stops when it is made."""

    def __init__(self, model: Any, input_signature: Any = None, *args: Any, **kwargs: Any) -> None:
        raise _refuse(type(self).__name__)


class IterativePruningRunner(_Pruner):
    """Channels removed step by step: not emulated."""


class OneStepPruningRunner(_Pruner):
    """Channels removed at once: not emulated."""


class SparsePruner(_Pruner):
    """Fine-grained sparsity: not emulated."""


class OFAPruner(_Pruner):
    """Once-for-all search: not emulated."""


def get_pruning_runner(model: Any, input_signature: Any, method: str) -> Any:
    """Stop with QuantizerError: pruning is not emulated."""
    raise _refuse(f"get_pruning_runner(method={method!r})")
