"""How chunks of candidates get scored: in this process, or as jobs of an executor. The answer is the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from kdsearch.errors import PluginError, UserError
from kdsearch.kinds import Cost, Done, Executor, Job, Options
from kdsearch.kinds.executor import PLACE, ended
from kdsearch.search.scoring import Scored, Scorer

Spec = Mapping[str, Any]


class Score(Protocol):
    """Chunks of rows, in the order of the specs. `costs`: of each spec, where they are known already."""

    def __call__(self, specs: Sequence[Spec], costs: Sequence[Cost] = ()) -> Iterator[list[Scored]]: ...


JOBS = 4  # jobs that each process gets of a generation, so that all end at about the same time


def in_process(scorer: Scorer, chunk: int = 16) -> Score:
    """Score with a live scorer."""

    def score(specs: Sequence[Spec], costs: Sequence[Cost] = ()) -> Iterator[list[Scored]]:
        for at in range(0, len(specs), chunk):
            yield scorer.score_all(specs[at : at + chunk], costs[at : at + chunk])

    return score


@dataclass(frozen=True)
class Remote:
    """A `Score` that sends jobs to an executor.

    A chunk whose job dies is asked again candidate by candidate, so one bad candidate costs only itself: it gets a row
    without scores that names the error.

    Args:
        function: "module:function" taking `specs`, `costs` (params and MACs of each spec, or none; see `known_costs`) and the
            further `arguments`; it returns one `Scored.row()` a spec, and says `work_begins` once it has its scorer.
        chunk: most candidates a job; a small generation is dealt out to all processes.
        lost: makes the row of a candidate whose job died: (spec, error, over as in `Scored`) -> Scored.
        folder: of each job.

    Raises:
        UserError: a job's error is the study's.
    """

    executor: Executor[Any]
    function: str
    arguments: Mapping[str, Any]
    lost: Callable[[Spec, str, Mapping[str, float]], Scored]
    chunk: int = 16
    threads: int = 1
    timeout_s: float | None = None
    memory_bytes: int | None = None
    name: str = "score"
    folder: str = ""

    def __call__(self, specs: Sequence[Spec], costs: Sequence[Cost] = ()) -> Iterator[list[Scored]]:
        size = min(self.chunk, max(-(-len(specs) // (JOBS * self.executor.slots)), 1))
        starts = range(0, len(specs), size)
        chunks = [_Part(i, 0, specs[at : at + size], costs[at : at + size]) for i, at in enumerate(starts)]
        waiting = deque(chunks)
        running: dict[str, _Part] = {}
        rows: list[dict[int, Scored]] = [{} for _ in chunks]
        following = 0
        try:
            while following < len(chunks):
                while waiting and len(running) < self.executor.slots:
                    part = waiting.popleft()
                    job = self._job(part)
                    running[job.id] = part
                    self.executor.submit(job)
                for done in ended(self.executor, 1.0):
                    if done.id in running:
                        waiting.extendleft(self._take(running.pop(done.id), done, rows))
                while following < len(chunks) and len(rows[following]) == len(chunks[following].specs):
                    yield [row for _, row in sorted(rows[following].items())]
                    following += 1
        finally:
            for id in running:
                self.executor.stop(id)

    def _take(self, part: _Part, done: Done, rows: list[dict[int, Scored]]) -> list[_Part]:
        """Keep the rows of an ended job; returns what has to be asked again, last first."""
        if done.fatal:
            raise UserError(done.error)
        if done.error and len(part.specs) > 1:
            return [part.alone(i) for i in range(len(part.specs))][::-1]
        if done.error:
            over = {f"trial_{done.over}": float(getattr(self, done.over))} if done.over else {}
            found = [self.lost(part.specs[0], done.error, over)]
        elif not isinstance(done.value, list) or len(done.value) != len(part.specs):
            problem = f"the executor gives {done.value!r} as the value of job '{done.id}'"
            raise PluginError(problem, path=PLACE, expected="what the job's function returned")
        else:
            found = [Scored(**row) for row in done.value]
        rows[part.chunk].update((part.first + i, row) for i, row in enumerate(found))
        return []

    def _job(self, part: _Part) -> Job:
        costs = [[each.params, each.macs] for each in part.costs]
        arguments = {**self.arguments, "specs": [_plain(spec) for spec in part.specs], "costs": costs}
        id = f"{self.name}-{next(_NUMBERS)}"  # never used twice: an executor may still report what an earlier call stopped
        limits = self.timeout_s, self.memory_bytes
        return Job(id, self.function, arguments, self.threads, *limits, opens=True, folder=self.folder)


@dataclass(frozen=True)
class _Part:
    """Candidates of one job: those of a chunk from `first` on."""

    chunk: int
    first: int
    specs: Sequence[Spec]
    costs: Sequence[Cost]

    def alone(self, i: int) -> _Part:
        return _Part(self.chunk, self.first + i, self.specs[i : i + 1], self.costs[i : i + 1])


def known_costs(costs: Sequence[Sequence[int]]) -> list[Cost]:
    """The costs that a job's arguments hold."""
    return [Cost(*each) for each in costs]


_NUMBERS = count()


def _plain(spec: Spec | Options) -> dict[str, Any]:
    return spec.model_dump(mode="json") if isinstance(spec, Options) else dict(spec)
