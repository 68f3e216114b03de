"""A data set outside a study: opened by what a user types, cut as a study would cut it, and asked for quality and samples."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsearch.deploy.cost import count
from kdsearch.deploy.parity import module_call
from kdsearch.engine.measured import values_of
from kdsearch.engine.setup import Evaluator, Site
from kdsearch.engine.splits import Arranged, arrange
from kdsearch.errors import DataError, PluginError, StudyError, one_of
from kdsearch.host import Host
from kdsearch.kinds import (
    COMMON,
    IO,
    Batch,
    Call,
    Cost,
    DataSource,
    Graph,
    Metric,
    Model,
    Normalizable,
    Normalization,
    Task,
    stated,
)
from kdsearch.kinds.forward import run_model
from kdsearch.python.given import Given
from kdsearch.python.recovery import noise
from kdsearch.stages.notes import copied
from kdsearch.stages.quality import goodness, quality_of
from kdsearch.store.hashing import derive, stream
from kdsearch.study.schema import Use
from kdsearch.training.few_samples import FewSamples
from kdsearch.training.materials import make


@dataclass(frozen=True)
class Data:
    """An opened data set, cut as a study would cut it."""

    arranged: Arranged
    task: Task[Any]
    io: IO
    metric: Metric[Any]
    seed: int

    def quality(
        self, predict: Callable[[Batch], Mapping[str, Any]], split: str, samples: int | None = None
    ) -> dict[str, Any]:
        """The objective on a split, or on so many samples of it."""
        data: DataSource = self.arranged if samples is None else FewSamples(self.arranged, samples)
        services = Evaluator(self.seed, Path(), data=data, task=self.task, io=self.io)
        name = self.task.objective
        values = values_of(name, self.metric, predict, data, split, services)
        return quality_of(name, self.metric, values, self.seed).as_json()

    def normalized(self, wanted: Normalization) -> Data:
        """The same splits of a source that is `Normalizable`."""
        source = self.arranged.source
        assert isinstance(source, Normalizable)
        return replace(self, arranged=_arranged(source.normalized(wanted), self.task, self.seed))


@dataclass(kw_only=True)
class PlanSubject(Site):
    """See `kinds.Subject`: what a pruner plans from."""

    model: Model
    io: IO
    opened: Data | None
    budget: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.opened is not None:
            self.data = self.opened.arranged

    def batches(self, n: int, size: int = 32) -> Sequence[Batch]:
        if self.opened is None:
            raise PluginError("this pruner looks at training samples", path="--data", expected="a data set")
        return super().batches(n, size)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        if self.opened is None:
            raise PluginError("this pruner asks for the task's loss", path="--data", expected="a data set")
        task = self.opened.task
        prepared = task.prepare(batch, self.rng("compressor losses"))
        return task.loss(run_model(model, task, prepared), prepared)

    def score(self, model: Model, samples: int | None = None) -> float:
        if self.opened is None:
            raise PluginError("this pruner scores networks on validation data", path="--data", expected="a data set")
        predict = predicting(self.opened, module_call(graph_of(model, self.io)), self.io)
        return goodness(self.opened.quality(predict, "val", samples))

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)


def open_data(
    text: str,
    normalize: str,
    seed: int,
    host: Host,
    own: Normalization | None = None,
    options: Mapping[str, Any] | None = None,
) -> Data:
    """A data set by its name, a .npz file or a folder of class folders; the splits are a study's by default.

    own: what `normalize: auto` means of images; None = what is measured. options: of the data set.
    """
    if not isinstance(text, str):
        expected = "a data set's name, a .npz file (numpy.savez(file, image=..., label=...)), or a folder of images"
        raise StudyError(f"got a {type(text).__name__}", path="data", expected=expected)
    place = Path(text)
    if text.lower().endswith(".npz"):
        use = Use(use="npz", options={"path": text, **(options or {})})
    elif os.path.isdir(text):  # of a name that no file system takes, too
        use = Use(use="image_folder", options={"path": text, **(options or {})})
    else:
        use = Use(use=text, options=dict(options or {}))
    try:
        host.find("dataset", use.use)
    except PluginError as error:
        if "/" in text or place.suffix:  # no name of a data set has either
            expected = "a data set's name, a .npz file, or a folder of images"
            raise DataError(f"there is no folder '{text}'", path="--data", expected=expected) from None
        raise error.at(path="--data") from None
    dataset = make(host, "dataset", use, "--data")
    source: DataSource = dataset.open(Site(seed, Path()))
    for said in copied(source.facts):
        warnings.warn(said, stacklevel=2)
    if normalize != "auto":
        if normalize not in COMMON or not isinstance(source, Normalizable):
            raise StudyError(f"got '{normalize}'", path="--normalize", expected=one_of(["auto", *COMMON]))
        source = source.normalized(COMMON[normalize])
    elif own is not None and isinstance(source, Normalizable) and source.facts.get("preprocessing"):
        source = source.normalized(own)
    task: Task[Any] = make(host, "task", Use(use=dataset.task, options={}), "--data")
    arranged = _arranged(source, task, seed)
    metric: Metric[Any] = make(host, "metric", Use(use=task.objective, options={}), "--data")
    return Data(arranged, task, task.io(arranged.fields, arranged.facts), metric, seed)


def _arranged(source: DataSource, task: Task[Any], seed: int) -> Arranged:
    return arrange(source, labeled=1.0, validation=0.15, test=0.2, train_samples=None, seed=seed, task=task)


def sizes_of(opened: Data | None) -> dict[str, int]:
    """`num_classes` of a network that is made for the data, and `in_chans` where it is not 3, as timm calls them."""
    io, found = opened.io if opened is not None else IO((), ()), dict[str, int]()
    if len(io.outputs) == 1 and io.outputs[0].kind == "logits" and io.outputs[0].shape[0] is not None:
        found["num_classes"] = io.outputs[0].shape[0]
    if len(io.inputs) == 1 and io.inputs[0].kind == "image" and io.inputs[0].shape[0] not in (None, 3):
        found["in_chans"] = io.inputs[0].shape[0]
    return found


def graph_of(model: Model, io: IO) -> Graph:
    return Graph(model.module, io.inputs, io.outputs)


def predicting(opened: Data, call: Call, io: IO) -> Callable[[Batch], Mapping[str, Any]]:
    """Answers by the data's own names, in whatever names the graph has them."""

    def predict(batch: Batch) -> Mapping[str, Any]:
        found = call(*[batch[each.name] for each in opened.io.inputs])
        return {own.name: found[each.name] for own, each in zip(opened.io.outputs, io.outputs, strict=True)}

    return predict


def samples_of(opened: Data | None, io: IO, n: int, seed: int) -> Batch:
    """n training samples by the graph's own names, or noise."""
    if opened is None:
        return noise(io, n, derive(seed, "noise"))
    split = opened.arranged.split("train")
    index = torch.randperm(len(split.ids), generator=stream(seed, "calibration"))[:n].tolist()
    batch = split.load(index)
    return renamed(opened, io, batch)


def renamed(opened: Data, io: IO, batch: Batch) -> Batch:
    tensors = {each.name: batch[own.name] for own, each in zip(opened.io.inputs, io.inputs, strict=True)}
    return Batch(batch.ids, tensors)


def about_of(opened: Data | None, given: Given) -> dict[str, Any]:
    """Labels and preprocessing: what the file says that was given, where the data do not prepare images otherwise."""
    facts = given.about if opened is None else opened.arranged.facts
    is_own = given.normalization is not None and stated(facts) == given.normalization
    told = {
        "labels": list(given.labels or facts.get("classes") or ()),
        "preprocessing": (given.about if is_own else facts).get("preprocessing") or {},
    }
    return told if opened is not None else {name: value for name, value in told.items() if value}


def differences(opened: Data, given: Given) -> list[str]:
    """What the data say otherwise than the file that was given. Raise StudyError for its classes in another order."""
    facts, notes = opened.arranged.facts, list[str]()
    own, wanted = stated(facts), given.normalization
    if own is not None and wanted is not None and own != wanted:
        asked, said = (json.dumps(each.as_json()) for each in (own, wanted))
        notes.append(f"images are prepared by {asked}, as asked for; the file says that it was trained with {said}")
    classes = list(facts.get("classes") or ())
    is_named = classes != [str(i) for i in range(len(classes))]
    if given.labels and is_named and classes != list(given.labels):
        named = f"the data's classes are {', '.join(classes)}, the file's {', '.join(given.labels)}"
        if sorted(classes) == sorted(given.labels):
            raise StudyError(named, path="--data", expected="the file's classes in its order")
        notes.append(f"{named}: the i-th of both is taken for the same")
    return notes
