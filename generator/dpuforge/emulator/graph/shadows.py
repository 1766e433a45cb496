"""What the real tool's graph holds beside the operators that compute: shapes, and arithmetic on them.

`x.size(0)`, `x.shape` and what is computed from them are nodes of the tool's graph: they are counted in the names of
quant_info.json and stand in graph_md5. Here they are shadows, which nothing executes. A TracedInt is an integer that
remembers which shadow it came from; `int()` drops that, as tracing does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpuforge.emulator.graph.kinds import CONST, INTEGER_KINDS


@dataclass(frozen=True)
class Shadow:
    """One node of the tool's graph that computes nothing here.

    inputs: names of the nodes and shadows it reads; position: the trace index of the operator recorded after it;
    before: the operator it precedes where several share a trace index.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    position: int = 0
    before: str = ""

    def renamed(self, names: Mapping[str, str]) -> Shadow:
        """Return the shadow with the nodes that it reads or precedes under other names."""
        inputs = tuple(names.get(name, name) for name in self.inputs)
        return replace(self, inputs=inputs, before=names.get(self.before, self.before))


Note = Callable[[str, tuple[str, ...]], str]  # (kind, inputs) -> the new shadow's name


class TracedInt(int):
    """An integer that a traced network read from a shape, or computed from such."""

    shadow: str
    note: Note

    @classmethod
    def make(cls, value: int, shadow: str, note: Note) -> TracedInt:
        """Return value as the result of a shadow; note makes further shadows."""
        made = cls(value)
        made.shadow, made.note = shadow, note
        return made

    def _combine(self, word: str, value: Any, other: Any, swapped: bool) -> Any:
        if type(value) is not int or isinstance(other, bool) or not isinstance(other, int):
            return value
        operand = other.shadow if isinstance(other, TracedInt) else self.note(CONST, ())
        inputs = (operand, self.shadow) if swapped else (self.shadow, operand)
        return TracedInt.make(value, self.note(INTEGER_KINDS[word], inputs), self.note)

    def __add__(self, other: Any) -> Any:
        return self._combine("add", int.__add__(self, other), other, swapped=False)

    def __radd__(self, other: Any) -> Any:
        return self._combine("add", int.__radd__(self, other), other, swapped=True)

    def __sub__(self, other: Any) -> Any:
        return self._combine("sub", int.__sub__(self, other), other, swapped=False)

    def __rsub__(self, other: Any) -> Any:
        return self._combine("rsub", int.__rsub__(self, other), other, swapped=False)

    def __mul__(self, other: Any) -> Any:
        return self._combine("mul", int.__mul__(self, other), other, swapped=False)

    def __rmul__(self, other: Any) -> Any:
        return self._combine("mul", int.__rmul__(self, other), other, swapped=True)

    def __floordiv__(self, other: Any) -> Any:
        return self._combine("floordiv", int.__floordiv__(self, other), other, swapped=False)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._combine("floordiv", int.__rfloordiv__(self, other), other, swapped=True)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)
