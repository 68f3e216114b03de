"""Any distiller as a training-free score: minus its loss between a fresh student and a fresh teacher on the probe's batch.

Source: Dong et al., DisWOT, CVPR 2023 (arXiv 2303.15678), whose table of "KD-based zero-proxies" does this by hand for ten losses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from kdsearch.errors import PluginError
from kdsearch.kinds import (
    HIDDEN,
    Batch,
    Clock,
    Distiller,
    Model,
    Options,
    Outputs,
    Probe,
    Proxy,
    Shapes,
    Step,
    TapShapes,
    Write,
)
from kdsearch.kinds.distiller import check_terms
from kdsearch.kinds.forward import run_model
from kdsearch.kinds.options import TeacherNamed
from kdsearch.kit.streams import stream
from kdsearch.ops.seeding import seed_generators
from kdsearch.ops.undisturbed import undisturbed

START = Clock(epoch=0, step=0, progress=0.0, epochs=1)
ROLES = ("student", "teacher")


class DistillerProxy(Proxy[Options]):
    """Minus the sum of the distiller's terms, each times the paper's own constant where it has one.

    Both networks run in train mode. What the distiller would train beside the student (projections, memories) is drawn anew from
    the candidate's stream, so a score is a function of the candidate alone. -inf: a loss that is not finite.
    """

    init = "gaussian"  # as DisWOT's benchmarks of losses draw both networks
    name: ClassVar[str]
    distiller: ClassVar[type[Distiller[Any]]]

    def __init__(self, options: Options) -> None:
        """Raise PluginError where these options need what a probe does not have."""
        super().__init__(options)
        for option in teacher_options(type(options)):
            if getattr(options, option) is not None:
                raise lacks(self.name, f"the teacher that its option '{option}' names")
        self._taps = self.distiller(options).taps()
        if strange := [role for role in self._taps if role not in ROLES]:
            raise lacks(self.name, f"a model in the role '{strange[0]}'")

    def taps(self) -> Mapping[str, Sequence[str]]:
        return self._taps

    def score(self, student: Model, probe: Probe) -> float:
        """Raise TapShapeError where the distiller does not fit the two networks, PluginError for what the probe lacks."""
        seed = int(torch.randint(2**62, (), generator=probe.rng))
        try:
            try:
                with seeded(seed), torch.no_grad():
                    total = self._total(ProbeStep(student, probe, self._taps, seed), probe)
            except RuntimeError:  # it differentiates inside: once more, along a graph
                with seeded(seed), undisturbed(student.module), torch.enable_grad():
                    total = self._total(ProbeStep(student, probe, self._taps, seed, graph=True), probe)
        except KeyError as error:
            raise lacks(self.name, str(error.args[0])) from error
        return -total if math.isfinite(total) else -math.inf

    def _total(self, step: ProbeStep, probe: Probe) -> float:
        made = self.distiller(self.options)
        student = shapes_of(step.model, step.student, self._taps.get("student", ()))
        if probe.teacher_model is None:
            made.build(TapShapes(student, student))
        else:
            made.build(TapShapes(student, shapes_of(probe.teacher_model, step.teacher, self._taps.get("teacher", ()))))
        constants, terms = made.constants(), made.terms(step)
        check_terms(terms, self.name)
        return sum(constants.get(name, 1.0) * float(term.detach()) for name, term in terms.items())


@functools.cache
def proxy_of(name: str, distiller: type[Distiller[Any]]) -> type[Proxy[Any]]:
    """The proxy that scores by this distiller, with its options.

    Raises:
        PluginError: whatever its options, it needs a teacher that they name, or the study's data before the first step.
    """
    if distiller.prepare is not Distiller.prepare:
        raise lacks(name, "the study's data, on which it prepares itself")
    fields = distiller.options_class.model_fields
    if named := [each for each in teacher_options(distiller.options_class) if fields[each].default is not None]:
        raise lacks(name, f"the teacher that its option '{named[0]}' names")
    members = {
        "name": name,
        "distiller": distiller,
        "options_class": distiller.options_class,
        "needs_teacher": distiller.needs_teacher,
        "__doc__": f"Minus the loss of distiller `{name}`, untrained: {distiller.__doc__ or ''}".strip(),
        "__module__": distiller.__module__,
    }
    return type(f"{distiller.__name__}Proxy", (DistillerProxy,), members)


def teacher_options(cls: type[Options]) -> list[str]:
    """Options that name one of the study's teachers."""
    marked = cls.model_fields.items()
    return [name for name, info in marked if any(isinstance(mark, TeacherNamed) for mark in info.metadata)]


def lacks(name: str, what: str) -> PluginError:
    return PluginError(
        f"distiller '{name}' is no proxy: a probe does not have what it needs ({what})",
        expected="a distiller of one untrained student and one untrained teacher on one batch",
    )


class ProbeStep:
    """A probe's batch as the step of a training that has not begun; see `kdsearch.kinds.Step`.

    Args:
        taps: role -> what the distiller reads.
        seed: of `rng`.
        graph: run the student anew, with a graph; else the pass that all proxies share, without one.
        batch: another batch than the probe's.
    """

    clock = START

    def __init__(
        self,
        student: Model,
        probe: Probe,
        taps: Mapping[str, Sequence[str]],
        seed: int,
        graph: bool = False,
        batch: Batch | None = None,
    ) -> None:
        self.model, self._probe, self._taps, self._seed, self._graph = student, probe, taps, seed, graph
        self._is_probes = batch is None
        self.batch = known(probe) if batch is None else batch
        self.rng = Generator().manual_seed(seed)
        self._outputs: dict[str, Outputs] = {}

    @property
    def batches(self) -> Mapping[str, Batch]:
        return {"train": self.batch}

    @property
    def student(self) -> Outputs:
        return self.run("student")

    @property
    def teacher(self) -> Outputs:
        """Raise KeyError where the probe has no teacher."""
        return self.run("teacher")

    def run(
        self,
        role: str,
        batch: Batch | None = None,
        writes: Mapping[str, Write] | None = None,
        frozen_stats: bool = False,
    ) -> Outputs:
        """Raise KeyError for a role that a probe does not have. Fresh norms have no statistics to answer by."""
        if batch is not None or writes:
            return self._forward(role, batch or self.batch, writes)
        if role not in self._outputs:
            shared = {"student": None if self._graph else self._probe.run(self.model), "teacher": self._probe.teacher}
            found = shared.get(role) if self._is_probes else None
            self._outputs[role] = found or self._forward(role, self.batch, None)
        return self._outputs[role]

    def _forward(self, role: str, batch: Batch, writes: Mapping[str, Write] | None) -> Outputs:
        model = {"student": self.model, "teacher": self._probe.teacher_model}.get(role)
        if model is None:
            raise KeyError(f"a model in the role '{role}'")
        names = [model.tap(tap).name for tap in self._taps.get(role, ()) if tap not in model.outputs]
        if role == "student" and self._graph:
            return run_model(model, self._probe.task, batch, names, writes)
        batch = self._probe.fed(batch) if role == "teacher" else batch
        with undisturbed(model.module):
            return run_model(model, self._probe.task, batch, names, writes).detach()

    def pair(self, student: str, teacher: str) -> Step:
        if (student, teacher) != ROLES:
            raise KeyError(f"models in the roles '{student}' and '{teacher}'")
        return self

    def on(self, batch: Batch) -> Step:
        return ProbeStep(self.model, self._probe, self._taps, self._seed, self._graph, batch)

    def task(self) -> Tensor:
        return self._probe.task.loss(self.student, self.batch)

    def rows(self, tensor: Tensor, field: str = "logits") -> Tensor:
        answers = replace(self._probe.io, outputs=self._probe.task.answers(self._probe.io))
        return answers.output(field).rows(tensor, self._probe.task.counted(self.batch))

    def truth(self) -> Tensor | None:
        found = self._probe.task.truth(self.batch)
        return None if found is None else self.rows(found)

    def rng_of(self, sample: str) -> Generator:
        return stream(self._seed, sample)

    def log(self, name: str, value: Tensor | float) -> None:
        """Nobody reads it: a proxy gives one number."""

    def gather(self, rows: Tensor) -> Tensor:
        return rows.detach()


def known(probe: Probe) -> Batch:
    """The probe's batch without the targets that are hidden for every sample: a distiller cannot take them for labels."""
    inputs = {each.name for each in probe.io.inputs}
    tensors = {
        name: tensor
        for name, tensor in probe.batch.tensors.items()
        if name in inputs or tensor.is_floating_point() or not bool((tensor == HIDDEN).all())
    }
    return Batch(probe.batch.ids, tensors, probe.batch.lists, probe.batch.texts)


def shapes_of(model: Model, out: Outputs, taps: Sequence[str]) -> Shapes:
    """Shapes of what the model gave, by the names that are asked for."""
    return Shapes(model, {name: tuple(out[name].shape[1:]) for name in (*model.outputs, *taps)})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A global stream of its own; the caller's goes on as if there had been none."""
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        yield
