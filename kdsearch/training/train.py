"""One training of a candidate, assembled from a request and run: trials, winners, controls and recovery alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdsearch.engine.cache import Live
from kdsearch.engine.conduct import Report
from kdsearch.engine.loop import Training
from kdsearch.engine.optim import factors_of
from kdsearch.engine.ranks import ALONE, Ranks
from kdsearch.engine.recipe_source import Offered
from kdsearch.engine.setup import Evaluator, LiveSetup
from kdsearch.errors import INTERRUPTS, KdsearchError, PluginError, UserError, told
from kdsearch.kinds import (
    IO,
    Batch,
    Compressor,
    DataSource,
    Distiller,
    Model,
    Plan,
    Procedure,
    Schedule,
    Shapes,
    TapShapes,
    named,
    traced_taps,
    uncut,
)
from kdsearch.kit.distillation import DistillOptions
from kdsearch.ops.place import device_of
from kdsearch.ops.seeding import seed_generators
from kdsearch.ops.settle import lend
from kdsearch.store.files import is_disk_error
from kdsearch.store.hashing import derive, digest
from kdsearch.store.weights import load_into, read
from kdsearch.study.recipe import ResolvedDistiller, ResolvedRecipe
from kdsearch.training.adapted import adapt, grow
from kdsearch.training.built import Built
from kdsearch.training.few_samples import NotAskedError
from kdsearch.training.keys import capabilities
from kdsearch.training.materials import Materials
from kdsearch.training.memory import wait_for_memory
from kdsearch.training.ranks import Place, ranks_of
from kdsearch.training.recipe_data import control_data, is_judged
from kdsearch.training.request import (
    CONTROLS,
    GROWN,
    QUANTIZER,
    Outcome,
    Request,
    lr_scale_of,
    owner_of,
    recipe_of,
    seed_of,
)
from kdsearch.training.sites import kept_in
from kdsearch.training.text_teachers import embedders, writers


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
    trainer = recovering(materials, request, setup) or procedure
    for role in request.specs:
        wait_for_memory(materials, setup.models[role], recipe.train.batch_size, f"'{role}'", stop)
    built = Built.of(setup, procedure)
    judged = is_judged(materials, request)
    training = Training(
        trainer,
        setup,
        folder,
        owner_of(materials, request),
        replace(materials.device, checkpoint_s=checkpoint_s, accumulate=recipe.train.accumulate),
        request.until,
        stop,
        report or Report(),
        objective=materials.objective if judged else "",
        beside=materials.beside if judged else (),
        ranks=ranks,
        recovers=request.kind == "recover",
    )
    ended = training.run()
    if ended.done and setup.enforce is not None:
        setup.enforce(1.0)
    if ended.done and ranks.is_first:
        built.keep(setup, folder, training.owner)
    left = left_by(ended.history, setup.enforce is None)
    score, beside = left.get("score"), left.get("beside", {})
    share = min(1.0, max((row["epoch"] for row in ended.history), default=0) / max(request.epochs, 1))
    return Outcome(ended.history, ended.done, score, share, ended.scales, ended.notes, beside), setup, procedure


def left_by(history: Sequence[Mapping[str, Any]], keeps_best: bool) -> Mapping[str, Any]:
    """The row of the weights that a training leaves, with the objective on validation; empty where no epoch has any.

    Those are the last epoch's, or, of a phase that keeps its best one, of the epoch of least validation loss.
    """
    rows = [row for row in history if "score" in row]
    last = [row for row in rows if row["phase"] == rows[-1]["phase"]]
    if keeps_best and last and "validation" in last[-1]:
        return min(last, key=lambda row: row["validation"])
    return last[-1] if last else {}


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


def compressor_of(materials: Materials, nth: int) -> Compressor[Any]:
    """Of the study's nth step of compression."""
    path, step = materials.study.config.compress.chain[nth]
    made: Compressor[Any] = materials.make(step.kind, step.use, path)
    return made


@contextmanager
def placing_step(materials: Materials, path: str) -> Iterator[None]:
    """What a compressor says of `compress.prune`, the short form, is of the step at `path`, and so is what it says of no place."""
    try:
        yield
    except KdsearchError as error:
        if error.path.startswith("compress.prune"):
            error.path = path + error.path.removeprefix("compress.prune")
        if error.file is None:
            error.at(path=f"{path}.use")
        raise materials.study.place(error) if error.file is None else error from error.__cause__


def plan_of(stored: Mapping[str, Any]) -> Plan:
    return Plan(stored["edits"], stored.get("lr_scale", {}), tuple(stored.get("log", ())))


def pruned(materials: Materials, model: Model, plans: Sequence[Mapping[str, Any]]) -> Model:
    """The model as the plans of the study's first steps of compression shape it, and a quantizer's lets it compute."""
    for nth, plan in enumerate(plans):
        model = _planner(materials, nth, plan).apply(model, plan_of(plan))
    return model


def _planner(materials: Materials, nth: int, plan: Mapping[str, Any]) -> Compressor[Any]:
    """Whose plan it is: the nth step's, or that of the quantizer whose name it holds."""
    if QUANTIZER not in plan:
        return compressor_of(materials, nth)
    uses = materials.study.config.compress.quantize
    index = next(i for i, use in enumerate(uses) if use.use == plan[QUANTIZER])
    made: Compressor[Any] = materials.make("quantizer", uses[index], f"compress.quantize[{index}]")
    return made


def recovering(materials: Materials, request: Request, setup: LiveSetup) -> Procedure[Any] | None:
    """The compressor's own procedure, with the networks before its cut among the teachers; None = the recipe's recovers.

    What the plans demand of weights is enforced from here on.
    """
    if request.kind != "recover":
        return None
    stored = next(iter(request.plans.values()))
    compressor = _planner(materials, len(stored) - 1, stored[-1])
    plans = {role: plan_of(each[-1]) for role, each in request.plans.items()}
    if compressor.side == "weights":

        def enforce(progress: float) -> None:
            for role, plan in plans.items():
                compressor.enforce(setup.models[role], plan, progress)

        setup.enforce = enforce
    elif QUANTIZER in stored[-1]:
        setup.enforce = _keeping_zeros(materials, request, setup)
    procedure = compressor.recovery(plans)
    if procedure is None:
        return None
    for role, file in request.uncut.items():
        assert setup.uncut_of is not None
        whole = setup.uncut_of(role)
        load_into(whole.module, read(Path(file)), file)
        setup.freeze(uncut(role), whole)
    return procedure


def _keeping_zeros(materials: Materials, request: Request, setup: LiveSetup) -> Callable[[float], None] | None:
    """What the study's sparsifiers demand, of the weights behind those that a quantizer rounds; None where there are none."""
    stored = next(iter(request.plans.values()))
    steps = [(nth, _planner(materials, nth, plan)) for nth, plan in enumerate(stored[:-1])]
    sparse = [(nth, each) for nth, each in steps if each.side == "weights"]
    if not sparse:
        return None
    assert setup.uncut_of is not None
    plain = {role: setup.uncut_of(role) for role in request.plans}

    def enforce(_: float) -> None:
        for role, plans in request.plans.items():
            lend(plain[role].module, setup.models[role].module)
            for nth, compressor in sparse:
                compressor.enforce(plain[role], plan_of(plans[nth]), 1.0)

    return enforce


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
    """The procedure and its setup with fresh models of the request's roles, adapted, grown and pruned; no distillers yet.

    changes: fields of the setup that are others than the study's.
    """
    recipe = recipe_of(materials, request)
    train = recipe.train
    is_control = request.kind in CONTROLS
    given = {} if is_control else teachers  # nor may what a procedure adapts or grows hold anything of theirs
    aliases = {**given, **({"teacher": next(iter(given.values()))} if given else {})}
    procedure = _procedure(materials, recipe, request, seed)
    shapes = _own_procedure(recipe, seed) if is_control else procedure  # a control is the network that ships

    def built(role: str, seed: int, cuts: int | None = None) -> Model:
        model = materials.build_student(role, request.specs[role], seed, plain=True)
        if role in shapes.roles:
            with torch.random.fork_rng(devices=[]):
                seed_generators(derive(seed, "adapt"))
                model = adapt(shapes, role, model, setup)
                model = grow(shapes, role, model, setup) if request.kind in GROWN else model
        return pruned(materials, model, request.plans.get(role, ())[:cuts])

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
        places=materials.places,
        fresh_of=lambda role, nth: built(role, derive(seed, "fresh", role, nth)),
        uncut_of=lambda role: built(role, derive(seed, "init", role), cuts=-1),
        trained=tuple(request.specs),
        device=materials.torch_device,
        shared=shared_setup(materials, aliases),
    )
    setup = replace(setup, **(changes or {}))
    for role in request.specs:
        setup.models[role] = built(role, derive(seed, "init", role))
    return procedure, setup


def shared_setup(materials: Materials, teachers: Mapping[str, Live]) -> Evaluator:
    """What is the same for all trainings of the study: see `kdsearch.kinds.Setup.study`."""
    key = digest([materials.prepared, capabilities(materials, ("recipe",)), materials.seed])
    return Evaluator(
        seed=derive(materials.seed, "study"),
        base=materials.study.folder,
        memory=kept_in(materials, key) if materials.prepared else None,
        code_of=materials.site.code_of,
        build_of=materials.build_member,
        writers=writers(materials),
        embedders=embedders(materials),
        task=materials.task,
        data=Offered(materials.data),
        io=materials.io,
        teachers=dict(teachers),
        metrics=materials.metrics,
        places=materials.places,
        device=materials.torch_device,
    )


def _procedure(materials: Materials, recipe: ResolvedRecipe, request: Request, seed: int) -> Procedure[Any]:
    if request.kind in CONTROLS:
        is_other = request.kind == "baseline" or materials.made is not None
        own = recipe.procedure_options
        alike = own.model_dump(include={"ema", "keep"}) if isinstance(own, DistillOptions) else {}
        return plain_training(materials, split="labeled" if is_other else "train", **alike)
    return _own_procedure(recipe, seed)


def _own_procedure(recipe: ResolvedRecipe, seed: int) -> Procedure[Any]:
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(seed, "procedure"))
        return recipe.procedure_cls(recipe.procedure_options)


def plain_training(materials: Materials, **options: Any) -> Procedure[Any]:
    """The built-in procedure, of a recipe without distillers."""
    cls = materials.host.load_class("procedure", "distill")
    made: Procedure[Any] = cls(cls.options_class(**options))
    return made


def _distiller(materials: Materials, each: Any, setup: LiveSetup, seed: int) -> Distiller[Any]:
    live = setup.teachers.get(each.teacher)
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(seed, "distiller", each.name))
        made: Distiller[Any] = each.cls(each.options)
        if live is None and made.needs_teacher:
            raise PluginError(f"distiller '{each.name}' needs the teacher '{each.teacher}'")
        student = setup.models["student"] if "student" in setup.models else next(iter(setup.models.values()))
        asked = made.taps()
        io = replace(materials.io, outputs=materials.task.answers(materials.io))

        def shapes(model: Model, role: str, of: Live | None) -> Shapes:
            fed = None if of is None or of.view is None else partial(fed_sample, of, setup.data)
            found = shapes_of(model, io, asked.get(role, ()), fed)
            return found if of is None else replace(found, fields={**found.fields, **vectors_of(of, io, setup.data)})

        def others(role: str) -> Shapes:
            return shapes(setup.model_of(role), role, setup.teachers.get(role))

        for role, taps in asked.items():
            known = {**setup.models, **setup.teachers, "student": student, "teacher": live or student}
            if role not in known:  # a phase makes it
                continue
            found = known[role]
            model = found.model if isinstance(found, Live) else found
            for tap in taps:
                if tap not in model.outputs:
                    model.tap(tap)
        teacher = shapes(student if live is None else live.model, "teacher", live)
        given = TapShapes(shapes(student, "student", None), teacher, others)
        with _told_of(each, "build"):
            made.build(given)
        with _told_of(each, "lr_factors"):
            factors_of(made)
    return made


@contextmanager
def _told_of(each: ResolvedDistiller, method: str) -> Iterator[None]:
    """Whatever a distiller's method raises that is no error of ours, also a wish to end the program, as a PluginError with its
    name and place. Neither memory nor a disk that is full is its fault.
    """
    try:
        yield
    except (*INTERRUPTS, KdsearchError, NotAskedError, MemoryError):
        raise
    except BaseException as error:
        if is_disk_error(error):
            raise
        raise PluginError(f"`{method}` of distiller '{each.name}' fails: {told(error)}", path=each.path) from error


def fed_sample(live: Live, data: DataSource) -> Batch:
    """What a teacher is fed of the first training sample: its view may read texts, or look samples up by their ids."""
    return live.fed(data.split("train").load([0]))


def vectors_of(live: Live, io: IO, data: DataSource) -> dict[str, tuple[int, ...]]:
    """Shapes of a teacher's vectors, which may be of another width than the task's."""
    names = [each.name for each in io.outputs if each.kind == "vector" and each.name in live.model.outputs]
    if not names:
        return {}
    device = device_of(live.model.module)
    out = live.outputs(data.split("train").load([0]).to(device), names, device)
    return {name: tuple(out[name].shape[1:]) for name in names}


def shapes_of(model: Model, io: IO, taps: Sequence[str] = (), fed: Callable[[], Batch] | None = None) -> Shapes:
    """Shapes of outputs and taps. A `module:<glob>` among `taps`, and an output that is none of the task's, have none until one
    forward pass of zeros shows it. `fed`: a batch that the model is fed, where it reads none of the task's own.
    """
    fields = {each.name: each.shape for each in io.outputs}
    unseen = {tap: model.tap(tap).path for tap in taps if tap.startswith("module:")}
    own = [name for name in model.outputs if name not in fields]
    if not unseen and not own:
        return Shapes(model, fields)
    zeros = {each.name: each.blank() for each in io.inputs}
    sample = Batch(("zeros",), zeros) if fed is None else fed()
    inputs = [sample[name].to(device_of(model.module)) for name in model.inputs]
    fields |= {tap.name: tap.shape for tap in traced_taps(model.module, inputs, unseen)}
    if own:
        with torch.no_grad():
            out = named(model.module(*inputs), model.outputs)
        fields |= {name: tuple(out[name].shape[1:]) for name in own}
    return Shapes(model, fields)
