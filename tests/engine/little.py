"""Little data, models and procedures for the engine's tests; each process makes equal ones."""

import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.kinds import Distiller, Model, NoOptions, Phase, Procedure, Update
from kdsearch.testing.models import small_resnet
from kdsearch.testing.training import TensorSource

CLASSES, IMAGE = 3, (1, 6, 6)


def images(n, seed=0):
    """n images of CLASSES: class k has mean k - 1."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (n,), generator=rng)
    return {"image": torch.randn(n, *IMAGE, generator=rng) + (label - 1).float()[:, None, None, None], "label": label}


def jitter(sample, rng):
    return {**sample, "image": sample["image"] + 0.1 * torch.randn(IMAGE, generator=rng)}


def source(n=40, n_val=12, augment=None):
    return TensorSource({"train": images(n), "val": images(n_val, 1)}, augment, CLASSES)


def resnet(seed=0, widths=(4, 6)):
    return small_resnet(widths, 1, CLASSES, IMAGE, seed)


def mlp(seed=0, hidden=8, dropout=0.0):
    """No batch statistics: a batch's gradient is the mean of its samples'."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(36, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, CLASSES)
        )
    return Model(module, ("image",), name="mlp")


class Plain(Procedure[NoOptions]):
    """One phase; `phase` says what is changed of it, given (setup, student's Model)."""

    def __init__(self, step=None, **changes):
        super().__init__(NoOptions())
        self.step, self.changes = step, changes

    def phases(self, setup):
        student = setup.models["student"]
        changes = {name: each(setup) if callable(each) else each for name, each in self.changes.items()}
        train = changes.pop("train", [setup.optim({"student": student.module})])
        yield Phase(
            "plain", self.step or self.task_only, {"train": setup.feed("train")}, train, setup.epochs, **changes
        )

    def task_only(self, s):
        yield Update({"task": s.task()})


class Phases(Procedure[NoOptions]):
    """Phases by a function of the setup."""

    def __init__(self, of, **modules):
        super().__init__(NoOptions())
        self.of = of
        for name, module in modules.items():
            setattr(self, name, module)

    def phases(self, setup):
        yield from self.of(self, setup)


class Queue(Distiller[NoOptions]):
    """Pulls the student's logits to a queue of the teacher's last mean logits; own linear map, own buffers."""

    def __init__(self):
        super().__init__(NoOptions())

    def build(self, shapes):
        self.map = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("rows", torch.zeros(4, CLASSES))
        self.register_buffer("at", torch.tensor(0))
        self.register_buffer("epochs", torch.tensor(0))
        self.register_buffer("seen", torch.tensor(0.0))

    def prepare(self, setup):
        self.rows.copy_(torch.randn(4, CLASSES))
        self.seen += 1

    def terms(self, step):
        return {"near": F.mse_loss(self.map(step.student["logits"]), self.rows.mean(0).expand(len(step.batch), -1))}

    def on_step_end(self, step):
        self.rows[int(self.at) % 4] = step.gather(step.teacher["logits"]).mean(0)
        self.at += 1

    def on_epoch_end(self, clock):
        self.epochs += 1


def state(*modules):
    return {f"{i}.{k}": v.detach().clone() for i, m in enumerate(modules) for k, v in m.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def differing(a, b):
    return [k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k])]
