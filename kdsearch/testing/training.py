"""A training without a study: models, tensors and a procedure, in a few lines of a notebook or a test.

data = TensorSource({"train": {"image": x, "label": y}, "val": {"image": x_val, "label": y_val}})
run = training(Distill(DistillOptions()), {"student": small_resnet()}, data, Path("work"), epochs=2)
history = run.run().history
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from kdsearch.engine.cache import Live
from kdsearch.engine.conduct import Device, Report
from kdsearch.engine.loop import Training
from kdsearch.engine.setup import LiveSetup
from kdsearch.host import Host
from kdsearch.kinds import (
    Batch,
    DataSource,
    Distiller,
    Field,
    Model,
    Procedure,
    Shapes,
    Split,
    TapShapes,
    Task,
    split_of,
)
from kdsearch.store.hashing import derive, stream

Augment = Callable[[Mapping[str, Tensor], Generator], Mapping[str, Tensor]]


class TensorSplit:
    """Columns (N, ...) by field name. `augment` changes one sample by its own generator."""

    def __init__(self, name: str, columns: Mapping[str, Tensor], augment: Augment | None = None) -> None:
        self._columns, self._augment = dict(columns), augment
        self._ids = tuple(f"{name}-{i:05d}" for i in range(len(next(iter(columns.values())))))

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        ids = tuple(self._ids[i] for i in index)
        rows = {name: column[list(index)] for name, column in self._columns.items()}
        if augment and self._augment is not None:
            samples = [
                self._augment({name: values[at] for name, values in rows.items()}, stream(seed, sample))
                for at, sample in enumerate(ids)
            ]
            rows = {name: torch.stack([sample[name] for sample in samples]) for name in rows}
        return Batch(ids, rows)


class TensorSource:
    """Splits of any names: split -> field -> tensor (N, ...). An int64 `label` (N,) is a class index.

    Args:
        augment: changes a sample (field -> tensor) by its generator, in splits that are asked to augment.
        n_classes: default: the greatest label of all splits, plus one.
    """

    def __init__(
        self, splits: Mapping[str, Mapping[str, Tensor]], augment: Augment | None = None, n_classes: int = 0
    ) -> None:
        self._splits = {name: TensorSplit(name, columns, augment) for name, columns in splits.items()}
        first = next(iter(splits.values()))
        self._fields = tuple(_field(name, column) for name, column in first.items())
        labels = [columns["label"] for columns in splits.values() if "label" in columns]
        self._n_classes = n_classes or max((int(each.max()) for each in labels), default=0) + 1

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"source": "tensors", "licence": "none", "classes": [str(i) for i in range(self._n_classes)]}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        """Raise DataError naming the splits there are."""
        return split_of(self._splits, name)


def _field(name: str, column: Tensor) -> Field:
    shape, dtype = tuple(column.shape[1:]), str(column.dtype).removeprefix("torch.")
    if name == "label":
        return Field(name, "label", shape, dtype, "target")
    return Field(name, {3: "image", 1: "vector"}.get(len(shape), "map"), shape, dtype)


def training(
    procedure: Procedure[Any],
    models: Mapping[str, Model],
    data: DataSource,
    folder: Path,
    *,
    teachers: Mapping[str, Model] | None = None,
    distillers: Mapping[str, Distiller[Any]] | None = None,
    teacher_of: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    normalize: bool = False,
    epochs: int = 1,
    batch_size: int = 32,
    optim: Mapping[str, Any] | None = None,
    augment: bool = False,
    task: Task[Any] | None = None,
    objective: str = "",
    seed: int = 0,
    owner: str = "",
    until: float = 1.0,
    device: Device | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Report | None = None,
    recovers: bool = False,
) -> Training:
    """A Training that is ready to `run()`; its `setup` holds models, teachers and distillers.

    Args:
        models: by role; as freshly made, also where `folder` holds a training that goes on.
        teachers: constants by role; the first is "teacher", too.
        distillers: by name, not built yet: they are built here, on the shapes of "student" (else the first model) and of
            their teacher (`teacher_of`, else "teacher").
        optim: defaults of `setup.optim()`: kind, lr, weight_decay, momentum, schedule, clip.
        task: default: the installed `classification`.
        objective: installed metric that is recorded each epoch for phases with `score`.
        recovers: run the phases after pruning.
    """
    host = Host.load()
    if task is None:
        cls = host.load_class("task", "classification")
        task = cls(cls.options_class())
    metrics = {}
    if objective:
        metric = host.load_class("metric", objective)
        metrics[objective] = metric(metric.options_class())
    io = task.io(data.fields, data.facts)
    lives = {role: Live(model, task, None) for role, model in (teachers or {}).items()}
    if lives:
        lives.setdefault("teacher", next(iter(lives.values())))
    setup = LiveSetup(
        seed=seed,
        base=folder,
        memory=folder,
        task=task,
        data=data,
        io=io,
        models=dict(models),
        teachers=lives,
        teacher_of=dict(teacher_of or {}),
        weights=dict(weights or {}),
        normalize=normalize,
        epochs=epochs,
        defaults=dict(optim or {}),
        batch_size=batch_size,
        augment=augment,
        metrics=metrics,
        trained=tuple(models),
    )
    for role, model in models.items():
        setup.models[role] = procedure.adapt(role, model, setup)
    student = setup.models.get("student", next(iter(setup.models.values())))
    fields = {each.name: each.shape for each in io.outputs}
    for name, distiller in (distillers or {}).items():
        live = lives.get(setup.teacher_of.get(name, "teacher"))
        teacher = live.model if live is not None else student
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "distiller", name))
            shapes = TapShapes(
                Shapes(student, fields), Shapes(teacher, fields), lambda role: Shapes(setup.model_of(role), fields)
            )
            distiller.build(shapes)
    setup.distillers = dict(distillers or {})
    return Training(
        procedure,
        setup,
        folder,
        owner or f"training-{seed}",
        device or Device(),
        until,
        stop,
        report or Report(),
        objective,
        recovers=recovers,
    )
