"""What the options of init answer before anybody is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Missing(str, Enum):
    """What becomes of images that lie in some of the three splits."""

    POOL = "pool"
    TRAIN = "train"
    LATER = "later"


WAYS = {
    Missing.POOL: "list the images of all folders in a CSV file, and split them anew",
    Missing.TRAIN: "split train into three, and leave the other folder unused",
    Missing.LATER: "name the missing folder now, and fill it later",
}


def describe_ways() -> str:
    """Return the ways in a line, for help."""
    return "; ".join(f"{way.value}: {words}" for way, words in WAYS.items())


@dataclass(frozen=True)
class Given:
    """The options; answers holds those that are questions of their own, None where the option was not given."""

    data: str | None
    validation: float | None
    test: float | None
    seed: int
    split: Missing | None
    answers: Mapping[str, str | None]
