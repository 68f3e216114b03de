"""The logger `wandb`, offline, read back from its run files by its own messages."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdsearch.kinds import Run
from kdsearch.testing.logger import BEGUN, DONE, FAILED, LoggerContract

pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what it is made of


def chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each part of a LevelDB log with seven bytes before it: blocks of 32 KiB, parts of (crc, length, type)."""
    at = 7
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        yield kind, data[at + 7 : at + 7 + length]
        at += 7 + length


def records(file: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    found, held = [], b""
    for kind, part in chunks(file.read_bytes()):
        held += part
        if kind in (1, 4):  # whole, or the last of several
            found.append(wandb_internal_pb2.Record.FromString(held))
            held = b""
    return found


def _keyed(items: Any) -> dict[str, Any]:
    return {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}


class TestWandb(LoggerContract):
    def logger(self) -> Any:
        from kdsearch.builtin.loggers.wandb import Wandb, WandbOptions

        return Wandb(WandbOptions())

    def read(self, folder: Path) -> dict[str, Run]:
        ids = {run.id.replace("/", "-"): run.id for run in (DONE, FAILED)}
        found: dict[str, Run] = {}
        for file in (folder / "wandb").glob("offline-run-*/run-*.wandb"):
            id = ids[file.stem.removeprefix("run-")]
            assert id not in found, "two runs of one id"
            params: dict[str, Any] = {}
            curves: dict[str, list[tuple[int, float]]] = {}
            summary: dict[str, Any] = {}
            for record in records(file):
                params |= _keyed(record.run.config.update) | _keyed(record.config.update)
                row = _keyed(record.history.item)
                for name, value in row.items():
                    if not name.startswith("_"):
                        curves.setdefault(name, []).append((row["_step"], value))
                summary |= _keyed(record.summary.update)
            values = {name[4:]: value for name, value in summary.items() if name.startswith("end/")}
            params = {name: value for name, value in params.items() if not name.startswith("_")}
            found[id] = Run(id, "", summary.get("state", "running"), params, curves, values)
        return found

    def test_the_folder_is_listed_once_for_all_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.opened(tmp_path) as logger:
            logger.put(DONE)
        listed, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda path=".": listed.append(str(path)) or scandir(path))
        with self.opened(tmp_path) as logger:
            assert [logger.knows(run.id) for run in (DONE, FAILED)] == [True, False]
            for run in (BEGUN, DONE, FAILED):
                logger.put(run)
            assert [logger.knows(run.id) for run in (DONE, FAILED)] == [True, True]
        assert listed.count(str(tmp_path / "wandb")) == 1
        monkeypatch.undo()
        self.check(tmp_path, DONE, FAILED)
