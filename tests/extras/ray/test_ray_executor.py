"""The executor contract on a cluster of this machine, and what only a supervisor has to keep."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from kdsearch_plugins.ray_executor.executor import RayExecutor
from kdsearch_plugins.ray_executor.options import RayOptions

from kdsearch.testing.executor import ExecutorContract


class TestRay(ExecutorContract):
    def executor(self, workers: int = 1) -> RayExecutor:
        made = RayExecutor(RayOptions(grace_s=1.0))
        made.slots = workers
        return made
