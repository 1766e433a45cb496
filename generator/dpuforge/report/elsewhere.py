"""The same results elsewhere: TensorBoard event files and MLflow runs, when the spec or the environment asks for them.

Each set of figures is logged once: the digest of the document names the folder of events, and is a tag of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpuforge.report.facts import Facts

MLFLOW, TENSORBOARD = "mlflow", "tensorboard"
_DIGEST_TAG = "dpuforge.digest"
_LONGEST = 500  # characters of a parameter that MLflow takes on every store
_PAGES = ("report.html", "report.md", "report.json", "card.md")


def list_places(asked: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return where to log: what the spec asks for, and what the environment does.

    MLFLOW_TRACKING_URI is MLflow's own variable; DPUFORGE_LOG lists places, separated by commas.
    """
    named = [name.strip() for name in environment.get("DPUFORGE_LOG", "").split(",")]
    found = [*asked, *(name for name in named if name in (MLFLOW, TENSORBOARD))]
    found += [MLFLOW] if environment.get("MLFLOW_TRACKING_URI") else []
    return tuple(dict.fromkeys(found))


def log_elsewhere(
    document: Mapping[str, Any], facts: Facts, folder: Path, places: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Log a report to each place; return one line for each: where it went, or why not. Nothing is raised."""
    loggers: dict[str, Callable[[], str]] = {
        TENSORBOARD: lambda: log_tensorboard(document, folder),
        MLFLOW: lambda: log_mlflow(document, facts, folder, environment.get("MLFLOW_TRACKING_URI", "")),
    }
    lines = []
    for place in places:
        try:
            lines.append(loggers[place]())
        except ImportError as error:
            package = {TENSORBOARD: "tensorboardX", MLFLOW: "mlflow"}[place]
            lines.append(f"warning: not logged to {place}: {error}; pip install {package}")
        except Exception as error:  # a server that is down must not cost the report
            lines.append(
                f"warning: not logged to {place}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            )
    return lines


def digest(document: Mapping[str, Any]) -> str:
    """Return what tells one set of figures from another."""
    kept = {name: document[name] for name in ("metrics", "training", "ladder", "boards", "spec_sha256")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def list_metrics(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the final figures that are numbers: accuracies, the drop, frames per second of each board."""
    for name, value in document["metrics"].items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)
    for board, row in document["boards"].items():
        if row["fps_estimate"]:
            yield f"fps_estimate/{board}", float(row["fps_estimate"][1])


def list_curves(document: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """Yield (name, epoch from 1, value) of every curve of the training."""
    training = document["training"]
    curves = {**training["curves"], "learning_rate": training["learning_rate"], "epoch_seconds": training["seconds"]}
    for name, values in curves.items():
        for epoch, value in enumerate(values, 1):
            if value is not None:
                yield name, epoch, float(value)


def log_tensorboard(document: Mapping[str, Any], folder: Path) -> str:
    """Write event files below folder/tensorboard, one folder for each set of figures."""
    from tensorboardX import SummaryWriter

    target = folder / "tensorboard" / digest(document)
    if any(target.glob("events.out.tfevents.*")):
        return f"tensorboard: {target} has these figures already"
    with SummaryWriter(str(target)) as writer:
        for name, epoch, value in list_curves(document):
            writer.add_scalar(f"training/{name}", value, epoch)
        for name, value in list_metrics(document):
            writer.add_scalar(f"result/{name}", value, 0)
        card = folder / "card.md"
        if card.is_file():
            writer.add_text("card", card.read_text(encoding="utf-8"), 0)
    return f"tensorboard: wrote {target}"


def log_mlflow(document: Mapping[str, Any], facts: Facts, folder: Path, uri: str) -> str:
    """Log metrics, parameters, pages and card as one run of the experiment named after the project.

    uri "" is a local store below folder/mlflow.
    """
    from mlflow import MlflowClient

    artifacts = None if uri else (folder / "mlflow" / "artifacts").resolve().as_uri()
    uri = uri or _local_store(folder / "mlflow")
    client, name = MlflowClient(tracking_uri=uri), str(document["project"])
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts)
    known = client.search_runs([experiment], f"tags.`{_DIGEST_TAG}` = '{digest(document)}'", max_results=1)
    if known:
        return f"mlflow: {uri} has these figures already, run {known[0].info.run_id}"
    tags = {
        _DIGEST_TAG: digest(document),
        "emulated": str(document["emulated"]),
        "spec_sha256": document["spec_sha256"],
    }
    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    try:
        _fill_run(client, run, document, facts, folder)
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")
    return f"mlflow: {uri}, experiment {name}, run {run}"


def _local_store(folder: Path) -> str:
    """Return the address of a database in a folder: MLflow keeps its stores of plain files alive no longer."""
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def _fill_run(client: Any, run: str, document: Mapping[str, Any], facts: Facts, folder: Path) -> None:
    for name, value in list_metrics(document):
        client.log_metric(run, name, value)
    for name, epoch, value in list_curves(document):
        client.log_metric(run, name, value, step=epoch)
    for key, value in facts.spec.settings.items():
        client.log_param(run, _clean(key), str(value)[:_LONGEST])
    for page in _PAGES:
        if (folder / page).is_file():
            client.log_artifact(run, str(folder / page))


def _clean(key: str) -> str:
    """Return a key with the characters alone that MLflow takes in names."""
    return "".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in key)
