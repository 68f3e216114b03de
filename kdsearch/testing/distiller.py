"""The distiller contract as tests.

# tests/test_my_loss.py in your package; needs pytest
from kdsearch.testing.distiller import DistillerContract
from my_package.loss import MyLoss


class TestMyLoss(DistillerContract):
    distiller = MyLoss
    options = {"temperature": 2.0}  # as in a study's `options:`
    zero_at_equal = ("kl",)  # terms that are 0 where student and teacher agree
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.autograd.gradcheck import GradcheckError

from kdsearch.engine.checkpoint import collect, restore
from kdsearch.errors import PluginError, TapError
from kdsearch.kinds import HIDDEN, Batch, Clock, Distiller, Model, Options, Outputs, Shapes, TapShapes, Write
from kdsearch.kinds.distiller import check_factors
from kdsearch.kinds.model import UnaskedTapError
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import option_ends, require, same
from kdsearch.testing.models import small_resnet
from kdsearch.testing.step import HandStep


class DistillerContract:
    """Inherit it as `TestX` and name the distiller; override `models` and `tensors` for other tasks than classification.

    `labels` may have further fields of the batch, such as what says which samples lack what.

    The student answers a batch that the distiller changes as it answers the step's own, sample by sample.
    """

    distiller: ClassVar[type[Distiller[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}
    classes: ClassVar[int] = 5
    zero_at_equal: ClassVar[Sequence[str]] = ()  # terms that are 0 where student and teacher are the same tensors
    depends_on_order: ClassVar[bool] = False  # True: terms may change when the batch is permuted (queues, pairs)
    is_smooth: ClassVar[bool] = True  # False: no numerical gradient check (argmax, sampling inside)

    def models(self) -> tuple[Model, Model]:
        """(student, teacher) whose taps the distiller reads; unequal widths."""
        return small_resnet((4, 6), 1, self.classes, name="student"), small_resnet(
            (4, 8), 2, self.classes, name="teacher"
        )

    def tensors(self, model: Model, n: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Random output fields and taps of a model, (n, ...)."""
        generator = Generator().manual_seed(seed)
        shapes = {tap.name: tuple(size or 4 for size in tap.shape) for tap in model.taps} | {"logits": (self.classes,)}
        return {name: torch.randn(n, *shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}

    def labels(self, n: int) -> dict[str, Tensor]:
        return {"label": torch.arange(n) % self.classes}

    def made(self, models: tuple[Model, Model], options: Options | None = None) -> Distiller[Any]:
        """The distiller, built for these models, its own parameters seeded."""
        options = options or validate(self.distiller.options_class, self.options)
        found = self.distiller(options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student, teacher = (Shapes(model, {"logits": (self.classes,)}) for model in models)
            found.build(TapShapes(student, teacher))
        return found

    def step(
        self, models: tuple[Model, Model], n: int = 6, seed: int = 1, dtype: torch.dtype = torch.float32
    ) -> tuple[HandStep, dict[str, Tensor], dict[str, Tensor]]:
        """A random step, and the student's and teacher's tensors that it was made of, all requiring a gradient."""
        student, teacher = (self.tensors(model, n, seed + i, dtype) for i, model in enumerate(models))
        for tensor in [*student.values(), *teacher.values()]:
            tensor.requires_grad_()
        return named_step(models, student, teacher, self.labels(n)), student, teacher

    def test_asks_for_taps_that_exist(self) -> None:
        models = self.models()
        for role, taps in self.made(models).taps().items():
            for tap in taps:
                model = models[0] if role == "student" else models[1]
                require(tap == "logits" or bool(model.tap(tap)), f"{role} has no tap '{tap}'")

    def test_reads_no_tap_but_those_that_it_asks_for(self) -> None:
        models = self.models()
        distiller = self.made(models)
        _, student, teacher = self.step(models)
        asked = distiller.taps()
        student = _asked(models[0], student, asked.get("student", ()))
        teacher = _asked(models[1], teacher, asked.get("teacher", ()))
        try:
            distiller.terms(named_step(models, student, teacher, self.labels(6)))
        except UnaskedTapError as error:
            problem = f"it reads '{error.name}' of {error.owner} without asking for it; see StudentTap and `taps`"
            raise AssertionError(problem) from error

    def test_terms_are_finite_scalars(self) -> None:
        models = self.models()
        terms = self.made(models).terms(self.step(models)[0])
        require(bool(terms), "no terms")
        for name, term in terms.items():
            require(name.isidentifier(), f"term '{name}': expected an identifier, as weights name it")
            require(term.dim() == 0, f"term '{name}' has shape {tuple(term.shape)}; expected a scalar")
            require(bool(torch.isfinite(term)), f"term '{name}' is {term.item()}")

    def test_paper_weights_name_its_terms(self) -> None:
        models = self.models()
        made = self.made(models)
        terms = made.terms(self.step(models)[0])
        unknown = set(made.constants()) - set(terms)
        require(not unknown, f"paper_weights name {unknown}; the terms are {set(terms)}")
        named = made.named_terms()
        require(
            not named or set(terms) <= set(named),
            f"the terms are {set(terms)}, but term_names (or paper_weights) name {named}: weights of others are refused",
        )

    def test_learning_rates_are_of_its_own_parameters(self) -> None:
        try:
            check_factors(self.made(self.models()))
        except PluginError as error:
            raise AssertionError(str(error)) from error

    def test_one_sample_is_finite(self) -> None:
        self._finite("one sample", n=1, scale=1.0)

    def test_dead_tensors_are_finite(self) -> None:
        self._finite("all zeros", n=4, scale=0.0)

    def test_large_tensors_are_finite(self) -> None:
        self._finite("values of 1e4", n=4, scale=1e4)

    def _finite(self, what: str, n: int, scale: float) -> None:
        models = self.models()
        distiller = self.made(models)
        student, teacher = (
            {
                name: (tensor * scale).requires_grad_()
                for name, tensor in self.tensors(model, n, 3, torch.float32).items()
            }
            for model in models
        )
        terms = distiller.terms(named_step(models, student, teacher, self.labels(n)))
        for name, term in terms.items():
            require(bool(torch.isfinite(term)), f"{what}: term '{name}' is {term.item()}")
        total(terms).backward()  # type: ignore[no-untyped-call]
        for name, tensor in [*student.items(), *distiller.named_parameters()]:
            finite = tensor.grad is None or bool(torch.isfinite(tensor.grad).all())
            require(finite, f"{what}: the gradient of '{name}' is not finite")

    def test_hidden_labels_are_finite(self) -> None:
        models = self.models()
        _, student, teacher = self.step(models)
        hidden = {name: torch.full_like(label, HIDDEN) for name, label in self.labels(6).items()}
        for name, term in self.made(models).terms(named_step(models, student, teacher, hidden)).items():
            require(bool(torch.isfinite(term)), f"no label known: term '{name}' is {term.item()}")

    def test_teacher_gets_no_gradient(self) -> None:
        models = self.models()
        step, _, teacher = self.step(models)
        total(self.made(models).terms(step)).backward()  # type: ignore[no-untyped-call]
        for name, tensor in teacher.items():
            require(tensor.grad is None, f"the teacher's '{name}' got a gradient")

    def test_gradient_reaches_student_and_own_parameters(self) -> None:
        models = self.models()
        distiller = self.made(models)
        step, student, _ = self.step(models)
        total(distiller.terms(step)).backward()  # type: ignore[no-untyped-call]
        asked = {models[0].tap(tap).name for tap in distiller.taps().get("student", ()) if tap != "logits"}
        for name in asked or {"logits"}:
            require(moves(student[name]), f"the student's '{name}' got no gradient")
        for name, parameter in distiller.named_parameters():
            require(not parameter.requires_grad or moves(parameter), f"own parameter '{name}' got no gradient")

    def test_gradient_is_right(self) -> None:
        if not self.is_smooth:
            return
        models = self.models()
        distiller = self.made(models).double()
        _, student, teacher = self.step(models, n=3, dtype=torch.float64)
        names = list(student)

        def loss(*tensors: Tensor) -> Tensor:
            given = dict(zip(names, tensors, strict=True))
            return total(distiller.terms(named_step(models, given, teacher, self.labels(3))))

        try:
            torch.autograd.gradcheck(loss, tuple(student.values()), fast_mode=True, atol=1e-5)
        except GradcheckError as error:
            said = str(error).strip().splitlines()[0]
            why = "say `is_smooth = False` of a term with an argmax or draws inside"
            raise AssertionError(f"the gradient is not that of the terms ({said}); {why}") from error

    def test_terms_leave_what_it_remembers(self) -> None:
        models = self.models()
        distiller = self.made(models)
        first, _, again = (distiller.terms(self.step(models, seed=seed)[0]) for seed in (1, 3, 1))
        for name, term in first.items():
            is_same = torch.equal(term, again[name])
            require(is_same, f"term '{name}' depends on the terms before: what it remembers is filled in `on_step_end`")

    def test_order_of_the_batch_does_not_matter(self) -> None:
        if self.depends_on_order:
            return
        models = self.models()
        distiller = self.made(models).double()
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        _, student, teacher = self.step(models, dtype=torch.float64)
        there = distiller.terms(named_step(models, student, teacher, self.labels(6)))
        s, t, labels = (
            {name: tensor[order] for name, tensor in given.items()} for given in (student, teacher, self.labels(6))
        )
        back = distiller.terms(named_step(models, s, t, labels, order.tolist()))
        for name, term in there.items():
            require(
                torch.allclose(term, back[name], rtol=1e-9, atol=1e-12), f"term '{name}' depends on the batch's order"
            )

    def test_equal_steps_give_equal_terms_and_stay_unchanged(self) -> None:
        models = self.models()
        distiller = self.made(models)
        step, student, teacher = self.step(models)
        before = {name: tensor.detach().clone() for name, tensor in [*student.items(), *teacher.items()]}
        first = distiller.terms(step)
        require(all(torch.equal(v, before[k]) for k, v in teacher.items()), "it changes the teacher's tensors in place")
        second = self.made(models).terms(self.step(models)[0])
        for name, term in first.items():
            require(torch.equal(term, second[name]), f"term '{name}' differs between equal steps; draw from step.rng")

    def test_leaves_batch_and_global_streams_as_they_were(self) -> None:
        models = self.models()
        distiller, step = self.made(models), self.step(models)[0]
        before = {name: tensor.clone() for name, tensor in step.batch.tensors.items()}
        with torch.random.fork_rng(devices=[]):
            torch.rand(3)  # no state that a seed leaves
            states = torch.get_rng_state(), random.getstate()
            with torch.enable_grad():
                distiller.terms(step)
                require(torch.is_grad_enabled(), "it switches gradients off; use `with torch.no_grad():`")
            equal = torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
        require(equal, "it seeds or draws from a global stream; draw from step.rng")
        for name, tensor in step.batch.tensors.items():
            require(same(tensor, before[name]), f"it changes the batch's '{name}' in place")

    def test_what_it_remembers_is_buffers(self) -> None:
        """They alone are there when a training that was stopped goes on."""
        models = self.models()
        through, resumed = self.made(models), self.made(models)
        for seed in (1, 3):
            self._ended(through, models, seed)
        through.on_epoch_end(Clock(epoch=1, step=2, progress=0.5, epochs=2))
        restore(collect({"distiller:it": through}, {}), {"distiller:it": resumed}, {}, Path(type(through).__name__))
        for seed in (5, 7):
            known, found = self._ended(through, models, seed), self._ended(resumed, models, seed)
            for name, term in known.items():
                require(
                    torch.equal(term, found[name]),
                    f"term '{name}' is {term.item():.6g}, after a stop {found[name].item():.6g}: what it remembers is a buffer",
                )

    def _ended(self, distiller: Distiller[Any], models: tuple[Model, Model], seed: int) -> dict[str, Tensor]:
        """The terms of a step that the distiller was told the end of."""
        step, _, _ = self.step(models, seed=seed)
        terms = distiller.terms(step)
        with torch.no_grad():
            distiller.on_step_end(step)
        return terms

    def test_zero_where_student_and_teacher_agree(self) -> None:
        teacher = self.models()[1]
        models = (teacher, teacher)
        distiller = self.made(models).double()
        tensors = self.tensors(teacher, 6, 2, torch.float64)
        terms = distiller.terms(named_step(models, tensors, tensors, self.labels(6)))
        for name in self.zero_at_equal:
            require(abs(terms[name].item()) < 1e-9, f"term '{name}' is {terms[name].item()} where both agree")

    def test_declared_search_ranges_work(self) -> None:
        models = self.models()
        for options in option_ends(self.distiller.options_class, self.options):
            try:
                distiller = self.made(models, options)
            except TapError:
                continue  # a refusal with a reason is an answer
            for name, term in distiller.terms(self.step(models)[0]).items():
                require(bool(torch.isfinite(term)), f"{options!r}: term '{name}' is {term.item()}")


def named_step(
    models: tuple[Model, Model],
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    samples: Sequence[int] | None = None,
) -> HandStep:
    """A step whose taps answer to `stage[-1]` too, and whose `run("teacher")` has a graph: detaching is the distiller's work.

    samples: which ones these are, for draws that a sample has in whatever batch it is; None = in order from 0.
    """
    resolve = [lambda name, model=model: model.tap(name).name for model in models]
    s, t = Outputs(student, resolve[0], "the student"), Outputs(teacher, resolve[1], "the teacher")
    n = len(next(iter(s.values())))
    ids = tuple(str(i) for i in (range(n) if samples is None else samples))

    def again(other: Batch, writes: Mapping[str, Write]) -> Outputs:
        if writes:
            raise KeyError("the student has fixed outputs, which cannot be written here")
        at = torch.tensor([ids.index(each) for each in other.ids])
        return Outputs({name: tensor[at] for name, tensor in s.items()}, resolve[0], "the student")

    return HandStep(s, t, Batch(ids, dict(batch)), roles={"teacher": t}, runs={"student": again})


def _asked(model: Model, tensors: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Tensor]:
    """Output fields, and these taps."""
    asked = {*model.outputs, *(tap if tap in tensors else model.tap(tap).name for tap in taps)}
    others = {tap.name for tap in model.taps} - asked
    return {name: tensor for name, tensor in tensors.items() if name not in others}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def moves(tensor: Tensor) -> bool:
    """Whether it got a gradient that is finite and somewhere not 0."""
    grad = tensor.grad
    return grad is not None and bool(torch.isfinite(grad).all()) and bool((grad != 0).any())
