"""One dry step: the whole recipe on a handful of samples, so that what it cannot do is said before a teacher is trained for it.

It is the training itself, with every phase cut to an epoch of one batch: students of the search space adapted by the procedure,
teachers as they are before they are trained, real taps, backward, optimisers, `on_step_end`. What it draws is its own, and what it
makes goes. A fault counts where no candidate that is tried is without it, and an optional distiller's where none that takes it is:
others are their trials' affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.fits import check_answers, check_fits
from kdsearch.engine.loop import Training, generators_restored
from kdsearch.engine.measured import check_values
from kdsearch.engine.recorded import groups_of
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import (
    DataError,
    KdsearchError,
    PluginError,
    UserError,
    one_of,
    told,
)
from kdsearch.kinds import Phase, Procedure, Setup
from kdsearch.kinds.data import CHOOSING
from kdsearch.kinds.executor import ended
from kdsearch.kinds.model import UnaskedTapError
from kdsearch.kit.dims import is_active
from kdsearch.ops.threads import cpu_threads
from kdsearch.search.scoring import by_formula
from kdsearch.store.hashing import derive, stream
from kdsearch.store.scratch import Scratch
from kdsearch.study.names import LIVE
from kdsearch.study.recipe import DistillerSpace, RecipeSpace
from kdsearch.training.adapted import grows
from kdsearch.training.blame import PASSES, BlamedError, blaming, check_asked, check_weighted, said_of
from kdsearch.training.built import structure
from kdsearch.training.few_samples import NOBODY, FewSamples
from kdsearch.training.grown import check_counted, check_recovered, check_said, said, structures
from kdsearch.training.materials import Materials, placing
from kdsearch.training.opened import live_teacher
from kdsearch.training.recipe_data import check_first_keys
from kdsearch.training.request import Kind, Request, recipe_of
from kdsearch.training.teachers import asked, assembled, check_kept
from kdsearch.training.text_teachers import has_network
from kdsearch.training.tools import Address, Tools, address_of, limits_of
from kdsearch.training.train import compressor_of, distillers_of, placing_step, staged

SAMPLES = 8  # of each split; where they do not do, a whole batch of the recipe's
STUDENTS = 32  # architectures that are drawn
POINTS = 8  # of what else is searched: every choice of an option occurs in one of them
BUILT = 64  # pairs of these whose distillers are built
STEPPED = 4  # failed steps after which no other pair is tried
STEPPED_OPTIONAL = 16  # the same of an optional distiller, which the search would leave out where it cannot be
LOOK_S = 0.5


def check_recipe(materials: Materials) -> None:
    """Raise UserError, with the study's line, for what every training of the recipe would fail of.

    What a step alone cannot judge passes: a loss that is not finite by no sample's fault, a program that is ended,
    a teacher that would have to write.
    """
    _check_data(materials)
    check_first_keys(materials)
    with cpu_threads(materials.study.config.run.threads_per_trial), generators_restored():
        teachers = {
            name: live_teacher(materials, name) for name in materials.study.teachers if has_network(materials, name)
        }
        for name in teachers:
            _check_teacher(materials, name)
        for live in teachers.values():
            live.model.module.requires_grad_(False).eval()
        taken = _check_candidates(materials, teachers, _points(materials.recipe))
        for each in materials.recipe.distillers:
            if each.use.optional and not taken.get(each.used):
                _check_candidates(materials, teachers, _points(materials.recipe, each), STEPPED_OPTIONAL)


def _check_data(materials: Materials) -> None:
    """Raise UserError where the data set's samples are not what it says of them."""
    use = materials.study.config.data.use
    with placing(materials.study, "data"), materials.host.naming("dataset", use) if use != LIVE else nullcontext():
        check_fits(materials.given.source)


def _check_candidates(
    materials: Materials, teachers: Mapping[str, Live], points: Sequence[Mapping[str, Any]], most: int = STEPPED
) -> Mapping[str, Any]:
    """Raise UserError where every candidate with a recipe of these has a fault; else the recipe of the first that has none."""
    first: _Fault | None = None
    stepped = 0
    for specs, values in islice(_candidates(materials, points), BUILT):
        fault = _fault_of(materials, teachers, specs, values, SAMPLES)
        if fault is None:
            return values
        first = first or fault
        stepped += fault.stepped
        if stepped >= most or isinstance(fault.error, DataError):  # data are the same for all candidates
            break
    if first is None:
        return {}
    if first.stepped and _does_with_a_batch(materials, teachers, first):
        return first.values
    raise _placed(materials, first.error) from first.error.__cause__


def _check_teacher(materials: Materials, name: str) -> None:
    """Raise UserError for what a teacher's own training would fail of, where a procedure of its own trains it."""
    path, training = materials.study.path_of_teacher(name), asked(materials, name)
    if not training.procedure or not training.epochs:
        return
    scratch = Scratch.make("dry")
    try:
        live = live_teacher(materials, name)
        before = structure(live.model.module)
        procedure, setup = assembled(materials, name, live, scratch.path, lambda data: FewSamples(data, SAMPLES))
        setup = replace(setup, batch_size=SAMPLES)
        device = replace(materials.device, workers=0, accumulate=1)
        Training(procedure, setup, scratch.path, "dry", device, most_epochs=1).run()
        check_kept(name, training.procedure, live.model.module, setup, before)
    except PASSES:
        return
    except UserError as error:
        raise _placed(materials, error.at(path=f"{path}.options")) from error.__cause__
    except Exception as error:
        problem = f"one step of procedure '{training.procedure}', which trains teacher '{name}', fails: {told(error)}"
        raise _placed(materials, PluginError(problem, path=f"{path}.options")) from error
    finally:
        scratch.close()


def _placed(materials: Materials, error: KdsearchError) -> KdsearchError:
    """With the study's line, where it is about no other file."""
    return materials.study.place(error) if error.file is None else error


def check_where_trials_run(materials: Materials, tools: Tools) -> None:
    """`check_recipe` where the study's executor runs trials, within a trial's limits: what hangs or kills its process there
    passes, as it is for the trials to say.

    Raises:
        UserError: see `check_recipe`.
    """
    executor = tools.executor(materials)
    if not executor.remote:
        check_recipe(materials)
        return
    from kdsearch.kinds import Job

    limits, address = limits_of(materials), address_of(materials, tools)
    job = Job(
        "dry",
        "kdsearch.training.dry:dry_job",
        {"address": address},
        materials.study.config.run.threads_per_trial,
        limits.timeout_s,
        limits.memory_bytes,
        opens=True,
        folder=address["dir"],
    )
    with placing(materials.study, "run.executor"):
        executor.submit(job)
    while True:
        tools.heed_stop()
        with placing(materials.study, "run.executor"):
            found = ended(executor, LOOK_S)
        for done in found:
            if done.id == job.id:
                if not done.error and done.value:
                    from kdsearch.training.attempt import from_json

                    raise _placed(materials, from_json(done.value))
                return


def dry_job(address: Mapping[str, Any]) -> dict[str, Any]:
    """`check_recipe` in a process of the executor: the error's facts, or nothing."""
    from kdsearch.kinds import work_begins
    from kdsearch.training.job import opened

    at = Address(**address)
    materials = opened(at).seen(at)
    work_begins()
    try:
        check_recipe(materials)
    except UserError as error:
        facts = error.facts()
        is_of_study = facts["file"] == str(materials.study.file)  # the folder's copy: the caller knows the user's own
        return {**facts, "file": None, "line": None} if is_of_study else facts
    return {}


@dataclass(frozen=True)
class _Fault:
    """stepped: a step was begun. specs, values: of the candidate."""

    error: KdsearchError
    stepped: bool
    specs: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]


def _candidates(
    materials: Materials, points: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Pairs of architectures and points of the recipe, the small and the usual ones first."""
    drawn = list(_architectures(materials))
    order = sorted((i + j, i, j) for i in range(len(drawn)) for j in range(len(points)))
    yield from ((drawn[i], points[j]) for _, i, j in order)


def _points(recipe: RecipeSpace, one: DistillerSpace | None = None) -> list[dict[str, Any]]:
    """The default, and some that differ from it in options and choices. one: each with this optional distiller and no other."""
    first = recipe.with_one(one) if one else recipe.default()
    given = {each.used for each in recipe.distillers} if one else set()
    options = [dim for dim in recipe.dims if dim.range.choices or ".options." in dim.path]
    options = [dim for dim in options if dim.path not in given]
    width = max([len(dim.range.ends) for dim in options], default=0)
    found = [first]
    found += [{**first, **{dim.path: dim.range.ends[i % len(dim.range.ends)] for dim in options}} for i in range(width)]
    active = [{dim.path: point[dim.path] for dim in recipe.dims if is_active(dim, point)} for point in found]
    return [point for i, point in enumerate(active) if point not in active[:i]][:POINTS]


def _architectures(materials: Materials) -> Iterator[dict[str, Any]]:
    """Role -> spec, of networks that can be built; the first is the smallest of some, where a formula tells."""
    by_role: dict[str, list[Any]] = {}
    for role, space in materials.spaces.items():
        rng = stream(materials.seed, "dry", role)
        found: dict[str, Any] = {}
        for _ in range(2 * STUDENTS):
            spec = space.canonical(space.sample(rng))
            found.setdefault(spec.model_dump_json(), spec)
        specs = list(found.values())[:STUDENTS]
        costs = [cost.params if (cost := by_formula(space, spec, materials.io)) else None for spec in specs[:SAMPLES]]
        if None not in costs:
            least = min(range(len(costs)), key=lambda i: costs[i])  # type: ignore[arg-type,return-value]
            specs.insert(0, specs.pop(least))
        by_role[role] = [spec.model_dump(mode="json") for spec in specs]
    for i in range(max(map(len, by_role.values()), default=0)):
        yield {role: specs[i % len(specs)] for role, specs in by_role.items()}


def _does_with_a_batch(materials: Materials, teachers: Mapping[str, Live], fault: _Fault) -> bool:
    """Whether the fault was that of few samples: with a whole batch and one of each class there is none."""
    size = max(materials.recipe.at(fault.values).train.batch_size, SAMPLES)
    return _fault_of(materials, teachers, fault.specs, fault.values, size, every_class=True) is None


def _fault_of(
    materials: Materials,
    teachers: Mapping[str, Live],
    specs: Mapping[str, Mapping[str, Any]],
    values: Mapping[str, Any],
    n: int,
    every_class: bool = False,
) -> _Fault | None:
    """What one candidate's training fails of on n samples; None where it does not, or where that cannot be said."""
    stepped = False
    scratch = Scratch.make("dry")
    try:
        _check_students(materials, specs)
        trial = _Trial(materials, teachers, specs, values, n, scratch.path, every_class)
        training = trial.assembled("recipe")
        stepped = True
        trial.check(training)
    except PASSES:
        return None
    except BlamedError as fault:
        return _Fault(said_of(materials, fault.each, fault.error), stepped, specs, values)
    except UserError as error:
        if error.file is None:
            error.at(path="recipe.procedure.use")
        return _Fault(error, stepped, specs, values)
    except Exception as error:
        found = PluginError(f"one step of the recipe fails: {told(error)}", path="recipe")
        found.__cause__ = error
        return _Fault(found, stepped, specs, values)
    finally:
        scratch.close()
    return None


def _check_students(materials: Materials, specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise PluginError for a network that ships and answers otherwise than its task: a loss would be blamed for it."""
    for role in materials.ships:
        model = materials.build_student(role, specs[role], derive(materials.seed, "dry"), plain=True)
        try:
            check_answers(model, materials.task, materials.io)
        except UserError as error:
            raise error.at(path=f"{materials.study.path_of_student(role)}.space") from error.__cause__
        except RuntimeError:  # it needs more than such samples: its training says so
            continue


@dataclass(frozen=True)
class _Trial:
    """A candidate's training on n samples of each split (and one of each class), in a folder of its own."""

    materials: Materials
    teachers: Mapping[str, Live]
    specs: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    n: int
    folder: Path
    every_class: bool = False
    terms: dict[str, set[str]] = field(default_factory=dict)  # that each distiller gave

    @property
    def changes(self) -> dict[str, Any]:
        """What of the setup is not the study's."""
        few = FewSamples(self.materials.data, self.n, self.every_class)
        whole = max(self.n, len(few.split("train").ids))
        return {"writers": NOBODY, "embedders": NOBODY, "data": few, "batch_size": whole, "shared": None}

    def request(self, kind: Kind) -> Request:
        return Request("dry", kind, self.specs, self.values, self.materials.study.config.refine.epochs)

    def assembled(self, kind: Kind) -> Training:
        """Its models as they begin, and distillers that are blamed for what they raise."""
        request, folder, seed = self.request(kind), self.folder / kind, derive(self.materials.seed, "dry")
        folder.mkdir()
        procedure, setup = staged(self.materials, request, self.teachers, folder, seed, self.changes)
        setup.distillers = distillers_of(self.materials, request, setup, seed)
        for each in recipe_of(self.materials, request).distillers:
            self.terms[each.name] = blaming(each, setup.distillers[each.name])
        device = replace(self.materials.device, workers=0, accumulate=1)
        return Training(procedure, setup, folder, "dry", device, most_epochs=1, recovers=kind == "recover")

    def check(self, training: Training) -> None:
        """Train it, and raise UserError where what it ends with is not what the study counts, prunes or asks of it."""
        materials, procedure, setup = self.materials, training.procedure, training.setup
        name, before = materials.recipe.procedure, structures(setup)
        phases = _noted(procedure)
        try:
            training.run()
        except BlamedError as fault:
            if isinstance(fault.error, UnaskedTapError):  # it may have asked another role for it
                check_asked(materials, setup, before)
            raise
        check_weighted(materials, self.terms)
        check_asked(materials, setup, before)
        after = structures(setup)
        _check_steps(materials, setup, procedure)
        for phase in phases:
            with suppress(DataError):  # a metric that has nothing to judge among so few
                groups_of(
                    replace(training.conduct, objective=materials.objective),
                    phase,
                    {phase.name: phase.classes or ()},
                    [],
                )
        if not grows(type(procedure)):
            check_counted(materials, procedure, after, before)
        else:
            wanted = said(materials, self.request("recipe"), self.teachers, self.folder, self.changes)
            check_said(procedure, name, after, wanted)
            if materials.study.config.compress.chain:
                recovery = self.assembled("recover")
                recovery.run()
                check_recovered(procedure, name, structures(recovery.setup), after)
        _check_agreement(materials, setup, procedure)
        _check_metrics(materials, setup, procedure)


def _check_steps(materials: Materials, setup: LiveSetup, procedure: Procedure[Any]) -> None:
    """Raise UserError for a step of compression whose options name what no network that ships has."""
    for nth, (path, step) in enumerate(materials.study.config.compress.chain):
        compressor = compressor_of(materials, nth)
        for role in procedure.shipped():
            model = setup.models[role].copy()
            model.module.cpu()
            with placing_step(materials, path), materials.host.naming(step.kind, step.use.use):
                compressor.preflight(model, materials.io)


def _check_metrics(materials: Materials, setup: LiveSetup, procedure: Procedure[Any]) -> None:
    """Raise PluginError for a metric that gives no numbers by name, its own among them."""
    role = procedure.shipped()[0]
    for name, metric in materials.reported.items():
        try:
            values = metric.measure(lambda batch: setup.predict(role, batch), setup.data, "val", setup)
        except Exception:  # so few samples of an untrained network: whether it can judge is for the run to say
            continue
        with materials.judging(name):
            check_values(name, metric, values)


def _noted(procedure: Procedure[Any]) -> list[Phase]:
    """The phases that it yields from now on."""
    found: list[Phase] = []
    own = procedure.phases

    def phases(setup: Setup) -> Iterator[Phase]:
        for phase in own(setup):
            found.append(phase)
            yield phase

    procedure.phases = phases  # type: ignore[method-assign]
    return found


def _check_agreement(materials: Materials, setup: LiveSetup, procedure: Procedure[Any]) -> None:
    """Raise StudyError for a bound on equal answers of networks that decide nothing: no file would be judged by it."""
    asked = materials.study.config.export.min_agreement
    if not asked:
        return
    own = procedure.product(setup)
    products = (
        [own] if own else [materials.task.product(setup.models[role], materials.io) for role in procedure.shipped()]
    )
    outputs = [each for product in products for graph in product.graphs.values() for each in graph.outputs]
    if not any(each.kind in CHOOSING for each in outputs):
        raise materials.study.error(
            f"the networks score no classes or labels: they answer {one_of(each.name for each in outputs)}",
            f"export.min_agreement.{next(iter(asked))}",
            expected="no min_agreement; `export.max_drop` bounds their quality",
        )
