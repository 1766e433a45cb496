"""What scripts import from pytorch_nndct.utils."""

from collections.abc import Callable, Sequence
from typing import Any

from dpuforge.emulator.nndct import log


def register_custom_op(
    op_type: str, attrs_list: Sequence[str] | None = None, mapping_to_xir: bool = False
) -> Callable[[Any], Any]:
    """Return a decorator that leaves the function as it is: what torch computes in it is seen operator by operator.

    The real tool makes one operator of type op_type of it, in float, on the CPU; the emulator says that it does not.
    """
    what = f"register_custom_op({op_type!r}): the emulator sees the operators inside, not one custom operator."
    log.warn("NOT_EMULATED", what)

    def decorate(function: Any) -> Any:
        return function

    return decorate


__all__ = ["register_custom_op"]
