"""What a user reads for each kind of mistake: the whole text, place, message and help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dpuforge.errors import Problem

from .conftest import GOOD

Validate = Callable[[str | bytes], tuple[Problem, ...]]
AT = "spec/demo.yaml"

# Text before GOOD's replacement, text after it, the one message expected.
CHANGED = [
    ("project: demo", "project: Demo 1", f"{AT}:1:10: project: should match [a-z][a-z0-9_]*, got 'Demo 1'\n"
     "  help: use lower-case letters, digits and _, beginning with a letter"),
    ("classes: 3", "classes: 1", f"{AT}:3:10: classes: should be a number from 2 to 100000, got 1\n"
     "  help: a classifier tells at least two classes apart"),
    ("classes: 3", "classes: [cat, dog, cat]", f"{AT}:3:21: classes[2]: the class name is there twice, got 'cat'\n"
     "  help: give every class a name of its own"),
    ("classes: 3", "classes: [0, 1]", f"{AT}:3:11: classes[0]: a class name should be text, got 0\n"
     '  help: quote it: "0"\n'
     f"{AT}:3:14: classes[1]: a class name should be text, got 1\n"
     '  help: quote it: "1"'),
    ("classes: 3", "classes: none.txt", f"{AT}:3:10: classes: the file of class names cannot be used: "
     "No such file or directory, got 'none.txt'\n"
     "  help: write one name a line, in UTF-8; the path is relative to the project root"),
    ("resnet18", "resnet81", f"{AT}:2:19: model.backbone: there is no such torchvision classifier, got 'resnet81'\n"
     "  help: did you mean resnet18? Others: timm/<name> or path/to/net.py:factory"),
    ("resnet18}", "resnet18, weights: IMAGENET1K_V7}",
     f"{AT}:2:38: model.weights: resnet18 has no such weights, got 'IMAGENET1K_V7'\n"
     "  help: did you mean IMAGENET1K_V1? choose from IMAGENET1K_V1, none, or the path of a state_dict"),
    ("resnet18}", "inception_v3, input: {height: 64, width: 299}}",
     f"{AT}:2:49: model.input.height: inception_v3 needs an input of at least 75 pixels, got 64\n"
     "  help: enlarge the input, or choose a shallower network"),
    ("d/val,", "./d/x/../train/,", f"{AT}:4:36: data.validation: the validation split is the train split, "
     "got './d/x/../train/'\n"
     "  help: give every split images of its own: shared images make accuracies too good"),
    ("test: d/test", "test: d/val/test", f"{AT}:4:49: data.test: the test split lies inside or around the validation "
     "split, got 'd/val/test'\n"
     "  help: give every split images of its own: shared images make accuracies too good"),
    (", test: d/test", "", f"{AT}:4:1: data.test: the key is missing\n"
     "  help: give the folder, relative to the project root, or name a built-in data set as source"),
    ("d/test}", "d/test, preprocess: {crop: 200}}",
     f"{AT}:4:76: data.preprocess.crop: the crop should be the network's input of 224 x 224 pixels, got 200 x 200\n"
     "  help: change crop or model.input; without a crop key they agree"),
    ("d/test}", "d/test, preprocess: {resize: 200}}",
     f"{AT}:4:78: data.preprocess.resize: the crop of 224 x 224 pixels is larger than resize leaves, got resize 200\n"
     "  help: write resize: 224 or more, or a smaller crop"),
    ("d/test}", "d/test, preprocess: {mean: [123.7, 0.4, 0.4]}}",
     f"{AT}:4:77: data.preprocess.mean[0]: should be at most 1.0, got 123.7\n"
     "  help: give it for values from 0 to 1: divide by 255"),
    ("d/test}", "d/test, augment: [horizontal_flop]}",
     f"{AT}:4:66: data.augment: should be random_resized_crop, random_crop, horizontal_flip, vertical_flip, rotation, "
     "color_jitter, rand_augment, trivial_augment, random_erasing, mixup or cutmix, got 'horizontal_flop'\n"
     "  help: did you mean horizontal_flip?"),
    ("target:", "transfer: {method: distillation}\ntarget:",
     f"{AT}:5:1: transfer.teacher: method distillation needs a teacher\n"
     "  help: add teacher: {backbone: resnet50}, best with the path of weights trained on the same classes"),
    ("target:", "transfer: {teacher: {backbone: resnet50, weights: t.pth}}\ntarget:",
     f"{AT}:5:12: transfer.teacher: a teacher is used by distillation alone, got method feature_extraction\n"
     "  help: write method: distillation, or remove the teacher"),
    ("target:", "transfer: {freeze: {layers: {untill: layer3}}}\ntarget:",
     f"{AT}:5:30: transfer.freeze.layers.untill: unknown key, got 'untill'\n"
     "  help: write none, all_but_head, {until: layer3} or {match: [pattern, ...]}"),
    ("target:", "trian: {epochs: 3}\ntarget:", f"{AT}:5:1: trian: unknown key, got 'trian'\n"
     "  help: did you mean train?"),
    ("target:", "train: {epochs: true}\ntarget:", f"{AT}:5:17: train.epochs: should be a whole number, got true\n"
     "  help: for example epochs: 20 (passes over the training images)"),
    ("target:", "train: {epochs: 3.5}\ntarget:", f"{AT}:5:17: train.epochs: should be a whole number, got 3.5\n"
     "  help: for example epochs: 20 (passes over the training images)"),
    ("target:", "run: {type: 3}\ntarget:", f"{AT}:5:7: run.type: unknown key, got 'type'\n"
     "  help: known keys here: cluster, container, resources, stages, time_limit, toolchain"),
    ("target:", "run: {toolchain: container, stages: {train: gpu}}\ntarget:",
     f"{AT}:5:45: run.stages.train: should be host or container, got 'gpu'\n"
     "  help: choose from host, container"),
    ("target:", "run: {toolchain: container, stages: {deploy: host}}\ntarget:",
     f"{AT}:5:46: run.stages.deploy: deploy on the host and calibrate in the container, evaluate in the container: two "
     "quantizers, and a calibration of the one is refused by the other\n"
     "  help: send calibrate, evaluate and deploy to one place"),
    ("target:", "run: {time_limit: {train: 0}}\ntarget:",
     f"{AT}:5:27: run.time_limit.train: should be at least 0.01, got 0\n"
     "  help: Minutes for the training."),
    ("target:", "run: {container: {image: 'xilinx/vitis-ai:latest'}}\ntarget:",
     f"{AT}:5:26: run.container.image: should match [a-z0-9][a-z0-9._/:-]*(:(?!latest$)[A-Za-z0-9_][A-Za-z0-9._-]*|"
     "@sha256:[0-9a-f]{64}), got 'xilinx/vitis-ai:latest'\n"
     "  help: write name:tag (not latest) or name@sha256:digest"),
    ("target:", "quantization: {calibration: {from: test}}\ntarget:",
     f"{AT}:5:36: quantization.calibration.from: should be train or validation, got 'test'\n"
     "  help: choose train or validation: a network calibrated on its test images has seen them"),
    ("target:", "quantization: {calibration: {images: 100, batch_size: 101}}\ntarget:",
     f"{AT}:5:55: quantization.calibration.batch_size: a batch holds more than all calibration images, got 101 of 100\n"
     "  help: write 100 or less"),
    ("target:", "quantization: {overall: {methd: diffs}}\ntarget:",
     f"{AT}:5:26: quantization.overall.methd: Unsupported keyword in quantization config: 'methd', got 'diffs'\n"
     "  help: did you mean method?"),
    ("target:", "quantization: {overall: {round_mode: std_round}}\ntarget:",
     f"{AT}:5:38: quantization.overall.round_mode: Only support half_up round method in activation quantization of DPU "
     "device if datatype is int, got 'std_round'\n"
     "  help: a DPU rounds activations half_up: set it for the tensor activation alone, and std_round for the others"),
    ("target: {", 'target: {net_name: "3d", ', f"{AT}:5:20: target.net_name: should match [A-Za-z][A-Za-z0-9_]*, "
     "got '3d'\n  help: use letters, digits and _, beginning with a letter"),
    ("target: {", "target: {vitis_ai: 3.0, ", f"{AT}:5:20: target.vitis_ai: should be text, got 3.0\n"
     '  help: quote it: "3.0"'),
    ("[KV260]", "[]", f"{AT}:5:18: target.boards: should have at least 1 entries, got 0: []\n"
     "  help: Board names, or {board, dpu, fingerprint}; `dpuforge boards` lists them."),
    ("[KV260]", "[KV260, {board: KV260, dpu: B3136}]",
     f"{AT}:5:26: target.boards[1]: the board is there twice, got 'KV260'\n"
     "  help: one project builds once for a board; use a second spec for another DPU on it"),
    ("[KV260]", "[{board: KV260, fingerprint: 0x1}]",
     f"{AT}:5:47: target.boards[0].fingerprint: the number should be plain decimal, got 0x1\n"
     '  help: write it in decimal, or quote it: "0x1"'),
    ("[KV260]", "[{board: KV260, finger: a}]", f"{AT}:5:34: target.boards[0].finger: unknown key, got 'finger'\n"
     "  help: did you mean fingerprint?"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), CHANGED)
def test_one_mistake_gives_one_located_message(validate: Validate, old: str, new: str, expected: str) -> None:
    """A good spec with one change prints exactly what is wrong, where, and what to do."""
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    assert "\n".join(str(problem) for problem in validate(text)) == expected


# Whole files that are no spec, and the one message expected.
FILES: list[tuple[str | bytes, str]] = [
    ("", "1:1: (file): the file is empty"),
    ("# nothing\n", "1:1: (file): the file is empty"),
    ("- project\n", "1:1: (file): the file should hold keys and values, got ['project']"),
    ("just text", "1:1: (file): the file should hold keys and values, got 'just text'"),
    (b"project: \xff\n", "1:10: (file): the file is not UTF-8, got byte 0xff"),
    ("project: a\n\tmodel: b\n", "2:1: (file): this is not YAML: while scanning a plain scalar, found a tab character "
     "that violates indentation"),
    ("a: {b: 1\n", "2:1: (file): this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'"),
    ("a: *b\n", "1:4: (file): alias *b has no anchor before it"),
    ("a: &a [*a]\n", "1:8: (file): alias *a has no anchor before it"),
    ("a: 1\n---\nb: 2\n", "2:1: (file): a second document starts here"),
    ("[" * 100_000, "1:26: (file): the nesting is too deep"),
    ("a: \x07\n", "1:4: (file): a character that YAML does not allow"),
    ("a: " + "x" * 1_000_001, "1:1: (file): the file is too large, got 1000004 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), FILES)
def test_a_file_that_is_no_spec_is_refused_at_its_place(
    validate: Validate, content: str | bytes, expected: str
) -> None:
    """Text that YAML cannot read, or that holds no keys, is one message and nothing else."""
    problems = validate(content)
    assert [str(problem).split("\n")[0] for problem in problems] == [f"{AT}:{expected}"]
    assert problems[0].help


# A scalar as YAML 1.1 reads it to a user's surprise, and what is said.
SCALARS = [
    ("1e-3", "YAML 1.1 reads this number as text, got 1e-3", "write 1.0e-3"),
    ("1e3", "YAML 1.1 reads this number as text, got 1e3", "write 1.0e+3"),
    ("2.5e3", "YAML 1.1 reads this number as text, got 2.5e3", "write 2.5e+3"),
    ("no", "YAML 1.1 reads this as false, got no", 'write false, or quote it: "no"'),
    ("On", "YAML 1.1 reads this as true, got On", 'write true, or quote it: "On"'),
    ("0777", "the number should be plain decimal, got 0777", 'write it in decimal, or quote it: "0777"'),
    ("0o17", "YAML 1.1 reads this number as text, got 0o17", 'write a decimal number, or quote it: "0o17"'),
    ("1_000", "the number should be plain decimal, got 1_000", 'write it in decimal, or quote it: "1_000"'),
    ("1:30", "the number should be plain decimal, got 1:30", 'write it in decimal, or quote it: "1:30"'),
    (".inf", "the number should be finite, got .inf", "write an ordinary decimal number"),
    (".nan", "the number should be finite, got .nan", "write an ordinary decimal number"),
    ("1.0e+999", "the number should be finite, got 1.0e+999", "write an ordinary decimal number"),
    ("9" * 400, f"the number is too large, got {'9' * 60}", "quote it if it is text"),
    ("2026-01-31", "YAML 1.1 reads this as a date, got 2026-01-31", 'quote it: "2026-01-31"'),
    ("!!python/name:os.system x", "tags are not supported, got tag:yaml.org,2002:python/name:os.system",
     "remove the tag"),
]  # fmt: skip


@pytest.mark.parametrize(("scalar", "message", "remedy"), SCALARS)
def test_a_scalar_with_a_surprising_reading_is_refused(
    validate: Validate, scalar: str, message: str, remedy: str
) -> None:
    """Text, numbers and booleans that YAML 1.1 reads otherwise than they look are refused with the right spelling."""
    problems = validate(f"description: {scalar}\n{GOOD}")
    assert [(p.line, p.column, p.field, p.message, p.help) for p in problems] == [
        (1, 14, "description", message, remedy)
    ]


def test_an_empty_mapping_misses_every_required_key(validate: Validate) -> None:
    """Braces with nothing in them are a spec without its keys, and each missing key is named."""
    assert [p.field for p in validate("{}")] == ["classes", "data", "model", "project", "target"]


def test_quoted_scalars_are_text(validate: Validate) -> None:
    """A quoted number, boolean or date is text and raises nothing."""
    for scalar in ("'1e-3'", '"no"', '"0777"', '"2026-01-31"'):
        assert validate(f"description: {scalar}\n{GOOD}") == ()


@pytest.mark.parametrize("key", ["on", "1", "null", "1.5", "2026-01-31", "<<"])
def test_a_key_that_is_no_text_is_refused(validate: Validate, key: str) -> None:
    """Keys that YAML 1.1 reads as booleans, numbers, dates or merges are named at their place."""
    problems = validate(f"{GOOD}{key}: {{}}\n")
    assert {(p.line, p.column) for p in problems} == {(6, 1)}


def test_a_duplicate_key_is_refused_and_the_first_value_still_judged(validate: Validate) -> None:
    """Both mistakes are told: the second key, and the bad value of the first."""
    problems = validate(f"{GOOD}train: {{epochs: true, epochs: 3}}\n")
    assert [(p.column, p.message) for p in problems] == [
        (17, "should be a whole number, got true"),
        (23, "the key is written twice, first on line 6"),
    ]


def test_an_alias_bomb_is_refused_quickly(validate: Validate) -> None:
    """Aliases of aliases stop at a bound instead of filling the memory."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert [p.message for p in validate("\n".join(rows))] == ["too many values"]


def test_ten_mistakes_give_ten_located_problems(validate: Validate) -> None:
    """A spec with ten different mistakes prints all ten at once, sorted by place."""
    problems = validate("""\
spec_version: 2
project: Fruits
model: {backbone: resnet81}
classes: 1
data: {train: a, validation: b, test: b}
trian: {epochs: 20}
train: {optimizer: {lr: 1e-3}}
quantization:
  overall: {method: entropi}
  keep_add_layer_accuracy: yes
target: {boards: [KV2600]}
""")
    assert [(p.line, p.field) for p in problems] == [
        (1, "spec_version"),
        (2, "project"),
        (3, "model.backbone"),
        (4, "classes"),
        (5, "data.test"),
        (6, "trian"),
        (7, "train.optimizer.lr"),
        (9, "quantization.overall.method"),
        (10, "quantization.keep_add_layer_accuracy"),
        (11, "target.boards[0]"),
    ]
    assert all(p.help and p.column and ("got " in p.message) for p in problems)


def test_boards_and_release_that_do_not_fit_name_the_releases_that_do(validate: Validate) -> None:
    """A board without a DPU under the chosen release is an error whose help lists fitting releases."""
    (problem,) = validate(GOOD.replace("[KV260]", "[V70]"))
    assert (problem.line, problem.column, problem.field) == (5, 19, "target.boards[0]")
    assert problem.message == "Vitis AI 3.0 has no default DPU for board V70, got 'V70'"
    assert "3.5" in problem.help


@pytest.mark.parametrize(
    ("board", "release", "serving"),
    [("KV260", "3.5", "v3.0.0"), ("VCK5000", "3.5", '"3.0"'), ("U200", "3.0", '"2.5"'), ("VEK280", "3.0", '"3.5"')],
)
def test_a_release_that_ships_nothing_for_a_board_is_warned_about(
    validate: Validate, board: str, release: str, serving: str
) -> None:
    """The compiler knows the target, no image and no runtime of the release serves the board: named is what does."""
    target = f'{{vitis_ai: "{release}", boards: [{board}]}}'
    (problem,) = validate(GOOD.replace("{boards: [KV260]}", target))
    assert (problem.severity, problem.field) == ("warning", "target.boards[0]")
    assert f"release {release} ships no image" in problem.message
    assert serving in problem.help


@pytest.mark.parametrize(
    ("board", "release"), [("KV260", "3.0"), ("U200", "2.5"), ("V70", "3.5"), ("Ultra96-V2", "2.5")]
)
def test_a_board_that_its_release_serves_or_that_users_build_for_is_not_warned_about(
    validate: Validate, board: str, release: str
) -> None:
    """Boards with an image or firmware of the release, and boards that never had one, are good."""
    assert validate(GOOD.replace("{boards: [KV260]}", f'{{vitis_ai: "{release}", boards: [{board}]}}')) == ()


WARNINGS: list[tuple[str, str, str]] = [
    ("keep_first_last_layer_accuracy: true", "keep_first_last_layer_accuracy", "the quantizer only logs"),
    ("keep_add_layer_accuracy: true", "keep_add_layer_accuracy", "the quantizer only logs"),
    ("quantizable_data_type: [weights]", "quantizable_data_type", "the quantizer ignores it at this level"),
    ("target_device: FLEXML", "target_device", "writes no xmodel"),
    ("calibration: {images: 50}", "calibration.images", "few images"),
    ("overall: {bit_width: 0}", "overall.bit_width", "the parser passes over it"),
    ("onnx_opset_version: 13", "onnx_opset_version", "release 3.0 does not know this key"),
    ("overall: {datatype: int}", "overall.datatype", "release 3.0 does not know this key"),
]


@pytest.mark.parametrize(("line", "field", "needle"), WARNINGS)
def test_what_the_parser_accepts_and_gets_wrong_is_warned_about(
    validate: Validate, line: str, field: str, needle: str
) -> None:
    """Settings that do nothing, or not what they say, pass with a warning that gives the reason."""
    problems: Any = validate(f"{GOOD}quantization: {{{line}}}\n")
    assert [(p.severity, p.field) for p in problems] == [("warning", f"quantization.{field}")]
    assert needle in problems[0].message
