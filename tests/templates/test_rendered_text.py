"""What every rendered script looks like: complete contexts, a header, tidy Python for old interpreters."""

from __future__ import annotations

import ast
import dataclasses
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path

import jinja2
import jinja2.meta
import jinja2.nodes
import pytest
import shapes_project as shapes

from dpuforge.records import project as records
from dpuforge.render.environment import make_environment

NAMES = tuple(f"class number {number}" for number in range(30))
GRAY = shapes.make_data(color="GRAY", mean=(0.4,), std=(0.2,), exif=False, range=(0.0, 4095.0))
VARIANTS = {
    "fine_tuning": shapes.make_project(),
    "feature_extraction": shapes.make_project(
        model=records.Model("resnet18", "IMAGENET1K_V1", records.InputSize(32, 32)),
        transfer=shapes.make_transfer(
            records.Method.FEATURE_EXTRACTION, records.FrozenLayers("all_but_head"), "frozen"
        ),
        data=shapes.make_data(("random_resized_crop", "horizontal_flip", "color_jitter")),
        train=shapes.make_train(
            early_stopping=None,
            optimizer=records.Optimizer("sgd", 0.1, 1e-4, 0.9),
            scheduler=records.Scheduler("step", 10, 0.1),
        ),
    ),
    "distillation": shapes.make_project(
        transfer=shapes.make_transfer(
            records.Method.DISTILLATION,
            records.FrozenLayers("match", match=("stem*",)),
            "frozen",
            records.Teacher("timm/resnet26", "IMAGENET1K_V1", 4.0, 0.7),
        ),
        data=shapes.make_data(("random_crop", "vertical_flip", "rotation"), source="mnist5k"),
        train=shapes.make_train(
            scheduler=records.Scheduler("none", 1, 0.1),
            early_stopping=records.EarlyStopping("val_loss", 2),
        ),
    ),
    "long_names": shapes.make_project(
        classes=records.Classes(30, NAMES),
        transfer=shapes.make_transfer(layers=records.FrozenLayers("until", until="stem")),
        data=shapes.make_data((), resize=None, crop=None, color="BGR"),
        model=records.Model("nets/tiny.py:make", "weights/tiny.pth", records.InputSize(32, 32)),
        quantization=shapes.make_quantization(fast_finetune=records.FastFinetune(True, 16)),
    ),
    "qat": shapes.make_project(quantization=shapes.make_quantization(qat=records.Qat(True))),
    "one_folder": shapes.make_project(
        data=records.Data(*["data/all"] * 3, None, GRAY.preprocess, (), records.DataSplit("data/all", 0.1, 0.2, 0)),
        train=shapes.make_train(balance="sampler"),
    ),
    "all_methods": shapes.make_project(
        data=shapes.make_data(("random_resized_crop", "rand_augment", "random_erasing", "mixup", "cutmix")),
        train=shapes.make_train(
            optimizer=records.Optimizer("sgd", 0.1, 1e-4, 0.9, True, backbone_lr=0.01, layer_decay=0.7),
            scheduler=records.Scheduler("one_cycle", 1, 0.1),
            label_smoothing=0.1,
            ema=0.99,
            clip_norm=1.0,
            accumulate=2,
            precision="fp16",
            unfreeze_epochs=2,
        ),
    ),
    "kept_features": shapes.make_project(
        data=shapes.make_data(("random_crop", "trivial_augment")),
        transfer=shapes.make_transfer(
            records.Method.DISTILLATION,
            records.FrozenLayers("all_but_head"),
            "frozen",
            records.Teacher("nets/tiny.py:make", "weights/teacher.pth", 4.0, 0.7),
        ),
        train=shapes.make_train(
            cached_views=3,
            balance="weights",
            optimizer=records.Optimizer("rmsprop", 1e-3, 0.0, 0.9),
            scheduler=records.Scheduler("exponential", 1, 0.9, 1),
        ),
    ),
    "kept_scores": shapes.make_project(
        data=shapes.make_data(()),
        transfer=shapes.make_transfer(
            records.Method.DISTILLATION, teacher=records.Teacher("nets/tiny.py:make", "weights/teacher.pth", 4.0, 0.7)
        ),
        train=shapes.make_train(
            precision="bf16",
            label_smoothing=0.1,
            optimizer=records.Optimizer("adamw", 1e-3, 0.01, 0.9),
            scheduler=records.Scheduler("none", 1, 0.1, 1),
        ),
    ),
    "rare_classes": shapes.make_project(data=GRAY, train=shapes.make_train(balance="weights")),
    "hostile_text": shapes.make_project(
        classes=records.Classes(3, ('a"b', "c\\d", "e'\n{{ f }}")),
        spec=records.SourceFile('spec/a b\n"; import os #.yaml', "0" * 64),
    ),
}
VARIANT = pytest.mark.parametrize("variant", VARIANTS)
PLANNED = {file.template: file for file in shapes.plan_project(shapes.make_project()).files if file.template}
TEMPLATE = pytest.mark.parametrize("name", PLANNED)
FILTERS = ("py_literal", "sh_quote", "to_json", "env_value", "cpp_literal")
GIVEN = {"project", "command", "hooks"}  # what every template sees


def find_names(template: str) -> set[str]:
    """Return the undeclared variables of a template and of all that it includes."""
    environment = make_environment()
    assert environment.loader is not None
    tree = environment.parse(environment.loader.get_source(environment, template)[0])
    included = [name for name in jinja2.meta.find_referenced_templates(tree) if name]
    return jinja2.meta.find_undeclared_variables(tree).union(*(find_names(name) for name in included))


@TEMPLATE
def test_context_has_exactly_the_names_of_the_template(name: str) -> None:
    """A template uses every field of its context, the project and the command, and nothing else."""
    context = PLANNED[name].context
    derived = {field.name for field in dataclasses.fields(context)} if context is not None else set()
    assert find_names(name) - GIVEN == derived


def parse_sources(name: str) -> list[jinja2.nodes.Template]:
    """Return the trees of a template and of all that it includes."""
    environment = make_environment()
    assert environment.loader is not None
    tree = environment.parse(environment.loader.get_source(environment, name)[0])
    included = [other for other in jinja2.meta.find_referenced_templates(tree) if other]
    return [tree, *(deeper for other in included for deeper in parse_sources(other))]


def read_path(node: jinja2.nodes.Node) -> list[str]:
    """Return the names of a dotted path, "a.b.c" as [a, b, c]; empty where it starts from something else."""
    if isinstance(node, jinja2.nodes.Name):
        return [node.name]
    path = read_path(node.node) if isinstance(node, jinja2.nodes.Getattr) else []
    return [*path, node.attr] if path and isinstance(node, jinja2.nodes.Getattr) else []


def find_misspelt(names: list[str]) -> str:
    """Return the first name of project.a.b that its record does not have, or ""."""
    kinds: tuple[type, ...] = (records.Project,)
    for name in names:
        hints = [typing.get_type_hints(kind).get(name) for kind in kinds if dataclasses.is_dataclass(kind)]
        found = next((hint for hint in hints if hint is not None), None)
        if found is None:
            return name
        kinds = typing.get_args(found) if isinstance(found, types.UnionType) else (found,)
    return ""


@TEMPLATE
def test_every_name_below_the_project_exists(name: str) -> None:
    """In every branch, rendered here or not, project.a.b names fields that the records have."""
    for tree in parse_sources(name):
        for node in tree.find_all(jinja2.nodes.Getattr):
            path = read_path(node)
            if path[:1] == ["project"]:
                assert not find_misspelt(path[1:]), ".".join(path)


def test_a_misspelt_name_is_found_and_stops_the_rendering() -> None:
    """project.train.epoch is no field of the record; rendered, it raises instead of printing nothing."""
    assert find_misspelt(["train", "epochs"]) == find_misspelt(["transfer", "teacher", "alpha"]) == ""
    assert find_misspelt(["train", "epoch"]) == find_misspelt(["train", "epochs", "epoch"]) == "epoch"
    template = make_environment().from_string("{% if project.train.epoch %}{% endif %}")
    with pytest.raises(jinja2.UndefinedError, match="epoch"):
        template.render(project=shapes.make_project())


@TEMPLATE
def test_every_value_passes_a_filter(name: str) -> None:
    """No template prints a value without py_literal, sh_quote, to_json or env_value."""
    for tree in parse_sources(name):
        for output in tree.find_all(jinja2.nodes.Output):
            for node in output.nodes:
                filtered = isinstance(node, jinja2.nodes.Filter) and node.name in FILTERS
                assert isinstance(node, jinja2.nodes.TemplateData) or filtered, node


@VARIANT
def test_rendered_scripts_are_python_3_7_with_a_header(variant: str) -> None:
    """Each script parses as Python 3.7, names its spec and the command that makes it, and has a docstring."""
    for name, text in shapes.render_scripts(VARIANTS[variant]).items():
        tree = ast.parse(text, feature_version=(3, 7))
        assert ast.get_docstring(tree), name
        assert "# Generated by dpuforge from" in text.splitlines()[0], name
        assert "dpuforge generate" in text.splitlines()[1], name


@VARIANT
def test_rendered_scripts_never_import_dpuforge(variant: str) -> None:
    """The scripts stand alone: they import the standard library, each other and what AMD's image has."""
    own = {name[:-3] for name in shapes.render_scripts(VARIANTS[variant])}
    image = {"torch", "torchvision", "numpy", "PIL", "tqdm", "timm", "torchinfo", "mlxtend", "pytorch_nndct"}
    for name, text in shapes.render_scripts(VARIANTS[variant]).items():
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in {full.split(".")[0] for full in names}:
                assert module in own | image | set(sys.stdlib_module_names), (name, module)


@VARIANT
def test_rendered_functions_are_short(variant: str) -> None:
    """No function of a generated script is longer than forty lines."""
    for name, text in shapes.render_scripts(VARIANTS[variant]).items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 40, (name, node.name)


def check_with_ruff(folder: Path) -> None:
    """Fail where ruff's linter or formatter (line length 100) finds something in a folder; skip without ruff."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed (extra dev)")
    common = ["--isolated", "--line-length", "100", "--target-version", "py37", "--no-cache"]
    for arguments in (["check", "--select", "E,F,W,B", "--ignore", "E501"], ["format", "--diff"]):
        done = subprocess.run([ruff, *arguments, *common, str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@VARIANT
def test_rendered_scripts_pass_ruff(variant: str, tmp_path: Path) -> None:
    """Generated Python is linted and formatted."""
    check_with_ruff(shapes.write_scripts(VARIANTS[variant], tmp_path))


def check_with_vermin(folder: Path) -> None:
    """Fail where a script of a folder needs more than Python 3.7; skip without vermin."""
    pytest.importorskip("vermin", reason="vermin is not installed (extra dev)")
    command = [sys.executable, "-c", "import vermin; vermin.main()", "-t=3.7-", "--violations", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@VARIANT
def test_rendered_scripts_need_no_newer_python(variant: str, tmp_path: Path) -> None:
    """No script uses a library function that Python 3.7 lacks."""
    check_with_vermin(shapes.write_scripts(VARIANTS[variant], tmp_path))


def test_rendering_is_the_same_twice() -> None:
    """Two renderings of one project are equal to the byte."""
    assert shapes.render_scripts(VARIANTS["distillation"]) == shapes.render_scripts(VARIANTS["distillation"])
