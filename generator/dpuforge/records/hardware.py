"""The hardware as nouns: DPU targets, boards, releases, and the resolved triple that a project builds for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Sizes:
    """The whole numbers an engine accepts, as ranges: "1-3,7" means 1, 2, 3 and 7."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Sizes:
        """Read "1-16" or "2,3,5,7,8" or "1-3,7"; raise ValueError on anything else."""
        parts = (part.split("-") for part in text.split(","))
        return cls(tuple((int(part[0]), int(part[-1])) for part in parts))

    def __contains__(self, value: int) -> bool:
        return any(low <= value <= high for low, high in self.ranges)

    @property
    def largest(self) -> int:
        """The largest size accepted."""
        return max(high for _, high in self.ranges)

    def __str__(self) -> str:
        return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in self.ranges)


@dataclass(frozen=True)
class Limit:
    """Which kernels and strides an engine accepts; stride_out_height is kept for the record only."""

    kernel: Sizes
    stride: Sizes
    stride_out_height: Sizes | None = None


@dataclass(frozen=True)
class Bank:
    """One group of on-chip memory banks: count banks of depth rows, each width_bytes wide."""

    name: str
    count: int
    width_bytes: int
    depth: int
    kind: str

    @property
    def size_bytes(self) -> int:
        """Capacity of the whole group in bytes."""
        return self.count * self.width_bytes * self.depth


@dataclass(frozen=True)
class Engine:
    """One engine of a DPU: its parallelism (channels, pixels), operations, fused activations and limits.

    limits maps "all", or an operation ("max", "avg"), to a Limit; pad maps left, right, top, bottom to Sizes.
    """

    channels: int = 0
    pixels: int = 0
    operations: tuple[str, ...] = ()
    nonlinear: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    pad: Mapping[str, Sizes] = field(default_factory=dict)
    input_banks: tuple[str, ...] = ()
    weight_bank: str = ""
    bias_bank: str = ""
    output_height: int = 0
    output_width: int = 0
    cascade_pixels: int = 0


@dataclass(frozen=True)
class DpuRevision:
    """What one release's target factory says of a target; engines are complete, not differences."""

    release: str
    fingerprint: int
    family: str
    save_argmax: bool
    engines: Mapping[str, Engine]
    source: str


@dataclass(frozen=True)
class Dpu:
    """One DPU target; engines maps "conv", "pool", "dwconv", "alu", "eltwise" to what exists of them.

    peak_ops_per_cycle counts a multiply and an add as two, for one batch engine.
    """

    target: str
    family: str
    isa: int
    batch: int
    input_channels: int
    output_channels: int
    pixels: int
    peak_ops_per_cycle: int
    engines: Mapping[str, Engine]
    banks: tuple[Bank, ...]
    save_argmax: bool
    source: str
    revisions: tuple[DpuRevision, ...]
    channel_augmentation: int | None = None
    load_channels: int | None = None
    save_channels: int | None = None

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases whose target factory knows this target."""
        return tuple(revision.release for revision in self.revisions)

    def revision(self, release: str) -> DpuRevision | None:
        """Return what release says of this target, or None where it does not know it."""
        return next((revision for revision in self.revisions if revision.release == release), None)

    def at_release(self, release: str) -> Dpu:
        """Return the target as release describes it (unchanged where release does not know it)."""
        found = self.revision(release)
        if found is None:
            return self
        return replace(self, family=found.family, engines=found.engines, save_argmax=found.save_argmax)

    def bank(self, name: str) -> Bank | None:
        """Return the bank group called name, or None."""
        return next((bank for bank in self.banks if bank.name == name), None)


@dataclass(frozen=True)
class DpuFamily:
    """What all DPUs of a family share: operator rules that no target file states, and what clock_mhz counts."""

    family: str
    type_code: int
    rules: Mapping[str, object]
    sources: Mapping[str, str]
    clock_note: str = ""


@dataclass(frozen=True)
class Configuration:
    """One DPU that a board carries under one release; empty strings and None mean that it is not known."""

    name: str
    release: str
    family: str
    target: str = ""
    fingerprint: int | None = None
    peak_ops_per_cycle: int | None = None
    clock_mhz: float | None = None
    cores: int | None = None
    batch: int = 1
    peak_tops: float | None = None
    arch_json_path: str = ""
    arch_json: Mapping[str, str] = field(default_factory=dict)
    prebuilt: bool = False
    status: str = ""
    source: str = ""
    note: str = ""
    clock_note: str = ""
    images: str = ""

    @property
    def usable(self) -> bool:
        """Whether enough is known to compile for it."""
        return bool(self.arch_json)


@dataclass(frozen=True)
class Memory:
    """External memory bandwidth of a board, with how sure it is."""

    gigabytes_per_second: float
    status: str
    source: str


@dataclass(frozen=True)
class Board:
    """One board; custom_families lists the DPU families whose configuration a user may choose on it."""

    name: str
    description: str
    device: str
    custom_families: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    source: str
    memory: Memory | None = None

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases under which a DPU of this board is known, oldest first."""
        return tuple(sorted({item.release for item in self.configurations if item.usable}))


@dataclass(frozen=True)
class Image:
    """One container image with a pinned tag; pull False means that it has to be built locally."""

    image: str
    kind: str
    pull: bool
    source: str
    note: str = ""


@dataclass(frozen=True)
class Environment:
    """The conda environment inside the image and the versions in it."""

    conda: str
    python: str
    torch: str
    quantizer_accepts: str
    source: str
    torchvision: str = ""


@dataclass(frozen=True)
class Release:
    """One Vitis AI release; synthesised maps a family to the ISA versions it accepts by an unregistered fingerprint.

    sd_images maps a board to the image it boots, which may be an earlier release's; cards are the accelerator cards
    that the release ships firmware for.
    """

    name: str
    status: str
    target_factory: str
    images: tuple[Image, ...]
    environment: Environment | None
    synthesised: Mapping[str, tuple[int, ...]]
    ip: Mapping[str, str]
    sdk: Mapping[str, str]
    sd_images: Mapping[str, str]
    source: str
    vivado: str = ""
    configurations_of: str = ""
    quant_config_file: bool = False
    inspector: bool = False
    cards: tuple[str, ...] = ()
    build_with: str = ""
    runtime: str = ""

    @property
    def supported(self) -> bool:
        """Whether a project can be built with it: an image and an environment are known."""
        return bool(self.images)

    def serves(self, board: str) -> bool:
        """Say whether the release ships what a board runs: an image of its own version, or firmware of a card."""
        return f"-v{self.name}." in self.sd_images.get(board, "") or board in self.cards


@dataclass(frozen=True)
class Catalogue:
    """All hardware that is known, by name; the mappings read a file when its entry is first asked for."""

    boards: Mapping[str, Board]
    dpus: Mapping[str, Dpu]
    releases: Mapping[str, Release]
    families: Mapping[str, DpuFamily]


@dataclass(frozen=True)
class BoardTarget:
    """The resolved triple of board, release and DPU: what arch.json says, and what the board does with it.

    fingerprint is 64 bit, or None where no source gives it; clock_mhz is the clock of the convolution array;
    batch is the number of images in one run of one core.
    """

    board: str
    release: str
    target: str
    family: str
    fingerprint: int | None
    arch_json: Mapping[str, str]
    configuration: str
    registered: bool
    status: str
    source: str
    peak_ops_per_cycle: int | None = None
    clock_mhz: float | None = None
    cores: int = 1
    batch: int = 1
    arch_json_path: str = ""
    note: str = ""

    @property
    def fingerprint_text(self) -> str:
        """The fingerprint as xmodels and arch.json print it, or ""."""
        return "" if self.fingerprint is None else f"{self.fingerprint:#x}"
