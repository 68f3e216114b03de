"""Several teachers, bent by masks and chosen by a router (after MST-Distill, ACM MM 2025, arXiv 2507.07015)."""

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from kdsearch.kinds import Model, Options, Phase, Procedure, Update, traced_taps
from kdsearch.testing.training import TensorSource, training

CLASSES, D_S, D_A, TAU = 3, 6, 5, 4.0


class MstOptions(Options):
    multi: list[str] = Field(["hidden", "fused"])
    cross: list[str] = Field(["hidden", "fused"])
    k: int = 1


class Mlp(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        self.hidden, self.fused = nn.Linear(sum(widths), 8), nn.Linear(8, 6)
        self.last, self.drop = nn.Linear(6, CLASSES), nn.Dropout(0.1)

    def forward(self, *views):
        x = self.drop(self.hidden(torch.cat(views, 1)).relu())
        return self.last(self.fused(x).relu())


class Mask(nn.Module):
    """A factor in (0, 1) for each of F features: Linear to F tokens, self-attention over them, Linear, sigmoid."""

    def __init__(self, width, heads=3, reduction=2):
        super().__init__()
        h = max(width // (reduction * heads) * heads, heads)
        self.width, self.h = width, h
        self.tokens, self.attention = nn.Linear(width, h * width), nn.MultiheadAttention(h, heads, batch_first=True)
        self.out = nn.Linear(h, 1)

    def forward(self, f):
        tokens = self.tokens(f).reshape(-1, self.width, self.h)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.out(mixed).squeeze(-1).sigmoid()


def kl(z, z_t):
    """(B,): tau^2 KL(softmax(z_t / tau) || softmax(z / tau))."""
    logs = (z / TAU).log_softmax(1), (z_t / TAU).log_softmax(1)
    return TAU**2 * F.kl_div(*logs, log_target=True, reduction="none").sum(1)


def balance(g):
    """(1 / E) KL(uniform || mean gate)."""
    mean = g.mean(0)
    return (1 / len(mean)) * (torch.log(1 / len(mean) / mean)).mean()


class Mst(Procedure[MstOptions]):
    roles, ships = ("student", "multi", "cross"), ("student",)

    def phases(self, setup):
        m, e, feeds = setup.models, setup.epochs // 3, {"train": setup.feed("train")}
        at = [("multi", t) for t in self.options.multi] + [("cross", t) for t in self.options.cross]
        self.masks = nn.ModuleList(Mask(m[role].width(tap)) for role, tap in at)
        self.gate = nn.Sequential(nn.Linear(CLASSES, 2 * CLASSES), nn.Linear(2 * CLASSES, len(at)))
        self.register_buffer("routed", torch.zeros(len(at)))
        order = ("student", "multi", "cross")

        def mutual(s):
            z = {role: s.run(role)["logits"] for role in order}
            tasks = sum(F.cross_entropy(z[role], s.batch["label"]) for role in order)
            pairs = sum(kl(z[a], z[b]).mean() for a in order for b in order if a != b)
            yield Update({"task": tasks, "pairs": pairs})

        def bent(s):
            return [
                s.run(role, writes={tap: lambda f, g=g: f * g(f)})["logits"]
                for (role, tap), g in zip(at, self.masks, strict=True)
            ]

        def specialise(s):
            target = s.student["logits"].detach()
            yield Update({f"mask.{j}": kl(z, target).mean() for j, z in enumerate(bent(s))})

        def route(s):
            z = s.student["logits"]
            g = self.gate(z).softmax(-1)
            chosen = g.topk(self.options.k).indices
            each = torch.stack([kl(z, z_t.detach()) for z_t in bent(s)], 1)
            self.routed += s.gather(F.one_hot(chosen, len(at)).sum(1)).sum(0)
            yield Update({"task": s.task(), "kd": each.gather(1, chosen).mean(), "balance": balance(g)})

        yield Phase("cotrain", mutual, feeds, [setup.optim({role: m[role].module for role in order})], e)
        yield Phase("specialise", specialise, feeds, [setup.optim({"masks": self.masks})], e, keep="best")
        weights = {"kd": lambda clock: 0.5 if clock.epoch else 1.0, "balance": lambda clock: 0.9**clock.epoch}
        students = setup.optim({"student": m["student"].module, "gate": self.gate})
        yield Phase("route", route, feeds, [students], e, weights=weights, score="student")


def views(n, seed):
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (n,), generator=rng)
    centre = torch.Generator().manual_seed(99)
    columns = {
        name: torch.randn(CLASSES, d, generator=centre)[label] + 0.8 * torch.randn(n, d, generator=rng)
        for name, d in (("x_s", D_S), ("x_a", D_A))
    }
    return {**columns, "label": label}


def models():
    made = {}
    widths = {"x_s": D_S, "x_a": D_A}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for role, inputs in {"student": ("x_s",), "multi": ("x_s", "x_a"), "cross": ("x_a",)}.items():
            module = Mlp(*(widths[name] for name in inputs))
            shown = [torch.zeros(1, widths[name]) for name in inputs]
            made[role] = Model(
                module, inputs, traced_taps(module, shown, {"hidden": "hidden", "fused": "fused"}), name=role
            )
    return made


def make(folder, **given):
    data = TensorSource({"train": views(30, 0), "val": views(20, 1)}, n_classes=CLASSES)
    return training(
        Mst(MstOptions()), models(), data, folder, epochs=9, batch_size=10, seed=4, objective="accuracy",
        optim={"kind": "adam", "lr": 0.02}, **given,
    )  # fmt: skip


# each phase has 9 steps
KILLS = {
    0: [("cotrain", 5), ("specialise", 1), ("specialise", 7), ("route", 1), ("route", 4)],
    4: [("cotrain", 9), ("specialise", 6), ("route", 8)],
}
