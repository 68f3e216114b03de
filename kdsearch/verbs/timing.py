"""How long a study takes, guessed from a few steps of a middling candidate, timed here and now: see `plan.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch

from kdsearch.engine.cache import Live
from kdsearch.engine.conduct import Report
from kdsearch.engine.loop import generators_restored, placed
from kdsearch.engine.precision import Precision
from kdsearch.errors import FOREIGN, InterruptedRun
from kdsearch.kinds import Batch, Model
from kdsearch.ops.threads import cpu_threads
from kdsearch.search.candidates import GENERATION, REFERENCE
from kdsearch.stages.prepare import has_tap, is_cached
from kdsearch.stages.search import check, measured, scorer_of
from kdsearch.stages.weightings import are_scored, worth_in_steps
from kdsearch.store.hashing import stream
from kdsearch.store.scratch import Scratch
from kdsearch.study.names import proxies
from kdsearch.study.summary import RUNG, scored
from kdsearch.training.materials import Materials
from kdsearch.training.opened import live_teacher
from kdsearch.training.request import Request
from kdsearch.training.text_teachers import has_network
from kdsearch.training.train import train

STEPS = 3  # measured after one to warm up
TRAINED, TRAINED_S = 10, 3.0  # steps of a real training, and seconds after which none begins
EXPORT_S = 3.0  # of one graph; it hardly depends on the network


def seconds_of(
    materials: Materials,
    specs: Mapping[str, Any],
    students: Mapping[str, Model],
    trainings: Sequence[Mapping[str, Any]],
    graphs: int,
    workers: int,
) -> dict[str, float]:
    """Stage -> seconds.

    Args:
        specs, students: role -> a middling candidate. trainings: see `summary.trainings`. graphs: that are exported.
    """
    check(materials)
    config = materials.study.config
    rows = {
        stage: [each for each in trainings if each["stage"] == stage] for stage in ("refine", "distill", "compress")
    }
    n = {split: len(materials.data.split(split).ids) for split in ("train", "val") if split in materials.data.splits}
    with cpu_threads(config.run.threads_per_trial):
        size = min(materials.recipe.at(materials.recipe.default()).train.batch_size, n["train"])
        teachers = {
            name: live_teacher(materials, name) for name in materials.study.teachers if has_network(materials, name)
        }
        answering = {name: _answer_seconds(materials, name, live, size) for name, live in teachers.items()}
        alone = sum(_step_seconds(materials, each, size) for each in students.values())
        whole = _whole_step_seconds(materials, specs, teachers)
        around = max(whole - alone - sum(answering.values()), 0.0)  # loading, losses, the optimiser
        asked = sum(each for name, each in answering.items() if not is_cached(materials, name))
        step = alone + around + asked
        epoch = n["train"] / size * step + n.get("val", 0) / size * sum(
            map(_forward(materials, size), students.values())
        )
        scoring = sum(_score_seconds(materials, role, spec) for role, spec in specs.items())
    stored = sum(answering[name] / size * sum(n.values()) for name in teachers if is_cached(materials, name))
    prepare = stored + sum(_training_seconds(materials, name, around) for name in materials.study.teachers)
    weightings = worth_in_steps(materials.recipe) * step if are_scored(materials) else 0.0
    lengths = {
        stage: [each["epochs"] * epoch for each in some for _ in range(each["count"])] for stage, some in rows.items()
    }
    began = (
        RUNG * config.distill.epochs * epoch if any(each["what"] == "finalists" for each in rows["distill"]) else 0.0
    )
    refine = _side_by_side(lengths["refine"], min(workers, config.refine.generation))
    distill = _side_by_side(lengths["distill"], workers)
    return {
        "prepare": prepare,
        "search": scoring / min(workers, GENERATION) + EXPORT_S * measured(materials),
        "refine": refine + weightings,
        "distill": max(distill, began + max(lengths["distill"], default=0.0)),  # who goes on is known after these
        "compress": sum(lengths["compress"]),
        "export": EXPORT_S * graphs,
    }


def _side_by_side(lengths: Sequence[float], at_once: int) -> float:
    return max(sum(lengths) / max(min(at_once, len(lengths)), 1), max(lengths, default=0.0))


def _batch(materials: Materials, size: int) -> Batch:
    split = materials.data.split("train")
    batch = split.load(list(range(min(size, len(split.ids))))).to(materials.torch_device)
    return materials.task.prepare(batch, stream(materials.seed, "plan"))


def _step_seconds(materials: Materials, model: Model, size: int, teacher: Live | None = None) -> float:
    """The passes of one training step on real samples, as the engine places and casts them; of a teacher as its view feeds it."""
    batch = _batch(materials, size)
    batch = batch if teacher is None else teacher.fed(batch)
    module = placed(model.module, materials.torch_device).train()
    precision = Precision(materials.device.precision, materials.device.accelerator)

    def step() -> None:
        with precision.autocast():
            answers = [each for each in materials.task.call(model, batch).values() if each.requires_grad]
        if answers:
            torch.autograd.backward([each.float().square().mean() for each in answers])
        module.zero_grad(set_to_none=True)

    return _least(step)


def _forward(materials: Materials, size: int) -> Callable[[Model], float]:
    """Seconds of an answer to one batch."""
    batch = _batch(materials, size)

    def seconds(model: Model) -> float:
        placed(model.module, materials.torch_device).eval()
        with torch.no_grad():
            return _least(lambda: materials.task.call(model, batch))

    return seconds


def _answer_seconds(materials: Materials, name: str, live: Live, size: int) -> float:
    """What a teacher takes to answer one batch, taps included."""
    batch = materials.data.split("train").load(list(range(size))).to(materials.torch_device)
    live.model.module.to(materials.torch_device).eval()
    names = live.names([tap for tap in materials.taps[name] if has_tap(live.model, tap)])
    with torch.no_grad():
        return _least(lambda: live.outputs(batch, names, materials.torch_device, cached=False))


def _least(call: Callable[[], object]) -> float:
    times = []
    for _ in range(1 + STEPS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _whole_step_seconds(materials: Materials, specs: Mapping[str, Any], teachers: Mapping[str, Live]) -> float:
    """A step of a real training, of which a few are done, with all that it does; 0 where it cannot be had without a run."""
    ended: list[float] = []

    def enough() -> bool:
        return len(ended) > TRAINED or (bool(ended) and ended[-1] - ended[0] > TRAINED_S)

    asked = {role: spec.model_dump(mode="json") for role, spec in specs.items()}
    request = Request("plan", "recipe", asked, materials.recipe.default(), TRAINED)
    scratch = Scratch.make("plan")
    try:
        with generators_restored(), suppress(InterruptedRun, *FOREIGN):  # what it fails of is told by the dry step
            report = Report(step=lambda *_: ended.append(time.perf_counter()))
            train(materials, request, scratch.path, teachers, enough, report)
    finally:
        scratch.close()
    steps = [after - before for before, after in pairwise(ended)]
    return statistics.median(steps[1:] or steps) if steps else 0.0


def _training_seconds(materials: Materials, name: str, around: float) -> float:
    """Of a teacher that the study trains. around: what a step takes beside its passes."""
    path, use = materials.study.path_of_teacher(name), materials.study.teachers[name]
    if materials.study.live_object(path) is not None:
        return 0.0
    training = materials.make("teacher", use, path).training
    if training is None:
        return 0.0
    n = len(materials.data.split("train").ids)
    size, live = min(training.batch_size, n), live_teacher(materials, name)
    with cpu_threads(training.threads or materials.study.config.run.threads_per_trial):
        step = _step_seconds(materials, live.model, size, live)
    seconds: float = training.epochs * n / size * (step + around)
    return seconds


def _score_seconds(materials: Materials, role: str, spec: Any) -> float:
    """Of all candidates of a role, and of those that several proxies are ranked among."""
    scorer = scorer_of(materials, role)
    scorer.score(spec)
    began = time.perf_counter()
    scorer.score(spec)
    one = time.perf_counter() - began
    reference = REFERENCE if len(proxies(materials.study)) > 1 else 0
    size = materials.spaces[role].size()
    return one * (scored(materials.study.config.search.candidates, size) + scored(reference, size))
