"""What every stage works with: the study's data, task, spaces and recipe, opened once and never changed.

A stage is handed a view (`Materials.seen_by`), in which what it does not declare to read is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from kdsearch.deploy.files import external_files
from kdsearch.engine.conduct import Device, resolve_device
from kdsearch.engine.fits import check_source
from kdsearch.engine.live_data import LiveOptions, from_torch
from kdsearch.engine.live_targets import TASKS
from kdsearch.engine.setup import LiveSetup, Site
from kdsearch.engine.splits import Arranged, arrange, check_trainable
from kdsearch.errors import DataError, PluginError, TooLargeError, UserError, one_of
from kdsearch.host import Host
from kdsearch.kinds import IO, Capability, Controller, Metric, Model, Procedure, SearchSpace, Task
from kdsearch.kinds.options import validate
from kdsearch.kinds.units import member_of
from kdsearch.ops.seeding import seed_generators
from kdsearch.search.memory import check_weights
from kdsearch.store.hashing import derive, digest, file_digest
from kdsearch.study.check import student_space
from kdsearch.study.code import is_code, load_code
from kdsearch.study.names import LIVE, metric_uses, uses
from kdsearch.study.recipe import RecipeSpace
from kdsearch.study.rules import COSTS, bare
from kdsearch.study.schema import Use
from kdsearch.study.study import Study
from kdsearch.study.view import Closed, seen
from kdsearch.training.adapted import adapt, adapted, adapts, grow
from kdsearch.training.controls import check_controls
from kdsearch.training.normalized import normalized

# Attribute of Materials -> the entries of READS of which a stage declares one to read it (see stages/keys.py).
GUARDED: Mapping[str, tuple[str, ...]] = {
    "given": ("data",),
    "made": ("data",),
    "augments": ("data",),
    "task": ("task",),
    "io": ("task",),
    "spaces": ("students",),
    "plain_spaces": ("students",),
    "ships": ("students",),
    "recipe": ("recipe",),
    "taps": ("taps", "recipe"),
    "metrics": ("objectives",),
    "reported": ("metrics",),
    "objectives": ("objectives",),
    "objective": ("objective", "objectives"),
    "scoring": ("objective", "objectives"),
    "cost_objectives": ("cost_objectives", "objectives"),
    "device": ("run.device",),
}

OF_LIVE = (
    f"Live samples teach by {one_of(TASKS)} (docs/studies.md, data); what else a task reads is given by a data set of your own "
    "(docs/plugins.md)."
)


@dataclass(frozen=True)
class Named:
    """A capability that the study names or that stands for what it leaves out: `path` is the key path that says so."""

    kind: str
    name: str
    path: str


@dataclass(frozen=True)
class Materials:
    """Opened by `open_materials`.

    Args:
        given: the data set's splits. made: those with what data recipes made of `train`, once they have (`stages.recipes`).
        augments: the data set changes training samples, so teacher rows cannot be cached.
        spaces: role -> its search space, its networks as the procedure ships them. plain_spaces: as they are without it.
        ships: the roles that are costed and exported.
        taps: teacher -> its taps that any candidate's recipe may read, as the options write them.
        metrics: the task's and those among the objectives, by name. reported: those and the others that the study names.
            places: key path of each that the study names.
        objectives: as the study states them, the first one first; left out: the task's own.
        objective: the first objective that is a metric: what validation scores are. `scoring`: that metric alone.
        cost_objectives: those that are no metric.
        named: every capability that may take part, live objects excepted.
        stage: whose view this is, "" = everything is open. reads: what it declares to read.
        prepared: key of that stage's artifact, once it is there.
        folder: the study's, where what text teachers answer is kept; None = it is not kept.
    """

    study: Study
    host: Host
    given: Arranged
    task: Task[Any]
    io: IO
    spaces: Mapping[str, SearchSpace[Any]]
    plain_spaces: Mapping[str, SearchSpace[Any]]
    recipe: RecipeSpace
    ships: tuple[str, ...]
    taps: Mapping[str, list[str]]
    metrics: Mapping[str, Metric[Any]]
    objectives: Mapping[str, str]
    objective: str
    scoring: Mapping[str, Metric[Any]]
    cost_objectives: tuple[str, ...]
    augments: bool
    named: tuple[Named, ...] = ()
    device: Device = field(default_factory=Device)
    folder: Path | None = None
    reported: Mapping[str, Metric[Any]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    made: Arranged | None = None
    prepared: str = ""
    stage: str = ""
    reads: tuple[str, ...] = ()

    @property
    def data(self) -> Arranged:
        """What students train on."""
        return self.given if self.made is None else self.made

    def seen_by(self, stage: str, reads: Collection[str]) -> Materials:
        """These as a stage sees them that declares `reads`: what is made of another section raises UndeclaredReadError."""
        closed: dict[str, Any] = {
            name: Closed(stage, sections[0]) for name, sections in GUARDED.items() if not {*sections} & {*reads}
        }
        return replace(self, study=seen(self.study, stage, reads), stage=stage, reads=tuple(reads), **closed)

    @property
    def seed(self) -> int:
        return self.study.config.seed

    @property
    def teacher_io(self) -> IO:
        """What a teacher may read and answers: also the fields of the data that students do not read."""
        own = {each.name for each in self.io.inputs}
        targets = {each.name for each in self.task.targets(self.given.fields)}
        others = (each for each in self.given.fields if each.name not in own | targets and each.use != "target")
        return replace(self.io, inputs=(*self.io.inputs, *others))

    @property
    def beside(self) -> tuple[str, ...]:
        """The other metrics among the objectives."""
        return tuple(name for name in self.objectives if name in self.metrics and name != self.objective)

    @property
    def torch_device(self) -> torch.device:
        return self.device.torch

    @cached_property
    def site(self) -> Site:
        return Site(
            seed=self.seed,
            base=self.study.folder,
            code_of=lambda target: load_code(target, self.study.allow_code, self.study.folder),
            build_of=self.build_member,
        )

    def build_member(self, space: str, spec: Mapping[str, Any]) -> Model:
        """A fresh member of any registered space, for teachers; weights are a function of the study's seed."""
        cls = self.host.load_class("search_space", space)
        made: SearchSpace[Any] = cls()
        try:
            return seeded_build(made, made.parse(dict(spec)), self.io, derive(self.seed, "member", space))
        except TooLargeError as error:
            raise UserError(error.problem, expected="a smaller network") from None

    def build_student(self, role: str, spec: Mapping[str, Any], seed: int, plain: bool = False) -> Model:
        """A student of a role as it ships, freshly initialised by `seed`; `plain`: before the procedure has adapted it.

        Raises:
            UserError: of a plain one, with the study's line of its space: what else was wrong would be the procedure's.
        """
        if not plain:
            return self._student(self.spaces[role], spec, seed)
        with placing(self.study, f"{self.study.path_of_student(role)}.space"):
            return self._student(self.plain_spaces[role], spec, seed)

    def _student(self, space: SearchSpace[Any], spec: Mapping[str, Any], seed: int) -> Model:
        return seeded_build(space, space.parse(dict(spec)), self.io, seed)

    def make(self, kind: str, use: Use, path: str) -> Any:
        """A capability with its validated options."""
        return make(self.host, kind, use, path)

    def controller(self, use: Use, path: str, n_objectives: int) -> Controller[Any]:
        """A controller that can be asked here, for so many objectives. Raise UserError with the key and line of what forbids it."""
        found: Controller[Any] = self.make("controller", use, path)
        with self.asking(found, path), self.host.naming("controller", use.use):
            found.preflight(n_objectives)
        return found

    @contextmanager
    def judging(self, metric: str) -> Iterator[None]:
        """What is wrong with a metric itself, and not with the data, is said where the study names it."""
        try:
            yield
        except PluginError as error:
            path = self.places.get(metric, "objectives")
            raise (self.study.place(error.at(path=path)) if error.file is None else error) from error.__cause__

    @contextmanager
    def asking(self, capability: Capability, path: str) -> Iterator[None]:
        """What it raises of its options, by their names, gets their key in the study, and the line; so does what names no key."""
        try:
            yield
        except UserError as error:
            if error.path.partition("[")[0] in capability.options_class.model_fields:
                error.path = f"{path}.options.{error.path}"
            raise self.study.place(error.at(path=path)) from error.__cause__

    def data_key(self) -> str:
        """The data set's identity: ids, visible labels, facts (which hold what normalisation saw)."""
        return digest({"digest": self.given.digest(), "facts": _jsonable(dict(self.given.facts))})

    def files_key(self, value: Any) -> dict[str, str]:
        """Content hashes of files that options name, so that a changed file is a changed study; of an ONNX file's weights, too."""
        found: dict[str, str] = {}
        for text in _strings(value):
            path = text.rpartition(":")[0] if is_code(text) and ":" in text else text  # `file.py:Name`
            try:
                asked = Path(path).expanduser()
            except RuntimeError:  # `~nobody`
                continue
            file = asked if asked.is_absolute() else self.study.folder / asked
            if _is_file(file):
                found[text] = _digest_of(file)
                for each in external_files(file) if file.suffix == ".onnx" else ():
                    if each.is_file():
                        found[f"{text} {each.relative_to(file.parent).as_posix()}"] = _digest_of(each)
        return found


def _is_file(file: Path) -> bool:
    """Any text may be asked for: a prompt is too long for a name."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def _digest_of(file: Path) -> str:
    return _digest_at(file, file.stat().st_size, file.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_at(file: Path, size: int, changed_ns: int) -> str:
    return file_digest(file)


def make(host: Host, kind: str, use: Use, path: str) -> Any:
    """A capability with its validated options. Raise UserError for these, PluginError where its own constructor raises."""
    cls: type[Capability] = host.load_class(kind, use.use)
    options = validate(cls.options_class, use.options, f"{path}.options")
    try:
        with host.naming(kind, use.use):
            return cls(options)  # type: ignore[call-arg]
    except UserError as error:
        raise error.at(path=path) from error.__cause__


def seeded_build(space: SearchSpace[Any], spec: Any, io: IO, seed: int) -> Model:
    """Build under a seed of its own; the caller's random stream goes on as if it had not.

    Raises:
        TooLargeError: the weights would not fit into memory.
    """
    check_weights(space, spec, io)
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        model = member_of(space, spec, io)
    return replace(model, spec=space.read(spec))


@contextmanager
def placing(study: Study, path: str) -> Iterator[None]:
    """Errors of what a study names, and that name no file of their own, say where it names it: key path, file and line."""
    try:
        yield
    except UserError as error:
        if error.file is None:
            study.place(error.at(path=path))
        raise


def open_materials(study: Study, host: Host, folder: Path | None = None) -> Materials:
    """Open data, task and spaces. Raises UserError for whatever of them does not fit, before any work.

    folder: the study's own, which need not be there yet.
    """
    config = study.config
    host = study.host(host)
    site = Site(config.seed, study.folder, code_of=lambda target: load_code(target, study.allow_code, study.folder))
    live = study.live_object("data")
    source: Any
    with placing(study, "data.options"):
        if live is not None:
            classes = validate(LiveOptions, config.data.options).classes
            source = from_torch(live, classes=classes, task=config.task.use if config.task else None)
            declared, augments = source.task, source.augments
        else:
            dataset = make(host, "dataset", config.data, "data")
            with host.naming("dataset", config.data.use):
                source, declared, augments = dataset.open(site), dataset.task, dataset.augments
            check_source(source)
    with placing(study, "data.normalize"):
        source = normalized(source, study)
    named = config.task or Use(use=declared, options={})
    with placing(study, "task"):
        task: Task[Any] = make(host, "task", named, "task")
    with placing(study, "data"):
        try:
            with host.naming("task", named.use):  # what it cannot read is said before its strata are asked for
                fed = task.io(source.fields, source.facts)
            if not isinstance(fed, IO):
                problem = f"`io` of task '{named.use}' gives a {type(fed).__name__}"
                raise PluginError(problem, expected="a kdsearch.kinds.IO")
        except DataError as error:
            error.fix = error.fix or (OF_LIVE if live is not None else "")
            raise
        data = arrange(
            source,
            labeled=config.data.labeled,
            validation=config.data.validation,
            test=config.data.test,
            train_samples=config.data.train_samples,
            seed=config.seed,
            task=task,
        )
        check_trainable(data)
        io = task.io(data.fields, data.facts)
    check_controls(study, data)
    with placing(study, "student"):
        spaces = {role: student_space(study, host, role).narrowed(io) for role in study.students}
    stated: dict[str, str] = {bare(name): way for name, way in config.objectives.items()}
    wanted = dict.fromkeys([task.objective, *task.metrics, *(name for name in stated if name not in COSTS)])
    asked = metric_uses(study)
    with placing(study, "objectives"):
        reported = {
            name: make(host, "metric", *asked.get(name, (Use(use=name, options={}), "objectives")))
            for name in (*wanted, *(name for name in asked if name not in wanted))
        }
    metrics = {name: reported[name] for name in wanted}
    objectives = stated or {task.objective: metrics[task.objective].direction}
    objective = next((name for name in objectives if name in metrics), task.objective)
    recipe = RecipeSpace.from_study(study, host)
    device = Device(
        resolve_device(config.run.device, config.run.devices),
        config.run.precision,
        config.recipe.train.accumulate,
        config.data.workers,
    )
    materials = Materials(
        study,
        host,
        data,
        task,
        io,
        spaces,
        spaces,
        recipe,
        _shipped_of(recipe),
        {name: recipe.teacher_taps(name, nth == 0) for nth, name in enumerate(study.teachers)},
        metrics,
        objectives,
        objective,
        {objective: metrics[objective]},
        tuple(sorted(name for name in objectives if name in COSTS)),
        augments,
        (
            *_named(study, host),
            Named("task", named.use, "task"),
            *_metrics_named({name: asked[name][0].use if name in asked else name for name in metrics}, objective),
        ),
        device,
        folder,
        reported,
        {name: path for name, (_, path) in asked.items()},
    )
    return replace(materials, spaces=_adapted_spaces(materials))


def _shipped_of(recipe: RecipeSpace) -> tuple[str, ...]:
    """The roles that ship, at the default of whatever of the procedure is searched."""
    cls = recipe.procedure_cls
    if cls.shipped is Procedure.shipped:
        return cls.ships
    return cls(recipe.at(recipe.default()).procedure_options).shipped()


def _adapted_spaces(materials: Materials) -> dict[str, SearchSpace[Any]]:
    """The spaces by role, of networks as the study's procedure ships them, at the default of whatever of it is searched."""
    cls = materials.recipe.procedure_cls
    if not adapts(cls):
        return dict(materials.plain_spaces)
    recipe = materials.recipe.at(materials.recipe.default())

    def change(role: str) -> Callable[[Model], Model]:
        def changed(model: Model) -> Model:
            setup = LiveSetup(
                seed=materials.seed,
                base=materials.study.folder,
                code_of=materials.site.code_of,
                build_of=materials.build_member,
                task=materials.task,
                data=materials.data,
                io=materials.io,
                models={role: model},
                epochs=1,
                defaults={},
                batch_size=recipe.train.batch_size,
                augment=materials.augments,
                metrics=materials.metrics,
                device=materials.torch_device,
            )
            procedure = cls(recipe.procedure_options)
            return grow(procedure, role, adapt(procedure, role, model, setup), setup)

        return changed

    return {
        role: adapted(space, change(role)) if role in cls.roles else space
        for role, space in materials.plain_spaces.items()
    }


def _named(study: Study, host: Host) -> Iterator[Named]:
    """Every capability that the study names; not executor and loggers, which change no result."""
    for kind, use, path in uses(study):
        if use.use != LIVE and kind not in ("executor", "logger"):
            yield Named(kind, use.use, path)
        member = use.options.get("space")  # a teacher that is a member of a space
        if kind == "teacher" and isinstance(member, str) and not is_code(member):
            yield Named("search_space", member, path)
        if kind == "teacher" and use.use != LIVE and (own := make(host, kind, use, path).training) and own.procedure:
            yield Named("procedure", own.procedure, path)
    for role, student in study.students.items():
        if student.space != LIVE and not is_code(student.space):
            yield Named("search_space", student.space, study.path_of_student(role))


def _metrics_named(metrics: Mapping[str, str], objective: str) -> Iterator[Named]:
    """metrics: by the names of their values, as the study names them."""
    yield from (Named("metric", name, "objectives") for name in metrics.values())
    yield from (Named("metric", metrics[objective], name) for name in ("objective", "task"))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _strings(each)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _strings(each)]
    return []


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
