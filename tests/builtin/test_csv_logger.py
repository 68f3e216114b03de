"""The logger `csv`, read back by the standard library and pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from kdsearch.builtin.loggers.csv_files import CsvFiles, CsvOptions
from kdsearch.kinds import Run
from kdsearch.testing.logger import DONE, LoggerContract


class TestCsv(LoggerContract):
    separator = ","

    def logger(self) -> CsvFiles:
        return CsvFiles(CsvOptions(separator=self.separator))

    def read(self, folder: Path) -> dict[str, Run]:
        found = {}
        for file in folder.glob("**/*.json"):
            told = json.loads(file.read_text())
            id = file.relative_to(folder).with_suffix("").as_posix()
            sep = "\t" if self.separator == "tab" else self.separator
            table = pandas.read_csv(file.with_suffix(".csv"), sep=sep)
            curves: dict[str, Any] = {
                name: [(int(epoch), value) for epoch, value in zip(table["epoch"], table[name], strict=True)]
                for name in table.columns[1:]
            }
            found[id] = Run(id, told["name"], told["state"], told["params"], curves, told["values"])
        return found


class TestWithTabs(TestCsv):
    separator = "tab"


def test_texts_and_files_are_beside(tmp_path: Path) -> None:
    logger = CsvFiles(CsvOptions())
    logger.open(tmp_path, "tiny")
    logger.put(DONE)
    told = json.loads((tmp_path / "refine-0a1b2c" / "trial-3.json").read_text())
    assert told["about"] == {"architecture": "widths 4-8"}
    assert told["files"] == {"student.onnx": str(Path("somewhere/student.onnx"))}


@pytest.mark.parametrize("text", ["", "{", '{"name": 1}'])
def test_a_damaged_file_is_written_anew(tmp_path: Path, text: str) -> None:
    logger = CsvFiles(CsvOptions())
    logger.open(tmp_path, "tiny")
    logger.put(DONE)
    file = tmp_path / "refine-0a1b2c" / "trial-3.json"
    before = file.read_text()
    file.write_text(text)
    assert not logger.knows(DONE.id)
    logger.put(DONE)
    assert file.read_text() == before
