"""kdsearch: from a teacher, data and a deployment budget to a verified ONNX student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdsearch.study.api import Study as Study

__all__ = ["Study", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Study":
        from kdsearch.study.api import Study

        return Study
    raise AttributeError(f"module 'kdsearch' has no attribute '{name}'")
