"""Stage `prepare`: data looked at, teachers trained or loaded, their outputs and requested taps cached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import write_cache
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.taps import tap_name
from kdsearch.kinds import Access, Model, requested_taps
from kdsearch.kinds.options import Dim
from kdsearch.stages.costs import cost_of_model
from kdsearch.stages.materials import Materials
from kdsearch.stages.teachers import trained
from kdsearch.stages.tools import Tools
from kdsearch.stages.training import live_model, teacher_model
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import digest, module_digest
from kdsearch.store.weights import load_into, read, write

NAME = "prepare"
NEEDS: tuple[str, ...] = ()
CACHE_BYTES = 2 << 30  # taps beyond this are computed when they are needed


def part(materials: Materials) -> dict[str, Any]:
    """What the stage depends on: data, teachers with the files they name, and the taps that the recipe asks for."""
    study = materials.study
    own = study.part(NAME)
    return {
        **own,
        "data_key": materials.data_key(),
        "files": materials.files_key(own),
        "taps": {name: requested(materials, name) for name in study.teachers},
        "live": {name: live_key(materials, name) for name in study.teachers},
    }


def live_key(materials: Materials, name: str) -> str:
    live = materials.study.live_object(materials.study.path_of_teacher(name))
    if live is None:
        return ""
    if isinstance(live, Model):
        return digest([module_digest(live.module), live.inputs, live.outputs, [repr(tap) for tap in live.taps]])
    return module_digest(live)


def requested(materials: Materials, teacher: str) -> list[str]:
    """Taps of the teacher that any candidate's recipe may read, as the options write them."""
    taps: dict[str, None] = {}
    for each in materials.recipe.distillers:
        if each.use.teacher != teacher:
            continue
        for values in _corners(each.options.dims):
            options = each.options.at(values, f"{each.path}.options")
            distiller = each.cls(options)
            for tap in [*distiller.taps().get("teacher", []), *requested_taps(options).get("teacher", [])]:
                taps[tap] = None
    return list(taps)


def _corners(dims: tuple[Dim, ...]) -> list[dict[str, Any]]:
    """Values such that every choice of every dimension occurs once: enough to see each tap."""
    width = max([len(dim.range.choices) or 1 for dim in dims], default=1)
    return [{dim.path: _choice(dim, i) for dim in dims} for i in range(width)]


def _choice(dim: Dim, i: int) -> Any:
    ends = dim.range.ends
    return ends[i % len(ends)]


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    study = materials.study
    tools.progress.begin(NAME, max(len(study.teachers), 1))
    teachers = {}
    for name in study.teachers:
        teachers[name] = _teacher(materials, name, tools, out)
        tools.progress.at(
            len(teachers), f"teacher {name}: {teachers[name]['score']:.4f}" if teachers[name]["score"] else ""
        )
    return {"data": _described(materials), "teachers": teachers}


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
        model = teacher_model(materials, name)
    history: list[dict[str, Any]] = []
    weights = key = ""
    if capability is not None and capability.training is not None and capability.training.epochs:
        history, file, key = trained(materials, name, model, tools)
        weights = f"{name}.safetensors"
        tensors = read(file)
        load_into(model.module, tensors, file)
        write(out / weights, tensors)
    model.module.requires_grad_(False).eval()
    cache = ""
    cached: Mapping[str, Any] = {}
    setting = study.teachers[name].cache
    if setting != "off" and not materials.augments:
        cache = f"cache-{name}"
        taps = [tap_name(model, tap) for tap in requested(materials, name)]
        splits = [split for split in ("train", "val") if split in materials.data.splits]
        cached = write_cache(
            out / cache, model, materials.task, materials.data, splits, taps, materials.torch_device, CACHE_BYTES
        )
    elif setting == "on":
        raise study.error(
            "cache 'on', but the data set augments training samples, so stored rows would be stale",
            f"{study.path_of_teacher(name)}.cache",
            expected="auto or off, or data without augmentation",
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
        "score": _validation_score(materials, model),
        "history": history,
    }


def _validation_score(materials: Materials, model: Model) -> float:
    setup = LiveSetup(
        seed=materials.seed,
        base=materials.study.folder,
        task=materials.task,
        data=materials.data.revealed(),
        io=materials.io,
        models={"model": model},
        metrics=materials.metrics,
        device=materials.torch_device,
    )
    model.module.to(materials.torch_device)
    return setup.score(materials.objective, "model")
