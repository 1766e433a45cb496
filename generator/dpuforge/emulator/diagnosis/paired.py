"""Whether one quantisation beats another on the same images, or was merely lucky: paired tests, image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dpuforge.chance.intervals import Z
from dpuforge.chance.paired_tests import luck

_SILENCE = 1e-20  # noise of an exact output, as part of its signal: 200 dB
LEVEL = 0.05  # a gain that luck gives as often as this is none
_WORTH_DB = 1.0


@dataclass
class Scores:
    """One network's results, image by image.

    right: the class is the label's; agreeing: it is the float network's; noise: the output's squared error over the
    float output's square.
    """

    right: list[bool] = field(default_factory=list)
    agreeing: list[bool] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def add(
        self, exact: Sequence[torch.Tensor], found: Sequence[torch.Tensor], labels: torch.Tensor | None = None
    ) -> None:
        """Count one batch of output tensors, exact ones and this network's."""
        signal, noise = (_power(part) for part in (exact, [b - a for a, b in zip(exact, found, strict=True)]))
        self.noise += [max(n / s if s > 0 else n, _SILENCE) for s, n in zip(signal, noise, strict=True)]
        if exact[0].dim() == 2 and exact[0].shape[1] > 1:
            chosen = found[0].argmax(1)
            self.agreeing += (chosen == exact[0].argmax(1)).tolist()
            if labels is not None:
                self.right += (chosen == labels).tolist()


def _power(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return every image's sum of squares over all outputs."""
    sums = [tensor.double().square().reshape(tensor.shape[0], -1).sum(1) for tensor in tensors]
    return [float(value) for value in torch.stack(sums).sum(0)]


@dataclass(frozen=True)
class Gain:
    """What the other network has over the first: by which measure, how much, and how sure that is.

    measure: accuracy, agreement (both percent, the gain in points) or output_sqnr_db; interval: 95 % of the gain;
    chance: how often luck alone gives at least this gain (one-sided); smallest: the smallest chance that the images
    which changed could have given, had all of them changed for the better.
    """

    measure: str
    before: float
    after: float
    interval: tuple[float, float]
    chance: float
    smallest: float

    @property
    def gain(self) -> float:
        """After minus before."""
        return self.after - self.before

    def beats_luck(self, tries: int) -> bool:
        """Say whether it is a gain even though this many were tried (Bonferroni)."""
        enough = self.gain >= _WORTH_DB if self.measure == "output_sqnr_db" else self.gain > 0
        return enough and self.chance * tries < LEVEL


def compare_scores(before: Scores, after: Scores, tries: int = 1) -> Gain:
    """Compare two networks on the same images: by accuracy where labels are there, else by agreement with float.

    Without classes, or where agreement shows no difference that luck would not give, it is the output's SQNR.
    """
    if before.right:
        return _compare_hits("accuracy", before.right, after.right)
    level = _compare_noise(before.noise, after.noise)
    if not before.agreeing:
        return level
    agreement = _compare_hits("agreement", before.agreeing, after.agreeing)
    clear = agreement.beats_luck(tries) or agreement.gain < 0
    return level if not clear and level.beats_luck(tries) else agreement


def count_tries(gains: Sequence[Gain]) -> int:
    """Return how many of the tries luck could have made a gain of: where few images change it never can.

    Tarone, "A modified Bonferroni method for discrete data", Biometrics 1990.
    """
    fitting = (tries for tries in range(1, len(gains)) if sum(g.smallest < LEVEL / tries for g in gains) <= tries)
    return next(fitting, max(len(gains), 1))


def _compare_hits(measure: str, before: Sequence[bool], after: Sequence[bool]) -> Gain:
    """McNemar's test in its exact form; the interval is that of Agresti and Min (Statistics in Medicine, 2005)."""
    count = len(before)
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    larger = count + 2.0
    centre = (won - lost) / larger
    spread = math.sqrt(max((won + lost + 1.0) / larger - centre * centre, 0.0) / larger)
    ends = tuple(100.0 * min(1.0, max(-1.0, centre + side * Z * spread)) for side in (-1, 1))
    shares = (100.0 * sum(before) / count, 100.0 * sum(after) / count)
    return Gain(measure, *shares, (ends[0], ends[1]), luck(won, lost), luck(won + lost, 0))


def _compare_noise(before: Sequence[float], after: Sequence[float]) -> Gain:
    """The mean over the images of each one's SQNR; a sign test, which asks nothing of the distribution."""
    levels = [tuple(-10.0 * math.log10(noise) for noise in row) for row in zip(before, after, strict=True)]
    gains = [other - one for one, other in levels]
    count, mean = len(gains), sum(gains) / len(gains)
    spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / max(count - 1, 1) / count)
    ends = (mean - Z * spread, mean + Z * spread)
    means = [sum(row[place] for row in levels) / count for place in (0, 1)]
    won, lost = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Gain("output_sqnr_db", means[0], means[1], ends, luck(won, lost), luck(won + lost, 0))
