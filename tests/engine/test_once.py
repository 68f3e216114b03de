"""Values that are made once: by one process while others wait, kept, and never asked for by themselves."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from kdsearch.engine.setup import Site
from kdsearch.engine.viewed import Viewed
from kdsearch.errors import PluginError
from tests.engine.little import source


def make_one(folder, started, gate):
    """A process that asks for the value; it says so, and makes it when the gate opens."""

    def make():
        with (Path(folder) / "made").open("a") as stream:
            stream.write("x")
        started.set()
        gate.wait(60)
        return {"value": torch.arange(3.0)}

    found = Site(0, Path(folder), memory=Path(folder) / "memory").once("k", make)
    assert found["value"].tolist() == [0.0, 1.0, 2.0]


def test_a_second_process_waits_for_the_first(tmp_path):
    spawn = multiprocessing.get_context("fork")
    started, gate = spawn.Event(), spawn.Event()
    first = spawn.Process(target=make_one, args=(str(tmp_path), started, gate))
    first.start()
    assert started.wait(60)
    second = spawn.Process(target=make_one, args=(str(tmp_path), started, gate))
    second.start()
    second.join(0.3)
    assert second.is_alive(), "it waits"
    gate.set()
    for process in (first, second):
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "made").read_text() == "x"


def test_a_value_that_asks_for_itself_is_refused_and_one_that_failed_is_made_again(tmp_path):
    site = Site(0, tmp_path, memory=tmp_path)
    with pytest.raises(PluginError, match=r"once\('k'\) asks for itself"):
        site.once("k", lambda: site.once("k", lambda: 1))
    assert site.once("outer", lambda: site.once("inner", lambda: 2) + 1) == 3
    with pytest.raises(ZeroDivisionError):
        site.once("k", lambda: 1 / 0)
    assert site.once("k", lambda: 5) == site.once("k", lambda: 6) == 5


def test_data_that_are_not_open_are_said(tmp_path):
    for ask in (lambda d: d.split("train"), lambda d: d.fields, lambda d: d.facts, lambda d: d.splits):
        with pytest.raises(PluginError, match="the data are not open here"):
            ask(Site(0, tmp_path).data)


def test_a_teacher_with_a_view_is_trained_on_what_it_is_fed():
    """Its training read the batch as it was: KeyError of the field that the view makes."""

    def view(batch, rng):
        at = int(torch.randint(3, (), generator=rng))
        return batch.having(crop=batch["image"][:, :, at : at + 4, at : at + 4])

    base = source()
    data = Viewed(base, view, 7)
    assert (data.fields, data.facts, data.splits) == (base.fields, base.facts, base.splits)
    split = data.split("train")
    assert split.ids == base.split("train").ids
    one, again = (split.load([3, 1], seed=5) for _ in range(2))
    assert torch.equal(one["crop"], again["crop"])
    assert torch.equal(one["image"], base.split("train").load([3, 1])["image"])
    drawn = {split.load([3, 1], seed=seed)["crop"].sum().item() for seed in range(12)}
    assert len(drawn) == 3, "another draw in another pass"
