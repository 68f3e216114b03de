"""A tiny search space, task and proxies; the functions that jobs name."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field as Describe
from torch import Tensor, nn

from kdsearch.errors import StudyError
from kdsearch.kinds import (
    IO,
    Batch,
    Cost,
    Field,
    Model,
    NoOptions,
    Options,
    Outputs,
    Probe,
    Proxy,
    SearchSpace,
    Tap,
    Task,
    searched,
)
from kdsearch.search.backend import known_costs
from kdsearch.search.scoring import Scorer, random_teacher

IMAGE, LABEL = Field("image", "image", (3, 8, 8)), Field("label", "label", (), "int64", "target")
LOGITS = Field("logits", "logits", (4,), use="extra")
TOY_IO = IO((IMAGE,), (LOGITS,))


class ToyTask(Task[NoOptions]):
    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        return TOY_IO

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(out["logits"], batch["label"])


class ToySpec(Options):
    depth: Annotated[int, searched(1, 2, 3)] = Describe(1, description="convolutions")
    width: Annotated[int, searched(2, 4, 6, 8)] = Describe(4, description="channels")
    norm: Annotated[bool, searched(False, True)] = Describe(True, description="batch norm")
    alias: Annotated[int, searched(0, 1)] = Describe(0, description="means nothing: two specs, one network")


class ToyNet(nn.Module):
    def __init__(self, spec: ToySpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(spec.depth):
            layers.append(nn.Conv2d(spec.width if i else 3, spec.width, 3, padding=1))
            if spec.norm:
                layers.append(nn.BatchNorm2d(spec.width))
            layers.append(nn.ReLU(inplace=True))
        self.body = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(spec.width, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.drop(self.body(image).mean((2, 3))))


class ToySpace(SearchSpace[ToySpec]):
    """48 specs, 24 networks, params and MACs by formula."""

    def canonical(self, spec: ToySpec) -> ToySpec:
        return spec.model_copy(update={"alias": 0})

    def build(self, spec: ToySpec, io: IO) -> Model:
        net = ToyNet(spec)
        taps = (
            Tap("stage[0]", "body.0", "map", (spec.width, 8, 8), 1),
            Tap("stage[1]", "body", "map", (spec.width, 8, 8), 1),
            Tap("penultimate", "fc", "vector", (spec.width,), side="input"),
        )
        return Model(net, ("image",), taps, name=f"toy{spec.depth}x{spec.width}")

    def cost(self, spec: ToySpec, io: IO) -> Cost | None:
        w, d = spec.width, spec.depth
        convs = 3 * w * 9 + (d - 1) * w * w * 9
        return Cost(convs + d * w + (2 * d * w if spec.norm else 0) + 4 * w + 4, 64 * convs + 4 * w)


class CountedSpace(ToySpace):
    """The same without a formula."""

    def cost(self, spec: ToySpec, io: IO) -> Cost | None:
        return None


class Size(Proxy[NoOptions]):
    needs_data = False

    def score(self, student: Model, probe: Probe) -> float:
        return float(sum(each.numel() for each in student.module.parameters()))


class Energy(Proxy[NoOptions]):
    """Reads the shared pass: taps of both models, dropout in between."""

    needs_teacher = True

    def taps(self) -> Sequence[str]:
        return ("stage[-1]", "penultimate")

    def score(self, student: Model, probe: Probe) -> float:
        out, teacher = probe.run(student), probe.teacher
        assert teacher is not None
        side = probe.once("side", lambda: teacher["stage[-1]"].square().mean())
        return float(out["stage[-1]"].square().mean() - side + out["logits"].sum() + out["penultimate"].mean())


class Vandal(Proxy[NoOptions]):
    """Changes all it can: weights through `.data`, statistics, gradients and if there are any, mode, hooks, parts, streams."""

    def score(self, student: Model, probe: Probe) -> float:
        net = student.module
        net.train()
        draw = torch.rand((), generator=probe.rng) + torch.rand(())
        net(probe.batch["image"]).sum().backward()
        found = sum(each.grad.abs().sum() for each in net.parameters() if each.grad is not None)
        for each in net.parameters():
            each.data.mul_(3.0)
        net.register_forward_hook(lambda *_: None)
        net.drop = nn.Identity()
        net.eval()
        torch.set_grad_enabled(False)
        return float(found + draw)


class Gaussian(Proxy[NoOptions]):
    init = "gaussian"
    needs_teacher = True

    def taps(self) -> Sequence[str]:
        return ("stage[0]",)

    def score(self, student: Model, probe: Probe) -> float:
        assert probe.teacher is not None
        return float(probe.run(student)["stage[0]"].std() - probe.teacher["stage[0]"].std())


class Lost(Proxy[NoOptions]):
    """NaN for narrow networks, an exception for deep ones."""

    def score(self, student: Model, probe: Probe) -> float:
        net = student.module
        assert isinstance(net, ToyNet)
        if len(net.body) > 6:
            raise RuntimeError("too deep")
        return float("nan") if net.fc.in_features == 2 else float(net.fc.in_features)


def toy_proxies() -> dict[str, Proxy[NoOptions]]:
    return {
        "size": Size(NoOptions()),
        "energy": Energy(NoOptions()),
        "vandal": Vandal(NoOptions()),
        "g": Gaussian(NoOptions()),
        "lost": Lost(NoOptions()),
    }


def toy_scorer(names: Sequence[str] = (), **options: Any) -> Scorer:
    space = ToySpace()
    proxies = toy_proxies()
    chosen = {name: proxies[name] for name in names or proxies}
    teacher = random_teacher(space, TOY_IO, 0)
    return Scorer(space, TOY_IO, ToyTask(NoOptions()), chosen, teacher=teacher, batch_size=8, **options)


def score_job(
    specs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    costs: Sequence[Sequence[int]] = (),
    is_deadly: bool = False,
) -> list[dict[str, Any]]:
    """The job of a chunk. Where it is deadly, a candidate of depth 3 and width 6 ends its process."""
    rows = toy_scorer(names).score_all(specs, known_costs(costs))
    if is_deadly and any((spec["depth"], spec["width"]) == (3, 6) for spec in specs):
        os._exit(5)
    return [row.row() for row in rows]


def wrong_job(specs: Sequence[Mapping[str, Any]], costs: Sequence[Sequence[int]]) -> None:
    raise StudyError("the study is wrong")
