"""Commands on a real board over ssh: check, push, run, pull, test, bench."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.screen import PlainCommand, PlainGroup, print_json, print_message, print_table
from dpuforge.errors import ExitCode, StageError, UsageError, UserError

if TYPE_CHECKING:
    from dpuforge.board.visit import Visit, Wish
    from dpuforge.records.job import Job

app = typer.Typer(
    cls=PlainGroup,
    help="Run and measure on a board over ssh: the system's OpenSSH client, your keys and your configuration.\n\n"
    "Example: dpuforge board test spec/quickstart.yaml --host bench",
    epilog="Boards are listed in ~/.config/dpuforge/boards.yaml; any destination that ssh knows will do, too.",
    no_args_is_help=True,
)

Spec = Annotated[
    Path,
    typer.Argument(help="The spec file, for example spec/quickstart.yaml.", shell_complete=complete.complete_specs),
]
Hosts = Annotated[list[str], typer.Option("--host", help="A board of boards.yaml or an ssh destination; repeatable.")]
Board = Annotated[
    str,
    typer.Option(
        help="Which of the spec's boards it is; not needed where it shows.", shell_complete=complete.complete_boards
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Images = Annotated[int, typer.Option(min=0, help="Images of the test split, spread evenly over it; 0: all.")]
Wait = Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a board that somebody else uses.")]
Jobs = Annotated[int, typer.Option(min=1, help="Hosts at the same time.")]
Threads = Annotated[str, typer.Option(help="Numbers of threads to measure, as 1,2,4; default: up to two a DPU core.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement, after a second of warm-up.")]

_print_lock = threading.Lock()


def visit_all(
    spec: Path, hosts: Sequence[str], wish: Wish, doing: str, work: Callable[[Visit], Any], jobs: int = 1
) -> list[Any]:
    """Visit every host, several at a time, and return what the work gives for each.

    What copies writes generated/ first, as `generate` does. The first error is raised when all have ended; Ctrl-C ends
    what runs on the boards.
    """
    from dpuforge import pipeline
    from dpuforge.board.hosts import find_host
    from dpuforge.board.visit import visit

    found = [find_host(name) for name in dict.fromkeys(hosts)]
    job = pipeline.load(spec)
    if doing in ("push", "test", "bench"):
        pipeline.write(job, pipeline.render(pipeline.plan(job)))
    opened: list[Any] = []

    def go(place: int) -> Any:
        prefix = f"{found[place].name}: " if len(found) > 1 else ""
        with visit(job, found[place], wish, f"board {doing} {spec}", lambda text: _say(prefix + text), opened) as here:
            return work(here)

    if len(found) == 1:
        return [go(0)]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(go, place) for place in range(len(found))]
        try:
            return _gather([future.result for future in futures], [host.name for host in found])
        except KeyboardInterrupt:
            for session in opened:
                session.close()
            pool.shutdown(cancel_futures=True)
            raise


def _gather(results: Sequence[Callable[[], Any]], names: Sequence[str]) -> list[Any]:
    done, errors = [], []
    for result, name in zip(results, names, strict=True):
        try:
            done.append(result())
        except UserError as error:
            _say(f"{name}: error: {error}")
            errors.append((name, error))
    if errors:
        failed = StageError(f"{len(errors)} of {len(names)} hosts failed: {', '.join(name for name, _ in errors)}")
        failed.exit_code = max(error.exit_code for _, error in errors)
        raise failed
    return done


def _say(text: str) -> None:
    with _print_lock:
        print_message(text)


@app.command(cls=PlainCommand)
def check(
    spec: Spec,
    host: Hosts,
    board: Board = "",
    lock: Annotated[bool, typer.Option("--lock", help="Write the DPU it reports into the spec's lock.")] = False,
    wait: Wait = 0.0,
    jobs: Jobs = 1,
    json_: Json = False,
) -> None:
    """Ask a board what it is, and hold it against what the spec was built for.

    Example: dpuforge board check spec/quickstart.yaml --host kv260

    Exit code 0 where it fits, 1 where it does not: then it says which image or release would.
    """
    from dpuforge.board.visit import Wish

    def work(visit: Visit) -> dict[str, Any]:
        if lock:
            _write_lock(spec, visit)
        return {"host": visit.session.host.name, **visit.checked.describe()}

    documents = visit_all(spec, host, Wish(board, wait=wait), "check", work, jobs)
    if json_:
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for document in documents:
            _print_check(document)
    raise typer.Exit(ExitCode.DONE if all(document["fits"] for document in documents) else ExitCode.DRIFT)


def _write_lock(spec: Path, visit: Visit) -> None:
    from dpuforge.load.boards.lock_file import check_board, write_lock

    if visit.checked.dpu is None:
        raise UsageError("the board reported no DPU: there is nothing to lock")
    if visit.checked.emulated:
        raise UsageError("an emulated board has no DPU: there is nothing to lock")
    check_board(visit.job.catalogue, visit.checked.target.board, visit.checked.dpu)
    visit.say(f"{write_lock(spec, visit.checked.target.board, visit.checked.dpu)}: written")


def _print_check(document: dict[str, Any]) -> None:
    emulated = " (EMULATED)" if document["emulated"] else ""
    print(f"{document['host']}: {document['board']}{emulated}, {document['target'] or 'no DPU seen'}")
    rows = {
        "machine": f"{document['machine']}, {document['cpus']} CPUs, {document['model']}".rstrip(", "),
        "image": f"{document['image']}, kernel {document['kernel']}",
        "DPU": f"{document['fingerprint']}, {document['cores']} core(s), {document['clock_mhz']} MHz",
        "runtime": f"VART {document['runtime']}, DPU IP {document['ip_version']}, Python {document['python']}",
        "free": f"{document['disk_free_bytes'] / 1e6:.0f} MB of disk, "
        f"{document['memory_kb'].get('MemAvailable', 0) / 1e3:.0f} MB of memory",
    }
    for name, text in rows.items():
        print(f"  {name:<8} {text}")
    for fault in document["problems"]:
        print(f"  {'warning' if fault['warning'] else 'does not fit'}: {fault['message']}\n    help: {fault['help']}")


@app.command(cls=PlainCommand)
def push(spec: Spec, host: Hosts, board: Board = "", images: Images = 100, wait: Wait = 0.0, jobs: Jobs = 1) -> None:
    """Copy network, application and test images to a board: only what is not there, all of it or nothing.

    Example: dpuforge board push spec/quickstart.yaml --host kv260

    What an interrupted call had copied is not copied again.
    """
    from dpuforge.board.visit import Wish

    visit_all(spec, host, Wish(board, images, wait=wait), "push", lambda visit: visit.push(), jobs)


@app.command(cls=PlainCommand, context_settings={"ignore_unknown_options": True})
def run(
    spec: Spec,
    host: Hosts,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: what app.py gets; default: the images that were pushed.")
    ] = None,
    board: Board = "",
    wait: Wait = 0.0,
) -> None:
    """Run the application on a board with what was pushed, and show what it prints.

    Example: dpuforge board run spec/quickstart.yaml --host kv260 -- --camera 0 --frames 500 --lines RESULTS/lines.jsonl

    RESULTS in an argument is a folder that `board pull` brings back. Ctrl-C ends the application on the board.
    """
    from dpuforge.board.visit import Wish

    words = arguments or ["--lines", "RESULTS/lines.jsonl", "../../images/current"]
    visit_all(spec, host, Wish(board, wait=wait), "run", lambda visit: visit.run(["app.py", *words], "run", _write))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@app.command(cls=PlainCommand)
def pull(spec: Spec, host: Hosts, board: Board = "", wait: Wait = 0.0) -> None:
    """Bring back what the last run left on a board: to build/<project>/board/<BOARD>/run/.

    Example: dpuforge board pull spec/quickstart.yaml --host kv260

    Of several hosts each has a folder of its own: build/<project>/board/<BOARD>/hosts/<HOST>/run/.
    """
    from dpuforge.board.visit import Wish

    def work(visit: Visit) -> Path:
        return visit.pull("run", visit.here if len(set(host)) == 1 else None)

    for folder in visit_all(spec, host, Wish(board, wait=wait), "pull", work):
        print(folder)


@app.command("test", cls=PlainCommand)
def board_test(
    spec: Spec,
    host: Hosts,
    board: Board = "",
    images: Images = 0,
    threads: Threads = "",
    seconds: Seconds = 3.0,
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Leave latency and frame rate out.")] = False,
    wait: Wait = 0.0,
    jobs: Jobs = 1,
    json_: Json = False,
) -> None:
    """Check, push, run, pull and compare: are the board's int8 outputs the integer run's, bit for bit, and how fast.

    Example: dpuforge board test spec/quickstart.yaml --host kv260

    Leaves build/<project>/board/<BOARD>/result.json and the report. Exit code 3 where the board does not fit, or where
    an output differs; the first such image is named.
    """
    from dpuforge.board.visit import Wish

    wish = Wish(board, images, _read_threads(threads), seconds, wait, not no_bench)
    _finish(spec, visit_all(spec, host, wish, "test", _test_here, jobs), json_)


def _test_here(visit: Visit) -> Any:
    from dpuforge.board.measured import record_visit
    from dpuforge.board.visit import describe_agreement
    from dpuforge.records.result import Status

    agreement = visit.test()
    if visit.wish.bench:
        visit.measure()
    if agreement.exact:
        return record_visit(visit, Status.DONE)
    return record_visit(visit, Status.FAILED, describe_agreement(agreement, visit.found["outputs"]["first_differing"]))


@app.command(cls=PlainCommand)
def bench(
    spec: Spec,
    host: Hosts,
    board: Board = "",
    images: Images = 100,
    threads: Threads = "",
    seconds: Seconds = 5.0,
    wait: Wait = 0.0,
    jobs: Jobs = 1,
    json_: Json = False,
) -> None:
    """Measure latency and frames per second, end to end and of the DPU alone, with power, temperature and CPU load.

    Example: dpuforge board bench spec/quickstart.yaml --host kv260 --threads 1,2,4
    """
    from dpuforge.board.measured import record_visit
    from dpuforge.board.visit import Wish
    from dpuforge.records.result import Status

    def work(visit: Visit) -> Any:
        visit.push("sample")
        visit.measure("sample")
        return record_visit(visit, Status.DONE)

    wish = Wish(board, images, _read_threads(threads), seconds, wait)
    _finish(spec, visit_all(spec, host, wish, "bench", work, jobs), json_)


def _read_threads(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        numbers = (0,)
    if any(number < 1 for number in numbers):
        raise UsageError(f"--threads takes numbers from 1, got {text}", "for example --threads 1,2,4")
    return numbers


def _finish(spec: Path, results: Sequence[Any], json_: bool) -> None:
    """Write the report, print what was measured, and raise StageError where an output differs."""
    from dpuforge import pipeline

    job: Job = pipeline.load(spec)
    pipeline.report(job, pipeline.plan(job))
    if json_:
        documents = [result.to_json() for result in results]
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for result in results:
            _print_result(result.board, result.metrics)
    failed = [result for result in results if result.status.value == "failed"]
    if failed:
        raise StageError("; ".join(f"{result.board}: {result.reason}" for result in failed))


def _print_result(board: str, metrics: Any) -> None:
    emulated = ", EMULATED" if metrics["emulated"] else ""
    rows = []
    for row in metrics.get("bench", {}).get("rows", ()):
        for kind in ("dpu", "end_to_end"):
            latency = [f"{row[kind]['latency'][name]['ms']:.3f}" for name in ("p50", "p95", "p99")]
            watts = sum(value["mean"] for value in row[kind]["power_w"].values())
            rows.append((row["threads"], kind.replace("_", " "), *latency, _rate(row[kind]), f"{watts:.2f}"))
    if rows:
        title = f"{board} on {metrics['host']}{emulated}"
        print_table(title, ("threads", "what", "p50, ms", "p95, ms", "p99, ms", "frames per second", "W"), rows)
    estimate = metrics.get("estimate")
    if estimate:
        single, multi = estimate["single"], estimate["multi"]
        print(f"estimated end to end: {single[1]:.0f} frames per second with one thread, {multi[1]:.0f} with several")
    if "answers" in metrics:
        answers = metrics["answers"]
        low, high = answers["interval"]
        print(
            f"accuracy on {answers['images']} images: {answers['accuracy']:.2f} % ({low:.2f} to {high:.2f}), "
            f"here {answers['accuracy_here']:.2f} %; McNemar p = {answers['mcnemar']['p']:.3g}"
        )


def _rate(found: Any) -> str:
    interval = found["interval"]
    return f"{found['fps']:.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")
