"""What a board says of its own DPU, and the lock that keeps it beside a spec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DpuCore:
    """One DPU core as `xdputil query` shows it; the clock (MHz) is that of the convolution array, None if not shown."""

    name: str
    target: str
    fingerprint: int
    clock_mhz: float | None = None
    batch: int | None = None


@dataclass(frozen=True)
class BoardFacts:
    """What one board reported: DPU cores of one kind, kernels that are no DPU, versions ("" where it shows none)."""

    cores: tuple[DpuCore, ...]
    other_kernels: tuple[str, ...] = ()
    ip_version: str = ""
    runtime: str = ""

    @property
    def fingerprint(self) -> int:
        """The fingerprint that all cores share."""
        return self.cores[0].fingerprint

    @property
    def target(self) -> str:
        """The DPU's name as the board's runtime prints it."""
        return self.cores[0].target

    @property
    def source(self) -> str:
        """Where the facts come from, with the versions that the board printed."""
        known = (("VART", self.runtime), ("DPU IP", self.ip_version))
        return ", ".join(["xdputil query", *(f"{name} {version}" for name, version in known if version)])


@dataclass(frozen=True)
class LockedDpu:
    """The DPU that one board of a spec carries: what compiling for it has to match."""

    board: str
    target: str
    fingerprint: int
    cores: int
    source: str
    clock_mhz: float | None = None
    batch: int | None = None

    @property
    def fingerprint_text(self) -> str:
        """The fingerprint as arch.json prints it."""
        return f"{self.fingerprint:#x}"


@dataclass(frozen=True)
class FittingRelease:
    """A release under which a board carries a DPU, by default or as the configuration `dpu`; its SD image or ""."""

    release: str
    dpu: str = ""
    sd_image: str = ""
