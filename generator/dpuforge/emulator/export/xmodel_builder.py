"""Collects the ops of an .xmodel while nodes are lowered: layouts, operands, constants and `fix` ops.

Names are the real tool's: the node's debug name with every character outside 0-9A-Za-z replaced by `_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

import torch

from dpuforge.emulator.arithmetic.fake_quantise import Rounding, fake_quantise
from dpuforge.emulator.graph.nodes import BatchSize, Graph, Node, Param, Ref
from dpuforge.errors import UserError
from dpuforge.xmodel.integers.calls import Call
from dpuforge.xmodel.nouns import Argument, Attribute, Kind, Op, Tensor

NHWC_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # PyTorch axis -> axis of an image with channels last

Dims = tuple[int, ...]
Attributes = Mapping[str, Attribute]
Args = Sequence[tuple[str, Sequence[str]]]


class FixPositions(Protocol):
    """(bit width, fix position) by parameter key and by node name."""

    @property
    def param(self) -> Mapping[str, tuple[int, int]]: ...

    @property
    def output(self) -> Mapping[str, tuple[int, int]]: ...


class Quantised(Protocol):
    """What lowering needs of a quantised network."""

    @property
    def graph(self) -> Graph: ...

    @property
    def fix(self) -> FixPositions: ...

    def quantised_parameter(self, key: str) -> torch.Tensor: ...


class ExportError(UserError):
    """The network cannot be written in the format that was asked for."""


class Layout(Enum):
    """Order of an operand's axes: as in PyTorch, or an image, or a row, with its channels last."""

    NATIVE = "native"
    NHWC = "nhwc"
    NWC = "nwc"


@dataclass(frozen=True)
class Operand:
    """An op of the xmodel that stands for a value of the network.

    pad: zeros (top, bottom, left, right) that the reader must add, from a padding that joins its convolution;
    flattened: (C, H, W) of an image that was flattened channels last, whose reader must reorder its weights.
    """

    op: str
    dims: Dims
    layout: Layout = Layout.NATIVE
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    flattened: Dims = ()


@dataclass(frozen=True)
class Held:
    """An op that holds the value of a node, or a transposed copy, a part or a flattened image of it.

    name is the op's name before spelling; index picks one tensor of a tuple.
    """

    name: str
    op: str
    node: str
    layout: Layout
    index: int | None = None
    flattened: Dims = ()


def ints(*values: int) -> Attribute:
    """Return a vector of int32."""
    return Attribute(Kind.INT32_VEC, tuple(int(value) for value in values))


def integer(value: int) -> Attribute:
    """Return an int32."""
    return Attribute(Kind.INT32, int(value))


def flag(value: bool) -> Attribute:
    """Return a bool."""
    return Attribute(Kind.BOOL, bool(value))


def text(value: str) -> Attribute:
    """Return a string."""
    return Attribute(Kind.STRING, value)


def spell(name: str) -> str:
    """Return a debug name as the xmodel spells it."""
    return re.sub(r"[^0-9A-Za-z]", "_", name)


def image_dims(shape: Sequence[int]) -> Dims:
    """Return the NHWC dims of an NCHW shape; other ranks stay."""
    return (shape[0], shape[2], shape[3], shape[1]) if len(shape) == 4 else tuple(shape)


@dataclass
class Builder:
    """Collects the ops of an xmodel, section by section, while the nodes are lowered in order.

    wanted: nodes that work in any layout and whose readers want images with channels last; layout_changes: transposes
    that no node asked for.
    """

    quantised: Quantised
    fix: FixPositions
    position: int = 0
    node: str = ""
    extras: list[tuple[int, list[Op]]] = field(default_factory=list)
    inputs: list[Op] = field(default_factory=list)
    constants: list[tuple[int, list[Op]]] = field(default_factory=list)
    parameters: list[tuple[int, list[Op]]] = field(default_factory=list)
    body: list[Op] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    operands: dict[tuple[str, int | None], Operand] = field(default_factory=dict)
    consumers: Mapping[str, list[str]] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()
    layout_changes: set[str] = field(default_factory=set)
    calls: dict[str, Call] = field(default_factory=dict)
    origins: dict[str, tuple[str, str]] = field(default_factory=dict)
    _transposed: dict[tuple[str, Layout, str], str] = field(default_factory=dict)
    _unfilled: dict[str, Node] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    @property
    def graph(self) -> Graph:
        """The prepared network."""
        return self.quantised.graph

    def operand(self, ref: Ref, layout: Layout | None = None) -> Operand:
        """Return the operand of a value, transposed to `layout` where it is a 4-D tensor in the other one."""
        if ref.node in self._unfilled:
            self._plain_constant(self._unfilled.pop(ref.node))
        found = self.operands.get((ref.node, ref.index)) or self.operands[ref.node, None]
        if layout is None or len(found.dims) != 4 or found.layout is layout:
            return found
        if found.flattened or any(found.pad):
            raise ExportError(f"{ref.node} cannot be transposed", "report the network: this is a gap in the exporter")
        return self._transpose(found, layout)

    def _transpose(self, found: Operand, layout: Layout) -> Operand:
        order = (0, 3, 1, 2) if layout is Layout.NATIVE else (0, 2, 3, 1)
        dims = tuple(found.dims[axis] for axis in order)
        key = (found.op, layout, self.node)
        if key not in self._transposed:
            held = next(held for held in self.held if found.op in (held.op, f"{held.op}_fix"))
            name = f"{held.name}_{'swim' if layout is Layout.NHWC else 'sink'}_transpose_0"
            op = self.emit(name, "transpose", dims, {"order": ints(*order)}, found.op)
            self.held.append(replace(held, name=name, op=op, layout=layout))
            self._transposed[key] = op
            self.layout_changes.add(op)
        return Operand(self._transposed[key], dims, layout)

    def emit(
        self, name: str, kind: str, dims: Dims, attrs: Attributes, inputs: str | Sequence[str] = (), more: Args = ()
    ) -> str:
        """Add an op to the body and return its name; `inputs` feed the argument `input`, `more` the others."""
        first = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        op = self.make(name, kind, dims, attrs, [("input", first), *more])
        self.body.append(op)
        return op.name

    def make(self, name: str, kind: str, dims: Dims, attrs: Attributes, args: Args = (), spelled: bool = True) -> Op:
        """Make an op with a name not used before."""
        given, name = name, spell(name) if spelled else name
        plain = name
        count = 0
        while name in self._names:
            count += 1
            name = f"{plain}_{count}"
        self._names.add(name)
        self.origins[name] = (self.node, given)
        arguments = tuple(Argument(arg, tuple(ops)) for arg, ops in args)
        return Op(name, kind, dict(attrs), arguments, Tensor(name, tuple(dims)))

    def make_const(self, name: str, data: torch.Tensor, spelled: bool = True) -> Op:
        """Make a float32 constant; one on the meta device has a shape and no data."""
        content = b""
        if not data.is_meta:
            data = data.detach().to("cpu", torch.float32).contiguous() + 0.0  # the real tool's files hold no -0.0
            content = data.numpy().astype("<f4").tobytes()
        attrs = {
            "data": Attribute(Kind.BYTES, content),
            "data_type": text("float32"),
            "shape": ints(*data.shape),
        }
        return self.make(name, "const", tuple(data.shape), attrs, spelled=spelled)

    def make_fix(self, name: str, source: Op, bits: int, position: int, spelled: bool = True) -> Op:
        """Make the op that rounds `source` to a fix position."""
        attrs = {
            "bit_width": integer(bits),
            "fix_point": integer(position),
            "if_signed": flag(True),
            "round_mode": text("DPU_ROUND"),
        }
        return self.make(name, "fix", source.dims, attrs, [("input", (source.name,))], spelled)

    def extra(self, name: str, value: float, spelled: bool = True) -> str:
        """Add a constant of one number that is no parameter, and return its name."""
        op = self.make_const(name, torch.tensor([value]), spelled)
        self.add_extras(op)
        return op.name

    def sizes(self, name: str, sizes: Sequence[int]) -> list[Op]:
        """Make the ops of a shape or size as an argument: a constant for each number, the last first, then `stack`."""
        consts = [
            self.make_const(f"{name}_attr_{index}_", torch.tensor([float(size)])) for index, size in enumerate(sizes)
        ]
        args = [("input", [const.name for const in consts])]
        stack = self.make(f"{name}_i0", "stack", (len(consts), 1), {"axis": integer(0)}, args)
        assert stack.tensor is not None
        stack.tensor.attrs["shape_info"] = ints(*sizes)  # type: ignore[index]
        return [*consts[::-1], stack]

    def add_extras(self, *ops: Op) -> None:
        """Add constants that are no parameters, and what is computed from them alone."""
        self.extras.append((self.position, list(ops)))

    def parameter(self, key: str, data: torch.Tensor) -> str:
        """Add a parameter in the layout of the xmodel with its fix, and return the name that readers use."""
        const = self.make_const(key, data)
        ops = [const]
        if key in self.fix.param:
            ops.append(self.make_fix(f"{const.name}_fix", const, *self.fix.param[key]))
        self.parameters.append((self.position, ops))
        return ops[-1].name

    def finish(
        self,
        node: Node,
        name: str,
        layout: Layout,
        section: list[Op] | None = None,
        flattened: Dims = (),
        position: tuple[int, int] | None = None,
    ) -> None:
        """Note that op `name` holds the value of `node`, behind a fix where the node is a quantisation point.

        position: that of the fix where the node is none.
        """
        ops = self.body if section is None else section
        made = ops[-1]
        self.held.append(Held(node.name, name, node.name, layout, flattened=flattened))
        position = self.fix.output.get(node.name, position)
        if position is not None:
            ops.append(self.make_fix(f"{name}_fix", made, *position, spelled=False))
        self.operands[node.name, None] = Operand(ops[-1].name, made.dims, layout, flattened=flattened)

    def alias(self, node: Node, operand: Operand) -> None:
        """Let `node` stand for an operand that exists: it moves no data."""
        self.operands[node.name, None] = operand

    def source(self, node: Node) -> Operand:
        """Return the input of a node that works in any layout: with channels last where its readers want that."""
        return self.operand(node.inputs[0], Layout.NHWC if node.name in self.wanted else None)

    def follow(self, node: Node, kind: str, attrs: Attributes | None = None) -> None:
        """Lower a node of one input whose op works in any layout."""
        source = self.source(node)
        dims = image_dims(node.shape) if source.layout is Layout.NHWC else tuple(node.shape)
        name = self.emit(node.name, kind, dims, attrs or {}, source.op)
        self.finish(node, name, source.layout)

    def same_layout(self, refs: Iterable[Ref], fill: Dims = ()) -> tuple[list[Operand], Layout]:
        """Return operands in one layout: channels last if one of them is or the readers want it, and all are images.

        fill: a shape, as in PyTorch, that constants are filled to.
        """
        found = {ref: self.operand(ref) for ref in refs if not (fill and ref.node in self._unfilled)}
        images = all(len(operand.dims) == 4 or operand.dims == (1,) for operand in found.values())
        asked = self.node in self.wanted or any(o.layout is Layout.NHWC for o in found.values())
        layout = Layout.NHWC if images and asked else Layout.NATIVE
        return [self.operand(ref, layout) if ref in found else self._filled(ref, fill, layout) for ref in refs], layout

    def leave_unfilled(self, node: Node) -> None:
        """Note a constant, whose ops wait for a reader that says which shape it wants."""
        self._unfilled[node.name] = node

    def _filled(self, ref: Ref, shape: Dims, layout: Layout) -> Operand:
        """Return a constant that fills the shape of its reader, as the real tool writes it."""
        node = self._unfilled[ref.node]
        data = self.quantised_constant(node).expand(shape)
        data = data.permute(0, 2, 3, 1) if layout is Layout.NHWC else data
        return self._constant_operand(node, data, layout)

    def _plain_constant(self, node: Node) -> None:
        data = self.quantised_constant(node)
        operand = self._constant_operand(node, data.reshape(1) if data.dim() == 0 else data, Layout.NATIVE)
        self.held.append(Held(node.name, operand.op.removesuffix("_fix"), node.name, Layout.NATIVE))
        self.alias(node, operand)

    def _constant_operand(self, node: Node, data: torch.Tensor, layout: Layout) -> Operand:
        ops = [self.make_const(node.name, data)]
        if node.name in self.fix.output:
            ops.append(self.make_fix(f"{ops[0].name}_fix", ops[0], *self.fix.output[node.name], spelled=False))
        self.constants.append((self.position, ops))
        return Operand(ops[-1].name, tuple(data.shape), layout)

    def resolve(self, value: Any) -> Any:
        """Return an integer that may depend on the batch."""
        return value.resolve(self.graph.batch) if isinstance(value, BatchSize) else value

    def quantised_constant(self, node: Node) -> torch.Tensor:
        """Return the value of a constant's node."""
        (param,) = node.call.args
        data = self.graph.tensors[param.key].detach().to(torch.float32)
        if data.is_meta or node.name not in self.fix.output:
            return data
        return fake_quantise(data, *self.fix.output[node.name], Rounding.HALF_UP)

    def constant(self, value: Any) -> torch.Tensor:
        """Return a constant operand as a tensor."""
        if isinstance(value, Param):
            return self.graph.tensors[value.key].detach().to(torch.float32)
        return torch.tensor(self.resolve(value), dtype=torch.float32)


def with_pad(operand: Operand, pad: tuple[int, int, int, int]) -> Operand:
    """Return an operand whose reader must pad it (further)."""
    top, bottom, left, right = (old + new for old, new in zip(operand.pad, pad, strict=True))
    return replace(operand, pad=(top, bottom, left, right))
