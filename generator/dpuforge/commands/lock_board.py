"""The command that keeps what a board says of its own DPU beside a spec: board-lock."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.screen import print_json, print_message
from dpuforge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dpuforge.load.findings import Finding
    from dpuforge.records.board_lock import BoardFacts
    from dpuforge.records.hardware import BoardTarget


def board_lock(
    spec: Annotated[
        Path,
        typer.Argument(help="The spec file, for example spec/quickstart.yaml.", shell_complete=complete.complete_specs),
    ],
    from_: Annotated[Path, typer.Option("--from", help="What `xdputil query` printed; - reads standard input.")],
    board: Annotated[
        str,
        typer.Option(
            help="Which of the spec's boards printed it; not needed where it shows.",
            shell_complete=complete.complete_boards,
        ),
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Write the DPU that a board reported into <spec>.lock.yaml; generate and compile.sh then refuse any other.

    Example: dpuforge board-lock spec/quickstart.yaml --from query.json --board KV260

    query.json is what `xdputil query` printed on the board. Exit code 0, or 1 where the spec does not fit the board.
    """
    from dpuforge.load.boards.catalogue import shipped_catalogue
    from dpuforge.load.boards.lock_file import check_board, check_lock, read_lock, write_lock
    from dpuforge.load.boards.resolve_board import resolve_choices
    from dpuforge.load.load_spec import load_project

    catalogue = shipped_catalogue()
    facts = _read(from_)
    target = _choose(resolve_choices(catalogue, load_project(spec, catalogue).project), board, spec, facts)
    check_board(catalogue, target.board, facts)
    path = write_lock(spec, target.board, facts)
    findings = check_lock(catalogue, (target,), read_lock(spec))
    _show(path, target, facts, findings, json_)
    raise typer.Exit(ExitCode.DRIFT if findings else ExitCode.DONE)


def _show(path: Path, target: BoardTarget, facts: BoardFacts, findings: Sequence[Finding], json_: bool) -> None:
    if json_:
        print_json(_document(path, target, facts, [asdict(finding) for finding in findings]))
    else:
        print(f"{path}: {target.board} carries {facts.target}, fingerprint {facts.fingerprint:#x}")
    for name in facts.other_kernels:
        print_message(f"kernel {name} is no DPU: left out")
    for finding in findings:
        print_message(f"the spec does not fit: {finding.message}\nhelp: {finding.help}")


def _choose(targets: Sequence[BoardTarget], board: str, spec: Path, facts: BoardFacts) -> BoardTarget:
    """Return the target of the board named, of the only one, or of the one that has such a DPU."""
    from dpuforge.load.boards.lock_file import guess_board

    names = list(dict.fromkeys(target.board for target in targets))
    if not board and len(names) > 1:
        found = guess_board(targets, facts)
        if found is None:
            remedy = f"say which one it was: --board {' or --board '.join(names)}"
            raise UsageError(
                f"{spec} has several boards, and it does not show which one carries {facts.target}", remedy
            )
        print_message(f"taken for {found.board}: {len(facts.cores)} core(s) of {facts.target}; --board says otherwise")
        return found
    for target in targets:
        if not board or target.board.lower() == board.lower():
            return target
    raise UsageError(f"{spec} has no board {board}", f"its target.boards are {', '.join(names)}")


def _read(path: Path) -> BoardFacts:
    from dpuforge.load.boards.board_query import decode_text, read_query, read_query_file

    if str(path) != "-":
        return read_query_file(path)
    return read_query(decode_text(sys.stdin.buffer.read(), "standard input"), "standard input")


def _document(path: Path, target: BoardTarget, facts: BoardFacts, findings: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "lock": str(path),
        "board": target.board,
        "target": facts.target,
        "fingerprint": f"{facts.fingerprint:#x}",
        "cores": len(facts.cores),
        "clock_mhz": facts.cores[0].clock_mhz,
        "source": facts.source,
        "fits": not findings,
        "problems": [{"message": item["message"], "help": item["help"]} for item in findings],
    }
