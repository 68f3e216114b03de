"""One training of a candidate: the same function for trials, winners, controls, recovery and trained teachers.

It runs in this process or as a job of an executor; a request is JSON, so both do the same.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from kdsearch.builtin.teachers.fitted import modelled
from kdsearch.engine.cache import Live, TeacherCache, View
from kdsearch.engine.checkpoint import read_checkpoint
from kdsearch.engine.loop import Device, Report, Training
from kdsearch.engine.ranks import ALONE, Ranks
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import PluginError
from kdsearch.kinds import IO, Distiller, Model, Plan, Procedure, Shapes, TapShapes, Teacher, traced_taps
from kdsearch.stages.materials import Materials, placing
from kdsearch.stages.normalize import feed
from kdsearch.stages.ranks import Place, ranks_of
from kdsearch.stages.recipe_data import control_data
from kdsearch.stages.text_teachers import embedders, has_network, writers
from kdsearch.store.hashing import derive, digest, file_digest
from kdsearch.store.weights import load_into, read, write
from kdsearch.study.recipe import ResolvedRecipe

Kind = Literal["recipe", "baseline", "all_labels", "recover"]


@dataclass(frozen=True)
class Request:
    """What to train.

    Args:
        name: of its folder and random stream.
        kind: the recipe, the baseline (labels only, equal steps), the same with every label, or recovery after pruning.
        specs: role -> architecture spec. values: the recipe's dimensions.
        epochs: whole length; until: share of it at which to pause.
        start: role -> weights to start from, with the pruner's plans by role that shape the models first.
        scales: term -> factor on its weight, in place of measuring it anew: recovery keeps the units of the training before.
        lr_factor: on the recipe's learning rate.
    """

    name: str
    kind: Kind
    specs: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    epochs: int
    until: float = 1.0
    start: Mapping[str, str] = field(default_factory=dict)
    plans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    lr_factor: float = 1.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """history: rows of epochs; done: through (False: waits at a rung); score: last objective on validation, if any."""

    history: list[dict[str, Any]]
    done: bool
    score: float | None
    share: float


def recipe_of(materials: Materials, request: Request) -> ResolvedRecipe:
    recipe = materials.recipe.at(request.values)
    if request.kind in ("baseline", "all_labels"):
        return recipe.baseline()
    if request.kind != "recover":
        return recipe
    weights = dict(recipe.weights)
    for term, scale in request.scales.items():
        weights[term] = scale * recipe.weights.get(term, recipe.weights.get(term.partition(".")[0], 1.0))
    train = recipe.train.model_copy(update={"lr": request.lr_factor * recipe.train.lr})
    return replace(recipe, weights=weights, train=train, normalize=recipe.normalize and not request.scales)


def scales_of(folder: Path) -> dict[str, float]:
    """Term -> the scale that a finished training measured at its start; empty where it measured none."""
    found: dict[str, float] = {}
    for file in sorted(folder.glob("phase-*.safetensors")):
        saved = read_checkpoint(file)
        found |= saved[1].scales if saved else {}
    return found


def train(
    materials: Materials,
    request: Request,
    folder: Path,
    teachers: Mapping[str, Live],
    stop: Callable[[], bool] = lambda: False,
    report: Report | None = None,
    checkpoint_s: float = 30.0,
    ranks: Ranks = ALONE,
) -> tuple[Outcome, LiveSetup, Procedure[Any]]:
    """Train, or go on from the checkpoint in `folder`.

    Raises TrialError for NaN, InterruptedRun where `stop` said so, UserError for shapes or taps that do not fit.
    """
    recipe = recipe_of(materials, request)
    seed = derive(materials.seed, "training", request.name)
    models = {role: student_model(materials, role, request, seed) for role in request.specs}
    procedure, setup = assemble(
        materials, recipe, models, teachers, request.epochs, seed, folder, request.kind, lr_scale_of(request)
    )
    asked = {
        **request.as_json(),
        "until": 1.0,
        "start": {role: file_digest(Path(f)) for role, f in request.start.items()},
    }
    owner = digest({"request": asked, "recipe": recipe.as_json(), "seed": materials.seed})
    device = _with_checkpoints(materials, recipe, checkpoint_s)
    training = Training(
        procedure,
        setup,
        folder,
        owner,
        device,
        request.until,
        stop,
        report or Report(),
        objective=materials.objective,
        ranks=ranks,
    )
    ended = training.run()
    scores = [row["score"] for row in ended.history if "score" in row]
    share = min(1.0, max((row["epoch"] for row in ended.history), default=0) / max(request.epochs, 1))
    return Outcome(ended.history, ended.done, scores[-1] if scores else None, share), setup, procedure


def train_shared(
    materials: Materials,
    request: Request,
    order: Mapping[str, Any],
    teachers: Mapping[str, Live],
    stop: Callable[[], bool] = lambda: False,
    report: Report | None = None,
    place: Place | None = None,
) -> Outcome:
    """Train with all of `run.devices`. `order`: the arguments of `stages.job.train_job`, by which the other ranks join."""
    folder = Path(order["work"])
    with ranks_of(materials, "kdsearch.stages.job:train_job", order, place) as ranks:
        return train(materials, request, folder, teachers, stop, report, order["checkpoint_s"], ranks)[0]


def lr_scale_of(request: Request) -> dict[str, float]:
    """What the plans ask of the learning rates, on the names that optimisers see."""
    return {
        f"{role}.{glob}": float(factor)
        for role, plan in request.plans.items()
        for glob, factor in plan.get("lr_scale", {}).items()
    }


def replay(
    materials: Materials, request: Request, folder: Path, teachers: Mapping[str, Live]
) -> tuple[LiveSetup, Procedure[Any]]:
    """A finished training's models and procedure, from the checkpoints of its phases. Raise ArtifactError if it is not."""
    outcome, setup, procedure = train(materials, request, folder, teachers)
    assert outcome.done
    return setup, procedure


def _with_checkpoints(materials: Materials, recipe: ResolvedRecipe, checkpoint_s: float) -> Device:
    return replace(materials.device, checkpoint_s=checkpoint_s, accumulate=recipe.train.accumulate)


def student_model(materials: Materials, role: str, request: Request, seed: int) -> Model:
    """Fresh by seed, or from weights, pruned by a plan where there is one."""
    model = materials.build_student(role, request.specs[role], derive(seed, "init", role))
    plan = request.plans.get(role)
    if plan is not None:
        model = pruned(materials, model, plan)
    if role in request.start:
        file = Path(request.start[role])
        load_into(model.module, read(file), file)
    return model


def pruned(materials: Materials, model: Model, plan: Mapping[str, Any]) -> Model:
    """The model in the shape that a pruning plan gives it."""
    section = materials.study.config.compress.prune
    assert section is not None
    pruner = materials.make("pruner", section, "compress.prune")
    result: Model = pruner.apply(model, Plan(plan["edits"], plan.get("lr_scale", {}), tuple(plan.get("log", ()))))
    return result


def assemble(
    materials: Materials,
    recipe: ResolvedRecipe,
    models: dict[str, Model],
    teachers: Mapping[str, Live],
    epochs: int,
    seed: int,
    folder: Path,
    kind: Kind = "recipe",
    lr_scale: Mapping[str, float] | None = None,
) -> tuple[Procedure[Any], LiveSetup]:
    """The procedure and what it is set up with: distillers built on the models' shapes, everything random from `seed`.

    `lr_scale`: glob on parameter names (`student.<name>`) -> factor on lr, as a pruner's plan asks for.
    """
    train = recipe.train
    is_control = kind in ("baseline", "all_labels")
    data = control_data(materials, kind == "all_labels") if is_control else materials.data
    aliases = {**teachers, **({"teacher": next(iter(teachers.values()))} if teachers else {})}
    setup = LiveSetup(
        seed=seed,
        base=materials.study.folder,
        memory=folder,
        code_of=materials.site.code_of,
        build_of=materials.build_member,
        writers=writers(materials),
        embedders=embedders(materials),
        task=materials.task,
        data=data,
        io=materials.io,
        models=models,
        teachers=dict(aliases),
        teacher_of={each.name: each.teacher for each in recipe.distillers},
        weights=recipe.weights,
        normalize=recipe.normalize,
        epochs=epochs,
        defaults={
            "kind": train.optimizer,
            "lr": train.lr,
            "weight_decay": train.weight_decay,
            "momentum": train.momentum,
            "clip": train.clip,
            "schedule": train.schedule,
            "scale": lr_scale or {},
        },
        batch_size=train.batch_size,
        augment=materials.augments,
        metrics=materials.metrics,
        fresh_of=lambda role: materials.build_student(role, {}, derive(seed, "fresh", role)),
        trained=tuple(models),
        device=materials.torch_device,
    )
    options = recipe.procedure_options
    if is_control:
        is_other = kind == "baseline" or materials.made is not None
        procedure = plain_training(materials, split="labeled" if is_other else "train")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "procedure"))
            procedure = recipe.procedure_cls(options)
    for role in procedure.roles:
        if role in models:
            models[role] = procedure.adapt(role, models[role], setup)
    setup.distillers = {each.name: _distiller(materials, each, setup, seed) for each in recipe.distillers}
    return procedure, setup


def plain_training(materials: Materials, split: str, ema: float = 0.0) -> Procedure[Any]:
    """The built-in procedure without distillers."""
    cls = materials.host.load_class("procedure", "distill")
    made: Procedure[Any] = cls(cls.options_class(split=split, ema=ema))
    return made


def _distiller(materials: Materials, each: Any, setup: LiveSetup, seed: int) -> Distiller[Any]:
    live = setup.teachers.get(each.teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "distiller", each.name))
        made: Distiller[Any] = each.cls(each.options)
        if live is None and made.needs_teacher:
            raise PluginError(f"distiller '{each.name}' needs the teacher '{each.teacher}'")
        student = setup.models["student"] if "student" in setup.models else next(iter(setup.models.values()))
        teacher = live.model if live is not None else student
        for role, taps in made.taps().items():
            model = teacher if role == "teacher" else setup.models.get(role, student)
            for tap in taps:
                if tap not in model.outputs:
                    model.tap(tap)
        asked = made.taps()
        made.build(
            TapShapes(
                shapes_of(student, materials.io, asked.get("student", ())),
                shapes_of(teacher, materials.io, asked.get("teacher", ())),
            )
        )
    return made


def shapes_of(model: Model, io: IO, taps: Sequence[str] = ()) -> Shapes:
    """Shapes of outputs and taps. A `module:<glob>` among `taps` has none until one forward pass of zeros shows it."""
    fields = {each.name: each.shape for each in io.outputs}
    unseen = {tap: model.tap(tap).path for tap in taps if tap.startswith("module:")}
    if not unseen:
        return Shapes(model, fields)
    read = [io.input(name) for name in model.inputs]
    inputs = [torch.zeros((1, *each.sizes), dtype=each.torch_dtype) for each in read]
    found = traced_taps(model.module, inputs, unseen)
    return Shapes(model, {**fields, **{tap.name: tap.shape for tap in found}})


def open_teachers(materials: Materials, prepared: Any) -> dict[str, Live]:
    """The prepared teachers that are networks, by name, with their caches."""
    found: dict[str, Live] = {}
    for name in materials.study.teachers:  # the first one is `teacher` where none is named
        facts = prepared.facts["teachers"][name]
        if not has_network(materials, name):
            continue
        model = teacher_model(materials, name, facts.get("normalize"))
        if facts["weights"]:
            file = prepared.path / facts["weights"]
            load_into(model.module, read(file), file)
        model.module.requires_grad_(False).eval()
        cache = TeacherCache(prepared.path / facts["cache"]) if facts["cache"] else None
        found[name] = Live(model, materials.task, cache, view_of(materials, name))
    return found


def view_of(materials: Materials, name: str) -> View | None:
    """What the teacher is fed of a batch, where its capability says so; None = the batch."""
    path = materials.study.path_of_teacher(name)
    if materials.study.live_object(path) is not None:
        return None
    made: Teacher[Any] = materials.make("teacher", materials.study.teachers[name], path)
    return None if type(made).view is Teacher.view else made.view


def teacher_model(materials: Materials, name: str, found: Mapping[str, Any] | None = None) -> Model:
    """The teacher's network, untrained where the study trains it, reading images in its own normalisation.

    `found`: what `choose` found that to be, where neither the study nor the weights say it.
    """
    return feed(materials, name, loaded_teacher(materials, name), found)


def loaded_teacher(materials: Materials, name: str) -> Model:
    """The teacher's network as its capability gives it."""
    live = materials.study.live_object(materials.study.path_of_teacher(name))
    if live is not None:
        return live_model(live, materials)
    teacher = materials.make("teacher", materials.study.teachers[name], materials.study.path_of_teacher(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(materials.seed, "teacher", name))
        with placing(materials.study, f"{materials.study.path_of_teacher(name)}.options"):
            model: Model = teacher.model(materials.io, materials.site)
    return model


def live_model(live: Any, materials: Materials) -> Model:
    """A copy of a live Model, or a Model around a copy of a live nn.Module, whose taps are found.

    Raises:
        DataError: it does not read the study's samples, or does not answer as the task asks, with what it does.
    """
    if isinstance(live, Model):
        return live.copy()
    return modelled(copy.deepcopy(live).cpu(), materials.io, type(live).__name__)


def save_models(setup: LiveSetup, roles: tuple[str, ...], folder: Path, stem: str) -> dict[str, str]:
    """Weights of the roles, as `<stem>[-role].safetensors`; role -> file name."""
    files = {}
    for role in roles:
        file = f"{stem}.safetensors" if len(roles) == 1 else f"{stem}-{role}.safetensors"
        write(
            folder / file, {name: tensor.cpu() for name, tensor in setup.models[role].module.state_dict().items()}, {}
        )
        files[role] = file
    return files


def keep_phases(source: Path, target: Path) -> None:
    """The finished phases' checkpoints and stored values: with them a training can be replayed without training."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.name.startswith(("phase-", "once-")) and ".best." not in file.name:
            shutil.copyfile(file, target / file.name)
