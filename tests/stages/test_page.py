"""The page of a real study, in a browser: every candidate, trial and epoch is drawn, the JSON's numbers are in the text."""

from __future__ import annotations

import html
import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from kdsearch.store.files import read_json, read_lines
from kdsearch.store.hashing import file_digest
from tests.report.browser import needs_chromium, see
from tests.stages.conftest import Done


@needs_chromium
def test_a_real_studys_page_shows_what_the_study_did(finished: Done, tmp_path: Path) -> None:
    study = finished.folder / "study"
    seen = see((study / "report" / "index.html").read_text(encoding="utf-8"), tmp_path)
    assert seen.console == []
    assert seen.requests == []
    page, result = seen.page, finished.result
    last = read_json(study / "last.json")
    evidence = read_json(study / "artifacts" / f"report-{last['report']['key']}" / "evidence.json")
    rows = read_lines(study / "candidates.jsonl")
    drawn = {spec["description"]: spec["data"]["values"] for spec in page.specs}
    assert int(page.body["data-drawn"]) == len(page.specs)
    found = [name for name in drawn if name.startswith("12 candidates")]
    assert len(drawn[found[0]]) == len(rows) == 12
    assert sum(row["kind"] in ("kept for training", "the student") for row in drawn[found[0]]) == sum(
        r["kept"] for r in rows
    )
    tried = next(rows for name, rows in drawn.items() if "3 trials in order" in name)
    assert len(tried) == len(evidence["trials"]) == 3
    epochs = next(rows for name, rows in drawn.items() if name.startswith("training loss by epoch"))
    assert len(epochs) == sum(len(curve) for curve in evidence["curves"].values())
    assert any("answers are wrong" in name for name in drawn), "the task's figures"
    assert page.marks["symbol"] > 12 + 3 + len(epochs)
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a" and attrs["href"].startswith("../")]
    assert len(links) == 2 * len(result["exports"])
    assert all((study / "report" / unquote(each)).is_file() for each in links), "files and cards"
    assert "No times were recorded" not in page.text
    shown = json.loads(page.json)
    for name in ("student", "baseline", "exports", "recommended", "metrics"):
        assert shown[name] == result[name]
    for accuracy in (result["teacher"]["accuracy"], result["student"]["accuracy"], result["baseline"]["accuracy"]):
        assert f"{100 * accuracy:.2f}" in page.text
    for export in result["exports"]:
        assert f"{export['bytes']:,}" in page.text
    teacher = result["teacher"]
    assert teacher["macs"] > result["student"]["macs"] / 10
    assert f"{teacher['macs']:,}" in page.text
    assert json.loads(teacher["architecture"]) == {"block": "basic", "depths": [1, 1, 1], "widths": [8, 8, 16]}
    assert "cifar_resnet: basic block, depths 1-1-1 , widths 8-8-16" in " ".join(page.text.split())


def test_the_page_says_what_validation_figures_are_of(finished: Done) -> None:
    """Where a label is hidden the teacher's class stands in: a trial may be right there and wrong on the test split."""
    counts = finished.result["data"]["counts"]["val"]
    hidden, all_ = counts["unlabeled"], sum(counts.values())
    assert 0 < hidden < all_
    said = f"{hidden:,} of {all_:,} labels are hidden; there the teacher's class counts as right"
    assert finished.result["data"]["validation"] == said
    page = (finished.folder / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert html.escape(said) in page or said in page.partition("<script")[0]


def test_the_page_says_what_each_curve_is_judged_on_and_whose_bytes_are_of_weights(finished: Done) -> None:
    """The baseline has no teacher whose class stands in for a hidden label; its control and the teacher see every label."""
    study = finished.folder / "study"
    key = read_json(study / "last.json")["report"]["key"]
    judged_on = read_json(study / "artifacts" / f"report-{key}" / "evidence.json")["judged_on"]
    counts = finished.result["data"]["counts"]["val"]
    known, all_ = sum(counts.values()) - counts["unlabeled"], sum(counts.values())
    mixed = f"{all_} samples, the teacher's class where a label is hidden"
    assert judged_on["student"] == judged_on["recovery"] == judged_on["compare-winner"] == mixed
    assert judged_on["without a teacher"] == f"{known} labelled samples"
    assert judged_on["with every label"] == judged_on["teacher"] == "every label there is"
    ladder = read_json(study / "artifacts" / f"report-{key}" / "evidence.json")["ladder"]
    assert {row["name"] for row in ladder if row.get("weights")} == {"teacher", "student", "pruned"}, (
        "these have no file"
    )
    scores = {name: finished_score(study, name) for name in ("baseline", "all_labels")}
    for name, n in (("baseline", known), ("all_labels", all_)):
        assert scores[name] * n == pytest.approx(round(scores[name] * n)), "so many were judged"
    assert f"{known} labelled samples (without a teacher)" in (study / "report" / "index.html").read_text(
        encoding="utf-8"
    )


def finished_score(study: Path, run: str) -> float:
    """The last validation accuracy of a run."""
    distilled = read_json(
        study / "artifacts" / f"distill-{read_json(study / 'last.json')['distill']['key']}" / "artifact.json"
    )
    return float(distilled["facts"]["runs"][run]["history"][-1]["score"])


def test_cards_stand_beside_the_files(finished: Done) -> None:
    study = finished.folder / "study"
    for export in finished.result["exports"]:
        card = read_json((study / export["path"]).with_suffix(".json"))
        assert (study / export["path"]).stat().st_size == export["bytes"] == card["size_bytes"]
        low, high = card["metrics"]["accuracy"]["interval_95"]
        assert low <= export["accuracy"] <= high
        assert card["sha256"] == file_digest(study / export["path"])
        assert card["model"]["params"] == finished.result["pruned"]["params"]
        assert card["weight_share"] == export["weight_share"]
        assert card["quantization"] == export["quantization"]
        assert bool(card["quantization"]) is (export["format"] != "onnx-fp32")
    int8 = next(each for each in finished.result["exports"] if each["format"] == "onnx-int8")
    assert (
        "weights in 7 bits: no sum overflows 16 bits, so that every processor gives the same answers"
        in int8["quantization"]
    )
