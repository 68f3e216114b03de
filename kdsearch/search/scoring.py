"""Scores of candidates without training: pure functions of (canonical spec, probe seed, init seed)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Generator

from kdsearch.errors import FOREIGN, KdsearchError, PluginError, TooLargeError, TrialError, UserError, exited, told
from kdsearch.kinds import IO, Batch, Cost, Model, Options, Proxy, SearchSpace, Task
from kdsearch.kinds.distiller import check_roles
from kdsearch.kinds.proxy import Taps, taps_of
from kdsearch.kinds.units import member_of
from kdsearch.ops.cost import multiply_accumulates, parameters
from kdsearch.ops.init import gaussian_init
from kdsearch.ops.layout import channels_last
from kdsearch.ops.seeding import seed_generators
from kdsearch.search.memory import check_pass, check_weights
from kdsearch.search.probe import LiveProbe
from kdsearch.search.trace import Trace
from kdsearch.store.hashing import derive, stream

FIT_SAMPLE = 16  # models that a proxy's `fit` sees
ROLES = ("student", "teacher")  # whose taps a proxy may ask for
TRIED = 8  # candidates that a proxy is tried on which scores nothing


def inits_of(seed: int, n: int) -> tuple[int, ...]:
    """Of the initialisations that a score is the mean of: no two seeds share one."""
    return tuple(derive(seed, "init", i) % 2**31 for i in range(n))


@dataclass(frozen=True)
class Scored:
    """One candidate's row.

    Args:
        key: canonical form; spec: the canonical spec as JSON values.
        scores: proxy -> mean over init seeds, higher is better; None where it is not a finite number: the worst rank.
        spread: proxy -> standard deviation over init seeds; 0 with one seed, None beside a score of None.
        errors: proxy (or "build") -> why there is no score.
        over: the limit that ended its job, where one did: its key below `run`, and its value then.
    """

    key: str
    spec: Mapping[str, Any]
    params: int
    macs: int
    scores: Mapping[str, float | None]
    spread: Mapping[str, float | None]
    errors: Mapping[str, str] = field(default_factory=dict)
    over: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As JSON values: the inverse of `Scored(**row)`."""
        return asdict(self)


class Scorer:
    """Scores candidates of one space with several proxies on one probe; memory does not grow with candidates.

    Args:
        proxies: name -> proxy. Each gets its own fresh-as-built student: what one changes, the next never sees.
        batch: what the proxies see; None where no proxy needs data: then noise.
        teacher: randomly initialised (see `random_teacher`), needed where a proxy says `needs_teacher`. Proxies that ask for
            gaussian initialisation see a gaussian copy of it. teacher_note: what `notes` should say of it.
            teacher_fed: what it is fed of the batch, where that is not the batch.
        init_seeds: initialisations to average over.
        ranks: whether candidates are ranked by it. Where there is one network alone, what a proxy cannot score is no fault of the
            study's, but an error in the row like any other.

    Raises:
        ValueError: a proxy needs a teacher and there is none.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        io: IO,
        task: Task[Any],
        proxies: Mapping[str, Proxy[Any]],
        *,
        batch: Batch | None = None,
        teacher: Model | None = None,
        teacher_note: str = "",
        teacher_fed: Callable[[Batch], Batch] | None = None,
        probe_seed: int = 0,
        init_seeds: Sequence[int] = (0,),
        batch_size: int = 32,
        ranks: bool = True,
    ) -> None:
        lonely = [name for name, proxy in proxies.items() if proxy.needs_teacher and teacher is None]
        if lonely:
            raise ValueError(f"proxy '{lonely[0]}' needs a teacher")
        self.space, self.io, self.task, self.proxies = space, io, task, dict(proxies)
        self.probe_seed, self.init_seeds = probe_seed, tuple(init_seeds)
        self.is_noise, self.ranks = batch is None, ranks
        self._batch = batch if batch is not None else task.dummy(io, batch_size, stream(probe_seed, "batch"))
        self._teacher, self._teacher_note, self._teacher_fed = teacher, teacher_note, teacher_fed
        self._probes: dict[str, LiveProbe] = {}
        self._is_fitted = False
        self._first: Scored | None = None  # what `check` drew

    @property
    def notes(self) -> dict[str, str]:
        """Proxy -> what it says about its meaning on these candidates; "teacher" -> what there is to say of the teacher."""
        self.check()
        own = {"teacher": self._teacher_note} if self._teacher_note else {}
        return own | {name: proxy.note for name, proxy in self.proxies.items() if proxy.note}

    def score(self, spec: Options | Mapping[str, Any], cost: Cost | None = None) -> Scored:
        """Score one candidate. What raises becomes an error in the row. `cost`: where it is known already.

        Raises:
            UserError: see `check`.
        """
        self.check()
        parsed = spec if isinstance(spec, Options) else self.space.parse(dict(spec))
        return self._scored(self.space.canonical(parsed), cost)

    def _scored(self, canonical: Options, cost: Cost | None = None, raises: bool = False) -> Scored:
        key, shown = self.space.key(canonical), canonical.model_dump(mode="json")
        try:
            cost = cost or cost_of(self.space, canonical, self.io, self.task)
        except FOREIGN as error:
            if raises:
                self._is_the_spaces(error)
            none = dict.fromkeys(self.proxies)
            return Scored(key, shown, 0, 0, none, none, {"build": told(error)})
        values: dict[str, list[float]] = {name: [] for name in self.proxies}
        errors: dict[str, str] = {}
        for init_seed in self.init_seeds:
            for init in sorted({proxy.init for proxy in self.proxies.values()}):
                self._score_with(canonical, key, cost, init_seed, init, values, errors, raises)
        means = {name: _mean(each, len(self.init_seeds)) for name, each in values.items()}
        for name, mean in means.items():
            if mean is None and not {name, "build"} & errors.keys():
                errors[name] = f"no finite number, but {', '.join(f'{value:g}' for value in values[name])}"
        spread = {name: None if means[name] is None else _deviation(each) for name, each in values.items()}
        return Scored(key, shown, cost.params, cost.macs, means, spread, errors)

    def score_all(self, specs: Sequence[Options | Mapping[str, Any]], costs: Sequence[Cost] = ()) -> list[Scored]:
        """Rows in the order of the specs. `costs`: of each spec, where they are known already."""
        known = costs or itertools.repeat(None, len(specs))
        return [self.score(spec, cost) for spec, cost in zip(specs, known, strict=True)]

    def _score_with(
        self,
        spec: Options,
        key: str,
        cost: Cost,
        init_seed: int,
        init: str,
        values: dict[str, list[float]],
        errors: dict[str, str],
        raises: bool,
    ) -> None:
        seed = derive(init_seed, "candidate", key)
        probe = self._probe(init)
        with torch.random.fork_rng(devices=[]):
            try:
                student = self._fresh(spec, seed, init, cost)
                check_pass(student, self.io, cost.macs, len(probe.batch))
                trace = Trace(student.module)
                probe.bind(student, trace, seed)
                for name, proxy in self.proxies.items():
                    if proxy.init != init:
                        continue
                    if not trace.unchanged(student.module):
                        student = self._fresh(spec, seed, init, cost)
                        trace = Trace(student.module)
                    probe.rebind(student, trace)
                    seed_generators(seed)
                    try:
                        with torch.enable_grad():  # and back, whatever the proxy leaves behind
                            value = _number(name, proxy.score(student, probe))
                        if written := probe.put_back():
                            problem = f"writes into the probe's batch ('{written[0]}'), which all proxies read"
                            raise PluginError(problem, expected="a copy of its own")
                        values[name].append(value)
                    except FOREIGN as error:
                        if raises and self.ranks and isinstance(error, UserError):
                            raise error.at(path=f"proxy {name}") from error.__cause__
                        if raises and isinstance(error, SystemExit):
                            raise exited(f"proxy '{name}'", error) from error
                        errors.setdefault(name, told(error))
            except FOREIGN as error:
                if raises:
                    self._is_the_spaces(error)
                errors.setdefault("build", told(error))
            finally:
                probe.release()

    def _is_the_spaces(self, error: BaseException) -> None:
        """Raise what is wrong with the study or the space, and not with one candidate."""
        if isinstance(error, SystemExit):
            raise exited(f"search space '{type(self.space).__name__}'", error) from error
        if isinstance(error, UserError | TrialError) and not isinstance(error, TooLargeError):
            raise error

    def _fresh(self, spec: Options, seed: int, init: str, cost: Cost | None = None) -> Model:
        check_weights(self.space, spec, self.io)
        seed_generators(seed)
        model = initialised(member_of(self.space, spec, self.io), init, seed)
        if cost is not None and model.cost_of is None:
            return replace(model, cost_of=lambda: cost)  # counted already: a proxy that asks does not count again
        return model

    def _probe(self, init: str) -> LiveProbe:
        if init not in self._probes:
            mine = [proxy for proxy in self.proxies.values() if proxy.init == init]
            asked = [_asked(name, proxy) for name, proxy in self.proxies.items() if proxy.init == init]
            taps = {role: [tap for each in asked for tap in taps_of(each, role)] for role in ROLES}
            teacher = self._teacher if any(proxy.needs_teacher for proxy in mine) else None
            if teacher is not None:
                teacher = initialised(teacher.copy(), init, derive(self.probe_seed, "teacher"))
            self._probes[init] = LiveProbe(
                self._batch, self.io, self.task, teacher, taps, self.probe_seed, self._teacher_fed
            )
        return self._probes[init]

    def check(self) -> None:
        """Once: what proxies measure beforehand, and a network drawn from the space scored, whatever the candidates will be.

        Raises:
            UserError: of a proxy that ranks, named by the error's path, or of the space: the study is wrong (a tap that its
                networks lack).
        """
        if self._is_fitted:
            return
        fitted = [proxy for proxy in self.proxies.values() if type(proxy).fit is not Proxy.fit]
        rng = stream(self.probe_seed, "fit")
        specs = [self.space.canonical(self.space.sample(rng)) for _ in range(FIT_SAMPLE if fitted else 1)]
        with torch.random.fork_rng(devices=[]):
            for name, proxy in self.proxies.items():
                if proxy not in fitted:
                    continue
                models = self._built(specs, proxy.init)  # its own: what one changes, none else sees
                probe, asked = self._probe(proxy.init), _asked(name, proxy)
                probe.release()
                try:
                    proxy.fit(models, probe)
                    if _asked(name, proxy) != asked:  # it does with other taps from here on
                        del self._probes[proxy.init]
                except UserError as error:
                    if self.ranks:
                        raise error.at(path=f"proxy {name}") from error.__cause__
                except SystemExit as error:
                    raise exited(f"proxy '{name}'", error) from error
                except KdsearchError:
                    raise
                except Exception as error:
                    problem = f"proxy '{name}' fails on a sample of the space: {told(error)}"
                    if self.ranks:
                        raise PluginError(problem, path=f"proxy {name}") from error
        self._first = self._scored(specs[0], raises=True)
        self._is_fitted = True

    def silent(self) -> dict[str, str]:
        """Proxy -> why it has no score of the first, of those that score none of `TRIED` networks drawn from the space.

        What cannot be built is the space's affair: nothing is silent then.
        """
        self.check()
        assert self._first is not None
        rng, found = stream(self.probe_seed, "silent"), dict.fromkeys(self.proxies, "")
        for nth in range(TRIED):
            row = self._scored(self.space.canonical(self.space.sample(rng))) if nth else self._first
            found = {name: found[name] or row.errors.get(name, "") for name in found if row.scores[name] is None}
            if "build" in row.errors or not found:
                return {}
        return found

    def _built(self, specs: Sequence[Options], init: str) -> list[Model]:
        """Those that can be built. Raise PluginError where none can."""
        found: list[Model] = []
        failed: BaseException | None = None
        for spec in specs:
            try:
                found.append(self._fresh(spec, derive(self.probe_seed, "fit", self.space.key(spec)), init))
            except UserError:
                raise
            except FOREIGN as error:  # the space's own code
                failed = error
        if not found and failed is not None:
            raise _unbuilt(self.space, len(specs), failed) from failed
        return found


def _asked(name: str, proxy: Proxy[Any]) -> Taps:
    """The taps that a proxy asks for. Raise PluginError where these are none."""
    try:
        taps: Any = proxy.taps()
    except KdsearchError:
        raise
    except Exception as error:
        raise PluginError(f"proxy '{name}' fails: {told(error)}", path=f"proxy {name}") from error
    for each in taps.values() if isinstance(taps, Mapping) else (taps,):
        if isinstance(each, str) or not isinstance(each, Sequence):
            expected = "a list of names, or one for `student` and one for `teacher`"
            raise PluginError(f"`taps` of proxy '{name}' gives {taps!r}", path=f"proxy {name}", expected=expected)
    try:
        check_roles(taps if isinstance(taps, Mapping) else (), ROLES, f"proxy '{name}'")
    except PluginError as error:
        raise error.at(path=f"proxy {name}") from None
    return taps  # type: ignore[no-any-return]


def _number(name: str, score: Any) -> float:
    """What a proxy scored. Raise PluginError where that is no number."""
    shape = tuple(getattr(score, "shape", ()))
    if not hasattr(score, "__float__") or math.prod(shape) != 1:
        got = f"a {type(score).__name__} of the shape {shape}" if shape else repr(score)
        raise PluginError(f"proxy '{name}' gives {got} as a score", expected="a number")
    return float(score)


def initialised(model: Model, init: str, seed: int) -> Model:
    """The model, in place, with a proxy's initialisation ("default" keeps the built one) and channels-last weights."""
    if init == "gaussian":
        gaussian_init(model.module, Generator().manual_seed(seed))
    elif init != "default":
        raise ValueError(f"initialisation '{init}': expected default or gaussian")
    channels_last(model.module)
    return model


def random_teacher(space: SearchSpace[Any], io: IO, probe_seed: int, sample: int = 64) -> Model:
    """The randomly initialised teacher of a training-free score: the space's own, or the largest of a random sample that is built.

    Raises:
        UserError: none of the sample can be built.
    """
    spec = space.teacher_spec()
    if spec is not None:
        return built(space, spec, io, derive(probe_seed, "teacher"))
    rng = stream(probe_seed, "teacher-sample")
    specs = {space.key(each): each for each in (space.sample(rng) for _ in range(sample))}
    sizes: dict[str, int] = {}
    failed: BaseException | None = None
    for key, each in sorted(specs.items()):
        try:
            sizes[key] = _params(space, each, io)
        except FOREIGN as error:
            failed = error
    for key in sorted(sizes, key=lambda each: -sizes[each]):
        try:
            return built(space, specs[key], io, derive(probe_seed, "teacher"))
        except FOREIGN as error:
            failed = error
    assert failed is not None
    if isinstance(failed, UserError):
        raise failed
    raise _unbuilt(space, len(specs), failed) from failed


def built(space: SearchSpace[Any], spec: Options, io: IO, seed: int) -> Model:
    """A fresh model whose weights are a function of `seed`; the global generator is left as it was."""
    check_weights(space, spec, io)
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        return member_of(space, spec, io)


def cost_of(space: SearchSpace[Any], spec: Options, io: IO, task: Task[Any]) -> Cost:
    """params and MACs by the space's formula, else counted on a built model."""
    found = _formula(space, spec, io)
    if found is not None:
        return found
    model = built(space, spec, io, 0)
    sample = task.dummy(io, 1, stream(0, "cost"))
    macs = multiply_accumulates(model.module, [sample[name] for name in model.inputs])
    return Cost(parameters(model.module), macs)


def _formula(space: SearchSpace[Any], spec: Options, io: IO) -> Cost | None:
    """What the space's formula says, None where it has none. Raise PluginError where that is no Cost."""
    found: object = space.cost(spec, io)
    if found is not None and not isinstance(found, Cost):
        raise PluginError(f"`cost` of the search space gives {found!r}", expected="a kdsearch.kinds.Cost, or None")
    return found


def by_formula(space: SearchSpace[Any], spec: Options, io: IO) -> Cost | None:
    """params and MACs; None where the space has no formula, or its code fails at this spec."""
    try:
        return _formula(space, spec, io)
    except FOREIGN:  # the search tells what cannot be built
        return None


def _params(space: SearchSpace[Any], spec: Options, io: IO) -> int:
    found = _formula(space, spec, io)
    return found.params if found else parameters(built(space, spec, io, 0).module)


def _mean(values: Sequence[float], n: int) -> float | None:
    if len(values) != n or not all(map(math.isfinite, values)):
        return None
    largest = _largest(values)
    mean = math.fsum(each / largest for each in values) / n * largest
    return mean if math.isfinite(mean) else None


def _deviation(values: Sequence[float]) -> float:
    largest = _largest(values)
    scaled = [each / largest for each in values]
    mean = math.fsum(scaled) / len(scaled)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in scaled) / len(scaled)) * largest


def _largest(values: Sequence[float]) -> float:
    """The power of 2 below the largest absolute value: divided by it squares and sums do not overflow, and no digit changes."""
    return 2.0 ** (math.frexp(max(map(abs, values)))[1] - 1) if any(values) else 1.0


def _unbuilt(space: SearchSpace[Any], n: int, error: BaseException) -> PluginError:
    return PluginError(f"search space '{type(space).__name__}' builds none of {n} specs: {told(error)}")
