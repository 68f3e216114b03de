"""A trial that a limit ended is tried again where the limit is raised; the others, and all where it is lowered, are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from kdsearch.builtin.executors import perform
from kdsearch.errors import InterruptedRun, TrialError
from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from kdsearch.kinds import Done, Executor, Job, NoOptions, Trial
from kdsearch.search.schedule import Piece
from kdsearch.stages.recall import is_outgrown, limits_met, recalled, repeated
from kdsearch.stages.run import OUTGROWN
from kdsearch.store.files import read_lines
from kdsearch.training.tools import Progress
from kdsearch.verbs import commands
from tests.stages.every_key import TEXT
from tests.stages.test_keys import materials
from tests.stages.tiny import events, made, run_tiny, settled

SOFT = "recipe.distillers[0].options.temperature"
LONG = 9.0  # seconds that a trial of the higher temperature is said to take
STUDY = (
    f"{SOFT}={{choices: [2.0, 4.0]}}",
    *("recipe.train.lr=0.01", "recipe.distillers[0].weight=1.0", "refine.trials=4", "refine.epochs=1"),
    *("refine.generation=4", "refine.controller.use=exhaustive", "export.formats=[onnx-fp32]", "export.max_drop={}"),
    *("compress.quantize=[]", "run.executor={use: impatient}"),
)


def is_slow(spec: Any) -> bool:
    """Whether its scoring is said to take as long."""
    return False


class Impatient(Executor[NoOptions]):
    """Jobs in this process, one at a time, by a clock of its own: no test waits."""

    remote: ClassVar[bool] = True
    trained: ClassVar[list[str]] = []
    scored: ClassVar[list[Any]] = []

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self._queue: list[Job] = []

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self, timeout_s: float) -> list[Done]:
        return [self._done(self._queue.pop(0))] if self._queue else []

    def _done(self, job: Job) -> Done:
        specs = job.arguments.get("specs", [])
        if job.timeout_s is not None and job.timeout_s < LONG and any(map(is_slow, specs)):
            return Done(job.id, error=f"timed out after {job.timeout_s:g} s", over="timeout_s")
        self.scored += specs
        values = job.arguments.get("request", {}).get("values", {})
        if job.timeout_s is not None and values.get(SOFT) == 4.0 and job.timeout_s < LONG:
            return Done(job.id, error=f"timed out after {job.timeout_s:g} s", over="timeout_s")
        self.trained.append(job.id)
        return perform(job)

    def stop(self, id: str) -> None:
        self._queue = [job for job in self._queue if job.id != id]


class Plugin:
    @hookimpl
    def kdsearch_register(self, register: Register) -> None:
        register.executor("impatient", f"{__name__}:Impatient")


@pytest.fixture
def run(monkeypatch):
    host = Host.load(extra=[("impatient", Plugin())])
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))

    def run(folder, limit: float, *sets: str, host: Host = host) -> tuple[dict[str, Any], list[str]]:
        """The settled result, and the trials that were trained."""
        Impatient.trained.clear()
        Impatient.scored.clear()
        result = run_tiny(folder, *STUDY, f"run.trial_timeout_s={limit}", *sets, text=TEXT, host=host)
        return settled(result), [name for name in Impatient.trained if name.startswith("trial-")]

    return run


def test_those_that_failed_of_it_are_tried_again(run, tmp_path):
    first, trained = run(tmp_path / "old", 2.0)
    assert len(trained) == 2
    states = [each["state"] for each in events(tmp_path / "old", "trial")]
    assert sorted(states) == ["complete", "complete", "failed", "failed"]

    lowered, trained = run(tmp_path / "old", 1.0)
    assert (lowered, trained) == (first, [])

    n = len(events(tmp_path / "old"))
    raised, trained = run(tmp_path / "old", 20.0)
    assert made(tmp_path / "old", n) == ["refine", "distill", "compress", "export", "report"]
    assert [each["why"] for each in events(tmp_path / "old", "changed")] == [OUTGROWN]
    new, every = run(tmp_path / "new", 20.0)
    assert raised == new
    assert len(every) == 4
    assert len(trained) == 2
    told = {(each["number"], each["state"]) for each in events(tmp_path / "old", "trial")}
    assert {f"trial-{number}" for number, state in told if state == "failed"} == set(trained)

    commands.clean(dir=tmp_path / "old" / "study")
    n = len(events(tmp_path / "old"))
    assert run(tmp_path / "old", 30.0) == (new, [])
    assert made(tmp_path / "old", n) == []


def test_what_is_known_of_them_is_progress_and_no_pace(run, tmp_path, monkeypatch):
    run(tmp_path, 2.0)
    had = {}
    real = Progress.had
    monkeypatch.setattr(Progress, "had", lambda bar, done: (real(bar, done), had.update({bar.stage: bar._had}))[0])
    _, trained = run(tmp_path, 20.0)
    assert len(trained) == 2
    assert had["refine"] == 2, "the others, as they came"


def test_a_stopped_refine_goes_on_with_the_limit_that_is_raised(run, tmp_path, monkeypatch):
    done = Impatient._done

    def stop_after_three(self, job):
        if job.id.startswith("trial-"):
            seen.append(job.id)
        if len(seen) > 3:
            raise InterruptedRun("stopped")
        return done(self, job)

    seen: list[str] = []
    monkeypatch.setattr(Impatient, "_done", stop_after_three)
    with pytest.raises(InterruptedRun):
        run(tmp_path / "old", 2.0)
    monkeypatch.setattr(Impatient, "_done", done)
    failed = {each["number"] for each in events(tmp_path / "old", "trial") if each["state"] == "failed"}
    assert failed
    raised, trained = run(tmp_path / "old", 20.0)
    assert set(trained) == {f"trial-{number}" for number in (*failed, 3)}
    assert raised == run(tmp_path / "new", 20.0)[0]


def test_another_trial_takes_the_place_of_one_that_left_a_checkpoint(tmp_path, run, monkeypatch):
    """A controller that learns from trials asks for others once those that were lost come through; what is left of these goes."""
    asked = ("refine.controller.use=surrogate", "refine.generation=1", "refine.first=[]", "refine.trials=6")
    searched = ("recipe.train.lr={low: 0.001, high: 0.1, log: true}", "recipe.distillers[0].weight=search")
    done = Impatient._done

    def ends_late(self, job):
        ended = perform(job)
        if job.id.startswith("trial-"):
            return Done(job.id, error=f"timed out after {job.timeout_s:g} s", over="timeout_s")
        return ended

    monkeypatch.setattr(Impatient, "_done", ends_late)
    with pytest.raises(TrialError, match="all 6 trials failed"):
        run(tmp_path / "old", 2.0, *asked, *searched)
    monkeypatch.setattr(Impatient, "_done", done)
    raised, _ = run(tmp_path / "old", 20.0, *asked, *searched)
    assert raised == run(tmp_path / "new", 20.0, *asked, *searched)[0]


def test_a_limit_is_of_a_whole_trial_whatever_pieces_it_is_done_in(tmp_path, run, monkeypatch):
    """Four epochs of a second each, a rung after two: within 3 s each piece is, and no trial."""
    allowed: dict[str, list[float]] = {}

    def a_second_an_epoch(self, job):
        if not job.id.startswith("trial-"):
            return perform(job)
        allowed.setdefault(job.id, []).append(job.timeout_s)
        if job.timeout_s < 2.0:
            return Done(job.id, error=f"timed out after {job.timeout_s:g} s", over="timeout_s", seconds=job.timeout_s)
        return replace(perform(job), seconds=2.0)

    monkeypatch.setattr(Impatient, "_done", a_second_an_epoch)
    asked = ("refine.epochs=4", "refine.stopper={use: halving, options: {rungs: [0.5]}}", "refine.trials=2")
    with pytest.raises(TrialError, match="1 trials failed, 1 were stopped; the first: timed out after 3 s"):
        run(tmp_path / "old", 3.0, *asked)
    assert sorted(allowed.values()) == [[3.0], [3.0, 1.0]]
    allowed.clear()
    run(tmp_path / "old", 4.0, *asked)
    assert {each[0] for each in allowed.values()} == {4.0}, "what is tried again has all its time"
    assert max(len(each) for each in allowed.values()) == 2
    assert {each[-1] for each in allowed.values() if len(each) > 1} == {2.0}


def test_candidates_whose_scoring_was_lost_to_it_are_scored_again(run, tmp_path, monkeypatch):
    asked = ("search.proxy=[params, macs]", f"{SOFT}=2.0", "refine.trials=1")
    every = run(tmp_path / "new", 20.0, *asked)[0]
    slow = read_lines(tmp_path / "new" / "study" / "candidates.jsonl")[1]["spec"]
    monkeypatch.setattr(f"{__name__}.is_slow", lambda spec: spec == slow)

    first, _ = run(tmp_path / "old", 2.0, *asked)
    rows = read_lines(tmp_path / "old" / "study" / "candidates.jsonl")
    assert [row["over"] for row in rows if row["spec"] == slow] == [{"trial_timeout_s": 2.0}]
    assert [row["errors"] for row in rows if row["spec"] == slow] == [{"process": "timed out after 2 s"}]
    n = len(events(tmp_path / "old"))
    assert run(tmp_path / "old", 1.0, *asked)[0] == first
    assert made(tmp_path / "old", n) == []

    raised, _ = run(tmp_path / "old", 20.0, *asked)
    assert Impatient.scored == [slow], "nothing else is scored again"
    assert raised == every
    commands.clean(dir=tmp_path / "old" / "study")
    n = len(events(tmp_path / "old"))
    assert run(tmp_path / "old", 30.0, *asked)[0] == every
    assert made(tmp_path / "old", n) == []


def test_trials_of_a_search_that_is_redone_are_kept_where_they_are_asked_for_again(run, tmp_path, monkeypatch):
    """A candidate that was lost is scored now, and is none of the best: the short list stays, and nothing is trained again."""
    asked = ("search.proxy=[params, macs]", "search.keep=2")
    new, every = run(tmp_path / "new", 20.0, *asked)
    rows = read_lines(tmp_path / "new" / "study" / "candidates.jsonl")
    worst = min(rows, key=lambda row: row["score"])["spec"]
    monkeypatch.setattr(f"{__name__}.is_slow", lambda spec: spec == worst)
    _, first = run(tmp_path / "old", 2.0, *asked)
    n = len(events(tmp_path / "old"))
    raised, trained = run(tmp_path / "old", 20.0, *asked)
    assert "search" in made(tmp_path / "old", n)
    assert raised == new
    assert set(first) | set(trained) == set(every)
    assert not set(first) & set(trained), "what was trained is not trained again"


def test_a_stopped_search_goes_on_with_the_limit_that_is_raised(run, tmp_path, monkeypatch):
    """Every candidate was lost: the study ends, and with a higher limit goes on."""
    monkeypatch.setattr(f"{__name__}.is_slow", lambda spec: True)
    with pytest.raises(TrialError, match="scored none of"):
        run(tmp_path / "old", 2.0)
    with pytest.raises(TrialError, match="scored none of"):
        run(tmp_path / "old", 1.0)
    assert Impatient.scored == []
    assert run(tmp_path / "old", 20.0)[0] == run(tmp_path / "new", 20.0)[0]


def test_what_is_known_of_earlier_attempts():
    over, slow = (
        Trial(0, {"a": 1}, state="failed", error="timed out", over=("trial_timeout_s", 2.0)),
        ("run.executor=null",),
    )
    fine = Trial(1, {"a": 2}, state="complete", losses=(0.5,), curve=((0.5, (0.7,)), (1.0, (0.5,))))
    wrong = Trial(2, {"a": 3}, state="failed", error="nan")
    assert limits_met([over, fine, wrong]) == {"trial_timeout_s": 2.0}
    at_2 = materials(*slow, "run.trial_timeout_s=2.0")
    assert not is_outgrown(at_2, {"trial_timeout_s": 2.0})
    assert not is_outgrown(materials(*slow, "run.trial_timeout_s=1.0"), {"trial_timeout_s": 2.0})
    assert is_outgrown(materials(*slow, "run.trial_timeout_s=2.5"), {"trial_timeout_s": 2.0})
    assert is_outgrown(materials(), {"trial_memory_bytes": 5.0})
    assert recalled(at_2, [[over, fine, wrong]]) == {0: over, 1: fine, 2: wrong}
    assert recalled(materials(), [[over, fine, wrong]]) == {1: fine, 2: wrong}
    assert recalled(materials(), [[over, wrong]]) == {}, "all failed: they are tried anew"
    known = {1: fine, 2: wrong}
    assert repeated(known, Piece(1, {"a": 2}, None, 0.0, 0.5)) is fine
    assert repeated(known, Piece(2, {"a": 3}, None, 0.0, 0.5)) is wrong
    assert repeated(known, Piece(1, {"a": 2}, None, 0.5, 0.75)) is None, "it was not judged there"
    assert repeated(known, Piece(1, {"a": 9}, None, 0.0, 0.5)) is None
    assert repeated(known, Piece(7, {"a": 2}, None, 0.0, 0.5)) is None


def test_of_an_attempt_in_which_no_trial_came_through_nothing_is_known():
    failed, stopped = Trial(0, {"a": 1}, state="failed", error="nan"), Trial(1, {"a": 2}, state="pruned")
    assert recalled(materials(), [[failed, stopped]]) == {}
    going = Trial(2, {"a": 3}, state="running")
    assert recalled(materials(), [[failed, stopped, going]]) == {0: failed, 1: stopped}, "it was stopped, not over"


def test_a_value_that_is_a_sequence_is_known_again():
    """A journal gives a list where an option's choices are tuples."""
    had = Trial(0, {"a": [1, 2]}, state="complete", losses=(0.5,), curve=((1.0, (0.5,)),))
    assert repeated({0: had}, Piece(0, {"a": (1, 2)}, None, 0.0, 1.0)) is had
