"""Trains and quantises one recorded network of the family qat as a user's script would; says what equals the recording.

The table that is made of it: training_page.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpuforge.emulator.nndct.calibration_files import BIAS_FILE, INFO_FILE
from dpuforge.emulator.nndct.log import QuantizerError
from dpuforge.emulator.nndct.qat import DEPLOYABLE_FILE, QatProcessor
from dpuforge.emulator.nndct.tool_options import reset_options
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.paths import emulator_path
from dpuforge.xmodel.diff import diff_xmodels
from dpuforge.xmodel.read import read_xmodel
from tests.emulator.recorded import arrays
from tests.fidelity.runner import BIAS_TOLERANCE, load_models

LOSS = 1e-6  # relative
FLOATS = 1e-5  # outputs computed in float
GRADIENTS = 2e-4  # of the largest gradient of a tensor: sums that cancel
THRESHOLDS = 1e-4  # of log2; Adam magnifies differences of small gradients
_RATES = (1e-2, 1e-3)
_ONE_RATE = 1e-3
_SWITCHES = ("enable_warmup", "disable_warmup", "disable_quant", "enable_quant", "freeze_quant", "freeze_bn_stats")
_OWN_LINES = re.compile(r"emulat|OS and CPU information|Tools version information")


@dataclass(frozen=True)
class Case:
    """How a recording departs from the plain training; before: methods called before the first step."""

    processor: Mapping[str, Any] = field(default_factory=dict)
    trainable: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after_first: tuple[str, ...] = ()
    groups: bool = True
    method: str = "to_deployable"
    rounded_images: int | None = None


CASES: Mapping[str, Case] = {
    "block_bitwidth_6": Case({"bitwidth": 6}),
    "block_mix_bit": Case({"mix_bit": True}),
    "block_device": Case({"device": "cpu"}),
    "block_one_group": Case(groups=False),
    # The calibration before it rounded the images in place, on the real tool, to the stub's fix position.
    "block_calib_dir": Case(trainable={"calib_dir": "calib"}, rounded_images=4),
    "block_convert_to_deployable": Case(method="convert_to_deployable"),
    "block_freeze_after_step_1": Case(after_first=("freeze_bn_stats", "freeze_quant")),
    "block_quant_disabled": Case(before=("disable_quant",)),
    "block_switches": Case(before=_SWITCHES),
    "block_fused_bn": Case(before=("fuse_conv_bn",)),
    "reused_allowed": Case(trainable={"allow_reused_module": True}),
}


@dataclass
class Figures:
    """What equals the recording, by column: "yes" bit for bit, "~" within tolerance, "no"; a dash: nothing recorded."""

    label: str
    marks: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def note(self, column: str, equal: bool, what: str = "") -> None:
        """Note a figure; one that was noted as not equal stays so."""
        if not equal:
            self.marks[column] = "**no**"
            self.differences.append(f"{column}: {what}" if what else column)
        self.marks.setdefault(column, "yes")

    def note_distance(self, column: str, distance: float, tolerance: float, what: str = "") -> None:
        """Note how far a figure is from the recorded one."""
        self.note(column, distance <= tolerance, f"{what} off by {distance:.2g}".strip())
        if 0 < distance <= tolerance and self.marks[column] == "yes":
            self.marks[column] = "~"


def find_trainings(golden: Path) -> tuple[Path, ...]:
    """Return the folders of the family qat, in order."""
    return tuple(sorted(path.parent for path in (golden / "qat").glob("*/result.json")))


@contextlib.contextmanager
def tool_on_path() -> Iterator[None]:
    """Make the drop-in pytorch_nndct importable; the tool's options are the defaults before and after."""
    reset_options()
    sys.path.insert(0, str(emulator_path()))
    try:
        yield
    finally:
        sys.path.remove(str(emulator_path()))
        reset_options()


def compare_training(
    folder: Path, build: Callable[[], nn.Module], images: torch.Tensor, labels: torch.Tensor
) -> Figures:
    """Repeat the recording in a new folder and return what is equal."""
    torch.set_num_threads(1)
    result = json.loads((folder / "result.json").read_text())
    figures, lines = Figures(folder.name), io.StringIO()
    streams = contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name), tool_on_path(), streams[0], streams[1]:
        if "calibration" in result:
            _Partial(folder, figures, build, images).run()
        else:
            _Training(folder, result, figures, build, images, labels).run(lines)
    return figures


class _Training:
    """One training: the recording, and the case that it is."""

    def __init__(
        self,
        folder: Path,
        result: dict[str, Any],
        figures: Figures,
        build: Callable[[], nn.Module],
        images: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:
        self.folder, self.result, self.figures, self.build = folder, result, figures, build
        self.case = CASES.get(folder.name, Case())
        fix = self.case.rounded_images
        self.images = images if fix is None else torch.floor(images * 2.0**fix + 0.5) * 2.0**-fix
        self.labels = labels

    def run(self, lines: io.StringIO) -> None:
        """Train, deploy and export, each step against the recording."""
        calibration = self.folder / "calib_dir_quant_info.json"
        if calibration.is_file():
            Path("calib").mkdir()
            (Path("calib") / INFO_FILE).write_bytes(calibration.read_bytes())
        processor = self.processor()
        self._compare_info("init_quant_info.json", Path(".vai_qat") / INFO_FILE)
        try:
            model = processor.trainable_model(**self.case.trainable)
            self._compare_beginning(model)
            self._train(model)
            model.eval()
            self._deploy(processor, model)
            self._compare_log(lines, "log_train.txt")
            self._deploy_recorded(processor, model)
        except QuantizerError:
            found = [key for key in ("trainable_model", "to_deployable") if self.result.get(key) == "SystemExit: 1"]
            self.figures.note("begins", bool(found), "ends, and the recording does not")
            self._compare_log(lines, "log_train.txt")
        if (self.folder / "deployable_model_out.npz").is_file():
            lines.seek(lines.truncate(0))
            self._export()
            self._compare_log(lines, "log_deploy.txt")

    def processor(self) -> QatProcessor:
        """Return a new processor with a fresh network."""
        return QatProcessor(self.build(), self.images[:4], **{"bitwidth": 8, **self.case.processor})

    def _compare_info(self, recorded: str, written: Path) -> None:
        mine, theirs = json.loads(written.read_text()), json.loads((self.folder / recorded).read_text())
        for table in ("param", "output", "input", "bias_corrected", "fast_finetuned"):
            equal = json.dumps(mine[table]) == json.dumps(theirs[table])  # the order of keys, too
            self.figures.note("positions", equal, f"{recorded} {table}")

    def _compare_beginning(self, model: nn.Module) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        note, result = self.figures.note, self.result
        modules = {path: type(module).__name__ for path, module in model.named_modules() if path}
        note("begins", modules == result["modules"] and type(model).__name__ == result["class"], "modules")
        note("begins", all(callable(getattr(model, method)) for method in result["added_methods"]), "methods")
        for group in ("quantizer_parameters", "non_quantizer_parameters"):
            note("begins", [names[id(one)] for one in getattr(model, group)()] == result[group], group)
        before, state = arrays(self.folder / "trainable_before.npz"), model.state_dict()
        note("begins", list(state) == list(before), "names of the state dict")
        equal = all(np.array_equal(state[key].numpy(), value) for key, value in before.items())
        note("begins", equal, "values of the state dict")

    def _train(self, model: nn.Module) -> None:
        for method in self.case.before:
            getattr(model, method)()
        optimiser = torch.optim.Adam(self._groups(model), _ONE_RATE)
        recorded = self._recorded_thresholds()
        losses = []
        for step in range(self.result["steps"]):
            output = model(self.images)
            if step == 0:
                self._compare_outputs("first output", output, "train_out_step0.npz")
                self._compare_thresholds(model, recorded[0])
            loss = nn.functional.cross_entropy(output, self.labels)
            optimiser.zero_grad(set_to_none=False)  # torch 1.13's default: frozen thresholds move on by momentum
            loss.backward()  # type: ignore[no-untyped-call]
            if step == 0:
                self._compare_gradients(model)
            losses.append(loss.item())
            optimiser.step()
            self._compare_thresholds(model, recorded[step + 1])
            for method in self.case.after_first if step == 0 else ():
                getattr(model, method)()
        for mine, theirs in zip(losses, self.result["loss"], strict=True):
            self.figures.note_distance("losses", abs(mine - theirs) / theirs, LOSS)

    def _groups(self, model: Any) -> Any:
        if not self.case.groups:
            return model.parameters()
        parts = (model.quantizer_parameters(), model.non_quantizer_parameters())
        return [{"params": part, "lr": rate} for part, rate in zip(parts, _RATES, strict=True)]

    def _recorded_thresholds(self) -> list[dict[str, list[float]]]:
        steps: list[dict[str, list[float]]] = json.loads((self.folder / "log_threshold_by_step.json").read_text())
        return steps

    def _compare_thresholds(self, model: nn.Module, recorded: Mapping[str, Sequence[float]]) -> None:
        state = model.state_dict()
        distance = max((abs(float(state[key]) - value[0]) for key, value in recorded.items()), default=0.0)
        self.figures.note_distance("thresholds", distance, THRESHOLDS)

    def _compare_gradients(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        without = [name for name, parameter in parameters.items() if parameter.grad is None]
        equal = without == self.result.get("parameters_without_gradient", [])
        self.figures.note("gradients", equal, "other parameters without one")
        for name, value in arrays(self.folder / "gradients_step0.npz").items():
            gradient = parameters[name].grad
            assert gradient is not None
            most = max(float(np.abs(value).max()), 1e-30)
            distance = float(np.abs(gradient.numpy() - value).max()) / most
            self.figures.note_distance("gradients", distance, GRADIENTS, name)

    def _compare_outputs(self, column: str, output: torch.Tensor, recorded: str) -> None:
        (value,) = arrays(self.folder / recorded).values()
        floats = "disable_quant" in self.case.before or self.case.method == "convert_to_deployable"
        distance = float(np.abs(output.detach().numpy() - value).max())
        self.figures.note_distance(column, distance, FLOATS if floats else 0.0)

    def _deploy(self, processor: QatProcessor, model: nn.Module) -> None:
        with torch.no_grad():
            self._compare_outputs("trained", model(self.images), "trainable_eval_out.npz")
            deployable = getattr(processor, self.case.method)(model, output_dir="qat_result")
            self._compare_outputs("deployed", deployable(self.images), "deployable_out.npz")
        self.figures.note("deployed", type(deployable).__name__ == self.result["deployable_class"], "class")
        for name in ("test/quant_info.json", "quant_info.json"):
            self._compare_info(name.replace("/", "_"), Path("qat_result") / name)

    def _deploy_recorded(self, processor: QatProcessor, model: nn.Module) -> None:
        """Deploy the values that the real tool trained: they must give the very files that it wrote."""
        after = arrays(self.folder / "trainable_after.npz")
        model.load_state_dict({key: torch.from_numpy(value) for key, value in after.items()})
        self._deploy(processor, model)
        files = self.result.get("files_after_to_deployable") or self.result["files_after_convert_to_deployable"]
        self.figures.note("files", _listing("qat_result") == files, "names")
        if (self.folder / "deployable_pth.npz").is_file():
            theirs, mine = arrays(self.folder / "deployable_pth.npz"), torch.load(f"qat_result/{DEPLOYABLE_FILE}")
            equal = list(mine) == list(theirs) and all(np.array_equal(mine[key], theirs[key]) for key in theirs)
            self.figures.note("files", equal and type(mine).__name__ == "OrderedDict", DEPLOYABLE_FILE)

    def _export(self) -> None:
        processor = self.processor()
        model = processor.deployable_model("qat_result", used_for_xmodel=True)
        with torch.no_grad():
            self._compare_outputs("deployed", model(self.images[:1]), "deployable_model_out.npz")
        processor.export_xmodel("qat_result")
        processor.export_onnx_model("qat_result")
        processor.export_torch_script("qat_result")
        self.figures.note("exports", _listing("qat_result") == self.result["files_after_export"], "names of files")
        compare_xmodels(self.figures, self.folder, Path("qat_result"))

    def _compare_log(self, lines: io.StringIO, recorded: str) -> None:
        mine, theirs = plain_lines(lines.getvalue()), plain_lines((self.folder / recorded).read_text())
        if self.case.trainable.get("calib_dir"):  # the recorded calibration ran in the same process
            theirs = theirs[-len(mine) :]
        strange = next((f"{one!r}, recorded {two!r}" for one, two in zip(mine, theirs, strict=False) if one != two), "")
        self.figures.note("log", mine == theirs, strange or "other number of lines")


class _Partial:
    """A network with stubs inside through torch_quantizer: calibration on images 0..5, test on image 6."""

    def __init__(self, folder: Path, figures: Figures, build: Callable[[], nn.Module], images: torch.Tensor) -> None:
        self.folder, self.figures, self.build, self.images = folder, figures, build, images

    def run(self) -> None:
        """Calibrate, test and export, each step against the recording."""
        quantizer = torch_quantizer("calib", self.build().eval(), (self.images[:2],), device="cpu")
        for first in range(0, 6, 2):
            quantizer.quant_model(self.images[first : first + 2])
        quantizer.export_quant_config()
        quantizer = torch_quantizer("test", self.build().eval(), (self.images[6:7],), device="cpu")
        found = quantizer.quant_model(self.images[6:7])
        outputs = found if isinstance(found, tuple) else (found,)
        recorded = arrays(self.folder / "quant_out.npz").values()
        for mine, theirs in zip(outputs, recorded, strict=True):
            self.figures.note_distance("deployed", float(np.abs(mine.numpy() - theirs).max()), 0.0)
        self._compare_files()
        for export in (quantizer.export_xmodel, quantizer.export_onnx_model, quantizer.export_torch_script):
            export()
        files = json.loads((self.folder / "result.json").read_text())["files"]
        self.figures.note("files", set(files) == set(_listing("quantize_result")) - {"effective_config.json"}, "names")
        compare_xmodels(self.figures, self.folder, Path("quantize_result"))

    def _compare_files(self) -> None:
        folder = Path("quantize_result")
        mine, theirs = (json.loads((place / INFO_FILE).read_text()) for place in (folder, self.folder))
        for table in ("param", "output", "input", "bias_corrected"):
            self.figures.note(
                "positions", mine[table] == theirs[table], f"{table}: {_first_difference(mine, theirs, table)}"
            )
        corrections = torch.load(folder / BIAS_FILE, weights_only=True)
        recorded = json.loads((self.folder / "bias_corr.json").read_text())
        self.figures.note("files", list(corrections) == list(recorded), "keys of bias_corr.pth")
        for name in set(corrections) & set(recorded):
            distance = float(np.abs(np.asarray(corrections[name]) - np.asarray(recorded[name])).max())
            self.figures.note("files", distance <= BIAS_TOLERANCE, f"bias correction of {name} off by {distance:.2g}")


def _first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any], table: str) -> str:
    names = [*theirs[table], *mine[table]] if isinstance(theirs[table], dict) else []
    return next((name for name in names if mine[table].get(name) != theirs[table].get(name)), "")


def compare_xmodels(figures: Figures, recorded: Path, folder: Path) -> None:
    """Compare every recorded xmodel with the written one: structure, constants, fix positions, names aside."""
    for path in sorted(recorded.glob("*.xmodel")):
        mine, theirs = read_xmodel(folder / path.name), read_xmodel(path)
        found = diff_xmodels(mine, theirs)
        figures.note("exports", not found and mine.name == theirs.name, f"{path.name} {found[:2]}")
        equal = [op.type for op in mine.ops] == [op.type for op in theirs.ops]
        figures.note("exports", equal, f"{path.name}: order of operators")


def plain_lines(text: str) -> list[str]:
    """Return the tool's lines without colours, times, tracer numbers and what only the emulator says."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^I\d{4} \S+", "I<time>", text, flags=re.MULTILINE)
    text = re.sub(r"\]/\d+\.$", "]/<number>.", text, flags=re.MULTILINE)
    lines = (line for line in text.splitlines() if line.startswith(("[VAIQ", "I<time>")))
    return [line for line in lines if not _OWN_LINES.search(line)]


def _listing(folder: str) -> list[str]:
    root = Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def compare_recorded(folder: Path) -> Figures:
    """Repeat a recording whose network its family's models.py builds."""
    with tool_on_path():
        models = load_models(folder.parent / "models.py")
    images, labels = models.data()
    result = json.loads((folder / "result.json").read_text())
    return compare_training(folder, lambda: models.build(result["network"]), images, labels)
