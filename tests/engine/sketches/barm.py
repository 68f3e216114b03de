"""Classes that arrive in steps, with residual backgrounds (after BARM, ECCV 2024, arXiv 2407.09838)."""

import copy

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from kdsearch.kinds import Model, Options, Phase, Procedure, Update
from kdsearch.testing.training import TensorSource, training

SIDE, WIDTH, IGNORED = 6, 6, -100


class BarmOptions(Options):
    arrivals: list[int] = Field([2, 1, 1])
    threshold: float = 0.7
    triplet: float = 5.0
    feature: float = 4.0
    old_lr: float = 0.1


class Ears(nn.Module):
    """A body, an ear and a head a step; the background is b_0 + sum of min(r_k, 0), while training with the newest r_t as it is."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.ears, self.heads = nn.ModuleList(), nn.ModuleList()

    def grow(self, n_classes):
        if self.ears:
            self.ears.append(copy.deepcopy(self.ears[0]))
        else:
            self.ears.append(
                nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
            )
        self.heads.append(nn.Conv2d(WIDTH, 1 + n_classes, 1))

    def forward(self, image):
        f = self.body(image)
        groups = [head(ear(f)) for ear, head in zip(self.ears, self.heads, strict=True)]
        backgrounds = [group[:, :1] for group in groups]
        if self.training and len(groups) > 1:
            kept = [backgrounds[0], *(r.clamp(max=0) for r in backgrounds[1:-1])]
            b = sum(each.detach() for each in kept) + backgrounds[-1]
        else:
            b = backgrounds[0] + sum(r.clamp(max=0) for r in backgrounds[1:])
        return torch.cat([b, *(group[:, 1:] for group in groups)], 1)


def bce(logits, target):
    """Sum over channels, mean over known pixels; target (B, H, W) class indices."""
    known = target != IGNORED
    hot = F.one_hot(target.clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2).to(logits)
    each = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").sum(1)
    return (each * known).sum() / known.sum().clamp(min=1)


class Barm(Procedure[BarmOptions]):
    def adapt(self, role, model, setup):
        model.module = Ears(model.module)
        return model

    def phases(self, setup):
        student, o = setup.models["student"], self.options
        net = student.module
        for t, n_classes in enumerate(o.arrivals):
            if t:
                setup.freeze("previous", student.copy())
            net.grow(n_classes)
            norms = [m for m in net.modules() if t and isinstance(m, nn.BatchNorm2d)]
            train = setup.optim(
                {"net": net}, kind="sgd", lr=0.02, scale={f"*s.{t}.*": 1.0, "*": o.old_lr if t else 1.0}
            )
            old = [f"module:{part}.{k}" for k in range(t) for part in ("ears", "heads")]
            yield Phase(
                f"step{t}",
                self.learn if t else self.first,
                {"train": setup.feed(f"step{t}")},
                [train],
                setup.epochs,
                keep_eval=norms,
                weights={"triplet": o.triplet, "feature": o.feature},
                taps={"student": [*old, f"module:heads.{t}"], "previous": old} if t else {},
            )

    def first(self, s):
        yield Update({"bce": bce(s.student["logits"], s.batch["label"])})

    def learn(self, s):
        now, before, y = s.student, s.run("previous"), s.batch["label"]
        n_old, t = before["logits"].shape[1], sum(name.startswith("module:ears") for name in before)
        score, guess = before["logits"].sigmoid().max(1)
        pseudo = torch.where((y == 0) & (guess > 0) & (score >= self.options.threshold), guess, y)
        z, r = now["logits"], now[f"module:heads.{t}"][:, 0]
        old_detached = torch.cat([z[:, :1], z[:, 1:n_old].detach(), z[:, n_old:]], 1)
        positive, negative = ((y != 0) & (y != IGNORED)).float(), (y == 0).float()
        s_r = r.sigmoid()
        yield Update(
            {
                "bce": bce(old_detached, pseudo),
                "residual": (F.softplus(r) * positive).sum() / (positive.sum() + 1e-8),
                "triplet": (((1 - s_r) ** 2 - s_r**2) * negative).clamp(min=0).sum() / negative.sum().clamp(min=1),
                "group": sum(
                    F.binary_cross_entropy_with_logits(
                        now[f"module:heads.{k}"], before[f"module:heads.{k}"].sigmoid(), reduction="none"
                    )
                    .sum(1)
                    .mean()
                    for k in range(t)
                ),
                "feature": sum(
                    F.mse_loss(
                        now[f"module:ears.{k}"] * negative[:, None], before[f"module:ears.{k}"] * negative[:, None]
                    )
                    for k in range(t)
                ),
            }
        )


def scenes(n, seed, first, last):
    """Squares of the classes first..last; every other object is background."""
    rng = torch.Generator().manual_seed(seed)
    image, label = torch.zeros(n, 1, SIDE, SIDE), torch.zeros(n, SIDE, SIDE, dtype=torch.int64)
    for i in range(n):
        for k in (int(torch.randint(first, last + 1, (), generator=rng)), int(torch.randint(1, 5, (), generator=rng))):
            y, x = (int(torch.randint(0, 4, (), generator=rng)) for _ in range(2))
            image[i, 0, y : y + 3, x : x + 3] = k
            label[i, y : y + 3, x : x + 3] = k if first <= k <= last else 0
    return {"image": image + 0.2 * torch.randn(image.shape, generator=rng), "label": label}


def body():
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())


def make(folder, **given):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(body(), ("image",), name="ears")
    arrivals = [(1, 2), (3, 3), (4, 4)]
    splits = {f"step{t}": scenes(20, t, *classes) for t, classes in enumerate(arrivals)}
    data = TensorSource(splits, n_classes=5)
    return training(Barm(BarmOptions()), {"student": model}, data, folder, epochs=2, batch_size=8, seed=3, **given)


# each phase has 6 steps; killed at a phase's first step = the phase before is through, nothing of this one is stored
KILLS = {
    0: [("step0", 4), ("step1", 1), ("step1", 5), ("step2", 1), ("step2", 6)],
    3: [("step0", 5), ("step1", 1), ("step1", 6), ("step2", 5)],
}
