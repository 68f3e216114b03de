"""What a study's result depends on: its file, its seed; not the order, the folder or the number of workers."""

from __future__ import annotations

import json

import pytest

from kdsearch.stages.refine import as_at
from kdsearch.store.files import read_json
from kdsearch.training.request import Outcome
from tests.stages.tiny import LESS, TEXT, events, facts_of, files_of, made, run_tiny, settled


def test_final_json_has_what_the_commands_promise(finished):
    result = finished.result
    assert result["study"] == "tiny"
    assert result["seed"] == 3
    assert set(result["teacher"]) >= {"params", "accuracy"}
    assert set(result["student"]) >= {"architecture", "params", "macs", "accuracy", "recipe"}
    assert result["baseline"]["accuracy"] is not None
    assert result["all_labels"]["accuracy"] is not None
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8", "onnx-int4"]
    for row in result["exports"]:
        assert sum(row["weight_share"].values()) == pytest.approx(1.0)
        assert 0 < row["latency_ms"]["min"] <= row["latency_ms"]["median"]
        assert (finished.folder / "study" / row["path"]).stat().st_size == row["bytes"]
        assert (finished.folder / "study" / row["path"]).with_suffix(".json").exists()
    assert result["refused"] == []
    assert result["recommended"]["format"] in [row["format"] for row in result["exports"]]
    assert set(result["seconds"]) == {"prepare", "search", "refine", "distill", "compress", "export", "report"}
    assert [each["name"] for each in result["compare"]] == ["winner", "largest", "random-0"]
    assert (finished.folder / "study" / result["report"]).read_text().startswith("<!doctype html>")
    assert read_json(finished.folder / "study" / "result.json") == json.loads(json.dumps(result))
    assert len((finished.folder / "study" / "candidates.jsonl").read_text().splitlines()) == 12


def test_every_trained_student_met_its_constraints(finished):
    bounds = finished.result["constraints"]
    assert finished.result["student"]["params"] <= bounds["params"]
    assert all(
        row["params"] <= bounds["params"] and row["macs"] <= bounds["macs"] for row in finished.result["compare"]
    )


def test_same_seed_gives_the_same_numbers_and_files(finished, tmp_path):
    again = run_tiny(tmp_path, checkpoint_s=0)
    assert settled(again) == finished.settled
    assert files_of(tmp_path / "study" / "artifacts").keys() == files_of(finished.folder / "study" / "artifacts").keys()
    for name in ("export/tiny-fp32.onnx", "export/tiny-int8.onnx", "export/tiny-int4.onnx", "candidates.jsonl"):
        assert (tmp_path / "study" / name).read_bytes() == (finished.folder / "study" / name).read_bytes(), name
    assert [each["losses"] for each in events(tmp_path, "trial")] == [
        each["losses"] for each in events(finished.folder, "trial")
    ]


def test_workers_change_nothing(tmp_path):
    one = run_tiny(tmp_path / "one", *LESS)
    two = run_tiny(tmp_path / "two", *LESS, workers=2)
    assert settled(two) == settled(one)
    assert facts_of(tmp_path / "two") == facts_of(tmp_path / "one")


@pytest.mark.slow
def test_workers_change_nothing_of_a_whole_study(finished, tmp_path):
    assert settled(run_tiny(tmp_path, workers=2)) == finished.settled


def test_order_of_sections_and_keys_changes_nothing(finished, copied):
    sections: list[list[str]] = []
    for line in TEXT.splitlines():
        if line.startswith(" "):
            sections[-1].append(line)
        else:
            sections.append([line])
    turned = "\n".join(line for section in sections[::-1] for line in section) + "\n"
    turned = turned.replace(
        "{use: digits, options: {resize: 8}, labeled: 0.2,", "{labeled: 0.2, options: {resize: 8}, use: digits,"
    )
    assert turned != TEXT
    before = len(events(copied))
    assert settled(run_tiny(copied, text=turned)) == finished.settled
    assert made(copied, before) == []


def test_a_trial_that_is_further_than_its_piece_tells_what_it_had_there():
    """Its checkpoint goes on after the rung: two epochs of hints have no score, of the next phase the best one is kept."""
    rows = [
        {"phase": "hint", "epoch": 1},
        {"phase": "hint", "epoch": 2},
        {"phase": "plain", "epoch": 3, "score": 0.5, "validation": 0.2, "beside": {"f1": 0.4}},
        {"phase": "plain", "epoch": 4, "score": 0.6, "validation": 0.3, "beside": {"f1": 0.1}},
        {"phase": "plain", "epoch": 5, "score": 0.7, "validation": 0.1, "beside": {"f1": 0.6}},
    ]
    whole = Outcome(rows, False, 0.7, 5 / 6, beside={"f1": 0.6})
    found = {until: as_at(whole, until, 6) for until in (0.3, 0.5, 0.7, 0.8, 1.0)}
    assert [len(each.history) for each in found.values()] == [2, 3, 5, 5, 5]
    assert [each.score for each in found.values()] == [None, 0.5, 0.7, 0.7, 0.7]
    assert [each.beside for each in found.values()] == [{}, {"f1": 0.4}, *[{"f1": 0.6}] * 3]
    assert as_at(whole, 0.6, 6).score == 0.5, "of four epochs the third is kept"
