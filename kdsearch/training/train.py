"""One training of a candidate, assembled from a request and run: trials, winners, controls and recovery alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdsearch.engine.cache import Live, TeacherCache, View
from kdsearch.engine.conduct import Report
from kdsearch.engine.loop import Training
from kdsearch.engine.ranks import ALONE, Ranks
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import PluginError, TrialError, UserError
from kdsearch.kinds import (
    IO,
    Batch,
    Distiller,
    Model,
    Plan,
    Procedure,
    Schedule,
    Shapes,
    TapShapes,
    Teacher,
    named,
    traced_taps,
)
from kdsearch.kit.networks import modelled
from kdsearch.ops.seeding import seed_generators
from kdsearch.store.hashing import derive
from kdsearch.store.weights import check_module, load_into, read
from kdsearch.study.recipe import ResolvedDistiller, ResolvedRecipe
from kdsearch.training.adapted import adapt
from kdsearch.training.built import Built
from kdsearch.training.materials import Materials, placing
from kdsearch.training.memory import check_training
from kdsearch.training.normalize import feed
from kdsearch.training.ranks import Place, ranks_of
from kdsearch.training.recipe_data import control_data
from kdsearch.training.request import Outcome, Request, lr_scale_of, owner_of, recipe_of, seed_of
from kdsearch.training.text_teachers import embedders, has_network, writers


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
    """Train, or go on from the checkpoint in `folder`; there `load_finished` finds what became of it.

    Raises TrialError for NaN, InterruptedRun where `stop` said so, UserError for shapes or taps that do not fit.
    """
    recipe = recipe_of(materials, request)
    procedure, setup = assemble(materials, request, teachers, folder, seed_of(materials, request))
    for role in request.specs:
        check_training(materials, setup.models[role], recipe.train.batch_size, f"'{role}'", "", TrialError)
    built = Built.of(setup, procedure)
    training = Training(
        procedure,
        setup,
        folder,
        owner_of(materials, request),
        replace(materials.device, checkpoint_s=checkpoint_s, accumulate=recipe.train.accumulate),
        request.until,
        stop,
        report or Report(),
        objective=materials.objective,
        ranks=ranks,
    )
    ended = training.run()
    if ended.done and ranks.is_first:
        built.keep(setup, folder, training.owner)
    scores = [row["score"] for row in ended.history if "score" in row]
    share = min(1.0, max((row["epoch"] for row in ended.history), default=0) / max(request.epochs, 1))
    outcome = Outcome(ended.history, ended.done, scores[-1] if scores else None, share, ended.scales, ended.notes)
    return outcome, setup, procedure


def train_shared(
    materials: Materials,
    request: Request,
    order: Mapping[str, Any],
    teachers: Mapping[str, Live],
    stop: Callable[[], bool] = lambda: False,
    report: Report | None = None,
    place: Place | None = None,
) -> Outcome:
    """Train with all of `run.devices`. `order`: the arguments of `training.job.train_job`, by which the other ranks join."""
    folder = Path(order["work"])
    with ranks_of(materials, "kdsearch.training.job:train_job", order, place) as ranks:
        return train(materials, request, folder, teachers, stop, report, order["checkpoint_s"], ranks)[0]


def pruned(materials: Materials, model: Model, plan: Mapping[str, Any]) -> Model:
    """The model in the shape that a pruning plan gives it."""
    section = materials.study.config.compress.prune
    assert section is not None
    pruner = materials.make("pruner", section, "compress.prune")
    result: Model = pruner.apply(model, Plan(plan["edits"], plan.get("lr_scale", {}), tuple(plan.get("log", ()))))
    return result


def assemble(
    materials: Materials, request: Request, teachers: Mapping[str, Live], folder: Path, seed: int
) -> tuple[Procedure[Any], LiveSetup]:
    """The procedure and what it is set up with: models, and distillers built on their shapes, everything random from `seed`."""
    procedure, setup = staged(materials, request, teachers, folder, seed)
    for role, start in request.start.items():
        load_into(setup.models[role].module, read(Path(start)), start)
    setup.distillers = distillers_of(materials, request, setup, seed)
    return procedure, setup


def distillers_of(materials: Materials, request: Request, setup: LiveSetup, seed: int) -> dict[str, Distiller[Any]]:
    """The recipe's distillers by name, built. Raise UserError with the key of the option that does not fit."""
    found = {}
    for each in recipe_of(materials, request).distillers:
        try:
            found[each.name] = _distiller(materials, each, setup, seed)
        except UserError as error:
            raise blamed(each, error) from error.__cause__
    return found


def blamed(each: ResolvedDistiller, error: UserError) -> UserError:
    """What a distiller says against where it is used, with its name and the key path of the option at fault. Returns the error."""
    if error.file is None and not error.path:
        error.path = each.place_of(error.problem)
        if "distiller '" not in error.problem:
            error.problem = f"distiller '{each.name}': {error.problem}"
    return error


def staged(
    materials: Materials,
    request: Request,
    teachers: Mapping[str, Live],
    folder: Path,
    seed: int,
    changes: Mapping[str, Any] | None = None,
) -> tuple[Procedure[Any], LiveSetup]:
    """The procedure and its setup with fresh models of the request's roles, adapted and pruned; no distillers yet.

    changes: fields of the setup that are others than the study's.
    """
    recipe = recipe_of(materials, request)
    train = recipe.train
    is_control = request.kind in ("baseline", "all_labels")
    aliases = {**teachers, **({"teacher": next(iter(teachers.values()))} if teachers else {})}
    procedure = _procedure(materials, recipe, request, seed)

    def built(role: str, seed: int) -> Model:
        model = materials.build_student(role, request.specs[role], seed, plain=True)
        if role in procedure.roles:
            with torch.random.fork_rng(devices=[]):
                seed_generators(derive(seed, "adapt"))
                model = adapt(procedure, role, model, setup)
        return pruned(materials, model, request.plans[role]) if role in request.plans else model

    setup = LiveSetup(
        seed=seed,
        base=materials.study.folder,
        memory=folder,
        code_of=materials.site.code_of,
        build_of=materials.build_member,
        writers=writers(materials),
        embedders=embedders(materials),
        task=materials.task,
        data=control_data(materials, request.kind == "all_labels") if is_control else materials.data,
        io=materials.io,
        teachers=aliases,
        teacher_of={each.name: each.teacher for each in recipe.distillers},
        weights=recipe.weights,
        normalize=recipe.normalize,
        epochs=request.epochs,
        defaults={
            "kind": train.optimizer,
            "lr": train.lr,
            "weight_decay": train.weight_decay,
            "momentum": train.momentum,
            "clip": train.clip,
            "schedule": Schedule(**train.schedule.model_dump(exclude_none=True)),
            "scale": lr_scale_of(request),
        },
        batch_size=train.batch_size,
        augment=materials.augments,
        metrics=materials.metrics,
        fresh_of=lambda role, nth: built(role, derive(seed, "fresh", role, nth)),
        trained=tuple(request.specs),
        device=materials.torch_device,
    )
    setup = replace(setup, **(changes or {}))
    for role in request.specs:
        setup.models[role] = built(role, derive(seed, "init", role))
    return procedure, setup


def _procedure(materials: Materials, recipe: ResolvedRecipe, request: Request, seed: int) -> Procedure[Any]:
    if request.kind in ("baseline", "all_labels"):
        is_other = request.kind == "baseline" or materials.made is not None
        return plain_training(materials, split="labeled" if is_other else "train")
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(seed, "procedure"))
        return recipe.procedure_cls(recipe.procedure_options)


def plain_training(materials: Materials, split: str, ema: float = 0.0) -> Procedure[Any]:
    """The built-in procedure without distillers."""
    cls = materials.host.load_class("procedure", "distill")
    made: Procedure[Any] = cls(cls.options_class(split=split, ema=ema))
    return made


def _distiller(materials: Materials, each: Any, setup: LiveSetup, seed: int) -> Distiller[Any]:
    live = setup.teachers.get(each.teacher)
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(seed, "distiller", each.name))
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
        shapes = [
            shapes_of(student, materials.io, asked.get("student", ())),
            shapes_of(teacher, materials.io, asked.get("teacher", ()), live.fed if live is not None else None),
        ]
        made.build(TapShapes(*shapes))
    return made


def shapes_of(model: Model, io: IO, taps: Sequence[str] = (), fed: Callable[[Batch], Batch] | None = None) -> Shapes:
    """Shapes of outputs and taps. A `module:<glob>` among `taps`, and an output that is none of the task's, have none until one
    forward pass of zeros shows it. `fed`: what the model is fed of a batch.
    """
    fields = {each.name: each.shape for each in io.outputs}
    unseen = {tap: model.tap(tap).path for tap in taps if tap.startswith("module:")}
    own = [name for name in model.outputs if name not in fields]
    if not unseen and not own:
        return Shapes(model, fields)
    sample = Batch(("zeros",), {each.name: each.blank() for each in io.inputs})
    sample = sample if fed is None else fed(sample)
    inputs = [sample[name] for name in model.inputs]
    fields |= {tap.name: tap.shape for tap in traced_taps(model.module, inputs, unseen)}
    if own:
        with torch.no_grad():
            out = named(model.module(*inputs), model.outputs)
        fields |= {name: tuple(out[name].shape[1:]) for name in own}
    return Shapes(model, fields)


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
    model: Model
    live = materials.study.live_object(materials.study.path_of_teacher(name))
    if live is not None:
        model = live_model(live, materials)
        check_module(model.module, f"teacher '{name}'")
        return model
    teacher = materials.make("teacher", materials.study.teachers[name], materials.study.path_of_teacher(name))
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(materials.seed, "teacher", name))
        with placing(materials.study, f"{materials.study.path_of_teacher(name)}.options"):
            model = teacher.model(materials.io, materials.site)
            check_module(model.module, f"teacher '{name}'")
    return model


def live_model(live: Any, materials: Materials) -> Model:
    """A copy of a live Model, or a Model around a copy of a live nn.Module, whose taps are found.

    Raises:
        DataError: it does not read the study's samples, or does not answer as the task asks, with what it does.
    """
    if isinstance(live, Model):
        return live.copy()
    return modelled(copy.deepcopy(live).cpu(), materials.io, type(live).__name__)
