"""The conformance classes find the faults that they are for."""

import random
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdsearch.kinds import (
    Clock,
    Distiller,
    Model,
    NoOptions,
    Options,
    Probe,
    Proxy,
    Step,
    StudentTap,
    TapShapes,
    searched,
)
from kdsearch.testing.contract import failures
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.proxy import ProxyContract


def mse(step: Step) -> Tensor:
    return (step.student["logits"] - step.teacher["logits"]).square().mean()


class Good(Distiller[NoOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step)}


class Vector(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step)[None]}


class LearnsTeacher(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": (step.student["logits"] - step.run("teacher")["logits"]).square().mean()}


class Detached(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step).detach() + 0 * step.student["logits"].sum()}


class IdlePart(Good):
    def build(self, shapes: TapShapes) -> None:
        self.idle = nn.Linear(2, 2)


class FirstRow(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": (step.student["logits"][0] - step.teacher["logits"][0]).square().mean()}


class NeedsTwo(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step) + step.student["logits"].std(0).mean()}


class Unseeded(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step) * torch.rand(())}


class WrongGradient(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        z = step.student["logits"]
        return {"mse": (z.detach() * z).mean()}


class NoRate(Good):
    def lr_factors(self) -> dict[str, float]:
        return {"project.*": 0.1}


class LogOfZero(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step).log()}


class Remembers(Good):
    """The teacher's mean so far, in a plain attribute."""

    mean: Tensor | float = 0.0

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": (step.student["logits"] - step.teacher["logits"] - self.mean).square().mean()}

    def on_step_end(self, step: Step) -> None:
        self.mean = 0.9 * self.mean + 0.1 * step.teacher["logits"].mean(0)


class Queue(Good):
    """The same in a buffer, which grows."""

    def build(self, shapes: TapShapes) -> None:
        self.register_buffer("rows", torch.zeros(0, 5))

    def terms(self, step: Step) -> dict[str, Tensor]:
        means = torch.cat([self.rows, step.teacher["logits"].mean(0, keepdim=True)]).to(step.student["logits"])
        return {"mse": (step.student["logits"] - means.mean(0)).square().mean()}

    def on_step_end(self, step: Step) -> None:
        self.rows = torch.cat([self.rows, step.teacher["logits"].mean(0, keepdim=True)])


class FilledInTerms(Queue):
    def terms(self, step: Step) -> dict[str, Tensor]:
        self.on_step_end(step)
        return super().terms(step)

    def on_step_end(self, step: Step) -> None:
        self.rows = torch.cat([self.rows.to(step.teacher["logits"]), step.teacher["logits"].mean(0, keepdim=True)])


class Seeds(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return {"mse": mse(step)}


class SwitchesOff(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        found = {"mse": mse(step)}
        torch.set_grad_enabled(False)
        return found


class Relabels(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        step.batch["label"].clamp_(max=2)
        return {"mse": mse(step)}


class Crashes(Good):
    def on_epoch_end(self, clock: Clock) -> None:
        raise IndexError("queue is full")


class TapOptions(Options):
    tap: StudentTap = "stage[7]"


class NoSuchTap(Distiller[TapOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step)}


class Unasked(Good):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step) + step.student["stage[-1]"].square().mean()}


class RangeOptions(Options):
    temperature: Annotated[float, searched(low=0.0, high=4.0)] = Field(1.0, gt=0)


class ShareOptions(Options):
    one: Annotated[float, searched(low=0.0, high=1.0)] = 0.1
    other: Annotated[float, searched(low=0.0, high=1.0)] = 0.1

    @model_validator(mode="after")
    def sums(self) -> "ShareOptions":
        if self.one + self.other > 1:
            raise ValueError("one and other are at most 1 together")
        return self


class Shares(Distiller[ShareOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": (0.1 + self.options.one + self.options.other) * mse(step)}


class BadRange(Distiller[RangeOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"mse": mse(step)}


DISTILLER_FAULTS = [
    (Vector, "test_terms_are_finite_scalars"),
    (LearnsTeacher, "test_teacher_gets_no_gradient"),
    (Detached, "test_gradient_reaches_student_and_own_parameters"),
    (IdlePart, "test_gradient_reaches_student_and_own_parameters"),
    (FirstRow, "test_order_of_the_batch_does_not_matter"),
    (NeedsTwo, "test_one_sample_is_finite"),
    (Unseeded, "test_equal_steps_give_equal_terms_and_stay_unchanged"),
    (WrongGradient, "test_gradient_is_right"),
    (FilledInTerms, "test_terms_leave_what_it_remembers"),
    (NoRate, "test_learning_rates_are_of_its_own_parameters"),
    (LogOfZero, "test_dead_tensors_are_finite"),
    (Remembers, "test_what_it_remembers_is_buffers"),
    (Seeds, "test_leaves_batch_and_global_streams_as_they_were"),
    (SwitchesOff, "test_leaves_batch_and_global_streams_as_they_were"),
    (Relabels, "test_leaves_batch_and_global_streams_as_they_were"),
    (Crashes, "test_what_it_remembers_is_buffers"),
    (Unasked, "test_reads_no_tap_but_those_that_it_asks_for"),
    (NoSuchTap, "test_asks_for_taps_that_exist"),
    (BadRange, "test_declared_search_ranges_work"),
]


def contract_of(base: type, **members: Any) -> type:
    return type("Contract", (base,), members)


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    """Some of the faulty ones leave them off."""
    yield
    torch.set_grad_enabled(True)


def test_a_good_distiller_conforms() -> None:
    assert failures(contract_of(DistillerContract, distiller=Good, zero_at_equal=("mse",))) == {}
    assert failures(contract_of(DistillerContract, distiller=Queue)) == {}
    assert failures(contract_of(DistillerContract, distiller=Shares)) == {}


@pytest.mark.filterwarnings("ignore:std.. degrees of freedom")
@pytest.mark.parametrize(("distiller", "test"), DISTILLER_FAULTS, ids=[each[0].__name__ for each in DISTILLER_FAULTS])
def test_a_faulty_distiller_is_found(distiller: type[Distiller[Any]], test: str) -> None:
    found = failures(contract_of(DistillerContract, distiller=distiller))
    assert test in found, found
    assert found[test]


def test_a_broken_promise_is_found() -> None:
    found = failures(contract_of(DistillerContract, distiller=FirstRow, zero_at_equal=("nothing",)))
    assert "test_zero_where_student_and_teacher_agree" in found


def weight_sum(student: Model) -> float:
    return float(sum(weight.detach().double().abs().sum() for weight in student.module.parameters()))


class Scored(Proxy[NoOptions]):
    """A score that does `act` first."""

    act: Callable[[Model, Probe], float | None]

    def score(self, student: Model, probe: Probe) -> float:
        extra = type(self).act(student, probe)
        return weight_sum(student) + (extra or 0.0)


def hook(student: Model, _: Probe) -> None:
    student.module.register_forward_hook(lambda *_: None)


def backward(student: Model, probe: Probe) -> None:
    student.module(probe.batch["image"]).sum().backward()


def train_mode(student: Model, _: Probe) -> None:
    student.module.train(not student.module.training)


def running_statistics(student: Model, probe: Probe) -> None:
    with torch.no_grad():
        student.module.train()(probe.batch["image"])


def global_rng(_: Model, __: Probe) -> float:
    return float(torch.rand(()))


def python_rng(_: Model, __: Probe) -> float:
    return random.random()


def batch_in_place(_: Model, probe: Probe) -> None:
    probe.batch["image"].add_(1)


def switches_off(_: Model, __: Probe) -> None:
    torch.set_grad_enabled(False)


def counts_candidates(_: Model, probe: Probe) -> float:
    seen = probe.once("seen", list)
    seen.append(1)
    return float(len(seen))


def not_a_number(student: Model, _: Probe) -> float:
    return float("nan") if weight_sum(student) == 0 else 0.0


def unasked(student: Model, probe: Probe) -> float:
    return probe.run(student)["stage[-1]"].double().mean().nan_to_num(0, 0, 0).item()


PROXY_FAULTS = [
    (unasked, "test_reads_no_tap_but_those_that_it_asks_for"),
    (hook, "test_leaves_no_trace"),
    (backward, "test_leaves_no_trace"),
    (train_mode, "test_leaves_no_trace"),
    (running_statistics, "test_leaves_no_trace"),
    (global_rng, "test_leaves_no_trace"),
    (python_rng, "test_equal_candidates_score_equally"),
    (batch_in_place, "test_leaves_batch_as_it_was"),
    (switches_off, "test_leaves_gradients_switched_on"),
    (counts_candidates, "test_order_of_candidates_does_not_matter"),
    (not_a_number, "test_dead_and_exploded_networks_have_a_defined_score"),
]


def test_a_good_proxy_conforms() -> None:
    proxy = type("Good", (Scored,), {"act": staticmethod(lambda student, probe: 0.0)})
    assert failures(contract_of(ProxyContract, proxy=proxy)) == {}


@pytest.mark.parametrize(("act", "test"), PROXY_FAULTS, ids=[each[0].__name__ for each in PROXY_FAULTS])
def test_a_faulty_proxy_is_found(act: Callable[[Model, Probe], float | None], test: str) -> None:
    proxy = type("Faulty", (Scored,), {"act": staticmethod(act)})
    found = failures(contract_of(ProxyContract, proxy=proxy))
    assert test in found, found
