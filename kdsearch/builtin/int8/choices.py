"""What INT8 chooses among: static or dynamic, and which layers stay fp32, by validation where the host has any, and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import RefusedError
from kdsearch.kinds import Compressor, Judge
from kdsearch.kit.latency import measure
from kdsearch.kit.onnx import open_session, save_onnx

JUDGED = 32  # samples by which static and dynamic, and layers, are compared
LARGER = 1.15  # times the static file's bytes, above which the dynamic one is out of question
ERROR, NEAR = 1.25, 1.05  # ratios of errors, and of bytes or latencies, below which two are equal

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Layers:
    """A model's layers that may be quantised.

    Args:
        alone: the model with this layer quantised and no other. but: quantised, but for these.
    """

    model: Any
    names: Sequence[str]
    alone: Callable[[str], Any]
    but: Callable[[Sequence[str]], Any]


def mixed(layers: Layers, rows: Sequence[Row], work: Path, told: Compressor[Any], judge: Judge) -> Any:
    """As quantised as the bound on validation lets it be: 1, 2, 4, ... layers go back to fp32 until it holds, half of them at most.

    Where none holds, the file that loses least.
    """
    tried: list[tuple[float, int, Any, Path]] = []
    order: Sequence[str] = ()
    doubled = [2**i for i in range(len(layers.names).bit_length()) if 2**i <= max(len(layers.names) // 2, 1)]
    for n in (0, *doubled):
        if n and not order:
            order = most_sensitive(layers, rows, work, told)
        found, file = layers.but(order[:n]), work / f"mixed-{n}.onnx"
        save_onnx(found, file)
        tried.append((judge.lost(file), n, found, file))
        if judge.allows(tried[-1][0]):
            break
    if len(tried) == 1:
        return found
    _, n, found, file = tried[-1] if judge.allows(tried[-1][0]) else min(tried, key=lambda each: each[0])
    inputs = [rows[0][name] for name in read_inputs(layers.model)]
    shown = ", ".join(f"{each[1]}: {each[0]:.4g}" for each in tried)
    whole, own, fp32 = (measure(each, inputs).median_ms for each in (tried[0][3], file, work / "reference.onnx"))
    which = f", the most sensitive ({', '.join(order[:n])})" if n else ", since more lose no less"
    told.note(
        f"{n} of {len(layers.names)} layers in fp32{which}: on validation so many lose "
        f"{shown}, and {judge.allowed:.4g} may be lost; {own:.3g} ms, {whole:.3g} without them, {fp32:.3g} in fp32"
    )
    return found


def most_sensitive(layers: Layers, rows: Sequence[Row], work: Path, told: Compressor[Any]) -> list[str]:
    """Layers by how far the outputs move when one alone is quantised, the furthest first."""
    reference = work / "reference.onnx"
    save_onnx(layers.model, reference)
    errors = {}
    for at, name in enumerate(layers.names):
        told.progress(at / len(layers.names), f"sensitivity of {name}, {at + 1} of {len(layers.names)}")
        one = work / "one.onnx"
        save_onnx(layers.alone(name), one)
        errors[name] = relative_error(reference, one, rows[-JUDGED:])
    return sorted(layers.names, key=lambda name: -errors[name])


def better(
    file: Path, made: Mapping[str, Any], rows: Sequence[Row], work: Path, judge: Judge | None
) -> tuple[str, str, float]:
    """The one that stays, why, and what it loses on validation: the better one there, then the faster, nearer to fp32, smaller.

    Without validation data the nearer, by training samples, comes first, and what it loses is not known: 0.
    """
    files = {}
    for name, model in made.items():
        files[name] = work / f"{name}-made.onnx"
        save_onnx(model, files[name])
    judged = rows[-JUDGED:]
    errors = {name: relative_error(file, each, judged) for name, each in files.items()}
    sizes = {name: each.stat().st_size for name, each in files.items()}
    latency = {
        name: measure(each, [judged[0][key] for key in read_inputs(made[name])]).median_ms
        for name, each in files.items()
    }
    name = "dynamic"  # where all is equal: it needs no calibration
    if (
        sizes["dynamic"] > LARGER * sizes["static"]
    ):  # its weights are of operators that stay fp32: convolutions between norms
        loss = 0.0 if judge is None else judge.lost(files["static"])
        return "static", f"static: dynamic takes {sizes['dynamic']:,} bytes, not {sizes['static']:,}", loss
    lost = {} if judge is None else {each: judge.lost(files[each]) for each in files}
    if judge is not None and max(lost.values()) - min(lost.values()) > judge.equal:
        name = min(lost, key=lambda each: lost[each])
        why = f"{name}: on validation {', '.join(f'{each} loses {lost[each]:.4g}' for each in lost)}"
        return name, why, lost[name]
    by_error, by_latency = (errors, ERROR), (latency, NEAR)
    for figures, equal in (*((by_error, by_latency) if judge is None else (by_latency, by_error)), (sizes, NEAR)):
        if max(figures.values()) > equal * min(figures.values()):
            name = min(figures, key=lambda each: figures[each])
            break
    shown = "; ".join(
        f"{each}: error {errors[each]:.3g}, {sizes[each]:,} bytes, {latency[each]:.3g} ms" for each in made
    )
    by = f"{len(judged)} samples" if judge is None else "latency: on validation both are as good"
    return name, f"{name}, by {by} ({shown})", lost.get(name, 0.0)


def relative_error(fp32: Path, file: Path, rows: Sequence[Row]) -> float:
    """Of all outputs together: the norm of the difference over the norm of the fp32 answers, the worst output counts.

    Truth values are 0 and 1; where fp32 is not finite, nothing counts.

    Raises:
        RefusedError: one of the files fails at a sample.
    """
    sessions = [open_session(each) for each in (fp32, file)]
    sums: dict[int, tuple[float, float]] = {}
    for row in rows:
        try:
            found = [each.run(None, dict(row)) for each in sessions]
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise RefusedError(f"what was quantised fails at a sample: {reason}") from error
        for at, pair in enumerate(zip(*found, strict=True)):
            whole, other = (np.asarray(each, np.float64) for each in pair)
            counts = np.isfinite(whole)
            wrong, size = sums.get(at, (0.0, 0.0))
            apart = np.nan_to_num(whole[counts] - other[counts], nan=np.inf)
            sums[at] = wrong + float(np.square(apart).sum()), size + float(np.square(whole[counts]).sum())
    return max(float(np.sqrt(wrong / max(size, 1e-30))) for wrong, size in sums.values())


def read_inputs(model: Any) -> list[str]:
    """Names of the graph's inputs that are no weights."""
    weights = {each.name for each in model.graph.initializer}
    return [each.name for each in model.graph.input if each.name not in weights]
