"""One visit to a board, from lock to result: check, push, run, pull, test, bench. Each step says what it did."""

from __future__ import annotations

import datetime
import getpass
import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpuforge.board.compare_outputs import Agreement, compare_answers, compare_rows, read_raw, run_on_integers
from dpuforge.board.contents import Contents, Image, choose_images, gather_contents, name_images, quantised_xmodel
from dpuforge.board.hosts import Host
from dpuforge.board.judge_board import Checked, check_board_over, refuse_misfit
from dpuforge.board.session import BusyError, Session
from dpuforge.board.transfer import Pushed, pull_files, push_files
from dpuforge.errors import FormatError, StageError
from dpuforge.execute.results import hash_file
from dpuforge.records.job import Job

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What the user asked for: images 0 are all of the test split, threads () up to twice the DPU's cores."""

    board: str = ""
    images: int = 0
    threads: tuple[int, ...] = ()
    seconds: float = 3.0
    wait: float = 0.0
    bench: bool = True


@dataclass
class Visit:
    """A connection to a board that holds the board's lock."""

    session: Session
    job: Job
    checked: Checked
    wish: Wish
    say: Say
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The folder of this board and project, below dpuforge's own on the board."""
        return f"{self.job.project.project}/{self.checked.target.board}"

    @property
    def here(self) -> Path:
        """The folder of this board's results here."""
        return self.job.build / "board" / self.checked.target.board

    @property
    def own(self) -> Path:
        """The folder in it of this host alone: several boards of one kind may be visited at once."""
        return self.here / "hosts" / name_folder(self.session.host.name)

    def push(self, pictures: str = "images") -> tuple[Contents, tuple[Image, ...]]:
        """Bring the network, the application and the images there; raise StageError where the board does not fit.

        pictures names the folder of the images: those of a benchmark do not replace those of a test.
        """
        refuse_misfit(self.checked, self.session.host.name)
        contents = gather_contents(self.job, self.checked.target.board, self.checked.emulated)
        self.found["network"] = {"name": contents.network.name, "sha256": hash_file(contents.network)}
        images = choose_images(self.job.root, self.job.build, self.wish.images)
        parts = {"app": contents.files, pictures: name_images(self.job, images)}
        for name, files in parts.items():
            pushed = push_files(self.session, f"{self.place}/{name}", files)
            self._tell(name, pushed)
        return contents, images

    def _tell(self, name: str, pushed: Pushed) -> None:
        self.say(f"push {name}: {pushed}")
        for path in pushed.changed:
            self.say(f"push {name}: {path} was changed on the board: set aside there and copied anew")
        self.found.setdefault("push", {})[name] = asdict(pushed)

    def run(self, arguments: Sequence[str], results: str, show: Say | None = None) -> float:
        """Run a Python program of the pushed folder; return its seconds.

        RESULTS in an argument is a folder on the board that `pull` brings here. Raises StageError where it fails.
        """
        started = datetime.datetime.now()
        folder = f"{self.place}/app/current"
        self.session.send("run", argv=["PYTHON", *arguments], folder=folder, results=f"{self.place}/{results}")
        said = ""
        while True:
            answer = self.session.receive()
            if "text" in answer:
                said = (said + answer["text"])[-4000:]
                (show or _ignore)(answer["text"])
            if "exit" in answer:
                break
        if answer["exit"] != 0:
            raise StageError(
                f"{arguments[0]} failed on {self.session.host.name}: {explain_failure(said, answer['exit'])}"
            )
        return (datetime.datetime.now() - started).total_seconds()

    def pull(self, results: str, folder: Path | None = None) -> Path:
        """Bring what the last run left there into a folder, by default this host's own, and return it."""
        destination = (folder or self.own) / results
        paths = pull_files(self.session, f"{self.place}/{results}", destination)
        self.say(f"pull: {', '.join(path.name for path in paths) or 'nothing'}")
        return destination

    def test(self) -> Agreement:
        """Push, run all images, bring the raw outputs back and compare them with the integer run here."""
        contents, images = self.push()
        arguments = ["app.py", "--raw", "RESULTS/raw.npz", "--lines", "RESULTS/lines.jsonl", "../../images/current"]
        seconds = self.run(arguments, "run")
        self.say(f"run: {len(images)} images in {seconds:.1f} s")
        raw = read_raw(self.pull("run") / "raw.npz", len(images))
        from dpuforge.xmodel.read import read_xmodel

        graph = read_xmodel(quantised_xmodel(self.job))
        preprocess = contents.files["preprocess.py"]
        expected = run_on_integers(graph, preprocess, [self.job.root / i.path for i in images], raw.input_fix)
        agreement = compare_rows(raw, expected)
        first = None if agreement.first is None else images[agreement.first].path
        self.found["run"] = {"images": len(images), "seconds": round(seconds, 3)}
        self.found["outputs"] = {**asdict(agreement), "first_differing": first}
        self.found["answers"] = compare_answers([image.label for image in images], expected.rows, raw.rows)
        self.say(describe_agreement(agreement, first))
        return agreement

    def measure(self, pictures: str = "images") -> dict[str, Any]:
        """Measure latency, frame rate and sensors on the board; what is there must have been pushed."""
        threads = self.wish.threads or count_threads(self.checked)
        options = {"--threads": ",".join(map(str, threads)), "--seconds": str(self.wish.seconds)}
        options |= {"--sensors": self.session.host.sensors, "--output": "RESULTS/bench.json"}
        words = [word for pair in options.items() for word in pair]
        self.run(["bench.py", *words, f"../../{pictures}/current"], "bench", self._show_lines)
        path = self.pull("bench") / "bench.json"
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FormatError(f"{path}: not what bench.py writes: {error}") from error
        self.found["bench"] = document
        for change in document["changes"]:
            self.say(f"bench: {change}")
        return document

    def _show_lines(self, text: str) -> None:
        for line in text.splitlines():
            if "frames per second" in line:
                self.say(f"bench: {line.strip()}")


@contextmanager
def visit(job: Job, host: Host, wish: Wish, doing: str, say: Say, opened: list[Session]) -> Iterator[Visit]:
    """Connect, take the board's lock, ask the board what it is, and hand out the visit.

    opened collects the sessions, so that an interrupt elsewhere can end them. Raises BoardError where the board cannot
    be reached, BusyError where somebody else has it.
    """
    with Session(host) as session:
        opened.append(session)
        take_board(session, doing, wish.wait, say)
        checked = check_board_over(session, job, wish.board)
        for fault in checked.faults:
            if fault.warning:
                say(f"warning: {fault.message}\nhelp: {fault.help}")
        if checked.emulated:
            say("EMULATED: the vart there is dpuforge's, no DPU is used: times say nothing about a board")
        yield Visit(session, job, checked, wish, say)


def take_board(session: Session, doing: str, wait: float, say: Say) -> None:
    """Take the board for this connection, waiting up to `wait` seconds; raise BusyError that names who has it."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    who = json.dumps({"who": f"{getpass.getuser()}@{socket.gethostname()}", "since": now, "doing": doing})
    answer = session.ask("lock", path=session.host.lock, who=who, wait=wait)
    if not answer["ok"]:
        raise BusyError(
            f"{session.host.name} is in use: {describe_holder(answer['holder'])}", "wait for it with --wait SECONDS"
        )
    if answer["left_by"]:
        say(f"the lock of {describe_holder(answer['left_by'])} was left behind: its connection is gone")


def describe_holder(text: str) -> str:
    """Return who holds a lock, in words."""
    try:
        holder = json.loads(text)
        return f"{holder['who']} since {holder['since']} ({holder['doing']})"
    except (ValueError, KeyError, TypeError):
        return repr(text[:200]) if text else "somebody who left no name"


def describe_agreement(agreement: Agreement, first: str | None) -> str:
    """Say in words whether the board computed what the xmodel says."""
    if agreement.exact:
        return f"compare: the outputs of {agreement.images} images equal the integer run bit for bit"
    prepared = f"; {agreement.inputs} images were already prepared otherwise there" if agreement.inputs else ""
    return (
        f"compare: {agreement.images - agreement.equal} of {agreement.images} images differ from the integer run, "
        f"the first is {first} ({agreement.values} values, by {agreement.largest} at most){prepared}"
    )


def count_threads(checked: Checked) -> tuple[int, ...]:
    """Return 1, 2, 4 ... up to two threads a DPU core."""
    cores = len(checked.dpu.cores) if checked.dpu else checked.target.cores
    return tuple(2**power for power in range((2 * cores).bit_length()))


def explain_failure(said: str, status: int) -> str:
    """Return why a program on the board failed: its own error line, else its last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"error: |.*(CHECK|Check failed|fingerprint)", line)]
    return (named or lines or [f"exit status {status}, it printed nothing"])[-1].removeprefix("error: ")


def name_folder(host: str) -> str:
    """Return a name of one folder for a host, whatever it is called: ssh://root@[::1]:22 holds slashes."""
    name = re.sub(r"[^\w.@:\[\]-]", "_", host, flags=re.ASCII)
    if name == host and name.strip("."):
        return name
    return f"{name.strip('.') or 'host'}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _ignore(text: str) -> None:
    pass
