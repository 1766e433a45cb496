"""Ops as lowered -> ops as the real tool writes them: moves that follow each other are one, what moves nothing is none.

A transpose that only a change of layout asked for is shared where every reader of its input reads such a one, joined
with a transpose before it, and a reshape where it moves axes of size one alone; a reshape of a reshape is one reshape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from dpuforge.emulator.export.xmodel_builder import ints
from dpuforge.xmodel.nouns import Argument, Op, Tensor

Sizes = Callable[[str, Sequence[int]], list[Op]]


class Tidied:
    """The ops after tidying.

    renamed: which op stands for one that is gone; moved: a transpose that took in the one behind it, which is gone;
    added: the constants that reshapes need.
    """

    def __init__(self, ops: Iterable[Op], layout_changes: Iterable[str], kept: Iterable[str], sizes: Sizes) -> None:
        self._ops = {op.name: op for op in ops}
        self._changes, self._kept, self._sizes = set(layout_changes) & set(self._ops), set(kept), sizes
        self._readers: dict[str, list[str]] = {name: [] for name in self._ops}
        for op in self._ops.values():
            for name in dict.fromkeys(op.all_inputs):
                self._readers[name].append(op.name)
        self.renamed: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self.added: list[Op] = []
        for step in (self._share, self._join_transposes, self._to_reshapes, self._join_reshapes):
            step()

    @property
    def ops(self) -> list[Op]:
        """The ops in order."""
        return list(self._ops.values())

    def _replace(self, old: str, new: str) -> None:
        """Let the readers of an op read another, and leave it out."""
        gone = self._ops.pop(old)
        self._changes.discard(old)
        self.renamed = {name: (new if to == old else to) for name, to in self.renamed.items()} | {old: new}
        if old in self._kept:
            self._kept.add(new)
        for name in dict.fromkeys(gone.all_inputs):
            self._readers[name].remove(old)
        for reader in self._readers.pop(old):
            op = self._ops[reader]
            args = tuple(Argument(arg.name, tuple(new if n == old else n for n in arg.ops)) for arg in op.args)
            self._ops[reader] = replace(op, args=args)
            self._readers[new].append(reader)

    def _share(self) -> None:
        for source in list(self._ops):
            readers = self._readers.get(source, [])
            if len(readers) > 1 and source not in self._kept and set(readers) <= self._changes:
                beyond = {self._ops[name].type for move in readers for name in self._readers[move]}
                if self._ops[source].type == "reshape" and beyond == {"strided_slice"}:
                    continue  # each part of a reshaped map moves on its own: counted in ShuffleNet V2
                for other in readers[1:]:
                    self._replace(other, readers[0])

    def _alone(self, name: str) -> bool:
        return len(self._readers[name]) == 1 and name not in self._kept

    def _join_transposes(self) -> None:
        for name in list(self._ops):
            if name not in self._changes:
                continue
            outer = self._ops[name]
            inner = self._ops[outer.all_inputs[0]]
            fix = inner if inner.type == "fix" else None
            inner = self._ops[fix.all_inputs[0]] if fix else inner
            if inner.type == "transpose" and self._alone(inner.name) and (fix is None or self._alone(fix.name)):
                self._join(inner, fix, outer)

    def _join(self, inner: Op, fix: Op | None, outer: Op) -> None:
        order = [inner.attrs["order"].value[axis] for axis in outer.attrs["order"].value]
        self._replace(outer.name, fix.name if fix else inner.name)
        self.moved[inner.name] = outer.name
        if fix:
            self._ops[fix.name] = _of_shape(fix, outer.dims)
        self._ops[inner.name] = replace(_of_shape(inner, outer.dims), attrs={**inner.attrs, "order": ints(*order)})
        if order == sorted(order):
            self._replace(inner.name, inner.all_inputs[0])

    def _to_reshapes(self) -> None:
        """Make a reshape of what moves only axes of size one, and so nothing in memory."""
        for name in list(self._ops):
            op = self._ops[name]
            if name not in self._changes:
                continue
            source = self._ops[op.all_inputs[0]]
            longer = [axis for axis in op.attrs["order"].value if source.dims[axis] != 1]
            if longer == sorted(longer):
                sizes = self._sizes(f"{name}_shape", op.dims)
                self.added += sizes
                args = (*op.args, Argument("shape", (sizes[-1].name,)))
                self._ops[name] = replace(op, type="reshape", attrs={"shape": ints(0)}, args=args)

    def _join_reshapes(self) -> None:
        for name in list(self._ops):
            op = self._ops[name]
            inner = self._ops.get(op.all_inputs[0]) if op.type == "reshape" else None
            if inner is not None and inner.type == "reshape" and self._alone(inner.name):
                source = inner.all_inputs[0]
                args = tuple(inner.args[0] if arg.name == "input" else arg for arg in op.args)
                self._ops[name] = replace(op, args=args)
                self._readers[source] = [name if reader == inner.name else reader for reader in self._readers[source]]
                del self._ops[inner.name]


def _of_shape(op: Op, dims: tuple[int, ...]) -> Op:
    return replace(op, tensor=Tensor(op.name, tuple(dims)))
