"""The logger `tensorboard`, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdsearch.builtin.loggers.tensorboard import TensorBoard
from kdsearch.kinds import NoOptions, Run
from kdsearch.testing.logger import DONE, LoggerContract

pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


def scalars(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}, read


def params_of(read: Any) -> dict[str, Any]:
    """The HPARAMS page's session start, but the state."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    try:
        content = read.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    except KeyError:
        return {}
    start = HParamsPluginData.FromString(content).session_start_info.hparams
    told = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    return {name: value for name, value in told.items() if name != "state"}


class TestTensorBoard(LoggerContract):
    def logger(self) -> TensorBoard:
        return TensorBoard(NoOptions())

    def read(self, folder: Path) -> dict[str, Run]:
        found = {}
        for place in {each.parent for each in folder.glob("**/events.out.tfevents.*")}:
            id = place.relative_to(folder).as_posix()
            over = place / "over.json"
            state = json.loads(over.read_text()) if over.exists() else "running"
            series, read = scalars(place)
            curves = {name: points for name, points in series.items() if not name.startswith("end/")}
            values = {name[4:]: points[0][1] for name, points in series.items() if name.startswith("end/")}
            found[id] = Run(id, "", state, params_of(read), curves, values)
        return found


def test_a_run_that_goes_on_can_be_read(tmp_path: Path) -> None:
    logger = TensorBoard(NoOptions())
    logger.open(tmp_path, "tiny")
    logger.put(Run("a/b", "trial 0", "running", curves={"loss": [(1, 2.0)]}))
    assert scalars(tmp_path / "a" / "b")[0] == {"loss": [(1, 2.0)]}
    logger.close()


def test_texts_and_files_are_on_the_text_page(tmp_path: Path) -> None:
    logger = TensorBoard(NoOptions())
    logger.open(tmp_path, "tiny")
    logger.put(DONE)
    logger.close()
    _, read = scalars(tmp_path / DONE.id)
    said = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert said["architecture/text_summary"] == "widths 4-8"
    assert said["files/text_summary"] == f"- student.onnx: `{Path('somewhere/student.onnx')}`"
