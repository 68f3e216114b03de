"""A CSV file of curves for each training, beside one JSON line with the rest: for whatever reads tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from kdsearch.kinds import Logger, Options, Run


class CsvOptions(Options):
    separator: Literal[",", ";", "tab"] = Field(",", description="between the columns")


class CsvFiles(Logger[CsvOptions]):
    """`<id>.csv` (a row an epoch, a column a curve) and `<id>.json` (state, params, values, texts, files)."""

    def open(self, folder: Path, study: str) -> None:
        self.folder = folder

    def put(self, run: Run) -> None:
        place = self.folder / f"{run.id}.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        by_name = {name: dict(points) for name, points in run.curves.items()}
        beside = place.with_suffix(".part")
        with beside.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream, delimiter="\t" if self.options.separator == "tab" else self.options.separator)
            rows.writerow(["epoch", *by_name])
            for epoch in sorted({epoch for points in by_name.values() for epoch in points}):
                rows.writerow([epoch, *(points.get(epoch, "") for points in by_name.values())])
        beside.replace(place)
        told = {
            "name": run.name,
            "state": run.state,
            "params": dict(run.params),
            "values": dict(run.values),
            "about": dict(run.about),
            "files": {name: str(path) for name, path in run.files.items()},
        }
        beside.write_text(json.dumps(told), encoding="utf-8")
        beside.replace(place.with_suffix(".json"))

    def knows(self, id: str) -> bool:
        try:
            told = json.loads((self.folder / f"{id}.json").read_text(encoding="utf-8"))
            return Run(id, "", told["state"]).is_over
        except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
            return False
