"""The contract of teachers that are networks, as tests.

# tests/test_my_teacher.py in your package; needs pytest
from kdsearch.testing.teacher import TeacherContract
from my_package.teacher import MyTeacher


class TestMyTeacher(TeacherContract):
    teacher = MyTeacher
    options = {"epochs": 3}  # as in a study's `options:`
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from kdsearch.engine.setup import Site
from kdsearch.kinds import IO, Access, Batch, Field, Model, Normalization, Services, Teacher
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import require, same
from kdsearch.testing.space import check_taps


class TeacherContract:
    """Inherit it as `TestX` and name the teacher; override `services` where it reads files or builds members of a space."""

    teacher: ClassVar[type[Teacher[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}

    def io(self) -> IO:
        return IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (5,)),))

    def fields(self) -> Sequence[Field]:
        """What a batch has; more than a student's inputs, where the teacher reads what no student is to have."""
        return self.io().inputs

    def answers(self) -> Sequence[Field]:
        """What it answers; other than the task's outputs where it is a bank of features."""
        return self.io().outputs

    def services(self) -> Services:
        """Override it where the teacher asks for data, with `site(data=...)` of `kdsearch.testing.data_recipe`."""
        return Site(seed=0, base=Path())

    def made(self) -> Teacher[Any]:
        return self.teacher(validate(self.teacher.options_class, self.options))

    def model(self) -> Model:
        return self.made().model(self.io(), self.services())

    def batch(self, n: int) -> Batch:
        rng = Generator().manual_seed(1)
        return Batch(tuple(ascii_lowercase[:n]), {each.name: each.noise(n, rng) for each in self.fields()})

    def inputs(self, model: Model, n: int) -> list[Tensor]:
        """What its network reads of a batch: of its view, where it has one of its own."""
        made, seen = self.made(), self.batch(n)
        if self.teacher.view is not Teacher.view:
            made.model(self.io(), self.services())  # the host asks for views of the instance whose model it has
            seen = made.view(seen, Generator().manual_seed(0))
        return [seen[name] for name in self.read(model, seen)]

    def read(self, model: Model, seen: Batch) -> tuple[str, ...]:
        lacking = [name for name in model.inputs if name not in seen]
        require(not lacking, f"its network reads '{', '.join(lacking)}', which the view has not")
        return model.inputs

    def answer(self, model: Model, inputs: list[Tensor]) -> Tensor:
        with torch.no_grad():
            out = model.module.eval()(*inputs)
        return out if isinstance(out, Tensor) else next(iter(out.values() if isinstance(out, Mapping) else out))

    def test_answers_each_sample_on_its_own_and_repeatably(self) -> None:
        fields, model = self.answers(), self.model()
        require(model.outputs == tuple(each.name for each in fields), f"outputs are {model.outputs}")
        inputs = self.inputs(model, 3)
        whole, again = self.answer(model, inputs), self.answer(model, inputs)
        wanted = (3, *fields[0].shape)
        is_said = len(wanted) == whole.dim() and all(
            size in (None, got) for size, got in zip(wanted, whole.shape, strict=True)
        )
        require(is_said, f"3 samples are answered by {tuple(whole.shape)}")
        if self.made().stochastic:
            return
        require(torch.equal(whole, again), "equal inputs, different answers in eval mode; say `stochastic`")
        alone = self.answer(model, [each[1:2] for each in inputs])
        require(
            torch.allclose(whole[1:2], alone, atol=1e-4, rtol=1e-4), "an answer depends on the batch's other samples"
        )

    def test_equal_seeds_give_equal_weights(self) -> None:
        torch.manual_seed(1)
        first = self.model().module.state_dict()
        torch.manual_seed(2)
        again = self.model().module.state_dict()
        require(first.keys() == again.keys(), "two builds have different parameters")
        require(bool(first), "no state: a teacher is recognised by its weights; hold a digest in a buffer")
        differing = [name for name in first if not torch.equal(first[name], again[name])]
        require(not differing, f"weights depend on more than the study's seed: {', '.join(differing[:5])}")

    def test_taps_have_the_promised_shapes(self) -> None:
        model = self.model()
        if self.teacher.access < Access.TAPS:
            require(not model.taps, f"access is {self.teacher.access.name}, but taps are offered")
            return
        require(bool(model.taps), "access is TAPS, but no tap is named")
        check_taps(model, self.inputs(model, 2))

    def test_gradients_reach_the_input_where_access_says_so(self) -> None:
        if self.teacher.access < Access.GRADIENT:
            return
        model = self.model()
        inputs = [each.requires_grad_() for each in self.inputs(model, 2)]
        out = model.module.eval()(*inputs).sum()
        require(out.requires_grad, "access is GRADIENT, but the answer has no graph")
        out.backward()
        require(all(each.grad is not None for each in inputs), "access is GRADIENT, but none reaches the input")

    def test_copies_answer_alike(self) -> None:
        model = self.model()
        inputs = self.inputs(model, 2)
        copied = model.copy()
        require(torch.equal(self.answer(model, inputs), self.answer(copied, inputs)), "a copy answers otherwise")

    def test_declared_training_fits_the_model(self) -> None:
        training = self.made().training
        if training is None:
            return
        require(training.epochs >= 1, "training of 0 epochs; None means that it comes trained")
        model = self.model()
        names = [name for name, _ in model.module.named_parameters()]
        require(bool(names), "training is declared, but there is nothing to train")
        for glob in training.scale:
            require(any(fnmatch.fnmatchcase(name, glob) for name in names), f"scale '{glob}' matches no parameter")

    def test_views_are_read_and_repeat(self) -> None:
        """What it is fed of a batch: the same samples, equal for equal streams, under the names that its network reads."""
        made = self.made()
        model = made.model(self.io(), self.services())
        batch = self.batch(2)
        before = torch.get_rng_state()
        seen, again = (made.view(batch, Generator().manual_seed(0)) for _ in range(2))
        require(torch.equal(before, torch.get_rng_state()), "the view draws from the global stream")
        require(seen.ids == batch.ids, "the view has other samples")
        require(all(same(seen[name], again[name]) for name in seen.tensors), "equal streams give different views")
        answer = self.answer(model, [seen[name] for name in self.read(model, seen)])
        require(bool(torch.isfinite(answer).all()), "an answer to its view is not finite")

    def test_what_it_says_before_it_is_built(self) -> None:
        made = self.made()
        made.preflight(self.services())
        stated = made.normalization
        require(stated is None or isinstance(stated, Normalization), f"normalization is a {type(stated).__name__}")
        require(self.teacher.access >= Access.TOPK, f"access is {self.teacher.access.name}: see TextTeacherContract")

    def test_facts_are_json(self) -> None:
        json.dumps(dict(self.made().facts()), allow_nan=False)
