"""A project's own templates, blocks and hooks: they survive, make stale what they touch, and fail where they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.errors import UserError
from dpuforge.load.load_spec import validate_file
from dpuforge.load.sections.own_files import list_templates, read_hooks
from dpuforge.planning import name_stages
from dpuforge.prove.archive import pack
from tests.conftest import REPO
from tests.test_cli import dpuforge
from tests.test_compile_script import FAKE

AUGMENT = """{% extends "_partials/train/augment.j2" %}
{% block pictures %}
{{ super() }}
        image = transforms.ColorJitter(0.5)(image)  # {{ project.project }}
{% endblock %}
"""
AFTER = '''def after_training(model, stage, arguments):
    """Braces {{ project.nothing }} and {% tags %} are text here."""
    stage.metrics["own"] = {"parameters": sum(p.numel() for p in model.parameters())}
'''
METRICS = """def extra_metrics(classes, labels, float_classes, int8_classes):
    return {"agree": sum(a == b for a, b in zip(float_classes, int8_classes))}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with an augmentation, and a folder for its own files."""
    (tmp_path / "spec").mkdir()
    (tmp_path / "own").mkdir()
    text = (REPO / "spec/quickstart.yaml").read_text().replace("augment: []", "augment: [horizontal_flip]")
    (tmp_path / "spec/quickstart.yaml").write_text(text)
    return tmp_path


def add(root: Path, own: str, **files: str) -> Path:
    """Write files into own/ (train_j2 is own/train.j2) and name them in the spec; return the spec."""
    for name, text in files.items():
        (root / "own" / name.replace("_", ".")).write_text(text)
    spec = root / "spec/quickstart.yaml"
    spec.write_text(spec.read_text().partition("\nown:")[0] + f"\nown: {own}\n")
    return spec


def render(spec: Path) -> dict[str, str]:
    """Return {path: text} of what a spec leads to."""
    return {file.path: file.text for file in pipeline.render(pipeline.plan(pipeline.load(spec)))}


def names(root: Path, *arguments: str) -> list[str]:
    """Return the files that `check` names."""
    return re.findall(r"quickstart/(\S+)", dpuforge("check", *arguments, cwd=root).stdout)


def test_a_block_is_replaced_and_the_rest_is_as_before(root: Path) -> None:
    """An own template that extends the one it stands for changes its block alone, wherever that is included."""
    before = render(root / "spec/quickstart.yaml")
    after = render(add(root, "{templates: {_partials/train/augment.j2: own/augment.j2}}", augment_j2=AUGMENT))
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {"train.py", "manifest.json"}
    new = [line for line in after["train.py"].splitlines() if line and line not in before["train.py"].splitlines()]
    assert new == ["        image = transforms.ColorJitter(0.5)(image)  # quickstart"]


def test_a_whole_template_is_replaced(root: Path) -> None:
    """What stands for a template need not extend it; dpuforge's own stays within reach under its full name."""
    text = '{% include "_partials/header.j2" %}\n"""Mine."""\nNAME = {{ project.project | py_literal }}\n'
    spec = add(root, "{templates: {figures.py.j2: own/figures.j2}}", figures_j2=text)
    assert render(spec)["figures.py"].endswith('"""Mine."""\nNAME = "quickstart"\n')
    (root / "own/figures.j2").write_text('{% extends "dpuforge/figures.py.j2" %}')
    assert render(spec)["figures.py"] == (REPO / "generated/quickstart/figures.py").read_text()


def test_hooks_are_called_where_they_are_named(root: Path) -> None:
    """The file stands in the script as it is, before main, and its function is called once."""
    own = "{append: {train.py: {after_training: own/after.py}, evaluate.py: {extra_metrics: own/metrics.py}}}"
    files = render(add(root, own, after_py=AFTER, metrics_py=METRICS))
    assert AFTER.strip() in files["train.py"]
    assert METRICS.strip() in files["evaluate.py"]
    for script, hook in (("train.py", "after_training"), ("evaluate.py", "extra_metrics")):
        calls = [node for node in ast.walk(ast.parse(files[script])) if isinstance(node, ast.Call)]
        assert [getattr(node.func, "id", "") for node in calls].count(hook) == 1


def test_the_table_of_hooks_is_what_the_templates_call(root: Path) -> None:
    """Every hook of spec/schema/hooks.yaml is called with as many arguments as it says, and no template has another."""
    called = set()
    for script, hooks in read_hooks().items():
        for hook, row in hooks.items():
            suffix = script.rpartition(".")[2]
            text = f"{hook}() {{\n    true\n}}\n" if suffix == "sh" else f"def {hook}(*given):\n    return {{}}\n"
            own = f"{{append: {{{script}: {{{hook}: own/{hook.replace('_', '-')}.{suffix}}}}}}}"
            spec = add(root, own, **{f"{hook.replace('_', '-')}_{suffix}": text})
            rendered = render(spec)[script]
            if suffix == "py":
                calls = [it for it in ast.walk(ast.parse(rendered)) if isinstance(it, ast.Call)]
                found = [it for it in calls if getattr(it.func, "id", "") == hook]
                assert [len(it.args) for it in found] == [len(row["arguments"])]
            else:
                assert len(re.findall(rf"^{hook}\b", rendered, re.MULTILINE)) == 2
            called.add(hook)
    templates = [path.read_text() for path in (REPO / "templates").rglob("*.j2")]
    assert {name for text in templates for name in re.findall(r'"(\w+)" in hooks', text)} == called


def test_the_page_lists_every_block_and_hook() -> None:
    """docs/own.md has a row for each named block of a template and for each hook, and none that is not there."""
    page = (REPO / "docs/own.md").read_text()
    blocks = {
        (name, block)
        for name in list_templates()
        for block in re.findall(r"\{% block (\w+) %\}", (REPO / "templates" / name).read_text())
    }
    hooks = {(script, hook) for script, rows in read_hooks().items() for hook in rows}
    rows = set(re.findall(r"^\| `([\w./]+)` \| `(\w+)", page, re.MULTILINE))
    assert rows == blocks | hooks


def test_a_changed_file_makes_its_scripts_and_stages_stale_and_no_other(root: Path) -> None:
    """check, diff and diff --semantic name the own file; the spec is unchanged; its own stages are to run again."""
    own = "{templates: {_partials/train/augment.j2: own/augment.j2}, append: {evaluate.py: {extra_metrics: own/m.py}}}"
    add(root, own, augment_j2=AUGMENT, m_py=METRICS)
    assert dpuforge("generate", cwd=root).returncode == 0
    assert names(root) == []
    (root / "own/m.py").write_text(METRICS.replace("agree", "same"))
    done = dpuforge("check", cwd=root)
    assert done.returncode == 1
    assert names(root) == ["evaluate.py", "manifest.json"]
    assert "the project's own templates or hooks changed" in done.stdout
    assert '+    return {"same"' in dpuforge("diff", cwd=root).stdout
    said = dpuforge("diff", "--semantic", cwd=root).stdout
    assert "own/m.py  changed (own/m.py:1)\n      touches evaluate.py" in said
    job = pipeline.load(root / "spec/quickstart.yaml")
    planned = pipeline.plan(job)
    files = pipeline.render(planned)
    found = name_stages(job, planned, files, pipeline.compare(job, files), has_results=False)
    assert found.again == ("evaluate",)


def test_a_file_that_changes_nothing_makes_nothing_stale(root: Path) -> None:
    """A comment of a template changes the manifest alone."""
    add(root, "{templates: {_partials/train/augment.j2: own/augment.j2}}", augment_j2=AUGMENT)
    assert dpuforge("generate", cwd=root).returncode == 0
    (root / "own/augment.j2").write_text(AUGMENT + "{# a note #}")
    assert names(root) == ["manifest.json"]


def test_an_own_template_that_goes_touches_what_it_made(root: Path) -> None:
    """Without the key the file is dpuforge's again, and the diff says which key was behind it."""
    spec = add(root, "{templates: {_partials/train/augment.j2: own/augment.j2}}", augment_j2=AUGMENT)
    assert dpuforge("generate", cwd=root).returncode == 0
    spec.write_text(spec.read_text().partition("\nown:")[0])
    said = dpuforge("diff", "--semantic", cwd=root).stdout
    assert re.search(r"own\.templates .* -> \{\}\n      touches train\.py\n", said)


def test_a_line_leads_to_the_file_that_made_it(root: Path) -> None:
    """explain FILE:LINE names the own file and its line, of a template and of a hook, and the key that lists it."""
    own = "{templates: {_partials/train/augment.j2: own/augment.j2}, append: {train.py: {after_training: own/a.py}}}"
    add(root, own, augment_j2=AUGMENT, a_py=AFTER)
    assert dpuforge("generate", cwd=root).returncode == 0
    lines = (root / "generated/quickstart/train.py").read_text().splitlines()
    for text, place, key in (
        ("transforms.ColorJitter(0.5)", "own/augment.j2:4", "own.templates"),
        ("sum(p.numel() for p in model.parameters())}", "own/a.py:3", "own.append"),
        ("after_training(model, stage, arguments)", "templates/train.py.j2:", "own.append"),
    ):
        number = next(number for number, line in enumerate(lines, 1) if text in line)
        done = dpuforge("explain", f"generated/quickstart/train.py:{number}", cwd=root)
        assert done.returncode == 0, done.stderr
        assert f"made by {place}" in done.stdout
        assert key in done.stdout
        assert "spec/quickstart.yaml:" in done.stdout


TEMPLATE = "{templates: {_partials/train/augment.j2: own/a.j2}}"
HOOK = "{append: {train.py: {after_training: own/a.py}}}"
FAULTS: dict[str, tuple[str, str, str]] = {
    "an unknown name": (TEMPLATE, "x = 1\n{{ project.train.epoch }}\n", "own/a.j2:2: .*has no attribute 'epoch'"),
    "an unknown variable": (TEMPLATE, "{% if nothing %}\n{% endif %}\n", "own/a.j2:1: 'nothing' is undefined"),
    "an unknown filter": (TEMPLATE, "\n\n{{ command | shout }}\n", "own/a.j2:3: No filter named 'shout'"),
    "an unclosed block": (TEMPLATE, "x = 1\n{% if project %}\n", "own/a.j2:2: Unexpected end of template"),
    "an unknown template": (TEMPLATE, '{% include "../secret.j2" %}', "own/a.j2:1: there is no template ../secret.j2"),
    "an absolute template": (TEMPLATE, '{% include "/etc/passwd" %}', "own/a.j2:1: there is no template /etc/passwd"),
    "a circle": (TEMPLATE, '{% include "train.py.j2" %}', "own/a.j2:1: the templates include one another in a circle"),
    "a way out of the sandbox": (
        TEMPLATE,
        "{{ ''.__class__.__mro__[1].__subclasses__() }}\n",
        "own/a.j2:1: access to attribute '__class__'",
    ),
    "a way out by a function": (
        TEMPLATE,
        "{{ cycler.__init__.__globals__.os.system('touch /tmp/x') }}\n",
        "own/a.j2:1: access to attribute '__init__'",
    ),
    "a division": (TEMPLATE, "{{ 1 / 0 }}\n", "own/a.j2:1: ZeroDivisionError: division by zero"),
    "too long a range": (TEMPLATE, "{% for i in range(10**9) %}x{% endfor %}", "own/a.j2:1: OverflowError"),
    "broken Python of a template": (TEMPLATE, "x = 1\ndef augment(:\n", "own/a.j2:2: train.py: .* does not parse"),
    "Python 3.8 of a template": (TEMPLATE, "y = (z := 1)\n", "own/a.j2:1: train.py: .*3.8"),
    "an import of dpuforge": (
        TEMPLATE,
        "x = 1\nfrom dpuforge import paths\n",
        "own/a.j2:2: train.py: it imports dpuforge",
    ),
    "a late future import": (
        HOOK,
        f"from __future__ import annotations\n{AFTER}",
        "own/a.py:1: train.py: from __future__",
    ),
    "a return outside": (HOOK, f"{AFTER}\nreturn 1\n", "own/a.py:5: .*outside function"),
    "an import in a hook": (HOOK, f"{AFTER}\n    import dpuforge.paths\n", "own/a.py:5: train.py: it imports dpuforge"),
    "a name of the script": (HOOK, f"{AFTER}\n\ndef main():\n    pass\n", "main is defined twice"),
    "no such function": (
        HOOK,
        "def after(model):\n    pass\n",
        r"own/a.py: it defines no function after_training\(model",
    ),
    "too few arguments": (HOOK, "def after_training(model):\n    pass\n", "own/a.py:1: after_training is called with"),
    "broken Python of a hook": (HOOK, "def after_training(:\n", "own/a.py:1: it is not Python 3.7"),
    "the end of raw text": (HOOK, f"{AFTER}# {{% endraw %}}\n", "own/a.py:4: .*endraw"),
    "a control character": (HOOK, f"{AFTER}# \x01\n", "own/a.py|line 4 holds a control character"),
    "a shell function that is none": (
        "{append: {compile.sh: {after_compile: own/a.sh}}}",
        "after() {\n true\n}\n",
        r"own/a.sh: it defines no function after_compile\(\)",
    ),
    "broken shell": (
        "{append: {compile.sh: {after_compile: own/a.sh}}}",
        "after_compile() {\n    if true; then\n}\n",
        "own/a.sh:[0-9]: compile.sh: the rendered script does not parse",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_names_the_persons_file_and_line(root: Path, what: str) -> None:
    """A mistake of the user's (exit code 2): the message leads to the line that a person wrote."""
    own, text, says = FAULTS[what]
    suffix = re.search(r"own/a\.(\w+)", own)
    assert suffix
    spec = add(root, own, **{f"a_{suffix[1]}": text})
    with pytest.raises(UserError, match=says) as caught:
        render(spec)
    assert caught.value.exit_code == 2


def test_after_a_fault_nothing_was_written(root: Path) -> None:
    """The command line: exit code 2, the own file's line, no traceback, no file."""
    add(root, TEMPLATE, a_j2="x = 1\n{{ project.train.epoch }}\n")
    done = dpuforge("generate", cwd=root)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "own/a.j2:2: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "generated").exists()


PATHS = {
    "../outside.j2": "leads out",
    "own/../../outside.j2": "leads out",
    "/etc/passwd": "relative to the project root",
    "~/a.j2": "relative to the project root",
    "C:/a.j2": "relative to the project root",
    "own\\a.j2": "relative to the project root",
    "own/none.j2": "there is no such file",
    "own": "it is no file",
    "link.j2": "a symbolic link leads out of the project",
    "folder/outside.j2": "a symbolic link leads out of the project",
    "generated/quickstart/train.py": "hold no sources",
    "./build/x.j2": "hold no sources",
    "own/latin.j2": "it is not UTF-8",
    "own/large.j2": "larger than",
    '""': "should be a path",
    "3": "should be a path",
    '"own/a\\nb.j2"': "should be a path",
    "[own/a.j2]": "should be a path",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leaves_the_project_is_refused_at_its_line(root: Path, path: str) -> None:
    """Traversal, absolute paths, links, folders and odd files: the spec's line, exit code 2."""
    inside = root / "project"
    inside.mkdir()
    for name in ("spec", "own"):
        (root / name).rename(inside / name)
    (root / "outside.j2").write_text("x = 1\n")
    (inside / "link.j2").symlink_to(root / "outside.j2")
    (inside / "folder").symlink_to(root)
    (inside / "own/latin.j2").write_bytes(b"# caf\xe9\n")
    (inside / "own/large.j2").write_text("#" * 1_000_001)
    spec = add(inside, "")
    spec.write_text(spec.read_text().partition("\nown:")[0] + f"own:\n  templates:\n    train.py.j2: {path}\n")
    line = spec.read_text().count("\n")
    (problem,) = validate_file(spec)
    assert problem.severity == "error"
    assert PATHS[path] in problem.message
    assert (problem.path, problem.line) == (str(spec), line)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ("{templates: {train.py: own/a.j2}}", "did you mean train.py.j2?"),
        ("{templates: {../train.py.j2: own/a.j2}}", "there is no such template"),
        ("{templates: {_report/report.md.j2: own/a.j2}}", "there is no such template"),
        ("{templates: [train.py.j2]}", "should be a mapping"),
        ("{append: {train.py: {after_trainig: own/a.py}}}", "did you mean after_training?"),
        ("{append: {tran.py: {after_training: own/a.py}}}", "did you mean train.py?"),
        ("{append: {train.py: own/a.py}}", "the hooks of train.py are"),
        ("{blocks: {}}", "unknown key"),
        ("null", "should have a value"),
        ("{append: {train.py: {after_training: null}}}", "should be a path"),
    ],
)
def test_a_wrong_key_below_own_is_explained(root: Path, own: str, says: str) -> None:
    """An unknown template, script, hook or form names what there is."""
    (problem,) = validate_file(add(root, own, a_j2="", a_py=AFTER))
    assert problem.severity == "error"
    assert says in f"{problem.message} {problem.help}"


def test_an_own_template_writes_nowhere_else(root: Path) -> None:
    """Whatever a template yields, the files are those of the plan, all inside generated/<project>/."""
    hostile = '{% set path = "../../evil" %}"""x"""\n# ../../evil\n'
    spec = add(
        root, "{templates: {figures.py.j2: own/f.j2, boards/board.env.j2: own/b.j2}}", f_j2=hostile, b_j2="X='1'\n"
    )
    before = sorted(path for path in root.rglob("*") if path.is_file())
    assert dpuforge("generate", cwd=root).returncode == 0
    made = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file() and path not in before)
    assert {path.parts[:2] for path in made} == {("generated", "quickstart")}
    assert {path.as_posix().removeprefix("generated/quickstart/") for path in made} == set(render(spec))


def test_shipped_projects_render_the_same_in_the_sandbox(root: Path) -> None:
    """Jinja2's sandbox, which an own file turns on, changes no byte of what dpuforge's templates make."""
    plain = render(root / "spec/quickstart.yaml")
    boxed = render(add(root, "{templates: {deploy/CMakeLists.txt.j2: own/c.j2}}", c_j2="# mine\n"))
    assert {path for path in plain if plain[path] != boxed[path]} == {"deploy/CMakeLists.txt", "manifest.json"}


def test_line_ends_and_a_byte_order_mark_do_no_harm(root: Path) -> None:
    """A file written on Windows is the same file."""
    spec = add(root, HOOK)
    (root / "own/a.py").write_text(AFTER)
    plain = render(spec)["train.py"]
    (root / "own/a.py").write_bytes(b"\xef\xbb\xbf" + AFTER.replace("\n", "\r\n").encode())
    assert render(spec)["train.py"] == plain


def test_a_shell_hook_runs_when_the_checks_have_passed(root: Path) -> None:
    """after_compile sees the board and the compiled file; where it fails, the stage fails and leaves no xmodel."""
    text = 'after_compile() {\n    echo "own: $board $(basename "$compiled")"\n    [ "$board" != ZCU104 ]\n}\n'
    add(root, "{append: {compile.sh: {after_compile: own/c.sh}}}", c_sh=text)
    assert dpuforge("generate", cwd=root).returncode == 0
    deploy = root / "build/quickstart/deploy"
    deploy.mkdir(parents=True)
    (deploy / "resnet18_digits_int.xmodel").write_bytes(b"quantised")
    (root / "bin").mkdir()
    (root / "bin/vai_c_xir").write_text(FAKE)
    (root / "bin/vai_c_xir").chmod(0o755)
    env = {**os.environ, "PATH": f"{root / 'bin'}:{os.environ['PATH']}"}
    script = root / "generated/quickstart/compile.sh"
    done = subprocess.run([script, "KV260"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "own: KV260 resnet18_digits.xmodel" in done.stdout
    done = subprocess.run([script, "ZCU104"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "after_compile, of the project's own, refused it" in done.stderr
    assert not (root / "build/quickstart/compile/ZCU104/resnet18_digits.xmodel").exists()


def test_own_files_are_packed_and_verified(root: Path) -> None:
    """An archive holds what its scripts were made with; verify names an own file that is another."""
    spec = add(root, HOOK, a_py=AFTER)
    assert dpuforge("generate", cwd=root).returncode == 0
    assert "own/a.py" in pack(pipeline.load(spec), {}, root / "one.zip")
    assert "own/a.py" not in dpuforge("verify", str(spec), cwd=root).stdout
    (root / "own/a.py").write_text(f"{AFTER}\n")  # the script is the same to the byte
    assert "own/a.py of the manifest is" in dpuforge("verify", str(spec), cwd=root).stdout
