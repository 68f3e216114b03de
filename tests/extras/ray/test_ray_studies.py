"""Whole studies on Ray give what they give in processes, also where a machine is lost under a trial."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("ray")

from kdsearch_plugins.ray_executor.executor import RayExecutor

from kdsearch.cli import main
from kdsearch.store.files import read_json
from tests.extras.ray.conftest import SMALL, SOON
from tests.stages.tiny import LESS, TEXT, run_tiny, settled, write_study

FOUR = (*LESS, "refine.trials=4", "refine.epochs=8", "refine.generation=4", "refine.stopper={use: halving}")


def trials(folder: Path) -> list:
    """The table of trials, and which of them are on the front."""
    (file,) = (folder / "study" / "artifacts").glob("refine-*/trials.json")
    return read_json(file)


def candidates(folder: Path) -> bytes:
    return (folder / "study" / "candidates.jsonl").read_bytes()


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    """The folder of the study, and what must repeat of its result."""
    folder = tmp_path_factory.mktemp("processes")
    return folder, settled(run_tiny(folder, *FOUR, workers=2))


def check(folder, result, in_processes):
    other, expected = in_processes
    assert trials(folder) == trials(other)
    assert candidates(folder) == candidates(other)
    assert settled(result) == expected
    assert {each["state"] for each in trials(folder)} <= {"complete", "pruned"}


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_trials_of_processes(workers, address, in_processes, tmp_path):
    ray = f"run.executor={{use: ray, options: {{address: '{address}'}}}}"
    check(tmp_path, run_tiny(tmp_path, *FOUR, ray, workers=workers), in_processes)
    assert not list((tmp_path / "study").glob(".ray-*"))


def test_a_cluster_that_the_study_starts_gives_them_too(in_processes, tmp_path):
    check(tmp_path, run_tiny(tmp_path, *FOUR, "run.executor={use: ray}", workers=2), in_processes)


@pytest.fixture
def two_nodes():
    """A cluster of a head without room, and two nodes with room for one trial each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": SOON, **SMALL})
    yield made, [made.add_node(num_cpus=1, **SMALL) for _ in range(2)]
    made.shutdown()


@pytest.fixture
def watched(monkeypatch):
    """What the executor does: name of a job -> node of its seat; and the jobs that were lost with a node."""
    given, lost = {}, []
    give, forget = RayExecutor._give, RayExecutor._lost

    def note_given(executor, seat, order):
        given[order.job.id] = seat.node
        give(executor, seat, order)

    def note_lost(executor, seat, error):
        lost.append((seat.node, seat.order and seat.order.job.id))
        forget(executor, seat, error)

    monkeypatch.setattr(RayExecutor, "_give", note_given)
    monkeypatch.setattr(RayExecutor, "_lost", note_lost)
    return given, lost


def test_trials_whose_machine_is_lost_go_on_elsewhere(two_nodes, watched, in_processes, tmp_path):
    (cluster, nodes), (given, lost) = two_nodes, watched
    killed, over = [], threading.Event()

    def lose():
        """Kill the node under the first trial that has written a checkpoint."""
        while not over.wait(0.02):
            for each in (tmp_path / "study" / "work").glob("refine-*/*/phase-*.safetensors"):
                killed.append((given[each.parent.name], each.parent.name))
                cluster.remove_node(next(node for node in nodes if node.node_id == killed[0][0]), allow_graceful=False)
                return

    killer = threading.Thread(target=lose)
    killer.start()
    ray = f"run.executor={{use: ray, options: {{address: '{cluster.address}'}}}}"
    try:
        result = run_tiny(tmp_path, *FOUR, ray, workers=2, checkpoint_s=0)
    finally:
        over.set()
        killer.join()
    node, _ = killed[0]
    assert {where for where, _ in lost} == {node}  # that trial, or, where it had just ended, the next one there
    assert all(given[name] != node for _, name in lost), "they were given to the other one"
    check(tmp_path, result, in_processes)


def test_a_wrong_address_is_said_with_its_line_and_leaves_nothing(tmp_path, capsys):
    text = TEXT.replace("{use: inprocess}", "{use: ray, options: {address: '127.0.0.1:1'}}")
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "127.0.0.1:1" in each)
    assert main(["run", str(write_study(tmp_path, text))]) == 2
    said = capsys.readouterr().err
    assert f"tiny.yaml:{line}: run.executor.options.address: cannot join the Ray cluster '127.0.0.1:1'" in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tiny.yaml"]
