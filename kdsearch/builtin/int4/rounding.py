"""Rounding that knows a layer's inputs: each weight's error is made up for by the weights not rounded yet.

GPTQ (Frantar et al. 2023, algorithm 1) on blocks whose scales are fixed beforehand, then sweeps that move one integer or
one scale at a time to its best value, which can only lower the error of the outputs. All in float64. A row of more than WIDTH
weights is cut into stretches, each rounded as if its inputs did not vary with the others': what is kept of inputs grows with
their number squared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch.builtin.int4.blocks import Array, Blocks, limits
from kdsearch.kit.onnx import open_model

DAMPING = 0.01  # of the mean diagonal, as in the paper
LEAST = float(np.finfo(np.float32).tiny)  # of a mean diagonal: below it the inputs do not vary
ROWS = 4096  # of inputs seen for a layer: its moments are an average, which more rows hardly change
SWEEPS = 4
WIDTH = 4608  # 512 channels of a 3x3 convolution
CHUNK = 128  # columns whose errors reach the columns behind them as one product


@dataclass(frozen=True)
class Read:
    """A node that multiplies its activation by a weight.

    Args:
        weight: name of the weight.
        node: `onnx_ir.Node`: Conv, Gemm or MatMul.
        at: which of the node's inputs the weight is.
        shape: of the weight.
    """

    weight: str
    node: Any
    at: int
    shape: tuple[int, ...]

    @property
    def activation(self) -> str:
        return str(self.node.inputs[1 - self.at].name)


@dataclass(frozen=True)
class Moments:
    """What is kept of a layer's input rows x (K,), for each of its G groups.

    Args:
        mean: (G, K) mean of x.
        covariance: of each stretch of x, k long, (G, k, k): what is left of the error when a bias takes its mean.
    """

    mean: Array
    covariance: list[Array]

    def second(self) -> list[Array]:
        """Of each stretch (G, k, k), the mean of x x^T."""
        means = _cut(self.mean, [each.shape[-1] for each in self.covariance])
        return [c + m[:, :, None] * m[:, None, :] for c, m in zip(self.covariance, means, strict=True)]


def stretches(length: int, block: int) -> list[int]:
    """Lengths of the stretches of a row, of whole blocks, the last one with what is left."""
    n = -(-length // WIDTH)
    size = -(-length // (n * block)) * block
    return [min(size, length - start) for start in range(0, length, size)]


def _cut(values: Array, lengths: Sequence[int]) -> list[Array]:
    """Along the last axis."""
    return np.split(values, np.cumsum(lengths)[:-1], axis=-1)


def unfold(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int = 1,
    most: int | None = None,
    rng: np.random.Generator | None = None,
) -> Array:
    """The windows that a convolution sees: (N, C, ...) -> (G, N * positions, C / G * kernel), in the order of its weights.

    Args:
        pads: as ONNX has them: all begins, then all ends.
        most: draw this many windows from `rng`, without copying the others.
    """
    dims = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)])
    spans = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + dims)))
    view = view[tuple(slice(None, None, step) for step in (1, 1, *strides, *dilations))]
    grid = (view.shape[0], *view.shape[2 : 2 + dims])
    sample, *places = np.unravel_index(_drawn(int(np.prod(grid)), most, rng), grid)
    index: tuple[Any, ...] = (sample, slice(None), *places)
    rows = view[index]
    return np.asarray(rows.reshape(len(rows), groups, -1).swapaxes(0, 1))


def _drawn(n: int, most: int | None, rng: np.random.Generator | None) -> Array:
    if most is None or rng is None or n <= most:
        return np.arange(n)
    return np.sort(rng.choice(n, most, replace=False))


def input_rows(read: Read, x: Array, most: int, rng: np.random.Generator) -> Array:
    """(G, rows, K): the vectors that a row of the weight is multiplied with; at most `most` of them."""
    options = {name: each.value for name, each in read.node.attributes.items()}
    if read.node.op_type == "Conv":
        kernel = read.shape[2:]
        strides, dilations = (options.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
        pads = _pads(options, x.shape[2:], kernel, strides, dilations)
        return unfold(x, kernel, strides, pads, dilations, options.get("group", 1), most, rng)
    is_transposed = read.at == 0 if read.node.op_type == "MatMul" else bool(options.get("transA", 0))
    rows = np.swapaxes(x, -1, -2) if is_transposed and x.ndim > 1 else x
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[_drawn(len(rows), most, rng)][None]


def _pads(
    options: Mapping[str, Any],
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    kind = options.get("auto_pad", "NOTSET")
    if kind == "NOTSET":
        return list(options.get("pads") or [0] * 2 * len(kernel))
    if kind == "VALID":
        return [0] * 2 * len(kernel)
    total = [
        max((-(-n // step) - 1) * step + (k - 1) * dilation + 1 - n, 0)
        for n, k, step, dilation in zip(size, kernel, strides, dilations, strict=True)
    ]
    less, more = [n // 2 for n in total], [n - n // 2 for n in total]
    return less + more if kind == "SAME_UPPER" else more + less


def moments(model: Any, reads: Sequence[Read], feeds: Iterable[Mapping[str, Any]], block: int) -> dict[str, Moments]:
    """Run the fp32 model on `feeds` and average what each weight is multiplied with. Weight's name -> moments; no feeds: {}.

    Nothing of a weight whose inputs are not finite, or too large to be squared.

    Args:
        reads: a weight with several is averaged over all of them.
        block: no stretch ends inside one.
    """
    batches = list(feeds)
    if not batches or not reads:
        return {}
    computed = {name for node in model.graph.node for name in node.output} | {each.name for each in model.graph.input}
    reads = [each for each in reads if each.activation in computed]  # the rest multiply constants
    wanted = sorted({each.activation for each in reads})
    session = open_model(model, wanted)
    rng = np.random.default_rng(0)
    most = -(-ROWS // len(batches))
    sums: dict[str, _Sums] = {}
    for batch in batches:
        names = [name for name in wanted if name not in batch]
        values = {**batch, **dict(zip(names, session.run(names, dict(batch)) if names else [], strict=True))}
        for read in reads:
            rows = input_rows(read, np.asarray(values[read.activation]), most, rng)
            if rows.shape[1]:
                sums.setdefault(read.weight, _Sums(stretches(rows.shape[2], block))).add(rows)
    found = {name: Moments(each.mean, [part / each.n for part in each.scatter]) for name, each in sums.items()}
    return {name: each for name, each in found.items() if all(np.isfinite(part).all() for part in each.covariance)}


class _Sums:
    """Mean and scatter about it of all rows so far. About the mean, since mean x x^T less the square of a large mean is noise."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths, self.n, self.mean = lengths, 0, np.zeros(())
        self.scatter: list[Array] = [np.zeros(()) for _ in lengths]

    @np.errstate(over="ignore", invalid="ignore")  # inputs that are not finite show in the scatter
    def add(self, rows: Array) -> None:
        """Of (G, rows, K) more (Chan, Golub and LeVeque, 1979)."""
        n, mean = rows.shape[1], rows.mean(1, dtype=np.float64)
        around = (rows - mean[:, None]).astype(rows.dtype)
        apart = mean - self.mean
        parts = zip(_cut(around, self.lengths), _cut(apart, self.lengths), strict=True)
        for i, (part, gap) in enumerate(parts):
            within = (part.swapaxes(1, 2) @ part).astype(np.float64)  # of one batch, in the file's own precision
            between = gap[:, :, None] * gap[:, None, :] * (self.n * n / (self.n + n))
            self.scatter[i] = self.scatter[i] + within + between
        self.mean, self.n = self.mean + apart * (n / (self.n + n)), self.n + n


def calibrate_all(w: Array, nearest: Blocks, second: Sequence[Array], bits: int = 4, sweeps: int = SWEEPS) -> Blocks:
    """As `calibrate`, stretch by stretch; `second`: of each."""
    lengths, block = [each.shape[-1] for each in second], nearest.block
    if len(lengths) == 1:
        return calibrate(w, nearest, second[0], bits, sweeps)
    blocks = [-(-length // block) for length in lengths]
    zeros = [None] * len(lengths) if nearest.zero is None else _cut(nearest.zero, blocks)
    parts = zip(_cut(w, lengths), _cut(nearest.q, lengths), _cut(nearest.scale, blocks), zeros, second, strict=True)
    made = [calibrate(rows, Blocks(q, scale, zero, block), each, bits, sweeps) for rows, q, scale, zero, each in parts]
    q, scale = (np.concatenate([getattr(each, name) for each in made], axis=1) for name in ("q", "scale"))
    return Blocks(q, scale, nearest.zero, block)


def calibrate(w: Array, nearest: Blocks, second: Array, bits: int = 4, sweeps: int = SWEEPS) -> Blocks:
    """Round again so that outputs, not weights, are near. Every row's output error is at most that of `nearest`.

    Weights of exactly 0 stay 0.

    Args:
        w: (R, K) rows; group g of G owns rows g R / G on.
        second: (G, K, K) mean of x x^T over the layer's inputs, or their covariance; finite.
        sweeps: after GPTQ, over all scales and levels.
    """
    groups, length = second.shape[:2]
    block = nearest.block

    def across(rows: Array) -> Array:
        """(R, n) -> (G, n, R / G): what is taken a column at a time lies together."""
        return np.ascontiguousarray(rows.astype(np.float64).reshape(groups, -1, rows.shape[-1]).swapaxes(1, 2))

    def along(columns: Array) -> Array:
        return columns.swapaxes(1, 2).reshape(-1, columns.shape[1])

    exact, scale = across(w), across(nearest.scale)
    zero = np.zeros_like(scale) if nearest.zero is None else across(nearest.zero)
    low, high = limits(bits, nearest.zero is None)
    grid = _Grid(np.arange(length) // block, zero, low, high, exact != 0)
    damped, level = _damped_spread(exact, scale, grid, second)
    for _ in range(sweeps):
        _sweep(exact, level, scale, grid, damped)
    zeros = None if nearest.zero is None else nearest.zero
    q = along(level + zero[:, grid.at]).astype(nearest.q.dtype)
    made = Blocks(q, along(scale).astype(np.float32), zeros, block)
    better = output_error(w, made, second) < output_error(w, nearest, second)
    return Blocks(
        np.where(better[:, None], made.q, nearest.q),
        np.where(better[:, None], made.scale, nearest.scale),
        zeros,
        block,
    )


def output_error(w: Array, blocks: Blocks, second: Array) -> Array:
    """(R,) mean squared error of each output, (w - wq) second (w - wq)^T."""
    error = (w.astype(np.float64) - blocks.values()).reshape(len(second), -1, w.shape[1])
    return np.asarray(((error @ second) * error).sum(-1).reshape(-1))


def mean_error(w: Array, blocks: Blocks, mean: Array) -> Array:
    """(R,) what the outputs lack on average, for inputs of mean (G, K)."""
    error = (w.astype(np.float64) - blocks.values()).reshape(len(mean), -1, w.shape[1])
    return np.asarray((error @ mean[..., None]).reshape(-1))


@dataclass(frozen=True)
class _Grid:
    """The values a weight can take: level * scale of its block, level = q - zero.

    Args:
        at: (K,) a column's block.
        zero: (G, blocks, R).
        free: (G, K, R) False where the weight stays 0.
    """

    at: Array
    zero: Array
    low: int
    high: int
    free: Array

    def level(self, target: Array, scale: Array, j: int) -> Array:
        """The level nearest to target (G, R) in column j."""
        b = self.at[j]
        zero = self.zero[:, b]
        level = np.clip(np.rint(target / scale[:, b]), self.low - zero, self.high - zero)
        return np.where(self.free[:, j], level, 0)


def _damped_spread(w: Array, scale: Array, grid: _Grid, second: Array) -> tuple[Array, Array]:
    """What was damped as little as it takes to factor, and GPTQ's levels by it: rounding may leave `second` indefinite."""
    diagonal, damping = np.einsum("gkk->gk", second).mean(1), DAMPING
    size = np.where(diagonal > LEAST, diagonal, 1.0)
    while True:
        damped = second + (damping * size)[:, None, None] * np.eye(second.shape[1])
        try:
            return damped, _spread(w, scale, grid, damped)
        except np.linalg.LinAlgError:
            damping *= 10


def _spread(w: Array, scale: Array, grid: _Grid, h: Array) -> Array:
    """GPTQ: levels (G, K, R). Columns with the largest inputs, by the mean of all groups, go first: most others can still help.

    Scales are fixed, so the order is free. Raise LinAlgError where h (G, K, K) is not positive definite.
    """
    order = np.argsort(-np.einsum("gkk->k", h), kind="stable")
    upper = _inverse_factor(h[:, order][:, :, order])
    left, level = w[:, order], np.zeros_like(w)
    for start in range(0, len(order), CHUNK):
        stop = min(start + CHUNK, len(order))
        errors = np.zeros((len(w), stop - start, w.shape[2]))
        for i in range(start, stop):
            j = order[i]
            level[:, j] = grid.level(left[:, i], scale, j)
            error = (left[:, i] - level[:, j] * scale[:, grid.at[j]]) / upper[:, i, i, None]
            left[:, i + 1 : stop] -= upper[:, i, i + 1 : stop, None] * error[:, None]
            errors[:, i - start] = error
        left[:, stop:] -= upper[:, start:stop, stop:].swapaxes(1, 2) @ errors
    return level


def _inverse_factor(h: Array) -> Array:
    """(G, K, K) upper triangles U with U^T U = h^-1, without the inverse: h backwards is L L^T, and U is L^-1 backwards."""
    from scipy.linalg.lapack import dtrtri

    backwards = np.linalg.cholesky(h[:, ::-1, ::-1])
    return np.stack([dtrtri(each, lower=1)[0] for each in backwards])[:, ::-1, ::-1]


def _sweep(w: Array, level: Array, scale: Array, grid: _Grid, h: Array) -> None:
    """In place: every block's scale by least squares, then each of its levels, given all the other values.

    A block's slopes, (h error) at its columns, are one product; what changes inside the block is added to them as it does.
    """
    error = w - level * scale[:, grid.at]
    for b in range(scale.shape[1]):
        columns = slice(*np.searchsorted(grid.at, (b, b + 1)).tolist())
        part, inner = level[:, columns], h[:, columns, columns]  # (G, B, R), (G, B, B)
        slopes, curved = h[:, columns] @ error, inner @ part
        power = (curved * part).sum(1)
        step = np.divide((slopes * part).sum(1), power, out=np.zeros_like(power), where=power > 0)
        step = np.where(np.abs(scale[:, b] + step) < 0.1 * np.abs(scale[:, b]), 0, step)
        scale[:, b] += step
        error[:, columns] -= step[:, None] * part
        slopes -= step[:, None] * curved
        for i in range(part.shape[1]):
            here = part[:, i] * scale[:, b]
            part[:, i] = grid.level(here + slopes[:, i] / inner[:, i, i, None], scale, columns.start + i)
            change = here - part[:, i] * scale[:, b]
            error[:, columns.start + i] += change
            slopes += inner[:, i, :, None] * change[:, None]
