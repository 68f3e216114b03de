"""A teacher's own training: an artifact of its own, so that studies which differ elsewhere share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.conduct import Report
from kdsearch.engine.loop import Training
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.viewed import Viewed
from kdsearch.kinds import Teacher
from kdsearch.kinds.teacher import Training as Asked
from kdsearch.ops.threads import cpu_threads
from kdsearch.store.hashing import derive
from kdsearch.store.weights import write
from kdsearch.study.view import plain_json, without
from kdsearch.training.keys import SOURCE, capabilities, declared
from kdsearch.training.materials import Materials
from kdsearch.training.memory import check_training
from kdsearch.training.ranks import Place, ranks_of
from kdsearch.training.tools import Tools, address_of
from kdsearch.training.train import plain_training


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


def trained(materials: Materials, name: str, live: Live, tools: Tools) -> tuple[list[dict[str, Any]], Path, str]:
    """Epochs, the weights' file and the artifact's key, which is all that the training depends on. Its network is trained."""
    model = live.model
    key = tools.store.key("teacher", part_of(materials, name), {})
    made = tools.store.get("teacher", key)
    if made is None:
        path = f"{materials.study.path_of_teacher(name)}.options.batch_size"
        check_training(materials, model, asked(materials, name).batch_size, f"teacher '{name}'", path)
        order = {"address": address_of(materials, tools), "name": name, "key": key, "checkpoint_s": tools.checkpoint_s}
        order["work"] = str(tools.store.work("teacher", key))

        is_first = True

        def moved(_: str, at: int, of: int, loss: float) -> None:
            nonlocal is_first
            if is_first:  # its checkpoint's place
                tools.progress.had((at - 1) / of)
                is_first = False
            tools.progress.at(0.99 * at / of, f"training teacher {name}: loss {loss:.4g}")

        history = train_teacher(materials, name, live, order, tools.stop, Report(step=moved))

        def fill(folder: Path) -> dict[str, Any]:
            write(folder / "teacher.safetensors", {k: v.cpu() for k, v in model.module.state_dict().items()})
            return {"history": history}

        made = tools.store.put("teacher", key, fill, {})
    return list(made.facts["history"]), made.path / "teacher.safetensors", key


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
    """How the study trains this teacher."""
    path = materials.study.path_of_teacher(name)
    teacher: Teacher[Any] = materials.make("teacher", materials.study.teachers[name], path)
    assert teacher.training is not None
    return teacher.training


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
) -> list[dict[str, Any]]:
    """Train a teacher's network, on what its view feeds it, with all of `run.devices`; returns its epochs.

    `order`: the arguments of `training.job.teacher_job`.
    """
    training, work = asked(materials, name), Path(order["work"])
    data = materials.data.revealed() if training.labels == "all" else materials.data
    setup = LiveSetup(
        seed=derive(materials.seed, "teacher", name, "training"),
        base=materials.study.folder,
        memory=work,
        task=materials.task,
        data=data if live.view is None else Viewed(data, live.view, materials.seed),
        io=materials.io,
        models={"student": live.model},
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
        device=materials.torch_device,
    )
    procedure = plain_training(materials, "train" if training.labels == "all" else "labeled")
    device = replace(materials.device, checkpoint_s=order["checkpoint_s"], accumulate=training.accumulate)
    with (
        cpu_threads(threads_of(materials, training)),
        ranks_of(materials, "kdsearch.training.job:teacher_job", order, place) as ranks,
    ):
        run = Training(procedure, setup, work, order["key"], device, stop=stop, report=report or Report())
        run.objective, run.ranks = materials.objective, ranks
        return run.run().history
