"""A whole study, stopped and gone on with, as each tool has it: as the CSV logger beside it."""

from __future__ import annotations

import importlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from kdsearch.errors import InterruptedRun
from tests.builtin.test_csv_logger import TestCsv as Csv
from tests.extras.loggers.test_mlflow import TestMlflow as Mlflow
from tests.extras.loggers.test_tensorboard import TestTensorBoard as TensorBoard
from tests.stages.tiny import LESS, run_tiny, settled, watching

pytestmark = pytest.mark.filterwarnings("ignore")  # the tools' own
STUDY = (*LESS, "refine.trials=3", "refine.epochs=2", "objectives={accuracy: max, params: min}")


@pytest.mark.parametrize(("name", "contract"), [("tensorboard", TensorBoard), ("mlflow", Mlflow)])
def test_a_study_that_was_stopped_is_there_whole(name: str, contract: Any, tmp_path: Path) -> None:
    importlib.import_module(name)

    def seen(event: Any) -> None:
        if event["event"] == "trial" and event["number"] == 0:
            signal.raise_signal(signal.SIGINT)

    log = f"run.log=[csv, {name}]"
    with pytest.raises(InterruptedRun):
        run_tiny(tmp_path, *STUDY, log, host=watching(seen), checkpoint_s=0)
    result = run_tiny(tmp_path, *STUDY, log)
    assert settled(result) == settled(run_tiny(tmp_path / "plain", *STUDY))
    folder = tmp_path / "study" / "log"
    ours, theirs = Csv().read(folder / "csv"), contract().read(folder / name)
    assert set(ours) == set(theirs)
    assert len(ours) == 5  # three trials, the winner, the result
    for id, run in ours.items():
        found = theirs[id]
        assert found.state == run.state
        assert found.params.keys() == run.params.keys()
        assert {key: [*points] for key, points in found.curves.items()} == {
            key: [(at, pytest.approx(each)) for at, each in points] for key, points in run.curves.items()
        }
        assert dict(found.values) == pytest.approx(dict(run.values))


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """The result of a study names no logger's failure, with every tool at once."""
    for name in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(name)
    result = run_tiny(tmp_path, *STUDY, "run.log=[tensorboard, mlflow, wandb]")
    assert not [note for note in result["notes"] if "ogger" in note]
    assert sorted(each.name for each in (tmp_path / "study" / "log").iterdir()) == ["mlflow", "tensorboard", "wandb"]
    assert "run.log" not in json.dumps(result)
