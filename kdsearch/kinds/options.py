"""Options of a capability: one pydantic declaration that gives validation, documentation and search ranges.

    class FitNetOptions(Options):
        kernel: Annotated[Literal[1, 3], searched(1, 3)] = Field(1, description="of r, in pixels of H_S")

In a study a value is fixed (`kernel: 1`), `search` (the declared range), or a range of the study's own
(`{low, high[, log]}` or `{choices: [...]}`), on any field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from kdsearch.errors import StudyError, key_path, nearest, nearest_literal, one_of, plain_number, wanted

Value = Any  # a JSON value
O = TypeVar("O", bound="Options")  # noqa: E741 - the contract's own letter


class Options(BaseModel):
    """Base of every capability's options: strict types, no unknown keys, no NaN, immutable; defaults keep their own bounds."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_default=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, info in cls.model_fields.items():
            asked = [other for mark in info.metadata if isinstance(mark, Range) for other, _ in mark.when]
            for other in asked:
                if other not in cls.model_fields:
                    raise ValueError(
                        f"'{name}' of {cls.__name__} is searched when '{other}', which is none of its options"
                    )


class NoOptions(Options):
    """For a capability without options."""


@dataclass(frozen=True)
class Range:
    """A search range: either `choices`, or `low`..`high` (inclusive; `log` spaced, `integer`).

    `each` > 0: the field is a sequence of that length and the range holds for each element.
    `facts`: numbers known of each choice beforehand (scores, sizes), alike in meaning; of the first, more promises more.
    `costs`: what each choice adds to each objective, as a finite loss; NaN, in all choices, of one that only a training tells.
    """

    choices: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    each: int = 0
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    facts: tuple[tuple[float, ...], ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that must be valid for the range to be valid: every choice, or both ends."""
        return self.choices or (self.low, self.high)

    @property
    def size(self) -> int | None:
        """How many values it holds; None when it is continuous."""
        if self.choices:
            return len(self.choices)
        return (
            int(self.high - self.low) + 1 if self.integer and self.high is not None and self.low is not None else None
        )


def searched(
    *choices: Value,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    each: int = 0,
    when: Mapping[str, Sequence[Value]] | None = None,
) -> Range:
    """The range that `search` means for a field. `when={"kernel": (3,)}`: searched only where `kernel` is 3.

    Raises:
        ValueError: neither choices nor both ends, or both; low is not below high; `log` from 0 or below.
    """
    if bool(choices) == (low is not None and high is not None):
        raise ValueError("searched() takes either choices or low and high")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"searched(low={low}, high={high}): low is not below high")
    if log and not (low is not None and low > 0):
        raise ValueError(f"searched(low={low}, log=True): a log range starts above 0")
    integer = isinstance(low, int) and isinstance(high, int)
    conditions = tuple((name, tuple(values)) for name, values in (when or {}).items())
    return Range(choices, low, high, log, integer, each, conditions)


@dataclass(frozen=True)
class TapOf:
    """Marks a `str` option that names a tap of the model in a role; the engine records that tap."""

    role: str


StudentTap = Annotated[str, TapOf("student")]
TeacherTap = Annotated[str, TapOf("teacher")]


@dataclass(frozen=True)
class TeacherNamed:
    """Marks a `str` option that names one of the study's teachers, with what the capability needs of it.

    `access`: "text" (it writes), "logprobs" (it writes and says its tokens' log-probabilities), "embed" (it embeds texts), or
    of a network "logits", "taps" or "gradient".
    """

    access: Literal["text", "logprobs", "embed", "logits", "taps", "gradient"] = "logits"


TextTeacher = Annotated[str, TeacherNamed("text")]
EmbeddingTeacher = Annotated[str, TeacherNamed("embed")]


@dataclass(frozen=True)
class Dim:
    """One dimension that a controller searches: where its value goes, and its range.

    `when`: (path of another dimension, values): this one counts only where the other has one of these values.
    """

    path: str
    range: Range
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()


@dataclass(frozen=True)
class Searchable:
    """Options as a study writes them: fixed values and dimensions. `at(values)` makes the options of one candidate."""

    cls: type[Options]
    fixed: Mapping[str, Value]
    dims: tuple[Dim, ...] = field(default=())

    def at(self, values: Mapping[str, Value], prefix: str = "") -> Options:
        """Options of the candidate `values` (dimension path -> value); dimensions start with `prefix`."""
        raw: dict[str, Value] = {name: _thaw(value) for name, value in self.fixed.items()}
        for dim in self.dims:
            if dim.path not in values:
                continue  # conditional and off: the field's default
            name = dim.path[len(prefix) :].lstrip(".")
            base, bracket, index = name.partition("[")
            if bracket:
                items = raw.setdefault(base, [])
                items.insert(int(index.rstrip("]")), values[dim.path])
            else:
                raw[name] = _thaw(values[dim.path])
        return validate(self.cls, raw, prefix)


def _thaw(value: Value) -> Value:
    return list(value) if isinstance(value, tuple | list) else value


def validate(cls: type[O], raw: Mapping[str, Value], path: str = "") -> O:
    """Options of `cls` from JSON values. Raise StudyError naming path, value, what was expected and the nearest name."""
    try:
        return cls.model_validate_json(_json(raw)) if raw else cls.model_validate({})
    except ValidationError as error:
        raise first_error(error, cls, path, {**dict.fromkeys(cls.model_fields), **raw}) from None


def _json(raw: Mapping[str, Value]) -> str:
    import json

    return json.dumps(raw)


def first_error(error: ValidationError, cls: type[BaseModel], path: str, raw: Any) -> StudyError:
    """pydantic's first complaint as a StudyError with the full key path. `raw`: what was validated."""
    first = error.errors()[0]
    where = key_path(first["loc"], raw, path, first["type"] == "missing")
    name = str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        owner = _owner(cls, first["loc"])
        names = list(owner.model_fields) if owner else []
        close = nearest(name, names)
        what = "option" if issubclass(cls, Options) else "key"
        has = one_of(names) if names else f"no {what}s here"
        return StudyError(f"unknown {what} '{name}'", path=where, nearest=close, expected=has)
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):  # a list with too few
        given, lacking = first["loc"][-1], sum(each["loc"][:-1] == first["loc"][:-1] for each in error.errors())
        values = f"{given} value" + ("s" if given != 1 else "")
        return StudyError(f"has {values}", path=where.rpartition("[")[0], expected=str(given + lacking))
    if first["type"] == "missing":
        return StudyError("is missing", path=where, expected="a value")
    got = first["input"]
    shown = f"'{got}'" if isinstance(got, str) else _json_or_repr(got)
    return StudyError(
        f"got {shown[:80]}",
        path=where,
        expected=wanted(first["type"], first["msg"]),
        nearest=nearest_literal(got, first),
        fix=plain_number(got, (first["type"],)),
    )


def _json_or_repr(got: object) -> str:
    """As a study has it: null, true."""
    import json

    try:
        return json.dumps(got, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(got)


def _owner(cls: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    owner: type[BaseModel] | None = cls
    for part in loc[:-1]:
        if owner is None or isinstance(part, int):
            continue
        info = owner.model_fields.get(str(part))
        owner = _model_in(info.annotation) if info else None
    return owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _model_in(part)
        if found:
            return found
    return None


def declared_range(cls: type[Options], name: str) -> Range | None:
    """The range a field declares with `searched(...)`; a bool or Literal without one is searched over all its values.

    Between whole numbers a float's range is continuous.
    """
    info = cls.model_fields[name]
    for mark in info.metadata:
        if isinstance(mark, Range):
            return replace(mark, integer=mark.integer and not _is_float(info.annotation))
    if info.annotation is bool:
        return Range(choices=(False, True))
    if get_origin(info.annotation) is Literal:
        return Range(choices=get_args(info.annotation))
    return None


def searchable(cls: type[Options], raw: Mapping[str, Value], prefix: str) -> Searchable:
    """Split a study's options into fixed values and dimensions; every end and choice of a range is validated as a value.

    Args:
        cls: the capability's options.
        raw: as written in the study.
        prefix: key path of `raw`, for dimensions and errors, such as `recipe.distillers[0].options`.

    Raises:
        StudyError: naming the key path.
    """
    fixed: dict[str, Value] = {}
    ranges: dict[str, Range] = {}
    order = {name: i for i, name in enumerate(cls.model_fields)}  # dimensions do not depend on the order of writing
    for name, value in sorted(raw.items(), key=lambda each: order.get(each[0], -1)):
        path = f"{prefix}.{name}" if prefix else name
        if name not in cls.model_fields:
            names = list(cls.model_fields)
            has = one_of(names) if names else "no options here"
            raise StudyError(f"unknown option '{name}'", path=path, nearest=nearest(name, names), expected=has)
        found = read_range(value, declared_range(cls, name), path, cls.model_fields[name].annotation)
        if found is None:
            fixed[name] = value
        else:
            ranges[name] = found
    ranges = _counting(cls, ranges, fixed)
    base = {**fixed, **{name: _example(found, found.ends[0]) for name, found in ranges.items()}}
    validate(cls, base, prefix)
    for name, found in ranges.items():
        for end in found.ends[1:]:
            validate(cls, {**base, name: _example(found, end)}, prefix)
    dims = []
    for name, found in ranges.items():
        path = f"{prefix}.{name}" if prefix else name
        when = tuple((f"{prefix}.{other}" if prefix else other, values) for other, values in found.when)
        when = tuple((other, values) for other, values in when if other.removeprefix(f"{prefix}.") in ranges)
        plain = replace(found, each=0, when=())
        paths = [f"{path}[{i}]" for i in range(found.each)] if found.each else [path]
        dims += [Dim(each, plain, when) for each in paths]
    return Searchable(cls, fixed, tuple(dims))


def _counting(cls: type[Options], ranges: Mapping[str, Range], fixed: Mapping[str, Value]) -> dict[str, Range]:
    """The ranges that no value of a field that is not searched puts off, written or by default; of the others fields have their
    default."""
    left: dict[str, Range] = dict(ranges)
    while True:
        infos = cls.model_fields.items()
        defaults = {name: info.get_default(call_default_factory=True) for name, info in infos if name not in left}
        said = {**defaults, **fixed}
        on = {
            name: each
            for name, each in left.items()
            if all(said[other] in values for other, values in each.when if other in said)
        }
        if len(on) == len(left):
            return on
        left = on


def _example(found: Range, end: Value) -> Value:
    value = _thaw(end)
    if found.integer:
        value = int(value)
    return [value] * found.each if found.each else value


def read_range(value: Value, declared: Range | None, path: str, of: Any = None) -> Range | None:
    """The range a study's value stands for, or None when it is a fixed value. Raise StudyError for a malformed range.

    of: the field's annotation. Between whole numbers a float's range is continuous.
    """
    if value == "search":
        if declared is None:
            raise StudyError(
                "'search', but this option declares no range",
                path=path,
                fix="Give {low: .., high: ..} or {choices: [..]}.",
            )
        return declared
    if not isinstance(value, Mapping) or not ({"low", "high", "choices"} & set(value)):
        return None
    keys, when = (
        set(value),
        declared.when if declared else (),
    )  # a range of the study's own counts where the declared one does
    if "choices" in keys:
        if keys != {"choices"} or not isinstance(value["choices"], Sequence) or isinstance(value["choices"], str):
            raise StudyError(f"got {dict(value)}", path=path, expected="{choices: [a, b, ...]} alone")
        if not value["choices"]:
            raise StudyError("choices is empty", path=path, expected="at least one value")
        first = value["choices"][0]
        is_whole = isinstance(first, Sequence) and not isinstance(first, str)  # choices of the whole sequence
        each = declared.each if declared and not is_whole else 0
        return Range(choices=tuple(_freeze(choice) for choice in value["choices"]), each=each, when=when)
    if not {"low", "high"} <= keys or keys - {"low", "high", "log"}:
        raise StudyError(f"got {dict(value)}", path=path, expected="{low: a, high: b} with an optional log: true")
    low, high, log = value["low"], value["high"], value.get("log", False)
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise StudyError(f"got {end!r}", path=path, expected="low and high as numbers")
    if not low < high:
        raise StudyError(f"low {low} is not below high {high}", path=path, expected="low < high")
    if not isinstance(log, bool):
        raise StudyError(f"log is {log!r}", path=path, expected="true or false")
    if log and low <= 0:
        raise StudyError(f"log range starts at {low}", path=path, expected="low > 0 where log is true")
    integer = (
        isinstance(low, int)
        and isinstance(high, int)
        and (declared is None or declared.integer or bool(declared.choices))
        and not _is_float(of)
    )
    return Range(low=low, high=high, log=log, integer=integer, each=declared.each if declared else 0, when=when)


def _is_float(annotation: Any) -> bool:
    """Whether its numbers, or those of its elements, are floats."""
    found = set(_types(annotation))
    return float in found and int not in found


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _freeze(value: Value) -> Value:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def requested_taps(options: Options) -> dict[str, list[str]]:
    """Role -> taps that these options name through `TapOf` (StudentTap, TeacherTap, or lists of them)."""
    taps: dict[str, list[str]] = {}
    for name, info in type(options).model_fields.items():
        marks = [mark for mark in info.metadata if isinstance(mark, TapOf)] + list(_tap_marks(info.annotation))
        value = getattr(options, name)
        if not marks or value is None:
            continue
        for tap in [value] if isinstance(value, str) else value:
            taps.setdefault(marks[0].role, []).append(tap)
    return taps


def named_teachers(options: Options) -> dict[str, str]:
    """Option -> the access that it asks of the teacher it names (`TeacherNamed`), for options that name one."""
    marked = (
        (name, mark)
        for name, info in type(options).model_fields.items()
        for mark in info.metadata
        if isinstance(mark, TeacherNamed)
    )
    return {name: mark.access for name, mark in marked if getattr(options, name) is not None}


def _tap_marks(annotation: Any) -> Iterator[TapOf]:
    if get_origin(annotation) is Annotated:
        yield from (mark for mark in annotation.__metadata__ if isinstance(mark, TapOf))
    for part in get_args(annotation):
        if not isinstance(part, str):
            yield from _tap_marks(part)


class Capability:
    """What every kind has in common: typed options, and what it needs, which is checked before any work.

    A subclass sets `Options` as its `options_class`; classes generic over their options read it from the brackets:
    `class FitNet(Distiller[FitNetOptions])`. It never opens a device, reads a path of its own, or asks for other
    capabilities but through what its methods are handed.
    """

    options_class: ClassVar[type[Options]] = NoOptions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):  # its own brackets, not an ancestor's
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, Options):
                    cls.options_class = argument
                elif isinstance(argument, type) and issubclass(argument, BaseModel):
                    raise TypeError(
                        f"{cls.__name__}: its options {argument.__name__} are no subclass of kdsearch.kinds.Options"
                    )
