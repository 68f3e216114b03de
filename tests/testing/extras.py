"""Capabilities whose extra may not be installed."""

from typing import Any

import pytest

from kdsearch.errors import PluginError
from kdsearch.host import Host


def installed(kind: str, name: str) -> type[Any]:
    """The class. Skips where its extra is missing, and nowhere else."""
    try:
        return Host.load().load_class(kind, name)
    except PluginError as error:
        if isinstance(error.__cause__, ImportError) and "pip install" in error.fix:
            pytest.skip(f"the extra of {kind} '{name}' is not installed")
        raise
