import pytest

from kdsearch.host import Host
from tests import small_plugin


@pytest.fixture(scope="session")
def host() -> Host:
    found = Host.load(extra=[("small", small_plugin)], entry_points=False)
    assert not found.broken
    return found
