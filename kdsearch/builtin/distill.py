"""Procedure `distill`: one phase whose step sums the task's loss and the weighted terms of the recipe's distillers.

Without distillers it is plain training: the baseline, the all-labels control and the training of teachers are this, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdsearch.errors import PluginError, exited, one_of
from kdsearch.kinds import Distiller, Ema, Feed, Options, Pass, Phase, Procedure, Setup, Step, Update


class DistillOptions(Options):
    split: Literal["train", "labeled"] = Field(
        "train", description="samples to pass over; the baseline takes `labeled`"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged student weights, which are what ships; 0 = none")
    keep: Literal["last", "best"] = Field("last", description="last epoch's weights, or those of least validation loss")


class Distill(Procedure[DistillOptions]):
    """Terms: `task`, and `<distiller>.<term>` of each distiller."""

    average: nn.Module | None

    def phases(self, setup: Setup) -> Iterator[Phase]:
        student = setup.models["student"]
        distillers = dict(setup.distillers)
        owners = [each for each in distillers.values() if each.owns_task_loss]
        modules = {"student": student.module, **{f"distiller.{name}": each for name, each in distillers.items()}}
        self.average = copy.deepcopy(student.module).requires_grad_(False) if self.options.ema else None
        ema = [Ema(student.module, self.average, self.options.ema)] if self.average is not None else []

        names: dict[str, tuple[str, ...]] = {}

        def step(s: Step) -> Iterator[Update]:
            terms = {} if owners else {"task": s.task()}
            for name, distiller in distillers.items():
                for term, value in _terms(name, distiller, _seen(s, setup, name), names).items():
                    terms["task" if distiller.owns_task_loss and term == "task" else f"{name}.{term}"] = value
            yield Update(terms)

        yield Phase(
            "distill",
            step,
            {"train": self._feed(setup)},
            [setup.optim(modules)],
            setup.epochs,
            ema=ema,
            normalize=setup.normalize and bool(distillers),
            keep=self.options.keep,
            score="student",
        )
        if self.average is not None:
            with torch.no_grad():
                student.module.load_state_dict(self.average.state_dict())

    def _feed(self, setup: Setup) -> Feed:
        """`labeled` is cycled to as many steps an epoch as `train` has, so that the baseline gets equal steps."""
        if self.options.split == "train":
            return setup.feed("train")
        n_samples = len(setup.data.split("train").ids)

        def order(one: Pass) -> list[list[int]]:
            index: list[int] = []
            while len(index) < n_samples:
                index += torch.randperm(len(one.ids), generator=one.rng).tolist()
            return [index[at : min(at + one.batch_size, n_samples)] for at in range(0, n_samples, one.batch_size)]

        return setup.feed("labeled", order=order)


def _terms(name: str, distiller: Distiller[Any], step: Step, names: dict[str, tuple[str, ...]]) -> Mapping[str, Tensor]:
    """The distiller's terms, which have the same names at every step: weights and reports are by name.

    Raises:
        PluginError: no mapping, a name that is no text, or other names than at the step before.
        TrialError: it asked for the end of the program.
    """
    try:
        terms = distiller.terms(step)
    except SystemExit as error:
        raise exited(f"distiller '{name}'", error) from error
    given = tuple(terms) if isinstance(terms, Mapping) else None
    if given is None or not all(isinstance(term, str) for term in given):
        shown = (
            type(terms).__name__
            if given is None
            else f"a term named {next(t for t in given if not isinstance(t, str))!r}"
        )
        raise PluginError(f"distiller '{name}' gave {shown}", expected="a mapping of names to scalars")
    if set(given) != set(names.setdefault(name, given)):
        was = one_of(names[name])
        raise PluginError(
            f"distiller '{name}' gave the terms {one_of(given)}, and {was} before", expected="the same at every step"
        )
    return terms


def _seen(step: Step, setup: Setup, distiller: str) -> Step:
    return step.pair("student", setup.teacher_of.get(distiller, "teacher"))
