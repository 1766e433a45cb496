"""The command line: registers the commands and turns errors into messages and exit codes."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from dpuforge import __version__
from dpuforge.commands import (
    bundle_board,
    import_files,
    lock_board,
    migrate_spec,
    on_board,
    on_changes,
    on_hardware,
    on_machine,
    on_plan,
    on_record,
    on_spec,
    on_xmodel,
)
from dpuforge.commands.choices import init_spec
from dpuforge.commands.runs import on_history, on_sweep, on_tune
from dpuforge.commands.screen import PlainCommand, PlainGroup, print_message, set_colour
from dpuforge.errors import ExitCode, Interrupted, UserError, explain_disk_error
from dpuforge.zoo import on_zoo

app = typer.Typer(
    name="dpuforge",
    cls=PlainGroup,
    help="From one reviewed YAML spec to a quantised network on an AMD/Xilinx DPU.",
    epilog="Exit codes: 0 done, 1 drift or changes pending, 2 bad spec or usage, 3 a stage failed or a gate was "
    "missed, 4 a tool is missing, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    init_spec.init,
    on_spec.validate,
    on_spec.explain,
    on_spec.generate,
    on_spec.check,
    on_changes.diff,
    migrate_spec.migrate,
    on_plan.plan,
    on_record.verify,
    on_record.pack,
    on_spec.run,
    on_spec.report,
    on_sweep.sweep,
    on_tune.tune,
    on_hardware.boards,
    on_hardware.backbones,
    on_hardware.releases,
    on_hardware.estimate,
    bundle_board.bundle,
    import_files.import_calibration,
    lock_board.board_lock,
    on_spec.schema,
    on_machine.doctor,
    on_machine.emulator_path,
):
    app.command(cls=PlainCommand)(command)
app.add_typer(on_xmodel.app, name="xmodel")
app.add_typer(on_board.app, name="board")
app.add_typer(on_zoo.app, name="zoo")
app.add_typer(on_history.app, name="history")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dpuforge {__version__}")
        raise typer.Exit


@app.callback()
def _configure(
    color: Annotated[str, typer.Option(help="auto or never; NO_COLOR is honoured too.")] = "auto",
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Set what all commands share."""
    if color not in ("auto", "never"):
        raise typer.BadParameter(f"{color!r} is neither auto nor never", param_hint="--color")
    set_colour(color)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a UserError prints its message and remedy, anything else is a bug and keeps its trace."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(prog_name="dpuforge")
    except UserError as error:
        print_message(f"error: {error}" if not hasattr(error, "problems") else str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            sys.exit(ExitCode.DONE)
        if not explain_disk_error(error):
            raise
        print_message(f"error: {explain_disk_error(error)}")
        sys.exit(ExitCode.STAGE_FAILED)
    except (KeyboardInterrupt, Interrupted):
        print_message("interrupted; what was finished is kept, run the same command again to go on")
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
