"""TensorBoard: event files below the study's folder, a run each: `tensorboard --logdir DIR/log/tensorboard`."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from kdsearch.kinds import Logger, NoOptions, Run

OVER = "over.json"  # in a run's folder: its state, once it has ended


class TensorBoard(Logger[NoOptions]):
    """A folder a run: curves as scalars by epoch, params and values for the HPARAMS page, texts and files as text."""

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        from torch.utils.tensorboard.writer import SummaryWriter

        self._new = SummaryWriter
        self._writers: dict[str, Any] = {}
        self._written: dict[str, dict[str, int]] = {}  # id -> curve -> its last epoch

    def open(self, folder: Path, study: str) -> None:
        self.folder = folder

    def put(self, run: Run) -> None:
        place = self.folder / run.id
        if (
            run.id not in self._writers
        ):  # event files are appended to: what an earlier run of the study wrote is written anew
            shutil.rmtree(place, ignore_errors=True)
            self._writers[run.id], self._written[run.id] = self._new(str(place)), {}
        writer, written = self._writers[run.id], self._written[run.id]
        for name, points in run.curves.items():
            for epoch, value in points:
                if epoch > written.get(name, 0):
                    writer.add_scalar(name, value, epoch)
                    written[name] = epoch
        if run.is_over:
            self._end(writer, run)
            writer.close()
            del self._writers[run.id]
            (place / OVER).write_text(json.dumps(run.state), encoding="utf-8")
        else:
            writer.flush()

    def _end(self, writer: Any, run: Run) -> None:
        summary: Any = import_module("torch.utils.tensorboard.summary")  # has no types
        values = {f"end/{name}": float(value) for name, value in run.values.items()}
        params: dict[str, bool | float | str] = {
            name: value if isinstance(value, bool | str) else float(value) for name, value in run.params.items()
        }
        for each in summary.hparams({**params, "state": run.state}, dict.fromkeys(values, 0.0)):
            writer.file_writer.add_summary(each)
        for name, value in values.items():
            writer.add_scalar(name, value, 0)
        for name, text in run.about.items():
            writer.add_text(name, text)
        if run.files:
            writer.add_text("files", "\n".join(f"- {name}: `{path}`" for name, path in run.files.items()))

    def knows(self, id: str) -> bool:
        return (self.folder / id / OVER).is_file()

    def close(self) -> None:
        for each in self._writers.values():
            each.close()
        self._writers.clear()
