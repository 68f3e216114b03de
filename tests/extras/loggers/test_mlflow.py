"""The logger `mlflow`, read back by MLflow's client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdsearch.kinds import Run
from kdsearch.testing.logger import DONE, LoggerContract

pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what MLflow is made of

STATES = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed", "RUNNING": "running"}


def made(**options: Any) -> Any:
    from kdsearch.builtin.loggers.mlflow import Mlflow, MlflowOptions

    return Mlflow(MlflowOptions(**options))


def read(uri: str) -> tuple[dict[str, Run], dict[str, Any]]:
    """By id: the runs, and MLflow's own."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found, whole = {}, {}
    try:
        for experiment in client.search_experiments():
            for each in client.search_runs([experiment.experiment_id]):
                histories = {name: client.get_metric_history(each.info.run_id, name) for name in each.data.metrics}
                series = {
                    name: sorted((point.step, point.value) for point in points) for name, points in histories.items()
                }
                curves = {name: points for name, points in series.items() if not name.startswith("end/")}
                values = {name[4:]: points[0][1] for name, points in series.items() if name.startswith("end/")}
                assert all(len(points) == 1 for name, points in series.items() if name.startswith("end/"))
                id = each.data.tags["kdsearch.id"]
                assert id not in found, "two runs of one id"
                state = STATES[each.info.status]
                found[id] = Run(id, each.info.run_name, state, each.data.params, curves, values)
                whole[id] = experiment, each
    finally:
        client._tracking_client.store.engine.dispose()
    return found, whole


class TestMlflow(LoggerContract):
    def logger(self) -> Any:
        return made()

    def read(self, folder: Path) -> dict[str, Run]:
        return read(f"sqlite:///{folder}/mlflow.db")[0]


def test_names_texts_and_files_by_an_address_of_ones_own(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/theirs.db"
    logger = made(uri=uri, experiment="shared")
    for study in ("one", "two"):
        logger.open(tmp_path / "log", study)
        logger._runs.clear()
        logger.put(Run(f"{study}/0", "trial 0", "pruned", {"a[0]": 1}, {"kd:kl": [(1, 2.0)]}))
        logger.close()
    logger.open(tmp_path / "log", "one")
    logger.put(DONE)
    logger.close()
    assert not (tmp_path / "log").exists()
    found, whole = read(uri)
    assert (found["one/0"].params, found["one/0"].curves) == ({"a_0_": "1"}, {"kd_kl": [(1, 2.0)]})
    assert {experiment.name for experiment, _ in whole.values()} == {"shared"}
    assert {whole["one/0"][1].data.tags["kdsearch.study"], whole["two/0"][1].data.tags["kdsearch.study"]} == {
        "one",
        "two",
    }
    tags = whole[DONE.id][1].data.tags
    assert (tags["architecture"], tags["file.student.onnx"]) == ("widths 4-8", str(Path("somewhere/student.onnx")))


def test_it_reports_to_nobody(tmp_path: Path) -> None:
    """In a fresh process, whose environment says nothing of it: every connection beyond this machine would be an error there."""
    code = f"""
import socket
def refused(*arguments): raise AssertionError(f"connects to {{arguments}}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
from pathlib import Path
from kdsearch.builtin.loggers.mlflow import Mlflow, MlflowOptions
from kdsearch.testing.logger import DONE
logger = Mlflow(MlflowOptions())
logger.open(Path({str(tmp_path / "log")!r}), "tiny")
logger.put(DONE)
logger.close()
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled()
"""
    names = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "connects to" not in done.stderr


def test_its_file_is_in_the_folder_whatever_that_is_called(tmp_path: Path) -> None:
    """A URL has `?` and `%41` in another way; what MLflow takes for a folder's name would be a file elsewhere."""
    folder = tmp_path / "50 %41 ü" / "why?" / "mlflow"
    logger = made()
    logger.open(folder, "study")
    logger.put(Run("k/0", "trial 0", "complete"))
    logger.close()
    assert (folder / "mlflow.db").is_file()
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [folder / "mlflow.db"]
