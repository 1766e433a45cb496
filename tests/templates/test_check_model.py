"""check_model.py: networks as people write them pass or are refused in seconds, in one line with key, file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import shapes_project as shapes
import torch

from dpuforge.records import project as records

SIZE = records.InputSize(32, 32)
BASE = """\
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, classes)

    def features(self, x):
        return self.body(x).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


"""


def make(*code: str) -> str:
    """Return a factory with these lines."""
    return "def make():\n" + "".join(f"    {line}\n" for line in code)


def network(*forward: str, init: tuple[str, ...] = (), classes: str = "10") -> str:
    """Return a network with another forward than Tiny's, more layers, and its factory; forward starts at line 22."""
    start = ["class N(Tiny):", "    def __init__(self):", f"        super().__init__({classes})"]
    layers = [f"        {line}" for line in init]
    run = ["    def forward(self, x):", *(f"        {line}" for line in forward)] if forward else []
    return "\n".join([*start, *layers, *run, ""]) + make("return N()")


TINY = make("return Tiny()")
SCORES = "super().forward(x)"
DECORATED = """\
import functools
def deco(f):
    @functools.wraps(f)
    def inner(*a):
        return f(*a)
    return inner
@deco
"""
TUPLE = "import collections\nOut = collections.namedtuple('Out', 'logits mask')\n"
RECORD = "import dataclasses\n@dataclasses.dataclass\nclass Out:\n    parts: dict\n"
BODY = "nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()"
# What the file holds beside Tiny, head and output of the spec.
GOOD: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "plain": (TINY, (), None),
    "a class": ("make = Tiny\n", (), None),
    "lambda": ("make = lambda: Tiny()\n", (), None),
    "partial": ("import functools\nmake = functools.partial(Tiny, classes=5)\n", (), None),
    "decorated": (DECORATED + TINY, (), None),
    "compiled": (make("return torch.compile(Tiny())"), (), None),
    "data parallel": (make("return nn.DataParallel(Tiny())"), (), None),
    "head first": (
        network(
            "return self.head(self.late(self.body(x)).mean((2, 3)))",
            init=("self.fc = None", "self.head = nn.Linear(8, 10)", "self.late = nn.Conv2d(8, 8, 1)"),
        ),
        (),
        None,
    ),
    "unused auxiliary head": (network(init=("self.aux = nn.Linear(8, 10)",)), (), None),
    "auxiliary head thrown away": (
        network(
            "f = self.features(x)",
            "return (self.fc(f), self.aux(f))[0]",
            init=("self.aux = nn.Linear(8, 3)",),
            classes="3",
        ),
        (),
        None,
    ),
    "two heads, averaged": (
        network(
            "f = self.features(x)", "return (self.fc(f) + self.dist(f)) / 2", init=("self.dist = nn.Linear(8, 10)",)
        ),
        (),
        None,
    ),
    "gate after the head": (
        network(
            "f = self.body(x)",
            "f = f * torch.sigmoid(self.gate(f))",
            "return self.fc(f.mean((2, 3)))",
            init=("self.gate = nn.Conv2d(8, 8, 1)",),
        ),
        (),
        None,
    ),
    "convolution as head": (make(f"return nn.Sequential({BODY})"), (), None),
    "head named": (TINY, ("fc",), None),
    "head named by its module": (
        make("return nn.Sequential(Tiny(8), nn.Sequential(nn.Dropout(), nn.Linear(8, 4)))"),
        ("1",),
        None,
    ),
    "tuple": (network(f"return self.body(x), {SCORES}"), (), "1"),
    "dict": (network(f"return {{'mask': self.body(x), 'scores': {SCORES}}}"), (), "scores"),
    "named tuple": (TUPLE + network(f"return Out({SCORES}, self.body(x))"), (), "logits"),
    "data class, deep": (RECORD + network(f"return Out({{'a': [{SCORES}]}})"), (), "parts.a.0"),
    "several outputs in training alone": (
        network(f"y = {SCORES}", "return (y, y) if self.training else y"),
        (),
        "0",
    ),
    "branch on data": (
        network("f = self.features(x)", "return self.fc(f if f.sum() > 0 else f * 2)"),
        (),
        None,
    ),
    "values read while it is built": (network(classes="int(torch.ones(4).sum())"), (), None),
    "loads weights of its own": (
        make("net = Tiny()", "net.load_state_dict(Tiny().state_dict())", "return net"),
        (),
        None,
    ),
    "lazy layer": (make("return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(7))"), (), None),
    "late import": (network("from late import double", f"return double({SCORES})"), (), None),
}
ONE_OUTPUT = "model.output: a classifier has one output, and the network returns"
LINEAR = "nn.Sequential(nn.Conv2d({}, 4, 3), nn.Flatten(), nn.Linear({}, 5))"
# What the file holds, then words of the one line that refuses it.
BAD: dict[str, tuple[str, str]] = {
    "needs an argument": (
        "def make(classes):\n    return Tiny(classes)\n",
        "nets/net.py:18: make: TypeError: make() missing 1 required positional argument: 'classes'",
    ),
    "class needs an argument": (
        "class N(Tiny):\n    def __init__(self, width):\n        super().__init__()\nmake = N\n",
        "nets/net.py:19: make: TypeError:",
    ),
    "lambda needs an argument": ("make = lambda n: Tiny(n)\n", "nets/net.py:18: make: TypeError:"),
    "fails": (make("return {}['stem']"), "nets/net.py:19: make: KeyError: 'stem'"),
    "ends Python": (make("import sys", "sys.exit(1)"), "nets/net.py:20: make: SystemExit: 1"),
    "returns nothing": (make("Tiny()"), "make: it returns nothing: is a return statement missing?"),
    "returns the class": (make("return Tiny"), "make: it returns the class Tiny, not a network: write Tiny()"),
    "returns a dict": (make("return {}"), "make: it returns a dict, not a torch.nn.Module"),
    "is a network": ("make = Tiny()\n", "make: is a network, not a function that makes one"),
    "scripted": (make("return torch.jit.script(nn.Linear(2, 2))"), "make: it returns a TorchScript module"),
    "no such name": ("def makes():\n    return Tiny()\n", "AttributeError: there is no make in it; it has makes"),
    "syntax": ("def make(:\n", "nets/net.py:18: SyntaxError: invalid syntax"),
    "indentation": ("def make():\nreturn 1\n", "nets/net.py:19: IndentationError:"),
    "missing package": ("import no_such_package\n", "nets/net.py:18: ModuleNotFoundError: No module named"),
    "missing sibling": ("from blocks import x\n", "nets/net.py:18: ModuleNotFoundError: No module named"),
    "error in a helper": ("import broken\n" + TINY, "nets/broken.py:1: ZeroDivisionError"),
    "endless": (make("return make()"), "nets/net.py:19: make: RecursionError"),
    "layer too many": (
        make("return " + LINEAR.format(3, 99)),
        "nets/net.py:18: make: layer 2 (Linear): RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "one channel": (make("return " + LINEAR.format(1, 3600)), "takes 1 channel(s), data.preprocess.color RGB gives 3"),
    "forward fails": (network("return self.fc(x, 1)"), "nets/net.py:22: forward: TypeError:"),
    "no forward": (
        "class N(nn.Module):\n    pass\n" + make("return N()"),
        "model.head: the network has no Linear or Conv2d layer",
    ),
    "tuple": (network(f"return {SCORES}, self.body(x)"), f"{ONE_OUTPUT} 0 (2 x 10), 1 (2 x 8 x 16 x 16)"),
    "None in training": (network(f"return None if self.training else {SCORES}"), f"{ONE_OUTPUT} no tensor"),
    "batch squeezed away": (
        network(f"return {SCORES}.squeeze()"),
        "for 1 image(s) the network returns a tensor of 3: squeeze() takes the batch away",
    ),
    "not flattened": (
        make("return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1))"),
        "the network returns a tensor of 2 x 5 x 1 x 1: torch.flatten(x, 1) makes scores of it",
    ),
    "segmentation": (make("return nn.Conv2d(3, 5, 3)"), "one row of scores for each image is needed"),
    "no head": (
        network("return self.features(x) * 2"),
        "model.head: no layer alone decides how many scores there are (8): name it here; candidates: body.0 (8",
    ),
    "no layers": (make("return nn.Flatten()"), "model.head: the network has no Linear or Conv2d layer"),
    "one batch size": (
        network(f"return {SCORES}.view(1, -1)"),
        "for 2 image(s) the network returns a tensor of 1 x ",
    ),
}


def check(root: Path, net: str = "", model: records.Model | None = None, **changes: Any) -> shapes.Ran:
    """Write a network file and run check_model.py on it."""
    (root / "nets/net.py").write_text(BASE + net, encoding="utf-8")
    (root / "nets/broken.py").write_text("1 / 0\n", encoding="utf-8")
    (root / "nets/late.py").write_text("def double(x):\n    return x * 2\n", encoding="utf-8")
    chosen = model or records.Model("nets/net.py:make", "none", SIZE)
    shapes.write_scripts(shapes.make_project(model=chosen, **changes), root)
    return shapes.run_script(root, "check_model.py")


def read_look(root: Path) -> dict[str, Any]:
    """Return what check_model.py left."""
    found: dict[str, Any] = shapes.read_result(root, "check_model")
    return found


@pytest.mark.parametrize("name", GOOD)
def test_networks_as_people_write_them_pass(root: Path, name: str) -> None:
    """Factories of every form, odd heads and several outputs are built and proved to give (N, classes)."""
    net, head, output = GOOD[name]
    ran = check(root, net, records.Model("nets/net.py:make", "none", SIZE, head, output))
    assert ran.status == 0, ran.output
    assert read_look(root)["metrics"]["problems"] == []


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_network_is_one_line(root: Path, name: str) -> None:
    """The line names the spec's key, the user's file and line, the function and what happened; exit status 2."""
    net, said = BAD[name]
    ran = check(root, net)
    assert ran.status == 2, ran.output
    lines = [line for line in ran.output.splitlines() if line.startswith("error: model.")]
    assert said in lines[0]
    assert len(read_look(root)["metrics"]["problems"]) == 1
    assert "check_model.py" not in lines[0]


@pytest.mark.parametrize(
    ("head", "output", "said"),
    [
        (("clasifier",), None, "model.head: clasifier is not in the network; candidates: fc, body.0"),
        (("body.1",), None, "model.head: body.1 is no Linear or Conv2d layer; candidates: body.0, fc"),
        (
            ("body.0",),
            None,
            "model.head: body.0 does not decide how many scores there are (10); candidates: fc (10 outputs)",
        ),
        ((), "0", "model.output: the network returns one tensor: remove the key, got 0"),
    ],
)
def test_a_wrong_name_lists_candidates(root: Path, head: tuple[str, ...], output: str | None, said: str) -> None:
    """A head or an output that is not there is refused with the names that are."""
    model = records.Model("nets/net.py:make", "none", SIZE, head, output)
    ran = check(root, "def make():\n    return Tiny()\n", model)
    assert ran.status == 2, ran.output
    assert said in ran.output


def test_a_wrong_output_lists_the_outputs(root: Path) -> None:
    """A key that a dict of outputs lacks is answered with those it has."""
    net = network(f"return {{'a': {SCORES}}}")
    ran = check(root, net, records.Model("nets/net.py:make", "none", SIZE, (), "b"))
    assert ran.status == 2, ran.output
    assert "model.output: the network has no output b; it returns a (2 x 10)" in ran.output


@pytest.mark.parametrize(
    ("operator", "hint"), [("softmax", "makes gradients small"), ("log_softmax", "changes nothing")]
)
@pytest.mark.parametrize("form", ["torch.{0}(y, 1)", "nn.functional.{0}(y, dim=1)", "y.{0}(1).flatten(1)"])
def test_a_softmax_inside_is_hinted_at(root: Path, operator: str, hint: str, form: str) -> None:
    """A network that ends in a softmax passes, with a warning on what the loss does and what to return."""
    ran = check(root, network(f"y = {SCORES}", f"return {form.format(operator)}"))
    assert ran.status == 0, ran.output
    [(severity, text)] = read_look(root)["metrics"]["problems"]
    assert severity == "warning"
    assert f"ends in {operator}" in text
    assert hint in text
    assert "return the scores themselves" in text


def test_a_softmax_in_the_middle_is_none_of_our_business(root: Path) -> None:
    """Attention uses softmax too; only the network's end counts."""
    assert check(root, network("return self.fc(self.features(x).softmax(1))")).status == 0
    assert read_look(root)["metrics"]["problems"] == []


def test_everything_is_told_at_once(root: Path) -> None:
    """A broken factory and a broken weights file are both named in one pass."""
    (root / "w.pth").touch()
    ran = check(root, "def make():\n    return None\n", records.Model("nets/net.py:make", "w.pth", SIZE))
    assert ran.status == 2
    keys = [text.partition(":")[0] for _, text in read_look(root)["metrics"]["problems"]]
    assert keys == ["model.backbone", "model.weights"]


@pytest.mark.parametrize(
    ("transfer", "batch_size", "said"),
    [
        (shapes.make_transfer(layers=records.FrozenLayers("until", until="stem")), 8, "no module stem"),
        (shapes.make_transfer(layers=records.FrozenLayers("match", match=("b*",))), 8, ""),
        (shapes.make_transfer(layers=records.FrozenLayers("match", match=("x*",))), 8, "no module matches x*"),
        (
            shapes.make_transfer(layers=records.FrozenLayers("match", match=("*",)), batchnorm="frozen"),
            8,
            "leaves nothing to train",
        ),
        (shapes.make_transfer(), 1, "train.batch_size: batch-norm cannot learn from a batch of one image"),
        (shapes.make_transfer(batchnorm="frozen"), 1, ""),
    ],
)
def test_training_is_tried_as_it_will_be(root: Path, transfer: records.Transfer, batch_size: int, said: str) -> None:
    """Freeze rules that hit nothing or all, and batch-norm with a batch of one, are found before training."""
    layers = "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))"
    net = make("net = Tiny()", f"net.body.add_module('p', {layers})", "return net")
    ran = check(root, net, transfer=transfer, train=shapes.make_train(batch_size=batch_size))
    assert ran.status == (2 if said else 0), ran.output
    assert said in ran.output


def test_a_teacher_of_other_classes_is_refused(root: Path) -> None:
    """A teacher's file with a head for other classes is refused, and one that fits is taken."""
    scope: dict[str, Any] = {}
    exec(BASE, scope)
    for classes, status in ((10, 2), (3, 0)):
        torch.save(scope["Tiny"](classes).state_dict(), root / "teacher.pth")
        teacher = records.Teacher("nets/net.py:make", "teacher.pth", 4.0, 0.7)
        transfer = shapes.make_transfer(records.Method.DISTILLATION, teacher=teacher)
        ran = check(root, "def make():\n    return Tiny()\n", transfer=transfer)
        assert ran.status == status, ran.output
        assert ("transfer.teacher.weights: teacher.pth does not fit" in ran.output) == bool(status)


BLOCK = (
    "from torch import nn\nWIDTH = 8\ndef block(i, o):\n    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.ReLU())\n"
)
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = block(3, WIDTH), nn.Linear(WIDTH, 10)
    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))
    @staticmethod
    def small():
        return Net()
def make():
    return Net()
"""


@pytest.mark.parametrize(
    ("files", "backbone"),
    [
        ({"nets/blocks.py": BLOCK, "nets/a.py": "from blocks import block, WIDTH" + NET}, "nets/a.py:make"),
        ({"nets/blocks.py": BLOCK, "nets/a.py": "from nets.blocks import block, WIDTH" + NET}, "nets/a.py:make"),
        ({"nets/blocks.py": BLOCK, "nets/a.py": "from .blocks import block, WIDTH" + NET}, "nets/a.py:make"),
        (
            {"p/__init__.py": "from .b import block, WIDTH\nfrom .q import a\n", "p/b.py": BLOCK, "p/q/__init__.py": "",
             "p/q/a.py": "from ..b import block, WIDTH" + NET}, "p/q/a.py:make",
        ),
        ({"common/b.py": BLOCK, "x/y/a.py": "from common.b import block, WIDTH" + NET}, "x/y/a.py:make"),
        ({"nets/model.py": BLOCK, "nets/a.py": "from model import block, WIDTH" + NET}, "nets/a.py:make"),
        ({"nets/results.py": BLOCK, "model.py": "from nets.results import block, WIDTH" + NET}, "model.py:make"),
        ({"torch/b.py": BLOCK, "torch/a.py": "from b import block, WIDTH" + NET}, "torch/a.py:make"),
        ({"my nets/blö.py": BLOCK, "my nets/a b.py": "from blö import WIDTH, block" + NET}, "my nets/a b.py:make"),
        ({"v1.2/b.py": BLOCK, "v1.2/net-a.py": "from .b import block, WIDTH" + NET}, "v1.2/net-a.py:make"),
        ({"nets/a.py": BLOCK + NET}, "nets/a.py:Net"),
        ({"nets/a.py": BLOCK + NET}, "nets/a.py:Net.small"),
    ],
)  # fmt: skip
def test_a_network_of_several_files_is_imported(root: Path, files: dict[str, str], backbone: str) -> None:
    """Siblings, packages, relative imports, names of our own scripts and odd paths work; every file is a source."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    ran = check(root, "", records.Model(backbone, "none", SIZE))
    assert ran.status == 0, ran.output
    assert set(read_look(root)["metrics"]["sources"]) == set(files)


def test_two_networks_with_siblings_of_one_name_do_not_mix(root: Path) -> None:
    """Student and teacher import each their own blocks.py."""
    for name, width in (("one", 8), ("two", 16)):
        (root / name).mkdir()
        (root / name / "blocks.py").write_text(BLOCK.replace("WIDTH = 8", f"WIDTH = {width}"))
        (root / name / "net.py").write_text("from blocks import block, WIDTH" + NET)
    shapes_of = {"body.0.weight": (16, 3, 3, 3), "body.0.bias": (16,), "fc.weight": (3, 16), "fc.bias": (3,)}
    torch.save({name: torch.zeros(shape) for name, shape in shapes_of.items()}, root / "t.pth")
    teacher = records.Teacher("two/net.py:make", "t.pth", 4.0, 0.7)
    transfer = shapes.make_transfer(records.Method.DISTILLATION, teacher=teacher)
    ran = check(root, "", records.Model("one/net.py:make", "none", SIZE), transfer=transfer)
    assert ran.status == 0, ran.output
    assert len(read_look(root)["metrics"]["sources"]) == 4


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (records.Model("timm/resnet26x", "none", SIZE), "model.backbone: timm "),
        (records.Model("timm/resnet26x", "none", SIZE), "did you mean resnet26"),
        (records.Model("timm/resnet26", "a9_in1k", SIZE), "model: timm has no weights a9_in1k of resnet26; it has "),
        (records.Model("timm/resnet26.nope", "none", SIZE), "model: timm has no weights nope of resnet26"),
        (
            records.Model("nets/nett.py:make", "none", SIZE),
            "the file nets/nett.py does not exist; did you mean net.py?",
        ),
        (records.Model("alexnet", "none", SIZE), "model.backbone: alexnet: layer "),
    ],
)
def test_an_unknown_network_suggests_names(root: Path, model: records.Model, said: str) -> None:
    """Names of timm, of its weights and of files are answered with those that are like them."""
    pytest.importorskip("timm", reason="timm is not installed (extra all)")
    ran = check(root, "", model)
    assert ran.status == 2, ran.output
    assert said in ran.output


def test_the_same_code_loads_what_was_checked(root: Path) -> None:
    """Training starts from the weights that the check accepted, and says the same line."""
    scope: dict[str, Any] = {}
    exec(BASE, scope)
    state = {"module." + name: tensor for name, tensor in scope["Tiny"]().state_dict().items()}
    torch.save({"state_dict": state}, root / "w.pth")
    model = records.Model("nets/net.py:make", "w.pth", SIZE)
    net = "def make():\n    return Tiny()\n"
    line = "model.weights: w.pth: taken from state_dict; prefix module. taken off; the head fc has another size"
    ran = check(root, net, model)
    assert line in ran.output
    assert shapes.run_script(root, "prepare.py").status == 0
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 0, ran.output
    assert line in ran.output


def test_an_error_in_training_names_the_users_line(root: Path) -> None:
    """User code that fails late ends the stage with one line and status 3; the log has the traceback."""
    late = "if len(COUNT) > 9 and not x.is_meta: raise ValueError('late')"
    net = "COUNT = []\n" + network("COUNT.append(1)", late, f"return {SCORES}")
    assert check(root, net).status == 0
    assert shapes.run_script(root, "prepare.py").status == 0
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 3, ran.output
    assert "error: model.backbone: nets/net.py:24: forward: ValueError: late" in ran.output
    assert "Traceback" in ran.output
    assert shapes.read_result(root, "train")["reason"] == "model.backbone: nets/net.py:24: forward: ValueError: late"


def test_training_counts_the_imported_files_as_inputs(root: Path) -> None:
    """A killed training whose helper file changed starts anew: the helper is an input of the result."""
    (root / "nets/blocks.py").write_text(BLOCK)
    (root / "nets/a.py").write_text("from blocks import block, WIDTH" + NET)
    shapes.write_scripts(shapes.make_project(model=records.Model("nets/a.py:make", "none", SIZE)), root)
    assert shapes.run_script(root, "prepare.py").status == 0
    assert shapes.run_script(root, "train.py").status == 0
    assert {"nets/a.py", "nets/blocks.py"} <= set(shapes.read_result(root, "train")["inputs"])


def test_a_last_batch_of_one_is_left_out(root: Path) -> None:
    """Batch-norm meets no batch of one image: 36 images in batches of 7 train."""
    layers = "nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5)"
    net = make(f"return nn.Sequential({layers})")
    assert check(root, net, train=shapes.make_train(batch_size=7)).status == 0
    assert shapes.run_script(root, "prepare.py").status == 0
    assert shapes.run_script(root, "train.py").status == 0


@pytest.mark.parametrize("package", ["mlxtend", "timm", "onnx"])
def test_a_missing_package_is_one_line_with_the_command(root: Path, package: str) -> None:
    """An optional package that is not installed ends the stage with status 4 and the command that installs it."""
    project = shapes.make_project(
        model=records.Model("timm/resnet26", "none", SIZE),
        data=shapes.make_data(source="mnist5k"),
        classes=records.Classes(10),
    )
    folder = shapes.write_scripts(project, root)
    (root / "data/shapes/train").rename(root / "data/shapes/gone")
    away = root.with_name(root.name + "_away")  # outside of the project, as installed packages are
    away.mkdir()
    (away / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module', name={package!r})\n")
    (folder / "needs_onnx.py").write_text(
        "import argparse, results\nparser = argparse.ArgumentParser()\nresults.add_folders(parser)\n"
        "with results.Stage('deploy', results.parse(parser)):\n    import onnx\n"
    )
    name = {"mlxtend": "prepare.py", "timm": "check_model.py", "onnx": "needs_onnx.py"}[package]
    ran = shapes.run_script(root, name, PYTHONPATH=str(away))
    assert ran.status == 4, ran.output
    [line] = [line for line in ran.output.splitlines() if line.startswith(f"error: the package {package}")]
    assert line.endswith(f"-m pip install {package}")
    assert "Traceback" not in ran.output
