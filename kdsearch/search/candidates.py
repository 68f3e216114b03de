"""Draw, score and keep candidates without training any of them. Killed anywhere, the next call goes on to the same end."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, with_config
from typing_extensions import TypedDict

from kdsearch.errors import FOREIGN, told
from kdsearch.kinds import IO, Controller, Cost, Options, SearchSpace, Task, Trial
from kdsearch.kinds.controller import check_asks
from kdsearch.search.backend import Score
from kdsearch.search.pareto import fronts, spread
from kdsearch.search.rows import Rows
from kdsearch.search.scoring import Scored, cost_of
from kdsearch.store.hashing import derive, stream

SWEEP = 200_000  # a finite space of at most so many specs is enumerated when drawing finds nothing new
PATIENCE = 3_200  # candidates drawn without a new feasible one before drawing gives up
REFERENCE = 128  # distinct candidates that scores are ranked against
GENERATION = 64  # candidates asked at once, at most
REDRAWS = 20  # for each of them, before a small space has no more

Reason = Literal["complete", "exhausted", "gave_up"]


@dataclass(frozen=True)
class Candidate:
    """A scored, feasible candidate; `score` is combined over proxies, None = ranked last."""

    scored: Scored
    score: float | None

    def cost(self, name: str) -> float:
        return float({"params": self.scored.params, "macs": self.scored.macs}[name])


@with_config(ConfigDict(extra="allow"))
class _Infeasible(TypedDict):
    """A row of what was drawn and not scored."""

    key: str
    spec: dict[str, Any]
    params: NonNegativeInt
    macs: NonNegativeInt
    feasible: Literal[False]


@with_config(ConfigDict(extra="allow"))
class _Feasible(TypedDict):
    key: str
    spec: dict[str, Any]
    params: NonNegativeInt
    macs: NonNegativeInt
    feasible: Literal[True]
    scores: dict[str, float | None]
    spread: dict[str, NonNegativeFloat | None]
    errors: dict[str, str]
    over: dict[str, PositiveFloat]
    score: float | None


_Drawn = Annotated[_Feasible | _Infeasible, Field(discriminator="feasible")]


@dataclass(frozen=True)
class Explored:
    """What a search found: feasible candidates in the order of drawing, and why it ended.

    `complete`: as many as asked; `exhausted`: every candidate of the space was seen; `gave_up`: 3,200 draws held no
    new feasible one.
    """

    candidates: tuple[Candidate, ...]
    reason: Reason
    n_infeasible: int
    error: str = ""  # of the first candidate whose cost could not be told
    n_broken: int = 0  # of the infeasible ones, those whose cost could not be told

    @property
    def message(self) -> str:
        n = f"{len(self.candidates):,} feasible candidates scored"
        return {
            "complete": n,
            "exhausted": f"{n}: the space holds no more that keep the constraints",
            "gave_up": f"{n}: {PATIENCE:,} draws in a row held no new one that keeps the constraints",
        }[self.reason]


@dataclass(frozen=True)
class Region:
    """The candidates that a study allows: a space and the limits (`params`, `macs`) that hold for all."""

    space: SearchSpace[Any]
    io: IO
    task: Task[Any]
    limits: Mapping[str, float]

    def cost(self, spec: Options) -> Cost:
        return cost_of(self.space, spec, self.io, self.task)

    def violations(self, cost: Cost) -> tuple[float, ...]:
        """(value - limit) / limit for each limit, in the order of their names."""
        had = {"params": cost.params, "macs": cost.macs}
        return tuple((had[name] - limit) / limit for name, limit in sorted(self.limits.items()))


def rows_before(path: Path, key: str) -> int:
    """How many candidates of this search a file of its rows holds: what `explore` does not score again."""
    if not path.is_file():
        return 0
    with path.open("rb") as lines:
        if json.dumps(key).encode() not in lines.readline():
            return 0
        return sum(b'"feasible":true' in line for line in lines)


def explore(
    region: Region,
    strategy: Controller[Any],
    score: Score,
    combine: Callable[[Mapping[str, float | None]], float | None],
    path: Path,
    key: str,
    n: int,
    seed: int,
    *,
    had: Iterable[Scored] = (),
    costs: Sequence[str] = (),
    generation: int = GENERATION,
    progress: Callable[[int, Candidate], None] | None = None,
    holds: Callable[[Scored], bool] = lambda _: True,
    between: Callable[[], None] = lambda: None,
) -> Explored:
    """Score candidates that `strategy` asks for until n distinct feasible ones are scored or there are no more.

    Args:
        score: see `backend`; combine: scores by proxy -> one score (see `ranks.Combined`).
        path, key: the rows' file, and what it belongs to (everything that changes a row).
        had: scores that are there already, such as the reference's: these networks are not scored again.
        costs: of `params`, `macs`: further losses for the strategy.
        generation: most candidates asked at once; part of the result, unlike workers and chunks.
        progress: called with (feasible so far, candidate) after each.
        holds: whether a row of the file still counts; one that does not is scored anew.
        between: called before each generation; it may raise.

    Infeasible candidates are told to the strategy as pruned, with their violations, and are not scored.
    """
    there = {each.key: each for each in had}
    rows = Rows(path, key, _Drawn)
    known = {row["key"]: row for row in rows.rows if not row["feasible"] or holds(scored_of(row))}
    walk = _Walk(region, score, combine, rows, known, there, n, tuple(costs), progress)
    dry = 0
    while walk.n_feasible < n and not walk.is_sweeping:
        between()
        asks = strategy.ask(region.space, (), walk.history, generation, derive(seed, "ask", walk.generation))
        check_asks(asks)
        before = walk.n_feasible
        n_new = walk.add(region.space.parse(dict(ask.spec)) for ask in asks if ask.spec is not None)
        dry = dry + (len(asks) or PATIENCE // 50) if walk.n_feasible == before else 0
        size = region.space.size()
        if walk.n_feasible < n and (n_new == 0 or dry >= PATIENCE) and size is not None and size <= SWEEP:
            walk.is_sweeping = True
        elif dry >= PATIENCE:
            return walk.result("gave_up")
    if walk.n_feasible < n:
        every = list(region.space.every())
        order = iter(torch.randperm(len(every), generator=stream(seed, "sweep")).tolist())
        while walk.n_feasible < n and (batch := [every[i] for i in islice(order, generation)]):
            between()
            walk.add(batch)
    return walk.result("complete" if walk.n_feasible >= n else "exhausted")


class _Walk:
    """The rows so far and what follows from them; adding goes over known rows before it scores."""

    def __init__(
        self,
        region: Region,
        score: Score,
        combine: Callable[[Mapping[str, float | None]], float | None],
        rows: Rows,
        known: Mapping[str, dict[str, Any]],
        had: dict[str, Scored],
        n: int,
        costs: tuple[str, ...],
        progress: Callable[[int, Candidate], None] | None,
    ) -> None:
        self.region, self.score, self.combine, self.rows = region, score, combine, rows
        self.had, self.n, self.costs, self.progress = had, n, costs, progress
        self.known = known
        self.seen: set[str] = set()
        self.history: list[Trial] = []
        self.candidates: list[Candidate] = []
        self.generation, self.n_infeasible, self.is_sweeping = 0, 0, False
        self.error, self.n_broken = "", 0

    @property
    def n_feasible(self) -> int:
        return len(self.candidates)

    def add(self, specs: Iterable[Options]) -> int:
        """Score the specs that are new, in order, until there are n feasible; returns how many were new."""
        fresh = self._fresh(specs)
        scored: ChainMap[str, Scored] = ChainMap({}, self.had)
        at = self._flush(fresh, 0, scored)
        new = [row for row in fresh if row["feasible"] and row["key"] not in self.known and row["key"] not in scored]
        for chunk in self.score([row["spec"] for row in new], [Cost(row["params"], row["macs"]) for row in new]):
            scored.update((each.key, each) for each in chunk)
            at = self._flush(fresh, at, scored)
        if at < len(fresh):
            raise ValueError(f"no row came back for '{fresh[at]['key']}'")
        self.generation += 1
        return len(fresh)

    def _flush(self, fresh: Sequence[dict[str, Any]], at: int, scored: Mapping[str, Scored]) -> int:
        """Write and tell every row from `at` on that is ready; rows keep the order of drawing. Returns where it stopped."""
        new: list[dict[str, Any]] = []
        ready: list[dict[str, Any]] = []
        for stub in fresh[at:]:
            key = stub["key"]
            if key in self.known:
                row = self.known[key]
                ready.append({**row, "score": self.combine(row["scores"])} if row["feasible"] else row)
                continue
            if stub["feasible"]:
                if key not in scored:
                    break
                found = scored[key]
                stub = {**stub, **found.row(), "score": self.combine(found.scores)}
            new.append({"generation": self.generation, **stub})
            ready.append(new[-1])
        self.rows.append(new)
        for row in ready:
            self._tell(row)
        return at + len(ready)

    def _fresh(self, specs: Iterable[Options]) -> list[dict[str, Any]]:
        """Stubs of rows for the unseen specs, up to the n-th feasible."""
        found: list[dict[str, Any]] = []
        wanted = self.n - self.n_feasible
        for spec in specs:
            if wanted == 0:
                break
            canonical = self.region.space.canonical(spec)
            key = self.region.space.key(canonical)
            if key in self.seen:
                continue
            try:
                cost = self.region.cost(canonical)
            except FOREIGN as error:  # the space's own code
                self.seen.add(key)
                shown = canonical.model_dump(mode="json")
                found.append(
                    {"key": key, "spec": shown, "params": 0, "macs": 0, "feasible": False, "error": told(error)}
                )
                continue
            feasible = all(each <= 0 for each in self.region.violations(cost))
            if not feasible and self.is_sweeping:
                continue
            self.seen.add(key)
            wanted -= feasible
            shown = canonical.model_dump(mode="json")
            found.append({"key": key, "spec": shown, "params": cost.params, "macs": cost.macs, "feasible": feasible})
        return found

    def _tell(self, row: Mapping[str, Any]) -> None:
        violations = self.region.violations(Cost(row["params"], row["macs"]))
        number = len(self.history)
        if row.get("error"):
            self.n_infeasible += 1
            self.n_broken += 1
            self.error = self.error or row["error"]
            self.history.append(Trial(number, {}, row["spec"], "failed", error=row["error"]))
            return
        if not row["feasible"]:
            self.n_infeasible += 1
            self.history.append(Trial(number, {}, row["spec"], "pruned", violations=violations))
            return
        candidate = Candidate(scored_of(row), row["score"])
        self.candidates.append(candidate)
        if candidate.score is None:
            error = next(iter(candidate.scored.errors.values()), "no finite score")
            self.history.append(Trial(number, {}, row["spec"], "failed", violations=violations, error=error))
        else:
            losses = (-candidate.score, *(candidate.cost(name) for name in self.costs))
            self.history.append(Trial(number, {}, row["spec"], "complete", losses, violations))
        if self.progress:
            self.progress(self.n_feasible, candidate)

    def result(self, reason: Reason) -> Explored:
        return Explored(tuple(self.candidates), reason, self.n_infeasible, self.error, self.n_broken)


def scored_of(row: Mapping[str, Any]) -> Scored:
    """The scores in a row of candidates."""
    return Scored(**{each.name: row[each.name] for each in fields(Scored)})


def reference(
    region: Region,
    score: Score,
    path: Path,
    key: str,
    seed: int,
    n: int = REFERENCE,
    had: Iterable[Scored] = (),
    holds: Callable[[Scored], bool] = lambda _: True,
    between: Callable[[], None] = lambda: None,
) -> list[Scored]:
    """Scores of n candidates drawn from the whole region by a stream of their own, constraints aside; resumable like `explore`.

    `had`, `holds`: see there. `between`: called after each chunk, which is kept; it may raise.
    """
    drawn = reference_specs(region.space, seed, n)
    keys = [region.space.key(spec) for spec in drawn]
    rows = Rows(path, key, Scored)
    every = (*had, *(Scored(**row) for row in rows.rows))
    known = {each.key: each for each in every if holds(each)}
    missing = {key: spec.model_dump(mode="json") for key, spec in zip(keys, drawn, strict=True) if key not in known}
    for chunk in score(list(missing.values())):
        rows.append(each.row() for each in chunk)
        known.update({each.key: each for each in chunk})
        between()
    return [known[key] for key in keys]


def reference_specs(space: SearchSpace[Any], seed: int, n: int = REFERENCE) -> list[Options]:
    """The canonical specs, each once, that scores of this space and seed are ranked against; fewer where there are no more."""
    rng = stream(seed, "reference")
    found: dict[str, Options] = {}
    for _ in range(REDRAWS * n):
        if len(found) == n:
            break
        spec = space.canonical(space.sample(rng))
        found.setdefault(space.key(spec), spec)
    return list(found.values())


def select(candidates: Sequence[Candidate], keep: int, costs: Sequence[str] = ()) -> list[Candidate]:
    """The `keep` best, best score first.

    Without costs: by score. With costs (`params`, `macs`, to be minimised): front by front of (score, costs), the last front
    that does not fit thinned where it is crowded; the best score always stays. Ties go by canonical key; those without a score
    come last.
    """
    order = sorted(candidates, key=lambda each: (-_or_worst(each.score), each.scored.key))
    if not costs:
        return order[:keep]
    losses = [(-_or_worst(each.score), *(each.cost(name) for name in costs)) for each in order]
    scored = [i for i, each in enumerate(order) if each.score is not None]
    chosen: list[int] = []
    for members in _fronts_of(scored, losses, keep):
        room = keep - len(chosen)
        if room <= 0:
            break
        within = [members[k] for k in spread([losses[i] for i in members], room)]
        chosen += within
    chosen += [i for i in range(len(order)) if order[i].score is None][: max(keep - len(chosen), 0)]
    return [order[i] for i in sorted(chosen)]


def lost(region: Region, proxies: Sequence[str]) -> Callable[[Mapping[str, Any], str, Mapping[str, float]], Scored]:
    """For `backend.Remote`: the row of a candidate whose job died."""

    def row(spec: Mapping[str, Any], error: str, over: Mapping[str, float]) -> Scored:
        canonical = region.space.canonical(region.space.parse(dict(spec)))
        cost, none = region.cost(canonical), dict.fromkeys(proxies)
        shown = canonical.model_dump(mode="json")
        errors = {"process": error}
        return Scored(region.space.key(canonical), shown, cost.params, cost.macs, none, none, errors, over)

    return row


def _fronts_of(indices: Sequence[int], losses: Sequence[Sequence[float]], enough: int) -> Iterator[list[int]]:
    for members in fronts([losses[i] for i in indices], enough=enough):
        yield [indices[k] for k in members]


def _or_worst(score: float | None) -> float:
    return float("-inf") if score is None else score
