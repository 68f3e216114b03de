"""kdsearch: from a teacher, data and a deployment budget to a verified ONNX student.

study = kdsearch.Study(teacher=module, train=dataset, student="cifar_resnet", constraints={"params": 100_000})
result = kdsearch.run(study, "folder")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdsearch.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from kdsearch.stages.python import Session as Session
    from kdsearch.stages.python import run as run
    from kdsearch.study.api import Study as Study
    from kdsearch.study.study import load_study as load_study

_LAZY = {
    "Study": "kdsearch.study.api",
    "load_study": "kdsearch.study.study",
    "run": "kdsearch.stages.python",
    "Session": "kdsearch.stages.python",
}
__all__ = ["Session", "Study", "__version__", "load_study", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'kdsearch' has no attribute '{name}'")
