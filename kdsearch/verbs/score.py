"""Scoring architectures without a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import SearchSpace
from kdsearch.limits import LINES_BYTES
from kdsearch.search.backend import Score
from kdsearch.search.candidates import reference_specs
from kdsearch.search.ranks import Combined
from kdsearch.search.scoring import Scored
from kdsearch.store.hashing import stream
from kdsearch.store.inputs import content
from kdsearch.study.names import COMPOSITES
from kdsearch.training.tools import Progress
from kdsearch.verbs.scorers import Setting, open_scorer, scoring, spec_of

DRY = 1000  # draws in a row without a new spec after which the space counts as drawn out


def scores_of(
    setting: Setting, names: Sequence[str], archs: Path | None, sample: int | None, workers: int, progress: bool
) -> dict[str, Any]:
    """Rows in the order of the file or of drawing; `names` are the proxies asked for, composites among them."""
    if sample is not None and sample < 1:
        raise StudyError(f"got {sample}", path="--sample", expected="1 or more")
    scorer = open_scorer(setting)
    specs = _asked(scorer.space, archs, sample, setting.seed)
    with scoring(setting, scorer, workers) as score:
        rows = scored(names, scorer.space, specs, score, setting.reference_seed, Progress(progress))
    few = archs is None and len(specs) < (sample or 0)
    dry = [f"{len(specs)} architectures, not {sample}: {DRY} draws in a row brought no other"] if few else []
    noise = "noise " + ", ".join("x".join(str(size) for size in each.sizes) for each in scorer.io.inputs)
    return {
        "space": setting.space,
        "proxies": list(names),
        "data": noise if scorer.is_noise else setting.data or f"training samples of {setting.study}",
        "seed": setting.seed,
        "init_seeds": setting.init_seeds,
        "notes": [*scorer.notes.values(), *dry],
        "rows": [row.row() for row in rows],
        "text": "\n".join(
            [
                _table(rows, names, scorer.space),
                *(f"{name}: {note}" for name, note in scorer.notes.items()),
                *(f"note: {each}" for each in dry),
            ]
        ),
    }


def scored(
    names: Sequence[str], space: SearchSpace[Any], specs: Sequence[Any], score: Score, seed: int, bar: Progress
) -> list[Scored]:
    """A row for each spec with these scores. Where there is a composite among them, its reference sample is scored first."""
    is_ranked = any(name in COMPOSITES for name in names)
    reference = [spec.model_dump(mode="json") for spec in reference_specs(space, seed)] if is_ranked else []
    if reference:
        bar.say(f"scoring {len(reference)} reference architectures first: composites are means of ranks among them")
    bar.begin("score", len(reference) + len(specs))
    rows: list[Scored] = []
    for chunk in score([*reference, *specs]):
        rows += chunk
        bar.at(len(rows))
    bar.end()
    n = len(reference)
    combined = combiners(names, rows[:n])
    return [with_composites(row, names, combined) for row in rows[n:]]


def combiners(names: Sequence[str], reference: Sequence[Scored]) -> dict[str, Combined]:
    """Composite -> what makes it of its terms' scores; those of `names` that are composites."""
    scores = [row.scores for row in reference]
    return {name: Combined(COMPOSITES[name], scores) for name in names if name in COMPOSITES}


def with_composites(row: Scored, names: Sequence[str], combined: Mapping[str, Combined]) -> Scored:
    """The row with the scores that were asked for, in that order; a composite has no spread of its own."""
    scores = {name: combined[name](row.scores) if name in combined else row.scores[name] for name in names}
    spread = {name: None if name in combined else row.spread[name] for name in names}
    return replace(row, scores=scores, spread=spread)


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
    try:
        text = content(archs, "a file with one architecture a line", most=LINES_BYTES).decode("utf-8-sig")
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start})", file=archs) from None
    specs = [
        spec_of(space, line, str(archs), number) for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    if not specs:
        raise DataError("no spec in the file", file=archs, expected="one architecture a line")
    return specs


def _table(rows: Sequence[Scored], proxies: Sequence[str], space: SearchSpace[Any]) -> str:
    """Best by the first proxy on top; what gave no score says why. Where several initialisations were scored, with the spread."""
    cells = [[_cell(row, name) for name in proxies] for row in rows]
    width = max(12, *(len(cell) for line in cells for cell in line))
    lines = [
        "  ".join([*(f"{name:>{width}}" for name in proxies), f"{'n_params':>10}", f"{'n_macs':>12}", "architecture"])
    ]
    for row, line in sorted(zip(rows, cells, strict=True), key=lambda each: _order(each[0].scores[proxies[0]])):
        shown, text = [f"{cell:>{width}}" for cell in line], space.encode(space.parse(dict(row.spec)))
        why = "; ".join(f"{name}: {error}" for name, error in row.errors.items())
        lines.append("  ".join([*shown, f"{row.params:>10,}", f"{row.macs:>12,}", text, *([why] if why else [])]))
    return "\n".join(lines)


def _cell(row: Scored, name: str) -> str:
    score, spread = row.scores[name], row.spread[name]
    if score is None:
        return "-"
    return f"{score:.5g}+-{spread:.2g}" if spread else f"{score:.5g}"


def _order(value: float | None) -> float:
    """Best first, those without a score last."""
    return float("inf") if value is None else -value
