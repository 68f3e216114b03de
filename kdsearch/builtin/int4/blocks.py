"""Blocks of weights as few bits with a scale each: the scale that loses least, not the one that spans the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Shares of the full range tried as the clipping range. Past 1 because a symmetric range [-8, 7] reaches 8 on one side only.
SHARES = tuple(np.linspace(0.6, 1.2, 25).tolist())


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
    count = -(-length // block)
    padded = np.zeros((rows, count * block), np.float32)
    padded[:, :length] = w
    x = padded.reshape(rows * count, block)
    q, scale, zero = (_symmetric if symmetric else _asymmetric)(x, bits)
    return Blocks(
        q.reshape(rows, -1)[:, :length],
        scale.reshape(rows, count),
        None if symmetric else zero.reshape(rows, count),
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
