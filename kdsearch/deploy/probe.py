"""What a card keeps of a file's answers, so that anybody can ask for them again with numpy and onnxruntime alone.

The questions are drawn from a seed by numpy's RandomState, whose stream never changes; the answers are a few of the numbers that
the network and its file gave when the card was written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kdsearch.deploy.parity import Difference, numbers, own_errors, place_of, units_of
from kdsearch.errors import RefusedError
from kdsearch.kinds import Call, Field, Graph
from kdsearch.ops import detections
from kdsearch.ops.apart import beyond

Array = np.ndarray[Any, Any]
ROWS = 3  # samples asked at once
MOST_ROWS = 256  # the same where each id is asked for
MOST_ANSWERS = 4_000_000  # numbers that so many samples may be answered with
KEPT = 48  # numbers kept of an output, evenly spaced over it
DIGITS = 9  # significant, which name a float32 exactly


def rows_of(inputs: Sequence[Field], outputs: Sequence[Field]) -> int:
    """How many samples are asked at once: of classes so many that each number that is kept is another answer, of ids so many
    that each one occurs, as far as these are few enough.
    """
    most = max((-(-KEPT // math.prod(each.sizes)) for each in outputs if each.is_class), default=ROWS)
    room = MOST_ANSWERS // max(1, sum(math.prod(each.sizes) for each in outputs))
    return max(most, ROWS, min(max(map(_ids_a_place, inputs), default=0), MOST_ROWS, room))


def _ids_a_place(field: Field) -> int:
    """Samples in which each id occurs, anywhere or, of categories, in each column, whose own ids the field does not tell."""
    places = {"all": math.prod(field.sizes), "columns": 1}.get(_values(field))
    return -(-(field.n_values or 0) // max(places, 1)) if places is not None else 0


def question(inputs: Sequence[Field], rows: int = ROWS) -> list[dict[str, Any]]:
    """How each input is drawn, as JSON: `values` is normal (`mean`, `std`), integers below `below`, all of these by turns, all of
    them in each of the columns, or ones.
    """
    return [
        {"name": each.name, "shape": [rows, *each.sizes], "dtype": each.dtype, "values": _values(each), **_range(each)}
        for each in inputs
    ]


def _values(field: Field) -> str:
    if field.kind in ("mask", "present"):
        return "ones"
    if field.torch_dtype.is_floating_point:
        return "normal"
    return {"tokens": "all", "categories": "columns"}.get(field.kind, "integers") if field.n_values else "integers"


def _range(field: Field) -> dict[str, Any]:
    if _values(field) in ("integers", "all", "columns"):
        return {"below": field.n_values or 2}
    return {"mean": list(field.mean), "std": list(field.std)} if field.mean and _values(field) == "normal" else {}


def drawn(question: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Array]:
    """The inputs that a question means. Raise KeyError, ValueError or TypeError where it is none."""
    rng = np.random.RandomState(seed)
    found = {}
    for each in question:
        values: Array
        shape, dtype = tuple(int(size) for size in each["shape"]), np.dtype(str(each["dtype"]))
        if each["values"] == "ones":
            values = np.ones(shape)
        elif each["values"] == "integers":
            values = rng.randint(0, int(each["below"]), shape)
        elif each["values"] == "all":
            values = np.resize(rng.permutation(int(each["below"])), shape)
        elif each["values"] == "columns":
            rows, columns = shape[0], math.prod(shape[1:])
            by_column = [np.resize(rng.permutation(int(each["below"])), rows) for _ in range(columns)]
            values = np.stack(by_column, 1).reshape(shape)
        else:
            values = rng.standard_normal(shape) * np.asarray(each.get("std", 1.0)) + np.asarray(each.get("mean", 0.0))
        found[str(each["name"])] = np.ascontiguousarray(values.astype(dtype))
    return found


def record(
    graph: Graph,
    torch_call: Call,
    file_call: Call,
    seed: int = 0,
    bound: float | None = None,
    exact: Callable[[], Call] | None = None,
) -> dict[str, Any] | None:
    """What the card keeps of one graph; None where the network itself has no finite answer to noise.

    `bound` and `exact`: as of `parity.compare`; an output, or a column of it that has a unit of its own, which is further off
    here has torch's own error beside it.
    """
    asked = question(graph.inputs, rows_of(graph.inputs, graph.outputs))
    tensors = [torch.from_numpy(each) for each in drawn(asked, seed).values()]
    try:
        expected = numbers(torch_call, tensors, graph.inputs, graph.outputs)
        got = file_call(*tensors)
    except (RefusedError, RuntimeError, IndexError, ValueError):  # noise may be no input that the network takes
        return None
    answers = []
    for each, name in zip(graph.outputs, graph.names_out, strict=True):
        whole, own = (values[each.name].detach().cpu().double().numpy() for values in (expected, got))
        if whole.shape != own.shape or not np.isfinite(whole).all() or not np.isfinite(own).all():
            return None
        at = places_of(each, whole.shape)
        told = _told(each, whole)
        found = _apart({"name": name, **told}, whole, own, {})
        far = [one for one in found if bound is not None and one.max_abs > one.allowed(bound)]
        if far and exact is not None:
            torchs = own_errors(torch_call, exact, graph.inputs, [each], [tensors])
            for one in far:  # told itself, or what it says of the column
                beside = told if one.column is None else told["columns"][one.column]
                beside["torch_fp32_to_fp64"] = torchs[place_of(each.name, one.column)]
        answers.append(
            {
                "name": name,
                "shape": list(whole.shape),
                "scale": _short(told.get("scale", 1.0)),
                **{key: value for key, value in told.items() if key != "scale"},
                "at": at,
                "torch": [_short(value) for value in whole.flat[at].tolist()],
                "file": [_short(value) for value in own.flat[at].tolist()],
                **_kept_sums(each, told, whole, own, seed),
            }
        )
    kept: dict[str, Any] = {"seed": seed, "inputs": asked, "outputs": answers}
    if bound is None:  # ranges that a file takes at each call are those of all samples together
        company = max(each.relative for each in alone(kept, _by_name(graph, file_call)))
        kept |= {"company": _short(company)} if 0 < company < math.inf else {}
    return kept


def _by_name(graph: Graph, call: Call) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The file as `differences` asks it: arrays by names, those of its outputs as they are in it."""

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = call(*(torch.from_numpy(feeds[each.name]) for each in graph.inputs))
        pairs = zip(graph.outputs, graph.names_out, strict=True)
        return {name: found[each.name].detach().cpu().numpy() for each, name in pairs}

    return run


def _told(field: Field, whole: Array) -> dict[str, Any]:
    """How two answers of an output are compared: as sets of detections, on these scales, as classes, or as numbers."""
    if field.is_set:
        return {"is_class": False, "is_set": list(detections.scales(whole[whole[..., 5] >= 0]))}
    if field.is_class:
        return {"is_class": True}
    if units := units_of(field):
        columns = [_scaled(whole[:, i], unit) for i, unit in enumerate(units)]
        return {"is_class": False, "scale": _scaled(whole)["scale"], "columns": columns}
    return {"is_class": False, **_scaled(whole)}


def places_of(field: Field, shape: Sequence[int]) -> list[int]:
    """Flat positions of the numbers that are kept of an answer: of detections whole rows, the best of each sample; whole rows, too,
    where each column is judged by itself.
    """
    if units_of(field):
        n, columns = shape
        asked = np.linspace(0, n - 1, min(n, max(ROWS, KEPT // columns))).round()
        return [int(row) * columns + i for row in asked for i in range(columns)]
    if not field.is_set:
        return places(math.prod(shape))
    n, rows, columns = shape
    best = np.arange(math.prod(shape)).reshape(n, rows, columns)[:, : max(1, KEPT // n)]
    return [int(at) for at in best.flat]


def places(size: int) -> list[int]:
    """Flat positions of the numbers that are kept."""
    return sorted({int(at) for at in np.linspace(0, size - 1, min(size, KEPT)).round()})


def _scaled(whole: Array, unit: float = 0.0) -> dict[str, float]:
    """`scale` of an answer, and `beyond`, where some of its numbers stand apart: the magnitude that these are above. unit: the
    standard deviation of a column as its field states it.
    """
    most = beyond(whole)
    usual = whole[np.abs(whole) <= most]
    scale = max(float(usual.std()), unit or math.sqrt(float(np.square(usual).mean())) / 100) if usual.size else unit
    return {"scale": scale} if math.isinf(most) else {"scale": scale, "beyond": most}


def sums(answer: Array, seed: int, most: float = math.inf) -> Array:
    """(B,) of an answer (B, ...): the sum of all numbers of a sample, each with a sign that is drawn, on the scale of one number.

    What a weight changes is seen wherever it is in the answer; differences in every direction do not add up. Numbers above
    `most` are left out.
    """
    rows = answer.reshape(len(answer), -1)
    rows = np.where(np.abs(rows) <= most, rows, 0.0)
    signs = 2.0 * np.random.RandomState(seed).randint(0, 2, rows.shape[1]) - 1
    found: Array = rows @ signs / math.sqrt(max(rows.shape[1], 1))
    return found


def _kept_sums(field: Field, told: Mapping[str, Any], torch: Array, file: Array, seed: int) -> dict[str, Any]:
    """`sums` of numbers; `unit_sums`, each number in its column's unit, where they have units of their own; nothing of others."""
    if field.is_class or field.is_set:
        return {}
    both, columns, most = {"torch": torch, "file": file}, told.get("columns"), float(told.get("beyond", math.inf))
    found = {of: _unit_sums(each, columns, seed) if columns else sums(each, seed, most) for of, each in both.items()}
    kept = {of: [_short(value) for value in values.tolist()] for of, values in found.items()}
    return {"unit_sums" if columns else "sums": kept}


def _unit_sums(answer: Array, columns: Sequence[Mapping[str, Any]], seed: int) -> Array:
    """`sums` of (B, K) numbers in units of their columns' scales."""
    return sums(answer / np.asarray([float(each["scale"]) for each in columns]), seed)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def apart(output: Mapping[str, Any], then: Array, now: Array, own: float | None = None) -> Difference:
    """How far two answers of an output are: what a card keeps of it, the former answer, the one of now, torch's own error.

    Infinitely where the one of now has another shape, or either is not finite.
    """
    name, most = str(output["name"]), float(output.get("beyond", math.inf))
    if scaled := output.get("is_set"):
        boxes, scores = scaled
        return Difference(
            name, detections.furthest(detections.gaps(then, now, (float(boxes), float(scores)))), 1.0, 0.0, own
        )
    is_apart = np.abs(then) > most
    largest = float(np.abs(then[~is_apart]).max(initial=0))
    if output.get("is_class"):
        unequal = float((now != then).mean()) if now.shape == then.shape else math.inf
        return Difference(name, unequal, 1.0, 0.0, own, is_share=True)
    comparable = now.shape == then.shape and np.isfinite(now).all() and np.isfinite(then).all()
    scale = float(output["scale"])
    if not comparable:
        return Difference(name, math.inf, scale, largest, own)
    gaps = np.abs(now - then)
    gaps[is_apart] *= scale / np.abs(then[is_apart])
    return Difference(name, float(gaps.max(initial=0)), scale, largest, own)


def _apart(
    output: Mapping[str, Any], then: Array, now: Array, own: Mapping[str, float], at: Sequence[int] | None = None
) -> list[Difference]:
    """`apart` of an output, or of each of its columns that has a unit of its own.

    Args:
        own: torch's own error of an output, or of a column as in `value[1]`.
        at: flat positions of these numbers in the whole answer; None = they are all of it.
    """
    name, columns = str(output["name"]), output.get("columns")
    if not columns or then.shape != now.shape:
        return [apart(output, then, now, own.get(name))]
    of = (np.arange(then.size) if at is None else np.asarray(at)) % len(columns)
    found = []
    for i, told in enumerate(columns):
        before, after = then.reshape(-1)[of == i], now.reshape(-1)[of == i]
        mine = apart({**output, **told}, before, after, own.get(place_of(name, i)))
        found.append(replace(mine, column=i))
    return found


def own_at_question(kept: Mapping[str, Any]) -> dict[str, float]:
    """Output, or column as in `value[1]` -> torch's own error where it was measured, else 0."""
    found = dict[str, float]()
    for each in kept["outputs"]:
        places: list[tuple[int | None, Mapping[str, Any]]] = [(None, each), *enumerate(each.get("columns", ()))]
        found |= {place_of(str(each["name"]), i): float(of.get("torch_fp32_to_fp64") or 0) for i, of in places}
    return found


def alone(
    kept: Mapping[str, Any],
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    own: Mapping[str, float] | None = None,
) -> list[Difference]:
    """How far answers to samples that are asked alone are from those to the same samples together, output by output."""
    feeds = drawn(kept["inputs"], int(kept["seed"]))
    if not any(each.get("is_class") for each in kept["outputs"]):  # of classes a share is judged, which takes many
        feeds = {name: value[:ROWS] for name, value in feeds.items()}
    whole, n = run(feeds), len(next(iter(feeds.values())))
    rows = [run({name: value[at : at + 1] for name, value in feeds.items()}) for at in range(n)]
    found = []
    for each in kept["outputs"]:
        name = str(each["name"])
        one = np.concatenate([row[name] for row in rows]).astype(np.float64)
        found += _apart(each, whole[name].astype(np.float64), one, own or {})
    return found


def differences(
    kept: Mapping[str, Any],
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    against: str,
    own: Mapping[str, float] | None = None,
) -> list[Difference]:
    """What a file answers now against what was kept of `torch` or `file`, output by output. own: torch's own error of each.

    Raises:
        RefusedError: the file fails, or an output is missing or has another shape.
    """
    feeds = drawn(kept["inputs"], int(kept["seed"]))
    try:
        got = run(feeds)
    except Exception as error:  # whatever the runtime raises
        raise RefusedError(f"the file fails at what its card asks: {str(error).splitlines()[0][:200]}") from error
    found = []
    for each in kept["outputs"]:
        name = str(each["name"])
        if name not in got:
            raise RefusedError(f"the file has no output '{name}'", expected=", ".join(got))
        if list(got[name].shape) != list(each["shape"]):
            raise RefusedError(
                f"output '{name}' is {list(got[name].shape)}", expected=f"{each['shape']}, as its card says"
            )
        whole = got[name].astype(np.float64)
        now, then = whole.flat[list(each["at"])], np.asarray(each[against], np.float64)
        if each.get("is_set"):
            now, then = whole, then.reshape(len(whole), -1, whole.shape[2])  # any may stand lower now
        if told := each.get("sums"):
            most = float(each.get("beyond", math.inf))
            now = np.concatenate([now, sums(whole, int(kept["seed"]), most)])
            then = np.concatenate([then, np.asarray(told[against], np.float64)])
        found += _apart(each, then, now, own or {}, each["at"])
        if told := each.get("unit_sums"):
            now, then = _unit_sums(whole, each["columns"], int(kept["seed"])), np.asarray(told[against], np.float64)
            found.append(apart({"name": name, "scale": 1.0}, then, now, max(_in_units(each, own or {}))))
    return found


def _in_units(output: Mapping[str, Any], own: Mapping[str, float]) -> list[float]:
    """Torch's own error of each column, of its scale."""
    name = str(output["name"])
    return [own.get(place_of(name, i), 0.0) / float(each["scale"]) for i, each in enumerate(output["columns"])]
