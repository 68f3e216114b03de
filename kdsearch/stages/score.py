"""Scoring architectures without a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.engine.setup import Site
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, SearchSpace
from kdsearch.search.scoring import Scored, Scorer, random_teacher
from kdsearch.stages.materials import make, seeded_build
from kdsearch.store.hashing import derive, stream
from kdsearch.study.code import is_code, load_code
from kdsearch.study.schema import Use

DRY = 1000  # draws in a row without a new spec after which the space counts as drawn out


def scores_of(
    space_name: str,
    proxies: tuple[str, ...],
    archs: Path | None,
    sample: int | None,
    teacher: str | None,
    data: str | None,
    seed: int,
    allow_code: tuple[str, ...],
    progress: bool,
) -> dict[str, Any]:
    """Rows in the order of the file or of drawing. `teacher`: a spec of the space as JSON; default: the space's own."""
    from kdsearch.stages.tools import Progress

    host = Host.load()
    if sample is not None and sample < 1:
        raise StudyError(f"got {sample}", path="--sample", expected="1 or more")
    if is_code(space_name):
        cls = load_code(space_name, allow_code, Path(), "--space")
        if not (isinstance(cls, type) and issubclass(cls, SearchSpace)):
            raise StudyError(f"'{space_name}' is {cls!r}", path="--space", expected="a subclass of kinds.SearchSpace")
    else:
        cls = host.load_class("search_space", space_name)
    space: SearchSpace[Any] = cls()
    made = {name: make(host, "proxy", Use(use=name, options={}), f"--proxies {name}") for name in proxies}
    task = make(host, "task", Use(use="classification", options={}), "task")
    io, batch = _input(host, space, task, data, seed)
    space = space.narrowed(io)
    teacher_spec = None if teacher is None else _spec(space, teacher, "--teacher", None)
    scorer = scorer_on(space, io, task, made, batch, teacher_spec, seed)
    specs = _asked(space, archs, sample, seed)
    bar = Progress(progress)
    bar.begin("score", len(specs))
    rows: list[Scored] = []
    for i, spec in enumerate(specs):
        rows.append(scorer.score(spec))
        bar.at(i + 1)
    bar.end()
    return {
        "space": space_name,
        "proxies": list(proxies),
        "data": data or "noise " + ", ".join("x".join(str(size) for size in each.sizes) for each in io.inputs),
        "seed": seed,
        "notes": list(scorer.notes.values()),
        "rows": [row.row() for row in rows],
        "text": "\n".join([_table(rows, proxies), *(f"{name}: {note}" for name, note in scorer.notes.items())]),
    }


def scorer_on(
    space: SearchSpace[Any],
    io: IO,
    task: Any,
    proxies: Mapping[str, Any],
    batch: Batch | None,
    teacher: Any,
    seed: int,
) -> Scorer:
    """A Scorer with the random teacher that its proxies need: of this spec, or the space's own."""
    model = None
    if any(proxy.needs_teacher for proxy in proxies.values()):
        default = teacher is None
        model = (
            random_teacher(space, io, seed) if default else seeded_build(space, teacher, io, derive(seed, "teacher"))
        )
    return Scorer(space, io, task, proxies, batch=batch, teacher=model, probe_seed=seed, init_seeds=(seed,))


def _asked(space: SearchSpace[Any], archs: Path | None, sample: int | None, seed: int) -> list[Any]:
    if archs is None:
        rng = stream(seed, "sample")
        found: dict[str, Any] = {}
        wanted = 10 if sample is None else sample
        stale = 0
        while len(found) < wanted and stale < DRY:
            spec = space.sample(rng)
            stale = stale + 1 if space.key(spec) in found else 0
            found.setdefault(space.key(spec), spec)
        return list(found.values())
    if not archs.is_file():
        raise DataError("no such file", file=archs, expected="one architecture a line")
    try:
        lines = archs.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start})", file=archs) from None
    specs = [_spec(space, line, str(archs), number) for number, line in enumerate(lines, 1) if line.strip()]
    if not specs:
        raise DataError("no spec in the file", file=archs, expected="one architecture a line")
    return specs


def _spec(space: SearchSpace[Any], text: str, file: str, line: int | None) -> Any:
    try:
        return space.decode(text.strip())
    except StudyError as error:
        raise error.at(file=file, line=line) from None


def _input(host: Host, space: SearchSpace[Any], task: Any, data: str | None, seed: int) -> tuple[IO, Batch | None]:
    """The networks' inputs and outputs and the probe's batch: seeded noise, or training samples of a data set."""
    if data is None:
        return space.example_io(), None
    import torch

    dataset = make(host, "dataset", Use(use=data, options={}), "--data")
    source = dataset.open(Site(seed, Path()))
    split = arrange(source, labeled=1.0, validation=0.15, test=0.2, train_samples=None, seed=seed).split("train")
    chosen = torch.randperm(len(split.ids), generator=stream(seed, "probe"))[:32]
    return task.io(source.fields, source.facts), split.load(chosen.tolist())


def _table(rows: list[Scored], proxies: tuple[str, ...]) -> str:
    """Best by the first proxy on top; what gave no score says why."""
    lines = ["  ".join([*(f"{name:>12}" for name in proxies), f"{'n_params':>10}", f"{'n_macs':>12}", "architecture"])]
    for row in sorted(rows, key=lambda each: _order(each.scores[proxies[0]])):
        shown = [f"{row.scores[name]:>12.5g}" if row.scores[name] is not None else f"{'-':>12}" for name in proxies]
        why = "; ".join(f"{name}: {error}" for name, error in row.errors.items())
        lines.append("  ".join([*shown, f"{row.params:>10,}", f"{row.macs:>12,}", row.key, *([why] if why else [])]))
    return "\n".join(lines)


def _order(value: float | None) -> float:
    """Best first, those without a score last."""
    return float("inf") if value is None else -value
