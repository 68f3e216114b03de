"""One training shared by processes: what each runs, what they exchange, and that the end is one device's."""

import json
import multiprocessing
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from kdsearch.engine.feeds import micro_batches
from tests.engine import rank_jobs
from tests.engine.little import differing
from tests.engine.sketches import jobs

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.engine.rank_jobs", "tests.engine.sketches.jobs"])


def at_once(calls):
    """Exit codes of one process a (function, arguments)."""
    processes = [FORKS.Process(target=job, args=args) for job, args in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def shared(folder, case, accumulate=2, world=2):
    """(tensors, told) of each rank."""
    folder.mkdir(exist_ok=True)
    out, meeting = folder / "end", folder / "meeting"
    calls = [(rank_jobs.train, (case, folder / "work", out, accumulate, rank, world, meeting)) for rank in range(world)]
    assert at_once(calls) == [0] * world
    return [left(out, rank) for rank in range(world)]


def alone(folder, case, accumulate=2):
    folder.mkdir(exist_ok=True)
    rank_jobs.train(case, folder / "work", folder / "end", accumulate)
    return left(folder / "end", 0)


def left(out, rank):
    with open(f"{out}-{rank}.json") as file:
        return load_file(f"{out}-{rank}.safetensors"), json.load(file)


@given(total=st.integers(1, 40), accumulate=st.integers(1, 8), world=st.integers(1, 5), begun=st.integers(0, 5))
def test_every_micro_batch_counts_once_and_all_ranks_run_as_many(total, accumulate, world, begun):
    start = min(begun * accumulate, total)
    found = [micro_batches(start, total, accumulate, rank, world) for rank in range(world)]
    assert len({len(each) for each in found}) == 1
    counted = []
    for together in zip(*found, strict=True):
        assert len({(m.begin, m.group, m.round, m.rounds, m.counting) for m in together}) == 1
        assert [m.counts for m in together] == [rank < together[0].counting for rank in range(world)]
        counted += [m.index for m in together if m.counts]
        assert all(m.begin <= m.index < m.begin + m.group <= total for m in together)
    assert counted == list(range(start, total))
    lasts = [m for m in found[0] if m.last]
    assert [m.begin for m in lasts] == list(range(start, total, accumulate))
    assert sum(m.group for m in lasts) == total - start


def test_what_ranks_exchange(tmp_path):
    assert (
        at_once([(rank_jobs.talk, (tmp_path / "end", rank, 3, tmp_path / "meeting")) for rank in range(3)]) == [0] * 3
    )
    rows = [[0.0, 1.0], [10.0, 11.0], [12.0, 13.0], [20.0, 21.0], [22.0, 23.0], [24.0, 25.0]]
    for rank in range(3):
        tensors, told = left(tmp_path / "end", rank)
        assert [each["pi"] for each in told["told"]] == [3.141592653589793 + r for r in range(3)]
        assert [each["text"] for each in told["told"]] == ["", "ü", "üü"]
        assert all(each["nan"] != each["nan"] for each in told["told"])
        assert told["first"] == {"from": 0}
        assert tensors["all"].tolist() == rows
        assert tensors["two"].tolist() == rows[:3]
        assert tensors["half"].dtype == torch.bfloat16
        assert tensors["half"].tolist() == rows
        assert tensors["mask"].tolist() == [[True, False]] * 3
        assert tensors["sum"].tolist() == [[6.0] * 3] * 2
        assert tensors["scalar"].item() == 7.5
        assert tensors["whole"].tolist() == [3, 21]
        # rank 0: 1 for the bias, no gradient of the weight; rank r: 2 (0 - r) for each
        assert tensors["weight"].tolist() == [[-6.0, -6.0]]
        assert tensors["bias"].tolist() == [-5.0]


@pytest.mark.parametrize(
    ("case", "accumulate"), [("plain", 2), ("plain", 4), ("uneven", 4), ("uneven", 2), ("some", 2)]
)
def test_two_devices_end_as_one_that_accumulates(case, accumulate, tmp_path):
    """No batch statistics: weights, optimiser steps and history are those of one device."""
    ends = shared(tmp_path / "two", case, accumulate)
    one, told = alone(tmp_path / "one", case, accumulate)
    for tensors, theirs in ends:
        assert differing(tensors, ends[0][0]) == []
        for name, tensor in one.items():
            assert torch.allclose(tensors[name], tensor, atol=1e-6, rtol=0), name
        for row, expected in zip(theirs["history"], told["history"], strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_with_two_devices_turns_and_two_micro_batches_a_step_go_together(tmp_path):
    """One device cannot take turns over several micro-batches; two with one each can, as one with the whole batch."""
    ends = shared(tmp_path / "two", "turns")
    assert alone(tmp_path / "one", "turns")[1]["error"] == "PluginError"
    whole = rank_jobs.CASES["turns"](tmp_path / "whole", batch_size=40)
    whole.run()
    for name, tensor in rank_jobs.end_of(whole).items():
        assert torch.allclose(ends[0][0][name], tensor, atol=1e-6, rtol=0), name


def test_statistics_scales_queue_ema_and_the_best_epoch(tmp_path):
    """All ranks hold the same; the weights are one device's but for rounding, BatchNorm's averages nearly so."""
    (first, told), (second, told_too) = shared(tmp_path / "two", "rich")
    one, alone_told = alone(tmp_path / "one", "rich")
    assert differing(first, second) == []
    assert told == told_too
    assert [row["epoch"] for row in told["history"]] == [1, 2, 3]
    losses = [[row["loss"] for row in each["history"]] for each in (told, alone_told)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    for name in one:
        if "running_" in name:
            assert not torch.equal(first[name], torch.zeros_like(first[name]))
            assert torch.allclose(first[name], one[name], atol=0.2, rtol=0.3), name
    assert first["q.at"] == one["q.at"]


def test_a_buffer_that_each_device_fills_alone_is_refused(tmp_path):
    for _, told in shared(tmp_path, "greedy"):
        assert told["error"] == "PluginError"
        assert "'rows' of distiller:q differs between the devices" in told["text"]
        assert "step.gather(rows)" in told["text"]


def test_not_a_number_on_one_device_fails_all(tmp_path):
    """The rank that met it says what it was; the other one that it was left."""
    told = [each for _, each in shared(tmp_path, "nan")]
    assert sorted(each["error"] for each in told) == ["RankLostError", "TrialError"]
    assert any("term 'sharp' is nan" in each["text"] for each in told)


@pytest.mark.parametrize(
    ("name", "kill"),
    [
        ("acam", ("distill", 3)),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("barm", "mst")),
    ],
)
def test_killed_and_run_again_two_devices_end_bit_equal(name, kill, tmp_path):
    kill = kill or jobs.SKETCHES[name].KILLS[0][0]

    def run(folder, kill, meeting):
        return at_once(
            [
                (
                    jobs.train,
                    (name, folder, 2, kill, tmp_path / f"{folder.name}-{r}", "fp32", 2, r, 2, tmp_path / meeting),
                )
                for r in range(2)
            ]
        )

    assert run(tmp_path / "through", None, "a") == [0, 0]
    codes = run(tmp_path / "killed", kill, "b")
    assert -signal.SIGKILL in codes
    assert not (tmp_path / "killed-0.json").exists()
    assert run(tmp_path / "killed", None, "c") == [0, 0]
    expected, history = jobs.result(tmp_path / "through-0")
    for rank in range(2):
        tensors, told = jobs.result(tmp_path / f"killed-{rank}")
        assert differing(tensors, expected) == []
        assert told == history
