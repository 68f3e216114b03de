"""Weights & Biases, offline: run folders below the study's, which `wandb sync` sends wherever its user wants them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from kdsearch.kinds import Logger, Options, Run

OVER = "kdsearch-over"  # file in a run's folder, once it has ended


class WandbOptions(Options):
    project: str | None = Field(None, min_length=1, description="project; none = the study's name")


class Wandb(Logger[WandbOptions]):
    """A run each: params as its config, curves by epoch, ends as `end/NAME` in its summary, texts and files in its notes."""

    def __init__(self, options: WandbOptions) -> None:
        super().__init__(options)
        for name, value in {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}.items():
            os.environ.setdefault(name, value)
        import wandb

        self._wandb: Any = wandb
        self._runs: dict[str, Any] = {}
        self._written: dict[str, int] = {}  # id -> the last epoch of any curve
        self._folders: dict[str, list[Path]] = {}  # id in its folder's name -> those, an earlier run's too; listed once

    def open(self, folder: Path, study: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._project = folder, self.options.project or study
        for each in (folder / "wandb").glob("offline-run-*-*"):
            if not each.is_symlink():  # offline-run-TIME-ID
                self._folders.setdefault(each.name.split("-", 3)[3], []).append(each)

    def put(self, run: Run) -> None:
        if run.id not in self._runs:
            for each in self._folders.pop(_id(run.id), ()):  # what an earlier run of the study wrote is written anew
                shutil.rmtree(each)
            self._runs[run.id], self._written[run.id] = self._begun(run), 0
            self._folders[_id(run.id)] = [Path(self._runs[run.id].dir).parent]
        kept = self._runs[run.id]
        rows: dict[int, dict[str, float]] = {}
        for name, points in run.curves.items():
            for epoch, value in points:
                if epoch > self._written[run.id]:
                    rows.setdefault(epoch, {})[name] = value
        for epoch, row in sorted(rows.items()):
            kept.log(row, step=epoch)
            self._written[run.id] = epoch
        if run.is_over:
            kept.summary.update({"state": run.state, **{f"end/{name}": value for name, value in run.values.items()}})
            lines = [f"{name}: {text}" for name, text in run.about.items()]
            kept.notes = "\n".join([*lines, *(f"{name}: {path}" for name, path in run.files.items())])
            kept.finish(exit_code=int(run.state == "failed"))
            del self._runs[run.id]
            for each in self._folders[_id(run.id)]:
                (each / OVER).touch()

    def _begun(self, run: Run) -> Any:
        settings = self._wandb.Settings(
            mode="offline",
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        return self._wandb.init(
            dir=str(self.folder),
            project=self._project,
            id=_id(run.id),
            name=run.name,
            config=dict(run.params),
            reinit="create_new",
            settings=settings,
        )

    def knows(self, id: str) -> bool:
        return any((each / OVER).is_file() for each in self._folders.get(_id(id), ()))

    def close(self) -> None:
        for each in self._runs.values():
            each.finish()
        self._runs.clear()
        self._wandb.teardown()  # a run's end may not be in its file before the process that writes them has ended


def _id(id: str) -> str:
    """Without slashes, which an id may not have."""
    return id.replace("/", "-")
