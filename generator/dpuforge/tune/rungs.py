"""The ladder as a table: every remedy in order of cost, when it applies, what it sets, and why it may help.

A rung is laid over the best settings so far. What it asks of the network and the settings, and what it sets, are small
functions below the table's head; the climb (tune/climb.py) knows none of the rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from dpuforge.records.operator import OpKind
from dpuforge.records.project import Project
from dpuforge.records.variant import Override

ENOUGH_IMAGES = 200  # for calibration: fewer are few
FEWEST_STEPS, SHORT_STEPS, STEPS, LONG_STEPS = 50, 110, 500, 1500  # of adjust (docs/adjust.md)
ROUND_STEPS = 25  # adjust looks at its fix positions as often
FEWEST_EPOCHS, EPOCHS = 2, 5  # of quantisation-aware training
WORTH_WHILE = 1.3  # so many times what was tried already: else it tells nothing new
SETTINGS, WEIGHTS, TRAINING = "settings", "float weights", "training"

# Settings that QatProcessor does not read, which a rung below may have turned on.
_READ_BY_CALIBRATION = ("convert_relu6_to_relu", "change_concat_input_fix", "change_pool_input_fix")


@dataclass(frozen=True)
class Situation:
    """What a rung may look at: the project with the best settings so far, and the network's operators.

    emulated says whose quantizer decides, images are those of each split; steps_fit and epochs_fit say how many of a
    training end in the time that is left, steps_tried how many of adjust were tried with include_cle as its key says.
    """

    project: Project
    emulated: bool
    operators: frozenset[str]
    images: Mapping[str, int]
    steps_fit: int = STEPS
    epochs_fit: int = EPOCHS
    steps_tried: Mapping[bool, int] = field(default_factory=dict)

    @property
    def flags(self) -> Mapping[str, bool]:
        """The quantizer's flags."""
        given = self.project.quantization
        names = ("include_cle", "include_bias_corr", *_READ_BY_CALIBRATION)
        return {name: getattr(given, name) for name in names}


Applies = Callable[[Situation], str]
Change = Callable[[Situation], tuple[Override, ...]]


@dataclass(frozen=True)
class Rung:
    """One remedy; applies returns why it does not ("" where it does), change what it sets.

    not_tried marks a remedy that would apply, and whose gain would be no promise for the real tool.
    """

    name: str
    cost: str
    why: str
    change: Change
    applies: Applies = lambda situation: ""
    not_tried: Applies = lambda situation: ""


def set_key(key: str, value: object) -> Override:
    """Return the override of a key below quantization, its value written as YAML does."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return Override(f"quantization.{key}", text)


def toggle(name: str, situation: Situation) -> tuple[Override, ...]:
    """Set a flag to what it is not."""
    return (set_key(name, not situation.flags[name]),)


def _set_nothing(situation: Situation) -> tuple[Override, ...]:
    return ()


def _count_more_images(situation: Situation) -> int:
    given = situation.project.quantization.calibration
    return min(max(4 * given.images, ENOUGH_IMAGES), situation.images.get(given.from_split, 0))


def _more_images(situation: Situation) -> tuple[Override, ...]:
    return (set_key("calibration.images", _count_more_images(situation)),)


def _has_many_images(situation: Situation) -> str:
    given = situation.project.quantization.calibration
    if given.images >= ENOUGH_IMAGES:
        return f"{given.images} calibration images are not few"
    if _count_more_images(situation) < WORTH_WHILE * given.images:
        has = situation.images.get(given.from_split, 0)
        return f"the {given.from_split} split has {has} images, {given.images} are used"
    return ""


def _other_split(situation: Situation) -> tuple[Override, ...]:
    given = situation.project.quantization.calibration
    images = min(given.images, situation.images.get("train", 0))
    changes = [set_key("calibration.from", "train"), set_key("calibration.images", images)]
    if given.batch_size > images:
        changes.append(set_key("calibration.batch_size", images))
    return tuple(changes)


def _calibrates_on_training(situation: Situation) -> str:
    if situation.project.quantization.calibration.from_split == "train":
        return "validation images judge the trials, and so cannot calibrate them"
    return ""


def _equalises_or_has_no_relu6(situation: Situation) -> str:
    if situation.flags["include_cle"]:
        return "with include_cle the quantizer makes relu of every relu6 anyway (docs/quantizer.md, section 3)"
    return _lacks(situation, OpKind.RELU6)


def _lacks(situation: Situation, *kinds: OpKind) -> str:
    if any(kind.value in situation.operators for kind in kinds):
        return ""
    return f"the network has no {' or '.join(kind.value for kind in kinds)}"


def _lacks_or_is_old(*kinds: OpKind) -> Applies:
    def applies(situation: Situation) -> str:
        if situation.project.target.vitis_ai == "2.5":
            return "the quantizer of release 2.5 does not know the key"
        return _lacks(situation, *kinds)

    return applies


def _always(reason: str) -> Applies:
    return lambda situation: reason


def _adjust(steps: int, other: bool, situation: Situation) -> tuple[Override, ...]:
    """Adjust the float weights, in as many steps as are asked for and end in time; never on the images that judge."""
    steps = min(steps, max(situation.steps_fit, FEWEST_STEPS))
    asked = [set_key("adjust.enabled", True), set_key("adjust.steps", steps)]
    if situation.project.quantization.fast_finetune.enabled:
        asked.append(set_key("fast_finetune.enabled", False))
    if situation.project.quantization.calibration.from_split != "train":
        asked += _other_split(situation)
    return (*asked, *(toggle("include_cle", situation) if other else ()))


def _adjusts_no_better(steps: int, other: bool, situation: Situation) -> str:
    """Say where as many steps were tried, or hardly more would end in time."""
    tried = situation.steps_tried.get(situation.flags["include_cle"] != other, 0)
    given = situation.project.quantization.adjust
    if given.enabled and not other:
        tried = max(tried, given.steps)
    steps = min(steps, max(situation.steps_fit, FEWEST_STEPS))
    if given.enabled and steps < given.steps:
        return f"the best settings have {given.steps} steps, and in the time that is left {steps} end"
    if steps < WORTH_WHILE * tried:
        return f"{tried} steps were tried, and {steps} in the time that is left are hardly more"
    return ""


def _leaves_no_time(situation: Situation) -> str:
    """Say where a short adjustment would take the time of a longer one, which gains more."""
    steps = min(situation.steps_fit, STEPS)
    if SHORT_STEPS < situation.steps_fit < SHORT_STEPS + STEPS:
        return f"one adjustment of {steps} steps is the better use of the time that is left"
    return _adjusts_no_better(SHORT_STEPS, False, situation)


def _make_adjust(name: str, steps: int, why: str, other: bool = False) -> Rung:
    return Rung(name, WEIGHTS, why, partial(_adjust, steps, other), partial(_adjusts_no_better, steps, other))


def _finetune(situation: Situation) -> tuple[Override, ...]:
    images = min(situation.project.quantization.fast_finetune.images, situation.images.get("train", 0))
    return (
        set_key("adjust.enabled", False),
        set_key("fast_finetune.enabled", True),
        set_key("fast_finetune.images", images),
    )


def _finetunes(situation: Situation) -> str:
    return "the spec has it" if situation.project.quantization.fast_finetune.enabled else ""


def _is_emulated(situation: Situation) -> str:
    return "AMD's fast_finetune finds other weights than the emulator's" if situation.emulated else ""


def _train(situation: Situation) -> tuple[Override, ...]:
    given, flags = situation.project.quantization, situation.flags
    off = [key for key in ("adjust", "fast_finetune") if getattr(given, key).enabled]
    return (
        *(set_key(f"{key}.enabled", False) for key in off),
        *(set_key(name, False) for name in _READ_BY_CALIBRATION if flags[name]),
        set_key("qat.enabled", True),
        set_key("qat.epochs", max(FEWEST_EPOCHS, min(EPOCHS, situation.epochs_fit))),
    )


def _qat_would_pass_over(situation: Situation) -> str:
    given = situation.project.quantization
    settings = {
        "overall": given.overall,
        "tensors": given.tensors,
        "layers": given.layers,
        "exact_torch": given.exact_torch,
        "convert_silu_to_hswish": given.convert_silu_to_hswish,
    }
    found = [name for name, value in settings.items() if value]
    return f"QatProcessor does not read quantization.{found[0]}, which the spec sets (docs/qat.md)" if found else ""


RUNGS = (
    Rung("calibration images", SETTINGS, "few images show too little of what the network sees",
         _more_images, _has_many_images),
    Rung("calibration on training images", SETTINGS, "what calibrates must not judge",
         _other_split, _calibrates_on_training),
    Rung("include_cle", SETTINGS, "equalisation evens out weight channels; it also makes relu of relu6",
         partial(toggle, "include_cle")),
    Rung("convert_relu6_to_relu", SETTINGS, "relu6 bounds the values, relu does not",
         partial(toggle, "convert_relu6_to_relu"), _equalises_or_has_no_relu6),
    Rung("include_bias_corr", SETTINGS, "bias correction moves the means back that rounding shifts",
         partial(toggle, "include_bias_corr")),
    Rung("change_concat_input_fix", SETTINGS, "inputs of a concatenation with one fix position",
         partial(toggle, "change_concat_input_fix"), _lacks_or_is_old(OpKind.CONCAT)),
    Rung("change_pool_input_fix", SETTINGS, "a pool's input with the fix position of its output",
         partial(toggle, "change_pool_input_fix"), _lacks_or_is_old(OpKind.MAX_POOL, OpKind.AVERAGE_POOL)),
    Rung("method", SETTINGS, "another search for the fix positions", _set_nothing,
         _always("a DPU has diffs and maxmin alone, and maxmin has no effect there (docs/quantizer.md, section 2)")),
    Rung("layers in float", SETTINGS, "a layer that loses most is not rounded", _set_nothing,
         _always("not possible on this target: the quantizer ends with a KeyError where a layer on a DPU does not list "
                 "weights, bias and activation (docs/quantizer.md, section 12), and a DPU computes with 8 bits")),
    Rung("adjust, short", WEIGHTS, "float weights that plain calibration quantises well (docs/adjust.md)",
         partial(_adjust, SHORT_STEPS, False), _leaves_no_time),
    _make_adjust("adjust", STEPS, "more steps"),
    _make_adjust("adjust, include_cle the other way", STEPS, "adjusted weights may not need what plain ones did", True),
    _make_adjust("adjust, longer", LONG_STEPS, "still more steps, with what time is left"),
    Rung("fast_finetune", WEIGHTS, "AMD's own adjustment of the weights after calibration",
         _finetune, _finetunes, not_tried=_is_emulated),
    Rung("qat", TRAINING, "the network learns on with rounded values (docs/qat.md)", _train, _qat_would_pass_over),
)  # fmt: skip
