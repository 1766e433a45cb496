"""How long a trial will take: from what the baseline and earlier trials took, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dpuforge.records.project import Quantization

MOST_START_SECONDS = 30.0
# Until a stage was seen: its passes over an image, in those of evaluate (float and int8 network on one image).
_ADJUST_PASSES, _QAT_PASSES = 3.0, 5.0
LEARNING = ("adjust", "qat")


@dataclass(frozen=True)
class Costs:
    """Seconds for one image in each stage (None: not seen yet), and for a run's own work beside its stages.

    start is a stage's Python and torch before its first image, as inspect took; qat_images are the training images, and
    the validation images that check them, of one epoch of qat.
    """

    start: float = 5.0
    calibrate: float = 0.0
    evaluate: float = 0.0
    evaluated: int = 0
    qat_images: int = 0
    adjust: float | None = None
    qat: float | None = None

    def of_trial(self, given: Quantization) -> float:
        """Return the seconds that a variant with these settings takes: all stages after training."""
        seconds = self.start + self.evaluate * self.evaluated
        if given.qat.enabled:
            return seconds + self.start + given.qat.epochs * self.of_epoch()
        seconds += self.start + self.calibrate * given.calibration.images
        if given.adjust.enabled:
            seconds += self.start + given.adjust.steps * self.of_step(given.adjust.batch_size)
        return seconds

    def of_step(self, images: int) -> float:
        """Return the seconds of one step of adjust."""
        return images * (self.evaluate * _ADJUST_PASSES if self.adjust is None else self.adjust)

    def of_epoch(self) -> float:
        """Return the seconds of one epoch of quantisation-aware training."""
        return self.qat_images * (self.evaluate * _QAT_PASSES if self.qat is None else self.qat)

    def of_images(self, count: int) -> float:
        """Return the seconds in which evaluate measures so many images."""
        return self.start + self.evaluate * count

    def learn(self, given: Quantization, seconds: Mapping[str, float]) -> Costs:
        """Return the costs after a trial; seconds are those of its stages, where they ran to their end."""
        start = min(seconds.get("inspect", self.start), MOST_START_SECONDS)

        def share(stage: str, count: int) -> float:
            return max(seconds[stage] - start, 0.1 * seconds[stage]) / max(count, 1)

        known = {"start": start}
        if "calibrate" in seconds and not given.fast_finetune.enabled:
            known["calibrate"] = share("calibrate", given.calibration.images)
        if "evaluate" in seconds and self.evaluated:
            known["evaluate"] = share("evaluate", self.evaluated)
        if "adjust" in seconds:
            known["adjust"] = share("adjust", given.adjust.steps * given.adjust.batch_size)
        if "qat" in seconds and self.qat_images:
            known["qat"] = share("qat", given.qat.epochs * self.qat_images)
        return replace(self, **known)  # type: ignore[arg-type]
