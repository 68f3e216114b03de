"""A procedure with a helper that may be as large as it is, unless its option says that it ships too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import Options, Phase, Procedure, Setup, Step, Update


class HelpedOptions(Options):
    both: bool = Field(False, description="deliver the helper too")


class Helped(Procedure[HelpedOptions]):
    """Student and helper learn from labels, the student from the helper too."""

    roles = ("student", "helper")
    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "task_weight": 0.5,
        "train": {"schedule": {"kind": "linear", "warmup": 0.1}},
    }

    def shipped(self) -> tuple[str, ...]:
        return self.roles if self.options.both else self.ships

    def phases(self, setup: Setup) -> Iterator[Phase]:
        def step(s: Step) -> Iterator[Update]:
            student, helper = s.run("student")["logits"], s.run("helper")["logits"]
            yield Update(
                {
                    "task": s.task(),
                    "helper": setup.task.loss(s.run("helper"), s.batch),
                    "near": (student - helper.detach()).square().mean(),
                }
            )

        modules = {role: setup.models[role].module for role in self.roles}
        feeds = {"train": setup.feed("labeled")}
        yield Phase("both", step, feeds, [setup.optim(modules)], setup.epochs, score="student")


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.procedure("helped", "tests.stages.helper_plugin:Helped")
