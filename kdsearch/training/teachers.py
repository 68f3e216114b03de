"""A teacher's own training: an artifact of its own, so that studies which differ elsewhere share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsearch.engine.cache import Live
from kdsearch.engine.conduct import Report
from kdsearch.engine.loop import Trained, Training
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.viewed import Viewed
from kdsearch.errors import PluginError, TrialError
from kdsearch.kinds import DataSource, Procedure, Teacher
from kdsearch.kinds.options import validate
from kdsearch.kinds.teacher import Training as Asked
from kdsearch.ops.seeding import seed_generators
from kdsearch.ops.threads import cpu_threads
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import derive
from kdsearch.store.weights import write
from kdsearch.study.view import plain_json, without
from kdsearch.training.attempt import attempt
from kdsearch.training.built import Structure, structure
from kdsearch.training.keys import SOURCE, capabilities, declared
from kdsearch.training.materials import Materials
from kdsearch.training.memory import check_training
from kdsearch.training.ranks import Place, ranks_of
from kdsearch.training.tools import Tools, address_of
from kdsearch.training.train import plain_training

WEIGHTS = "teacher.safetensors"


def stored_answers(materials: Materials, name: str) -> str:
    """What the result says of a teacher whose answers are looked up by id where samples are augmented; "" of any other.

    Raises:
        StudyError: the task's answers have a place for each place of the sample, which augmentation moves and they do not.
    """
    study, path = materials.study, materials.study.path_of_teacher(name)
    if not materials.augments or study.live_object(path) is not None:
        return ""
    if not materials.make("teacher", study.teachers[name], path).by_id:
        return ""
    for each in materials.task.answers(materials.io):
        if each.kind in ("map", "sequence") or (each.kind == "logits" and len(each.shape) > 1):
            raise study.error(
                f"teacher '{name}' answers from a store, and augmentation moves what its answers are of ('{each.name}')",
                f"{path}.use",
                expected="a network that looks at the augmented sample",
                fix="Set `augment: none` in data.options.",
            )
    return f"Teacher '{name}' answers from a store: an augmented sample has the answer of the sample as it is."


def trained(materials: Materials, name: str, live: Live, tools: Tools) -> Artifact:
    """The training's artifact: `history` and `notes`, and the weights as WEIGHTS. Its key is all that it depends on.

    The network is trained, or as it was where the artifact was there.

    Raises:
        TrialError: its training fails, of whatever it is, as a trial would; with the teacher's name and place.
        KdsearchError: what ends the study, see `attempt`.
    """
    model, place = live.model, materials.study.path_of_teacher(name)
    key = tools.store.key("teacher", part_of(materials, name), {})
    made = tools.store.get("teacher", key)
    if made is None:
        path = f"{place}.options.batch_size"
        check_training(materials, model, asked(materials, name).batch_size, f"teacher '{name}'", path)
        work = tools.store.work("teacher", key)
        order = {"address": address_of(materials, tools), "name": name, "key": key, "checkpoint_s": tools.checkpoint_s}
        order["work"] = str(work)

        is_first = True

        def moved(_: str, at: int, of: int, loss: float) -> None:
            nonlocal is_first
            if is_first:  # its checkpoint's place
                tools.progress.had((at - 1) / of)
                is_first = False
            tools.progress.at(0.99 * at / of, f"training teacher {name}: loss {loss:.4g}")

        report = Report(step=moved)
        ended = attempt(lambda: train_teacher(materials, name, live, order, tools.stop, report), work)
        if isinstance(ended, str):
            raise materials.study.place(TrialError(f"training teacher '{name}' failed: {ended}", path=place))

        def fill(folder: Path) -> dict[str, Any]:
            write(folder / WEIGHTS, {k: v.cpu() for k, v in model.module.state_dict().items()})
            return {"history": ended.history, "notes": list(ended.notes)}

        made = tools.store.put("teacher", key, fill, {})
    return made


def part_of(materials: Materials, name: str) -> dict[str, Any]:
    """All that a teacher's training depends on."""
    use, threads = materials.study.teachers[name], threads_of(materials, asked(materials, name))
    teacher = without(plain_json({name: use}), "teachers")[name]
    return {
        **declared(materials, (*SOURCE, "objective"), but="data.recipes"),  # it learns from the data as they were given
        "run.threads_per_trial": threads,
        "teacher": [name, teacher, materials.files_key(teacher)],
        "code": capabilities(materials, [materials.study.path_of_teacher(name)]),
        "content": materials.data_key(),
    }


def asked(materials: Materials, name: str) -> Asked:
    """How the study trains this teacher; for 0 epochs where it comes trained."""
    path = materials.study.path_of_teacher(name)
    if materials.study.live_object(path) is not None:
        return Asked(0)
    teacher: Teacher[Any] = materials.make("teacher", materials.study.teachers[name], path)
    return teacher.training or Asked(0)


def threads_of(materials: Materials, training: Asked) -> int:
    return training.threads or materials.study.config.run.threads_per_trial


def train_teacher(
    materials: Materials,
    name: str,
    live: Live,
    order: Mapping[str, Any],
    stop: Callable[[], bool],
    report: Report | None = None,
    place: Place | None = None,
) -> Trained:
    """Train a teacher's network, on what its view feeds it, with all of `run.devices`.

    `order`: the arguments of `training.job.teacher_job`.

    Raises:
        PluginError: its own procedure left another network.
    """
    training, work = asked(materials, name), Path(order["work"])
    procedure, setup = assembled(materials, name, live, work)
    before = structure(live.model.module)
    device = replace(materials.device, checkpoint_s=order["checkpoint_s"], accumulate=training.accumulate)
    with (
        cpu_threads(threads_of(materials, training)),
        ranks_of(materials, "kdsearch.training.job:teacher_job", order, place) as ranks,
    ):
        run = Training(procedure, setup, work, order["key"], device, stop=stop, report=report or Report())
        run.objective, run.ranks = materials.objective, ranks
        ended = run.run()
    check_kept(name, training.procedure, live.model.module, setup, before)
    return ended


def assembled(
    materials: Materials,
    name: str,
    live: Live,
    work: Path,
    some: Callable[[DataSource], DataSource] = lambda data: data,
) -> tuple[Procedure[Any], LiveSetup]:
    """What trains a teacher's network, and what it is set up with. `some`: data -> those of them that it trains on."""
    training = asked(materials, name)
    data = some(materials.data.revealed() if training.labels == "all" else materials.data)
    site, seed = materials.site, derive(materials.seed, "teacher", name, "training")
    setup = LiveSetup(
        seed=seed,
        base=materials.study.folder,
        memory=work,
        code_of=site.code_of,
        build_of=materials.build_member,
        task=materials.task,
        data=data if live.view is None else Viewed(data, live.view, materials.seed),
        io=materials.io,
        models={"student": live.model},
        weights={"task": 1.0},
        normalize=False,
        epochs=training.epochs,
        defaults={
            "kind": training.optimizer,
            "lr": training.lr,
            "weight_decay": training.weight_decay,
            "scale": {f"student.{glob}": factor for glob, factor in training.scale.items()},
        },
        batch_size=training.batch_size,
        augment=materials.augments,
        metrics=materials.scoring,
        places=materials.places,
        device=materials.torch_device,
    )
    if not training.procedure:
        return plain_training(materials, split="train" if training.labels == "all" else "labeled"), setup
    cls = materials.host.load_class("procedure", training.procedure)
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(seed, "procedure"))
        return cls(validate(cls.options_class, dict(training.procedure_options))), setup


def check_kept(name: str, procedure: str, module: nn.Module, setup: LiveSetup, before: Structure) -> None:
    """Raise PluginError where the training put another network in the place of the teacher's, or changed its structure."""
    if setup.models["student"].module is not module or structure(module) != before:
        raise PluginError(
            f"procedure '{procedure}' leaves another network than teacher '{name}' is",
            expected="phases that train the network as it is",
        )
