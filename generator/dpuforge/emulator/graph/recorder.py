"""The torch-function mode under which a module runs once: it appends a node for each call that makes tensors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from dpuforge.emulator.arithmetic.operations import OutOfPlace
from dpuforge.emulator.graph.describe import describe_call
from dpuforge.emulator.graph.expansions import EXPANSIONS, split_index
from dpuforge.emulator.graph.kinds import INPUT, SHAPE
from dpuforge.emulator.graph.nodes import Call, Graph, Node, Param, Ref, leaves, map_template
from dpuforge.emulator.graph.shadows import Shadow, TracedInt
from dpuforge.emulator.graph.vocabulary import NUMBERED, TWICE_NAMED, UNNAMED, base_name

_TORCH_FOLDER = os.path.dirname(torch.__file__) + os.sep
_OWN_FOLDER = os.path.dirname(__file__) + os.sep
_FIRST_LABEL = 3  # the real tracer's first "ret" of a graph is "ret.3" (docs/quantizer.md, section 5)


def plain_output(result: Any) -> Any:
    """Turn dict-like outputs into dicts, so that they can be walked."""
    return dict(result) if isinstance(result, Mapping) and not isinstance(result, dict) else result


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


class Recorder(TorchFunctionMode):
    """Sees every torch call while the module runs and appends a node for each that makes tensors."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        twin = module.__dict__.get("_twin")
        self.network = type(twin or module).__name__
        self.nodes: list[Node] = []
        self.tensors: dict[str, torch.Tensor] = {}
        self.trained: list[str] = []  # keys of parameters, as opposed to buffers and constants
        self.results: dict[str, Any] = {}  # of the nodes that depend on no input
        self.outputs: Any = None
        self.frozen: list[str] = []
        self.shadows: list[Shadow] = []
        self._reading: list[str] = []  # shadows whose integers the call at hand has read
        self._refs: Any = WeakTensorKeyDictionary()
        self._kinds = {path: type(part).__name__ for path, part in (twin or module).named_modules()}
        self._paths = {id(part): path for path, part in (twin or module).named_modules()}
        self._stack: list[tuple[str, str]] = []
        self._labels = [_FIRST_LABEL, 1000]
        self._names: set[str] = set()
        self._add_store(module.__dict__["_meta"] if twin else dict(named_tensors(module)))
        self.batch = self._add_inputs([leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)])

    def _add_store(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for path, tensor in tensors.items():
            key = f"{self.network}::{path}"
            self.tensors[key] = tensor.detach()
            self._refs[tensor] = Param(key)
            if isinstance(tensor, nn.Parameter):
                self.trained.append(key)

    def _add_inputs(self, tensors: list[torch.Tensor]) -> int:
        for position, tensor in enumerate(tensors):
            name = f"{self.network}::input_{position}"
            call = Call(_take_input, (position,))
            shape = tuple(tensor.shape)
            node = Node(name, INPUT, call, shape=shape, shapes=(shape,), trace_index=position + 1)
            self.nodes.append(replace(node, floating=tensor.is_floating_point()))
            self._refs[tensor] = Ref(name)
        return int(tensors[0].shape[0]) if tensors and tensors[0].dim() else 1

    def graph(self, nodes: Sequence[Node]) -> Graph:
        """Return what was recorded, with these nodes."""
        frozen = tuple(dict.fromkeys(self.frozen))
        rest = (frozen, tuple(self.shadows), frozenset(self.trained))
        return Graph(self.network, tuple(nodes), self.outputs, self.tensors, self.batch, *rest)

    def enter(self, module: nn.Module, _: Any) -> None:
        """Note that a submodule starts."""
        path = self._paths.get(id(module))
        if path:
            self._stack.append((path, type(module).__name__))

    def leave(self, module: nn.Module, args: Any = (), result: Any = None) -> None:
        """Note that a submodule ends; one that computed where no torch call was seen becomes one opaque node."""
        path = self._paths.get(id(module))
        if path and self._stack:
            self._stack.pop()
        made = [leaf for leaf in leaves(plain_output(result)) if isinstance(leaf, torch.Tensor)]
        given = [leaf for leaf in leaves(args) if isinstance(leaf, torch.Tensor)]
        hidden = [tensor for tensor in made if self._refs.get(tensor) is None]
        if path and hidden and any(isinstance(self._refs.get(tensor), Ref) for tensor in given):
            template: tuple[Any, Any] = (map_template(tuple(args), self.template), {})
            self._append(module, type(module).__name__, template, result, inplace=False)

    def template(self, leaf: Any) -> Any:
        """Return what stands for a value in a call template."""
        if isinstance(leaf, TracedInt):
            self._reading.append(leaf.shadow)
            return int(leaf)
        if not isinstance(leaf, torch.Tensor):
            return leaf
        known = self._refs.get(leaf)
        if known is None:
            key = f"{self.network}::constant_{len(self.tensors)}"
            self.tensors[key] = leaf.detach()
            known = self._refs[leaf] = Param(key)
        return known

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the call and record it when it makes or changes a tensor."""
        kwargs = kwargs or {}
        name, inplace = base_name(function)
        if args and isinstance(args[0], torch.Tensor) and isinstance(self._refs.get(args[0]), Ref):
            if name in _READS and not (name in _CASTS and getattr(function, "__name__", "") == name):
                self.frozen.append(_user_line(2))
            elif name in _SIZES:
                return self._trace_sizes(function(*args, **kwargs), args[0], args[1] if len(args) > 1 else None)
            elif name in EXPANSIONS:
                return EXPANSIONS[name](self._run, *args, **kwargs)
            elif name == "getitem":
                return self._take(*args)
        return self._run_named(name, inplace, function, args, kwargs)

    def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run and record one call of an expansion."""
        return self._run_named(*base_name(function), function, args, kwargs)

    def _run_named(self, name: str, inplace: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        template, self._reading = None, []
        if name not in _QUERIES:
            template = (map_template(tuple(args), self.template), map_template(dict(kwargs), self.template))
        result = function(*args, **kwargs)
        if template is None:
            return result
        if name in _CASTS and isinstance(result, torch.Tensor) and args and isinstance(args[0], torch.Tensor):
            name = "to" if result.dtype == args[0].dtype else "convert"
        if function is torch.norm:
            name = "frobenius_norm"
        if name == "setitem":
            self._append(_assign_item, name, template, args[0], inplace=True)
        elif args and result is args[0] and name in _IDENTITIES and name not in UNNAMED and not inplace:
            result = args[0].view_as(args[0])  # a tensor of its own: later readers of the argument read the argument
            self._append(same_values, name, ((template[0][0],), {}), result, inplace=False)
        elif any(isinstance(leaf, torch.Tensor) for leaf in leaves(result)):
            self._append(function, name, template, result, inplace or bool(kwargs.get("inplace")))
        return result

    def _take(self, values: torch.Tensor, index: Any) -> Any:
        """Record x[index] as the operators that the real tool makes of it."""
        steps = split_index(values.dim(), index)
        if steps is None:
            return self._run(torch.Tensor.__getitem__, values, index)
        for function, rest in steps:
            values = self._run(function, values, *rest)
        return values

    def _note(self, kind: str, inputs: tuple[str, ...]) -> str:
        name = f"{self.network}::shadow_{len(self.shadows)}"
        self.shadows.append(Shadow(name, kind, inputs, len(self.nodes) + 2))
        return name

    def _trace_sizes(self, sizes: Any, values: torch.Tensor, dim: Any) -> Any:
        """Return the sizes of a value as integers that remember where they came from."""
        source = self._refs[values].node

        def trace(size: int) -> TracedInt:
            return TracedInt.make(size, self._note(SHAPE, (source,)), self._note)

        return trace(int(sizes)) if isinstance(sizes, int) else torch.Size([trace(size) for size in sizes])

    def _append(self, function: Any, name: str, template: tuple[Any, Any], result: Any, inplace: bool) -> None:
        args, kwargs = template
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        elif inplace and name in _PURE:
            function = _PURE[name]
        elif inplace and function is not _assign_item:
            function = OutOfPlace(function)
        tensors = [leaf for leaf in leaves(result) if isinstance(leaf, torch.Tensor)]
        if not inplace and name in UNNAMED and self._refs.get(tensors[0]) is not None:
            return
        label = self._label(name, inplace)
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        floating = tensors[0].is_floating_point()
        node = Node(label, "", Call(function, args, kwargs), shape=shapes[0], shapes=shapes, floating=floating)
        node = replace(node, inplace=inplace, shadow_inputs=tuple(self._reading))
        node = describe_call(node, name, self.tensors, self.nodes)
        path, kind = self._stack[-1] if self._stack else ("", self.network)
        node = replace(node, module_path=path, module_type=kind, source=_user_line(), trace_index=len(self.nodes) + 2)
        self.nodes.append(node)
        if all(leaf.node in self.results for leaf in leaves(template) if isinstance(leaf, Ref)):
            self.results[label] = result
        if isinstance(result, torch.Tensor):
            self._refs[result] = Ref(label)
        else:
            for position, tensor in enumerate(result if isinstance(result, (tuple, list)) else tensors):
                if isinstance(tensor, torch.Tensor):
                    self._refs[tensor] = Ref(label, position)

    def _scope(self, entry: tuple[str, str], outer: str) -> str:
        """Return a module as names spell it; one inside a list is Type[list]/ModuleList[place], as the tool has it."""
        path, kind = entry
        inside = (
            path.removeprefix(f"{outer}.") if path.startswith(f"{outer}.") or not outer else path.rpartition(".")[2]
        )
        places = inside.split(".")
        above = (f"{outer}." if outer else "") + places[0]
        kinds = [kind]
        for place in places[1:]:
            kinds.append(self._kinds.get(above, "ModuleList"))
            above = f"{above}.{place}"
        return "/".join(f"{one}[{place}]" for one, place in zip(kinds, places, strict=True))

    def _label(self, name: str, inplace: bool) -> str:
        outer = ("", *(path for path, _ in self._stack))
        scopes = [self.network, *(self._scope(*above) for above in zip(self._stack, outer, strict=False))]
        numbered = inplace or name in NUMBERED or name in UNNAMED
        counter = 1 if numbered else 0
        label = str(self._labels[1]) if numbered else f"ret.{self._labels[0]}"
        self._labels[counter] += 13 if numbered else 2
        if name in TWICE_NAMED:
            self._labels[0] += 2
        return f"{self.network}::{'/'.join(scopes)}/{label}"


# Calls whose results carry no tensor that a network computes with.
_QUERIES = frozenset({
    "shape", "size", "dim", "device", "dtype", "ndim", "requires_grad", "is_floating_point", "numel", "is_contiguous",
    "stride", "layout", "is_cuda", "is_meta", "is_quantized", "ndimension", "is_complex", "grad", "grad_fn",
    "storage_offset", "data_ptr", "is_sparse", "is_mkldnn", "is_nested", "names", "get_device", "broadcast_shapes",
    "promote_types", "result_type", "can_cast", "finfo", "iinfo", "is_tensor", "is_grad_enabled", "set_grad_enabled",
})  # fmt: skip
# Calls that turn a tensor's value into a Python number.
_READS = frozenset({"bool", "int", "float", "index", "item", "tolist", "numpy", "equal", "allclose", "is_nonzero"})
_CASTS = frozenset({"to", "float", "half", "double", "bool", "int", "long", "type", "cpu", "bfloat16"})
_SIZES = frozenset({"shape", "size"})
# Calls that may hand back the very tensor they were given.
_IDENTITIES = frozenset({"contiguous", "to", "detach", "type_as"})

# The same arithmetic without writing into the first argument.
_PURE: Mapping[str, Callable[..., Any]] = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "relu": torch.relu}


def same_values(values: torch.Tensor) -> torch.Tensor:
    """Return the values as they are: a cast to the type they have, a contiguous() of what is contiguous."""
    return values


def _take_input(position: int) -> Any:
    raise NotImplementedError(f"input {position} is fed by the executor")


def _assign_item(base: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """Return base with base[index] = value, without changing base."""
    result = base.clone()
    result[index] = value
    return result


def _user_line(depth: int = 3) -> str:
    """Return file:line of the innermost frame outside torch and this package."""
    frame = sys._getframe(depth)
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_TORCH_FOLDER, _OWN_FOLDER)):
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
