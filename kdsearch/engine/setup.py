"""What procedures, metrics and data sets are handed outside a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from kdsearch.engine.cache import Live, nan_in
from kdsearch.engine.checkpoint import digest_of
from kdsearch.engine.measured import values_of
from kdsearch.engine.modes import evaluating
from kdsearch.errors import ArtifactError, DataError, PluginError, TrialError, nearest, one_of
from kdsearch.kinds import (
    IO,
    Batch,
    DataSource,
    Distiller,
    Feed,
    Field,
    Metric,
    Model,
    Optim,
    Outputs,
    Predict,
    Split,
    Task,
    Writer,
)
from kdsearch.kinds.forward import run_model, tap_name
from kdsearch.kinds.phase import Factor
from kdsearch.ops.layout import guarded
from kdsearch.store.artifacts import sealed, unsealed
from kdsearch.store.files import MADE_AGAIN, read_json, storing, write_json
from kdsearch.store.hashing import derive, digest
from kdsearch.store.inputs import there
from kdsearch.store.weights import read, read_metadata, write

V = TypeVar("V")
NOTES = 50  # of one training that are kept


@dataclass
class Site:
    """The study's side of services: seed, base folder for paths, builders. Implements `kdsearch.kinds.Services`."""

    seed: int
    base: Path
    memory: Path | None = None  # where `once` keeps its values
    data: DataSource = field(default_factory=lambda: NoData())
    code_of: Callable[[str], Any] | None = None
    build_of: Callable[[str, Mapping[str, Any]], Model] | None = None
    writers: Mapping[str, Writer] = field(default_factory=dict)
    embedders: Mapping[str, Callable[[Sequence[str]], Tensor]] = field(default_factory=dict)

    def rng(self, name: str) -> Generator:
        return torch.Generator().manual_seed(derive(self.seed, name))

    def once(self, key: str, make: Callable[[], V]) -> V:
        if self.memory is None:
            return make()
        stem = self.memory / f"once-{digest(key)}"
        if (found := _kept(stem, key)) is not None:
            return found[0]  # type: ignore[no-any-return]
        if stem in _MAKING:
            raise PluginError(f"once('{key}') asks for itself", expected="a value that is made of others")
        from filelock import FileLock

        with storing(self.memory):
            self.memory.mkdir(parents=True, exist_ok=True)
        with FileLock(str(stem.with_name(f".{stem.name}.lock"))):
            if (found := _kept(stem, key)) is not None:  # another process made it while this one waited
                return found[0]  # type: ignore[no-any-return]
            _MAKING.add(stem)
            try:
                return self._keep(stem, key, make())
            finally:
                _MAKING.discard(stem)

    def _keep(self, stem: Path, key: str, made: V) -> V:
        tensors, plain = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
        if isinstance(made, dict) and made and all(isinstance(value, Tensor) for value in made.values()):
            found = {name: value.detach().cpu().contiguous().clone() for name, value in made.items()}
            write(tensors, found, {"digest": digest_of(key, found)})
            return found  # type: ignore[return-value]
        kept = sealed({"key": key, "value": made})
        write_json(plain, kept)
        return kept["value"]  # type: ignore[no-any-return]

    def writer(self, teacher: str) -> Writer:
        if teacher not in self.writers:
            raise _none("text teacher", teacher, self.writers)
        return self.writers[teacher]

    def embed(self, teacher: str, texts: Sequence[str]) -> Tensor:
        if teacher not in self.embedders:
            raise _none("embedding teacher", teacher, self.embedders)
        return self.embedders[teacher](texts)

    def predict(self, model: str, batch: Batch, taps: Sequence[str] = ()) -> Outputs:
        raise PluginError(f"no model '{model}' here")

    def batches(self, n: int, size: int = 32) -> Sequence[Batch]:
        split = self.data.split("train")
        index = torch.randperm(len(split.ids), generator=self.rng("compressor samples"))[:n].tolist()
        return [split.load(index[at : at + size]) for at in range(0, len(index), size)]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        raise PluginError("no task here", expected="a study")

    def build(self, space: str, spec: Mapping[str, Any]) -> Model:
        if self.build_of is None:
            raise PluginError(f"space '{space}' cannot be built here: there is no study")
        return self.build_of(space, spec)

    def file(self, path: str) -> Path:
        try:
            found = Path(path).expanduser()
        except RuntimeError as error:  # `~nobody`
            raise DataError(f"'{path}' does not exist", expected=str(error)) from None
        return there(found if found.is_absolute() else self.base / found, path)

    def code(self, target: str) -> Any:
        from kdsearch.errors import UnsafeCodeError

        if self.code_of is None:
            raise UnsafeCodeError(f"'{target}' is code", fix=f"Run with --allow-code {target} if you trust it.")
        return self.code_of(target)


_MAKING: set[Path] = set()  # values of `once` that this process makes just now


def _kept(stem: Path, key: str) -> tuple[Any] | None:
    """The value that `once` kept, in a tuple. Raise ArtifactError where it is not as it was written."""
    tensors, plain = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    if tensors.exists():
        return (_kept_tensors(tensors, key),)
    return (unsealed(read_json(plain), plain)["value"],) if plain.exists() else None


class NoData:
    """Stands for the data where they are not open yet."""

    @property
    def fields(self) -> tuple[Field, ...]:
        raise _closed()

    @property
    def facts(self) -> Mapping[str, Any]:
        raise _closed()

    @property
    def splits(self) -> tuple[str, ...]:
        raise _closed()

    def split(self, name: str) -> Split:
        raise _closed()


def _closed() -> PluginError:
    return PluginError(
        "the data are not open here", expected="a teacher's `model`, a procedure or a distiller, which have them"
    )


def _kept_tensors(file: Path, key: str) -> dict[str, Tensor]:
    """What `once` kept. Raise ArtifactError where it is not as it was written."""
    try:
        found = read(file)
        if read_metadata(file).get("digest") != digest_of(key, found):
            raise ArtifactError("has changed since it was written", file=file)
    except ArtifactError as error:
        error.fix = MADE_AGAIN
        raise
    return found


def _none(what: str, name: str, known: Mapping[str, Any]) -> PluginError:
    expected = one_of(known) if known else "one that an option of type TextTeacher or EmbeddingTeacher names"
    return PluginError(f"no {what} '{name}' here", nearest=nearest(name, known), expected=expected)


@dataclass(kw_only=True)
class Evaluator(Site):
    """Models and teachers by role, their answers, and metrics of those."""

    task: Task[Any]
    io: IO
    models: dict[str, Model] = field(default_factory=dict)
    teachers: dict[str, Live] = field(default_factory=dict)
    metrics: Mapping[str, Metric[Any]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)  # metric -> its key path in the study
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def model_of(self, role: str) -> Model:
        if role in self.teachers:
            return self.teachers[role].model
        if role in self.models:
            return self.models[role]
        known = [*self.models, *self.teachers]
        raise PluginError(f"no model '{role}'", nearest=nearest(role, known), expected=one_of(known))

    def predict(self, model: str, batch: Batch, taps: Sequence[str] = ()) -> Outputs:
        """Eval mode, constant; a teacher's rows come from its cache."""
        batch = batch.to(self.device)
        if model in self.teachers:
            live = self.teachers[model]
            live.model.module.to(self.device)
            return live.outputs(batch, live.names(taps), self.device, seed=derive(self.seed, "view", model))
        found = self.model_of(model)
        found.module.to(self.device)
        names = [tap_name(found, tap) for tap in taps]
        with evaluating(found.module), torch.no_grad():
            return run_model(found, self.task, batch, names).detach()

    def loss(self, model: Model, batch: Batch) -> Tensor:
        prepared = self.task.prepare(batch.to(self.device), self.rng("compressor losses"))
        guarded(model.module)
        return self.task.loss(run_model(model, self.task, prepared), prepared)

    def part(self, role: str, tap: str) -> nn.Module:
        return self.model_of(role).part(tap)

    def measured(self, metric: str, role: str, split: str) -> dict[str, float]:
        """A metric's values of a role's model now. Raise PluginError naming the metrics there are, or the values it gives."""
        if metric not in self.metrics:
            raise PluginError(
                f"no metric '{metric}'", nearest=nearest(metric, self.metrics), expected=one_of(self.metrics)
            )
        return self._judged(metric, role, split, lambda batch: self.predict(role, batch))

    def _judged(self, metric: str, role: str, split: str, predict: Predict) -> dict[str, float]:
        try:
            return values_of(metric, self.metrics[metric], predict, self.data, split, self)
        except PluginError as error:
            raise error.at(path=self.places.get(metric, "")) from error.__cause__


@dataclass(kw_only=True)
class LiveSetup(Evaluator):
    """See `kdsearch.kinds.Setup`: what a procedure builds its phases from."""

    distillers: Mapping[str, Distiller[Any]] = field(default_factory=dict)
    teacher_of: Mapping[str, str] = field(default_factory=dict)  # distiller -> its teacher's role
    weights: Mapping[str, float] = field(default_factory=dict)
    normalize: bool = True
    shared: Evaluator | None = None  # `study`: the seed and memory of the study; None = this training is all there is
    epochs: int
    defaults: Mapping[str, Any]  # of optim(): kind, lr, weight_decay, momentum, schedule, clip
    batch_size: int
    augment: bool
    fresh_of: Callable[[str, int], Model] | None = None  # the role's nth fresh model
    uncut_of: Callable[[str], Model] | None = None  # a network of the role's architecture before its last cut
    enforce: Callable[[float], None] | None = None  # after each optimiser step, with the recovery's progress in (0, 1]
    trained: tuple[str, ...] = ("student",)
    drawn: dict[str, int] = field(default_factory=dict)  # fresh models so far, by role
    notes: list[str] = field(default_factory=list)

    @property
    def study(self) -> Evaluator:
        return self.shared or self

    def feed(self, split: str, **changes: Any) -> Feed:
        return Feed(**{"split": split, "batch_size": self.batch_size, "augment": self.augment, **changes})

    def optim(self, modules: Mapping[str, nn.Module], **changes: Any) -> Optim:
        scale = {**self._scale_of(modules), **changes.get("scale", {})}
        return Optim(**{"modules": modules, **self.defaults, **changes, "scale": scale})

    def _scale_of(self, modules: Mapping[str, nn.Module]) -> dict[str, Factor]:
        """The study's own factors on lr, of roles' weights, by the names that these have among the modules.

        Globs that match no weight of any role are left as they are: `bind` refuses them.
        """
        given: Mapping[str, Factor] = self.defaults.get("scale") or {}
        if not given:
            return {}
        of_roles = {
            id(each): f"{role}.{name}"
            for role, model in self.models.items()
            for name, each in model.module.named_parameters()
        }
        found: dict[str, Factor] = {}
        for key, module in modules.items():
            for name, parameter in module.named_parameters():
                names = f"{key}.{name}", of_roles.get(id(parameter), "")
                glob = next((each for each in given if any(fnmatchcase(name, each) for name in names)), None)
                if glob is not None:
                    found[escape(names[0])] = given[glob]
        known = [*of_roles.values(), *found]
        return found | {glob: factor for glob, factor in given.items() if not any(fnmatchcase(n, glob) for n in known)}

    def note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < NOTES:
            self.notes.append(text)

    def fresh(self, role: str) -> Model:
        if self.fresh_of is None or role not in self.trained:
            known = self.trained if self.fresh_of is not None else ()
            problem = f"role '{role}' has no architecture to build from"
            raise PluginError(problem, nearest=nearest(role, known), expected=one_of(known))
        nth = self.drawn.get(role, 0)
        self.drawn[role] = nth + 1
        return self.fresh_of(role, nth)

    def freeze(self, role: str, model: Model) -> None:
        if role in self.trained:
            raise PluginError(f"'{role}' is trained by this procedure", expected="a new role for a frozen model")
        model.module.requires_grad_(False).eval()
        model.module.to(self.device)
        self.teachers[role] = Live(model, self.task, None)

    def _judged(self, metric: str, role: str, split: str, predict: Predict) -> dict[str, float]:
        """Raise TrialError where what is trained answers NaN, of which a metric may make a number."""
        answers, unknown = self.task.answers(self.io), list[str]()

        def seen(batch: Batch) -> Mapping[str, Tensor]:
            out = predict(batch)
            unknown.extend(nan_in(self.task, answers, batch, out))
            return out

        found = super()._judged(metric, role, split, seen)
        if unknown:
            n = len(self.data.split(split).ids)
            problem = (
                f"'{role}' answers NaN to {len(unknown):,} of {n:,} samples of '{split}', the first '{unknown[0]}'"
            )
            raise TrialError(problem)
        return found

    def score(self, metric: str, role: str, split: str = "val") -> float:
        if split == "test":
            raise PluginError("a procedure asked for the test split", expected="train, labeled, unlabeled or val")
        return self.measured(metric, role, split)[metric]
