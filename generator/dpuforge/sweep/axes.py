"""What --set asks for: keys of the spec with several values each, or ranges for a sampler; the grid of variants."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import yaml

from dpuforge.errors import UsageError
from dpuforge.records.variant import Override, Variant

SEED = "train.seed"
MOST_VARIANTS = 500
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_WHOLE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_NUMBER = r"[-+]?(?:\d|\.\d|inf|nan)[\w.+-]*"
_REAL = re.compile(rf"({_NUMBER}?)\.\.({_NUMBER})")
_FIXED = ("project", "base", "spec_version", "run")
_EXAMPLE = "for example --set train.seed=0..4 or --set quantization.overall.method=maxmin,diffs"


@dataclass(frozen=True)
class Axis:
    """One key of the spec with the values to try, as YAML text; low and high bound a range of reals for a sampler."""

    key: str
    values: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan

    @property
    def is_range(self) -> bool:
        """Whether any real number between two bounds may be tried."""
        return not self.values

    @property
    def asks_logarithm(self) -> bool:
        """Whether the bounds lie so far apart that their orders of magnitude are what is tried."""
        return self.low > 0 and self.high / self.low >= 10


def parse_axes(options: Sequence[str]) -> tuple[Axis, ...]:
    """Return the axes of --set options; raise UsageError for one that cannot be read, or a key that comes twice."""
    axes = tuple(_parse_axis(text) for text in options)
    keys = [axis.key for axis in axes]
    for key in keys:
        above = [other for other in keys if key.startswith(f"{other}.")]
        if keys.count(key) > 1 or above:
            raise UsageError(
                f"--set {key}: {' and '.join((*above, key))} are set more than once", "give all values once"
            )
    return axes


def _parse_axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise UsageError(f"--set {text}: no value is given", _EXAMPLE)
    if not _KEY.fullmatch(key):
        raise UsageError(f"--set {text}: {key!r} is no key of a spec", _EXAMPLE)
    if key.partition(".")[0] in _FIXED:
        raise UsageError(f"--set {text}: {key} is what all variants share", "write it into the spec")
    if whole := _WHOLE.fullmatch(values):
        return Axis(key, _count(text, int(whole[1]), int(whole[2])))
    if real := _REAL.fullmatch(values):
        return _bound(text, key, real[1], real[2])
    return Axis(key, _split(text, values))


def _count(text: str, first: int, last: int) -> tuple[str, ...]:
    if not 0 <= last - first < MOST_VARIANTS:
        raise UsageError(f"--set {text}: it counts from {first} to {last}", f"upwards, at most {MOST_VARIANTS} values")
    return tuple(map(str, range(first, last + 1)))


def _bound(text: str, key: str, low: str, high: str) -> Axis:
    try:
        axis = Axis(key, (), float(low), float(high))
    except ValueError:
        raise UsageError(f"--set {text}: {low} and {high} bound no range of numbers", _EXAMPLE) from None
    if not axis.low < axis.high or math.isinf(axis.high - axis.low):
        raise UsageError(f"--set {text}: the range is empty or endless", "the lower bound comes first")
    return axis


def _split(text: str, values: str) -> tuple[str, ...]:
    """Cut values at their commas as YAML would: those in brackets, braces and quotes stay together."""
    if "\n" in values or "\r" in values:
        raise UsageError(f"--set {text!r}: a value stands on one line", _EXAMPLE)
    try:
        node = yaml.compose(f"[{values}]", Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if not isinstance(node, yaml.SequenceNode) or node.end_mark.index != len(values) + 2:
        raise UsageError(f"--set {text}: {values} is no list of YAML values", "quote what holds commas or brackets")
    found = [values[item.start_mark.index - 1 : item.end_mark.index - 1].strip() for item in node.value]
    if not found or "" in found:
        raise UsageError(f"--set {text}: a value is empty", "write null for no value")
    return tuple(dict.fromkeys(found))


def make_grid(axes: Sequence[Axis]) -> tuple[Variant, ...]:
    """Return every combination of the values, all settings with one seed before the next seed's.

    Raises UsageError where a range has no values of its own, or there are too many.
    """
    for axis in axes:
        if axis.is_range:
            text = f"--set {axis.key}={axis.low:g}..{axis.high:g}: a grid cannot try every real number"
            raise UsageError(text, "list values, or let a sampler choose: --sampler tpe --trials 20")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_VARIANTS:
        raise UsageError(
            f"{count} variants are asked for", f"at most {MOST_VARIANTS}; a sampler tries fewer: --sampler"
        )
    return tuple(sorted((Variant(row) for row in _combine(axes)), key=lambda variant: _place_seed(axes, variant)))


def _combine(axes: Sequence[Axis]) -> Iterator[tuple[Override, ...]]:
    for row in product(*(axis.values for axis in axes)):
        yield tuple(Override(axis.key, text) for axis, text in zip(axes, row, strict=True))


def _place_seed(axes: Sequence[Axis], variant: Variant) -> int:
    seeds = next((axis.values for axis in axes if axis.key == SEED), ())
    return next((seeds.index(override.text) for override in variant.overrides if override.key == SEED), 0)


def name_setting(variant: Variant) -> str:
    """Return what a variant sets apart from its seed: variants of one setting differ in luck alone."""
    return str(Variant(tuple(override for override in variant.overrides if override.key != SEED)))


def find_seed(variant: Variant) -> str:
    """Return the seed that a variant sets, "" where it sets none."""
    return next((override.text for override in variant.overrides if override.key == SEED), "")
