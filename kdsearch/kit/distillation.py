"""Distillation with hooks: what a paper changes of it is a method of a few lines, the rest stays.

    class Confident(Distillation[DistillOptions]):
        def terms(self, step, setup):
            return {**super().terms(step, setup), "entropy": entropy(step.student["logits"])}

The procedure `distill` is this class as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kdsearch.errors import INTERRUPTS, KdsearchError, PluginError, TrialError, exited, one_of, told
from kdsearch.kinds import (
    Distiller,
    Ema,
    Feed,
    Optim,
    Options,
    Pass,
    Phase,
    Procedure,
    Setup,
    Step,
    Update,
)
from kdsearch.kinds.distiller import check_terms
from kdsearch.ops.batches import in_batches
from kdsearch.ops.copies import module_copy
from kdsearch.store.files import is_disk_error

__all__ = ["DistillOptions", "Distillation"]


class DistillOptions(Options):
    """A procedure's own options extend these."""

    split: Literal["train", "labeled"] = Field(
        "train", description="samples to pass over; the baseline takes `labeled`"
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of averaged student weights, which validation judges and which ship; 0 = none",
    )
    keep: Literal["last", "best"] = Field("last", description="last epoch's weights, or those of least validation loss")


_D = TypeVar("_D", bound=DistillOptions)


class Distillation(Procedure[_D], Generic[_D]):
    """One phase whose step sums the task's loss and the weighted terms of the recipe's distillers. Every method is a hook.

    `average` is the student that ships, where `ema` asks for one.
    """

    average: nn.Module | None

    def phases(self, setup: Setup) -> Iterator[Phase]:
        """One phase of the recipe's length. Several: yield `self.phase(setup, name=..., epochs=...)` for each."""
        yield self.phase(setup)
        self.finish(setup)

    def phase(self, setup: Setup, name: str = "distill", epochs: int | None = None, **changes: Any) -> Phase:
        """A phase of these hooks. `changes`: fields of `Phase`."""
        student = setup.models["student"].module
        self.average = module_copy(student).requires_grad_(False) if self.options.ema else None
        names: dict[str, tuple[str, ...]] = {}

        def step(s: Step) -> Iterator[Update]:
            yield Update(self._checked(self.terms(s, setup), names))

        usual: dict[str, Any] = {
            "ema": [Ema(student, self.average, self.options.ema, ships=True)] if self.average is not None else [],
            "weights": self.weights(setup),
            "normalize": setup.normalize and bool(setup.distillers),
            "keep": self.options.keep,
            "score": "student",
        }
        length = setup.epochs if epochs is None else epochs
        return Phase(name, step, self.feeds(setup), self.optims(setup), length, **{**usual, **changes})

    def trains(self, setup: Setup) -> dict[str, nn.Module]:
        """What optimisers move, by name: the student and what distillers own. Parts of your own are attributes of the procedure."""
        parts = {f"distiller.{name}": each for name, each in setup.distillers.items()}
        return {"student": setup.models["student"].module, **parts}

    def terms(self, step: Step, setup: Setup) -> dict[str, Tensor]:
        """Unweighted scalars of one step: `task`, and `<distiller>.<term>` of each distiller."""
        owners = [each for each in setup.distillers.values() if each.owns_task_loss]
        found = {} if owners else {"task": step.task()}
        for name, distiller in setup.distillers.items():
            seen = step.pair("student", setup.teacher_of.get(name, "teacher"))
            for term, value in _terms(name, distiller, seen).items():
                found["task" if distiller.owns_task_loss and term == "task" else f"{name}.{term}"] = value
        return found

    def weights(self, setup: Setup) -> Mapping[str, Any]:
        """Of terms of your own, numbers or functions of the clock; the study has those of the task and the distillers."""
        return {}

    def feeds(self, setup: Setup) -> dict[str, Feed]:
        """The first is passed over. `labeled` is cycled to as many steps as `train` has, so that the baseline gets equal steps."""
        if self.options.split == "train":
            return {"train": setup.feed("train")}
        n_samples = len(setup.data.split("train").ids)

        def order(one: Pass) -> list[list[int]]:
            index: list[int] = []
            while len(index) < n_samples:
                index += torch.randperm(len(one.ids), generator=one.rng).tolist()
            return in_batches(index[:n_samples], one.batch_size)

        return {"train": setup.feed("labeled", order=order)}

    def optims(self, setup: Setup) -> Sequence[Optim]:
        """The study's optimiser; `setup.optim(self.trains(setup), schedule=...)` for a schedule of your own."""
        return [setup.optim(self.trains(setup))]

    def finish(self, setup: Setup) -> None:
        """After the last phase: averaged weights become the student's."""
        if self.average is not None:
            with torch.no_grad():
                setup.models["student"].module.load_state_dict(self.average.state_dict())

    def _checked(self, terms: Mapping[str, Tensor], names: dict[str, tuple[str, ...]]) -> Mapping[str, Tensor]:
        """The terms, which have the same names at every step: weights and reports are by name.

        Raises:
            PluginError: they have others than at the step before.
        """
        by_owner: dict[str, list[str]] = {}
        for term in terms:
            owner, dot, rest = term.partition(".")
            by_owner.setdefault(owner if dot else "", []).append(rest if dot else term)
        for owner in {**names, **by_owner}:
            given = by_owner.get(owner, [])
            if set(given) != set(names.setdefault(owner, tuple(given))):
                who = f"distiller '{owner}'" if owner else "procedure"
                problem = f"{who} gave the terms {one_of(given)}, and {one_of(names[owner])} before"
                raise PluginError(problem, expected="the same at every step")
        return terms


def _terms(name: str, distiller: Distiller[Any], step: Step) -> Mapping[str, Tensor]:
    """The distiller's terms.

    Raises:
        PluginError: see `check_terms`.
        TrialError: with its name, what its code raised, or that it asked for the end of the program. Neither memory nor a disk that
            is full is its fault.
    """
    try:
        terms = distiller.terms(step)
    except SystemExit as error:
        raise exited(f"distiller '{name}'", error) from error
    except (*INTERRUPTS, KdsearchError, MemoryError):
        raise
    except BaseException as error:
        if is_disk_error(error):
            raise
        raise TrialError(f"distiller '{name}': {told(error)}") from error
    check_terms(terms, name)
    return terms
