"""What an exported file says of itself, alone: JSON where it is more than a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsearch.kinds import Ends, Exporter
from kdsearch.stages.cards import places, texts
from kdsearch.training.materials import Materials


def label(
    materials: Materials, exporter: Exporter[Any], file: Path, study: str, made_from: str, ends: Ends | None
) -> None:
    """Write it into the file.

    Args:
        study: its name. made_from: of all that the network was made from: the study's sections up to `compress`, its files, its
            seed, the version.
        ends: what the file does before and after the network, if anything.
    """
    facts, task = materials.data.facts, materials.study.config.task
    about = {
        "study": study,
        "study_hash": made_from,
        "labels": places(facts),
        "preprocessing": facts.get("preprocessing"),
        "licence": facts.get("licence"),
        "task": task.use if task is not None else None,
        "inside": ends.about if ends is not None else None,
    }
    exporter.label(file, texts(about))
