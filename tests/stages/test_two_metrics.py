"""Several metrics as objectives: each epoch measures them, and trials, fronts and the pick go by all of them."""

from __future__ import annotations

import pytest
import torch

from kdsearch.host import Host
from kdsearch.report.frames import trial_rows
from kdsearch.store.files import read_json
from kdsearch.store.weights import load_into, read
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs.finished import evidence_of_last
from tests.stages.tiny import LESS, run_tiny

OBJECTIVES = "objectives={accuracy: max, nll: min, params: min}"
SHORT = ("refine.trials=4", "refine.epochs=3", "refine.stopper={use: halving}", "distill.epochs=4")
EVERY = "data.labeled=1.0"  # where labels are hidden students are judged by the teacher's
SETS = (*LESS, *SHORT, EVERY, OBJECTIVES, "distill.pick=min:nll")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder / "study", run_tiny(folder, *SETS)


def facts(folder, stage):
    (artifact,) = (folder / "artifacts").glob(f"{stage}-*")
    return artifact, read_json(artifact / "artifact.json")["facts"]


def test_a_trial_that_ends_has_every_objective(made):
    folder, _ = made
    artifact, refined = facts(folder, "refine")
    whole = [row for row in read_json(artifact / "trials.json") if row["state"] == "complete"]
    assert len(whole) == len(refined["ranked"]) > 1
    for row in whole:
        assert list(row["objectives"]) == ["accuracy", "nll", "params"]
        assert row["objectives"]["params"] == row["params"]
        assert row["hypervolume"] is not None
    assert len({row["objectives"]["nll"] for row in whole}) == len(whole)


def test_what_a_trial_had_at_a_rung_is_known_of_every_objective_in_the_studys_order(made):
    folder, _ = made
    artifact, _ = facts(folder, "refine")
    stopped = [row for row in read_json(artifact / "trials.json") if row["state"] == "pruned"]
    assert stopped, "else this study shows nothing"
    evidence = evidence_of_last(folder)
    assert evidence["objectives"] == [["accuracy", "max"], ["nll", "min"], ["params", "min"]]
    shown = {row["number"]: row for row in trial_rows(evidence)}
    for row in stopped:
        losses = row["curve"][-1][1]
        assert 0 <= -losses["accuracy"] <= 1 < losses["nll"] < losses["params"] == row["params"]
        reached = {"accuracy": -losses["accuracy"], "nll": losses["nll"], "params": row["params"]}
        assert {name: shown[row["number"]][name] for name in reached} == reached


def test_the_pick_is_the_least_of_the_second_metric(made):
    folder, _ = made
    artifact, _ = facts(folder, "refine")
    whole = [row for row in read_json(artifact / "trials.json") if row["state"] == "complete"]
    _, distilled = facts(folder, "distill")
    assert distilled["trial"] == min(whole, key=lambda row: row["objectives"]["nll"])["number"]


def test_what_an_epoch_says_is_what_the_weights_give(made):
    """Of the winner, by hand: cross entropy and share of right answers on validation."""
    folder, result = made
    artifact, distilled = facts(folder, "distill")
    run = distilled["runs"]["winner-0"]
    host = Host.load()
    materials = open_materials(load_study(folder / "study.yaml", host, base=folder), host)
    (spec,) = run["request"]["specs"].values()
    model = materials.build_student("student", spec, 0)
    weights = read(artifact / "winner-0" / "final.safetensors")
    load_into(model.module, {name.removeprefix("student/"): each for name, each in weights.items()}, artifact)
    split = materials.data.split("val")
    batch = split.load(range(len(split.ids)))
    with torch.no_grad():
        logits = model.module.eval()(batch["image"])
    last = run["history"][-1]
    assert last["score"] == pytest.approx(float((logits.argmax(1) == batch["label"]).double().mean()), abs=1e-6)
    wanted = float(torch.nn.functional.cross_entropy(logits, batch["label"]))
    assert last["beside"] == {"nll": pytest.approx(wanted, rel=1e-4)}
    assert result["metrics"]["nll"] > 0
