"""How chunks of candidates get scored: in this process, or as jobs of an executor. The answer is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdsearch.errors import UserError
from kdsearch.kinds import Done, Executor, Job, Options
from kdsearch.search.scoring import Scored, Scorer

Spec = Mapping[str, Any]
Score = Callable[[Sequence[Spec]], Iterator[list[Scored]]]  # specs -> chunks of rows, in the order of the specs


def in_process(scorer: Scorer, chunk: int = 16) -> Score:
    """Score with a live scorer."""

    def score(specs: Sequence[Spec]) -> Iterator[list[Scored]]:
        for at in range(0, len(specs), chunk):
            yield scorer.score_all(specs[at : at + chunk])

    return score


@dataclass(frozen=True)
class Remote:
    """A `Score` that sends jobs to an executor.

    A chunk whose job dies is asked again candidate by candidate, so one bad candidate costs only itself: it gets a row
    without scores that names the error.

    Args:
        function: "module:function" taking `specs` and the further `arguments`; it returns one `Scored.row()` a spec.
        lost: makes the row of a candidate whose job died: (spec, error) -> Scored.

    Raises:
        UserError: a job's error is the study's.
    """

    executor: Executor[Any]
    function: str
    arguments: Mapping[str, Any]
    lost: Callable[[Spec, str], Scored]
    chunk: int = 16
    threads: int = 1
    timeout_s: float | None = None
    memory_bytes: int | None = None
    name: str = field(default="score")

    def __call__(self, specs: Sequence[Spec]) -> Iterator[list[Scored]]:
        chunks = [list(specs[at : at + self.chunk]) for at in range(0, len(specs), self.chunk)]
        for index, done in self._run(chunks):
            if done.error and len(chunks[index]) == 1:
                yield [self.lost(chunks[index][0], done.error)]
            elif done.error:
                single = [[spec] for spec in chunks[index]]
                yield [
                    self.lost(single[i][0], each.error) if each.error else Scored(**each.value[0])
                    for i, each in self._run(single)
                ]
            else:
                yield [Scored(**row) for row in done.value]

    def _run(self, chunks: Sequence[Sequence[Spec]]) -> Iterator[tuple[int, Done]]:
        """(index, Done) in the order of the chunks; at most `slots` jobs are with the executor."""
        waiting = list(range(len(chunks)))[::-1]
        running: dict[str, int] = {}
        ended: dict[int, Done] = {}
        following = 0
        try:
            while following < len(chunks):
                while waiting and len(running) < self.executor.slots:
                    index = waiting.pop()
                    job = self._job(index, chunks[index])
                    running[job.id] = index
                    self.executor.submit(job)
                for done in self.executor.wait(1.0):
                    if done.id in running:
                        if done.fatal:
                            raise UserError(done.error)
                        ended[running.pop(done.id)] = done
                while following in ended:
                    yield following, ended.pop(following)
                    following += 1
        finally:
            for id in running:
                self.executor.stop(id)

    def _job(self, index: int, specs: Sequence[Spec]) -> Job:
        arguments = {**self.arguments, "specs": [_plain(spec) for spec in specs]}
        return Job(
            f"{self.name}-{len(specs)}-{index}",
            self.function,
            arguments,
            self.threads,
            self.timeout_s,
            self.memory_bytes,
        )


def _plain(spec: Spec | Options) -> dict[str, Any]:
    return spec.model_dump(mode="json") if isinstance(spec, Options) else dict(spec)
