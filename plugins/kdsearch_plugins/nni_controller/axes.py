"""Dimensions as NNI's search space knows them, and candidates as its parameters.

A choice is its position; whole numbers are quniform or qloguniform, others uniform or loguniform. A dimension that counts at some
values of another stands nested below these choices. NNI takes one level of nesting (TPE and GridSearch raise KeyError at a second
one), so what depends on a nested dimension stands beside it, and is left out of a candidate where it does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdsearch.errors import StudyError, nearest, one_of
from kdsearch.kinds import Ask, Dim, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import each_value
from kdsearch.kit.candidates import ask_of
from kdsearch.kit.dims import encode, is_active, parents_first

EDGE = 0.499  # beyond the ends of whole numbers, so that rounding gives each an equal share; at 0.5 it rounds to one too many


class Axis:
    """One dimension in NNI's words, there and back.

    Args:
        is_home: others are nested below its choices.
        ordered: choices that are all numbers are positions in their order, so that a tuner sees which are near.
    """

    def __init__(self, dim: Dim, is_home: bool, ordered: bool) -> None:
        self.dim, ranged = dim, dim.range
        self._choices = each_value(dim) if ranged.choices or is_home else []
        if not self._choices and ranged.low == ranged.high:
            self._choices = [ranged.low]
        is_numeric = len(self._choices) > 2 and all(type(each) in (int, float) for each in self._choices)
        if ordered and is_numeric and not is_home:
            self._choices.sort()
            self.json: dict[str, Any] = _whole(0, len(self._choices) - 1, log=False)
        elif self._choices:
            self.json = {"_type": "choice", "_value": list(range(len(self._choices)))}
        elif ranged.integer:
            self.json = _whole(int(ranged.low or 0), int(ranged.high or 0), ranged.log)
        else:
            self.json = {"_type": "loguniform" if ranged.log else "uniform", "_value": [ranged.low, ranged.high]}

    def inner(self, value: Value) -> float | int | None:
        """NNI's value for ours; None where it is outside the range."""
        if self._choices:
            return next((i for i, each in enumerate(self._choices) if encode(each) == encode(value)), None)
        low, high = self._ends
        is_number = type(value) is int or (type(value) is float and not self.dim.range.integer)
        return value if is_number and low <= value <= high else None

    def outer(self, inner: Any) -> Value:
        """Our value for NNI's, which may be a NumPy number or round an end away."""
        if self._choices:
            return self._choices[min(max(round(float(inner)), 0), len(self._choices) - 1)]
        low, high = self._ends
        return min(max(round(float(inner)) if self.dim.range.integer else float(inner), low), high)

    @property
    def any(self) -> float | int:
        """A value that stands where none counts."""
        return 0 if self._choices else self._ends[0]

    @property
    def _ends(self) -> tuple[float, float]:
        assert self.dim.range.low is not None
        assert self.dim.range.high is not None
        return self.dim.range.low, self.dim.range.high


def _whole(low: int, high: int, log: bool) -> dict[str, Any]:
    return {"_type": "qloguniform" if log else "quniform", "_value": [low - EDGE, high + EDGE, 1]}


class Axes:
    """The dimensions of the space and the further ones, as NNI's search space `json`.

    ordered: see Axis.
    """

    def __init__(self, space: SearchSpace[Any] | None, dims: Sequence[Dim], ordered: bool) -> None:
        self.space, self.dims = space, tuple(dims)
        own = space.dims if space is not None else ()
        self._own = {dim.path for dim in own}
        self._dims = {dim.path: dim for dim in parents_first([*own, *dims])}
        self._home: dict[str, str] = {}  # of a nested dimension, the one below which it stands
        self._branches: dict[str, frozenset[int]] = {}  # and the positions of the choices there
        for dim in self._dims.values():
            self._nest(dim)
        homes = set(self._home.values())
        self.by_path = {path: Axis(dim, path in homes, ordered) for path, dim in self._dims.items()}
        self.json = {path: self._entry(path) for path in self.by_path if path not in self._home}

    def _nest(self, dim: Dim) -> None:
        for path, allowed in dim.when[:1]:
            if path in self._home:
                self._home[dim.path], self._branches[dim.path] = self._home[path], self._branches[path]
            elif path in self._dims and self._dims[path].range.size is not None:
                texts, choices = {encode(each) for each in allowed}, each_value(self._dims[path])
                self._home[dim.path] = path
                self._branches[dim.path] = frozenset(i for i, each in enumerate(choices) if encode(each) in texts)

    def _below(self, path: str, at: int) -> list[str]:
        return [child for child, home in self._home.items() if home == path and at in self._branches[child]]

    def _entry(self, path: str) -> dict[str, Any]:
        json = self.by_path[path].json
        if path not in self._home.values():
            return json
        nested = [
            {"_name": str(i), **{child: self.by_path[child].json for child in self._below(path, i)}}
            for i in json["_value"]
        ]
        return {"_type": "choice", "_value": nested}

    def parameters(self, trial: Trial) -> dict[str, Any] | None:
        """The trial's values as a tuner gives them; None where one lies outside what is searched now."""
        values = dict(trial.values)
        if self.space is not None and trial.spec is not None:
            values |= self.space.values(self.space.parse(dict(trial.spec)))
        inner: dict[str, float | int] = {}
        for path, axis in self.by_path.items():
            found: float | int | None = axis.any
            if is_active(axis.dim, values):
                found = axis.inner(values[path]) if path in values else None
            if found is None:
                return None
            inner[path] = found
        return {path: self._of(path, inner) for path in self.json}

    def _of(self, path: str, inner: Mapping[str, float | int]) -> Any:
        if path not in self._home.values():
            return inner[path]
        below = self._below(path, int(inner[path]))
        return {"_name": str(inner[path]), **{child: inner[child] for child in below}}

    def asked(self, parameters: Mapping[str, Any]) -> Ask | None:
        """The candidate that a tuner gives; None where the space cannot build it."""
        inner: dict[str, Any] = {}
        for path, found in parameters.items():
            inner[path] = int(found["_name"]) if isinstance(found, dict) else found
            inner |= (
                {child: each for child, each in found.items() if child != "_name"} if isinstance(found, dict) else {}
            )
        values: dict[str, Value] = {}
        for path, axis in self.by_path.items():
            if path in inner and is_active(axis.dim, values):
                values[path] = axis.outer(inner[path])
        return self.ask_of(values)

    def ask_of(self, values: Mapping[str, Value]) -> Ask | None:
        """The candidate at these values by path; None where the space cannot build it."""
        if self.space is None:
            return ask_of(None, None, values)
        spec = self.space.at({path: value for path, value in values.items() if path in self._own})
        others = {path: value for path, value in values.items() if path not in self._own}
        return ask_of(self.space, spec, others) if self.space.is_valid(spec) else None

    def listed(self, sets: Sequence[Mapping[str, Value]], most: int) -> list[dict[str, Value]]:
        """Every candidate of the sets by path: what a set leaves out takes each value of its range.

        Raises:
            StudyError: a set has a path that is not searched or a value outside its range, what it leaves out is not finite, or
                there are more than `most` candidates; `path` is `sets[i]`.
        """
        found: list[dict[str, Value]] = []
        for i, given in enumerate(sets):
            for path, value in given.items():
                self._check(f"sets[{i}]", path, value)
            for values in self._every(f"sets[{i}]", given):
                found.append(values)
                if len(found) > most:
                    raise StudyError(
                        f"more than {most:,} candidates",
                        path=f"sets[{i}]",
                        expected="a list that is run through",
                        fix="Fix more values in each set, or use the tuner GridSearch.",
                    )
        return found

    def _check(self, where: str, path: str, value: Value) -> None:
        if path not in self.by_path:
            close = nearest(path, self.by_path)
            raise StudyError(f"'{path}' is not searched", path=where, nearest=close, expected=one_of(self.by_path))
        if Axis(self._dims[path], False, False).inner(value) is None:
            ranged = self._dims[path].range
            expected = one_of(map(encode, ranged.choices)) if ranged.choices else f"{ranged.low:g} to {ranged.high:g}"
            raise StudyError(f"'{path}' is {encode(value)}", path=where, expected=expected)

    def _every(self, where: str, given: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
        endless = [path for path, dim in self._dims.items() if path not in given and dim.range.size is None]
        if endless:
            raise StudyError(
                f"'{endless[0]}' is left out, and its range is not finite",
                path=where,
                expected="a value of it in each set, or choices or whole numbers",
                fix="Or use the tuner GridSearch.",
            )
        dims = list(self._dims.values())

        def below(i: int, values: dict[str, Value]) -> Iterator[dict[str, Value]]:
            if i == len(dims):
                yield values
            elif not is_active(dims[i], values):
                yield from below(i + 1, values)
            else:
                path = dims[i].path
                axis = Axis(dims[i], False, False)
                own = [axis.outer(axis.inner(given[path]))] if path in given else each_value(dims[i])
                for value in own:
                    yield from below(i + 1, {**values, path: value})

        yield from below(0, {})
