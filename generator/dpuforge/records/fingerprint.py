"""The 64-bit DPU fingerprint as a noun: family, ISA version, feature code, and the name of an unregistered target."""

from __future__ import annotations

from dataclasses import dataclass

# Byte 7 of a fingerprint (target_factory.cpp, v1.4 to v3.5).
FAMILIES: dict[int, str] = {
    1: "DPUCZDX8G",
    2: "DPUCAHX8H",
    3: "DPUCAHX8L",
    4: "DPUCZDI4G",
    5: "DPUCVDX8H",
    6: "DPUCVDX8G",
    7: "DPUCADF8H",
    8: "IPU_PHX",
    9: "DPUCV2DX8G",
}

# DPUCZDX8G, bits 0 to 3: (peak operations per cycle, pixel parallelism, channel parallelism); peak = 2 PP CP CP.
CZ_ARCHITECTURES: dict[int, tuple[int, int, int]] = {
    code: (2 * pixels * channels * channels, pixels, channels)
    for code, (pixels, channels) in {
        0: (4, 8),
        1: (4, 10),
        2: (8, 8),
        3: (4, 12),
        4: (8, 10),
        5: (8, 12),
        6: (8, 14),
        7: (8, 16),
        8: (4, 4),
        9: (2, 6),
        10: (2, 8),
        11: (2, 4),
    }.items()
}


@dataclass(frozen=True)
class Fingerprint:
    """A fingerprint taken apart: byte 7 is the DPU type, byte 6 the ISA version, the rest the feature code."""

    type_code: int
    isa: int
    feature: int

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Read "0x101000016010407"; raise ValueError unless it is a hexadecimal number below 2^64."""
        if not text.lower().startswith("0x"):
            raise ValueError(f"a fingerprint is written in hexadecimal with 0x, got {text!r}")
        return cls.decode(int(text, 16))

    @classmethod
    def decode(cls, value: int) -> Fingerprint:
        """Take a 64-bit value apart; raise ValueError outside 64 bits."""
        if not 0 < value < 1 << 64:
            raise ValueError(f"a fingerprint has 64 bits, got {value:#x}")
        return cls(value >> 56, value >> 48 & 0xFF, value & (1 << 48) - 1)

    @property
    def value(self) -> int:
        """The 64-bit value."""
        return self.type_code << 56 | self.isa << 48 | self.feature

    @property
    def family(self) -> str:
        """The DPU family, or "" for a type code that no release knows."""
        return FAMILIES.get(self.type_code, "")

    @property
    def architecture(self) -> str:
        """The size of the DPU in its name: B4096 (DPUCZDX8G), C32B6 (DPUCVDX8G), C20B14 (DPUCV2DX8G), else "".

        The DPUCVDX8G and DPUCV2DX8G fields are read off the registered targets; no source states them.
        """
        if self.family == "DPUCZDX8G" and self.bits(0, 4) in CZ_ARCHITECTURES:
            return f"B{CZ_ARCHITECTURES[self.bits(0, 4)][0]}"
        if self.family == "DPUCVDX8G" and self.bits(0, 4) in (0, 1, 2):
            return f"C{16 << self.bits(0, 4)}B{self.bits(4, 4)}"
        if self.family == "DPUCV2DX8G":
            return f"C20B{self.bits(8, 8)}" if self.isa else f"C16M{self.bits(8, 4)}B{self.bits(4, 4)}"
        return ""

    @property
    def peak_ops_per_cycle(self) -> int | None:
        """Operations per cycle of one core, for the family whose architecture is named after them (B4096)."""
        return int(self.architecture[1:]) if self.architecture.startswith("B") else None

    def bits(self, low: int, count: int) -> int:
        """Return count bits of the feature code from bit low upwards."""
        return self.feature >> low & (1 << count) - 1

    @property
    def target_name(self) -> str:
        """The name that a release gives to an unregistered target, such as DPUCZDX8G_ISA0_B1152_01000020F6012203."""
        return f"{self.family}_ISA{self.isa}_{self.architecture}_{self.value:016X}"

    def __str__(self) -> str:
        return f"{self.value:#x}"
