"""The proxy contract as tests.

# tests/test_my_score.py in your package; needs pytest
from kdsearch.testing.proxy import ProxyContract
from my_package.score import MyScore


class TestMyScore(ProxyContract):
    proxy = MyScore
    options = {"layer": "last"}  # as in a study's `options:`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator

from kdsearch.errors import TapError
from kdsearch.kinds import Model, Options, Proxy
from kdsearch.kinds.model import UnaskedTapError
from kdsearch.kinds.options import validate
from kdsearch.kinds.proxy import taps_of
from kdsearch.ops.init import gaussian_init
from kdsearch.testing.contract import changed, option_ends, require, trace
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe


class ProxyContract:
    """Inherit it as `TestX` and name the proxy; override `students`, `teacher` and `probe` for other tasks."""

    proxy: ClassVar[type[Proxy[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}

    def students(self) -> list[Model]:
        """Three freshly initialised, different candidates."""
        return [small_resnet(depth=depth, seed=depth, name=f"student-{depth}") for depth in (1, 2, 3)]

    def teacher(self) -> Model:
        return small_resnet(depth=4, seed=9, name="teacher")

    def probe(self, seed: int = 0) -> HandProbe:
        """Has a teacher only where the proxy says that it needs one."""
        teacher = self.teacher() if self.proxy.needs_teacher else None
        probe = HandProbe(noise_batch(8, seed=seed), teacher)
        if teacher:
            initialise(teacher, self.made().init, 99)
        return probe

    def made(self, options: Options | None = None) -> Proxy[Any]:
        return self.proxy(options or validate(self.proxy.options_class, self.options))

    def ready(self, probe: HandProbe, options: Options | None = None) -> tuple[Proxy[Any], list[Model]]:
        """The fitted proxy and candidates, initialised as it asks."""
        proxy, students = self.made(options), self.students()
        for seed, student in enumerate(students):
            initialise(student, proxy.init, seed)
        proxy.fit([student.copy() for student in students], probe)
        return proxy, students

    def test_asks_for_taps_that_exist(self) -> None:
        probe = self.probe()
        proxy, students = self.ready(probe)
        teachers = [probe.teacher_model] if probe.teacher_model else []
        for role, model in [*(("student", each) for each in students), *(("teacher", each) for each in teachers)]:
            for tap in taps_of(proxy.taps(), role):
                require(tap in model.outputs or bool(model.tap(tap)), f"'{model.name}' has no tap '{tap}'")

    def test_reads_no_tap_but_those_that_it_asks_for(self) -> None:
        probe = self.probe()
        probe.taps = self.made().taps()
        try:
            proxy, students = self.ready(probe)
            proxy.score(students[0], probe)
        except UnaskedTapError as error:
            raise AssertionError(
                f"it reads '{error.name}' of '{error.owner}' without asking for it; see `taps`"
            ) from error

    def test_scores_are_finite_floats(self) -> None:
        probe = self.probe()
        proxy, students = self.ready(probe)
        for student in students:
            found = proxy.score(student, probe)
            require(isinstance(found, float), f"the score is a {type(found).__name__}; expected a float")
            require(math.isfinite(found), f"'{student.name}' scores {found}")

    def test_equal_candidates_score_equally(self) -> None:
        scores = []
        for _ in range(2):
            probe = self.probe()
            proxy, students = self.ready(probe)
            scores.append([proxy.score(student, probe) for student in students])
        require(scores[0] == scores[1], f"equal models and probes: {scores[0]} and {scores[1]}")

    def test_order_of_candidates_does_not_matter(self) -> None:
        found = []
        for order in ([0, 1, 2], [2, 1, 0], [1, 1, 2, 0]):
            probe = self.probe()
            proxy, students = self.ready(probe)
            scores = {i: proxy.score(students[i], probe) for i in order}
            found.append([scores[i] for i in range(3)])
        require(found[0] == found[1] == found[2], f"scores depend on what was scored before: {found}")

    def test_leaves_no_trace(self) -> None:
        probe = self.probe()
        proxy, students = self.ready(probe)
        watched = [*students, *([probe.teacher_model] if probe.teacher_model else [])]
        for training in (True, False):
            for model in watched:
                model.module.train(training)
            before = [trace(model.module) for model in watched]
            for student in students:
                proxy.score(student, probe)
            for model, was in zip(watched, before, strict=True):
                differing = changed(was, trace(model.module))
                require(not differing, f"'{model.name}' changed: {', '.join(differing[:5])}")

    def test_leaves_gradients_switched_on(self) -> None:
        probe = self.probe()
        proxy, students = self.ready(probe)
        with torch.enable_grad():
            proxy.score(students[0], probe)
            require(torch.is_grad_enabled(), "it switches gradients off; use `with torch.no_grad():`")

    def test_leaves_batch_as_it_was(self) -> None:
        probe = self.probe()
        before = {name: tensor.clone() for name, tensor in probe.batch.tensors.items()}
        proxy, students = self.ready(probe)
        proxy.score(students[0], probe)
        for name, tensor in probe.batch.tensors.items():
            require(torch.equal(tensor, before[name]), f"it changes the batch's '{name}' in place")

    def test_dead_and_exploded_networks_have_a_defined_score(self) -> None:
        probe = self.probe()
        proxy, students = self.ready(probe)
        for what, value in (("all weights 0", 0.0), ("all weights 1e30", 1e30)):
            student = students[0].copy()
            with torch.no_grad():
                for weight in student.module.parameters():
                    weight.fill_(value)
            found = proxy.score(student, probe)
            require(isinstance(found, float) and not math.isnan(found), f"{what}: the score is {found}")
            require(found < math.inf, f"{what}: the score is +infinity; the worst is -infinity")

    def test_without_data_means_any_batch_gives_the_same(self) -> None:
        if self.proxy.needs_data:
            return
        scores = []
        for seed in (0, 1):
            probe = self.probe(seed)
            proxy, students = self.ready(probe)
            scores.append([proxy.score(student, probe) for student in students])
        require(scores[0] == scores[1], "needs_data is False, but the score depends on the batch")

    def test_declared_search_ranges_work(self) -> None:
        probe = self.probe()
        for options in option_ends(self.proxy.options_class, self.options):
            try:
                proxy, students = self.ready(probe, options)
                found = proxy.score(students[0], probe)
            except TapError:
                continue  # a refusal with a reason is an answer
            require(math.isfinite(found), f"{options!r}: the score is {found}")


def initialise(model: Model, init: str, seed: int) -> None:
    """As a host does by `Proxy.init`."""
    if init == "gaussian":
        gaussian_init(model.module, Generator().manual_seed(seed))
