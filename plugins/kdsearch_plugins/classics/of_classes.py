"""What compares class probabilities needs logits of classes: the one message where a task answers something else."""

from __future__ import annotations

from kdsearch.errors import TapShapeError
from kdsearch.kinds import TapShapes

INSTEAD = {
    "scores": "{use: match, options: {distance: binary_kl}}",
    "value": "{use: match}",
    "embedding": "{use: match, options: {distance: cosine}}",
}


def require_logits(name: str, shapes: TapShapes) -> None:
    """Raise TapShapeError, which names the distiller that does, unless the task answers `logits`."""
    outputs = tuple(shapes.student.fields)
    if "logits" not in outputs:
        other = next((INSTEAD[each] for each in outputs if each in INSTEAD), "{use: match}")
        raise TapShapeError(
            f"'{name}' compares class probabilities, and the task answers {', '.join(outputs)}",
            expected="a task with logits of classes",
            fix=f"Use {other} instead.",
        )
