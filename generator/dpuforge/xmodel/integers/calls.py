"""Calls that XIR has no operator for: what the quantised network called, kept in the file so that it can be run.

AMD's files name such an operator and its shape and leave out its arguments. dpuforge's files carry them in one
attribute of the graph: op name -> JSON of the call. Tensors stand in it as {"input": i}, integers that follow the batch
as {"batch": [scale, offset]}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers.fixed_point import Array
from dpuforge.xmodel.integers.float_functions import FLOAT_FUNCTIONS
from dpuforge.xmodel.nouns import Attribute, Graph, Kind, Op

CALLS = "dpuforge_calls"
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass(frozen=True)
class Call:
    """One call of a float function; result picks one of several results; nhwc: the op's 4-D tensors are NHWC."""

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: int | None = None
    nhwc: bool = False

    def renumbered(self, places: Mapping[int, int]) -> Call:
        """Return the call with other numbers for its tensors."""
        return replace(
            self,
            args=tuple(_renumber(leaf, places) for leaf in self.args),
            kwargs={name: _renumber(leaf, places) for name, leaf in self.kwargs.items()},
        )

    def to_json(self) -> str:
        """Return the text that read_calls takes."""
        document = {"function": self.function, "args": list(self.args), "kwargs": dict(self.kwargs)}
        more = {"result": self.result} if self.result is not None else {}
        return json.dumps({**document, **more, **({"nhwc": True} if self.nhwc else {})}, sort_keys=True)


def _renumber(leaf: Any, places: Mapping[int, int]) -> Any:
    if isinstance(leaf, list):
        return [_renumber(item, places) for item in leaf]
    if not isinstance(leaf, dict):
        return leaf
    if "input" in leaf:
        return {**leaf, "input": places[leaf["input"]]}
    return {key: _renumber(item, places) for key, item in leaf.items()}


def calls_attribute(calls: Mapping[str, Call]) -> Attribute:
    """Return the graph's attribute that holds calls by op name."""
    return Attribute(Kind.MAP_STRING, tuple((name, calls[name].to_json()) for name in sorted(calls)))


def read_calls(graph: Graph) -> dict[str, Call]:
    """Return the calls that a file carries, by op name. Raises FormatError where the attribute is damaged."""
    found = graph.attrs.get(CALLS)
    if found is None:
        return {}
    if found.kind is not Kind.MAP_STRING:
        raise FormatError(f"the graph's attribute {CALLS} is of type {found.kind.value}", "write the file again")
    return {name: _read_call(name, text) for name, text in found.value}


def _read_call(name: str, text: str) -> Call:
    try:
        document = json.loads(text)
        result = document.get("result")
        nhwc, function = bool(document.get("nhwc", False)), str(document["function"])
        call = Call(function, tuple(document["args"]), dict(document["kwargs"]), result, nhwc)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(f"op {name!r}: its call cannot be read: {error}", "write the file again") from error
    if not (call.result is None or isinstance(call.result, int)):
        raise FormatError(f"op {name!r}: its call names the result {call.result!r}", "write the file again")
    return call


# Functions of tensors alone, or of what the op's own attributes and shape say: they run without a recorded call.
_NEEDS_NOTHING = frozenset({
    "abs", "sqrt", "exp", "sign", "silu", "mish", "neg", "reciprocal", "rsqrt", "log", "log1p", "log2", "log10",
    "expm1", "sin", "cos", "tan", "tanh", "sigmoid", "erf", "floor", "ceil", "relu", "logsigmoid", "log_sigmoid",
    "maximum", "minimum", "where", "logical_not", "expand_as", "hardswish", "hardsigmoid",
})  # fmt: skip
_TWO_TENSORS = frozenset({
    "max", "min", "gt", "ge", "lt", "le", "eq", "ne", "mul", "add", "sub", "div", "matmul", "bmm",
})  # fmt: skip
_FROM_ATTRIBUTES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "layer_norm": (("normalized_shape", "normalized_shape"), ("eps", "eps")),
    "group_norm": (("num_groups", "num_groups"), ("eps", "eps")),
    "instance_norm": (("eps", "eps"),),
}
_OTHER_NAMES = {"elemwise_exp": "exp", "elemwise_add": "add", "elemwise_mul": "mul", "elemwise_div": "div"}


def implied_call(op: Op, exponent: float | None = None) -> Call:
    """Return the call that a file of AMD's tool implies for an op that XIR does not know; exponent: that of a power.

    Raises FormatError where the op needs arguments that its file does not hold.
    """
    stem = op.type.removeprefix("aten::").removeprefix("nndct_").lower().rstrip("_")
    name = _OTHER_NAMES.get(stem, stem)
    tensors = tuple({"input": position} for position in range(len(op.all_inputs)))
    nhwc = op.type.startswith("nndct_")
    if name in _NEEDS_NOTHING or (name in _TWO_TENSORS and len(tensors) == 2):
        return Call(name, tensors, nhwc=nhwc)
    if name == "pow" and len(tensors) == 1 and exponent is not None:
        return Call(name, (*tensors, exponent))
    if name in ("adaptive_max_pool2d", "adaptive_avg_pool2d"):
        return Call(name, (*tensors, list(op.dims[2:])))
    if name in _FROM_ATTRIBUTES:
        given = {role: _plain(op, key) for role, key in _FROM_ATTRIBUTES[name] if key in op.attrs}
        roles = dict(zip(("weight", "bias"), tensors[1:], strict=False))
        return Call(name, tensors[:1], {**given, **roles}, nhwc=nhwc and name != "layer_norm")
    if name == "normalize" and {"p", "dim", "keepdim"} <= set(op.attrs):
        given = {key: _plain(op, key) for key in ("p", "dim", "keepdim")}
        return Call("norm", tensors, given)
    raise FormatError(
        f"op {op.name!r} of type {op.type!r} cannot be run: XIR has no such operator, and the file does not say its"
        " arguments",
        "files that dpuforge's emulator writes do; a power takes --exponent; or end the network before it",
    )


def _plain(op: Op, key: str) -> Any:
    value = op.attrs[key].value
    return list(value) if isinstance(value, tuple) else value


def run_call(call: Call, inputs: Sequence[Array], batch: int) -> Array:
    """Compute a call on real numbers, float64, and return its (chosen) result.

    Raises FormatError where no float function has its name, ValueError where the arguments do not fit it.
    """
    function = FLOAT_FUNCTIONS.get(call.function)
    if function is None:
        raise FormatError(unknown_function(call.function), "replace the operator, or move it out of the network")
    tensors = [x.transpose(_TO_NCHW) if call.nhwc and x.ndim == 4 else x for x in inputs]
    args = [_resolve(leaf, tensors, batch) for leaf in call.args]
    kwargs = {name: _resolve(leaf, tensors, batch) for name, leaf in call.kwargs.items()}
    try:
        with np.errstate(all="ignore"):
            value = function(*args, **kwargs)
        picked = value if call.result is None else value[call.result]
    except (TypeError, AttributeError, KeyError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{call.function}: {error}") from error
    result = np.asarray(picked, np.float64)
    return np.ascontiguousarray(result.transpose(_TO_NHWC)) if call.nhwc and result.ndim == 4 else result


def unknown_function(name: str) -> str:
    """Say that neither a DPU nor dpuforge's CPU computes a function."""
    return f"{name}: neither a DPU nor XIR's CPU operators know it, and dpuforge cannot run it"


def _resolve(leaf: Any, tensors: Sequence[Array], batch: int) -> Any:
    if isinstance(leaf, list):
        return [_resolve(item, tensors, batch) for item in leaf]
    if not isinstance(leaf, dict):
        return leaf
    if "input" in leaf:
        tensor = tensors[int(leaf["input"])]
        return tensor != 0 if leaf.get("bool") else tensor
    if "batch" in leaf:
        scale, offset = leaf["batch"]
        return int(scale) * batch + int(offset)
    if "tuple" in leaf:
        return tuple(_resolve(item, tensors, batch) for item in leaf["tuple"])
    if "slice" in leaf:
        return slice(*(_resolve(part, tensors, batch) for part in leaf["slice"]))
    if "float" in leaf:
        return float(leaf["float"])
    if "ellipsis" in leaf:
        return Ellipsis
    raise ValueError(f"an argument {leaf!r} is not known")
