"""Networks that begin at full length: which they are, which of them goes on, and that it is the training that it would be alone."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdsearch.errors import InterruptedRun, TrialError
from kdsearch.host import Host
from kdsearch.stages import distill, notes
from kdsearch.stages.choice import Choice, Ranked, chosen
from kdsearch.stages.finalists import at_rung, finalists
from kdsearch.stages.winners import failed_in, through
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.study.summary import RUNG, budget, final_epochs, trainings
from kdsearch.training.request import Outcome, Request
from kdsearch.training.tools import Progress
from tests.stages.tiny import LESS, run_tiny, run_up_to, write_study

NAMES = "winner-0", "winner-1", "winner-2"


def trial(number: int, network: str, family: str = "") -> Ranked:
    about = {"number": number, "specs": {"student": network}, "values": {}, "family": family}
    return Ranked(about, {"params": 1.0})


@pytest.mark.parametrize(
    ("winners", "most", "expected"),
    [
        (1, 1, [7]),
        (1, 2, [7, 5]),
        (1, 3, [7, 5, 2]),
        (1, 4, [7, 5, 2, 6]),
        (1, 9, [7, 5, 2, 6, 4, 3]),
        (2, 1, [7, 6]),
        (2, 3, [7, 6, 5]),
    ],
)
def test_they_are_the_winners_and_the_best_trials_of_other_networks(winners, most, expected):
    ranked = [trial(7, "a"), trial(6, "a"), trial(5, "b"), trial(4, "a"), trial(3, "b"), trial(2, "c")]
    assert [each.trial["number"] for each in finalists(Choice(ranked), winners, most)] == expected


@pytest.mark.parametrize(
    ("near", "expected"), [([7, 6], [7, 6]), ([7], [7]), ([7, 4, 3], [7, 3, 4]), (None, [7, 5, 2])]
)
def test_what_is_far_behind_the_best_one_does_not_begin(near, expected):
    ranked = [trial(7, "a"), trial(6, "a"), trial(5, "b"), trial(4, "a"), trial(3, "b"), trial(2, "c")]
    assert [each.trial["number"] for each in finalists(Choice(ranked, near=near), 1, 3)] == expected


@pytest.mark.parametrize(
    ("near", "winners", "most", "expected"),
    [
        ([7], 1, 1, [7]),
        ([7], 1, 2, [7, 0]),
        ([7], 1, 3, [7, 0, 2]),
        ([7], 1, 4, [7, 0, 2]),
        ([7, 6], 1, 2, [7, 6]),
        ([7, 6], 1, 3, [7, 6, 0]),
        ([7], 2, 3, [7, 3, 0]),
        ([7], 4, 6, [7, 3, 6, 0, 2]),
    ],
)
def test_where_too_few_are_near_the_starts_begin(near, winners, most, expected):
    """Trial 2 though a rung stopped it."""
    ranked = [trial(7, "a"), trial(3, "b"), trial(6, "a"), trial(0, "c")]
    found = finalists(Choice(ranked, near=near, starts=[ranked[-1], trial(2, "a")]), winners, most)
    assert [each.trial["number"] for each in found] == expected


@pytest.mark.parametrize(
    ("winners", "most", "expected"),
    [
        (1, 1, [7]),
        (1, 2, [7, 4]),
        (1, 3, [7, 4, 1]),
        (1, 4, [7, 4, 1, 5]),
        (1, 9, [7, 4, 1, 5, 3, 6]),
        (2, 3, [7, 6, 4]),
    ],
)
def test_other_families_come_before_other_networks_though_a_rung_stopped_them(winners, most, expected):
    ranked = [
        trial(7, "a", "gru"),
        trial(6, "a", "gru"),
        trial(5, "b", "gru"),
        trial(4, "c", "conv"),
        trial(3, "d", "conv"),
    ]
    stopped = [trial(2, "e", "conv"), trial(1, "f", "lstm"), trial(0, "g", "lstm")]
    found = finalists(Choice(ranked, stopped=stopped), winners, most)
    assert [each.trial["number"] for each in found] == expected


@pytest.mark.parametrize(
    ("families", "expected"), [("aaa", [10, 11, 12]), ("aba", [11, 12, 10]), ("abb", [11, 12, 10])]
)
def test_at_the_rung_another_family_that_is_better_goes_on(families, expected, tmp_path):
    """Within the error: of one family the trials' order decides, across families validation."""
    rung = Rung(tmp_path, 0.8, 0.9, 0.85, error=0.15)
    rung.ranked = {
        name: trial(10 + i, name, family) for i, (name, family) in enumerate(zip(NAMES, families, strict=True))
    }
    assert [row["trial"] for row in rung.rows()] == expected


class Rung:
    """`at_rung` of three finalists, with what their trainings come to."""

    def __init__(
        self, folder: Path, *came: float | str | None, direction: str = "max", pick: str = "best", error: float = 0.0
    ) -> None:
        distill = SimpleNamespace(pick=pick, winners=1)
        metric = SimpleNamespace(direction=direction)
        self.materials: Any = SimpleNamespace(
            study=SimpleNamespace(config=SimpleNamespace(distill=distill)),
            objective="score",
            objectives={"score": direction},
            metrics={"score": metric},
        )
        self.folder, self.came, self.asked, self.error = folder, came, list[str](), error
        self.late: list[Ranked] = []
        self.ranked = {name: trial(10 + i, name) for i, name in enumerate(NAMES)}
        self.begun = {name: Request(name, "recipe", {}, {}, 30) for name in NAMES}
        self.said: list[str] = []
        self.bar = Progress(shown=False)
        self.bar.say = self.said.append  # type: ignore[method-assign]

    def trained(self, requests: Any) -> dict[str, Outcome | str]:
        self.asked += requests
        assert {each.until for each in requests.values()} <= {RUNG}
        return {
            name: each if isinstance(each, str) else Outcome([{"epoch": 10}], False, each, 1 / 3)
            for name, each in zip(requests, self.came, strict=True)
        }

    def rows(self) -> list[dict[str, Any]]:
        self.bar.begin("distill", 5)
        tools: Any = SimpleNamespace(progress=self.bar)
        known = self.materials, self.begun, self.ranked, self.trained
        return at_rung(*known, lambda _: self.error, tools, self.folder, self.late)


@pytest.mark.parametrize(
    ("came", "direction", "pick", "expected"),
    [
        ((0.2, 0.9, 0.5), "max", "best", [11, 12, 10]),
        ((0.2, 0.9, 0.5), "min", "best", [10, 12, 11]),
        ((0.5, 0.5, 0.5), "max", "best", [10, 11, 12]),
        ((0.2, "it broke", 0.5), "max", "best", [12, 10]),
        ((None, None, None), "max", "best", [10, 11, 12]),
        ((None, 0.1, None), "max", "best", [11, 10, 12]),
        ((0.2, 0.9, 0.5), "max", "best,score<0.6", [12, 10, 11]),
        ((0.2, 0.9, 0.5), "max", "min:score", [10, 12, 11]),
    ],
)
def test_the_best_on_validation_comes_first(came, direction, pick, expected, tmp_path):
    assert [row["trial"] for row in Rung(tmp_path, *came, direction=direction, pick=pick).rows()] == expected


@pytest.mark.parametrize(
    ("came", "error", "pick", "expected", "level"),
    [
        ((0.7, 0.9, 0.8), 0.1, "best", [11, 12, 10], [11, 12]),
        ((0.8, 0.9, 0.7), 0.1, "best", [10, 11, 12], [10, 11]),
        ((0.7, 0.9, 0.8), 0.05, "best", [11, 12, 10], []),
        ((0.8, "it broke", 0.9), 0.2, "best", [10, 12], [10, 12]),
        ((None, 0.9, 0.8), 0.2, "best", [11, 12, 10], [11, 12]),
        ((None, None, None), 0.2, "best", [10, 11, 12], []),
        ((0.4, 0.9, 0.8), 0.6, "best,score>=0.5", [11, 12, 10], [11, 12]),
    ],
)
def test_what_validation_cannot_tell_apart_keeps_the_order_of_trials(came, error, pick, expected, level, tmp_path):
    rows = Rung(tmp_path, *came, pick=pick, error=error + 1e-9).rows()
    assert [row["trial"] for row in rows] == expected
    assert [row["trial"] for row in rows if row["level"]] == level


@pytest.mark.parametrize(
    ("came", "expected", "level"),
    [
        ((0.80, 0.70, 0.81), [12, 10, 11], []),
        ((0.80, 0.81, 0.82), [12, 11, 10], []),
        ((0.80, 0.70, 0.80), [10, 12, 11], []),
        ((0.80, 0.85, 0.83), [10, 11, 12], [10, 11]),
        ((0.60, 0.85, 0.83), [11, 12, 10], []),
        ((0.80, "it broke", 0.79), [10, 12], []),
        (("it broke", "that, too", 0.79), [12], []),
    ],
)
def test_who_was_far_behind_goes_on_where_it_is_ahead_at_all(came, expected, level, tmp_path):
    rung = Rung(tmp_path, *came, error=0.1)
    rung.late = [rung.ranked["winner-2"]]
    rows = rung.rows()
    assert [row["trial"] for row in rows] == expected
    assert [row["trial"] for row in rows if row["level"]] == level


@pytest.mark.parametrize(
    ("came", "expected"),
    [((0.80, 0.82, 0.81), [11, 12, 10]), ((0.80, 0.81, 0.82), [12, 11, 10]), ((0.83, 0.82, 0.82), [10, 11, 12])],
)
def test_of_several_that_were_far_behind_the_best_goes_on(came, expected, tmp_path):
    rung = Rung(tmp_path, *came, error=0.1)
    rung.late = [rung.ranked["winner-1"], rung.ranked["winner-2"]]
    rows = rung.rows()
    assert [row["trial"] for row in rows] == expected
    assert not any(row["level"] for row in rows)


@pytest.mark.parametrize(
    ("curves", "scores"),
    [
        (((0.1, 0.8, 0.8, 0.1), (0.1, 0.7, 0.7, 0.75), (0.1, 0.2, 0.2, 0.9)), [0.45, 0.725, 0.55]),
        (((0.9, 0.9, 0.5, 0.5, 0.5), (0.1, 0.1, 0.6, 0.4, 0.8), (None, 0.3, None, 0.2)), [0.5, 0.6, 0.2]),
    ],
)
def test_the_median_of_the_last_half_of_their_epochs_counts(curves, scores, tmp_path):
    """Not one epoch at a high learning rate, and not how fast they began; of an odd number the middle one counts, too."""
    rung = Rung(tmp_path, *(curve[-1] for curve in curves))
    ended = {
        name: Outcome([{"epoch": i, "score": score} for i, score in enumerate(curve)], False, curve[-1], 1 / 3)
        for name, curve in zip(NAMES, curves, strict=True)
    }
    rung.trained = lambda requests: ended  # type: ignore[method-assign]
    rows = {row["trial"]: row["score"] for row in rung.rows()}
    assert [rows[10], rows[11], rows[12]] == pytest.approx(scores)


@pytest.mark.parametrize(
    ("apart", "sign", "error", "expected", "level"),
    [
        (0.06, -1, 0.0, [11, 10, 12], []),
        (0.15, -1, 0.0, [10, 11, 12], [10, 11]),
        (0.06, -1, 0.095, [10, 11, 12], [10, 11]),
        (0.15, 1, 0.095, [11, 10, 12], []),
    ],
)
def test_how_far_epochs_are_apart_counts_as_error(apart, sign, error, expected, level, tmp_path):
    """Medians .8 and .9. By hand: where one goes up by a and the other down, the difference errs by 1.2533 sqrt(2 / 3) a, which is
    .061 (a = .06) or .153, and .113 where validation alone makes .095; where both go up it errs by no more.
    """
    ends = [0.9 + step for step in (-apart, 0, 0, apart)]
    around = ([0.8 + sign * step for step in (-apart, 0, 0, apart)], ends, [0.3, 0.3, 0.3, 0.3])
    rung = Rung(tmp_path, 0.0, 0.0, 0.0, error=error)
    ended = {
        name: Outcome([{"epoch": i, "score": s} for i, s in enumerate([0.1, 0.2, 0.3, 0.4, *last])], False, 0.5, RUNG)
        for name, last in zip(NAMES, around, strict=True)
    }
    rung.trained = lambda requests: ended  # type: ignore[method-assign]
    rows = rung.rows()
    assert [row["trial"] for row in rows] == expected
    assert [row["trial"] for row in rows if row["level"]] == level


def test_what_they_came_to_is_kept(tmp_path):
    """A run that is killed later does not ask those for a third of their epochs that have gone on."""
    rung = Rung(tmp_path, 0.2, 0.9, 0.5)
    first = rung.rows()
    assert rung.asked == list(NAMES)
    assert rung.rows() == first
    assert rung.asked == list(NAMES), "not asked again"
    assert rung.bar.done == pytest.approx(3 - (1 - RUNG)), "all but what is left of the one that goes on"
    about = {"name": "winner-1", "trial": 11, "score": 0.9, "level": False, "epochs": 10, "history": [{"epoch": 10}]}
    assert first[0] == about


def test_those_that_fail_are_said_and_not_asked_again(tmp_path):
    rung = Rung(tmp_path, "it broke", "that, too", "and that")
    assert rung.rows() == []
    assert [each["trial"] for each in failed_in(tmp_path)] == [10, 11, 12]
    assert rung.said == [
        "distill: trial 10 failed at full length (it broke)",
        "distill: trial 11 failed at full length (that, too)",
        "distill: trial 12 failed at full length (and that)",
    ]
    rung.came = ()
    assert rung.rows() == []
    assert (rung.asked, len(rung.said)) == (list(NAMES), 3)


SETS = (
    *LESS,
    "search.proxy=nwot",
    "refine.trials=4",
    "refine.epochs=1",
    "search.candidates=12",
    "search.keep=12",
    "distill.epochs=3",
)


def facts_of(folder: Path, stage: str = "distill") -> dict[str, Any]:
    key = read_json(folder / "study" / "last.json")[stage]["key"]
    found: dict[str, Any] = read_json(folder / "study" / "artifacts" / f"{stage}-{key}" / "artifact.json")["facts"]
    return found


@pytest.fixture(scope="module")
def alone_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    result = run_tiny(folder, *SETS, "distill.finalists=1")
    assert not [note for note in result["notes"] if note.startswith("Finalists ")]
    return folder


@pytest.fixture
def after(alone_in: Path, tmp_path: Path) -> Path:
    """Where it was distilled alone: the teacher, the search and, unless they are changed, the trials are there."""
    return Path(shutil.copytree(alone_in, tmp_path / "after"))


def test_the_one_that_goes_on_is_trained_as_if_it_were_alone(alone_in, after):
    alone = facts_of(alone_in)
    result = run_tiny(after, *SETS)
    facts = facts_of(after)
    first, *others = facts["rung"]
    assert alone["rung"] == []
    assert len(others) == 2
    other = others[0]
    assert first["score"] >= other["score"] >= others[1]["score"]
    assert {each["epochs"] for each in facts["rung"]} == {1}
    assert list(facts["runs"]) == [facts["winner"]] == [first["name"]]
    assert facts["trial"] == first["trial"] != other["trial"]
    run = facts["runs"][first["name"]]
    assert run["history"][:1] == first["history"]
    assert [row["epoch"] for row in run["history"]] == [1, 2, 3]
    by_name = {each["name"]: each for each in facts["rung"]}
    assert by_name["winner-0"]["trial"] == alone["trial"]
    assert by_name["winner-0"]["history"] == alone["runs"]["winner-0"]["history"][:1]
    if first["name"] == "winner-0":
        assert run["history"] == alone["runs"]["winner-0"]["history"]
    (note,) = [note for note in result["notes"] if note.startswith("Finalists ")]
    assert f"after 1 of 3 epochs: trial {first['trial']} {100 * first['score']:.1f} %, trial {other['trial']} " in note
    page = (after / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert f"finalist (trial {other['trial']})" in page


@pytest.mark.parametrize(
    "sets",
    [
        ("objectives={accuracy: max, params: min}", "distill.pick=knee"),
        ("distill.epochs=1",),
        ("distill.pick=max:params",),
        ("objectives={params: min}",),
    ],
    ids=["a compromise", "one epoch", "a pick that is no quality", "an objective that is none"],
)
def test_what_validation_does_not_decide_has_no_finalists(sets, after):
    run_up_to(after, "distill", *SETS, *sets)
    assert facts_of(after)["rung"] == []


def test_of_two_objectives_there_are_finalists_of_the_first(after):
    run_up_to(after, "distill", *SETS, "objectives={accuracy: max, params: min}")
    facts = facts_of(after)
    first, *others = facts["rung"]
    assert len(others) == 2
    assert first["score"] >= max(each["score"] for each in others)
    assert facts["trial"] == first["trial"]


def test_a_start_that_was_far_behind_is_judged_by_validation_alone(after, monkeypatch):
    """Though validation could not tell the two apart."""

    def far_apart(*args: Any) -> Choice:
        choice = chosen(*args)
        best, *_, last = choice.ranked
        return replace(choice, near=[best.trial["number"]], stopped=[], starts=[last])

    monkeypatch.setattr(distill, "chosen", far_apart)
    monkeypatch.setattr(distill, "standard_error", lambda *_: 1.0)
    run_up_to(after, "distill", *SETS)
    first, other = facts_of(after)["rung"]  # no third one is near
    assert {first["name"], other["name"]} == {"winner-0", "winner-1"}
    assert first["score"] >= other["score"]
    assert not first["level"]
    assert not other["level"]


def test_their_epochs_count(after):
    """For the control that has as many, and for what a study says it would do."""
    sets = (*SETS, "distill.epochs=4", "distill.controls=[no_search]")
    run_up_to(after, "distill", *sets)
    facts = facts_of(after)
    assert facts["runs"]["no_search"]["request"]["epochs"] == 4 * 1 + 4 + 2 * 1
    study = load_study(write_study(after), Host.load(), sets=sets)
    assert budget(study) == 4 * 1 + 4 + 2 * 1
    told = {each["what"]: (each["count"], each["epochs"]) for each in trainings(study)}
    assert told == {"trials": (4, 1), "finalists": (2, 1), "winners": (1, 4), "no_search": (1, 10)}
    for changed in (
        ("distill.finalists=1",),
        ("distill.winners=3",),
        ("distill.pick=knee",),
        ("distill.pick=knee", "objectives={}"),
        ("distill.pick=min:params",),
        ("objectives={params: min}",),
    ):
        study = load_study(write_study(after), Host.load(), sets=(*sets, *changed))
        assert "finalists" not in {each["what"] for each in trainings(study)}


@pytest.mark.parametrize(
    ("sets", "spent", "others", "expected"),
    [
        ((), 16, 2, 30),  # of 8 trials of 2 epochs, two finalists' 8 each and a winner's 30
        ((), 13, 2, 32),  # 32 and 8 of each finalist
        ((), 10, 2, 34),
        ((), 13, 0, 45),  # half as many again
        ((), 16, 0, 45),
        ((), 8, 0, 45),
        ((), 4, 2, 38),  # 38 and 10 of each finalist, and not 58 / 1.5
        ((), 0, 2, 40),
        (("distill.leftover=false",), 8, 0, 30),  # as by default
        (("distill.epochs=1",), 8, 0, 1),
        (("distill.winners=2",), 12, 1, 32),
        (("distill.winners=3",), 12, 0, 31),  # there are no other finalists
        (("distill.finalists=4",), 16, 3, 30),
        (("distill.finalists=4",), 16, 0, 45),
        (("distill.finalists=1", "refine.trials=20"), 30, 0, 40),
    ],
)
def test_what_trials_leave_of_the_budget_goes_to_the_winners(sets, spent, others, expected, tmp_path):
    sets = ("distill.leftover=true", "refine.trials=8", "refine.epochs=2", "distill.epochs=30", *sets)
    study = load_study(write_study(tmp_path), Host.load(), sets=sets)
    winners = study.config.distill.winners
    epochs = final_epochs(study, study.config.refine.trials, spent, winners, others)
    assert epochs == expected
    assert expected == study.config.distill.epochs or spent + winners * epochs + others * math.ceil(
        epochs * RUNG
    ) <= budget(study)


@pytest.mark.parametrize(
    ("trials", "spent", "others", "expected"), [(1, 2, 0, 30), (2, 4, 1, 30), (2, 3, 1, 31), (2, 2, 1, 32)]
)
def test_trials_that_there_are_not_leave_nothing(trials, spent, others, expected, tmp_path):
    """One network with one recipe is one trial, whatever `refine.trials` says."""
    sets = ("distill.leftover=true", "refine.trials=8", "refine.epochs=2", "distill.epochs=30")
    study = load_study(write_study(tmp_path), Host.load(), sets=sets)
    assert final_epochs(study, trials, spent, 1, others) == expected


def test_trials_that_were_stopped_lengthen_all_trainings_at_full_length(tmp_path):
    """6 trials of 2 epochs, two of them stopped after one, leave 12 of 22 to two finalists and the winner: 2, 2 and 8."""
    stopped = ("refine.trials=6", "refine.epochs=2", "refine.stopper={use: halving}", "distill.epochs=6")
    sets = (*SETS, "search.proxy=params", *stopped)
    result = run_tiny(tmp_path, *sets, "distill.leftover=true", "distill.controls=[baseline, no_search]")
    facts = facts_of(tmp_path)
    assert [row["epochs"] for row in facts["rung"]] == [3, 3]
    assert {name: len(run["history"]) for name, run in facts["runs"].items()} == {
        facts["winner"]: 7,
        "baseline": 7,
        "no_search": 10 + 7 + 3,
    }
    assert "The student trained for 7 epochs: 6, and 1 that the trials left." in result["notes"]
    run_up_to(tmp_path, "distill", *sets)
    assert [facts_of(tmp_path)["epochs"], facts_of(tmp_path)["leftover"]] == [6, 0]


@pytest.mark.parametrize("finalists", [1, 2])
def test_where_the_winner_fails_the_next_one_takes_its_place(finalists, after, monkeypatch):
    """With the controls of its own, whenever the run was stopped; where that fails too, the study ends, and may be tried anew."""
    from kdsearch.training.train import train_shared

    asked, bad, stop = list[str](), set[str](), [False]

    def failing(materials, request, *arguments, **named):
        asked.append(request.name)
        if request.name.startswith("winner") and request.until == 1.0:
            if not bad or "all" in bad:
                bad.add(request.name)
            if request.name in bad:
                raise ValueError("no such student")
        if request.name == "baseline" and asked[-2] not in bad and stop[0]:
            stop[0] = False
            raise InterruptedRun("stopped")
        return train_shared(materials, request, *arguments, **named)

    monkeypatch.setattr("kdsearch.training.train.train_shared", failing)
    own = "refine.weightings=false"  # a key that others do not have, so that it is distilled anew
    sets = (*SETS, own, f"distill.finalists={finalists}", "distill.controls=[baseline]", "distill.pick=max:accuracy")
    bad.add("all")
    with pytest.raises(TrialError, match="distilling the winner failed: ValueError: no such student"):
        run_tiny(after, *sets)
    bad.clear()
    stop[0] = True
    with pytest.raises(InterruptedRun):
        run_tiny(after, *sets)
    asked.clear()
    result = run_tiny(after, *sets)
    assert not bad & set(asked), "it is known to fail"
    facts = facts_of(after)
    (winner,) = facts["runs"].keys() - {"baseline"}
    assert facts["winner"] == winner
    assert winner not in bad
    assert facts["runs"]["baseline"]["request"]["specs"] == facts["runs"][winner]["request"]["specs"]
    (lost,) = facts["failed"]
    assert lost["trial"] != facts["trial"]
    note = f"Trial {lost['trial']} began at full length, and failed: ValueError: no such student"
    assert any(each.startswith(note) for each in result["notes"])
    if finalists > 1:
        (note,) = (each for each in result["notes"] if each.startswith("Finalists "))
        assert note.endswith(f". Trial {facts['trial']} came through.")


def test_all_finalists_that_fail_after_the_rung_are_told(after, monkeypatch):
    from kdsearch.training.train import train_shared

    def failing(materials, request, *arguments, **named):
        if request.name in NAMES[:2] and request.until == 1.0:
            raise ValueError("no such student")
        return train_shared(materials, request, *arguments, **named)

    monkeypatch.setattr("kdsearch.training.train.train_shared", failing)
    sets = (*SETS, "distill.finalists=2", "distill.controls=[]", "distill.pick=max:accuracy")
    result = run_tiny(after, *sets)
    (note,) = (each for each in result["notes"] if each.startswith("Finalists "))
    assert note.endswith(f". None came through, and trial {facts_of(after)['trial']} took their place.")


@pytest.mark.parametrize("others", [0, 1])
def test_trainings_that_take_anothers_place_are_work_to_come(others, tmp_path):
    """One whose progress is above its total has no time left, which `status` could not read."""
    bar, shown = Progress(False), []
    bar.begin("distill", 1 + others)
    requests = {name: Request(name, "recipe", {}, {}, 3) for name in (*NAMES, "baseline")}
    ranked = {name: trial(i, name) for i, name in enumerate(NAMES)}

    def trained(asked):
        bar.at(bar.done + len(asked))
        shown.append((bar.done, bar.total))
        came = Outcome([], True, 0.5, 1.0)
        return {name: "it broke" if name in NAMES[:2] else came for name in asked}

    beside = {"baseline": requests["baseline"]} if others else {}
    spare = {name: requests[name] for name in NAMES[1:]}
    winners, _, failed = through(
        {NAMES[0]: requests[NAMES[0]]}, spare, beside, ranked, trained, SimpleNamespace(progress=bar), tmp_path
    )
    assert winners.keys() == {NAMES[2]}
    assert [each["name"] for each in failed] == list(NAMES[:2])
    assert shown == [(1 + others, 1 + others), (2 + others, 2 + 2 * others), (3 + others, 3 + 2 * others)]


@pytest.mark.parametrize("bad", [("winner-0",), ("winner-0", "winner-1")], ids=["one", "both"])
def test_of_finalists_that_fail_before_the_rung_a_note_says_so_and_the_next_one_takes_their_place(
    bad, after, monkeypatch
):
    from kdsearch.training.train import train_shared

    def failing(materials, request, *arguments, **named):
        if request.name in bad:
            raise ValueError("no such student")
        return train_shared(materials, request, *arguments, **named)

    monkeypatch.setattr("kdsearch.training.train.train_shared", failing)
    result = run_tiny(after, *SETS, "distill.controls=[baseline]", "distill.pick=max:accuracy")
    facts = facts_of(after)
    assert facts["winner"] == f"winner-{len(bad)}"
    assert facts["runs"].keys() == {facts["winner"], "baseline"}
    assert [each["name"] for each in facts["failed"]] == list(bad)
    assert facts["runs"]["baseline"]["request"]["specs"] == facts["runs"][facts["winner"]]["request"]["specs"]
    for each in facts["failed"]:
        note = f"Trial {each['trial']} began at full length, and failed: ValueError: no such student"
        assert any(one.startswith(note) for one in result["notes"])


def test_the_control_without_a_search_counts_the_winners_that_there_are(after):
    stopped = ("refine.epochs=2", "refine.stopper={use: halving}", "search.proxy=params")
    run_tiny(after, *SETS, *stopped, "distill.winners=4", "distill.controls=[no_search]")
    facts = facts_of(after)
    winners = sum(name.startswith("winner") for name in facts["runs"])
    assert winners < 4, "else this study shows nothing"
    assert facts["runs"]["no_search"]["request"]["epochs"] == facts_of(after, "refine")["epochs"] + winners * 3


@pytest.mark.parametrize(
    ("level", "through", "said"),
    [
        ([], ["winner-0"], "The first one went on."),
        ([5, 3], ["winner-0"], "The first one went on, the trials' own choice: validation cannot tell 5 and 3 apart."),
        (
            [5, 3, 0],
            ["winner-0"],
            "The first one went on, the trials' own choice: validation cannot tell 5, 3 and 0 apart.",
        ),
        ([], ["winner-0", "winner-1"], "The first 2 went on."),
        ([5, 3, 0], ["winner-1", "winner-2"], "Trials 3 and 0 came through."),
    ],
)
def test_the_note_on_finalists_says_who_went_on(level, through, said):
    rows = [
        {"name": name, "trial": number, "score": 0.9, "level": number in level, "epochs": 3}
        for name, number in zip(NAMES, (5, 3, 0), strict=True)
    ]
    facts = {"rung": rows, "runs": dict.fromkeys(through), "epochs": 12, "trial": 5}
    metric = Host.load().load_class("metric", "accuracy")
    materials = SimpleNamespace(objective="accuracy", metrics={"accuracy": metric(metric.options_class())})
    (note,) = notes._at_rung(materials, SimpleNamespace(facts=facts))
    assert note.startswith("Finalists by accuracy on validation after 3 of 12 epochs: trial 5 90.0 %, ")
    assert note.endswith(f". {said}")
