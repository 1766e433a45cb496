"""Which torch functions capture knows by name: their arguments, their nndct kind, and how their values are labelled.

What a kind is stands in kinds.py. A function without a row here is kept as an opaque float operator of kind
"aten::<name>".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dpuforge.emulator.graph.kinds import Group, Point, traits_of

REQUIRED = inspect.Parameter.empty

# The aliases under which Python and torch call the same operation.
ALIASES: Mapping[str, str] = {
    "iadd": "add", "radd": "add", "isub": "sub", "imul": "mul", "rmul": "mul", "multiply": "mul", "subtract": "sub",
    "truediv": "div", "itruediv": "div", "divide": "div", "true_divide": "div", "concat": "cat", "concatenate": "cat",
    "hardswish": "hardswish", "upsample": "interpolate", "swapaxes": "transpose", "neg": "neg", "clip": "clamp",
    "clamp_min": "clamp",
    "floordiv": "floor_divide", "mod": "remainder", "eq": "equal",
    "view_copy": "view", "get": "data", "leaky_relu": "leaky_relu", "bn": "batch_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One known function: its nndct kind and its arguments, in order, with defaults."""

    kind: str
    arguments: tuple[tuple[str, Any], ...]
    parameters: tuple[str, ...] = ()

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the call's arguments by name; extra positional integers gather in the last argument."""
        names = [name for name, _ in self.arguments]
        bound = dict(zip(names, args, strict=False))
        if len(args) > len(names):
            bound[names[-1]] = tuple(args[len(names) - 1 :])
        bound.update(kwargs)
        for name, default in self.arguments:
            if name not in bound and default is not REQUIRED:
                bound[name] = default
        return bound


def known_function(kind: str, text: str, parameters: str = "") -> Row:
    """Return a row from text: arguments as "input weight bias=None", parameters as "weight bias"."""
    arguments = []
    for word in text.split():
        name, found, default = word.partition("=")
        arguments.append((name, eval(default, {}) if found else REQUIRED))  # literals of the table below only
    return Row(f"nndct_{kind}", tuple(arguments), tuple(parameters.split()))


_CONV = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
_CONV_T = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
_POOL = "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None"
_MAXPOOL = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False"

FUNCTIONS: dict[str, Row] = {
    "conv1d": known_function("conv1d", _CONV, "weight bias"),
    "conv2d": known_function("conv2d", _CONV, "weight bias"),
    "conv3d": known_function("conv3d", _CONV, "weight bias"),
    "conv_transpose1d": known_function("conv_transpose_1d", _CONV_T, "weight bias"),
    "conv_transpose2d": known_function("conv_transpose_2d", _CONV_T, "weight bias"),
    "conv_transpose3d": known_function("conv_transpose_3d", _CONV_T, "weight bias"),
    "linear": known_function("dense", "input weight bias=None", "weight bias"),
    "batch_norm": known_function(
        "batch_norm",
        "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-05",
        "weight bias running_mean running_var",
    ),
    "layer_norm": known_function("layer_norm", "input normalized_shape weight=None bias=None eps=1e-05", "weight bias"),
    "group_norm": known_function("group_norm", "input num_groups weight=None bias=None eps=1e-05", "weight bias"),
    "instance_norm": known_function(
        "instance_norm", "input running_mean=None running_var=None weight=None bias=None", "weight bias"
    ),
    "prelu": known_function("prelu", "input weight", "weight"),
    "relu": known_function("relu", "input inplace=False"),
    "relu6": known_function("relu6", "input inplace=False"),
    "hardtanh": known_function("hardtanh", "input min_val=-1.0 max_val=1.0 inplace=False"),
    "clamp": known_function("clamp", "input min=None max=None"),
    "leaky_relu": known_function("leaky_relu", "input negative_slope=0.01 inplace=False"),
    "hardswish": known_function("hswish", "input inplace=False"),
    "hardsigmoid": known_function("hsigmoid", "input inplace=False"),
    "sigmoid": known_function("sigmoid", "input"),
    "tanh": known_function("tanh", "input"),
    "gelu": known_function("gelu", "input approximate='none'"),
    "silu": known_function("silu", "input inplace=False"),
    "mish": known_function("mish", "input inplace=False"),
    "elu": known_function("elu", "input alpha=1.0 inplace=False"),
    "softmax": known_function("softmax", "input dim=None"),
    "log_softmax": known_function("log_softmax", "input dim=None"),
    "add": known_function("elemwise_add", "input other"),
    "sub": known_function("elementwise_sub", "input other"),
    "mul": known_function("elemwise_mul", "input other"),
    "div": known_function("elemwise_div", "input other"),
    "rsub": known_function("rsub", "input other"),
    "floor_divide": known_function("floor_divide", "input other"),
    "remainder": known_function("remainder", "input other"),
    "exp": known_function("elemwise_exp", "input"),
    "sqrt": known_function("sqrt", "input"),
    "neg": known_function("neg", "input"),
    "sum": known_function("sum", "input dim=None keepdim=False dtype=None"),
    "norm": known_function("normalize", "input p=2 dim=None keepdim=False"),
    "vector_norm": known_function("normalize", "input p=2 dim=None keepdim=False"),
    "matmul": known_function("matmul", "input other"),
    "bmm": known_function("bmm", "input other"),
    "cat": known_function("concat", "tensors dim=0"),
    "stack": known_function("stack", "tensors dim=0"),
    "max_pool1d": known_function("maxpool1d", _MAXPOOL),
    "max_pool2d": known_function("maxpool", _MAXPOOL),
    "max_pool3d": known_function("maxpool3d", _MAXPOOL),
    "avg_pool2d": known_function("avgpool", _POOL),
    "adaptive_avg_pool2d": known_function("adaptive_avg_pool2d", "input output_size"),
    "adaptive_max_pool2d": known_function("adaptive_max_pool2d", "input output_size return_indices=False"),
    "dropout": known_function("dropout", "input p=0.5 training=True inplace=False"),
    "dropout2d": known_function("dropout", "input p=0.5 training=True inplace=False"),
    "dropout3d": known_function("dropout", "input p=0.5 training=True inplace=False"),
    "alpha_dropout": known_function("dropout", "input p=0.5 training=True inplace=False"),
    "feature_dropout": known_function("dropout", "input p=0.5 training=True inplace=False"),
    "flatten": known_function("flatten", "input start_dim=0 end_dim=-1"),
    "view": known_function("reshape", "input shape"),
    "reshape": known_function("reshape", "input shape"),
    "unflatten": known_function("unflatten", "input dim sizes"),
    "permute": known_function("permute", "input order"),
    "transpose": known_function("transpose", "input dim0 dim1"),
    "squeeze": known_function("squeeze", "input dim=None"),
    "unsqueeze": known_function("unsqueeze", "input dim"),
    "contiguous": known_function("contiguous", "input"),
    "to": known_function("cast", "input dtype=None"),
    "clone": known_function("clone", "input"),
    "detach": known_function("detach", "input"),
    "chunk": known_function("chunk", "input chunks dim=0"),
    "split": known_function("split", "input split_size dim=0"),
    "unbind": known_function("unbind", "input dim=0"),
    "getitem": known_function("strided_slice", "input index"),
    "narrow": known_function("narrow", "input dim start length"),
    "interpolate": known_function(
        "resize",
        "input size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None",
    ),
    "pad": known_function("pad_nd", "input pad mode='constant' value=None"),
    "pixel_shuffle": known_function("pixel_shuffle", "input factor"),
    "pixel_unshuffle": known_function("pixel_unshuffle", "input factor"),
    "channel_shuffle": known_function("channel_shuffle", "input groups"),
    "expand": known_function("expand", "input sizes"),
    "quant_stub": known_function("quant_stub", "input"),
    "dequant_stub": known_function("dequant_stub", "input"),
    "expand_as": known_function("expand_as", "input other"),
    "repeat": known_function("repeat", "input sizes"),
    "select": known_function("select", "input dim index"),
    "take_index": known_function("index", "input dim index"),
    "convert": known_function("convert", "input dtype=None"),
}

# Values that the real tracer leaves numbered; all others are called "ret" (docs/quantizer.md, section 5).
NUMBERED = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "mean", "chunk", "split", "unbind", "getitem", "quant_stub", "dequant_stub",
})  # fmt: skip
# Numbered values that the real tracer calls "ret" as well, so that the label is used up.
TWICE_NAMED = frozenset(name for name, row in FUNCTIONS.items() if traits_of(row.kind).group is Group.BORDER)
# Dropped before the real tracer names anything.
UNNAMED = frozenset(name for name, row in FUNCTIONS.items() if traits_of(row.kind).point is Point.DROPPED)


def base_name(function: Callable[..., Any]) -> tuple[str, bool]:
    """Return the plain name of a torch function and whether it works in place ("__iadd__" -> "add", True)."""
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    inplace = (name.endswith("_") and not name.endswith("__")) or name in ("__iadd__", "__isub__", "__imul__")
    inplace = inplace or name == "__itruediv__"
    plain = name.strip("_")
    plain = plain.removesuffix("_default")
    return ALIASES.get(plain, plain), inplace
