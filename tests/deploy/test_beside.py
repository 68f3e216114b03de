"""A ratio of latencies, on a machine whose speed changes meanwhile."""

import json
import random

import numpy as np
import pytest

from kdsearch.deploy import beside
from kdsearch.deploy.beside import measure_beside
from kdsearch.kit.onnx import save_onnx
from kdsearch.store.cache import cache_folder
from tests.deploy.test_latency import mlp

X = [np.ones((3, 6), np.float32)]


class Machine:
    """A clock, and calls that take `costs` seconds, and `cold` ones after another file's, times what else the machine does."""

    def __init__(self, costs, load=lambda now: 1.0, cold=0.0):
        self.costs, self.load, self.now, self.calls, self.cold, self.last = costs, load, 0.0, 0, cold, None

    def __call__(self):
        return self.now

    def open(self, file, example_inputs, threads):
        def call():
            self.now += (self.costs[file.stem] + self.cold * (self.last != file.stem)) * self.load(self.now)
            self.calls, self.last = self.calls + 1, file.stem

        return call


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    for name, width in (("whole", 8), ("cut", 6)):
        save_onnx(mlp(width=width), tmp_path / f"{name}.onnx")
    return tmp_path / "cut.onnx", tmp_path / "whole.onnx"


def measured(monkeypatch, files, machine):
    monkeypatch.setattr(beside, "_call", machine.open)
    return measure_beside(*files, X, clock=machine)


@pytest.mark.parametrize("cost", [0.05, 0.0002])
def test_a_machine_that_gets_slower_and_slower_changes_no_ratio(monkeypatch, files, cost):
    machine = Machine({"whole": cost, "cut": 0.6 * cost}, lambda now: 1 + now / 4)
    found = measured(monkeypatch, files, machine)
    assert found.ratio == pytest.approx(0.6, rel=0.01)
    assert machine.now > 20 * cost, "alone, one after the other, they would differ by far more than their costs"


def test_caches_that_the_other_file_has_emptied_count_for_nothing(monkeypatch, files):
    assert measured(monkeypatch, files, Machine({"whole": 0.02, "cut": 0.01}, cold=0.01)).ratio == pytest.approx(0.5)


def test_bursts_of_load_are_noise_that_is_told(monkeypatch, files):
    rng = random.Random(0)
    machine = Machine({"whole": 0.005, "cut": 0.003}, lambda now: 1 + 4 * (rng.random() < 0.3) + 0.2 * rng.random())
    found = measured(monkeypatch, files, machine)
    assert abs(found.ratio / 0.6 - 1) <= 2 * found.error
    assert 0 < found.error < 0.2
    quiet = measured(monkeypatch, files[::-1], Machine({"whole": 0.005, "cut": 0.003}))
    assert quiet.error < 1e-9
    assert quiet.turns < found.turns, "sure of it, no more turns are taken"


def test_a_call_that_is_held_up_counts_for_nothing(monkeypatch, files):
    """Each file's least of a few calls is taken: what else the machine does only adds."""
    rng = random.Random(0)
    machine = Machine({"whole": 0.05, "cut": 0.03}, lambda now: 10 if rng.random() < 0.1 else 1)
    found = measured(monkeypatch, files, machine)
    assert found.ratio == pytest.approx(0.6)
    assert found.error < 1e-9


def test_it_is_measured_once(monkeypatch, files):
    machine = Machine({"whole": 0.02, "cut": 0.01})
    first = measured(monkeypatch, files, machine)
    taken = machine.calls
    assert measured(monkeypatch, files, machine) == first
    assert machine.calls == taken
    (entry,) = (cache_folder() / "latency").glob("*.json")
    entry.write_text(json.dumps({"ratio": "torn"}))
    assert measured(monkeypatch, files, machine).ratio == first.ratio
    assert machine.calls > taken


def test_files_are_run_in_onnxruntime(files, monkeypatch):
    monkeypatch.setattr(beside, "MOST_S", 0.2)  # a busy machine would take all of it
    found = measure_beside(*files, X)
    assert found.ratio > 0
    assert found.turns >= 24
