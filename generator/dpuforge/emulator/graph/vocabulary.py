"""Which torch functions capture knows by name: their arguments, their nndct kind, and how their values are labelled.

A function that is not in the table is kept as an opaque float operator of kind "aten::<name>".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

REQUIRED = inspect.Parameter.empty

# The aliases under which Python and torch call the same operation.
ALIASES: Mapping[str, str] = {
    "iadd": "add", "radd": "add", "isub": "sub", "imul": "mul", "rmul": "mul", "multiply": "mul", "subtract": "sub",
    "truediv": "div", "itruediv": "div", "divide": "div", "true_divide": "div", "concat": "cat", "concatenate": "cat",
    "hardswish": "hardswish", "upsample": "interpolate", "swapaxes": "transpose", "neg": "neg", "clip": "clamp",
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


def _row(kind: str, text: str, parameters: str = "") -> Row:
    """Read a row: arguments as "input weight bias=None", parameters as "weight bias"."""
    arguments = []
    for word in text.split():
        name, found, default = word.partition("=")
        arguments.append((name, eval(default, {}) if found else REQUIRED))  # literals of this file only
    return Row(f"nndct_{kind}", tuple(arguments), tuple(parameters.split()))


_CONV = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
_CONV_T = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
_POOL = "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None"
_MAXPOOL = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False"

FUNCTIONS: Mapping[str, Row] = {
    "conv1d": _row("conv1d", _CONV, "weight bias"),
    "conv2d": _row("conv2d", _CONV, "weight bias"),
    "conv3d": _row("conv3d", _CONV, "weight bias"),
    "conv_transpose1d": _row("conv_transpose_1d", _CONV_T, "weight bias"),
    "conv_transpose2d": _row("conv_transpose_2d", _CONV_T, "weight bias"),
    "conv_transpose3d": _row("conv_transpose_3d", _CONV_T, "weight bias"),
    "linear": _row("dense", "input weight bias=None", "weight bias"),
    "batch_norm": _row(
        "batch_norm",
        "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-05",
        "weight bias running_mean running_var",
    ),
    "layer_norm": _row("layer_norm", "input normalized_shape weight=None bias=None eps=1e-05", "weight bias"),
    "group_norm": _row("group_norm", "input num_groups weight=None bias=None eps=1e-05", "weight bias"),
    "instance_norm": _row(
        "instance_norm", "input running_mean=None running_var=None weight=None bias=None", "weight bias"
    ),
    "prelu": _row("prelu", "input weight", "weight"),
    "relu": _row("relu", "input inplace=False"),
    "relu6": _row("relu6", "input inplace=False"),
    "hardtanh": _row("hardtanh", "input min_val=-1.0 max_val=1.0 inplace=False"),
    "clamp": _row("clamp", "input min=None max=None"),
    "leaky_relu": _row("leaky_relu", "input negative_slope=0.01 inplace=False"),
    "hardswish": _row("hswish", "input inplace=False"),
    "hardsigmoid": _row("hsigmoid", "input inplace=False"),
    "sigmoid": _row("sigmoid", "input"),
    "tanh": _row("tanh", "input"),
    "gelu": _row("gelu", "input approximate='none'"),
    "silu": _row("silu", "input inplace=False"),
    "mish": _row("mish", "input inplace=False"),
    "elu": _row("elu", "input alpha=1.0 inplace=False"),
    "softmax": _row("softmax", "input dim=None"),
    "log_softmax": _row("log_softmax", "input dim=None"),
    "add": _row("elemwise_add", "input other"),
    "sub": _row("elementwise_sub", "input other"),
    "mul": _row("elemwise_mul", "input other"),
    "div": _row("elemwise_div", "input other"),
    "matmul": _row("matmul", "input other"),
    "bmm": _row("bmm", "input other"),
    "cat": _row("concat", "tensors dim=0"),
    "stack": _row("stack", "tensors dim=0"),
    "max_pool1d": _row("maxpool1d", _MAXPOOL),
    "max_pool2d": _row("maxpool", _MAXPOOL),
    "max_pool3d": _row("maxpool3d", _MAXPOOL),
    "avg_pool2d": _row("avgpool", _POOL),
    "adaptive_avg_pool2d": _row("adaptive_avg_pool2d", "input output_size"),
    "adaptive_max_pool2d": _row("adaptive_max_pool2d", "input output_size return_indices=False"),
    "dropout": _row("dropout", "input p=0.5 training=True inplace=False"),
    "dropout2d": _row("dropout", "input p=0.5 training=True inplace=False"),
    "dropout3d": _row("dropout", "input p=0.5 training=True inplace=False"),
    "alpha_dropout": _row("dropout", "input p=0.5 training=True inplace=False"),
    "feature_dropout": _row("dropout", "input p=0.5 training=True inplace=False"),
    "flatten": _row("flatten", "input start_dim=0 end_dim=-1"),
    "view": _row("reshape", "input shape"),
    "reshape": _row("reshape", "input shape"),
    "unflatten": _row("unflatten", "input dim sizes"),
    "permute": _row("permute", "input order"),
    "transpose": _row("transpose", "input dim0 dim1"),
    "squeeze": _row("squeeze", "input dim=None"),
    "unsqueeze": _row("unsqueeze", "input dim"),
    "contiguous": _row("contiguous", "input"),
    "clone": _row("clone", "input"),
    "detach": _row("detach", "input"),
    "chunk": _row("chunk", "input chunks dim=0"),
    "split": _row("split", "input split_size dim=0"),
    "unbind": _row("unbind", "input dim=0"),
    "getitem": _row("strided_slice", "input index"),
    "narrow": _row("narrow", "input dim start length"),
    "interpolate": _row(
        "resize",
        "input size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None",
    ),
    "pad": _row("pad_nd", "input pad mode='constant' value=None"),
    "pixel_shuffle": _row("pixel_shuffle", "input factor"),
    "pixel_unshuffle": _row("pixel_unshuffle", "input factor"),
    "channel_shuffle": _row("channel_shuffle", "input groups"),
    "expand": _row("expand", "input sizes"),
}

# Values that the real tracer leaves numbered; all others are called "ret" (docs/quantizer.md, section 5).
NUMBERED = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "mean", "chunk", "split", "unbind", "getitem",
})  # fmt: skip
# Dropped before the real tracer names anything.
UNNAMED = frozenset({"dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "contiguous", "detach"})


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
