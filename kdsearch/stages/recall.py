"""What a limit of `run` ended, a trial or a candidate's scoring, is tried again where it is higher now, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kdsearch.kinds import Trial
from kdsearch.kit.dims import encode
from kdsearch.search.schedule import Piece
from kdsearch.training.materials import Materials


def limits_met(trials: Iterable[Trial]) -> dict[str, float]:
    """Key below `run` -> its highest value that a trial failed of."""
    return highest(dict([trial.over]) for trial in trials if trial.over)


def highest(limits: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The highest value of each."""
    found: dict[str, float] = {}
    for name, value in (pair for each in limits for pair in each.items()):
        found[name] = max(value, found.get(name, value))
    return found


def is_outgrown(materials: Materials, limits: Mapping[str, float]) -> bool:
    """Whether the study now allows more than a limit that ended trials."""
    run = materials.study.config.run
    allowed = {"trial_timeout_s": run.trial_timeout_s, "trial_memory_bytes": run.trial_memory_bytes}
    return any((now := allowed[name]) is None or now > value for name, value in limits.items())


def recalled(materials: Materials, attempts: Iterable[Sequence[Trial]]) -> dict[int, Trial]:
    """Number -> trial of these earlier attempts whose end still holds; none of one in which no trial came through."""
    found: dict[int, Trial] = {}
    for trials in attempts:
        if any(trial.state == "complete" or not trial.is_over for trial in trials):
            ended = (trial for trial in trials if trial.is_over)
            found |= {each.number: each for each in ended if not is_outgrown(materials, limits_met([each]))}
    return found


def repeated(known: Mapping[int, Trial], piece: Piece) -> Trial | None:
    """The trial that this piece would repeat, where what came of it is known."""
    trial = known.get(piece.number)
    if trial is None or encode(dict(trial.values)) != encode(dict(piece.values)):  # a journal gives lists for tuples
        return None
    return trial if trial.at(piece.until) is not None or trial.state == "failed" else None
