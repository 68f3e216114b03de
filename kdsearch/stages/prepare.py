"""Stage `prepare`: data looked at, teachers trained or loaded, their outputs and requested taps cached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import write_cache
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.taps import tap_name
from kdsearch.kinds import Access, Model
from kdsearch.stages.costs import cost_of_model
from kdsearch.stages.keys import SOURCE
from kdsearch.stages.materials import Materials
from kdsearch.stages.normalize import ACCURACY, accuracy_of, check_expected, choose, feed, said, warned
from kdsearch.stages.teachers import trained
from kdsearch.stages.tools import Tools
from kdsearch.stages.training import live_model, loaded_teacher
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import digest, module_digest
from kdsearch.store.weights import load_into, read, write

NAME = "prepare"
NEEDS: tuple[str, ...] = ()
READS = (*SOURCE, "teachers", "objective", "taps")
CACHE_BYTES = 2 << 30  # taps beyond this are computed when they are needed


def further(materials: Materials) -> dict[str, Any]:
    """The data and live teachers by content, and which teachers' outputs are cached."""
    teachers = materials.study.teachers
    return {
        "content": materials.data_key(),
        "live": {name: live_key(materials, name) for name in teachers},
        "cached": {name: is_cached(materials, name) for name in teachers},
    }


def is_cached(materials: Materials, name: str) -> bool:
    """Whether a teacher's outputs are. Raise StudyError where the study insists on it and samples change."""
    study = materials.study
    setting = study.teachers[name].cache
    if setting == "on" and materials.augments:
        raise study.error(
            "cache 'on', but the data set augments training samples, so stored rows would be stale",
            f"{study.path_of_teacher(name)}.cache",
            expected="auto or off, or data without augmentation",
        )
    return setting != "off" and not materials.augments


def live_key(materials: Materials, name: str) -> str:
    live = materials.study.live_object(materials.study.path_of_teacher(name))
    if live is None:
        return ""
    if isinstance(live, Model):
        return digest([module_digest(live.module), live.inputs, live.outputs, [repr(tap) for tap in live.taps]])
    return module_digest(live)


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    study = materials.study
    tools.progress.begin(NAME, max(len(study.teachers), 1))
    teachers = {}
    for name in study.teachers:
        teachers[name] = _teacher(materials, name, tools, out)
        tools.progress.at(
            len(teachers), f"teacher {name}: {teachers[name]['score']:.4f}" if teachers[name]["score"] else ""
        )
        for text in [*said(name, teachers[name].get("normalize")), *teachers[name].get("warnings", [])]:
            tools.progress.say(text)
    return {"data": _described(materials), "teachers": teachers}


def admit(materials: Materials, prepared: Artifact) -> None:
    """Raise StudyError for a teacher below the accuracy that the study expects."""
    for name, facts in prepared.facts["teachers"].items():
        check_expected(materials, name, facts.get("accuracy"), facts.get("normalize"))


def _described(materials: Materials) -> dict[str, Any]:
    facts = {name: value for name, value in materials.data.facts.items() if name != "splits"}
    counts = materials.data.counts()
    return {"classes": list(facts.get("classes", [])), "counts": counts, "facts": _plain(facts)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _teacher(materials: Materials, name: str, tools: Tools, out: Path) -> dict[str, Any]:
    study = materials.study
    live = study.live_object(study.path_of_teacher(name))
    if live is not None:
        model, capability = live_model(live, materials), None
        access, facts = Access.TAPS, {"source": "handed over from Python"}
    else:
        capability = materials.make("teacher", study.teachers[name], study.path_of_teacher(name))
        access, facts = capability.access, dict(capability.facts())
        if access < Access.LOGITS:
            return {
                "weights": "",
                "cache": "",
                "score": None,
                "access": access.name,
                "facts": _plain(facts),
                "params": None,
                "macs": None,
            }
        model = loaded_teacher(materials, name)
    found = None
    if capability is None or capability.training is None or not capability.training.epochs:
        found = choose(materials, name, model)
    feed(materials, name, model, found)
    history: list[dict[str, Any]] = []
    weights = key = ""
    if capability is not None and capability.training is not None and capability.training.epochs:
        history, file, key = trained(materials, name, model, tools)
        weights = f"{name}.safetensors"
        tensors = read(file)
        load_into(model.module, tensors, file)
        write(out / weights, tensors)
    model.module.requires_grad_(False).eval()
    score = _validation_score(materials, model)
    accuracy = score if materials.objective == ACCURACY else accuracy_of(materials, model)
    cache = ""
    cached: Mapping[str, Any] = {}
    if is_cached(materials, name):
        cache = f"cache-{name}"
        taps = [tap_name(model, tap) for tap in materials.taps[name]]
        splits = [split for split in ("train", "val") if split in materials.data.splits]
        cached = write_cache(
            out / cache, model, materials.task, materials.data, splits, taps, materials.torch_device, CACHE_BYTES
        )
    cost = cost_of_model(model, materials)
    return {
        "weights": weights,
        "trained": key,
        "cache": cache,
        "cached": dict(cached),
        "access": access.name,
        "facts": _plain(facts),
        "architecture": model.name,
        "params": cost.params,
        "macs": cost.macs,
        "score": score,
        "accuracy": accuracy,
        "history": history,
        "normalize": found,
        "warnings": warned(materials, name, accuracy),
    }


def _validation_score(materials: Materials, model: Model) -> float:
    setup = LiveSetup(
        seed=materials.seed,
        base=materials.study.folder,
        task=materials.task,
        data=materials.data.revealed(),
        io=materials.io,
        models={"model": model},
        metrics=materials.scoring,
        device=materials.torch_device,
    )
    model.module.to(materials.torch_device)
    return setup.score(materials.objective, "model")
