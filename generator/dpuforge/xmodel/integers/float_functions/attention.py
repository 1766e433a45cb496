"""Attention as torch computes it in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpuforge.xmodel.integers.float_functions.arrays import Array, Function


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _attend(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Array:
    if enable_gqa:
        raise ValueError("grouped queries are not known")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ np.swapaxes(key, -1, -2) * factor
    if is_causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -np.inf)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    result: Array = _softmax(scores) @ value
    return result


def _multi_head(
    query: Array,
    key: Array,
    value: Array,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Array,
    out_proj_bias: Any,
    **options: Any,
) -> tuple[Array, ...]:
    """Inputs (length, batch, width), as nn.MultiheadAttention hands them over; weights of the heads are averaged."""
    unknown = ("attn_mask", "key_padding_mask", "static_k", "static_v", "use_separate_proj_weight", "is_causal")
    if bias_k is not None or bias_v is not None or add_zero_attn or any(_given(options.get(n)) for n in unknown):
        raise ValueError("attention with masks, causal or with keys of another width is not known")
    parts = zip((query, key, value), np.split(in_proj_weight, 3), _biases(in_proj_bias), strict=True)
    q, k, v = (_heads(x @ weight.T + bias, num_heads) for x, weight, bias in parts)
    weights = _softmax(q @ np.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5)
    joined = (weights @ v).transpose(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)
    out = joined @ out_proj_weight.T + (0 if out_proj_bias is None else out_proj_bias)
    return (out, weights.mean(axis=1)) if options.get("need_weights", True) else (out,)


def _given(value: Any) -> bool:
    return value is not None and value is not False


def _biases(bias: Any) -> list[Any]:
    return [0, 0, 0] if bias is None else np.split(bias, 3)


def _heads(x: Array, count: int) -> Array:
    """(length, batch, width) -> (batch, heads, length, width / heads)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2, 0, 3)


ATTENTION: Mapping[str, Function] = {
    "scaled_dot_product_attention": _attend,
    "multi_head_attention_forward": _multi_head,
}
