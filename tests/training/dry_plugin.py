"""Distillers, metrics, procedures and a pruner with the mistakes that authors make."""

from __future__ import annotations

import itertools
import sys
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import (
    IO,
    Compressor,
    DataSource,
    Distiller,
    Metric,
    Model,
    NoOptions,
    Options,
    Phase,
    Plan,
    Predict,
    Procedure,
    Services,
    Setup,
    Step,
    StudentTap,
    Subject,
    TapShapes,
    Update,
)
from kdsearch.kit.distillation import Distillation, DistillOptions


class PlainOptions(Options):
    tap: str = Field("stage[1]", description="is no StudentTap, so nobody asks the student for it")


class Plain(Distiller[PlainOptions]):
    needs_teacher = False

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"size": step.student[self.options.tap].square().mean()}


class TappedOptions(Options):
    tap: StudentTap = Field("penultimate", description="a vector")
    others: list[StudentTap] = Field(["penultimate"], description="more of them")


class Narrow(Distiller[TappedOptions]):
    """Its projection is for another width than the tap's."""

    needs_teacher = False

    def build(self, shapes: TapShapes) -> None:
        self.project = nn.Linear(5, 3)

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"small": self.project(step.student[self.options.tap]).square().mean()}


class TwofoldOptions(Options):
    more: bool = Field(False, description="gives a third term")


class Twofold(Distiller[TwofoldOptions]):
    """Does not name its terms."""

    needs_teacher = False

    def terms(self, step: Step) -> dict[str, Tensor]:
        size = step.student["logits"].square().mean()
        return {"flat": size, "small": size, **({"more": size} if self.options.more else {})}


class EitherOptions(Options):
    mode: Literal["l1", "l2"] = Field("l1", description="norm")
    flag: bool = Field(False, description="of l1 alone")

    @model_validator(mode="after")
    def fits(self) -> EitherOptions:
        if self.flag and self.mode == "l2":
            raise ValueError("flag needs l1")
        return self


class Either(Distiller[EitherOptions]):
    """Its options refuse one point of four."""

    needs_teacher = False

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"size": step.student["logits"].square().mean()}


class Peer(Distiller[NoOptions]):
    """Is of use in a procedure that trains a peer."""

    needs_teacher = False

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"apart": (step.student["logits"] - step.run("peer")["logits"]).square().mean()}


class Self(Distiller[NoOptions]):
    """Reads a map of what the student was, in a procedure that keeps it."""

    needs_teacher = False

    def taps(self) -> dict[str, list[str]]:
        return {"earlier": ["penultimate"]}

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"moved": (step.student["penultimate"] - step.run("earlier")["penultimate"]).square().mean()}


class Late(Distiller[NoOptions]):
    """Fails after the step, and while it has fewer samples than it needs."""

    needs_teacher = False

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"none": 0 * step.student["logits"].mean()}

    def on_step_end(self, step: Step) -> None:
        raise IndexError("queue is full")


class Misspelt(Distiller[NoOptions]):
    """Asks another role for its tap than it reads it of."""

    needs_teacher = False

    def taps(self) -> dict[str, list[str]]:
        return {"studnet": ["penultimate"]}

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"size": step.student["penultimate"].square().mean()}


class Steep(Distiller[NoOptions]):
    """Differentiates inside, of which nothing is there where no graph is kept."""

    needs_teacher = False

    def terms(self, step: Step) -> dict[str, Tensor]:
        logits = step.student["logits"]
        (slope,) = torch.autograd.grad(logits.square().sum(), logits, create_graph=True)
        return {"slope": slope.square().mean()}


class Ends(Late):
    """Ends the program, as late."""

    def on_step_end(self, step: Step) -> None:
        sys.exit(4)


class Stops(Late):
    def on_step_end(self, step: Step) -> None:
        raise GeneratorExit("no more")


class Many(Late):
    def on_step_end(self, step: Step) -> None:
        if len(step.batch) < 20:
            raise IndexError("a batch of 20 is needed")


class Number(Late):
    """Has no tensor where there is nothing to learn."""

    def terms(self, step: Step) -> dict[str, Any]:
        return {"soft": 0.0}


class Broken(Late):
    """Has a term without a gradient, and NaN."""

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"nan": torch.tensor(float("nan"))}


class Misnamed(Metric[NoOptions]):
    """Its value has another name than it is registered by."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        return {"brier": 0.5, "n": float(len(data.split(split).ids))}


class Wordless(Metric[NoOptions]):
    """Has no values."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> Any:
        return None


class Worded(Metric[NoOptions]):
    """Its value is a word."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> Any:
        return {"worded": "good", "n": 3.0}


class Tested(Metric[NoOptions]):
    """Its value is a word on the test split, which no dry step looks at."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> Any:
        return {"tested": "good" if split == "test" else 0.5, "n": 3.0}


class Locked(Compressor[NoOptions]):
    """Cannot look at a network."""

    def preflight(self, model: Model, io: IO) -> None:
        raise KeyError("no key")

    def plan(self, subject: Subject) -> Plan:
        return Plan({})


class Picky(Metric[NoOptions]):
    """Cannot judge few samples."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        if len(data.split(split).ids) < 20:
            raise ValueError("one class alone")
        return {"picky": 0.5}


class Mutual(Procedure[NoOptions]):
    roles = ("student", "peer")

    def phases(self, setup: Setup) -> Any:
        raise NotImplementedError


class Keeping(Distillation[DistillOptions]):
    """What the student was at first stays, in a role of its own."""

    def phases(self, setup: Setup) -> Any:
        setup.freeze("earlier", setup.models["student"].copy())
        yield self.phase(setup, taps={"student": ["penultimate"]})


class Growing(Procedure[NoOptions]):
    """Its student gets a wider classifier between two phases."""

    def phases(self, setup: Setup) -> Any:
        def step(s: Step) -> Any:
            yield Update({"task": s.task()})

        model = setup.models["student"]
        for name in ("young", "grown"):
            modules = {"student": model.module}
            yield Phase(name, step, {"train": setup.feed("labeled")}, [setup.optim(modules)], 1, score="student")
            model.module.classifier = nn.Sequential(model.module.classifier, nn.Linear(10, 10))


class GrownOptions(Options):
    says: int = 10
    recovers: bool = True


class Grown(Growing, Procedure[GrownOptions]):
    """Says how wide, truly unless asked to lie."""

    def grown(self, role: str, model: Model, setup: Setup) -> Model:
        model.module.classifier = nn.Sequential(model.module.classifier, nn.Linear(10, self.options.says))
        return model

    def phases(self, setup: Setup) -> Any:
        yield from itertools.islice(super().phases(setup), 2)

    def recovery(self, setup: Setup) -> Any:
        if not self.options.recovers:
            yield from self.phases(setup)
            return
        yield from itertools.islice(super().phases(setup), 1)


@hookimpl
def kdsearch_register(register: Register) -> None:
    for cls in (Plain, Narrow, Twofold, Either, Peer, Late, Many, Broken, Number, Self, Misspelt, Steep, Ends, Stops):
        register.distiller(cls.__name__.lower(), f"tests.training.dry_plugin:{cls.__name__}")
    register.metric("misnamed", "tests.training.dry_plugin:Misnamed")
    register.metric("wordless", "tests.training.dry_plugin:Wordless")
    register.metric("worded", "tests.training.dry_plugin:Worded")
    register.metric("tested", "tests.training.dry_plugin:Tested")
    register.pruner("locked", "tests.training.dry_plugin:Locked")
    register.metric("picky", "tests.training.dry_plugin:Picky")
    register.procedure("grown", "tests.training.dry_plugin:Grown")
    register.procedure("keeping", "tests.training.dry_plugin:Keeping")
    register.procedure("growing", "tests.training.dry_plugin:Growing")
    register.procedure("mutual", "tests.training.dry_plugin:Mutual")
