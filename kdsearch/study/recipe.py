"""The recipe's search space: weights, options and training settings as dimensions, and the recipe at one point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdsearch.errors import StudyError, UserError
from kdsearch.kinds.options import (
    Dim,
    Options,
    Range,
    Searchable,
    Value,
    read_range,
    requested_taps,
    searchable,
    searched,
)
from kdsearch.kit.dims import is_active
from kdsearch.limits import BATCH
from kdsearch.study.rules import bare
from kdsearch.study.schema import DistillerUse, Train

if TYPE_CHECKING:
    from kdsearch.host import Host
    from kdsearch.kinds import Distiller, Procedure
    from kdsearch.study.study import Study

WEIGHT = Range(low=0.05, high=20.0, log=True)  # in units of the task loss (or of the paper's constants)


class Searched(Options):
    """The searchable part of `recipe.train` and the range that `search` means for each."""

    optimizer: Annotated[Literal["sgd", "adam", "adamw"], searched("sgd", "adamw")] = "adamw"
    lr: Annotated[float, Field(gt=0), searched(low=3e-4, high=1e-2, log=True)] = 2e-3
    batch_size: Annotated[int, Field(gt=0, le=BATCH), searched(32, 64, 128, 256)] = 128
    weight_decay: Annotated[float, Field(ge=0), searched(low=1e-4, high=0.1, log=True)] = 0.02


@dataclass(frozen=True)
class ResolvedDistiller:
    """A distiller of one candidate: its name in weights and reports, class, options, and the teacher's name. `path`: its key."""

    name: str
    use: str
    cls: type[Distiller[Any]]
    options: Options
    teacher: str
    path: str = ""

    def place_of(self, text: str) -> str:
        """Key path of the option whose value the text has in quotes; of the distiller where none has."""
        for option, value in self.options:
            values = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(each, str) and f"'{each}'" in text for each in values):
                return f"{self.path}.options.{option}"
        return self.path


@dataclass(frozen=True)
class ResolvedRecipe:
    """One candidate's recipe.

    `weights`: of `task`, of each distiller by name, and of terms as `name.term`. With `normalize` they count in units of the
    task's loss at the start; without, the paper's own constants (`Distiller.constants`) are multiplied in already.
    """

    distillers: tuple[ResolvedDistiller, ...]
    weights: dict[str, float]
    train: Train
    procedure: str
    procedure_cls: type[Procedure[Any]]
    procedure_options: Options
    normalize: bool

    def baseline(self) -> ResolvedRecipe:
        """The same without distillers: the task's loss alone."""
        return replace(self, distillers=(), weights={"task": 1.0})

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values: for hashes and reports."""
        return {
            "procedure": {"use": self.procedure, "options": self.procedure_options.model_dump(mode="json")},
            "normalize": self.normalize,
            "weights": dict(self.weights),
            "distillers": [
                {"name": d.name, "use": d.use, "teacher": d.teacher, "options": d.options.model_dump(mode="json")}
                for d in self.distillers
            ],
            "train": self.train.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Weight:
    """A weight as the study writes it: fixed, or a dimension."""

    path: str
    fixed: float
    dim: Dim | None = None

    @classmethod
    def read(cls, value: Value, path: str) -> Weight:
        """Raise StudyError unless it is a finite number >= 0, or a range of such."""
        found = read_range(value, WEIGHT, path)
        for end in found.ends if found else (value,):
            if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end) or end < 0:
                raise StudyError(f"got {end!r}", path=path, expected="a number of at least 0, `search` or a range")
        if found is None:
            return cls(path, float(value))
        return cls(path, 1.0, Dim(path, replace(found, integer=False)))

    def at(self, values: Mapping[str, Value]) -> float:
        return float(values[self.path]) if self.dim else self.fixed


@dataclass(frozen=True)
class DistillerSpace:
    """A distiller as the study writes it."""

    name: str
    use: DistillerUse
    path: str
    cls: type[Distiller[Any]]
    options: Searchable
    weight: Weight
    weights: Mapping[str, Weight]

    @classmethod
    def read(cls, use: DistillerUse, path: str, of: type[Distiller[Any]]) -> DistillerSpace:
        options = searchable(of.options_class, use.options, f"{path}.options")
        weights = {term: Weight.read(value, f"{path}.weights.{term}") for term, value in sorted(use.weights.items())}
        weight = Weight.read(use.weight, f"{path}.weight")
        return cls(use.name or bare(use.use), use, path, of, options, weight, weights)

    @property
    def used(self) -> str:
        """Path of the dimension that says whether an optional distiller takes part."""
        return f"{self.path}.used"

    @property
    def dims(self) -> tuple[Dim, ...]:
        own = [each.dim for each in (self.weight, *self.weights.values()) if each.dim]
        inner = (*own, *self.options.dims)
        if not self.use.optional:
            return inner
        when = ((self.used, (True,)),)
        return (Dim(self.used, Range(choices=(True, False))), *(replace(d, when=(*when, *d.when)) for d in inner))

    def made_at(self, values: Mapping[str, Value]) -> Distiller[Any]:
        """The distiller of a candidate, not built."""
        return self.cls(self.options.at(values, f"{self.path}.options"))

    @property
    def made(self) -> Iterator[Distiller[Any]]:
        """Distillers at the ends of its options, but for those that cannot be: these fail the trials there."""
        for values in _corners(self.options.dims):
            with suppress(UserError):
                yield self.made_at(values)

    @property
    def terms(self) -> tuple[str, ...]:
        """Every term's name as far as it says them, at any point of its options; () = it does not say."""
        named = [each.named_terms() for each in self.made]
        return tuple(dict.fromkeys(term for each in named for term in each)) if all(named) else ()

    def weights_at(self, values: Mapping[str, Value], normalize: bool) -> dict[str, float]:
        constants = {} if normalize else self.made_at(values).constants()
        whole = self.weight.at(values)
        found = {self.name: whole}
        found |= {f"{self.name}.{term}": whole * constant for term, constant in constants.items()}
        found |= {f"{self.name}.{term}": weight.at(values) for term, weight in self.weights.items()}
        return found


@dataclass(frozen=True)
class RecipeSpace:
    """Everything of a recipe that the study leaves open."""

    task_weight: Weight
    distillers: tuple[DistillerSpace, ...]
    train: Searchable
    train_fixed: Mapping[str, Value]
    procedure: str
    procedure_cls: type[Procedure[Any]]
    procedure_options: Searchable
    normalize: bool
    dims: tuple[Dim, ...] = field(default=())

    @classmethod
    def from_study(cls, study: Study, host: Host) -> RecipeSpace:
        """Raise StudyError for a weight, range or option that is not valid, with file and line."""
        recipe = study.config.recipe
        try:
            distillers = tuple(
                DistillerSpace.read(use, f"recipe.distillers[{i}]", host.load_class("distiller", use.use))
                for i, use in enumerate(recipe.distillers)
            )
            task_weight = Weight.read(recipe.task_weight, "recipe.task_weight")
            written = recipe.train.model_dump()
            train = searchable(Searched, {name: written[name] for name in Searched.model_fields}, "recipe.train")
            procedure_cls = host.load_class("procedure", recipe.procedure.use)
            options = searchable(procedure_cls.options_class, recipe.procedure.options, "recipe.procedure.options")
        except StudyError as error:
            raise study.place(error) from None
        dims = [task_weight.dim] if task_weight.dim else []
        dims += [dim for each in distillers for dim in each.dims] + [*train.dims, *options.dims]
        fixed = {name: value for name, value in written.items() if name not in Searched.model_fields}
        return cls(
            task_weight,
            distillers,
            train,
            fixed,
            recipe.procedure.use,
            procedure_cls,
            options,
            recipe.normalize,
            tuple(dims),
        )

    @property
    def labels(self) -> dict[str, str]:
        """Path of each dimension -> its name for people: `kd.weight`, `kd.temperature`, `train.lr`. No two are equal."""
        found: dict[str, str] = {}
        for dim in self.dims:
            label = dim.path.removeprefix("recipe.").replace(".options.", ".")
            for i, each in enumerate(self.distillers):
                label = label.replace(f"distillers[{i}]", each.name)
            found[dim.path] = label if label not in found.values() else dim.path
        return found

    @property
    def option_dims(self) -> list[Dim]:
        """Of the distillers' options."""
        prefixes = tuple(f"{each.path}.options." for each in self.distillers)
        return [dim for dim in self.dims if dim.path.startswith(prefixes)] if prefixes else []

    @property
    def weight_dims(self) -> list[Dim]:
        """Of the loss's weights, and of which optional distillers take part."""
        options = {dim.path for dim in self.option_dims}
        ours = (self.task_weight.path, *(f"{each.path}." for each in self.distillers))
        return [dim for dim in self.dims if dim.path.startswith(ours) and dim.path not in options]

    def teacher_taps(self, teacher: str, is_first: bool = True) -> list[str]:
        """Taps of the teacher that any candidate's recipe may read, as the options write them; a point that cannot be has none.

        In the role "teacher" of a distiller that learns from it, or in the procedure's where it is the study's first one; in the
        role of its own name in any.
        """
        taps: dict[str, None] = {}

        def ask(wanted: Mapping[str, Sequence[str]], is_own: bool) -> None:
            taps.update(dict.fromkeys([*(wanted.get("teacher", ()) if is_own else ()), *wanted.get(teacher, ())]))

        for each in self.distillers:
            for values in _corners(each.options.dims):
                try:
                    options = each.options.at(values, f"{each.path}.options")
                    asked = each.cls(options).taps()
                except UserError:  # it fails the trials there
                    continue
                for wanted in (asked, requested_taps(options)):
                    ask(wanted, each.use.teacher == teacher)
        for values in _corners(self.procedure_options.dims):
            try:
                options = self.procedure_options.at(values, "recipe.procedure.options")
            except UserError:
                continue
            ask(requested_taps(options), is_first)
        return list(taps)

    def at(self, values: Mapping[str, Value]) -> ResolvedRecipe:
        """The recipe at these values (dimension path -> value). Raise KeyError where an active dimension has none."""
        for dim in self.dims:
            if dim.path not in values and all(values.get(other) in allowed for other, allowed in dim.when):
                raise KeyError(f"no value for the dimension {dim.path}")
        used = [each for each in self.distillers if not each.use.optional or values[each.used]]
        weights = {"task": self.task_weight.at(values)}
        for each in used:
            weights |= each.weights_at(values, self.normalize)
        train = self.train.at(values, "recipe.train").model_dump()
        return ResolvedRecipe(
            tuple(
                ResolvedDistiller(
                    each.name,
                    each.use.use,
                    each.cls,
                    each.options.at(values, f"{each.path}.options"),
                    each.use.teacher,
                    each.path,
                )
                for each in used
            ),
            weights,
            Train(**self.train_fixed, **train),
            self.procedure,
            self.procedure_cls,
            self.procedure_options.at(values, "recipe.procedure.options"),
            self.normalize,
        )

    def default(self) -> dict[str, Value]:
        """One point: every optional distiller used, weights 1, options at their defaults, all within their ranges.

        Of the dimensions that count there.
        """
        return self._counting({dim.path: self._default(dim) for dim in self.dims})

    def plain(self) -> dict[str, Value]:
        """The point that one takes without a search: the default without optional distillers, unless there are no others."""
        optional = [each for each in self.distillers if each.use.optional]
        return self.with_one(optional[0] if len(optional) == len(self.distillers) and optional else None)

    def with_one(self, distiller: DistillerSpace | None) -> dict[str, Value]:
        """The default with this optional distiller and no other, or with none."""
        left_out = [each.used for each in self.distillers if each.use.optional and each is not distiller]
        point = {**self.default(), **dict.fromkeys(left_out, False)}
        return self._counting(point)

    def _counting(self, point: Mapping[str, Value]) -> dict[str, Value]:
        return {dim.path: point[dim.path] for dim in self.dims if is_active(dim, point)}

    def _default(self, dim: Dim) -> Value:
        wanted: Value = self._declared(dim.path)
        ranged = dim.range
        if (
            ranged.choices
        ):  # the choice as it is written: 4 where the default is 4.0, as those are two points to who searches
            is_flag = isinstance(wanted, bool)
            equal = (each for each in ranged.choices if each == wanted and isinstance(each, bool) == is_flag)
            return next(equal, ranged.choices[0])
        assert ranged.low is not None
        assert ranged.high is not None
        if isinstance(wanted, bool) or not isinstance(wanted, int | float):
            wanted = ranged.low
        value = min(max(wanted, ranged.low), ranged.high)
        return int(value) if ranged.integer else float(value)

    def _declared(self, path: str) -> Value:
        places = [(each.options, f"{each.path}.options.") for each in self.distillers]
        places += [(self.train, "recipe.train."), (self.procedure_options, "recipe.procedure.options.")]
        for options, prefix in places:
            if path.startswith(prefix):
                name, bracket, index = path.removeprefix(prefix).partition("[")
                value = options.cls.model_fields[name].get_default(call_default_factory=True)
                return value[int(index.rstrip("]"))] if bracket else value
        return True if path.endswith(".used") else 1.0


def _corners(dims: tuple[Dim, ...]) -> list[dict[str, Value]]:
    """Values such that every choice of every dimension occurs once: enough to see each tap."""
    width = max([len(dim.range.choices) or 1 for dim in dims], default=1)
    return [{dim.path: dim.range.ends[i % len(dim.range.ends)] for dim in dims} for i in range(width)]
