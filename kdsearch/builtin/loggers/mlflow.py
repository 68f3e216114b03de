"""MLflow: an SQLite store below the study's folder, or a server's: `mlflow ui --backend-store-uri sqlite:///DIR/log/mlflow/mlflow.db`."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from kdsearch.kinds import Logger, Options, Run

ID = "kdsearch.id"  # tag: which run of kdsearch it is
STATUS = {"running": "RUNNING", "paused": "RUNNING", "complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
LONGEST = 5000  # characters of a tag's value; of a param 6,000


class MlflowOptions(Options):
    uri: str | None = Field(
        None, min_length=1, description="tracking URI, such as that of a server; none = DIR/log/mlflow"
    )
    experiment: str | None = Field(None, min_length=1, description="experiment; none = the study's name")


def _name(text: str) -> str:
    """With the characters that MLflow takes."""
    return re.sub(r"[^\w.\-/ ]", "_", text)


def _of_file(file: Path) -> str:
    """The URL of an SQLite file; as it is written down, unless SQLAlchemy would read another name there (`?`, `%41`)."""
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{file}"
    return (
        plain if make_url(plain).database == str(file) else URL.create("sqlite", database=str(file)).render_as_string()
    )


class Mlflow(Logger[MlflowOptions]):
    """A run each: params, curves as metrics by epoch, what it came to as `end/NAME`, texts and paths of files as tags."""

    def __init__(self, options: MlflowOptions) -> None:
        super().__init__(options)
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # it reports to its maker by default
            os.environ.setdefault(name, "true")
        import mlflow

        self._mlflow: Any = mlflow
        self._runs: dict[str, str] = {}  # id -> MLflow's
        self._written: dict[str, dict[str, int]] = {}  # id -> curve -> its last epoch

    def open(self, folder: Path, study: str) -> None:
        uri, place = self.options.uri, None
        if uri is None:
            folder.mkdir(parents=True, exist_ok=True)
            uri = _of_file(folder.absolute() / "mlflow.db")
            place = (folder.absolute() / "artifacts").as_uri()
        self._client = self._mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        name = self.options.experiment or study
        found = self._client.get_experiment_by_name(name)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(name, artifact_location=place)
        )
        self._study = study

    def _found(self, id: str) -> Any:
        """The run that an earlier run of the study made; None where it made none."""
        asked = f"tags.`{ID}` = '{id}' and tags.`kdsearch.study` = '{self._study}'"
        return next(iter(self._client.search_runs([self._experiment], filter_string=asked, max_results=1)), None)

    def _begun(self, run: Run) -> str:
        entities = self._mlflow.entities
        found = self._found(run.id)
        if found is None:
            tags = {ID: run.id, "kdsearch.study": self._study}
            found = self._client.create_run(self._experiment, run_name=run.name, tags=tags)
        key: str = found.info.run_id
        self._written[run.id] = {
            name: max((each.step for each in self._client.get_metric_history(key, name)), default=0)
            for name in found.data.metrics
        }
        params = [entities.Param(_name(name), str(value)) for name, value in run.params.items()]
        for at in range(0, len(params), 100):
            self._client.log_batch(key, params=params[at : at + 100])
        return key

    def put(self, run: Run) -> None:
        entities, now = self._mlflow.entities, int(1000 * time.time())
        if run.id not in self._runs:
            self._runs[run.id] = self._begun(run)
        key, written = self._runs[run.id], self._written[run.id]
        metrics = []
        for name, points in ((_name(name), points) for name, points in run.curves.items()):
            metrics += [
                entities.Metric(name, value, now, epoch) for epoch, value in points if epoch > written.get(name, 0)
            ]
            written[name] = max([written.get(name, 0), *(epoch for epoch, _ in points)])
        if run.is_over:
            ends = {_name(f"end/{name}"): value for name, value in run.values.items()}
            ends = {name: value for name, value in ends.items() if name not in written}
            metrics += [entities.Metric(name, value, now, 0) for name, value in ends.items()]
            written |= dict.fromkeys(ends, 0)
        texts = {**run.about, **{f"file.{name}": str(path) for name, path in run.files.items()}}
        tags = [entities.RunTag(_name(name), text[:LONGEST]) for name, text in texts.items()]
        for at in range(0, max(len(metrics), 1), 1000):  # a request takes no more
            self._client.log_batch(key, metrics=metrics[at : at + 1000], tags=[] if at else tags)
        if run.is_over:
            self._client.set_terminated(key, STATUS[run.state])
        else:
            self._client.update_run(key, STATUS[run.state])

    def knows(self, id: str) -> bool:
        found = self._found(id)
        return found is not None and found.info.status in ("FINISHED", "KILLED", "FAILED")

    def close(self) -> None:
        engine = getattr(getattr(self._client._tracking_client, "store", None), "engine", None)
        if engine is not None:  # an SQLite file's connections
            engine.dispose()
