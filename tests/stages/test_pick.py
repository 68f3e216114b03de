"""`distill.pick` in a study: what wins is what the trials' figures say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import kdsearch
from kdsearch.cli import main
from kdsearch.search.pick import ordered, parsed
from kdsearch.stages.choice import Ranked
from kdsearch.stages.finalists import order_of
from kdsearch.store.artifacts import about_of
from kdsearch.store.folder import last_run
from kdsearch.training.request import Outcome
from tests.stages.tiny import events, made, run_tiny

SHORT = (
    "distill.controls=[]",
    "distill.compare=null",
    "compress.quantize=[]",
    "export.formats=[onnx-fp32]",
    "export.max_drop={}",
)


def test_the_trial_that_is_picked_is_distilled(finished, copied):
    rows = [
        each
        for each in kdsearch.Result.open(finished.folder / "study").evidence["trials"]
        if each["state"] == "complete"
    ]
    figures = [{**row["objectives"], "params": row["params"]} for row in rows]
    text = f"max:params,accuracy>={min(each['accuracy'] for each in figures)}"
    wanted = rows[ordered(parsed(text), figures, {"accuracy": "max"}, "accuracy")[0]]
    before = len(events(copied))
    run_tiny(copied, *SHORT, "compress.prune=null", f"distill.pick='{text}'")
    key = last_run(copied / "study")["distill"]["key"]
    facts = about_of(copied / "study" / "artifacts" / f"distill-{key}", "distill")["facts"]
    assert facts["runs"][facts["winner"]]["request"]["values"] == wanted["values"]
    assert made(copied, before)[0] == "distill"


@pytest.mark.parametrize(
    ("pick", "code", "message"),
    [
        (
            "min:param",
            2,
            "--pick min:param: distill.pick: no trial has a 'param'; did you mean 'params'? Expected accuracy, macs or params",
        ),
        ("knee,latency_ms<1", 2, "distill.pick: no trial has a 'latency_ms'. Expected accuracy, macs or params. It is"),
        ("best,accuracy>90", 2, "distill.pick: got 'accuracy>90'. It is a share of 0 to 1: write 0.9, or with a %."),
        ("best,accuracy>1", 3, "trials has accuracy>1; accuracy reaches 0."),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(pick, code, message, copied, capsys):
    before = sorted((copied / "study" / "artifacts").iterdir())
    assert main(["run", str(copied / "tiny.yaml"), "--dir", str(copied / "study"), "--pick", pick]) == code
    assert message in capsys.readouterr().err
    assert sorted((copied / "study" / "artifacts").iterdir()) == before


@pytest.mark.parametrize(
    ("pick", "scores", "expected"),
    [
        ("best", (0.7, 0.8, 0.8), "bca"),  # by validation, the first one of equals
        ("min:params", (0.7, 0.8, 0.8), "cba"),
        ("min:params,accuracy>=0.75", (0.7, 0.8, 0.6), "bca"),
        ("min:params,accuracy>=0.95", (0.7, 0.8, 0.6), "cba"),  # none meets it any more
        ("best", (0.7, None, 0.9), "ca"),
    ],
)
def test_of_several_winners_the_last_word_is_their_own_validation(pick, scores, expected):
    metric = SimpleNamespace(direction="max")
    study = SimpleNamespace(config=SimpleNamespace(distill=SimpleNamespace(pick=pick)))
    materials = SimpleNamespace(
        study=study, objective="accuracy", objectives={"params": "min", "accuracy": "max"}, metrics={"accuracy": metric}
    )
    sizes = zip("abc", (30.0, 20.0, 10.0), strict=True)
    ranked = {name: Ranked({}, {"params": params, "accuracy": 0.1}) for name, params in sizes}
    outcomes = {
        name: "failed" if score is None else Outcome([], True, score, 1.0)
        for name, score in zip("abc", scores, strict=True)
    }
    assert "".join(order_of(materials, ranked, outcomes)) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.88, 0.895), "ab"),  # over .6 to .9 and 10 to 100 the sums are .07 + .11 and .02 + .56
        ((0.72, 0.895), "ba"),  # .6 + .11 and .02 + .56
        ((0.65, 0.9), "ba"),  # behind a trial of better accuracy and fewer params
    ],
)
def test_the_knee_of_several_winners_is_that_of_the_trials_front(scores, expected):
    """Of the two alone one has the best accuracy and the other the fewest params: both sums are 1, and accuracy would decide."""
    study = SimpleNamespace(config=SimpleNamespace(distill=SimpleNamespace(pick="knee")))
    metrics = {"accuracy": SimpleNamespace(direction="max")}
    objectives = {"accuracy": "max", "params": "min"}
    materials = SimpleNamespace(study=study, objective="accuracy", objectives=objectives, metrics=metrics)
    ranked = {name: Ranked({}, {"params": params, "accuracy": 0.1}) for name, params in (("a", 20.0), ("b", 60.0))}
    outcomes = {name: Outcome([], True, score, 1.0) for name, score in zip("ab", scores, strict=True)}
    others = [Ranked({}, {"accuracy": a, "params": p}) for a, p in ((0.9, 100.0), (0.6, 10.0), (0.7, 14.0))]
    assert "".join(order_of(materials, ranked, outcomes, others)) == expected
