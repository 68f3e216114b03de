"""Blocks of weights as few bits with a scale each: the scale that loses least, not the one that spans the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Shares of the full range tried as the clipping range. Past 1 because a symmetric range [-8, 7] reaches 8 on one side only.
SHARES = tuple(np.linspace(0.6, 1.2, 25).tolist())
NORM, TURNS = 0.7, 40  # of half-quadratic quantisation


@dataclass(frozen=True)
class Blocks:
    """Rows of weights, quantised in blocks along each row: w ~ (q - zero) * scale.

    Args:
        q: (R, K) integers.
        scale: (R, ceil(K / block)) float32, > 0 or < 0.
        zero: like scale, integers; None = 0.
    """

    q: Array
    scale: Array
    zero: Array | None
    block: int

    def values(self) -> Array:
        """(R, K) float32: what a runtime computes with."""
        at = np.arange(self.q.shape[1]) // self.block
        q = self.q.astype(np.float32)
        return np.asarray((q - self.zero[:, at] if self.zero is not None else q) * self.scale[:, at], np.float32)


def limits(bits: int, symmetric: bool) -> tuple[int, int]:
    """Least and largest integer: signed without a zero point, unsigned with one."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def fit(w: Array, block: int, bits: int = 4, symmetric: bool = True) -> Blocks:
    """Quantise rows (R, K) so that each block's sum of squared errors is the least over a grid of clipping ranges.

    For every range the integers are rounded, the scale is refitted to them by least squares, and they are rounded again.
    Symmetric scales are tried with both signs: [-8, 7] then spends its longer side on the block's larger one.
    """
    rows, length = w.shape
    q, scale, zero = (_symmetric if symmetric else _asymmetric)(_blocked(w, block), bits)
    return _unblocked(q, scale, None if symmetric else zero, rows, length, block)


def plain(w: Array, block: int, bits: int = 4, symmetric: bool = True) -> Blocks:
    """Rounding to the nearest in the range that each block spans: what every tool offers, and the others are measured against."""
    rows, length = w.shape
    x = _blocked(w, block)
    low, high = limits(bits, symmetric)
    if symmetric:
        scale, zero = _safe(np.abs(x).max(1, keepdims=True) / high), np.zeros((len(x), 1), np.int16)
    else:
        least, most = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
        scale = _safe((most - least) / high)
        zero = np.clip(np.rint(-least / scale), 0, high).astype(np.int16)
    q = np.clip(np.rint(x / scale) + zero, low, high).astype(np.int16)
    return _unblocked(q, scale, None if symmetric else zero, rows, length, block)


def half_quadratic(w: Array, block: int, bits: int = 4, symmetric: bool = True) -> Blocks:
    """HQQ (Badri and Shaji, 2023): the scale that is best but for a few outliers, without data.

    min |e|_p + beta / 2 |x - (q - zero) scale - e|^2, p = 0.7, by turns: e by generalised soft thresholding, then scale. HQQ moves
    the zero point instead, which ONNX wants whole.
    """
    rows, length = w.shape
    x = _blocked(w, block)
    start = fit(w, block, bits, symmetric)
    low, high = limits(bits, symmetric)
    scale = start.scale.reshape(-1, 1).astype(np.float32)
    zero = np.zeros_like(scale) if start.zero is None else start.zero.reshape(-1, 1).astype(np.float32)

    def rounded(scale: Array) -> Array:
        return np.clip(np.rint(x / scale) + zero, low, high) - zero

    def loss(q: Array, scale: Array) -> Array:
        return np.asarray((np.abs(x - q * scale) ** NORM).sum(1, keepdims=True))

    q = rounded(scale)
    best_q, best_scale, best = q, scale, loss(q, scale)
    beta = 10.0 / np.maximum(np.abs(x).max(1, keepdims=True), 1e-12)
    for _ in range(TURNS):
        error = x - q * scale
        size = np.abs(error)
        e = np.sign(error) * np.maximum(size - np.maximum(size, 1e-12) ** (NORM - 1) / beta, 0)
        power = (q * q).sum(1, keepdims=True)
        scale = _safe(np.where(power > 0, ((x - e) * q).sum(1, keepdims=True) / np.where(power > 0, power, 1), scale))
        q = rounded(scale)
        now = loss(q, scale)
        better = now < best
        best, best_q, best_scale = (
            np.where(better, now, best),
            np.where(better, q, best_q),
            np.where(better, scale, best_scale),
        )
        beta = beta * 1.2
    made = (best_q + zero).astype(np.int16)
    return _unblocked(made, best_scale, None if symmetric else zero.astype(np.int16), rows, length, block)


def _blocked(w: Array, block: int) -> Array:
    """(R, K) -> (R * blocks, block), zeros behind."""
    rows, length = w.shape
    count = -(-length // block)
    padded = np.zeros((rows, count * block), np.float32)
    padded[:, :length] = w
    return padded.reshape(rows * count, block)


def _unblocked(q: Array, scale: Array, zero: Array | None, rows: int, length: int, block: int) -> Blocks:
    count = -(-length // block)
    return Blocks(
        q.reshape(rows, -1)[:, :length],
        scale.reshape(rows, count).astype(np.float32),
        None if zero is None else zero.reshape(rows, count),
        block,
    )


def _symmetric(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """(M, B) -> integers (M, B), scale (M, 1), zeros."""
    low, high = limits(bits, symmetric=True)
    full = np.abs(x).max(1, keepdims=True) / -low
    best = _Best(x)
    for share in SHARES:
        for sign in (1.0, -1.0):
            best.offer(full * np.float32(share * sign), np.zeros_like(full), low, high)
    return best.q, best.scale, best.zero


def _asymmetric(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """(M, B) -> integers (M, B), scale (M, 1), zero points (M, 1); the range always holds 0, so that zeros stay zeros."""
    _, high = limits(bits, symmetric=False)
    least, most = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
    best = _Best(x)
    shares = SHARES[::4]
    for below in shares:
        for above in shares:
            scale = np.asarray((most * above - least * below) / high, np.float32)
            zero = np.clip(np.rint(-least * below / _safe(scale)), 0, high)
            best.offer(scale, zero, 0, high)
    return best.q, best.scale, best.zero


class _Best:
    """The best quantisation of each block seen so far."""

    def __init__(self, x: Array) -> None:
        self.x = x
        self.error = np.full((len(x), 1), np.inf, np.float32)
        self.q = np.zeros(x.shape, np.int16)
        self.scale, self.zero = np.ones((len(x), 1), np.float32), np.zeros((len(x), 1), np.int16)

    def offer(self, scale: Array, zero: Array, low: int, high: int) -> None:
        x = self.x
        q = np.clip(np.rint(x / _safe(scale)) + zero, low, high) - zero
        power = (q * q).sum(1, keepdims=True)
        fitted = np.asarray((x * q).sum(1, keepdims=True) / np.where(power > 0, power, 1), np.float32)
        scale = _safe(np.where(power > 0, fitted, scale))
        q = np.clip(np.rint(x / scale) + zero, low, high)
        error = np.square(x - (q - zero) * scale).sum(1, keepdims=True)
        better = error < self.error
        self.error = np.where(better, error, self.error)
        self.q = np.where(better, q, self.q).astype(np.int16)
        self.scale = np.where(better, scale, self.scale)
        self.zero = np.where(better, zero, self.zero).astype(np.int16)


def _safe(scale: Array) -> Array:
    """A block of zeros has no scale: 1."""
    return np.where(np.abs(scale) < 1e-30, np.float32(1), scale).astype(np.float32)
