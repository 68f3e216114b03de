"""Five unlike methods, killed for real at steps and between phases, end as if nothing had happened."""

import itertools
import multiprocessing
import signal

import pytest
import torch

from kdsearch.engine.conduct import Report
from kdsearch.testing.step import HandStep
from tests.engine.little import differing
from tests.engine.sketches import acam, barm, documents, jobs, mst

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.engine.sketches.jobs"])  # torch is imported once for all processes


def in_process(job, *args):
    """The exit code of a process that has this job and nothing else."""
    process = FORKS.Process(target=job, args=args)
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Of a sketch: its result without a kill and without any checkpoint on the way."""
    folder, found = tmp_path_factory.mktemp("undisturbed"), {}

    def result(name):
        if name not in found:
            assert in_process(jobs.train, name, folder / name, 10**6, None, folder / f"{name}-end") == 0
            found[name] = jobs.result(folder / f"{name}-end")
        return found[name]

    return result


def chains():
    """Sketch and how often it checkpoints: the first one of each here, the others where slow tests run."""
    for name, sketch in jobs.SKETCHES.items():
        for i, every in enumerate(sketch.KILLS):
            marks = [pytest.mark.slow] * (i > 0)
            yield pytest.param(name, every, marks=marks, id=f"{name}-every-{every or 1}")


@pytest.mark.parametrize(("name", "every"), [*chains()])
def test_killed_again_and_again_it_ends_bit_equal(name, every, undisturbed, tmp_path):
    for kill in jobs.SKETCHES[name].KILLS[every]:
        code = in_process(jobs.train, name, tmp_path / "work", every, kill, tmp_path / "end")
        assert code == -signal.SIGKILL, f"was to be killed at {kill}"
        assert not (tmp_path / "end.json").exists()
    assert in_process(jobs.train, name, tmp_path / "work", every, None, tmp_path / "end") == 0
    tensors, history = jobs.result(tmp_path / "end")
    expected, expected_history = undisturbed(name)
    assert differing(tensors, expected) == []
    assert any(key.startswith("optim:") for key in tensors)
    assert history == expected_history


def test_what_the_sketches_train_moves_and_teachers_stay(undisturbed, tmp_path):
    for name, moving in {
        "acam": ["distiller:acam/m_c", "distiller:acam/m_s", "distiller:acam/w_q.weight", "student/stem.0.weight"],
        "collab": ["cnn/stem.weight", "vit/embed.weight", "vit/stages.1.mlp.0.weight"],
        "mst": ["student/hidden.weight", "multi/hidden.weight", "cross/last.bias"],
    }.items():
        setup, end = jobs.SKETCHES[name].make(tmp_path).setup, undisturbed(name)[0]
        start = {f"{role}/{k}": v for role, m in setup.models.items() for k, v in m.module.state_dict().items()}
        start |= {f"distiller:{n}/{k}": v for n, d in setup.distillers.items() for k, v in d.state_dict().items()}
        assert [key for key in moving if torch.equal(end[key], start[key])] == []
        for role, live in setup.teachers.items():
            for key, value in live.model.module.state_dict().items():
                assert torch.equal(end[f"teacher:{role}/{key}"], value)


def test_barm_keeps_batch_statistics_and_moves_old_parts_less(undisturbed):
    """The last step's frozen previous self says what the step began with."""
    end = undisturbed("barm")[0]
    previous = {k.removeprefix("teacher:previous/"): v for k, v in end.items() if k.startswith("teacher:previous/")}
    assert {k.split(".")[1] for k in previous if k.startswith("ears")} == {"0", "1"}
    for key, value in previous.items():
        if "running" in key or "num_batches" in key:
            assert torch.equal(end[f"student/{key}"], value)
        elif key.startswith("heads.1"):
            assert 0 < (end[f"student/{key}"] - value).abs().max() < 0.05
    assert torch.equal(end["student/ears.2.1.running_mean"], previous["ears.0.1.running_mean"])
    assert not torch.equal(end["student/ears.2.0.weight"], previous["ears.0.0.weight"])


def test_mst_changes_in_each_phase_what_that_phase_trains(tmp_path):
    seen = []
    run = mst.make(tmp_path, report=Report(epoch=lambda row: seen.append((row["phase"], snapshot(run)))))
    rows = run.run().history
    assert [row["phase"] for row in rows] == ["cotrain"] * 3 + ["specialise"] * 3 + ["route"] * 3
    assert ["validation" in row for row in rows] == [False] * 3 + [True] * 3 + [False] * 3
    assert all(("score" in row) == (row["phase"] == "route") for row in rows)
    for (before, a), (phase, b) in itertools.pairwise(seen):
        moved = {key for key in a if not torch.equal(a[key], b[key])}
        if before == phase:
            groups = {key.split("/")[0] for key in moved}
            assert (
                groups
                == {
                    "cotrain": {"student", "multi", "cross"},
                    "specialise": {"masks"},
                    "route": {"student", "gate"},
                }[phase]
            )
    assert int(run.procedure.routed.sum()) == 3 * 30  # validation passes and what they count are undone


def snapshot(run):
    parts = {role: model.module for role, model in run.setup.models.items()}
    parts |= {"masks": run.procedure.masks, "gate": run.procedure.gate}
    return {f"{n}/{k}": v.clone() for n, part in parts.items() for k, v in part.state_dict().items()}


def test_formulas_of_the_sketches():
    """ACAM: all masks 1/2 give half the mean square; no error, no loss; alike masks 1, disjoint 0. MST: checks 1 and 2."""
    rng = torch.Generator().manual_seed(0)
    e2 = torch.rand(2, 5, generator=rng)
    assert torch.allclose(acam.masked(torch.full((2, 3, 5), 0.5), e2), 0.5 * e2.mean())
    assert acam.pairwise_dice(torch.rand(2, 1, 5, generator=rng).expand(2, 4, 5)).item() == pytest.approx(1, abs=1e-6)
    assert acam.pairwise_dice(torch.eye(3)[None]).item() == 0
    assert acam.pairwise_dice(torch.rand(2, 1, 5, generator=rng)).item() == pytest.approx(0, abs=1e-6)
    ln3 = torch.tensor(3.0).log()
    zero, four = torch.zeros(1, 2), torch.tensor([[4 * ln3, 0.0]])
    assert mst.kl(zero, four).item() == pytest.approx(2.092994, abs=1e-5)
    assert mst.kl(four, zero).item() == pytest.approx(2.301456, abs=1e-5)
    assert mst.balance(torch.tensor([[0.7, 0.3], [0.5, 0.5]])).item() == pytest.approx(0.0102055, abs=1e-6)
    assert mst.balance(torch.eye(4)).item() == pytest.approx(0, abs=1e-7)


def test_barm_aggregates_backgrounds():
    """b_0 = 1 and residuals 2, -3, 0.5 give -2 in eval mode, -1.5 while training, with a gradient to the newest only."""
    net = barm.Ears(torch.nn.Identity())
    for n in (2, 1, 1, 1):
        net.grow(n)
    for head, value in zip(net.heads, (1.0, 2.0, -3.0, 0.5), strict=True):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, value)
    image = torch.zeros(1, barm.WIDTH, 2, 2)
    assert net.eval()(image)[0, 0, 0, 0].item() == pytest.approx(-2.0)
    b = net.train()(image)[0, 0, 0, 0]
    assert b.item() == pytest.approx(-1.5)
    b.backward()
    assert [0 if h.bias.grad is None else h.bias.grad[0].item() for h in net.heads] == [0, 0, 0, 1]


@pytest.mark.parametrize("killed_at", [0, 4, 24])
def test_what_a_text_teacher_answered_is_never_asked_again(killed_at, tmp_path):
    file = tmp_path / "records.jsonl"
    whole = jobs.records(tmp_path / "whole.jsonl", None)
    assert in_process(jobs.records, file, killed_at) == -signal.SIGKILL
    writer = documents.Scripted()
    assert jobs.records(file, None, writer) == whole
    assert len(writer.asked) == len(set(writer.asked)) == 40 - killed_at
    again = documents.Scripted()
    assert jobs.records(file, None, again) == whole
    assert again.asked == []


def test_the_filter_keeps_what_the_document_says(tmp_path):
    records = jobs.records(tmp_path / "records.jsonl", None)
    assert 0 < len(records) < 40
    for record in records:
        total = int(record.fields["page"].rsplit("total:", 1)[1])
        assert record.fields["answer"] == str(total)
        assert total % 5
        assert total % 7
    assert documents.similarity("abcdefghijkl", "xx abcdefghijkk yy") == pytest.approx(11 / 12)
    words = [("ab", 0, 0, 20, 10), ("cd", 100, 1, 120, 11), ("ef", 10, 30, 30, 40)]
    assert documents.spatial_text(words) == "ab        cd\n ef"
    twice = [(t, 2 * a + 7, 2 * b, 2 * c + 7, 2 * d) for t, a, b, c, d in words]
    assert documents.spatial_text(twice) == documents.spatial_text(words)


def test_acam_reaches_every_own_part_and_not_the_teacher():
    student, teacher = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 6, 3, 3, requires_grad=True)
    distiller = acam.Acam(acam.AcamOptions())

    class Shape:
        def __init__(self, c):
            self.c = c

        def map(self, name):
            return self.c, 3, 3

    class Shapes:
        student, teacher = Shape(4), Shape(6)

    distiller.build(Shapes)
    terms = distiller.terms(HandStep({"stage[-1]": student}, {"stage[-1]": teacher}))
    sum(terms.values()).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert [name for name, p in distiller.named_parameters() if p.grad is None or not p.grad.abs().sum()] in (
        [],
        ["w_k.bias"],
    )
