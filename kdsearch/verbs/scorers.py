"""Scoring outside a study: a search space, proxies and a probe by name, in this process or in several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdsearch.engine.setup import Site
from kdsearch.engine.splits import arrange
from kdsearch.errors import PluginError, StudyError, UserError, told
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Cost, Executor, Model, Proxy, SearchSpace, Task, work_begins
from kdsearch.search.backend import Remote, Score, in_process, known_costs
from kdsearch.search.candidates import Region, lost
from kdsearch.search.needs import check_needs
from kdsearch.search.scoring import Scorer, cost_of, inits_of, random_teacher
from kdsearch.stages.search import scorer_with, seed_of
from kdsearch.store.hashing import derive, digest, stream
from kdsearch.study.code import is_code, load_code
from kdsearch.study.names import COMPOSITES
from kdsearch.study.reading import load_study
from kdsearch.study.schema import Refine, Search, Use
from kdsearch.study.study import Study
from kdsearch.training.materials import Materials, make, open_materials, seeded_build

BATCH = 32  # samples of the probe
CHUNK = 16  # candidates a job


@dataclass(frozen=True)
class Setting:
    """All that a score depends on, as JSON values: another process makes the same scorer of it.

    Args:
        space: a registered search space, or file.py:Class.
        proxies: names. teacher: text of an architecture; None = the space's own.
        data: a data set whose training samples are the probe; None = N(0, 1) noise.
        seed: of the probe, the teacher and the initialisations; init_seeds: how many of these are averaged.
        study: a study file, which says all of that in their place. study_hash: of what it says.
        reference_seed: see `search.candidates.reference_specs`.
    """

    space: str
    proxies: tuple[str, ...]
    teacher: str | None = None
    data: str | None = None
    seed: int = 0
    init_seeds: int = 1
    allow_code: tuple[str, ...] = ()
    study: str | None = None
    study_hash: str = ""
    reference_seed: int = 0
    sign: int = 1  # -1: less is better of what the study is for

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Setting:
        """Of `asdict`, as JSON has it."""
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**found)


def terms_of(names: Sequence[str]) -> tuple[str, ...]:
    """The proxies to score: composites stand for their terms, each once."""
    return tuple(dict.fromkeys(term for name in names for term in COMPOSITES.get(name, (name,))))


def open_space(name: str, host: Host, allow_code: Sequence[str]) -> SearchSpace[Any]:
    """The search space with its declared ranges. Raise PluginError, StudyError or UnsafeCodeError."""
    if not is_code(name):
        try:
            found: SearchSpace[Any] = host.load_class("search_space", name)()
        except PluginError as error:
            raise error.at(path="--space") from error.__cause__
        return found
    cls = load_code(name, tuple(allow_code), Path(), "--space")
    if not (isinstance(cls, type) and issubclass(cls, SearchSpace)):
        raise StudyError(f"'{name}' is {cls!r}", path="--space", expected="a subclass of kinds.SearchSpace")
    return cls()


def setting_of(
    space: str | None,
    study: Path | None,
    proxies: tuple[str, ...],
    teacher: str | None,
    data: str | None,
    seed: int | None,
    init_seeds: int | None,
    allow_code: tuple[str, ...],
) -> Setting:
    """Of a space by name, or of a study's student, scored as that study scores it.

    Raises:
        StudyError: neither of them, both, what a study says itself, or a study of several students.
    """
    if study is None:
        if space is None:
            raise StudyError(
                "neither a space nor a study is named", path="--space", expected="one of --space and --study"
            )
        own = seed or 0
        return Setting(space, proxies, teacher, data, own, init_seeds or 1, allow_code, reference_seed=own)
    for option, value in (("--space", space), ("--teacher", teacher), ("--data", data), ("--init-seeds", init_seeds)):
        if value is not None:
            raise StudyError(f"{option} beside --study, which says it itself", path=option, expected="one of both")
    file = str(study.resolve())
    said = load_study(study, Host.load(), allow_code, seed=seed)
    materials = _materials(file, said.config.seed, allow_code, content_hash(said))
    if len(materials.spaces) > 1:
        raise StudyError(
            f"{len(materials.spaces)} students", file=study, path="students", expected="one, which is scored"
        )
    (role,) = materials.spaces
    metric = materials.metrics[materials.objective]
    return Setting(
        materials.study.students[role].space,
        proxies,
        seed=materials.seed,
        init_seeds=materials.study.config.search.probe.seeds,
        allow_code=allow_code,
        study=file,
        study_hash=content_hash(said),
        reference_seed=seed_of(materials, role),
        sign=-1 if metric.direction == "min" else 1,
    )


def content_hash(study: Study) -> str:
    """Of all that the study says."""
    return digest(study.config.model_dump(mode="json"))


@lru_cache(maxsize=1)
def _materials(file: str, seed: int, allow_code: tuple[str, ...], content: str) -> Materials:
    """Of a study, with its data open: once for all that is asked of it while it says the same (`content`)."""
    host = Host.load()
    return open_materials(load_study(Path(file), host, allow_code, seed=seed), host)


def sections_of(setting: Setting) -> tuple[Search, Refine]:
    """How the study searches; a study's defaults where there is none."""
    if setting.study is None:
        return Search(), Refine()
    config = _materials(setting.study, setting.seed, setting.allow_code, setting.study_hash).study.config
    return config.search, config.refine


def space_of(setting: Setting) -> SearchSpace[Any]:
    """The networks that may stand in a table."""
    if setting.study is None:
        return open_space(setting.space, Host.load(), setting.allow_code)
    (space,) = _materials(setting.study, setting.seed, setting.allow_code, setting.study_hash).spaces.values()
    return space


def open_scorer(setting: Setting) -> Scorer:
    """Everything that `setting` names, checked before any work."""
    host = Host.load()
    if setting.study is not None:
        materials = _materials(setting.study, setting.seed, setting.allow_code, setting.study_hash)
        (role,) = materials.spaces
        return scorer_with(materials, role, _proxies(host, setting.proxies))
    space = open_space(setting.space, host, setting.allow_code)
    proxies = _proxies(host, setting.proxies)
    task, io, batch = _input(host, space, setting)
    check_needs(proxies, io, host)
    space = space.narrowed(io)
    spec = None if setting.teacher is None else spec_of(space, setting.teacher, "--teacher", None)
    return scorer_on(space, io, task, proxies, batch, spec, setting.seed, setting.init_seeds)


def _proxies(host: Host, names: Sequence[str]) -> dict[str, Proxy[Any]]:
    for name in names:
        try:
            host.find("proxy", name, tuple(COMPOSITES))
        except PluginError as error:
            raise error.at(path="--proxies") from None
    return {name: make(host, "proxy", Use(use=name, options={}), f"--proxies {name}") for name in names}


def scorer_on(
    space: SearchSpace[Any],
    io: IO,
    task: Any,
    proxies: Mapping[str, Any],
    batch: Batch | None,
    teacher: Any,
    seed: int,
    init_seeds: int = 1,
) -> Scorer:
    """A Scorer with the random teacher that its proxies need: this one, of this spec, or the space's own where it is None."""
    model = teacher if isinstance(teacher, Model) else None
    if model is None and any(proxy.needs_teacher for proxy in proxies.values()):
        own = teacher is None
        model = random_teacher(space, io, seed) if own else seeded_build(space, teacher, io, derive(seed, "teacher"))
    seeds = inits_of(seed, init_seeds)
    return Scorer(
        space, io, task, proxies, batch=batch, teacher=model, probe_seed=seed, init_seeds=seeds, batch_size=BATCH
    )


def spec_of(space: SearchSpace[Any], text: str, file: str, line: int | None) -> Any:
    """An architecture from its text; a StudyError says where it stands."""
    try:
        return space.decode(text.strip())
    except StudyError as error:
        raise error.at(file=file, line=line) from None


def cost_or_error(scorer: Scorer, spec: Any) -> Cost:
    """Of an architecture that is asked for by name: a PluginError where the space's own code fails."""
    space = scorer.space
    try:
        return cost_of(space, spec, scorer.io, scorer.task)
    except UserError:
        raise
    except Exception as error:
        raise PluginError(f"search space '{type(space).__name__}' fails at {space.key(spec)}: {told(error)}") from error


def _input(host: Host, space: SearchSpace[Any], setting: Setting) -> tuple[Task[Any], IO, Batch | None]:
    """The task, the networks' inputs and outputs, and the probe's batch: None = noise, else training samples of a data set.

    A data set is read for the space's own task; for its own, where the space is one of any vector (`classification`).
    """

    def task(name: str) -> Task[Any]:
        made: Task[Any] = make(host, "task", Use(use=name, options={}), "task")
        return made

    if setting.data is None:
        return task(space.task), space.example_io(), None
    import torch

    try:
        host.find("dataset", setting.data)
    except PluginError as error:
        raise error.at(path="--data") from None
    dataset = make(host, "dataset", Use(use=setting.data, options={}), "--data")
    source = dataset.open(Site(setting.seed, Path()))
    its = task(space.task if space.task != SearchSpace.task else dataset.task)
    arranged = arrange(source, labeled=1.0, validation=0.15, test=0.2, train_samples=None, seed=setting.seed, task=its)
    split = arranged.split("train")
    chosen = torch.randperm(len(split.ids), generator=stream(setting.seed, "probe"))[:BATCH]
    return its, its.io(source.fields, source.facts), split.load(chosen.tolist())


@contextmanager
def scoring(setting: Setting, scorer: Scorer, workers: int) -> Iterator[Score]:
    """Score here with one worker, else in so many local processes of one thread each. Both give equal rows."""
    if workers == 1:
        from kdsearch.ops.threads import cpu_threads

        with cpu_threads(1):
            yield in_process(scorer, CHUNK)
        return
    region = Region(scorer.space, scorer.io, scorer.task, {})
    arguments = {"setting": asdict(setting)}
    with processes(workers) as executor:
        yield Remote(
            executor, f"{__name__}:score_job", arguments, lost(region, setting.proxies), chunk=CHUNK, threads=1
        )


@contextmanager
def processes(workers: int) -> Iterator[Executor[Any]]:
    """An executor of so many local processes."""
    executor: Executor[Any] = make(Host.load(), "executor", Use(use="processes", options={}), "--workers")
    executor.slots = workers
    try:
        yield executor
    finally:
        executor.close()


def score_job(
    setting: Mapping[str, Any], specs: Sequence[Mapping[str, Any]], costs: Sequence[Sequence[int]] = ()
) -> list[dict[str, Any]]:
    """Rows of a chunk of candidates; a process that gets several chunks makes the scorer once."""
    scorer = _scorer(Setting.of(setting))
    scorer.check()
    work_begins()
    return [row.row() for row in scorer.score_all(specs, known_costs(costs))]


@lru_cache(maxsize=1)
def _scorer(setting: Setting) -> Scorer:
    return open_scorer(setting)
