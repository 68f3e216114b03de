"""A search ends the same however it was cut into chunks, workers and runs."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdsearch_plugins.zero_cost import size
from search_toy import TOY_IO, CountedSpace, Size, ToySpace, ToyTask, score_job, toy_scorer
from torch import Tensor, nn

from kdsearch.builtin.controllers.evolution import Evolution, EvolutionOptions
from kdsearch.builtin.controllers.exhaustive import Exhaustive
from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.controllers.random import Random
from kdsearch.builtin.executors import InProcess
from kdsearch.builtin.processes import Processes, ProcessesOptions
from kdsearch.errors import InterruptedRun, UserError
from kdsearch.kinds import Ask, Controller, Cost, NoOptions, Trial
from kdsearch.search import scoring
from kdsearch.search.backend import Remote, Score, Spec, in_process
from kdsearch.search.candidates import Candidate, Explored, Region, _Walk, explore, lost, reference, select
from kdsearch.search.ranks import Combined
from kdsearch.search.scoring import Scored, Scorer

NAMES = ["size", "energy"]
STRATEGIES = {
    "random": Random(NoOptions()),
    "evolution": Evolution(EvolutionOptions(population=6, sample=3)),
    "elitist": Evolution(
        EvolutionOptions(population=6, survivors="best", n_start=3, start="default", sample=1, mutations=2)
    ),
    "nsga2": Optuna(OptunaOptions(sampler="nsga2", population=4)),
    "tpe": Optuna(OptunaOptions(n_startup=4)),
    "exhaustive": Exhaustive(NoOptions()),
}


def region(**limits: float) -> Region:
    return Region(ToySpace(), TOY_IO, ToyTask(NoOptions()), limits)


def search(
    path: Path, score: Score, strategy: Controller | None = None, n: int = 9, limits: Any = None, **options: Any
) -> Explored:
    where = region(**({"params": 600} if limits is None else limits))
    rows = reference(where, score, path / "reference.jsonl", "k", 0, 12)
    combine = Combined(NAMES, [each.scores for each in rows])
    strategy = strategy or STRATEGIES["random"]
    given = {"had": rows, "generation": 5, **options}
    return explore(where, strategy, score, combine, path / "candidates.jsonl", "k", n, 0, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Explored, bytes]:
    path = tmp_path_factory.mktemp("whole")
    found = search(path, in_process(toy_scorer(NAMES)))
    return found, (path / "candidates.jsonl").read_bytes()


def test_distinct_feasible_candidates_of_the_space(whole: tuple[Explored, bytes]) -> None:
    found, _ = whole
    assert found.reason == "complete"
    assert len({each.scored.key for each in found.candidates}) == 9
    assert all(each.scored.params <= 600 and each.score is not None for each in found.candidates)
    assert found.message == "9 feasible candidates scored"


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_search_cut_anywhere_goes_on_to_the_same_file_and_scores_no_row_again(
    tmp_path: Path, strategy: Controller
) -> None:
    scorer = toy_scorer(NAMES)
    expected = search(tmp_path / "whole", in_process(scorer, chunk=2), strategy, costs=("macs",))
    raw = (tmp_path / "whole" / "candidates.jsonl").read_bytes()
    for cut in (10, len(raw) // 3, len(raw) // 2, len(raw) - 1, len(raw)):
        path = tmp_path / str(cut)
        path.mkdir()
        (path / "candidates.jsonl").write_bytes(raw[:cut])
        asked: list[Spec] = []

        def counted(
            specs: Sequence[Spec], costs: Sequence[Cost] = (), asked: list[Spec] = asked
        ) -> Iterator[list[Scored]]:
            asked.extend(specs)
            yield from in_process(scorer, chunk=3)(specs)

        again = search(path, counted, strategy, costs=("macs",))
        assert again == expected
        assert (path / "candidates.jsonl").read_bytes() == raw
        n_rows = raw[:cut].count(b"\n") - 1
        assert len(asked) <= 12 + len(expected.candidates) - max(n_rows - expected.n_infeasible, 0)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_what_the_reference_scored_is_not_scored_again(tmp_path: Path, strategy: Controller) -> None:
    scorer, asked, again = toy_scorer(NAMES), [], []

    def counted(specs: Sequence[Spec], costs: Sequence[Cost] = (), asked: list[str] = asked) -> Iterator[list[Scored]]:
        for chunk in in_process(scorer)(specs):
            asked.extend(each.key for each in chunk)
            yield chunk

    found = search(tmp_path / "shared", counted, strategy)
    assert len(asked) == len(set(asked))
    reference_keys, searched = set(asked[:12]), {each.scored.key for each in found.candidates}
    assert reference_keys & searched, "the two share networks, else this shows nothing"

    def apart(specs: Sequence[Spec], costs: Sequence[Cost] = ()) -> Iterator[list[Scored]]:
        yield from counted(specs, costs, again)

    assert search(tmp_path / "apart", apart, strategy, had=()) == found
    assert len(again) > len(asked)
    files = [(tmp_path / name / "candidates.jsonl").read_bytes() for name in ("shared", "apart")]
    assert files[0] == files[1]


def test_processes_give_the_file_of_this_process(tmp_path: Path, whole: tuple[Explored, bytes]) -> None:
    executor = Processes(ProcessesOptions())
    executor.slots = 2
    remote = Remote(executor, "search_toy:score_job", {"names": NAMES}, lost(region(), NAMES), chunk=2)
    found = search(tmp_path, remote)
    executor.close()
    assert found == whole[0]
    assert (tmp_path / "candidates.jsonl").read_bytes() == whole[1]


def test_an_in_process_executor_gives_the_same(tmp_path: Path, whole: tuple[Explored, bytes]) -> None:
    remote = Remote(InProcess(NoOptions()), "search_toy:score_job", {"names": NAMES}, lost(region(), NAMES), chunk=7)
    assert search(tmp_path, remote) == whole[0]
    assert score_job([], NAMES) == []


def test_a_candidate_that_kills_its_process_costs_only_itself() -> None:
    executor = Processes(ProcessesOptions())
    executor.slots = 2
    remote = Remote(
        executor, "search_toy:score_job", {"names": ["size"], "is_deadly": True}, lost(region(), ["size"]), chunk=3
    )
    specs = [{"depth": d, "width": w, "norm": True, "alias": 0} for d, w in [(1, 2), (3, 6), (2, 2), (1, 4)]]
    rows = [row for chunk in remote(specs) for row in chunk]
    executor.close()
    assert [row.spec for row in rows] == specs
    assert [row.scores["size"] is None for row in rows] == [False, True, False, False]
    assert "exit code 5" in rows[1].errors["process"]
    assert rows[1].params == ToySpace().cost(ToySpace().parse(specs[1]), TOY_IO).params


def test_an_error_of_the_study_ends_the_search() -> None:
    remote = Remote(InProcess(NoOptions()), "search_toy:wrong_job", {}, lost(region(), ["size"]))
    with pytest.raises(UserError, match="the study is wrong"):
        list(remote([{"depth": 1}]))


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_space_is_searched_to_its_end(tmp_path: Path, strategy: Controller) -> None:
    space = ToySpace()
    fair = {space.key(spec) for spec in space.every() if space.cost(spec, TOY_IO).params <= 600}
    found = search(tmp_path, in_process(toy_scorer(NAMES)), strategy, n=1000)
    assert found.reason == "exhausted"
    assert {each.scored.key for each in found.candidates} == fair
    assert found.n_infeasible <= 24 - len(fair)
    assert "holds no more" in found.message


def test_nothing_feasible_is_said(tmp_path: Path) -> None:
    found = search(tmp_path, in_process(toy_scorer(NAMES)), n=3, limits={"params": 1})
    assert (found.candidates, found.reason) == ((), "exhausted")


def test_drawing_gives_up_where_the_space_is_too_large_to_enumerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySpace, "size", lambda self: None)
    found = search(tmp_path, in_process(toy_scorer(NAMES)), n=1000)
    assert found.reason == "gave_up"
    assert len(found.candidates) >= 14
    assert "3,200 draws" in found.message


def test_a_generation_does_not_go_over_all_known_rows() -> None:
    class Known(dict[str, Any]):
        """Rows that are only looked up."""

        def __iter__(self) -> Any:
            raise AssertionError("gone over")

        keys = values = items = __iter__

    def none(_: Any) -> None:
        return None

    rows: Any = SimpleNamespace(append=list)
    walk = _Walk(region(), in_process(toy_scorer(NAMES)), none, rows, Known(), {}, 3, (), None)
    assert walk.add([]) == 0


def test_progress_counts_feasible_candidates(tmp_path: Path) -> None:
    seen: list[int] = []
    search(tmp_path, in_process(toy_scorer(NAMES)), progress=lambda n, candidate: seen.append(n))
    assert seen == list(range(1, 10))


def test_who_asks_for_an_end_is_heeded_whatever_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing that is drawn keeps the limits, in a space without end, and among those to rank by."""
    monkeypatch.setattr(ToySpace, "size", lambda self: None)
    score, calls = in_process(toy_scorer(NAMES), chunk=2), iter(range(3))

    def stop() -> None:
        if next(calls, None) is None:
            raise InterruptedRun("stopped")

    with pytest.raises(InterruptedRun):
        search(tmp_path, score, limits={"params": 1}, between=stop)
    calls = iter(range(3))
    with pytest.raises(InterruptedRun):
        reference(region(), score, tmp_path / "ranked.jsonl", "k", 0, 12, between=stop)
    assert len((tmp_path / "ranked.jsonl").read_text().splitlines()) == 1 + 4 * 2, "what is scored is kept"


def test_a_strategy_is_told_losses_costs_and_violations(tmp_path: Path) -> None:
    told: list[Sequence[Trial]] = []

    class Spy(Random):
        def ask(self, space: Any, dims: Any, history: Sequence[Trial], n: int, seed: int) -> list[Ask]:
            told.append(list(history))
            return super().ask(space, dims, history, n, seed)

    score, combine, space = in_process(toy_scorer(["lost"])), Combined(["lost"]), ToySpace()
    where = region(params=400, macs=20_000)
    explore(where, Spy(NoOptions()), score, combine, tmp_path / "c", "k", 12, 1, costs=("macs",), generation=4)
    last = told[-1]
    assert [trial.number for trial in last] == list(range(len(last)))
    assert {trial.state for trial in last} == {"complete", "failed", "pruned"}
    for trial in last:
        cost = space.cost(space.parse(trial.spec), TOY_IO)
        assert trial.violations == ((cost.macs - 20_000) / 20_000, (cost.params - 400) / 400)
        if max(trial.violations) > 0:
            assert (trial.state, trial.losses) == ("pruned", ())
        elif trial.spec["width"] == 2 or (trial.spec["depth"] == 3 and trial.spec["norm"]):
            assert (trial.state, trial.losses) == ("failed", ())
        else:
            assert (trial.state, trial.losses) == ("complete", (-float(trial.spec["width"]), float(cost.macs)))


def candidate(score: float | None, params: int, macs: int = 0) -> Candidate:
    return Candidate(Scored(f"{score}/{params}/{macs}", {}, params, macs, {}, {}), score)


def test_select_by_score_with_nulls_last() -> None:
    pool = [candidate(1.0, 5), candidate(None, 1), candidate(3.0, 9), candidate(2.0, 7)]
    assert [each.score for each in select(pool, 3)] == [3.0, 2.0, 1.0]
    assert [each.score for each in select(pool, 9)] == [3.0, 2.0, 1.0, None]
    assert [each.score for each in select(pool, 9, ("params",))] == [3.0, 2.0, 1.0, None]


def test_select_front_by_front_and_spread() -> None:
    front = [candidate(float(10 - i), 100 - 10 * i) for i in range(10)]
    behind = [candidate(0.5, 95), candidate(0.6, 96)]
    chosen = select(behind + front, 4, ("params",))
    assert all(each in front for each in chosen)
    assert front[0] in chosen
    assert front[9] in chosen
    gaps = [a.score - b.score for a, b in pairwise(chosen)]
    assert max(gaps) <= 5
    assert len(select(behind + front, 11, ("params",))) == 11
    assert select(behind + front, 1, ("params",)) == [front[0]]
    assert select([*behind, *front][::-1], 4, ("params",)) == chosen


def test_several_costs() -> None:
    best, small, quick, bad = candidate(5.0, 9, 9), candidate(1.0, 1, 9), candidate(1.0, 9, 1), candidate(0.9, 9, 9)
    assert select([bad, quick, small, best], 3, ("params", "macs")) == [best, small, quick]


def test_what_cannot_be_built_fails_alone_and_is_told(tmp_path: Path) -> None:
    class Fails(CountedSpace):
        def build(self, spec: Any, io: Any) -> Any:
            if spec.depth == 3:
                raise RuntimeError("no such network")
            return super().build(spec, io)

    where = Region(Fails(), TOY_IO, ToyTask(NoOptions()), {})
    score = in_process(Scorer(Fails(), TOY_IO, ToyTask(NoOptions()), {"size": Size(NoOptions())}))
    found = [
        explore(where, STRATEGIES["random"], score, Combined(["size"]), tmp_path / "c.jsonl", "k", 99, 0)
        for _ in range(2)
    ]
    assert found[0] == found[1], "read from the file"
    assert found[0].reason == "exhausted"
    assert len(found[0].candidates) == 16
    assert found[0].error.startswith("RuntimeError: no such network (in build, test_candidates.py:")
    assert (found[0].n_infeasible, found[0].n_broken) == (8, 8)


def test_a_network_is_counted_once_in_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one is allowed, what its row says and what a proxy asks of it: one count. A network of the reference has its own."""
    counted: list[int] = []
    macs = scoring.multiply_accumulates

    def counting(module: nn.Module, inputs: Sequence[Tensor]) -> int:
        counted.append(1)
        return macs(module, inputs)

    for each in (scoring, size):
        monkeypatch.setattr(each, "multiply_accumulates", counting)
    proxies = {"size": Size(NoOptions()), "macs": size.Macs(NoOptions())}
    scorer = Scorer(CountedSpace(), TOY_IO, ToyTask(NoOptions()), proxies)
    scorer.check()
    counted.clear()
    where = Region(CountedSpace(), TOY_IO, ToyTask(NoOptions()), {"params": 600})
    path = tmp_path / "c.jsonl"
    found = explore(where, STRATEGIES["random"], in_process(scorer), Combined(["macs"]), path, "k", 99, 0)
    assert len(counted) == len(found.candidates) + found.n_infeasible
    formula = {ToySpace().key(spec): ToySpace().cost(spec, TOY_IO) for spec in ToySpace().every()}
    for each in found.candidates:
        told = formula[each.scored.key]
        assert (each.scored.params, each.scored.macs) == (told.params, told.macs)
        assert each.scored.scores["macs"] == pytest.approx(math.log(told.macs))


def test_a_job_is_told_the_costs(tmp_path: Path) -> None:
    """As its arguments, which are JSON: rows say what was counted before, whatever the job's own space would say."""
    remote = Remote(
        InProcess(NoOptions()), "search_toy:score_job", {"names": ["size"]}, lost(region(), ["size"]), chunk=2
    )
    specs = [{"depth": depth, "width": 2, "norm": True, "alias": 0} for depth in (1, 2, 3)]
    costs = [Cost(10 + i, 20 + i) for i in range(3)]
    rows = [row for chunk in remote(specs, costs) for row in chunk]
    assert [(row.params, row.macs) for row in rows] == [(each.params, each.macs) for each in costs]
