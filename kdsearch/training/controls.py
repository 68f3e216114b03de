"""What the controls need of a study: refused before any work where they cannot be."""

from __future__ import annotations

from kdsearch.engine.splits import Arranged
from kdsearch.study.study import Study
from kdsearch.study.summary import left_out


def check_controls(study: Study, data: Arranged) -> None:
    """Raise StudyError for a control that has nothing to learn from."""
    if left_out(study):
        return
    seen = {"baseline": data, "all_labels": data.revealed()}
    for control in (each for each in study.config.distill.controls if each in seen):
        if "labeled" not in seen[control].splits:
            why = "the study sees no label" if control == "baseline" else "no training sample has a label"
            raise study.error(
                f"control '{control}' learns from labels, and {why}",
                "distill.controls",
                expected="[] where the students learn from the teacher alone",
                fix="Set `distill: {controls: []}`.",
            )
