"""Studies that ask for more than the plain one: several objectives, a stored latency, two winners, augmented data."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from kdsearch.errors import InterruptedRun
from kdsearch.host import Host
from kdsearch.search.pareto import fronts, hypervolumes
from kdsearch.stages.search import going_on
from kdsearch.store.files import read_json
from kdsearch.verbs import commands
from kdsearch.verbs.finished import evidence_of_last
from tests.stages.tiny import LESS, TEXT, is_stage, run_tiny, settled, watching

FOLDER = "data: {use: image_folder, options: {path: images, resize: 8, augment: crop_flip}"


def test_accuracy_and_params(tmp_path):
    run_tiny(tmp_path, *LESS, "refine.trials=4", "objectives={accuracy: max, params: min}", "search.keep=4")
    trials = read_json(next((tmp_path / "study/artifacts").glob("refine-*")) / "trials.json")
    assert all(set(each["objectives"]) == {"accuracy", "params"} for each in trials)
    assert all(each["objectives"]["params"] == each["params"] for each in trials)
    losses = [(-each["objectives"]["accuracy"], each["objectives"]["params"]) for each in trials]
    winner = read_json(next((tmp_path / "study/artifacts").glob("refine-*")) / "artifact.json")["facts"]["ranked"][0]
    first = next(iter(fronts(losses)))
    assert winner["number"] in [trials[i]["number"] for i in first]
    assert losses[winner["number"]][0] == min(losses[i][0] for i in first)
    volumes = hypervolumes(
        [each if t["state"] == "complete" else None for each, t in zip(losses, trials, strict=True)], [()] * 4
    )
    assert [each["hypervolume"] for each in trials] == pytest.approx(volumes)
    assert volumes[-1] > 0
    page = (tmp_path / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert (
        "Share of the box of accuracy and parameters that the trials so far dominate, after each of 4 trials." in page
    )


def test_latency_is_measured_once_and_then_read(tmp_path):
    sets = (
        *LESS,
        "search.candidates=2",
        "objectives={accuracy: max, latency_ms: min}",
        "constraints.latency_ms=1000.0",
    )
    one = run_tiny(tmp_path / "one", *sets)
    two = run_tiny(tmp_path / "two", *sets)
    rows = [
        read_json(next((tmp_path / n / "study/artifacts").glob("refine-*")) / "trials.json") for n in ("one", "two")
    ]
    assert rows[0] == rows[1]
    assert all(row["latency_ms"] == row["objectives"]["latency_ms"] > 0 for row in rows[0])
    assert one["exports"] == two["exports"]


def test_latency_that_nothing_keeps(tmp_path):
    from kdsearch.errors import RefusedError

    with pytest.raises(RefusedError, match=r"none of \d+ exported .*\(best: latency_ms [\d.]+, limit 1e-06"):
        run_tiny(tmp_path, *LESS, "search.candidates=2", "constraints.latency_ms=0.000001")


def test_two_winners_and_the_controls_of_the_one_that_ships(tmp_path):
    sets = [each for each in LESS if "controls" not in each and "trials" not in each]
    result = run_tiny(tmp_path, *sets, "refine.trials=3", "distill.winners=2", "distill.controls=[baseline]", seed=1)
    facts = read_json(next((tmp_path / "study/artifacts").glob("distill-*")) / "artifact.json")["facts"]
    runs = facts["runs"]
    assert set(runs) == {"winner-0", "winner-1", "baseline"}
    assert facts["winner"] == max(("winner-0", "winner-1"), key=lambda name: runs[name]["score"])
    assert runs["baseline"]["request"]["specs"] == runs[facts["winner"]]["request"]["specs"]
    assert runs["baseline"]["request"]["values"] == runs[facts["winner"]]["request"]["values"]
    assert result["baseline"]["accuracy"] is not None


def test_augmented_images_run_and_go_on(tmp_path):
    from PIL import Image

    rng = torch.Generator().manual_seed(0)
    for label in ("a", "b", "c"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(40):
            image = torch.randint(0, 255, (8, 8, 3), generator=rng, dtype=torch.uint8)
            Image.fromarray(image.numpy()).save(tmp_path / "images" / label / f"{i}.png")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").symlink_to(tmp_path / "images")
    text = TEXT.replace("data: {use: digits, options: {resize: 8}, labeled: 0.2, train_samples: 240", FOLDER)
    assert text != TEXT
    sets = (*LESS, "distill.epochs=3")
    whole = run_tiny(tmp_path / "one", *sets, text=text)
    prepared = next((tmp_path / "one/study/artifacts").glob("prepare-*"))
    assert not list(prepared.glob("cache-*")), "augmented rows are not cached"
    for stage in ("refine", "distill"):
        host = watching(
            lambda event, stage=stage: signal.raise_signal(signal.SIGINT) if is_stage(event, stage) else None
        )
        with pytest.raises(InterruptedRun):
            run_tiny(tmp_path / "two", *sets, text=text, host=host)
    assert settled(run_tiny(tmp_path / "two", *sets, text=text)) == settled(whole)
    file = tmp_path / "two" / "study" / "export" / "tiny-fp32.onnx"
    file.unlink()
    commands.export(dir=tmp_path / "two" / "study", format="onnx-fp32", progress=False)
    assert file.exists(), "from the folder alone, the study's relative paths are found"


def test_surrogate_trains_the_best_score_first(tmp_path):
    """It knows what the search found out of each architecture."""
    run_tiny(
        tmp_path, *LESS, "search.proxy=auto", "search.keep=3", "refine.trials=4", "refine.generation=1",
        "refine.controller={use: surrogate, options: {first: 2}}",
    )  # fmt: skip
    artifacts = tmp_path / "study/artifacts"
    kept = read_json(next(artifacts.glob("search-*")) / "artifact.json")["facts"]["roles"]["student"]["kept"]
    trials = read_json(next(artifacts.glob("refine-*")) / "trials.json")
    assert trials[0]["architecture"] == max(kept, key=lambda each: each["score"])["key"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4


@pytest.mark.parametrize(("controller", "n"), [("surrogate", 12), ("random", 8)])
def test_a_controller_that_reads_scores_may_choose_all_that_were_scored(controller, n, tmp_path, monkeypatch):
    """By default; any other gets a short list of the best."""
    seen = []
    cls = Host.load().load_class("controller", controller)
    ask = cls.ask
    monkeypatch.setattr(cls, "ask", lambda self, space, dims, *rest: seen.append(dims) or ask(self, space, dims, *rest))
    sets = (
        *LESS,
        "search.candidates=12",
        "search.keep=null",
        f"refine.controller={{use: {controller}}}",
        "refine.trials=3",
    )
    run_tiny(tmp_path, *sets)
    asked = [dims[0].range for dims in seen if dims and dims[0].path == "student.architecture"]
    assert {len(each.choices) for each in asked} == {n}
    firsts = [facts[0] for facts in asked[0].facts]
    assert firsts == sorted(firsts, reverse=True)
    rows = [json.loads(line) for line in (tmp_path / "study" / "candidates.jsonl").read_text().splitlines()]
    best = sorted(rows, key=lambda row: -row["score"])[:8]
    assert {row["key"] for row in rows if row["kept"]} == {row["key"] for row in best}
    assert set(asked[0].choices) <= {row["key"] for row in rows}
    shown = evidence_of_last(tmp_path / "study")["candidates"]
    assert {row["key"] for row in shown if row["kept"]} == set(asked[0].choices), "as the page marks them"
    kept = read_json(next((tmp_path / "study/artifacts").glob("search-*")) / "artifact.json")["facts"]["roles"][
        "student"
    ]["kept"]
    assert going_on(kept) == "12 go on (the best 8 of them, where the controller looks at no scores)"
    assert going_on(kept[:3]) == "3 go on"
