"""What a quantizer's JSON config comes to, as frozen records: one tensor type, one layer's override, everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class TensorConfig:
    """How one tensor type is quantised; origin maps a key to the JSON path that set it (absent: a default)."""

    datatype: str
    bit_width: int
    method: str
    round_mode: str
    symmetry: bool
    per_channel: bool
    signed: bool
    narrow_range: bool
    scale_type: str
    calib_statistic_method: str | None = None
    percentage: float | None = None
    origin: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

    @property
    def quant_range(self) -> tuple[int, int]:
        """Return the smallest and largest integer: unsigned or asymmetric ranges start at 0."""
        if not (self.signed and self.symmetry):
            return 0, 2**self.bit_width - 1
        half = 2 ** (self.bit_width - 1)
        return -half + int(self.narrow_range), half - 1


@dataclass(frozen=True)
class LayerConfig:
    """An override for one kind of layer or one node; only the listed tensor types are quantised there."""

    quantizable_data_type: tuple[str, ...]
    tensors: Mapping[str, TensorConfig]


@dataclass(frozen=True)
class EffectiveConfig:
    """Everything the quantizer goes by; layer types are class names without their module path."""

    target_device: str
    quantizable_data_type: tuple[str, ...]
    tensors: Mapping[str, TensorConfig]
    layer_types: Mapping[str, LayerConfig]
    layer_names: Mapping[str, LayerConfig]
    flags: Mapping[str, bool]
    onnx_opset_version: int
