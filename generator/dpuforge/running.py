"""What joins a plan with its execution: which stages to run, what stops them before they start, which are stale."""

from __future__ import annotations

import hashlib
import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dpuforge.errors import ExitCode, FormatError, MissingToolError, UsageError
from dpuforge.execute.results import read_result
from dpuforge.execute.run_stages import (
    LOG,
    Check,
    Observer,
    Selection,
    Share,
    Verdict,
    check_tools,
    keep_to_oneself,
    select_stages,
)
from dpuforge.execute.staleness import Present, explain_changes
from dpuforge.execute.toolchain import ToolchainPlace, find_toolchain
from dpuforge.looking import is_known, look_at_network, recall_forecast, remember
from dpuforge.paths import PACKAGE_DIR
from dpuforge.plan.contexts import find_starting_files
from dpuforge.plan.flow_contexts import find_image, name_output
from dpuforge.plan.stages import STAGES
from dpuforge.records.files import Edits, FileChange
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan, PlannedStage
from dpuforge.records.result import StageResult, Status
from dpuforge.records.run_settings import Resources
from dpuforge.records.variant import Variant

# Asked of a cluster where the spec asks for nothing.
_CORES, _LEAST_GB, _LEAST_MINUTES, _MINUTES_UNKNOWN = 2, 3, 15, 240
_TIMES_SEEN, _TIMES_GUESSED = 3, 10
_LEARNING = ("train", "adjust", "qat")


@dataclass(frozen=True)
class Failure:
    """The first stage that failed, and where its log is."""

    key: str
    reason: str
    log: Path
    exit_code: ExitCode = ExitCode.STAGE_FAILED


@dataclass(frozen=True)
class Request:
    """What the user asked to run; toolchain and engine "" mean the spec's, boards () all of them.

    edits says what becomes of generated files that a person edited; approved is the saved plan that binds the run;
    pull whether a missing image may be fetched: it is asked with what that costs; variant is the spec's that is meant,
    share whose results may be taken over; the run ends once stop is set. cluster names a profile, or its folder, that
    sends the stages to a cluster ("": they run here).
    """

    toolchain: str = ""
    boards: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    jobs: int = 1
    edits: Edits = Edits.REFUSE
    approved: Mapping[str, Any] | None = None
    engine: str = ""
    pull: Callable[[str], bool] = lambda question: False
    variant: Variant | None = None
    share: Share = keep_to_oneself
    stop: threading.Event | None = None
    cluster: str = ""


@dataclass(frozen=True)
class Work:
    """What a request comes down to: (stage, forced) in order, none where only the report is wanted, and the place.

    changes are those of the generated files, kept the open files that hold the lock, once there are any.
    """

    place: ToolchainPlace
    stages: tuple[tuple[PlannedStage, bool], ...] = ()
    jobs: int = 1
    changes: tuple[FileChange, ...] = ()
    kept: tuple[int, ...] = ()
    share: Share = keep_to_oneself
    stop: threading.Event | None = None


Watch = Callable[[int], AbstractContextManager[Observer]]


def choose_work(job: Job, plan: Plan, request: Request) -> Work:
    """Return the stages that a request names.

    Raises UsageError, MissingToolError or StageError where they could not end well: before anything is written.
    """
    place = find_place(job, request.toolchain, request.engine, request.pull, _name_stages(plan, request.selection))
    if request.cluster:
        place = put_on_cluster(job, plan, place, request.cluster)
    others, selection = job.other_boards(request.boards), request.selection
    if selection.start == "report":
        return Work(place)
    stages = [stage for stage in plan.stages if not stage.board or stage.board not in others]
    until_report = Selection(selection.start, "" if selection.until == "report" else selection.until)
    chosen = select_stages(stages, until_report)
    check_tools([stage for stage, _ in chosen], place)
    if any("model.py" in stage.scripts for stage, _ in chosen):
        _look_before_running(job, find_looking_place(place), [stage for stage, _ in chosen])
    return Work(place, chosen, request.jobs, share=request.share, stop=request.stop)


def _look_before_running(job: Job, place: ToolchainPlace, chosen: Sequence[PlannedStage]) -> None:
    """Refuse a network that cannot go through all stages, once for each state of its files and its spec.

    Before a training that has never been done, the partition is predicted too.
    """
    training = [stage for stage in chosen if stage.name == "train"]
    on_dpu = job.project.quantization.target_device == "DPU"
    new = bool(training) and on_dpu and read_result(job.build / training[0].key) is None
    known = is_known(job.project, job.build, job.root, place)
    hardware = _describe_hardware(job) if new else ""
    lines = recall_forecast(job.build, hardware) if new and known else None
    if known and (not new or lines is not None):
        for line in lines or ():
            print(line, file=sys.stderr)
        return
    look = look_at_network(job.project, job.root, job.targets, job.release, place)
    for line in (*look.notes, *(f"warning: {text}" for text in look.warnings)):
        print(line, file=sys.stderr)
    forecast: dict[str, Any] = {}
    if new:
        from dpuforge.estimating import check_before_training

        seen = look if look.operators else look_at_network(job.project, job.root, job.targets, job.release)
        forecast = {"hardware": hardware, "lines": check_before_training(job, seen)}
        for line in forecast["lines"]:
            print(line, file=sys.stderr)
    remember(look, job.project, job.build, job.root, place, forecast)


def _describe_hardware(job: Job) -> str:
    """Return a digest of what a forecast of the partition depends on besides the network: the boards and our rules."""
    known = [sorted(rows.items()) for rows in (job.catalogue.dpus, job.catalogue.families)]
    digest = hashlib.sha256(repr((job.targets, known)).encode())
    for path in sorted((PACKAGE_DIR / "hardware").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_check(job: Job) -> Check:
    """Return what holds a compiled xmodel against its board, once compile.sh is content."""
    targets = {target.board: target for target in job.targets}

    def check(stage: PlannedStage, folder: Path) -> Verdict:
        if stage.name != "compile":
            return Verdict()
        from dpuforge.xmodel.check_compiled import check_compiled
        from dpuforge.xmodel.show import read_compiled

        try:
            compiled = read_compiled(folder / f"{job.project.target.net_name}.xmodel")
        except FormatError as error:
            return Verdict(metrics={"read_back": f"not checked: {error.message}"})
        if not compiled.dpu_subgraphs:
            return Verdict(metrics={"read_back": "not checked: the xmodel names no DPU subgraph"})
        wrong = check_compiled(compiled, targets[stage.board], job.project.target.dpu_subgraphs)
        return Verdict("; ".join(wrong), {"read_back": "checked", **asdict(compiled)})

    return check


def find_failure(results: Sequence[StageResult], build: Path) -> Failure | None:
    """Return the first failure among the results of a run."""
    for result in results:
        if result.status is Status.FAILED:
            key = f"{result.stage}/{result.board}" if result.board else result.stage
            lacks_tool = result.exit_code == ExitCode.ENVIRONMENT
            code = ExitCode.ENVIRONMENT if lacks_tool else ExitCode.STAGE_FAILED
            return Failure(key, result.reason, build / key / LOG, code)
    return None


def _name_stages(plan: Plan, selection: Selection) -> frozenset[str]:
    """Return the names of the stages that a selection leads to; of an unknown name all, select_stages refuses it."""
    names = list(dict.fromkeys(stage.name for stage in plan.stages))
    first = names.index(selection.start) if selection.start in names else 0
    last = names.index(selection.until) if selection.until in names else len(names)
    return frozenset(names[first : last + 1])


def find_place(
    job: Job,
    toolchain: str = "",
    engine: str = "",
    pull: Callable[[str], bool] = lambda question: False,
    wanted: frozenset[str] | None = None,
) -> ToolchainPlace:
    """Return where the project's scripts run; toolchain and engine override the spec's, pull is asked for an image.

    wanted names the stages that are to run (None: any): where all of them are the host's, no image is looked for.
    """
    name = toolchain or job.project.run.toolchain.value
    if name != "container":
        return find_toolchain(name, find_image(job.release))
    inside = frozenset(row.name for row in STAGES if job.project.run.place_of(row.name, "container") == "container")
    if wanted is not None and not wanted & inside:
        return find_toolchain("emulator")
    return _find_container_place(job, engine, pull, inside)


def _find_container_place(job: Job, engine: str, pull: Callable[[str], bool], inside: frozenset[str]) -> ToolchainPlace:
    """Return AMD's image for the stages named inside, and the host for the others."""
    from dpuforge.execute.container import Wish, add_mounts, find_container, make_place

    given, environment = job.project.run, job.release.environment
    if environment is None:
        raise UsageError(f"no conda environment of Vitis AI {job.release.name} is on record", "choose another release")
    tell = lambda text: print(text, file=sys.stderr)  # noqa: E731
    wish = Wish(given.container, job.release.images, environment.conda, job.release.name, engine, pull, tell)
    found = find_container(wish)
    host = find_toolchain("emulator")
    data = job.project.data
    folders = (data.train, data.validation, data.test, *find_starting_files(job.project))
    return add_mounts(make_place(found, wish, host, inside, job.root), folders, job.project.project)


def put_on_cluster(job: Job, plan: Plan, place: ToolchainPlace, name: str) -> ToolchainPlace:
    """Return the place that sends each stage to a cluster; raise UsageError or MissingToolError where none could run.

    name is a shipped profile's or a folder; of a folder's profile all that the spec does not ask for is its own.
    """
    from dpuforge.execute.cluster.cluster_place import CLUSTER_VARIABLE, ClusterPlace, find_profile

    if place.name == "container":
        raise UsageError(
            "--cluster: stages of toolchain container are started here, by the container's engine",
            "choose --toolchain native where the nodes have AMD's tools, or emulator",
        )
    profile = find_profile(name, lambda text: print(text, file=sys.stderr))
    outputs = {it.key: name_output(it, job.project) for it in plan.stages if it.runner != "dpuforge"}
    return ClusterPlace(
        name=place.name,
        python=place.python,
        env={**place.env, CLUSTER_VARIABLE: profile.name},
        versions=place.versions,
        host=place,
        profile=profile,
        root=job.root,
        scripts=job.generated(),
        build=job.build,
        outputs=outputs,
        estimates=estimate_resources(job, plan) if profile.shipped else {},
        options=job.project.run.cluster.options,
    )


def estimate_resources(job: Job, plan: Plan) -> dict[str, Resources]:
    """Return what each stage would ask a cluster for: generous, since a cluster ends what takes more.

    Memory is doctor's estimate twice, minutes are those of `plan` three times, ten times where nothing was timed here.
    """
    from dpuforge.doctoring import estimate_memory_gb
    from dpuforge.foreseeing import A_GUESS, foresee_minutes

    memory_gb = max(_LEAST_GB, math.ceil(2 * estimate_memory_gb(job)))
    found = {}
    for stage in plan.stages:
        minutes, source = foresee_minutes(job, stage)
        times = _TIMES_GUESSED if source == A_GUESS else _TIMES_SEEN
        foreseen = _MINUTES_UNKNOWN if minutes is None else max(_LEAST_MINUTES, math.ceil(times * minutes))
        limit = job.project.run.time_limit.get(stage.name)
        learns = stage.name in _LEARNING and job.project.train.device == "cuda"
        found[stage.name] = Resources(
            None if stage.name in job.project.run.resources and job.project.run.resources[stage.name].cores else _CORES,
            memory_gb,
            foreseen if limit is None else math.ceil(limit),
            int(learns),
        )
    return found


def find_looking_place(place: ToolchainPlace) -> ToolchainPlace:
    """Return where the first look at a network runs: never in a container, whose start would outlast it."""
    return getattr(place, "host", None) or place


def read_results(job: Job, plan: Plan) -> dict[str, StageResult]:
    """Return what the stages of a project left in build/, in the order of the plan."""
    found = {stage.key: read_result(job.build / stage.key) for stage in plan.stages}
    return {key: result for key, result in found.items() if result is not None}


def name_toolchain(job: Job, plan: Plan, results: Mapping[str, StageResult], toolchain: str = "") -> str:
    """Return the toolchain that a report names: one emulated result makes the whole report an emulated one."""
    quantized = [stage.key for stage in plan.stages if stage.uses_toolchain and stage.key in results]
    made_by = {str(results[key].toolchain.get("name", "")) for key in quantized} - {"", "dpuforge"}
    named = toolchain or next(iter(sorted(made_by)), job.project.run.toolchain.value)
    return "emulator" if "emulator" in made_by else named


def find_outdated(job: Job, plan: Plan, results: Mapping[str, StageResult], changed: Set[str]) -> dict[str, str]:
    """Return {stage key: why} for the results that are not of the present spec: no figure of theirs is to be shown.

    changed names the generated files that are not what the spec says now. The one rule for everything that prints.
    """
    place = find_place_if_any(job)
    present = Present(job.root, job.build, read_scripts(job, plan), place)
    outdated: dict[str, str] = {}
    for stage in plan.stages:
        result = results.get(stage.key)
        if result is None or result.status is Status.SKIPPED:
            continue
        why = (
            _explain_needs(stage, results, outdated)
            or next((f"the spec now says otherwise in {name}" for name in stage.scripts if name in changed), "")
            or explain_changes(stage, result, _leave_other_toolchain(present, result))
        )
        if why:
            outdated[stage.key] = why
    return outdated


def read_scripts(job: Job, plan: Plan) -> dict[str, str]:
    """Return {path: text} of the generated files on disk that decide stages."""
    names = {name for stage in plan.stages for name in stage.scripts}
    folder = job.generated()
    return {name: (folder / name).read_text("utf-8") for name in sorted(names) if (folder / name).is_file()}


def _leave_other_toolchain(present: Present, result: StageResult) -> Present:
    """A result of another toolchain is judged by all else: its versions cannot be had here."""
    here = present.place.of(result.stage).name if present.place is not None else ""
    same = result.toolchain.get("name") in (here, "dpuforge")
    return present if same else replace(present, place=None)


def _explain_needs(stage: PlannedStage, results: Mapping[str, StageResult], outdated: Mapping[str, str]) -> str:
    for name in stage.needs:
        if name not in results:
            return f"{name} has not ended since"
        if results[name].status is Status.FAILED:
            return f"{name} failed since"
        if name in outdated:
            return f"{name} is out of date: {outdated[name]}"
    return ""


def find_place_if_any(job: Job, toolchain: str = "") -> ToolchainPlace | None:
    """Return where the project's stages run, or None where its toolchain is not on this machine."""
    try:
        return find_place(job, toolchain)
    except MissingToolError:
        return None
