"""Shell completion through the protocol that bash, zsh and fish speak, and in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpuforge.commands.choices import complete
from tests.conftest import REPO

QUICK = "spec/quickstart.yaml"


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """Return an environment with `dpuforge` on PATH and a torch that leaves a trace when it is imported."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "dpuforge"
    script.write_text(f"#!{sys.executable}\nfrom dpuforge.cli import main\n\nmain()\n", encoding="utf-8")
    script.chmod(0o755)
    (tmp_path / "lib").mkdir()
    trace = f"open({str(tmp_path / 'torch_was_imported')!r}, 'w').close()\n"
    (tmp_path / "lib" / "torch.py").write_text(trace, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "lib"), str(REPO / "generator"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": path}


def ask(program: dict[str, str], shell: str, line: str, cwd: Path = REPO) -> list[str]:
    """Return what a shell would offer at the end of a command line."""
    told = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        ["dpuforge"],
        env={**program, **told, "_DPUFORGE_COMPLETE": f"complete_{shell}"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    offered = done.stdout.removeprefix("_arguments '*: :((").removesuffix("))'\n") if shell == "zsh" else done.stdout
    return [word.strip('"').replace("\\", "") for word in offered.split("\n") if word.strip()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_answered_without_torch(program: dict[str, str], shell: str, tmp_path: Path) -> None:
    """Boards, backbones, stages and specs are completed in three shells; nothing imports torch for that."""
    assert ask(program, shell, "dpuforge estimate spec/quickstart.yaml --board ZCU10") == ["ZCU102", "ZCU104", "ZCU106"]
    assert ask(program, shell, "dpuforge init --backbone resnet1") == ["resnet101", "resnet152", "resnet18"]
    assert ask(program, shell, "dpuforge run x --until c") == ["calibrate", "compile"]
    assert ask(program, shell, "dpuforge run spec/q") == [QUICK]
    assert not (tmp_path / "torch_was_imported").exists()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dpuforge boa", ["boards", "board-lock", "board"]),
        ("dpuforge estimate x --board kv", ["KV260"]),
        ("dpuforge init --board KV260,ZCU10", ["KV260,ZCU102", "KV260,ZCU104", "KV260,ZCU106"]),
        ("dpuforge migrate x --vitis-ai 3", ["3.0", "3.5"]),
        ("dpuforge run x --toolchain ", ["emulator", "native", "container"]),
        ("dpuforge run x --from z", []),
        ("dpuforge run spec/schema/", []),
        ("dpuforge run nowhere/", []),
        ("dpuforge board test spec/qu", [QUICK]),
        ("dpuforge validate spec/quickstart.yaml spec/fruits", ["spec/fruits30_kv260.yaml"]),
        ("dpuforge init --split ", ["pool", "train", "later"]),
    ],
)
def test_what_is_offered_where(program: dict[str, str], line: str, offered: list[str]) -> None:
    """Each place offers what fits there, in another case too, and nothing where nothing fits."""
    assert ask(program, "bash", line) == offered


def test_only_specs_are_offered_and_folders_that_lead_on(tmp_path: Path) -> None:
    """A YAML file that names no project is none; odd names and unreadable files do no harm."""
    for name, text in (("a.yaml", "project: a\n"), ("b.yaml", "boards: []\n"), ("c d.yml", "x: 1\nproject: c\n")):
        (tmp_path / "spec").mkdir(exist_ok=True)
        (tmp_path / "spec" / name).write_text(text, encoding="utf-8")
    (tmp_path / "spec" / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "spec" / "more").mkdir()
    (tmp_path / ".hidden").mkdir()
    here = str(tmp_path)
    offer = lambda typed: complete.complete_specs(None, None, typed)  # noqa: E731
    assert offer(f"{here}/") == [f"{here}/spec/a.yaml", f"{here}/spec/c d.yml"]
    assert offer(f"{here}/spec/") == [f"{here}/spec/a.yaml", f"{here}/spec/c d.yml", f"{here}/spec/more/"]
    assert offer(f"{here}/.h") == [f"{here}/.hidden/"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes(program: dict[str, str]) -> None:
    """The script that --show-completion prints works in bash."""
    words = "COMP_WORDS=(dpuforge run spec/q); COMP_CWORD=2; _dpuforge_completion dpuforge; echo ${COMPREPLY[@]}"
    shown = f"source <(_DPUFORGE_COMPLETE=source_bash dpuforge); {words}"
    done = subprocess.run(["bash", "-c", shown], env=program, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [QUICK], done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_itself_completes(program: dict[str, str], tmp_path: Path) -> None:
    """The script for fish works in fish."""
    words = "_DPUFORGE_COMPLETE=source_fish dpuforge | source; complete -C 'dpuforge estimate x --board kv'"
    env = {**program, "HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", words], env=env, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["KV260"], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_itself_completes(program: dict[str, str], tmp_path: Path) -> None:
    """The script for zsh works in zsh: a tab at a terminal."""
    import pexpect

    env = {**program, "HOME": str(tmp_path), "TERM": "dumb"}
    child = pexpect.spawn("zsh", ["-f", "-i"], env=env, cwd=str(REPO), encoding="utf-8", timeout=60)
    child.sendline(
        "PS1='ready> '; autoload -U compinit; compinit -u; eval \"$(_DPUFORGE_COMPLETE=source_zsh dpuforge)\""
    )
    child.expect_exact("ready> ")
    child.sendline("compdef | grep -c dpuforge; echo loaded")
    child.expect_exact("loaded\r\n")
    child.send("echo dpuforge; dpuforge run spec/qui\t")
    child.expect_exact("quickstart.yaml")
    child.close(force=True)
