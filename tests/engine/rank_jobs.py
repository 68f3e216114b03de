"""What the processes of one training run; each leaves `<out>-<rank>` (tensors and JSON) for the test to look at."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.conduct import Device
from kdsearch.engine.feeds import order_of
from kdsearch.engine.optim import bind
from kdsearch.engine.ranks import ALONE, joined
from kdsearch.errors import KdsearchError
from kdsearch.kinds import Feed, Optim, Update
from kdsearch.store.hashing import derive
from kdsearch.testing.training import training
from tests.engine.little import Plain, Queue, jitter, mlp, resnet, source

SPLIT = source(120).split("train")
ORDER = order_of(Feed("train", 20), "train", SPLIT.ids, 0, derive(0, "plain"))
LAST_OF_THIRD = SPLIT.ids[ORDER[5][0]]  # with two micro-batches a step


class Greedy(Queue):
    """Keeps what its own device saw."""

    def on_step_end(self, step):
        self.rows[int(self.at) % 4] = step.teacher["logits"].detach().mean(0)
        self.at += 1


def sharp(s):
    """A term that is NaN in the third step, and there in one micro-batch alone."""
    bad = s.clock.step == 2 and s.batch.ids[0] == LAST_OF_THIRD
    yield Update({"task": s.task(), "sharp": s.student["logits"].mean() * (float("nan") if bad else 1.0)})


def turns(s):
    """The student, then the student once more: the second turn sees what the first one moved."""
    yield Update({"task": s.task()})
    yield Update({"again": s.student["logits"].square().mean()})


def some(s):
    """The task of every other batch, by its first sample: none of the others."""
    if int(s.batch.ids[0].rpartition("-")[2]) % 2:
        yield Update({"task": s.task()})


def plain(folder, step=None, **given):
    """120 samples in 6 micro-batches an epoch, or as `given` says."""
    given = {"epochs": 2, "batch_size": 20, "optim": {"lr": 0.02}, **given}
    return training(Plain(step), {"student": mlp()}, source(120), folder, **given)


def rich(folder, distiller=Queue, **given):
    """Batch statistics, a teacher, a queue with its own map, EMA, scales, augmentation, the best epoch kept."""
    return training(
        Distill(DistillOptions(ema=0.9, keep="best")), {"student": resnet()}, source(augment=jitter), folder,
        teachers={"teacher": resnet(1)}, distillers={"q": distiller()}, normalize=True, augment=True, epochs=3,
        batch_size=6, optim={"lr": 0.02}, objective="accuracy", **given,
    )  # fmt: skip


CASES = {
    "plain": plain,
    "uneven": lambda folder, **given: plain(folder, **{"batch_size": 25, **given}),  # 5 micro-batches
    "turns": lambda folder, **given: plain(folder, turns, **given),
    "some": lambda folder, **given: plain(folder, some, **given),
    "rich": rich,
    "greedy": lambda folder, **given: rich(folder, Greedy, **given),
    "nan": lambda folder, **given: plain(folder, sharp, **given),
}


def end_of(run):
    setup = run.setup
    modules = {"student": setup.models["student"].module, "procedure": run.procedure, **setup.distillers}
    return {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}


def train(case, folder, out, accumulate, rank=0, world=1, meeting=None):
    """Train to the end; what is raised is left as text."""
    torch.set_num_threads(1)
    run = CASES[case](Path(folder), device=Device(accumulate=accumulate, checkpoint_s=0.0))
    try:
        if world == 1:
            run.ranks = ALONE
            history = run.run().history
        else:
            with joined(Path(meeting), rank, world, "cpu") as run.ranks:
                history = run.run().history
    except KdsearchError as error:
        leave(out, rank, {}, {"error": type(error).__name__, "text": str(error)})
        return
    leave(out, rank, end_of(run), {"history": history})


def leave(out, rank, tensors, told):
    save_file({name: each.detach().contiguous().clone() for name, each in tensors.items()}, f"{out}-{rank}.safetensors")
    Path(f"{out}-{rank}.json").write_text(json.dumps(told))


def talk(out, rank, world, meeting):
    """Each way in which ranks exchange something, with values that depend on the rank."""
    with joined(Path(meeting), rank, world, "cpu") as ranks:
        told = ranks.told({"rank": rank, "pi": 3.141592653589793 + rank, "nan": float("nan"), "text": "ü" * rank})
        first = ranks.first(lambda: {"from": rank})
        rows = torch.arange(2.0 * (rank + 1)).reshape(rank + 1, 2) + 10 * rank
        kept = torch.tensor([[True, False]] * rank, dtype=torch.bool).reshape(rank, 2)
        summed = [torch.full((2, 3), float(rank + 1)), torch.tensor(2.5), torch.tensor([rank, 7])]
        ranks.add(summed)
        net = nn.Linear(2, 1)
        torch.nn.utils.vector_to_parameters(torch.zeros(3), net.parameters())
        loss = F.mse_loss(net(torch.ones(1, 2)), torch.full((1, 1), float(rank))) if rank else net.bias.sum()
        bound = bind(Optim({"net": net}, kind="sgd", lr=1.0))
        loss.backward()
        ranks.add_gradients([bound])
        tensors = {
            "all": ranks.gather(rows, world),
            "two": ranks.gather(rows, 2),
            "half": ranks.gather(rows.bfloat16(), world),
            "mask": ranks.gather(kept, world),
            "sum": summed[0], "scalar": summed[1], "whole": summed[2],
            "weight": net.weight.grad, "bias": net.bias.grad,
        }  # fmt: skip
        leave(out, rank, tensors, {"told": told, "first": first})
