"""Stage `prepare`: data looked at, teachers trained or loaded, data recipes made, teachers' outputs and requested taps cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live, TeacherCache, nan_in, refuse_nan, write_cache
from kdsearch.engine.setup import Evaluator
from kdsearch.errors import DataError, TapError
from kdsearch.kinds import Access, DataSource, Model
from kdsearch.kinds.forward import tap_name
from kdsearch.report.stats import wilson
from kdsearch.stages.costs import cost_of_teacher
from kdsearch.stages.notes import copied, noted
from kdsearch.stages.quality import SHARE, Quality, quality_of
from kdsearch.stages.recipes import make_recipes
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import canonical, digest, module_digest
from kdsearch.store.weights import load_into, read, write
from kdsearch.training.keys import SOURCE
from kdsearch.training.materials import Materials, placing
from kdsearch.training.memory import check_answering
from kdsearch.training.normalize import (
    ACCURACY,
    accuracy_of,
    check_expectable,
    check_expected,
    choose,
    feed,
    is_classification,
    known_labels,
    said,
    warned,
)
from kdsearch.training.opened import loaded_teacher
from kdsearch.training.teachers import WEIGHTS, stored_answers, trained
from kdsearch.training.text_teachers import has_network
from kdsearch.training.tools import Tools

NAME = "prepare"
NEEDS: tuple[str, ...] = ()
READS = (*SOURCE, "teachers", "objective", "taps")
RULE = 5  # by which a teacher's normalisation is chosen, it is fed and its rows are known; one of another rule is made anew
LOOKED_AT = 32  # samples whose answers may be probabilities
ROUNDED = 1e-2  # how far their sum may be from 1, in half precision
CACHE_BYTES = 2 << 30  # taps beyond this are computed when they are needed


def further(materials: Materials) -> dict[str, Any]:
    """The data and live teachers by content, and which teachers' outputs are cached."""
    teachers = materials.study.teachers
    return {
        "rule": RULE,
        "content": materials.data_key(),
        "live": {name: live_key(materials, name) for name in teachers},
        "cached": {name: is_cached(materials, name) and (teachers[name].cache == "all" or "seen") for name in teachers},
    }


def is_cached(materials: Materials, name: str) -> bool:
    """Whether a teacher's outputs are. Raise StudyError where the study insists on it and samples or answers change."""
    study, path = materials.study, materials.study.path_of_teacher(name)
    use = study.teachers[name]
    is_stochastic = study.live_object(path) is None and materials.make("teacher", use, path).stochastic
    if use.cache in ("on", "all") and (materials.augments or is_stochastic):
        why = "what it answers is drawn anew each time, so there are no rows to store"
        if materials.augments:
            why = "the data set augments training samples, so stored rows would be stale"
        expected = "auto or off" + (", or data without augmentation" if materials.augments else "")
        raise study.error(f"cache '{use.cache}', but {why}", f"{path}.cache", expected=expected)
    return use.cache != "off" and not materials.augments and not is_stochastic


def live_key(materials: Materials, name: str) -> str:
    live = materials.study.live_object(materials.study.path_of_teacher(name))
    if live is None:
        return ""
    if isinstance(live, Model):
        return digest([module_digest(live.module), live.inputs, live.outputs, [repr(tap) for tap in live.taps]])
    return module_digest(live)


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    study = materials.study
    tools.progress.begin(NAME, max(len(study.teachers) + len(study.config.data.recipes), 1))
    for text in [*copied(materials.given.facts), *noted(materials.given.facts)]:
        tools.progress.say(text)
    opened = {name: _opened(materials, name, tools, out) for name in study.teachers}
    networks = {name: live for name, (_, live) in opened.items() if live is not None}
    fed = {name: facts["normalize"] for name, (facts, live) in opened.items() if live is not None}
    recipes, materials = make_recipes(materials, networks, fed, tools)
    teachers = {}
    for name, (facts, live) in opened.items():
        teachers[name] = (
            facts if live is None else {**facts, **_looked_at(materials, name, live, facts["answers"], tools, out)}
        )
        score = teachers[name]["score"]
        tools.progress.at(len(recipes) + len(teachers), f"teacher {name}: {score:.4f}" if score is not None else "")
        for text in [*said(name, teachers[name].get("normalize")), *teachers[name].get("warnings", [])]:
            tools.progress.say(text)
    return {"data": _described(materials), "recipes": recipes, "teachers": teachers}


def admit(materials: Materials, prepared: Artifact) -> None:
    """Raise StudyError for a teacher that is worse than the study expects."""
    for name, facts in prepared.facts["teachers"].items():
        check_expected(materials, name, facts.get("validation", {}), facts.get("normalize"))


def _described(materials: Materials) -> dict[str, Any]:
    facts = {name: value for name, value in materials.given.facts.items() if name != "splits"}
    counts = materials.given.counts()
    return {"classes": list(facts.get("classes", [])), "counts": counts, "facts": _plain(facts)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _opened(materials: Materials, name: str, tools: Tools, out: Path) -> tuple[dict[str, Any], Live | None]:
    """A teacher, trained where the study trains it: what there is to say of it so far, and its network where it has one."""
    study, path = materials.study, materials.study.path_of_teacher(name)
    is_cached(materials, name)  # refuses what cannot be before anything is trained
    check_expectable(materials, name)
    notes = [stored_answers(materials, name)]
    is_live = study.live_object(path) is not None
    capability = None if is_live else materials.make("teacher", study.teachers[name], path)
    origin = {"source": "handed over from Python"} if capability is None else dict(capability.facts())
    access = Access.TAPS if capability is None else capability.access
    facts: dict[str, Any] = {"weights": "", "trained": "", "cache": "", "access": access.name, "facts": _plain(origin)}
    if not has_network(materials, name):
        return {**facts, "params": None, "macs": None, "score": None, "answers": False}, None
    live = loaded_teacher(materials, name)
    model = live.model
    check_answering(materials, model, f"teacher '{name}'")
    lacks = unanswered(materials, live)
    notes.append(f"Teacher '{name}' {lacks}: it is not measured on the task." if lacks else "")
    facts |= {"answers": not lacks, "note": " ".join(note for note in notes if note)}
    is_trained = capability is not None and capability.training is not None and bool(capability.training.epochs)
    is_open = not (is_trained or lacks or live.view)
    facts["normalize"] = choose(materials, name, model) if is_open else None
    feed(materials, name, model, facts["normalize"])
    facts |= {"history": [], "notes": []}
    if is_trained:
        made = trained(materials, name, live, tools)
        facts |= {"weights": f"{name}.safetensors", "trained": made.key}
        facts |= {kept: made.facts[kept] for kept in ("history", "notes")}
        tensors = read(made.path / WEIGHTS)
        load_into(model.module, tensors, made.path / WEIGHTS)
        write(out / facts["weights"], tensors)
    model.module.requires_grad_(False).eval()
    return facts, live


def _looked_at(materials: Materials, name: str, live: Live, answers: bool, tools: Tools, out: Path) -> dict[str, Any]:
    """Its rows cached over the samples that students see; cost and validation score."""
    study, cache = materials.study, ""

    def moved(share: float) -> None:
        tools.heed_stop()
        tools.progress.at(tools.progress.done, f"teacher {name}: {share:.0%} of its answers stored")

    cached: Mapping[str, Any] = {}
    if is_cached(materials, name):
        taps = [tap_name(live.model, tap) for tap in materials.taps[name] if has_tap(live.model, tap)]
        splits = [split for split in ("train", "val") if split in materials.data.splits]
        folder = out / f"cache-{name}"
        with placing(study, study.path_of_teacher(name)):
            cached = write_cache(folder, live, materials.data, splits, taps, materials.torch_device, CACHE_BYTES, moved)
        setting = study.teachers[name].cache
        if cached["draws"] and setting in ("on", "all"):
            why = "what the teacher is fed is drawn anew each time (`view`), so there are no rows to store"
            path = f"{study.path_of_teacher(name)}.cache"
            raise study.error(f"cache '{setting}', but {why}", path, expected="auto or off")
        cache = "" if cached["draws"] else folder.name
        if setting == "all":
            held_out = out / f"cache-{name}-test"
            write_cache(held_out, live, materials.data, ["test"], taps, materials.torch_device, CACHE_BYTES, moved)
    cost = cost_of_teacher(live, materials)
    is_counted = cost.params > 0 or cost.macs > 0  # stored answers, or a function's: nobody knows of what network
    quality = _on_validation(materials, live) if answers else None
    qualities = {materials.objective: quality} if quality else {}
    stored = Live(live.model, live.task, TeacherCache(out / cache) if cache else None, live.view)
    judged = _judged(materials, stored, quality.n) if quality else None
    if answers and live.view is None and materials.objective != ACCURACY:
        accuracy, n = (
            accuracy_of(materials, live.model),
            len(known_labels(materials)) if is_classification(materials) else 0,
        )
        if accuracy is not None:
            qualities[ACCURACY] = Quality(ACCURACY, accuracy, "max", SHARE, wilson(accuracy, n), n)
    known = {metric: quality.value for metric, quality in qualities.items()}
    return {
        "cache": cache,
        "cached": dict(cached),
        "network": live.model.name,
        "architecture": live.model.name if live.model.spec is None else canonical(live.model.spec),
        "params": cost.params if is_counted else None,
        "macs": cost.macs if is_counted else None,
        "score": known.get(materials.objective),
        "validation": {metric: quality.as_json() for metric, quality in qualities.items()},
        "judged": judged,
        "warnings": [
            *warned(materials, name, known.get(ACCURACY)),
            *(_looks(materials, name, live) if answers else []),
        ],
    }


def has_tap(model: Model, tap: str) -> bool:
    """Whether there are rows to store of what some candidate's recipe reads; where there are none, its trial says so."""
    try:
        tap_name(model, tap)
    except TapError:
        return False
    return True


def unanswered(materials: Materials, live: Live) -> str:
    """What the teacher answers where that is not what the task asks for; "" where it is."""
    split = materials.data.split("train")
    batch = split.load(list(range(min(2, len(split.ids))))).to(materials.torch_device)
    live.model.module.to(materials.torch_device)
    found = live.outputs(batch, live.model.outputs, materials.torch_device)
    got = {name: tuple(found[name].shape[1:]) for name in live.model.outputs}
    for field in materials.task.answers(materials.io):
        shape = got.get(field.name, ())
        fits = len(shape) == len(field.shape) and all(b in (None, a) for a, b in zip(shape, field.shape, strict=True))
        if field.name not in got or not fits:
            shown = ", ".join(f"{name} {_shape(each)}" for name, each in got.items())
            return f"answers {shown}, not {field.name} {_shape(field.shape)}"
    return ""


def _looks(materials: Materials, name: str, live: Live) -> list[str]:
    """A warning where what should be logits are probabilities: on some training samples all are >= 0, and the classes' sum is 1.

    Raises:
        DataError: they are NaN.
    """
    split = materials.data.split("train")
    batch = split.load(list(range(min(LOOKED_AT, len(split.ids))))).to(materials.torch_device)
    found = live.outputs(batch, live.model.outputs, materials.torch_device)
    answers = materials.task.answers(materials.io)
    with placing(materials.study, materials.study.path_of_teacher(name)):
        refuse_nan(live.model.name, nan_in(materials.task, answers, batch, found), len(batch))
    for field in (each for each in answers if each.kind == "logits"):
        rows = found[field.name].double()
        if bool((rows >= 0).all()) and bool(((rows.sum(field.class_axis) - 1).abs() < ROUNDED).all()):
            return [
                f"Teacher '{name}' answers probabilities, and they are taken for logits: a softmax of them is almost even, so that "
                "it teaches little. Leave its softmax out, or end it with a logarithm."
            ]
    return []


def _shape(sizes: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def _on_validation(materials: Materials, live: Live) -> Quality | None:
    """The objective's, with every label that exists; None where none does."""
    name, setup = materials.objective, _evaluator(materials, materials.data.revealed(), {"model": live})
    try:
        found = setup.measured(name, "model", "val")
    except DataError:
        return None
    return quality_of(name, materials.scoring[name], found, materials.seed)


def _judged(materials: Materials, live: Live, n: int | None) -> int | None:
    """How many items of the validation split a student is judged on, of the n with every label; None where that is not known."""
    if n is None or not materials.data.counts().get("val", {}).get("unlabeled"):
        return n
    setup = _evaluator(materials, materials.data, {"teacher": live})  # a metric may take its answers for hidden labels
    try:
        found = setup.measured(materials.objective, "teacher", "val").get("n")
    except DataError:  # no label at all: trials say so
        return None
    return None if found is None else int(found)


def _evaluator(materials: Materials, data: DataSource, teachers: dict[str, Live]) -> Evaluator:
    for live in teachers.values():
        live.model.module.to(materials.torch_device)
    return Evaluator(
        seed=materials.seed,
        base=materials.study.folder,
        task=materials.task,
        data=data,
        io=materials.io,
        teachers=teachers,
        metrics=materials.scoring,
        device=materials.torch_device,
    )
