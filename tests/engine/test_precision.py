"""Autocast and loss scale: finite, resumable, and turns that see moved weights."""

import pytest
import torch

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine import loop
from kdsearch.engine.checkpoint import read_checkpoint
from kdsearch.engine.conduct import Device
from kdsearch.engine.precision import Precision
from kdsearch.errors import InterruptedRun, PluginError
from kdsearch.kinds import Update
from kdsearch.testing.training import training
from tests.engine.little import Plain, Queue, differing, mlp, resnet, same, source, state
from tests.engine.test_resume import stops_at, two_phases

START = 2.0**19  # overflows at first, and no longer after a few halvings
HOPELESS = 2.0**40
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: cuda")


def fresh(folder, device, keep="best", **given):
    return training(
        Distill(DistillOptions(keep=keep)), {"student": resnet()}, source(), folder, teachers={"teacher": resnet(1)},
        distillers={"q": Queue()}, normalize=True, epochs=2, batch_size=12, optim={"lr": 0.02, "clip": 1.0}, device=device,
        **given,
    )  # fmt: skip


def end_of(run):
    return state(run.setup.models["student"].module, *run.setup.distillers.values())


def stopped_equals_whole(folder, device, keep="best"):
    """The end of a run that was stopped in each epoch, and of one that was not; histories too."""
    whole = fresh(folder / "whole", device, keep)
    history = whole.run().history
    for step in (3, 6):
        seen = []
        with pytest.raises(InterruptedRun):
            fresh(
                folder / "work",
                device,
                keep,
                stop=lambda seen=seen, n=step: seen.append(1) or len(seen) == n - 3 * (n > 3),
            ).run()
    run = fresh(folder / "work", device, keep)
    assert run.run().history == history
    assert differing(end_of(run), end_of(whole)) == []
    assert all(bool(torch.isfinite(value).all()) for value in end_of(run).values())
    return end_of(run)


def test_bf16_is_finite_resumable_and_is_bf16(tmp_path):
    end = stopped_equals_whole(tmp_path, Device(precision="bf16", checkpoint_s=0.0))
    full = fresh(tmp_path / "fp32", Device())
    full.run()
    assert not same(end, end_of(full))
    for name, value in end_of(full).items():
        assert end[name].dtype == value.dtype, "weights and statistics stay fp32"
    assert torch.nn.functional.cosine_similarity(
        torch.cat([v.flatten() for v in end.values() if v.dtype == torch.float32]),
        torch.cat([v.flatten() for v in end_of(full).values() if v.dtype == torch.float32]),
        dim=0,
    ) > 0.95  # fmt: skip


def test_a_second_turn_under_autocast_reads_moved_weights(tmp_path):
    """Autocast keeps a weight's bf16 copy for as long as it lasts."""
    student, means = mlp(), []

    def step(s):
        up = s.student["logits"].float().mean()
        means.append(up.item())
        yield Update({"up": -up})
        means.append(s.student["logits"].float().mean().item())
        yield Update({"again": 0 * s.student["logits"].float().mean()})

    optim = {"kind": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant"}
    training(
        Plain(step),
        {"student": student},
        source(12),
        tmp_path,
        batch_size=12,
        optim=optim,
        device=Device(precision="bf16"),
    ).run()
    assert means[1] > means[0] + 0.3


def test_fp16_without_cuda_is_refused(tmp_path):
    with pytest.raises(PluginError, match="precision 'fp16' on a CPU"):
        fresh(tmp_path, Device(precision="fp16")).run()


@pytest.fixture
def scaled_on_cpu(monkeypatch, request):
    """fp16's loss scale on a CPU: autocast and scaler are torch's own and work there, slowly."""
    scalers = []

    def make(name, accelerator):
        scalers.append(torch.amp.GradScaler("cpu", init_scale=getattr(request, "param", START), growth_interval=3))
        return Precision("fp16", accelerator, scalers[-1])

    monkeypatch.setattr(loop, "Precision", make)
    return scalers


def test_the_loss_scale_backs_off_and_is_checkpointed(scaled_on_cpu, tmp_path):
    end = stopped_equals_whole(tmp_path, Device(checkpoint_s=0.0), "last")
    assert 1 < scaled_on_cpu[0].get_scale() < START / 2
    assert scaled_on_cpu[-1].state_dict() == scaled_on_cpu[0].state_dict()
    assert not torch.equal(end["0.classifier.weight"], resnet().module.classifier.weight)
    with pytest.raises(InterruptedRun):
        fresh(tmp_path / "peek", Device(), stop=lambda: True).run()
    _, at = read_checkpoint(tmp_path / "peek" / "phase-0-distill.safetensors")
    assert at.scaler["scale"] == START / 2


@pytest.mark.parametrize("scaled_on_cpu", [HOPELESS], indirect=True)
def test_a_later_phase_goes_on_with_the_scale_of_the_one_before(scaled_on_cpu, tmp_path):
    """Killed in the second before it has a checkpoint, too: the first one, which is done, is loaded then."""
    two_phases(tmp_path / "whole", device=Device()).run()
    with pytest.raises(InterruptedRun):
        two_phases(tmp_path / "work", device=Device(), stop=stops_at(5)).run()
    (tmp_path / "work" / "phase-1-b.safetensors").unlink()
    two_phases(tmp_path / "work", device=Device()).run()
    assert scaled_on_cpu[0].get_scale() < HOPELESS / 8
    assert scaled_on_cpu[-1].state_dict() == scaled_on_cpu[0].state_dict()


def test_what_is_asked_before_the_first_phase_is_placed(tmp_path):
    """The meta device in place of a GPU, and networks that lie on the CPU yet."""
    run = training(Plain(), {"student": mlp()}, source(), tmp_path, teachers={"teacher": mlp(1)})
    run.setup.device = torch.device("meta")
    batch = run.setup.data.split("train").load([0, 1])
    for role in ("student", "teacher"):
        assert run.setup.predict(role, batch)["logits"].device.type == "meta"


@pytest.mark.parametrize("scaled_on_cpu", [HOPELESS], indirect=True)
def test_two_optimisers_of_a_turn_share_one_scale(scaled_on_cpu, tmp_path):
    """The scale changes after both moved: an overflow skips both, and costs one halving."""

    def step(s):
        loss = s.task()
        yield Update({"a": loss}, train="body"), Update({"b": loss}, train="head")

    def train(setup):
        net = student.module
        return [setup.optim({"body": net[1]}, name="body"), setup.optim({"head": net[4]}, name="head")]

    student, before = mlp(), state(mlp().module)
    training(Plain(step, train=train), {"student": student}, source(12), tmp_path, batch_size=12).run()
    assert same(state(student.module), before)
    assert scaled_on_cpu[-1].get_scale() == HOPELESS / 2


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_trains_and_resumes(precision, tmp_path):
    stopped_equals_whole(tmp_path, Device("cuda", precision, checkpoint_s=0.0))


@needs_cuda
def test_cuda_places_models_that_grow(tmp_path):
    from tests.engine.sketches import barm

    run = barm.make(tmp_path, device=Device("cuda"))
    run.run()
    assert {p.device.type for p in run.setup.models["student"].module.parameters()} == {"cuda"}
