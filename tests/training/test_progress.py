"""What a person sees where there is no terminal."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from kdsearch.errors import InterruptedRun
from kdsearch.kinds import Done
from kdsearch.store.files import read_json
from kdsearch.training import trainings
from kdsearch.training.request import Request
from kdsearch.training.share import share_of, tell_share
from kdsearch.training.tools import Progress


@pytest.fixture
def told(monkeypatch, capsys):
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])

    def line(total, done, seconds, **words):
        clock["now"] = 0.0
        bar = Progress()
        bar.begin("refine", total)
        clock["now"] = seconds
        bar.at(done, **words)
        return capsys.readouterr().err

    return line


def test_many_pieces_have_a_rate_and_the_time_left(told):
    shown = told(8, 4, 100.0, note="trial 4", best="best .91")
    assert shown == "refine: 50 % of 8 (one every 25 s, about 2 minutes left) trial 4  best .91\n"


def test_one_piece_has_no_rate(told):
    assert told(1, 0.25, 30.0, note="training") == "refine: 25 % (about 2 minutes left) training\n"


def test_no_time_left_is_guessed_at_the_start(told):
    assert told(1, 0.01, 30.0, note="training") == "refine: 1 % training\n"
    assert told(100, 1, 30.0) == "refine: 1 % of 100 (one every 30 s)\n"


@pytest.mark.parametrize(
    ("done", "seconds", "pace"),
    [
        (4000, 32.0, "125/s"),
        (4000, 10.0, "400/s"),
        (96, 30.0, "3.2/s"),
        (30, 30.0, "1.0/s"),
        (12, 3600.0, "one every 5 minutes"),
    ],
)
def test_a_pace_is_read_at_a_glance(told, done, seconds, pace):
    assert f" ({pace}" in told(8000, done, seconds)


def test_a_line_every_ten_seconds(told):
    assert told(8, 4, 9.9) == ""
    assert told(8, 4, 10.0) != ""


def test_a_process_tells_how_far_its_training_is(tmp_path):
    folder = tmp_path / "new" / "trial-1"
    assert share_of(folder) == 0
    step = tell_share(folder, every_s=0.0).step
    step("train", 1, 4, 0.5)
    assert share_of(folder) == 0.25
    step("train", 3, 4, 0.5)
    assert share_of(folder) == 0.75
    (folder / "share").write_text("")
    assert share_of(folder) == 0


def test_what_an_earlier_run_did_is_no_pace_of_this_one(monkeypatch, capsys):
    """Six of eight were there; one more took 100 s, so the last one takes as long, not 100 / 7."""
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])
    bar = Progress(every_s=1.0)
    bar.begin("refine", 8)
    bar.had(6.0)
    clock["now"] = 5.0
    bar.at(6.05)
    assert "left" not in capsys.readouterr().err, "too little of its own to tell"
    clock["now"] = 100.0
    bar.at(7.0)
    assert "(one every 2 minutes, about 2 minutes left)" in capsys.readouterr().err
    bar.begin("distill", 2)
    assert bar.rate == 0
    assert bar.left_s is None


def test_files_that_are_measured_have_a_pace_of_their_own(monkeypatch, capsys):
    """A hundred candidates a second, then four files of which each takes 5 s."""
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])
    bar = Progress(every_s=1.0)
    bar.begin("search", 100)
    clock["now"] = 1.0
    bar.at(100)
    bar.anew()
    bar.more(4)
    assert bar.left_s is None
    clock["now"] = 6.0
    bar.at(101)
    assert bar.left_s == pytest.approx(15)
    assert "search: 97 % of 104 (one every 5 s, about 15 s left)" in capsys.readouterr().err


def test_no_less_than_nothing_is_left(monkeypatch, tmp_path):
    bar = Progress(False, file=tmp_path / "progress.json")
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])
    bar.begin("distill", 2)
    clock["now"] = 10.0
    bar.at(2.5)
    assert bar.left_s == 0.0
    assert read_json(tmp_path / "progress.json")["left_s"] == 0.0


def test_nothing_done_has_no_rate(told):
    assert told(6, 0, 30.0, note="scoring loss weightings") == "refine: 0 % of 6 scoring loss weightings\n"


def test_what_processes_take_to_start_is_no_pace(monkeypatch, capsys):
    """They start for 60 s; then a piece takes 10 s. Two that an earlier run did are met on the way."""
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])
    bar = Progress(every_s=1.0)
    bar.begin("refine", 20)
    for now, done in ((30.0, 0.0), (61.0, 0.1), (70.0, 1.0)):
        clock["now"] = now
        bar.at(done)
    assert bar.left_s == pytest.approx(19 * 70), "too little since"
    bar.had(2.0)
    clock["now"] = 80.0
    bar.at(4.0)
    assert bar.rate == pytest.approx(0.1)
    assert bar.left_s == pytest.approx(160)
    assert "(one every 10 s, about 3 minutes left)" in capsys.readouterr().err


@pytest.fixture
def tools(monkeypatch):
    """Whose executor does each job at once."""
    monkeypatch.setattr(trainings, "address_of", lambda *_: {"dir": ""})
    jobs = []

    def wait(_):
        outcome = {"history": [], "done": True, "score": None, "share": 1.0}
        value = {"outcome": outcome}
        return [Done(jobs.pop(0).id, value, seconds=1.0)] if jobs else []

    executor = SimpleNamespace(remote=True, slots=2, submit=jobs.append, wait=wait, stop=None)
    tools = SimpleNamespace(
        progress=Progress(False), executor=lambda _: executor, checkpoint_s=1.0, store=None, stop=lambda: False
    )
    tools.progress.begin("distill", 3)
    return tools


STUDY = SimpleNamespace(study=SimpleNamespace(config=SimpleNamespace(run=SimpleNamespace(threads_per_trial=1))))
PREPARED = SimpleNamespace(key="k")


def test_a_training_that_goes_on_has_what_its_checkpoint_holds(tmp_path, tools):
    tell_share(tmp_path / "winner-0", every_s=0.0).step("train", 3, 4, 0.5)
    running = trainings.Trainings(STUDY, tmp_path, PREPARED, {}, tools, trainings.UNLIMITED)
    running.submit(Request("winner-0", "recipe", {}, {}, 4, 1.0), since=0.5)
    assert tools.progress._had == pytest.approx(0.25)


def test_a_limit_counts_what_an_interruption_cut_off(tmp_path, tools, monkeypatch):
    """90 s of 100 were used: it goes on from its checkpoint, with the rest. What begins anew has all."""
    monkeypatch.setattr(trainings, "owner_of", lambda *_: "own")
    monkeypatch.setattr(trainings, "owner_in", lambda file: file.read_text())
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.share.time.monotonic", lambda: clock["now"])
    submitted = []
    tools.executor(None).submit = submitted.append

    def given(name):
        running = trainings.Trainings(STUDY, tmp_path, PREPARED, {}, tools, trainings.Limits(100.0, None))
        running.submit(Request(name, "recipe", {}, {}, 4, 1.0))
        return submitted.pop().timeout_s

    assert given("trial-0") == 100
    report = tell_share(tmp_path / "trial-0", every_s=0.0)
    clock["now"] = 90.0
    report.step("train", 3, 4, 0.5)
    (tmp_path / "trial-0" / "phase-0-train.safetensors").write_text("own")
    assert given("trial-0") == pytest.approx(10)
    assert given("trial-0") == pytest.approx(10), "counted once"
    (tmp_path / "trial-0" / "phase-0-train.safetensors").write_text("another's")
    assert given("trial-0") == 100


def test_what_ended_counts_though_it_was_interrupted(tmp_path, tools):
    """An outcome and a limit that was met are the same in an undisturbed run; a process that the stop ended has failed of that."""
    over = Done("trial-1", error="timed out after 2 s", over="timeout_s", seconds=2.0)
    done = [
        Done("trial-0", {"outcome": {"history": [], "done": True, "score": None, "share": 1.0}}),
        over,
        Done("trial-2", error="killed"),
    ]
    tools.executor(None).wait = lambda _: [done.pop(0) for _ in [*done]]
    tools.stop = lambda: True
    running = trainings.Trainings(STUDY, tmp_path, PREPARED, {}, tools, trainings.Limits(100.0, None))
    for n in range(3):
        running.submit(Request(f"trial-{n}", "recipe", {}, {}, 4, 1.0))
    assert [*running.ended()] == ["trial-0", "trial-1"]
    with pytest.raises(InterruptedRun):
        running.ended()


def test_its_weights_are_found_from_any_working_directory(tmp_path, tools, monkeypatch):
    """A process of a Ray cluster stands where the cluster was started."""
    monkeypatch.chdir(tmp_path)
    submitted = []
    tools.executor(None).submit = submitted.append
    files = {"start": {"student": "work/cut.safetensors"}, "uncut": {"student": "work/uncut.safetensors"}}
    running = trainings.Trainings(STUDY, Path("work"), PREPARED, {}, tools, trainings.UNLIMITED)
    running.submit(Request("recovery", "recover", {}, {}, 4, **files))
    (job,) = submitted
    for name, each in files.items():
        assert job.arguments["request"][name] == {"student": str(tmp_path / each["student"])}
    assert job.arguments["work"] == str(tmp_path / "work" / "recovery")


def test_what_was_trained_before_counts_once(tmp_path, tools):
    """Two finalists to a third, then one of them to its end, beside a control."""

    def run(until, *names, **changes):
        asked = [Request(name, "recipe", {}, {}, 6, until) for name in names]
        found = trainings.run_trainings(STUDY, asked, tmp_path, PREPARED, {}, tools, **changes)
        assert set(found) == set(names)
        return tools.progress.done

    assert run(1 / 3, "winner-0", "winner-1") == pytest.approx(2 / 3)
    assert run(1.0, "winner-1", "baseline", since={"winner-1": 1 / 3}) == pytest.approx(2 / 3 + 2 / 3 + 1)
