"""Skips are failures in CI, but for those listed with a reason in `allowed_skips.txt`; `slow_tests.txt` lists what is slow."""

from __future__ import annotations

import fnmatch
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("kdsearch", deadline=None, max_examples=30)  # a busy machine is no fault of the code
settings.load_profile("kdsearch")

gc.disable()  # until all tests are there: they and what they import are millions of objects that stay

LISTED = Path(__file__).with_name("allowed_skips.txt")
SLOW = Path(__file__).with_name("slow_tests.txt")


def listed(file: Path) -> dict[str, str]:
    """Glob of test ids -> reason."""
    lines = (line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return dict(line.split(": ", 1) for line in lines)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks for marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole studies first, so that no worker is left alone with a long file at the end; each glob of slow tests must find one."""
    items.sort(key=lambda item: "stages" not in item.path.parts)
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    for glob in listed(SLOW):
        file = glob.partition("::")[0]
        found = [item for item in files.get(file, ()) if fnmatch.fnmatchcase(item.nodeid, glob)]
        for item in found:
            item.add_marker("slow")
        if not found and file in files and not any("::" in each for each in config.args):
            raise pytest.UsageError(f"{SLOW.name}: no test is called {glob}")


def pytest_collection_finish() -> None:
    """What is there by now is not gone through again and again: a twentieth of the time of all tests."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # what stays grows slowly, so that the usual ones would be met often
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    return unskipped((yield), item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    return unskipped((yield), collector.nodeid)


def unskipped(report, id: str):
    """KDSEARCH_STRICT_SKIPS: 1 = what is skipped and not listed fails; all = so does what is listed, as where extras are there."""
    strict = os.environ.get("KDSEARCH_STRICT_SKIPS")
    if strict and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if strict == "all" or not any(fnmatch.fnmatchcase(id, glob) for glob in listed(LISTED)):
            report.outcome = "failed"
            report.longrepr = f"{id} was skipped ({reason}) and is not in {LISTED.name}"
    return report


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored latencies and prepared data of the tests stay out of the user's cache."""
    if "KDSEARCH_CACHE" not in os.environ:
        monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _brief_latencies() -> Iterator[None]:
    """Files are timed for a tenth of a second, not for half of one: what is measured is looked at in tests/deploy alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdsearch.deploy.latency.WARM_UP_S", 0.01)
        patch.setattr("kdsearch.deploy.latency.LEAST_S", 0.02)
        yield


@pytest.fixture
def ground_truth() -> Callable[[str], Path]:
    """The path of a ground-truth table by its name; skips where there is none."""

    def find(name: str) -> Path:
        folder = os.environ.get("KDSEARCH_DATA", Path(__file__).parents[1].parent / "shared" / "data")
        if not (path := Path(folder) / name).is_file():
            pytest.skip(f"no table {name}: KDSEARCH_DATA names the folder of ground-truth tables")
        return path

    return find


@pytest.fixture
def few_in_reference(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many architectures, and not 128, are what composites of `kdsearch score` and `kdsearch.scorer` are ranked among."""
    from kdsearch.search.candidates import reference_specs

    n = 16
    for module in ("kdsearch.verbs.score", "kdsearch.python.scorer"):
        monkeypatch.setattr(f"{module}.reference_specs", lambda space, seed: reference_specs(space, seed, n))
    return n
