"""What teachers are fed: images in the normalisation that each was trained on, stated or found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdsearch.engine.modes import evaluating
from kdsearch.engine.normalize import feed_in
from kdsearch.errors import nearest, no_share, one_of
from kdsearch.kinds import (
    COMMON,
    HIDDEN,
    Access,
    DataSource,
    Model,
    Normalization,
    Teacher,
    stated,
)
from kdsearch.kinds.forward import run_model
from kdsearch.kinds.targets import is_class
from kdsearch.report.stats import wilson
from kdsearch.training.materials import Materials
from kdsearch.training.normalized import NAMED, asked

ACCURACY = "accuracy"
TRIED, CHUNK = 1000, 256  # validation samples that normalisations are tried on at most; at once


def feed(materials: Materials, name: str, model: Model, found: Mapping[str, Any] | None = None) -> Model:
    """The teacher, reading images in its own normalisation: the study's, else what its weights say, else what was `found`.

    Raises:
        StudyError: the study says one, and the data do not say theirs.
    """
    study, given = materials.study, stated(materials.data.facts)
    path = f"{study.path_of_teacher(name)}.normalize"
    wanted = wanted_by_study = asked(study.teachers[name].normalize)
    if wanted is None and study.teachers[name].normalize == "auto":
        wanted = _read(found) if found else told_by_weights(materials, name)
    if wanted is None:
        return model
    if given is None:
        if wanted_by_study is None:
            return model  # live samples of a transform: of the same one, most likely
        told = (materials.data.facts.get("preprocessing") or {}).get("range")
        raise study.error(
            "the data do not say how their images are normalised"
            + (f" ({told[0]:.4g}..{told[1]:.4g})" if told else ""),
            path,
            expected="data, or auto",
            fix="Set data.normalize to what the samples' own transform does, such as imagenet." if told else "",
        )
    feed_in(model, materials.teacher_io, given, wanted)
    return model


def told_by_weights(materials: Materials, name: str) -> Normalization | None:
    """What the teacher's capability says that its weights were trained on."""
    study, path = materials.study, materials.study.path_of_teacher(name)
    if study.live_object(path) is not None:
        return None
    teacher: Teacher[Any] = materials.make("teacher", study.teachers[name], path)
    return teacher.normalization if teacher.access >= Access.LOGITS else None


def choose(materials: Materials, name: str, model: Model) -> dict[str, Any] | None:
    """The normalisation that a teacher from elsewhere gives its best answers in, where the study leaves it open.

    Common ones are tried on up to TRIED validation samples whose labels the study sees. Another than what its weights say (or else
    the data's) is taken only where it is better by more than both 95 % intervals, so of a few samples mostly none. `model` is the
    teacher as it was loaded, and is left so.

    Returns:
        {"name", "mean", "std", "tried": {name: accuracy}, "by": "weights" | "data" | "validation"}; None: nothing was left open,
            or the study sees no label.
    """
    given = stated(materials.data.facts)
    if given is None or materials.study.teachers[name].normalize != "auto" or not is_classification(materials):
        return None
    own, channels = told_by_weights(materials, name), len(given.mean)
    offered = {"data": given, **({"weights": own} if own else {}), **COMMON}
    different: dict[str, Normalization] = {}
    for label, each in offered.items():
        if each.of(channels) not in [other.of(channels) for other in different.values()]:
            different[label] = each
    first = next((label for label, each in different.items() if each == own), "data")
    rows = _spaced(materials)
    if not rows:
        return None
    tried = {}
    for label, each in different.items():
        fed = feed_in(model, materials.teacher_io, given, each)
        try:
            tried[label] = _accuracy(materials, model, rows)
        finally:
            if fed is not None:
                fed.remove()
    best = max(tried, key=lambda label: (tried[label], label == first))
    if wilson(tried[best], len(rows))[0] <= wilson(tried[first], len(rows))[1]:
        best = first
    by = "validation" if best != first else "weights" if own else "data"
    return {"name": _label(best, different[best]), "by": by, "tried": tried, **different[best].as_json()}


def _label(label: str, chosen: Normalization) -> str:
    named = next((name for name, each in COMMON.items() if each == chosen), "")
    return named or ("the weights' own" if label == "weights" else "the data's own")


def is_classification(materials: Materials) -> bool:
    """Whether the target is one class index a sample and the task answers it, alone, by a logit a class.

    A multi-label task answers as many numbers, and its targets are none.
    """
    outputs, classes = materials.io.outputs, materials.data.facts.get("classes") or ()
    answers = len(outputs) == 1 and outputs[0].kind == "logits" and outputs[0].shape == (len(classes),)
    return bool(classes) and answers and is_class(materials.task.targets(materials.data.fields))


def accuracy_of(materials: Materials, model: Model) -> float | None:
    """On the validation split, with every label that exists; None where the task has no such thing."""
    if not is_classification(materials):
        return None
    known = (_labels(materials.data.revealed()) != HIDDEN).nonzero()[:, 0].tolist()
    return _accuracy(materials, model, known) if known else None


def _spaced(materials: Materials) -> list[int]:
    """Rows of the validation split whose label the study sees: all, or TRIED of them, evenly spaced."""
    known = (_labels(materials.data) != HIDDEN).nonzero()[:, 0].tolist()
    return [known[i * len(known) // TRIED] for i in range(TRIED)] if len(known) > TRIED else known


def _accuracy(materials: Materials, model: Model, rows: Sequence[int]) -> float:
    split, hits = materials.data.revealed().split("val"), 0
    (target,) = materials.task.targets(materials.data.fields)
    model.module.to(materials.torch_device)
    for start in range(0, len(rows), CHUNK):
        batch = split.load(rows[start : start + CHUNK]).to(materials.torch_device)
        with evaluating(model.module), torch.no_grad():
            logits = run_model(model, materials.task, batch)[materials.io.outputs[0].name]
        hits += int((logits.argmax(1) == batch[target.name]).sum())
    return hits / len(rows)


def _labels(data: DataSource) -> Tensor:
    found: Tensor = data.split("val").labels  # type: ignore[attr-defined]
    return found


def known_labels(materials: Materials) -> Tensor:
    """(N,) the labels of the validation split, those that the study hides included."""
    labels = _labels(materials.data.revealed())
    return labels[labels != HIDDEN]


def setting(found: Mapping[str, Any]) -> str:
    """As a study would write it: `imagenet`, or `{"mean": 0.5, "std": 0.5}`."""
    wanted = _read(found)
    name = next((name for name, each in NAMED.items() if each == wanted), "")
    return name or json.dumps({"mean": found["mean"], "std": found["std"]})


def check_expectable(materials: Materials, name: str) -> None:
    """Raise StudyError for a metric that the study expects something of, and that is not measured of teachers."""
    study = materials.study
    known = dict.fromkeys([materials.objective, *([ACCURACY] if is_classification(materials) else [])])
    for metric in study.teachers[name].expected:
        if metric not in known:
            path = f"{study.path_of_teacher(name)}.expected.{metric}"
            why = f"'{metric}' is not measured of teachers"
            raise study.error(why, path, nearest=nearest(metric, known), expected=one_of(known))
        value = study.teachers[name].expected[metric]
        unit = materials.scoring[metric].unit if metric in materials.scoring else "share"  # of an accuracy
        if fix := no_share(unit, value):
            raise study.error(f"got {value:g}", f"{study.path_of_teacher(name)}.expected.{metric}", fix=fix)


def check_expected(
    materials: Materials, name: str, qualities: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any] | None
) -> None:
    """Raise StudyError for a teacher that is clearly worse than the study expects: its 95 % interval does not reach so far."""
    study = materials.study
    for metric, expected in study.teachers[name].expected.items():
        path = f"{study.path_of_teacher(name)}.expected.{metric}"
        quality = qualities.get(metric)
        if quality is None:
            raise study.error(
                f"the teacher's {metric} is not measured: it does not answer the task", path, expected="no such key"
            )
        value, up = quality["value"], quality["direction"] == "max"
        low, high = quality["interval"] or (value, value)
        if expected <= high if up else expected >= low:
            continue
        tried = ", ".join(f"{label} {each:.3f}" for label, each in found["tried"].items()) if found else ""
        unit = "" if quality["unit"] == "share" else quality["unit"]
        between = f" ({low:.4g} to {high:.4g})" if quality["interval"] else ""
        on = f" on {quality['n']} validation samples" if quality["n"] else " on the validation split"
        raise study.error(
            f"teacher '{name}' has {metric} {value:.4g} {unit}".rstrip() + f"{on}{between}",
            path,
            expected=f"{expected:g}" + ("" if up else " or less"),
            fix=(f"Normalisations tried: {tried}. " if tried else "")
            + "Set `normalize` of the teacher to what it was trained on, and check its weights, its classes' order and the "
            "inputs' size.",
        )


def said(name: str, found: Mapping[str, Any] | None) -> list[str]:
    """What the result says of a normalisation that validation chose."""
    if not found or found["by"] != "validation":
        return []
    best, others = max(found["tried"].values()), {k: v for k, v in found["tried"].items() if k in ("data", "weights")}
    against = ", ".join(
        f"{value:.3f} {'as the data are' if k == 'data' else 'as its weights say'}" for k, value in others.items()
    )
    return [
        f"Teacher '{name}' is fed with the normalisation {found['name']}, which validation chose: {best:.3f}, against {against}. "
        f"`normalize: {setting(found)}` of the teacher says so without a trial."
    ]


def warned(materials: Materials, name: str, accuracy: float | None) -> list[str]:
    """What a user must hear of a teacher before anything is built on it."""
    if accuracy is None:
        return []
    labels = known_labels(materials)
    chance = int(labels.bincount().max()) / len(labels)
    low, _ = wilson(accuracy, len(labels))
    if low > chance:
        return []
    return [
        f"Teacher '{name}' is hardly better than chance: {100 * accuracy:.1f} % of {len(labels)} validation samples, the most "
        f"frequent class alone is {100 * chance:.1f} %. Check its weights, its classes' order{suspects(materials)}, or train it "
        "longer."
    ]


def suspects(materials: Materials) -> str:
    """What else may be wrong with a teacher of images."""
    return ", `normalize` and the images' size" if any(each.kind == "image" for each in materials.io.inputs) else ""


def _read(found: Mapping[str, Any]) -> Normalization:
    mean, std = found["mean"], found["std"]
    return Normalization(
        tuple(mean) if isinstance(mean, list) else (mean,), tuple(std) if isinstance(std, list) else (std,)
    )
