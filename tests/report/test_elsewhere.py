"""TensorBoard and MLflow: what is logged where, once, and never at the report's cost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpuforge.report.elsewhere import list_curves, list_metrics, list_places, log_elsewhere
from tests.report.sample import make_report


def log(folder: Path, *places: str, **environment: str) -> list[str]:
    """Log the sample with its card and a page in the folder."""
    document, facts = make_report(3)
    (folder / "card.md").write_text("# card")
    (folder / "report.html").write_text("<p>report</p>")
    return log_elsewhere(document, facts, folder, places, environment)


def test_nothing_is_logged_unasked() -> None:
    """Spec and environment say where; twice asked is once logged, and unknown names are left aside."""
    assert list_places((), {}) == ()
    assert list_places(("tensorboard",), {"MLFLOW_TRACKING_URI": "x"}) == ("tensorboard", "mlflow")
    assert list_places(("mlflow",), {"MLFLOW_TRACKING_URI": "x", "DPUFORGE_LOG": "tensorboard, nonsense"}) == (
        "mlflow",
        "tensorboard",
    )


def test_a_missing_package_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages the report says what to install, and goes on."""
    for name in ("tensorboardX", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    lines = log(tmp_path, "tensorboard", "mlflow")
    assert [line.split(";")[-1].strip() for line in lines] == ["pip install tensorboardX", "pip install mlflow"]
    assert all(line.startswith("warning: not logged to ") for line in lines)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    """Curves by epoch, final figures and the card are in event files; the same figures are written once."""
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: nox -s report installs it")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="nox -s report installs it"
    )
    assert log(tmp_path, "tensorboard")[0].startswith("tensorboard: wrote ")
    assert "already" in log(tmp_path, "tensorboard")[0]
    (folder,) = (tmp_path / "tensorboard").iterdir()
    (_,) = folder.iterdir()
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    document, _ = make_report(3)
    for name, value in list_metrics(document):
        assert events.Scalars(f"result/{name}")[0].value == pytest.approx(value)
    curve = [(event.step, event.value) for event in events.Scalars("training/val_accuracy")]
    assert curve == [
        (epoch, pytest.approx(value)) for name, epoch, value in list_curves(document) if name == "val_accuracy"
    ]
    assert "card/text_summary" in events.Tags()["tensors"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real MLflow server on the loopback, with a store of its own; return its address."""
    pytest.importorskip("mlflow.server", reason="mlflow is not installed: nox -s report installs it")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/store.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "the MLflow server ended"
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the MLflow server does not answer")


def find_runs(address: str) -> tuple[Any, list[Any]]:
    """Return a client of the server and the runs of the sample's experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("demo")
    return client, list(client.search_runs([experiment.experiment_id]))


def test_an_mlflow_server_has_figures_settings_pages_and_card(server: str, tmp_path: Path) -> None:
    """One finished run with metrics, curves, parameters and artifacts; logged again, it is still one."""
    (line,) = log(tmp_path, "mlflow", MLFLOW_TRACKING_URI=server)
    assert line.startswith(f"mlflow: {server}, experiment demo, run ")
    assert "already" in log(tmp_path, "mlflow", MLFLOW_TRACKING_URI=server)[0]
    client, (run,) = find_runs(server)
    document, facts = make_report(3)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["int8_accuracy"] == pytest.approx(document["metrics"]["int8_accuracy"])
    assert run.data.metrics["fps_estimate/KV260"] == 500.0
    assert run.data.params["train.optimizer.lr"] == str(facts.spec.settings["train.optimizer.lr"])
    assert run.data.tags["emulated"] == "True"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"card.md", "report.html"}
    steps = [(item.step, item.value) for item in client.get_metric_history(run.info.run_id, "train_accuracy")]
    assert sorted(steps) == list(enumerate(document["training"]["curves"]["train_accuracy"], 1))


def test_a_server_that_is_down_costs_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, one warning says so, soon."""
    pytest.importorskip("mlflow", reason="mlflow is not installed: nox -s report installs it")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    (line,) = log(tmp_path, "mlflow", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert line.startswith("warning: not logged to mlflow: ")
    assert "\n" not in line


@pytest.mark.filterwarnings("default")  # of the database library, not ours
def test_without_an_address_the_store_is_in_build(tmp_path: Path) -> None:
    """Asked for by the spec alone, MLflow's runs lie beside the results."""
    pytest.importorskip("mlflow", reason="mlflow is not installed: nox -s report installs it")
    (line,) = log(tmp_path, "mlflow")
    assert "experiment demo" in line, line
    assert any((tmp_path / "mlflow").iterdir())
