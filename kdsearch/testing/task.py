"""The contract of tasks, as tests.

# tests/test_my_task.py in your package; needs pytest
from kdsearch.testing.task import TaskContract
from my_package.task import MyTask


class TestMyTask(TaskContract):
    task = MyTask
    options = {"margin": 0.2}  # as in a study's `options:`

    def source(self):
        return MySmallSource()
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from kdsearch.deploy.parity import module_call
from kdsearch.engine.setup import Site
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, IO, Batch, DataSource, Field, Model, Outputs, Services, Task
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import noted, require, same
from kdsearch.testing.models import noise_batch
from kdsearch.testing.padding import has_open, padded
from kdsearch.testing.training import TensorSource

SAMPLES = 8


class Answering(nn.Module):
    """Every input through a linear layer, their sum through one for every output.

    Of an input with an open axis the mean over it is read, of those places that a mask of its shape counts. An output whose first
    axis is open is as long as its `mask`, else as the first input with an open axis.
    """

    def __init__(self, io: IO) -> None:
        super().__init__()
        self.io = io
        self.read = nn.ModuleList(nn.Linear(_closed(each), 16) for each in io.inputs)
        self.answer = nn.ModuleList(nn.Linear(16, _closed(each)) for each in io.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        fields = self.io.inputs
        given = dict(zip([each.name for each in fields], inputs, strict=True))
        seen = [
            layer(self._mean(each, given).reshape(len(inputs[0]), -1))
            for layer, each in zip(self.read, fields, strict=True)
        ]
        hidden = torch.stack(seen).sum(0).relu()
        return tuple(
            self._spread(layer(hidden), each, given) for layer, each in zip(self.answer, self.io.outputs, strict=True)
        )

    def _mean(self, field: Field, given: Mapping[str, Tensor]) -> Tensor:
        """(B, ...) the closed axes of an input."""
        value, axes = given[field.name].float(), [axis for axis, size in enumerate(field.shape, 1) if size is None]
        if not axes:
            return value
        at = self.io.inputs.index(field)  # a mask follows its field
        later = (*self.io.inputs[at:], *self.io.inputs[:at])
        same = (each for each in later if each.kind == "mask" and each.shape == field.shape[:1])
        mask = next(same, None)
        if mask is None:
            return value.mean(axes)
        counts = (given[mask.name] != 0).float()
        counts = counts.reshape(*counts.shape, *[1] * (value.ndim - counts.ndim)).expand_as(value)
        return (value * counts).sum(axes) / counts.sum(axes).clamp(min=1)

    def _spread(self, flat: Tensor, field: Field, given: Mapping[str, Tensor]) -> Tensor:
        if not field.shape or field.shape[0] is not None:
            return flat.reshape(len(flat), *field.sizes)
        lengths = {each.name: given[each.name].shape[1] for each in self.io.inputs if each.shape[:1] == (None,)}
        n = lengths.get(field.mask) or next(iter(lengths.values()), field.open_size)
        places = torch.arange(1, n + 1, dtype=flat.dtype).view(1, n, *[1] * (len(field.shape) - 1))
        return places.sin() + flat.reshape(len(flat), 1, *field.sizes[1:])


def _closed(field: Field) -> int:
    return math.prod(size for size in field.shape if size is not None)


class TaskContract:
    """Inherit it as `TestX` and name the task; override `source` for other data than images with a class each."""

    task: ClassVar[type[Task[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}

    def source(self) -> DataSource:
        """With a split `train` of at least eight samples, every target known."""
        return TensorSource({"train": noise_batch(16, classes=4)})

    def model(self, io: IO) -> Model:
        """A network for the task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = Answering(io)
        return Model(net, tuple(each.name for each in io.inputs), outputs=tuple(each.name for each in io.outputs))

    def services(self) -> Services:
        return Site(seed=0, base=Path())

    def made(self) -> Task[Any]:
        return self.task(validate(self.task.options_class, self.options))

    def io(self) -> IO:
        source = self.source()
        return self.made().io(source.fields, source.facts)

    def batch(self) -> Batch:
        """As models see it: loaded and prepared."""
        return self.made().prepare(self.source().split("train").load(range(SAMPLES)), Generator().manual_seed(0))

    def loss(self, batch: Batch, model: Model | None = None) -> Tensor:
        task = self.made()
        return task.loss(_outputs(task.call(model or self.model(self.io()), batch)), batch)

    def test_io_is_of_the_data_and_has_an_answer(self) -> None:
        io, fields = self.io(), {each.name: each for each in self.source().fields}
        require(bool(io.inputs), "networks read nothing")
        require(bool(io.outputs), "networks answer nothing")
        for each in io.inputs:
            require(each.name in fields, f"input '{each.name}' is no field of the data")
            require(fields[each.name].use != "target", f"input '{each.name}' is a target")
        names = [each.name for each in (*io.inputs, *io.outputs)]
        require(len(set(names)) == len(names), f"a name is there twice: {', '.join(names)}")

    def test_data_that_it_cannot_use_are_refused(self) -> None:
        try:
            self.made().io((), self.source().facts)
        except DataError:
            return
        raise AssertionError("data without any field are taken; raise DataError that names what is missing")

    def test_objective_is_named(self) -> None:
        task = self.task
        require(
            task.objective != Task.objective or task.objective in task.metrics,
            "`objective` is not set: name the metric that describes a model of this task",
        )
        require(all(isinstance(each, str) and each for each in task.metrics), "`metrics` are no names")

    def test_loss_is_a_finite_scalar_with_a_gradient(self) -> None:
        task, batch = self.made(), self.batch()
        found = dict(task.call(self.model(self.io()), batch))
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in found.items()}
        loss = task.loss(_outputs(leaves), batch)
        require(loss.shape == (), f"the loss has shape {tuple(loss.shape)}, expected a scalar")
        require(bool(torch.isfinite(loss)), f"the loss is {loss.item()}")
        require(loss.requires_grad, "the loss has no graph")
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        require(any(each is not None and bool(each.abs().sum() > 0) for each in gradients), "no output gets a gradient")

    def test_loss_is_a_mean_in_any_order(self) -> None:
        batch, model = self.batch(), self.model(self.io())
        whole = self.loss(batch, model)
        turned = self.loss(batch.rows(torch.arange(SAMPLES).flip(0)), model)
        require(_near(whole, turned), "the loss depends on the order of the samples")
        twice = self.loss(batch.rows(torch.arange(2 * SAMPLES) % SAMPLES), model)
        require(
            bool(twice.abs() <= 1.5 * whole.abs() + 1), f"of twice the samples the loss is {twice:.4g}, not {whole:.4g}"
        )

    def test_padding_counts_nothing(self) -> None:
        source, task = self.source(), self.made()
        if not has_open(source.fields):
            return
        batch, model = source.split("train").load(range(SAMPLES)), self.model(self.io())
        losses = []
        for more in (0, 3):
            longer = task.prepare(padded(batch, source.fields, more), Generator().manual_seed(0))
            losses.append(self.loss(longer, model))
        require(_near(*losses), f"with three more places of padding the loss is {losses[1]:.6g}, not {losses[0]:.6g}")

    def test_hidden_samples_show_no_target(self) -> None:
        task, batch = self.made(), self.batch()
        targets, hidden = task.targets(self.source().fields), torch.arange(SAMPLES) % 2 == 1
        if not targets:
            return
        before = {name: tensor.clone() for name, tensor in batch.tensors.items()}
        shown = task.hide(batch, hidden, targets)
        require(shown.ids == batch.ids, "hiding changes the samples")
        changed = [name for name, tensor in batch.tensors.items() if not same(tensor, before[name])]
        require(not changed, f"hiding changes the batch that it is handed: {', '.join(changed)}")
        at = torch.arange(SAMPLES)[hidden]
        for each in targets:
            other = batch[each.name].clone()
            other[at] = other[at.roll(1)] if not bool((other[at] == other[at.roll(1)]).all()) else other[at] + 1
            again = task.hide(batch.having(**{each.name: other}), hidden, targets)
            require(
                same(shown[each.name][hidden], again[each.name][hidden]), f"'{each.name}' still tells what is hidden"
            )
            require(
                torch.equal(shown[each.name][~hidden], before[each.name][~hidden]),
                f"'{each.name}' is hidden of others too",
            )

    def test_samples_without_a_target_count_nothing(self) -> None:
        task, batch, model = self.made(), self.batch(), self.model(self.io())
        targets = task.targets(self.source().fields)
        if not targets:
            return
        hidden = torch.arange(SAMPLES) % 3 == 1
        some = self.loss(task.hide(batch, hidden, targets), model)
        known = self.loss(batch.rows(torch.arange(SAMPLES)[~hidden]), model)
        require(
            _near(some, known),
            f"with samples that have no target the loss is {some.item():.4g}, without them {known.item():.4g}",
        )
        none = self.loss(task.hide(batch, torch.ones(SAMPLES, dtype=torch.bool), targets), model)
        require(none.item() == 0, f"where no target is known the loss is {none.item():.4g}, expected 0")
        require(none.requires_grad, "where no target is known the loss has no graph")

    def test_strata_are_of_each_sample(self) -> None:
        task, batch = self.made(), self.batch()
        targets = task.targets(self.source().fields)
        strata = task.strata(batch, targets)
        require(
            strata.dtype == torch.int64 and strata.shape == (SAMPLES,), f"strata are {strata.dtype}, {strata.shape}"
        )
        require(not targets or bool((strata >= 0).all()), "a sample with a known target has no stratum from 0")
        order = torch.arange(SAMPLES).flip(0)
        require(
            torch.equal(task.strata(batch.rows(order), targets), strata[order]), "a stratum depends on other samples"
        )
        if targets:
            none = task.strata(task.hide(batch, torch.ones(SAMPLES, dtype=torch.bool), targets), targets)
            require(bool((none == HIDDEN).all()), f"without a target the strata are {none.tolist()}, expected {HIDDEN}")

    def test_truth_is_a_class_at_each_position_of_logits(self) -> None:
        task, batch = self.made(), self.batch()
        fields = {each.name: each for each in task.answers(self.io())}
        truth, logits = task.truth(batch), fields.get("logits")
        if truth is None or logits is None:
            return
        n = logits.sizes[logits.class_axis - 1]
        positions = tuple(size for axis, size in enumerate(logits.shape, 1) if axis != logits.class_axis)
        fits = truth.ndim == len(logits.shape) and all(
            want in (None, got) for want, got in zip((SAMPLES, *positions), truth.shape, strict=True)
        )
        require(fits, f"the truth is {tuple(truth.shape)}, expected {SAMPLES} samples of {positions}")
        is_class = not truth.is_floating_point() and bool((((truth >= 0) & (truth < n)) | (truth == HIDDEN)).all())
        require(is_class, f"the truth is of {truth.dtype}, or none of {n} classes, nor HIDDEN ({HIDDEN})")
        everything = torch.ones(SAMPLES, dtype=torch.bool)
        hidden = task.truth(task.hide(batch, everything, task.targets(self.source().fields)))
        require(hidden is None or bool((hidden == HIDDEN).all()), "the truth still tells what is hidden")

    def test_dummies_are_samples(self) -> None:
        task, io = self.made(), self.io()
        before = torch.get_rng_state()
        made, again = (task.dummy(io, 5, Generator().manual_seed(3)) for _ in range(2))
        require(torch.equal(before, torch.get_rng_state()), "a dummy draws from the global stream")
        require(len(made) == 5, f"5 samples were asked for, {len(made)} given")
        for each in io.inputs:
            require(each.name in made, f"a dummy has no '{each.name}'")
            got = made[each.name]
            require(got.shape == (5, *each.sizes), f"'{each.name}' is {tuple(got.shape)}, expected {(5, *each.sizes)}")
            require(got.dtype == each.torch_dtype, f"'{each.name}' is {got.dtype}, expected {each.dtype}")
        require(all(same(made[name], again[name]) for name in made.tensors), "equal streams give different dummies")
        loss = self.loss(task.prepare(made, Generator().manual_seed(0)))
        require(bool(torch.isfinite(loss)), f"the loss of dummies is {loss.item()}: are their targets valid?")

    def test_preparing_repeats(self) -> None:
        task, batch = self.made(), self.source().split("train").load(range(SAMPLES))
        before = torch.get_rng_state()
        made, again = (task.prepare(batch, Generator().manual_seed(7)) for _ in range(2))
        require(torch.equal(before, torch.get_rng_state()), "preparing draws from the global stream")
        require(made.ids == batch.ids, "preparing changes the samples")
        require(
            all(same(made[name], again[name]) for name in made.tensors), "equal streams prepare a batch differently"
        )

    def test_counted_positions_are_marked(self) -> None:
        found = self.made().counted(self.batch())
        if found is not None:
            require(found.dtype == torch.bool, f"counted positions are {found.dtype}, expected bool")
            require(found.shape[:1] == (SAMPLES,), f"counted positions are {tuple(found.shape)} of {SAMPLES} samples")

    def test_the_product_answers_as_the_model_does(self) -> None:
        task, io, batch = self.made(), self.io(), self.batch()
        model = self.model(io)
        model.module.eval()
        product = task.product(model, io)
        called: list[str] = []
        calls = {name: noted(name, module_call(graph), called) for name, graph in product.graphs.items()}
        with torch.no_grad():
            answer, expected = product.call(calls, batch), task.call(model, batch)
        require(
            set(called) == set(product.graphs), f"of {', '.join(product.graphs)} it calls {', '.join(called) or 'none'}"
        )
        for each in io.outputs:
            require(each.name in answer, f"the product does not answer '{each.name}'")
            require(_near(answer[each.name], expected[each.name]), f"'{each.name}' is not the model's")
        require(all(isinstance(each, bytes) for each in product.files.values()), "a file of the product is no bytes")
        json.dumps(dict(product.facts), allow_nan=False)

    def test_figures_are_json(self) -> None:
        task, model = self.made(), self.model(self.io())
        model.module.eval()

        def predict(batch: Batch) -> Mapping[str, Tensor]:
            with torch.no_grad():
                return task.call(model, batch)

        for figure in task.figures(predict, self.source(), "train", self.services()):
            json.dumps(figure.as_json(), allow_nan=False)


def _outputs(found: Mapping[str, Tensor]) -> Outputs:
    return Outputs(found, owner="student")


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-4)
