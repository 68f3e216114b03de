"""Stage `search`: thousands of candidates scored without training; the best that keep every constraint go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdsearch.errors import (
    FOREIGN,
    InterruptedRun,
    KdsearchError,
    PluginError,
    RefusedError,
    TrialError,
    UserError,
    one_of,
)
from kdsearch.kinds import Batch, Controller, Proxy, work_begins
from kdsearch.kinds.controller import check_asks
from kdsearch.kinds.targets import unknown
from kdsearch.report.values import general
from kdsearch.search.backend import Remote, Score, in_process, known_costs
from kdsearch.search.candidates import Candidate, Explored, Region, explore, lost, reference, rows_before, scored_of
from kdsearch.search.needs import check_needs, needing_none
from kdsearch.search.ranks import Combined
from kdsearch.search.scoring import TRIED, Scored, Scorer, cost_of, inits_of
from kdsearch.stages.asked import check_ask, check_drawn
from kdsearch.stages.costs import (
    bounds,
    most_params,
    needs_file,
    needs_latency,
    needs_quantized,
    ships_its_own,
)
from kdsearch.stages.keeping import Kept, keep_best
from kdsearch.stages.probe_teacher import probe_teacher
from kdsearch.stages.recall import highest, is_outgrown
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import append_line, read_lines
from kdsearch.store.hashing import class_digest, derive, stream
from kdsearch.study import summary
from kdsearch.study.names import proxies as proxy_uses
from kdsearch.study.names import proxy_weights
from kdsearch.training.adapted import adapts
from kdsearch.training.job import opened
from kdsearch.training.keys import SOURCE, Where
from kdsearch.training.materials import Materials
from kdsearch.training.tools import Address, Tools, address_of, limits_of

NAME = "search"
NEEDS = ("prepare",)
READS = (
    *(*SOURCE, "teachers", "students", "constraints", "search", "cost_objectives"),
    Where(needs_file, "export.exporter"),
    *(Where(needs_quantized, path) for path in ("compress.quantize", "recipe", "objectives", "measured")),
    Where(needs_file, "recipe.procedure"),
    Where(ships_its_own, "recipe"),
    Where(lambda materials: adapts(materials.recipe.procedure_cls), "recipe.procedure"),
)
ALWAYS = ("params", "macs")  # reported beside every proxy: a score that does not beat them must be seen not to
SHORT = 8  # candidates of the short list, where the study does not say how many go on
MOST = 1000  # candidates that go on where the study does not say how many: their scores are known, so they cost nothing
MEASURED = 24  # of them where each has to be exported and measured
RULE = 6  # by which candidates are refused, combined to one score and measured; those of another one are searched anew
FACTS = 3  # what is said of candidates; a search that says less is made anew
SCORE = "kdsearch.stages.search:score_job"  # the job that does so
CHUNK = 16  # candidates a job: a generation of the strategy keeps several processes busy
STANDS_IN = {
    "latency_ms": "macs",
    "onnx_bytes": "params",
    "peak_bytes": "macs",
}  # known by formula, for what is known of an exported file alone


def further(materials: Materials) -> dict[str, Any]:
    """The spaces as they are narrowed to the data, and handed over from Python; which roles ship, of several; and the machine where
    its latencies decide.
    """
    from kdsearch.deploy.latency import machine

    spaces = materials.spaces
    found = {role: f"{each.region!r}:{class_digest(type(each))}" for role, each in spaces.items()}
    ships = list(materials.ships) if len(spaces) > 1 else []
    measured = {"machine": machine()} if needs_latency(materials) else {}
    return {"spaces": found, "ships": ships, "facts": FACTS, "rule": RULE, **measured}


def is_stale(materials: Materials, made: Artifact) -> bool:
    """Whether candidates in it were lost to a limit that is higher now. It then is an input of the one that takes its place."""
    return is_outgrown(materials, made.facts["over"])


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.search
    n = sum(summary.scored(section.candidates, space.size()) for space in materials.spaces.values())
    tools.progress.begin(NAME, n)
    before = inputs.get(NAME)
    roles, met = {}, []
    for role in materials.spaces:
        roles[role], over = _one_role(materials, role, before, tools, work, out)
        met.append(over)
    grown_from = [*before.facts["grown_from"], before.key] if before else []
    return {"roles": roles, "over": highest(met), "grown_from": grown_from}


def scorer_of(materials: Materials, role: str) -> Scorer:
    """The proxies of the study on its probe; a pure function of the study, so that every process makes the same."""
    made = {use.use: materials.make("proxy", use, path) for use, path in proxy_uses(materials.study)}
    for name in ALWAYS:
        if name not in made and name in materials.host.names("proxy"):
            from kdsearch.study.schema import Use

            made[name] = materials.make("proxy", Use(use=name, options={}), "search.proxy")
    return scorer_with(materials, role, made, ranks=materials.spaces[role].size() != 1)


def scorer_with(materials: Materials, role: str, proxies: Mapping[str, Proxy[Any]], ranks: bool = True) -> Scorer:
    """These proxies on the study's probe, against its teacher with fresh weights. `ranks`: see `Scorer`."""
    section = materials.study.config.search
    if ranks:
        check_needs(proxies, materials.io, materials.host)
    seed = derive(materials.seed, "probe") % 2**31
    teacher, note, fed = None, "", None
    if any(proxy.needs_teacher for proxy in proxies.values()):
        teacher, note, fed = probe_teacher(materials, role, seed, proxies.values())
    return Scorer(
        materials.spaces[role],
        materials.io,
        materials.task,
        proxies,
        batch=_probe_batch(materials),
        teacher=teacher,
        teacher_note=note,
        teacher_fed=fed,
        probe_seed=seed,
        init_seeds=inits_of(seed, section.probe.seeds),
        batch_size=section.probe.batch_size,
        ranks=ranks,
    )


def seed_of(materials: Materials, role: str) -> int:
    """Of the strategy, and of the architectures that several proxies are ranked among."""
    return derive(materials.seed, "search", role) % 2**31


def check(materials: Materials) -> None:
    """What can be known of a search before the teacher is trained: that proxies score these networks, and the strategy asks.

    Raises:
        UserError: naming the key of the study that is wrong.
    """
    keys = {f"proxy {use.use}": path for use, path in proxy_uses(materials.study)}
    for role, space in materials.spaces.items():
        try:
            with materials.host.naming("search_space", materials.study.students[role].space):
                check_drawn(space, stream(materials.seed, "drawn", role))
            scorer = scorer_of(materials, role)
            scorer.check()
        except UserError as error:
            error.path = keys.get(error.path, error.path)
            if not error.path and error.file is None:
                error.path = f"{materials.study.path_of_student(role)}.space"
            raise materials.study.place(error) from error.__cause__
        for name, why in scorer.silent().items() if scorer.ranks else ():
            if f"proxy {name}" in keys:
                raise _silent(materials, name, TRIED, why)
        strategy = _strategy(materials, role)
        named = materials.host.naming("controller", materials.study.config.search.strategy.use)
        with materials.asking(strategy, "search.strategy"), named:
            asks = strategy.ask(space, (), [], 1, seed_of(materials, role))
            check_asks(asks)
            for ask in asks:
                check_ask(ask, ())


def _probe_batch(materials: Materials) -> Batch | None:
    probe = materials.study.config.search.probe
    if probe.input == "noise":
        return None
    split = materials.data.split("train")
    import torch

    chosen = torch.randperm(len(split.ids), generator=stream(materials.seed, "probe"))[: probe.batch_size]
    batch = split.load(chosen.tolist())
    noise = materials.task.dummy(materials.io, len(batch), stream(materials.seed, "probe", "labels"))
    for each in materials.task.targets(materials.data.fields):
        if each.name in batch and each.name in noise and (hidden := unknown(batch[each.name])).any():
            batch = batch.having(**{each.name: torch.where(hidden, noise[each.name], batch[each.name])})
    return batch


def search_costs(objectives: Iterable[str]) -> list[str]:
    """The costs that a search minimises beside the score: of those that need an exported file, what stands in."""
    stated = {STANDS_IN.get(name, name) for name in objectives}
    return [name for name in ALWAYS if name in stated]


def _costs_beside(materials: Materials, role: str) -> list[str]:
    """What a search for this role minimises beside the score."""
    return search_costs(materials.cost_objectives) if role in materials.ships else []


def _strategy(materials: Materials, role: str) -> Controller[Any]:
    n_objectives = 1 + len(_costs_beside(materials, role))
    return materials.controller(materials.study.config.search.strategy, "search.strategy", n_objectives)


def _one_role(
    materials: Materials, role: str, before: Artifact | None, tools: Tools, work: Path, out: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """What there is to say of the role's candidates, and the limits that some were lost to.

    before: the search whose candidates are known, but for those that a lower limit ended.
    """
    region, scorer = _region(materials, role), scorer_of(materials, role)
    costs = _costs_beside(materials, role)
    explored, sample = _explored(materials, role, region, scorer, costs, before, tools, work)
    _refuse_none(materials, role, explored)
    unscored = _unscored(materials, explored)
    if unscored and (scorer.ranks or any("build" in each.scored.errors for each in explored.candidates)):
        raise _silent(materials, unscored[0][0], len(explored.candidates), unscored[0][1])
    kept = _kept(materials, role, explored, costs, tools, work)
    chosen = {each["key"] for each in kept.rows if each["short"]}
    for each in explored.candidates:
        row = each.scored.row()
        append_line(out / f"candidates-{role}.jsonl", {**row, "score": each.score, "kept": row["key"] in chosen})
    for scored in sample:
        append_line(out / reference_name(role), scored.row())
    notes = list(scorer.notes.values()) if scorer.ranks else []  # of one network nobody asks how it was scored
    if explored.error:
        notes.append(f"some candidates cannot be built, the first as: {explored.error}")
    if kept.unwritten:
        first = next(iter(kept.unwritten.values()))
        notes.append(
            f"{len(kept.unwritten)} candidates do not go on, as no file of them can be written, the first as: {first.problem}"
        )
    tools.progress.say(
        f"search: {explored.message}; {going_on(kept.rows)}" + "".join(f"\n  note: {note}" for note in notes)
    )
    facts = {
        "candidates": len(explored.candidates),
        "infeasible": explored.n_infeasible,
        "reason": explored.reason,
        "message": explored.message,
        "proxies": [use.use for use, _ in proxy_uses(materials.study)],
        "kept": kept.rows,
        "largest": kept.largest,
        "cheapest": kept.cheapest,
        "families": kept.families,
        "notes": notes,
    }
    return facts, highest(each.over for each in (*sample, *(each.scored for each in explored.candidates)))


def going_on(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many go on, for people: a controller of `refine` that looks at no scores is offered the short list alone."""
    n, short = len(rows), sum(each["short"] for each in rows)
    return f"{n} go on" + (f" (the best {short} of them, where the controller looks at no scores)" if short < n else "")


def _region(materials: Materials, role: str) -> Region:
    """The space within what params and MACs may be; a helper of the training may be as large as it is."""
    limits: dict[str, float] = {}
    if role in materials.ships:
        limits = {name: limit for name, limit in bounds(materials).items() if name in ALWAYS}
        if (most := most_params(materials, role)) is not None:
            limits["params"] = min(limits.get("params", float("inf")), most)
    return Region(materials.spaces[role], materials.io, materials.task, limits)


def _explored(
    materials: Materials,
    role: str,
    region: Region,
    scorer: Scorer,
    costs: Sequence[str],
    before: Artifact | None,
    tools: Tools,
    work: Path,
) -> tuple[Explored, list[Scored]]:
    """Every candidate that the strategy asked for, scored; and the fixed sample that several proxies are ranked in."""
    section = materials.study.config.search
    seed = seed_of(materials, role)
    file, key, base = work / f"candidates-{role}.jsonl", work.name, tools.progress.done
    top: list[tuple[float, int]] = []  # best score so far and its params

    def between() -> None:
        if tools.stop():
            raise InterruptedRun("stopped; scored candidates are kept")

    def seen(n: int, scored: Candidate) -> None:
        between()
        if scored.score is not None and (not top or scored.score > top[0][0]):
            top[:] = [(scored.score, scored.scored.params)]
        best = f"best score {top[0][0]:.4g} at {top[0][1]:,} params" if top else ""
        tools.progress.at(base + n, best=best)

    def holds(scored: Scored) -> bool:
        return not is_outgrown(materials, scored.over)

    score = _backend(materials, role, scorer, region, tools)
    known = [each for each in scored_before(before, role) if holds(each)]
    tools.progress.had(rows_before(file, key))
    sample: list[Scored] = []
    if len(proxy_uses(materials.study)) > 1:
        sample = reference(
            region, score, work / reference_name(role), key, seed, had=known, holds=holds, between=between
        )
    explored = explore(
        region,
        _strategy(materials, role),
        score,
        Combined(proxy_weights(materials.study), [each.scores for each in sample]),
        file,
        key,
        section.candidates,
        seed,
        had=(*known, *sample),
        costs=costs,
        progress=seen,
        holds=holds,
        between=between,
    )
    return explored, sample


def most_kept(materials: Materials, role: str) -> int:
    """How many candidates go on at most."""
    is_measured = role in materials.ships and needs_file(materials)
    return materials.study.config.search.keep or (MEASURED if is_measured else MOST)


def measured(materials: Materials) -> int:
    """How many architectures' files are written at least, where limits are of files."""
    n, roles = materials.study.config.search.candidates, materials.ships if needs_file(materials) else ()
    return sum(min(most_kept(materials, role), summary.scored(n, materials.spaces[role].size())) for role in roles)


def few_offered(materials: Materials) -> list[str]:
    """Where `refine` has more trials than networks to choose from, and the study does not say how many these are: so."""
    section, trials = materials.study.config.search, materials.study.config.refine.trials
    reads_facts = materials.host.load_class("controller", materials.study.config.refine.controller.use).reads_facts
    found = []
    for role, space in materials.spaces.items():
        kept = most_kept(materials, role) if reads_facts else SHORT
        n = summary.scored(section.candidates, space.size())
        if section.keep is None and kept < min(n, trials):
            why = "whose files are measured beforehand" if reads_facts else "by score"
            of = f" of '{role}'" if len(materials.spaces) > 1 else ""
            found.append(
                f"refine: {trials} trials choose from {kept} networks{of}, {why}, beside those of `refine.first`; "
                f"`search.keep` sets how many (here up to {n:,})."
            )
    return found


def _kept(materials: Materials, role: str, explored: Explored, costs: Sequence[str], tools: Tools, work: Path) -> Kept:
    """Those that go on. Raise RefusedError where no file keeps its limits, or none can be written."""
    short, keep = materials.study.config.search.keep or SHORT, most_kept(materials, role)
    kept = keep_best(materials, role, explored.candidates, keep, costs, work, tools, short)
    if not kept.rows:
        limits = bounds(materials)
        best = "; ".join(
            f"{name} {general(round(limits[name] * (1 + over), 9))}, limit {general(limits[name])}"
            for name, over in kept.broken[0].items()
        )
        broken = one_of({name for each in kept.broken for name in each})
        raise RefusedError(
            f"none of {len(kept.broken)} exported candidates keeps the constraints (best: {best}), and by these no other would",
            path="constraints",
            fix=f"Relax {broken}, or widen the space.",
        )
    return kept


def reference_name(role: str) -> str:
    """The file of an artifact with the scores that the candidates' are ranked against."""
    return f"reference-{role}.jsonl"


def scored_before(before: Artifact | None, role: str) -> list[Scored]:
    """Candidates and reference of an earlier search."""
    if before is None:
        return []
    files = (before.path / f"candidates-{role}.jsonl", before.path / reference_name(role))
    return [scored_of(row) for file in files for row in read_lines(file)]


def _refuse_none(materials: Materials, role: str, explored: Explored) -> None:
    """Raise where there is no candidate: PluginError of a space that builds none, RefusedError of limits that none keeps."""
    if explored.candidates:
        return
    if explored.n_broken == explored.n_infeasible and explored.error:
        problem = f"no candidate is left: networks of '{materials.study.students[role].space}' cannot be built: {explored.error}"
        raise materials.study.place(PluginError(problem, path=f"{materials.study.path_of_student(role)}.space"))
    raise RefusedError(
        _nothing_feasible(materials, role, explored),
        path="constraints",
        fix="Relax a constraint or widen the space.",
    )


def _unscored(materials: Materials, explored: Explored) -> list[tuple[str, str]]:
    """(proxy, why) of those that scored none of the candidates."""
    rows, found = [each.scored for each in explored.candidates], []
    for use, _ in proxy_uses(materials.study):
        if any(row.scores[use.use] is not None for row in rows):
            continue
        names = (use.use, "build", "process")
        found.append((use.use, next((row.errors[name] for row in rows for name in names if name in row.errors), "")))
    return found


def _silent(materials: Materials, name: str, n: int, why: str) -> KdsearchError:
    """What a proxy ranks that scores nothing would be ranked by nothing."""
    path = next(path for use, path in proxy_uses(materials.study) if use.use == name)
    others = [each for each in needing_none(materials.host) if each != name]
    problem = f"proxy '{name}' scored none of {n:,} candidates, the first: {why or 'no finite number'}"
    return materials.study.place(TrialError(problem, path=path, fix=f"Mend it, or use {one_of(others)}."))


def _backend(materials: Materials, role: str, scorer: Scorer, region: Region, tools: Tools) -> Score:
    executor = tools.executor(materials)
    if not executor.remote:
        return in_process(scorer)
    limits, address = limits_of(materials), address_of(materials, tools)
    return Remote(
        executor,
        SCORE,
        {"address": address, "role": role},
        lost(region, list(scorer.proxies)),
        chunk=CHUNK,
        threads=materials.study.config.run.threads_per_trial,
        timeout_s=limits.timeout_s,
        memory_bytes=limits.memory_bytes,
        folder=address["dir"],
    )


def score_job(
    address: Mapping[str, Any], role: str, specs: Sequence[Mapping[str, Any]], costs: Sequence[Sequence[int]] = ()
) -> list[dict[str, Any]]:
    """Score a chunk of candidates in a process of the executor; returns their rows."""
    at = Address(**address)
    study = opened(at)
    if role not in study.scorers:
        study.scorers[role] = scorer_of(study.seen(at), role)
    study.scorers[role].check()
    work_begins()
    return [row.row() for row in study.scorers[role].score_all(specs, known_costs(costs))]


def _nothing_feasible(materials: Materials, role: str, explored: Explored) -> str:
    space, rng = materials.spaces[role], stream(materials.seed, "smallest", role)
    costs = []
    for _ in range(64):
        with suppress(*FOREIGN):  # what the space's own code cannot tell of one network
            costs.append(cost_of(space, space.sample(rng), materials.io, materials.task))
    least = min(costs, key=lambda cost: cost.params, default=None)
    smallest = f"; the smallest of a sample has {least.params:,} params and {least.macs:,} MACs" if least else ""
    known = (*ALWAYS, "onnx_bytes") if most_params(materials, role) is not None else ALWAYS
    stated = ", ".join(f"{name} <= {limit:,}" for name, limit in bounds(materials).items() if name in known)
    name = materials.study.students[role].space
    return f"no candidate of '{name}' keeps {stated} ({explored.n_infeasible:,} were tried){smallest}"
