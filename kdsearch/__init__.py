"""kdsearch: from a teacher, data and a deployment budget to a verified ONNX student.

study = kdsearch.Study(teacher=module, train=dataset, student="cifar_resnet", constraints={"params": 100_000})
result = kdsearch.run(study, "folder")
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdsearch.version import VERSION

__version__ = VERSION

# onnxruntime reports to its maker unless told not to before it is imported; children inherit what is told here
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if os.environ["ORT_DISABLE_TELEMETRY"] == "1" and hasattr(sys.modules.get("onnxruntime"), "disable_telemetry_events"):
    sys.modules["onnxruntime"].disable_telemetry_events()

if TYPE_CHECKING:
    from kdsearch.python.compressed import compress as compress
    from kdsearch.python.exported import Exported as Exported
    from kdsearch.python.exported import export as export
    from kdsearch.python.pieces import Distillation as Distillation
    from kdsearch.python.result import Result as Result
    from kdsearch.python.scorer import scorer as scorer
    from kdsearch.python.session import Candidate as Candidate
    from kdsearch.python.session import Session as Session
    from kdsearch.python.session import run as run
    from kdsearch.study.api import Study as Study
    from kdsearch.study.reading import load_study as load_study
    from kdsearch.training.saved import load_model as load_model
    from kdsearch.training.saved import save_model as save_model

_LAZY = {
    "Study": "kdsearch.study.api",
    "load_study": "kdsearch.study.reading",
    "run": "kdsearch.python.session",
    "Session": "kdsearch.python.session",
    "Candidate": "kdsearch.python.session",
    "Distillation": "kdsearch.python.pieces",
    "compress": "kdsearch.python.compressed",
    "Exported": "kdsearch.python.exported",
    "export": "kdsearch.python.exported",
    "Result": "kdsearch.python.result",
    "load_model": "kdsearch.training.saved",
    "save_model": "kdsearch.training.saved",
    "scorer": "kdsearch.python.scorer",
}
__all__ = [
    "Candidate",
    "Distillation",
    "Exported",
    "Result",
    "Session",
    "Study",
    "__version__",
    "compress",
    "export",
    "load_model",
    "load_study",
    "run",
    "save_model",
    "scorer",
]


def __dir__() -> list[str]:
    """What is promised to users, and nothing of how it is found."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'kdsearch' has no attribute '{name}'")
