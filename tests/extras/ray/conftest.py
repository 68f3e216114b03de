"""Clusters of these tests are of this machine alone, as those that the executor starts; several nodes of one may be lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kdsearch_plugins.ray_executor.cluster import JOIN, LOCAL, QUIET

os.environ.update({**QUIET, **LOCAL, **JOIN, "RAY_AUTH_MODE": "disabled"})  # read when Ray is imported
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 3}
SMALL = {"object_store_memory": 80_000_000, "include_log_monitor": False}


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "_system_config": SOON, **SMALL})
    yield made
    made.shutdown()


@pytest.fixture(scope="session")
def address(_cluster: Any) -> str:
    """Of a cluster whose head has 4 CPUs."""
    return str(_cluster.address)


@pytest.fixture
def node(_cluster: Any) -> Iterator[Callable[..., Callable[[], None]]]:
    """Adds a node to that cluster; returns what kills it."""
    made: list[Any] = []

    def lose(each: Any) -> None:
        made.remove(each)
        _cluster.remove_node(each, allow_graceful=False)

    def add(**resources: Any) -> Callable[[], None]:
        made.append(_cluster.add_node(**resources, **SMALL))
        return lambda each=made[-1]: lose(each)

    yield add
    for each in list(made):
        lose(each)
