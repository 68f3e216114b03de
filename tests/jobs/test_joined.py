"""Workers that join a run: whatever any of them does, leaves, freezes or dies, each job ends once, and nowhere twice at a time."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kdsearch.errors import ArtifactError, StudyError, UserError
from kdsearch.jobs import joined as run_side
from kdsearch.jobs import letters
from kdsearch.jobs.joined import RETRIES, Joined
from kdsearch.jobs.letters import BEAT_S, LEASE_S, LOST_S, ORDERS
from kdsearch.kinds import Done, Job
from kdsearch.store.files import write_json
from kdsearch.store.folder import HOLDER, MARK, SAID, held, places_of_workers
from kdsearch.verbs import worker as worker_side
from kdsearch.verbs.worker import JOBS, Worker

GRACE_S = 1.0


class Clock:
    """Seconds that pass when somebody sleeps, or is told that they have; workers are served while the run waits for them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


class Processes:
    """In place of a worker's processes: what was submitted runs until a test ends it."""

    def __init__(self, slots: int, grace_s: float, reuse: bool) -> None:
        self.running: dict[str, Job] = {}
        self.ended: list[Done] = []

    def submit(self, job: Job) -> None:
        self.running[job.id] = job

    def end(self, ticket: str, **done: Any) -> None:
        job = self.running.pop(ticket)
        self.ended.append(Done(ticket, **done) if done else Done(ticket, value=job.arguments["n"]))

    def stop(self, ticket: str) -> None:
        if ticket in self.running:
            self.end(ticket, error="stopped")

    def wait(self, timeout_s: float) -> list[Done]:
        ended, self.ended = self.ended, []
        return ended

    def close(self) -> None:
        self.running, self.ended = {}, []


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_side, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep))
        patch.setattr(worker_side, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=lambda _: None))
        patch.setattr(worker_side, "JobProcesses", Processes)
        patch.setattr(Joined, "_beat", lambda self, run: None)  # by the real clock
        yield made


def job(n: int, folder: Path, **address: Any) -> Job:
    here = {"dir": str(folder), "base": str(folder), **address}
    return Job(f"job-{n}", JOBS[0], {"n": n, "address": here, "work": str(folder / "work")}, folder=str(folder))


class Field:
    """A run, its waiting jobs, and workers."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder, self.clock = folder, clock
        self.workers: list[Worker] = []
        self.frozen: list[Worker] = []
        self.done: list[Done] = []
        self.waiting: list[Job] = []
        self.submitted: list[Job] = []
        self.told: list[str] = []
        for name in (MARK, HOLDER):
            (folder / name).touch()
        clock.meanwhile = self.serve
        self.start()

    def start(self) -> None:
        """A run begins, perhaps after one that was killed: with all that had not ended."""
        self.joined = Joined(GRACE_S)
        self.joined.open(self.folder)
        ended = {each.id for each in self.done}
        self.waiting = [each for each in self.submitted if each.id not in ended]

    def submit(self) -> None:
        self.submitted.append(job(len(self.submitted), self.folder))
        self.waiting.append(self.submitted[-1])

    def join(self, slots: int = 1, **given: Any) -> Worker:
        made = Worker(self.folder, self.folder, slots, given.get("allow_code", ()), self.told.append)
        made.enter()
        self.workers.append(made)
        return made

    def look(self) -> None:
        self.clock.now += 0.6
        self.done += self.joined.look()
        self.waiting = [*self.joined.back, *self.waiting]
        self.joined.back.clear()
        while self.waiting and self.joined.is_free and not self.joined.is_settling:
            self.joined.give(self.waiting.pop(0))

    def serve(self) -> None:
        for each in self.workers:
            if each not in self.frozen:
                each.serve(stay=True)

    def both(self, times: int = 1) -> None:
        for _ in range(times):
            self.look()
            self.serve()

    def running(self, worker: Worker) -> dict[str, str]:
        """Ticket -> id of what its processes do."""
        given = worker._processes.running if worker._processes is not None else {}
        return {ticket: f"job-{each.arguments['n']}" for ticket, each in given.items()}

    def end(self, worker: Worker, **done: Any) -> None:
        for ticket in self.running(worker):
            worker._processes.end(ticket, **done)

    def kill(self, worker: Worker) -> None:
        """Its machine is gone, and its folder stays."""
        self.workers.remove(worker)

    def lose(self) -> None:
        """A machine joins, begins what waits, and is gone until nobody waits for it."""
        worker = self.join()
        self.both(3)
        assert self.running(worker)
        self.kill(worker)
        self.clock.now += LOST_S + 2 * GRACE_S
        self.look()


@pytest.fixture
def field(tmp_path: Path, clock: Clock) -> Field:
    return Field(tmp_path, clock)


def test_a_job_is_done_and_told_once(field: Field) -> None:
    first, second = field.join(), field.join(slots=2)
    for _ in range(4):
        field.submit()
    field.both(3)
    assert field.joined.slots == 3
    assert sorted([*field.running(first).values(), *field.running(second).values()]) == ["job-0", "job-1", "job-2"]
    for _ in range(2):
        field.end(first)
        field.end(second)
        field.both(4)
    assert sorted((each.id, each.value) for each in field.done) == [(f"job-{n}", n) for n in range(4)]
    assert field.joined.running == 0
    assert all(not json.loads((place / ORDERS).read_text())["jobs"] for place in places_of_workers(field.folder))


def test_what_a_worker_did_goes_on_elsewhere_when_it_leaves(field: Field) -> None:
    first = field.join()
    field.submit()
    field.both(3)
    assert field.running(first)
    second = field.join()
    field.workers.remove(first)
    first.leave()
    field.both(3)
    assert list(field.running(second).values()) == ["job-0"]
    assert len(places_of_workers(field.folder)) == 1
    for _ in range(2 * RETRIES):  # leaving is no loss
        field.workers.remove(second)
        second.leave()
        second = field.join()
        field.both(3)
    field.end(second)
    field.both(2)
    assert field.done == [Done("job-0", 0)]


def test_a_lost_worker_is_waited_for_and_then_no_more(field: Field) -> None:
    first = field.join()
    field.submit()
    field.both(3)
    place = first._place
    field.kill(first)
    field.clock.now += LOST_S
    field.look()
    assert field.joined.running == 1, "not before its jobs had their grace"
    field.clock.now += 2 * GRACE_S
    field.look()
    assert field.joined.running == 0
    assert not place.exists()
    assert [each.id for each in field.waiting] == ["job-0"]


def test_a_job_whose_workers_are_lost_again_and_again_has_failed(field: Field) -> None:
    field.submit()
    for _ in range(RETRIES + 1):
        assert not field.done
        field.lose()
    assert field.done[0].error.startswith(f"the worker that it ran on was lost {RETRIES + 1} times (")


@pytest.mark.parametrize("how", ["done here", "closed"])
def test_another_job_of_the_name_has_lost_nothing(field: Field, how: str) -> None:
    """`winner-0` is a job at the finalists' rung, and another one at its full length."""
    field.submit()
    for _ in range(RETRIES):
        field.lose()
    (again,) = field.waiting
    if how == "done here":
        field.joined.forget(again.id)
    else:
        field.joined.close()
        field.joined.open(field.folder)
    field.lose()
    assert not field.done
    assert field.waiting == [again]


def test_a_worker_that_hears_nothing_gives_up_what_it_does_for_good(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    field.clock.now += LEASE_S / 2
    field.serve()
    assert field.running(worker)
    field.clock.now += LEASE_S
    field.serve()
    assert not field.running(worker)
    field.joined._looked = field.clock.now  # the run wakes up, and has not read what the worker says
    field.joined._tell(field.joined._ours[0])
    field.serve()
    assert not field.running(worker), "somebody else may have begun it"
    field.both(4)
    assert list(field.running(worker).values()) == ["job-0"], "with another ticket"
    field.end(worker)
    field.both(2)
    assert field.done == [Done("job-0", 0)]


def test_a_worker_that_was_taken_for_lost_joins_anew(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    before = worker._place
    field.clock.now += LOST_S + 2 * GRACE_S
    field.look()
    assert not before.exists()
    assert field.running(worker)
    field.serve()
    assert not field.running(worker)
    assert worker._place.exists()
    field.both(4)
    assert list(field.running(worker).values()) == ["job-0"]


def test_a_run_after_one_that_was_killed_begins_nothing_while_something_is_done_for_that(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    assert field.running(worker)
    field.start()
    for _ in range(3):
        field.look()
        assert field.joined.is_settling
    field.both(1)
    assert not field.running(worker)
    field.look()
    assert not field.joined.is_settling
    field.both(3)
    assert list(field.running(worker).values()) == ["job-0"]


def test_nothing_is_waited_for_where_that_worker_is_lost(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    field.kill(worker)
    field.start()
    assert field.joined.is_settling
    field.clock.now += LOST_S + 2 * GRACE_S
    field.look()
    assert not field.joined.is_settling


def test_a_worker_that_has_not_heard_of_a_job_is_given_time(field: Field) -> None:
    worker = field.join()
    field.both(2)
    field.submit()
    field.look()
    tickets = [*field.joined._ours[0].orders]
    said = json.loads((worker._place / SAID).read_text())
    worker._beat += 1
    write_json(worker._place / SAID, {**said, "beat": worker._beat})  # of a look at the orders before these
    field.look()
    field.both(2)
    assert [*field.running(worker)] == tickets


def test_stopped(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    field.joined.stop("job-0")
    field.both(3)
    assert field.done == [Done("job-0", error="stopped")]
    field.submit()
    field.look()  # given, and not heard of
    field.joined.stop("job-1")
    field.both(3)
    assert field.done[1:] == [Done("job-1", error="stopped")]
    assert not field.running(worker)


def test_close_stops_what_runs_and_sends_workers_away(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    field.joined.close()
    assert not field.running(worker)
    assert worker.serve(stay=True)
    assert worker.serve(stay=True)
    assert field.told.count("a run is there") == 1, "it waits for the next run, and does not take this one for it"
    assert field.joined.slots == 0


def test_a_worker_ends_with_the_run_whether_that_gave_it_work_or_not(field: Field) -> None:
    (field.folder / HOLDER).unlink()
    worker = field.join()
    assert worker.serve(stay=False), "it waits for a run"
    (field.folder / HOLDER).touch()
    assert worker.serve(stay=False)
    (field.folder / HOLDER).unlink()
    assert worker.serve(stay=True)
    (field.folder / HOLDER).touch()
    assert worker.serve(stay=False)
    (field.folder / HOLDER).unlink()
    assert not worker.serve(stay=False)


def test_a_worker_waits_on_where_a_folder_is_cleaned(field: Field) -> None:
    (field.folder / HOLDER).unlink()
    worker = field.join()
    with held(field.folder, briefly=True):
        assert worker.serve(stay=False)
    assert worker.serve(stay=False), "it waits for a run"
    with held(field.folder):
        assert worker.serve(stay=False)
        sign = (field.folder / HOLDER).read_bytes()
    (field.folder / HOLDER).write_bytes(sign)  # the run was killed
    with held(field.folder, briefly=True):
        assert worker.serve(stay=False)
    assert (field.folder / HOLDER).read_bytes() == sign
    assert worker.serve(stay=False), "it waits for who goes on"
    with held(field.folder):
        assert worker.serve(stay=False)
    with held(field.folder, briefly=True):
        worker.serve(stay=False)
    assert not worker.serve(stay=False)


def test_a_worker_whose_study_was_removed_says_so_and_brings_nothing_back(field: Field) -> None:
    worker = field.join()
    shutil.rmtree(field.folder)
    with pytest.raises(ArtifactError, match="the study's folder is gone"):
        worker.serve(stay=True)
    worker.leave()
    assert not field.folder.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', '{"host": "a", "pid": 1, "slots": 0}', "\0" * 100])
def test_what_is_no_letter_is_nobodys(field: Field, text: str) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    (worker._place / SAID).write_text(text)
    place = field.folder / "workers" / "0123456789ab"
    place.mkdir()
    (place / SAID).write_text(text)
    field.look()
    assert not field.done
    (worker._place / ORDERS).write_text(text)
    worker.serve(stay=False)
    assert field.running(worker), "as it was"


def test_a_machine_that_is_not_as_the_runs_says_so_and_does_nothing(field: Field, monkeypatch) -> None:
    field.submit()
    worker = field.join()
    field.look()
    ours = {**letters.versions(), "torch": "1.0", "mine": "2"}
    monkeypatch.setattr(letters, "versions", lambda: ours)
    with pytest.raises(UserError, match=r"this machine has mine 2, torch 1\.0.*Expected mine missing, torch 2\."):
        worker.serve(stay=False)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dir": "/not/here"}, "the run knows its folder as /not/here"),
        ({"function": "os:system"}, "the run asks for os:system"),
        ({"address": {"dir": "/"}}, "the run asks for kdsearch.training.job:train_job, dir /"),
        ({"address": {"base": "/elsewhere"}}, "base /elsewhere"),
        ({"address": {"base": None}}, "base None"),
        ({"arguments": {"work": "/etc"}}, "work /etc"),
        ({"arguments": {"address": 3}}, "dir None, base None"),
        ({"address": {"allow_code": ["mine.py"]}}, "the study runs code of its own: mine.py"),
    ],
)
def test_orders_that_are_not_followed(field: Field, wrong: dict[str, Any], said: str) -> None:
    worker = field.join()
    field.look()
    orders = json.loads((worker._place / ORDERS).read_text())
    asked = vars(job(0, field.folder, **wrong.pop("address", {})))
    asked["arguments"] |= wrong.pop("arguments", {})
    asked["function"] = wrong.pop("function", asked["function"])
    write_json(worker._place / ORDERS, {**orders, "jobs": {"t": asked}, **wrong})
    with pytest.raises(UserError, match=said):
        worker.serve(stay=False)


def test_code_that_was_allowed_runs(field: Field) -> None:
    worker = field.join(allow_code=("mine.py",))
    field.submitted = field.waiting = [job(0, field.folder, allow_code=["mine.py"])]
    field.both(3)
    assert field.running(worker)


@pytest.mark.parametrize(
    "done", [{"value": {"ends": StudyError("no such file").facts()}}, {"error": "no such file", "fatal": True}]
)
def test_what_would_end_the_study_ends_the_worker(field: Field, done: dict[str, Any]) -> None:
    """Its machine may lack what the run's has."""
    worker = field.join()
    field.submit()
    field.both(3)
    field.end(worker, **done)
    with pytest.raises(UserError, match="no such file"):
        worker.serve(stay=False)
    worker.leave()
    field.look()
    assert not field.done
    assert [each.id for each in field.waiting] == ["job-0"]


def test_a_job_that_was_begun_and_given_up_before_the_run_listened_comes_back(field: Field) -> None:
    worker = field.join()
    field.both(3)
    field.submit()
    field.look()
    field.serve()
    assert field.running(worker)
    field.clock.now += LEASE_S + 1
    field.serve()
    assert not field.running(worker)
    field.both(4)
    assert list(field.running(worker).values()) == ["job-0"]


def test_a_job_that_somebody_else_ended_is_not_done(field: Field) -> None:
    """A batch system signals every process of a worker's."""
    worker = field.join()
    field.submit()
    field.both(3)
    field.end(worker, error="stopped")
    field.serve()
    assert not json.loads((worker._place / SAID).read_text())["done"]
    field.look()
    assert not field.done
    field.both(3)
    field.end(worker)
    field.both(2)
    assert field.done == [Done("job-0", 0)]


def test_a_ticket_that_the_run_has_no_more_is_stopped(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    field.joined._ours[0].orders.clear()
    field.both(3)
    assert not field.running(worker)
    assert not field.done


def test_where_nothing_can_be_written_the_run_goes_on_without_that_worker(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    (worker._place / ORDERS).unlink()
    (worker._place / ORDERS).mkdir()
    field.clock.now += BEAT_S
    field.look()
    assert [each.id for each in field.waiting] == ["job-0"]
    assert field.joined.slots == 0
    field.both(3)
    assert field.joined.slots == 0
    field.joined.close()


def test_old_copies_are_not_read(field: Field) -> None:
    """As a shared file system may show them."""
    worker = field.join()
    field.both(3)
    said, orders = ((worker._place / name).read_text() for name in (SAID, ORDERS))
    field.submit()
    field.both(3)
    (worker._place / SAID).write_text(said)
    field.look()
    assert not field.waiting
    assert field.joined._ours[0].said["beat"] > json.loads(said)["beat"]
    (worker._place / ORDERS).write_text(orders)
    worker.serve(stay=True)
    assert field.running(worker)


def test_what_is_no_number_goes_its_way(field: Field) -> None:
    worker = field.join()
    field.submit()
    field.both(3)
    field.end(worker, value={"loss": math.nan})
    field.both(2)
    assert math.isnan(field.done[0].value["loss"])


def test_nothing_but_what_workers_wrote_is_touched(field: Field, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    notes = field.folder / "workers" / "my notes" / "a.txt"
    notes.parent.mkdir(parents=True)
    own = field.join()
    field.look()
    assert not [*notes.parent.iterdir()]
    (own._place / "mine.txt").write_text("b")
    field.kill(own)
    (field.folder / "workers" / "aaaaaaaaaaaa").symlink_to(home)
    for file in (notes, home / "said.json"):
        file.write_text("a")
    for _ in range(3):
        field.clock.now += LOST_S + 2 * GRACE_S
        field.look()
    assert {each.name for each in own._place.iterdir()} == {"mine.txt"}
    assert [each.name for each in home.iterdir()] == ["said.json"]
    assert notes.exists()


def test_a_link_in_place_of_the_workers_is_not_followed(field: Field, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "0123456789ab").mkdir()
    (field.folder / "workers").symlink_to(home)
    field.look()
    field.clock.now += LOST_S + 2 * GRACE_S
    field.look()
    assert [*(home / "0123456789ab").iterdir()] == []
    assert not field.joined._workers


def test_variables_are_the_runs(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEARCH_STORE", "/the/runs")
    worker = field.join()
    field.look()
    monkeypatch.delenv("KDSEARCH_STORE")
    monkeypatch.setenv("KDSEARCH_MINE", "/my/own")
    worker.serve(stay=True)
    found = letters.environment()
    assert found["KDSEARCH_STORE"] == "/the/runs"
    assert "KDSEARCH_MINE" not in found


def test_orders_of_another_version_are_told_by_the_version(field: Field) -> None:
    worker = field.join()
    (worker._place / ORDERS).write_text(json.dumps({"versions": {**letters.versions(), "kdsearch": "9.0"}, "new": 1}))
    with pytest.raises(UserError, match=r"this machine has kdsearch 0\.1\.0\. Expected kdsearch 9\.0"):
        worker.serve(stay=True)


def test_the_run_beats_while_it_does_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_side, "BEAT_S", 0.02)
    (tmp_path / MARK).touch()
    worker = Worker(tmp_path, tmp_path, 1, (), lambda line: None)
    worker.enter()
    joined = Joined(GRACE_S)
    joined.open(tmp_path)

    def beat() -> int:
        return json.loads((worker._place / ORDERS).read_text())["beat"]

    first = beat()
    while beat() <= first + 2:
        threading.Event().wait(0.01)
    joined.close()
    joined.open(tmp_path)
    former = threading.Thread(target=joined._beat, args=("the run before",), daemon=True)
    former.start()
    former.join(timeout=60)
    assert not former.is_alive()
    joined.close()
    after = beat()
    threading.Event().wait(0.1)
    assert beat() == after


HAPPENINGS = st.sampled_from(
    (
        *("look", "serve") * 3,
        *("submit", "join", "end", "leave", "kill", "freeze", "thaw", "sleep", "oversleep", "restart"),
    )
)


@example(what=[(each, 0) for each in ("join", "look", "serve", "look", "submit", "look", "serve", "sleep")])
@given(what=st.lists(st.tuples(HAPPENINGS, st.integers(0, 3)), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_whatever_happens(tmp_path_factory: pytest.TempPathFactory, clock: Clock, what: list[tuple[str, int]]) -> None:
    field = Field(tmp_path_factory.mktemp("field"), clock)
    for name, which in what:
        some = field.workers[which % len(field.workers)] if field.workers else None
        match name:
            case "submit":
                field.submit()
            case "join" if len(field.workers) < 3:
                field.join(slots=1 + which % 2)
            case "look":
                field.look()
            case "serve":
                field.serve()
            case "end" if some is not None and some not in field.frozen:
                field.end(some)
            case "leave" if some is not None and some not in field.frozen:
                field.workers.remove(some)
                some.leave()
            case "kill" if some is not None:
                field.kill(some)
            case "freeze" if some is not None:
                field.frozen.append(some)
            case "thaw" if field.frozen:
                woken = field.frozen.pop()
                if woken in field.workers:
                    woken.serve(stay=True)
            case "sleep":  # nobody looks at anything; longer than a lease
                clock.now += LEASE_S + 1
                field.serve()
            case "oversleep":  # only the run does
                for _ in range(4):
                    clock.now += LOST_S / 3
                    field.look()
                    field.serve()
            case "restart":
                field.start()
        awake = [each for each in field.workers if each not in field.frozen]
        at_work = [id for each in awake for id in field.running(each).values()]
        assert len(at_work) == len({*at_work}), "the same job in two places"
        over = {each.id for each in field.done}
        assert len(over) == len(field.done), "told twice"
    field.frozen = []
    field.join()
    for _ in range(12 * (len(field.submitted) + 1)):
        for each in field.workers:
            field.end(each)
        field.both()
        if len(field.done) == len(field.submitted):
            break
        clock.now += LOST_S / 5
        field.serve()
    assert sorted(each.id for each in field.done) == sorted(each.id for each in field.submitted)
    assert all(each.value == int(each.id.removeprefix("job-")) or "lost" in each.error for each in field.done)
