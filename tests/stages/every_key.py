"""Every key of the study's schema, a change of it, and the first stage that the change has to redo.

A key that this table lacks fails `test_keys.py`: whoever adds one says here what depends on it.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel

from kdsearch.host import Host
from kdsearch.study.schema import Config
from tests.outside.conftest import HERE as OUTSIDE

with pytest.MonkeyPatch.context() as patch:  # a package that brings texts, of which data recipes make samples
    patch.syspath_prepend(str(OUTSIDE))
    HOST = Host.load()
    for module in ("recipes", "scripted", "topics"):
        import_module(f"kdsearch_texts.{module}")

TEXT = """\
name: every
seed: 3
data: {use: digits, options: {resize: 8}, labeled: 0.5, train_samples: 160}
task: {use: classification}
teacher:
  use: trained
  options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 8, 8]}, epochs: 1, batch_size: 64, lr: 0.01}
student:
  space: cifar_resnet
  spec: {depths: {choices: [1, 2]}, widths: {choices: [4, 8]}}
recipe:
  distillers:
    - {use: kd, weight: search, options: {temperature: search}}
  train: {lr: search, batch_size: 64, optimizer: sgd}
objectives: {accuracy: max}
constraints: {params: 20000}
search: {proxy: params, candidates: 4, keep: 2, probe: {batch_size: 8}}
refine: {controller: {use: random}, trials: 3, epochs: 2, generation: 2, stopper: {use: none}}
distill: {epochs: 1, controls: []}
compress: {quantize: [{use: int8, options: {samples: 16}}]}
export:
  exporter: {use: onnx, options: {engine: torchscript}}
  formats: [onnx-fp32, onnx-int8]
  max_drop: {onnx-int8: 1.0}
run: {device: cpu, executor: {use: inprocess}}
"""


@dataclass(frozen=True)
class Change:
    """Args:
    stage: the first one that is redone; "" = none.
    sets: on the command line. before: on the study that the change is made to.
    """

    stage: str
    sets: tuple[str, ...]
    before: tuple[str, ...] = ()


def change(stage: str, *sets: str, before: tuple[str, ...] = ()) -> Change:
    return Change(stage, sets, before)


TWO = "teachers={main: {use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 8, 8]}, epochs: 1}}}"
NAMED = ("teacher=null", TWO)
ROLE = (
    "student=null",
    "students={student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: {choices: [4, 8]}}}}",
)
MEAN_STD = ("data.normalize={mean: 0.3, std: 0.3}",)
TEACHER_MEAN_STD = ("teacher.normalize={mean: 0.3, std: 0.3}",)
TEXTS = (
    "data={use: topics, options: {n: 60}, recipes: [{use: written}]}",
    "teacher=null",
    "teachers={writer: {use: labeller}}",
    "student={space: text_encoder, spec: {kind: bag, layers: 0, width: 32, embedding: 16, max_length: 10}}",
    "recipe.distillers=[]",
)  # the package of tests/outside
COMPARE = ("distill.compare={largest: true, random: 1, epochs: 1}",)
PRUNE = ("compress.prune={use: channels, options: {macs: 0.9, round_to: 2}, recover_epochs: 1}",)
MEMORY = ("constraints.peak_bytes={max: 90000}",)
SIZE = ("constraints.onnx_bytes={max: 90000}",)
LIMIT = ("constraints.latency_ms={max: 1000.0}",)

CHANGES: dict[str, Change] = {
    "name": change("export", "name=other"),
    "seed": change("prepare", "seed=4"),
    "data.use": change("prepare", "data.use=kdsearch:dataset:digits"),
    "data.options": change("prepare", "data.options.augment=shift"),
    "data.normalize": change("prepare", "data.normalize=imagenet"),
    "data.normalize.mean": change("prepare", "data.normalize.mean=0.4", before=MEAN_STD),
    "data.normalize.std": change("prepare", "data.normalize.std=0.4", before=MEAN_STD),
    "data.labeled": change("prepare", "data.labeled=0.4"),
    "data.validation": change("prepare", "data.validation=0.2"),
    "data.test": change("prepare", "data.test=0.3"),
    "data.train_samples": change("prepare", "data.train_samples=150"),
    "data.workers": change("", "data.workers=1"),
    "data.recipes[].use": change("prepare", "data.recipes=[{use: labelled}]", before=TEXTS),
    "data.recipes[].options": change("prepare", "data.recipes[0].options.each=3", before=TEXTS),
    "task.use": change("prepare", "task.use=kdsearch:task:classification"),
    "task.options": change("prepare", "task.options.label_smoothing=0.5"),
    "teacher.use": change("prepare", "teacher.use=kdsearch:teacher:trained"),
    "teacher.options": change("prepare", "teacher.options.lr=0.003"),
    "teacher.normalize": change("prepare", "teacher.normalize=none"),
    "teacher.normalize.mean": change("prepare", "teacher.normalize.mean=0.4", before=TEACHER_MEAN_STD),
    "teacher.normalize.std": change("prepare", "teacher.normalize.std=0.4", before=TEACHER_MEAN_STD),
    "teacher.expected": change("", "teacher.expected.accuracy=0.01"),
    "teacher.cache": change("prepare", "teacher.cache=off"),
    "teachers.*.use": change("prepare", "teachers.main.use=kdsearch:teacher:trained", before=NAMED),
    "teachers.*.options": change("prepare", "teachers.main.options.spec.depths=[1, 1, 2]", before=NAMED),
    "teachers.*.normalize": change("prepare", "teachers.main.normalize=none", before=NAMED),
    "teachers.*.normalize.mean": change(
        "prepare", "teachers.main.normalize.mean=0.4", before=(*NAMED, "teachers.main.normalize={mean: 0.3, std: 0.3}")
    ),
    "teachers.*.normalize.std": change(
        "prepare", "teachers.main.normalize.std=0.4", before=(*NAMED, "teachers.main.normalize={mean: 0.3, std: 0.3}")
    ),
    "teachers.*.expected": change("", "teachers.main.expected.accuracy=0.01", before=NAMED),
    "teachers.*.cache": change("", "teachers.main.cache=on", before=NAMED),
    "student.space": change("search", "student.space=kdsearch:search_space:cifar_resnet"),
    "student.spec": change("search", "student.spec.widths={choices: [8]}"),
    "students.*.space": change("search", "students.student.space=kdsearch:search_space:cifar_resnet", before=ROLE),
    "students.*.spec": change("search", "students.student.spec.widths={choices: [6]}", before=ROLE),
    "recipe.procedure.use": change("refine", "recipe.procedure.use=kdsearch:procedure:distill"),
    "recipe.procedure.options": change("refine", "recipe.procedure={use: distill, options: {split: labeled}}"),
    "recipe.task_weight": change("refine", "recipe.task_weight=0.5"),
    "recipe.normalize": change("refine", "recipe.normalize=false"),
    "recipe.distillers[].use": change("refine", "recipe.distillers[0].use=dkd", "recipe.distillers[0].options={}"),
    "recipe.distillers[].options": change("refine", "recipe.distillers[0].options.temperature=2.0"),
    "recipe.distillers[].name": change("refine", "recipe.distillers[0].name=soft"),
    "recipe.distillers[].teacher": change(
        "refine",
        "recipe.distillers[0].teacher=other",
        before=(
            "teacher=null",
            "teachers={main: {use: trained, options: {epochs: 1}}, other: {use: trained, options: {epochs: 1}}}",
        ),
    ),
    "recipe.distillers[].weight": change("refine", "recipe.distillers[0].weight=2.0"),
    "recipe.distillers[].weights": change(
        "refine", "recipe.distillers[0]={use: kd, weights: {kl: 2.0}, options: {temperature: search}}"
    ),
    "recipe.distillers[].optional": change("refine", "recipe.distillers[0].optional=true"),
    "recipe.train.optimizer": change("refine", "recipe.train.optimizer=adam"),
    "recipe.train.lr": change("refine", "recipe.train.lr=0.01"),
    "recipe.train.batch_size": change("refine", "recipe.train.batch_size=32"),
    "recipe.train.weight_decay": change("refine", "recipe.train.weight_decay=0.001"),
    "recipe.train.momentum": change("refine", "recipe.train.momentum=0.5"),
    "recipe.train.schedule.kind": change("refine", "recipe.train.schedule=constant"),
    "recipe.train.schedule.warmup": change("refine", "recipe.train.schedule={kind: cosine, warmup: 0.1}"),
    "recipe.train.schedule.start": change("refine", "recipe.train.schedule={kind: cosine, warmup: 0.1, start: 0.2}"),
    "recipe.train.schedule.end": change("refine", "recipe.train.schedule={kind: cosine, end: 0.1}"),
    "recipe.train.schedule.power": change("refine", "recipe.train.schedule={kind: polynomial, power: 2.0}"),
    "recipe.train.schedule.at": change("refine", "recipe.train.schedule={kind: step, at: [0.6]}"),
    "recipe.train.schedule.factor": change("refine", "recipe.train.schedule={kind: step, factor: 0.2}"),
    "recipe.train.schedule.cycles": change("refine", "recipe.train.schedule={kind: cyclic, cycles: 2}"),
    "recipe.train.schedule.low": change("refine", "recipe.train.schedule={kind: cyclic, low: 0.2}"),
    "recipe.train.clip": change("refine", "recipe.train.clip=1.0"),
    "recipe.train.accumulate": change("refine", "recipe.train.accumulate=2"),
    "objectives": change("search", "objectives={accuracy: max, latency_ms: min}"),
    "metrics[].use": change("export", "metrics=[ece]"),
    "metrics[].options": change("export", "metrics=[{use: ece, options: {bins: 5}}]", before=("metrics=[ece]",)),
    "constraints.params": change("search", "constraints.params=6000"),
    "constraints.macs": change("search", "constraints.macs=300000"),
    "constraints.onnx_bytes": change("search", "constraints.onnx_bytes=60000"),
    "constraints.onnx_bytes.max": change("search", "constraints.onnx_bytes.max=60000", before=SIZE),
    "constraints.onnx_bytes.format": change("search", "constraints.onnx_bytes.format=onnx-int8", before=SIZE),
    "constraints.peak_bytes": change("search", "constraints.peak_bytes=4000"),
    "constraints.peak_bytes.max": change("search", "constraints.peak_bytes.max=4000", before=MEMORY),
    "constraints.peak_bytes.format": change("search", "constraints.peak_bytes.format=onnx-int8", before=MEMORY),
    "constraints.latency_ms": change("search", "constraints.latency_ms=1000.0"),
    "constraints.latency_ms.max": change("search", "constraints.latency_ms.max=500.0", before=LIMIT),
    "constraints.latency_ms.threads": change("search", "constraints.latency_ms.threads=2", before=LIMIT),
    "constraints.latency_ms.format": change("search", "constraints.latency_ms.format=onnx-int8", before=LIMIT),
    "search.proxy": change("search", "search.proxy=nwot"),
    "search.proxy.use": change("search", "search.proxy=[{use: params}, {use: synflow}]"),
    "search.proxy.options": change("search", "search.proxy=[{use: diswot, options: {init: kaiming}}, params]"),
    "search.strategy.use": change("search", "search.strategy.use=evolution"),
    "search.strategy.options": change(
        "search", "search.strategy.options.sample=3", before=("search.strategy.use=evolution",)
    ),
    "search.candidates": change("search", "search.candidates=3"),
    "search.keep": change("search", "search.keep=1"),
    "search.probe.input": change("search", "search.probe.input=train"),
    "search.probe.batch_size": change("search", "search.probe.batch_size=4"),
    "search.probe.seeds": change("search", "search.probe.seeds=2"),
    "refine.controller.use": change("refine", "refine.controller.use=surrogate"),
    "refine.controller.options": change(
        "refine", "refine.controller.options.first=1", before=("refine.controller.use=surrogate",)
    ),
    "refine.trials": change("refine", "refine.trials=2"),
    "refine.epochs": change("refine", "refine.epochs=1"),
    "refine.generation": change("refine", "refine.generation=3"),
    "refine.stopper.use": change("refine", "refine.stopper.use=halving"),
    "refine.stopper.options": change(
        "refine", "refine.stopper.options.keep=0.7", before=("refine.stopper.use=halving",)
    ),
    "refine.first": change("refine", "refine.first=[scored, largest]"),
    "refine.weightings": change("refine", "refine.weightings=true"),
    "distill.winners": change("distill", "distill.winners=2"),
    "distill.finalists": change("distill", "distill.finalists=1"),
    "distill.leftover": change("distill", "distill.leftover=true"),
    "distill.pick": change("distill", "distill.pick=min:params"),
    "distill.epochs": change("distill", "distill.epochs=2"),
    "distill.controls": change("distill", "distill.controls=[baseline]"),
    "distill.compare.largest": change("distill", "distill.compare.largest=false", before=COMPARE),
    "distill.compare.random": change("distill", "distill.compare.random=0", before=COMPARE),
    "distill.compare.epochs": change("distill", "distill.compare.epochs=2", before=COMPARE),
    "compress.prune.use": change("compress", "compress.prune.use=kdsearch:pruner:channels", before=PRUNE),
    "compress.prune.options": change("compress", "compress.prune.options.macs=0.8", before=PRUNE),
    "compress.prune.recover_epochs": change("compress", "compress.prune.recover_epochs=2", before=PRUNE),
    "compress.prune.recover_lr": change("compress", "compress.prune.recover_lr=0.5", before=PRUNE),
    **{
        f"compress.steps[].{key}.{name}": change("compress", f"compress.steps[0].{key}{set}", before=before)
        for key, before, options in (
            (
                "prune",
                ("compress.steps=[{prune: {use: channels, options: {macs: 0.9, round_to: 2}}}]",),
                ".options.macs=0.8",
            ),
            ("sparsify", ("compress.steps=[{sparsify: magnitude}]",), ".options.until=0.5"),
        )
        for name, set in {
            "use": f".use=kdsearch:{'pruner:channels' if key == 'prune' else 'sparsifier:magnitude'}",
            "options": options,
            "recover_epochs": ".recover_epochs=1",
            "recover_lr": ".recover_lr=0.5",
        }.items()
    },
    "compress.quantize[].use": change(
        "compress",
        "compress.quantize=[{use: int4}]",
        "export.formats=[onnx-fp32, onnx-int4]",
        "export.max_drop={onnx-int4: 1.0}",
    ),
    "compress.quantize[].options": change("compress", "compress.quantize[0].options.samples=32"),
    "compress.quantize[].recover_epochs": change("compress", "compress.quantize[0].recover_epochs=1"),
    "compress.quantize[].recover_lr": change(
        "compress", "compress.quantize[0].recover_lr=0.5", before=("compress.quantize[0].recover_epochs=1",)
    ),
    "export.exporter.use": change("export", "export.exporter.use=kdsearch:exporter:onnx"),
    "export.exporter.options": change("export", "export.exporter.options.engine=dynamo"),
    "export.formats": change("export", "export.formats=[onnx-fp32]", "export.max_drop={}"),
    "export.max_drop": change("export", "export.max_drop={onnx-int8: 0.9}"),
    "export.min_agreement": change("export", "export.min_agreement={onnx-int8: 0.5}"),
    "export.parity": change("export", "export.parity=0.01"),
    "run.executor.use": change("", "run.executor.use=processes"),
    "run.executor.options": change("", "run.executor={use: processes, options: {reuse: true}}"),
    "run.workers": change("", "run.workers=2", "run.executor=null"),
    "run.threads_per_trial": change("prepare", "run.threads_per_trial=2"),
    "run.trial_timeout_s": change("", "run.trial_timeout_s=1000.0", "run.executor=null"),
    "run.trial_memory_bytes": change("", "run.trial_memory_bytes=100000000000", "run.executor=null"),
    "run.device": change("", "run.device=auto"),
    "run.devices": change("prepare", "run.devices=2", "recipe.train.accumulate=2", "teacher.options.accumulate=2"),
    "run.precision": change("prepare", "run.precision=bf16"),
    "run.log[].use": change("", "run.log=[csv]"),
    "run.log[].options": change("", "run.log=[{use: csv, options: {separator: tab}}]", before=("run.log=[csv]",)),
    "run.store": change("", "run.store=shared"),
    "run.storage": change("", "run.storage=sqlite:///trials.db"),
}
FIXED = {"format": "there is one"}


def keys(model: type[BaseModel] = Config, at: str = "") -> Iterator[str]:
    """Paths of the schema: `[]` for the members of a list, `.*` for those of a mapping by name."""
    for name, field in model.model_fields.items():
        path = f"{at}.{name}" if at else name
        inner = list(_sections(field.annotation, path))
        for section, below in inner:
            yield from keys(section, below)
        if not inner or _is_plain_too(field.annotation):
            yield path


def _sections(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path
        return
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin is dict:
        path, inner = f"{path}.*", inner[1:]
    elif origin is list and path != "search.proxy":
        path = f"{path}[]"
    seen = set()
    for each in inner:
        for section, below in _sections(each, path):
            if (section, below) not in seen:
                seen.add((section, below))
                yield section, below


def _is_plain_too(annotation: Any) -> bool:
    """Whether a plain value may stand in the place of a section, and not only null."""
    args = [each for each in typing.get_args(annotation) if each is not type(None)]
    is_union = typing.get_origin(annotation) is not None and typing.get_origin(annotation) not in (list, dict)
    return is_union and any(not list(_sections(each, "")) for each in args)
