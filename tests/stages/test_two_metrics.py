"""Several metrics as objectives: each epoch measures them, and trials, fronts and the pick go by all of them."""

from __future__ import annotations

import pytest
import torch

from kdsearch.errors import UserError
from kdsearch.hooks import hookimpl
from kdsearch.host import Host
from kdsearch.kinds import Metric, NoOptions
from kdsearch.report.frames import trial_rows
from kdsearch.store.files import read_json
from kdsearch.store.weights import load_into, read
from kdsearch.study import load_study
from kdsearch.training.keys import capabilities
from kdsearch.training.materials import open_materials
from kdsearch.verbs.finished import evidence_of_last
from tests.stages.tiny import LESS, run_tiny, write_study

OBJECTIVES = "objectives={accuracy: max, nll: min, params: min}"
SHORT = ("refine.trials=6", "refine.epochs=3", "refine.stopper={use: halving}", "distill.epochs=4")
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


class Twin(Metric[NoOptions]):
    """Has the name of the installed nll, and is better where it is more."""

    def measure(self, predict, data, split, services):
        return {"nll": 1.0, "n": 1.0}


class Twins:
    @hookimpl
    def kdsearch_register(self, register):
        register.metric("nll", "tests.stages.test_two_metrics:Twin")


@pytest.mark.parametrize(
    ("sets", "direction"),
    [
        (["objectives={accuracy: max, 'twins:metric:nll': max}"], "max"),
        (["objectives={accuracy: max, 'kdsearch:metric:nll': min}"], "min"),
        (["objectives={accuracy: max, nll: min}"], "min"),
        (["objectives={nll: max}", "metrics=['twins:metric:nll']"], "max"),
        (["objectives={'live:metric:nll': max}", "metrics=['twins:metric:nll']"], "max"),
    ],
)
def test_a_metric_that_a_package_shares_with_kdsearch_is_written_in_full(sets, direction, tmp_path):
    host = Host.load(extra=[("twins", Twins())])
    materials = open_materials(
        load_study(write_study(tmp_path), host, sets=[*sets, "distill.pick=" + direction + ":nll"]), host
    )
    assert materials.objectives["nll"] == direction
    assert (type(materials.metrics["nll"]).__name__ == "Twin") == (direction == "max")
    (what,) = [each for name, each in capabilities(materials, ["objectives"]).items() if name.endswith(":nll")]
    assert what.startswith("live 0" if direction == "max" else "kdsearch ")


@pytest.mark.parametrize(
    ("sets", "path", "says"),
    [
        (["objectives={'twins:metric:nll': min}"], "twins:metric:nll", "got 'min'.*Expected 'max'"),
        (["objectives={'twins:metric:no': min}"], "twins:metric:no", "unknown metric"),
        (["objectives={'twins:metric:accuracy': max}"], "twins:metric:accuracy", "'accuracy' is not in 'twins'"),
        (
            ["objectives={'twins:metric:nll': max, 'kdsearch:metric:nll': min}"],
            "kdsearch:metric:nll",
            "'nll' is there twice: objectives.twins:metric:nll names it too",
        ),
        (
            ["objectives={'twins:metric:nll': max}", "metrics=['kdsearch:metric:nll']"],
            "twins:metric:nll",
            r"'nll' is there twice: metrics\[0\] names it too",
        ),
    ],
)
def test_a_full_name_that_is_none_has_its_place(sets, path, says, tmp_path):
    host = Host.load(extra=[("twins", Twins())])
    with pytest.raises(UserError, match=says) as caught:
        load_study(write_study(tmp_path), host, sets=sets)
    assert caught.value.path == f"objectives.{path}"
