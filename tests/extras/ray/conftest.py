"""Clusters of these tests are of this machine alone, as those that the executor starts."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from kdsearch_plugins.ray_executor.cluster import LOCAL, QUIET

if find_spec("ray") is None:
    pytest.skip("extra 'ray' is not installed", allow_module_level=True)
os.environ.update({**QUIET, **LOCAL})
