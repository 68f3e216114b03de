"""Task: batch fields, output fields, base loss, what is exported."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

from torch import Generator, Tensor, nn

from kdsearch.errors import PluginError, nearest, one_of
from kdsearch.kinds.data import Batch, DataSource, Field
from kdsearch.kinds.figure import Figure
from kdsearch.kinds.model import Model, Outputs
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services
from kdsearch.kinds.targets import of_classes, strata_of, targets_of, without_targets


@dataclass(frozen=True)
class IO:
    """What models are built for and exports promise: input and output fields, shapes without B."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    def input(self, name: str) -> Field:
        return _field(self.inputs, name, "input")

    def output(self, name: str) -> Field:
        return _field(self.outputs, name, "output")

    @property
    def has_classes(self) -> bool:
        """Whether a sample is of one class: a logit for each class is among the answers."""
        return any(each.kind == "logits" and len(each.shape) == 1 for each in self.outputs)


def _field(fields: Sequence[Field], name: str, what: str) -> Field:
    for each in fields:
        if each.name == name:
            return each
    names = [each.name for each in fields]
    raise PluginError(f"the task has no {what} field '{name}'", nearest=nearest(name, names), expected=one_of(names))


Call = Callable[..., Mapping[str, Tensor]]
Predict = Callable[[Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Graph:
    """One network to export: module(*inputs) -> Tensor, tuple or dict of the outputs, in the order of `outputs`."""

    module: nn.Module
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def names_out(self) -> tuple[str, ...]:
        """What a file calls the outputs: one that has an input's name is `<name>_out`, since no file may have a name twice."""
        taken = {each.name for each in self.inputs}
        return tuple(f"{each.name}_out" if each.name in taken else each.name for each in self.outputs)


@dataclass(frozen=True)
class Product:
    """What is delivered: graphs by name (a file each), how a batch is answered with them, and what goes along.

    `call` runs over modules or loaded files alike, so that torch student and file are compared by one code. It calls every graph,
    with its inputs in order: what they receive there is what they are exported, calibrated, compared and measured with.

    `files`: by name, written beside the graphs (a tokenizer, names of labels). `facts`: JSON, for the card.
    """

    graphs: Mapping[str, Graph]
    call: Callable[[Mapping[str, Call], Batch], Mapping[str, Tensor]]
    files: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Task(Capability, Generic[O]):
    """Not its work: augmentation, teachers, optimisers."""

    objective: ClassVar[str] = "loss"  # the metric that `objectives` means when the study names none
    metrics: ClassVar[tuple[str, ...]] = ()  # registered metrics that describe a model of this task

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError when a field that the task needs is missing or has the wrong kind."""

    def targets(self, fields: Sequence[Field]) -> tuple[Field, ...]:
        """What the study may hide, all of it together in a sample without a label. Default: the fields of use "target".

        (): there is none, so every sample counts as labelled.
        """
        return targets_of(fields)

    def hide(self, batch: Batch, hidden: Tensor, targets: Sequence[Field]) -> Batch:
        """The batch whose samples at `hidden` (B,) bool show no target. Default: integers all HIDDEN, floats all NaN."""
        return without_targets(batch, hidden, targets)

    def strata(self, batch: Batch, targets: Sequence[Field]) -> Tensor:
        """(B,) int64 from 0: groups that splits and labels are shared out over in proportion; HIDDEN where no target is known.

        Default: the class where the target is one class index a sample, else one group of all.
        """
        return strata_of(batch, targets)

    def of_classes(self, batch: Batch, classes: Collection[int], targets: Sequence[Field]) -> tuple[Batch, Tensor]:
        """The batch that shows the targets of these classes alone, and which samples (B,) bool show one: see `Feed.classes`.

        Default: class indices of others read HIDDEN, of labels one by one those of others are not known. Where others read
        background, say so here. Raise PluginError where there are no classes.
        """
        return of_classes(batch, classes, targets)

    def prepare(self, batch: Batch, rng: Generator) -> Batch:
        """Once a step, before any model: noise levels, masks. Default: the batch."""
        return batch

    def call(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Output fields (B, ...). Default: module(*inputs), named after `outputs` in order."""
        return named(model.module(*[batch[name] for name in model.inputs]), model.outputs)

    def answers(self, io: IO) -> tuple[Field, ...]:
        """What `call` gives, without B. Default: the network's outputs; others where it is called more than once a sample."""
        return io.outputs

    @abstractmethod
    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Scalar, mean over the samples with a known target; 0 (with graph) when there is none."""

    def truth(self, batch: Batch) -> Tensor | None:
        """The class at each position of `logits`, (B, ...) integers, HIDDEN where nobody knows it; None: it has none.

        Default: `label`, where there is one. Distillers that read the truth beside the teacher's word ask for it.
        """
        return batch.tensors.get("label")

    def counted(self, batch: Batch) -> Tensor | None:
        """Positions of the outputs that the teacher's word counts at, (B, ...) bool: not the padding. Default None: all.

        Samples without a label count: what they lack is the task's loss.
        """
        return None

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """n samples of noise with valid targets: for shapes, cost and proxies without data."""
        return Batch(tuple(f"dummy-{i}" for i in range(n)), {each.name: each.noise(n, rng) for each in io.inputs})

    def product(self, model: Model, io: IO) -> Product:
        """Default: one graph `model` with the inputs that the model reads, in its order."""
        names = model.inputs
        inputs = tuple(io.input(name) for name in names)

        def call(calls: Mapping[str, Call], batch: Batch) -> Mapping[str, Tensor]:
            return calls["model"](*[batch[name] for name in names])

        return Product({"model": Graph(model.module, inputs, io.outputs)}, call)

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """What a report should show of the answers on a split, beyond the metrics. Default: nothing.

        `predict` is the product's call, as in `Metric.measure`: for every file that is exported on the test split.
        """
        return ()


def named(result: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """A module's result (Tensor, sequence or mapping) as named tensors."""
    if isinstance(result, Mapping):
        return {name: result[name] for name in names}
    if isinstance(result, Tensor):
        return {names[0]: result}
    return dict(zip(names, result, strict=False))
