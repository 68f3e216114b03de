"""A segmentation with default controls, its task, metric, data and space from outside: from YAML to verified ONNX files."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from kdsearch.host import Host
from kdsearch.store.files import read_json, read_lines
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs.status import status_of
from kdsearch.verbs.summary import summary_of
from tests.outside.conftest import HERE, ROOT, ended, killed_in

FORMATS = ["onnx-fp32", "onnx-int8", "onnx-int4"]


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The study's folder and result, after a SIGKILL in `distill`."""
    folder = tmp_path_factory.mktemp("segments") / "study"
    killed_in(HERE / "segments.yaml", folder, "distill")
    return folder, ended(HERE / "segments.yaml", folder)


def test_nothing_is_done_twice_after_the_kill(segments):
    folder, _ = segments
    stages = [each for each in read_lines(folder / "events.jsonl") if each["event"] == "stage"]
    begun = [each["stage"] for each in stages if each["state"] == "begun"]
    assert begun.count("distill") == 2
    assert [name for name in begun if name != "distill"] == [
        "prepare",
        "search",
        "refine",
        "compress",
        "export",
        "report",
    ]


def test_everything_speaks_of_its_objective(segments):
    _, result = segments
    named = {name: result[name] for name in ("teacher", "student", "baseline", "all_labels", "pruned")}
    for name, row in {**named, **{row["format"]: row for row in result["exports"]}}.items():
        quality = row["quality"]
        assert "accuracy" not in row, name
        told = (quality["metric"], quality["direction"], quality["unit"], quality["n"])
        assert told == ("overlap", "max", "share", 32)
        low, high = quality["interval"]
        assert low <= quality["value"] <= high
        assert high - low < 0.2
    assert named["teacher"]["quality"]["value"] > 0.85
    assert named["student"]["quality"]["value"] > 0.75
    assert result["refused"] == []
    assert [row["format"] for row in result["exports"]] == FORMATS
    assert result["recommended"]["why"].startswith("overlap ")
    folder = segments[0]
    page = re.sub(r"<script>.*?</script>", "", (folder / "report" / "index.html").read_text(), flags=re.DOTALL)
    cards = [file.read_text() for file in (folder / "export").glob("*.json")]
    assert len(cards) == len(FORMATS)
    told = [json.dumps(result), page, *cards, summary_of(result, folder), status_of(folder)["text"]]
    assert [text for text in told if "accuracy" in text.lower()] == []
    counts = result["data"]["counts"]
    assert counts["train"]["labeled"] + counts["val"]["labeled"] == round(0.3 * (160 - 32))
    assert counts["test"] == {"labeled": 32, "unlabeled": 0}


def test_the_page_shows_images_masks_and_answers(segments, outside):
    """As PNGs of the very pixels: of the recommended file, whose answers are computed here again."""
    folder, result = segments
    facts = read_json(next(folder.glob("artifacts/report-*/evidence.json")))
    (figure,) = facts["figures"]
    titles = [[each["title"] for each in row] for row in figure["pictures"]]
    assert titles == [["input", "truth", "teacher", "student"]] * 4
    page = (folder / "report" / "index.html").read_text()
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">', page)
    assert len(shown) == 16
    test = open_materials(load_study(outside / "segments.yaml", Host.load()), Host.load()).data.split("test")
    batch = test.load(range(4))
    file = str(folder / result["recommended"]["path"])
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    student = session.run(None, {"image": batch["image"].numpy()})[0].argmax(1)
    for i, row in enumerate(figure["pictures"]):
        truth, answer = (pixels(row[at]["src"]) for at in (1, 3))
        colours = {k: truth[batch["mask"][i].numpy() == k][0] for k in np.unique(batch["mask"][i])}
        for k in np.unique(student[i]):
            assert (answer[student[i] == k] == colours.get(int(k), answer[student[i] == k][0])).all()
        right = float((student[i] == batch["mask"][i].numpy()).mean())
        assert row[3]["says"] == f"{right:.1%} right"
        assert row[0]["says"] == batch.ids[i]
        assert pixels(row[0]["src"]).shape == (16, 16)


def pixels(src: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))))


def test_a_distiller_with_buffers_and_a_task_loss_of_its_own(segments):
    """See `Prototypes`: after the kill it goes on with what it has seen."""
    folder, _ = segments
    distilled = read_json(next(folder.glob("artifacts/distill-*/artifact.json")))["facts"]
    terms = [each["terms"] for each in distilled["runs"][distilled["winner"]]["history"]]
    assert all(each.keys() == {"task", "kd.kl", "prototypes.prototypes"} for each in terms), terms[0].keys()
    assert terms[-1]["task"] < terms[0]["task"]


def test_the_files_answer_as_they_are_said_to(segments, outside):
    """Each file's mIoU, measured here from scratch on all images of the test split."""
    from kdsearch_segments import ShapesSplit

    folder, result = segments
    test = open_materials(load_study(outside / "segments.yaml", Host.load()), Host.load()).data.split("test")
    every = ShapesSplit(160)
    rows = [every.ids.index(each) for each in test.ids]
    images, masks = every.images[rows].numpy(), every.masks[rows]
    for row in result["exports"]:
        session = onnxruntime.InferenceSession(str(folder / row["path"]), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"image": images})[0].argmax(1))
        shares = [float(((found == k) & (masks == k)).sum() / ((found == k) | (masks == k)).sum()) for k in range(3)]
        assert row["quality"]["value"] == pytest.approx(np.mean(shares), abs=2e-3)


def test_the_cards_lines_run(segments, monkeypatch):
    folder, result = segments
    assert not list(ROOT.glob("*.onnx")), (
        "onnxruntime's shape inference leaves what it could not finish where the process is"
    )
    monkeypatch.chdir(folder / "export")
    for row in result["exports"]:
        card = read_json((folder / row["path"]).with_suffix(".json"))
        assert card["metrics"]["quality"] == row["quality"]
        scope: dict[str, Any] = {}
        exec("\n".join(card["use"]["run"]), scope)
        assert scope["outputs"][0].shape == (1, 3, 16, 16)
