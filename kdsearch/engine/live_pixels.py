"""What images that a Python program holds are: pixels, or what a transform made of such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.errors import DataError
from kdsearch.kinds import Field, Normalization

FAR = 0.5  # outside of 0..1, in pixels: random erasing and the like may overshoot a little


def preprocessing(image: Field, ends: tuple[float, float]) -> dict[str, Any]:
    """What networks are fed. Samples of 0..1 or 0..255 are pixels; what a transform made of others is not known."""
    channels, *size = image.sizes
    low, high = ends
    scale = 255.0 if low >= 0 and 16 < high <= 255 else 1.0
    is_pixels = low >= 0 and high <= scale
    return {
        "size": size,
        "channels": channels,
        "color": {1: "grey", 3: "RGB"}.get(channels),
        "range": [0.0, scale] if is_pixels else [low, high],
        "scale": scale,
        "mean": [0.0] * channels if is_pixels else None,
        "std": [1 / scale] * channels if is_pixels else None,  # (x / scale - 0) / (1 / scale) = x
        "formula": f"x in 0..{scale:g}" if is_pixels else f"as the samples of the study: {low:.4g}..{high:.4g}",
        "normalize": "as they are",
        "resize": "none",
        "resize_filter": None,
    }


def said_to_be(own: Normalization) -> dict[str, Any]:
    """What is said of images that somebody has said to be in it."""
    return {"mean": list(own.mean), "std": list(own.std), "normalize": "given"}


def made_of_pixels(told: Mapping[str, Any], own: Normalization, path: str = "data.normalize") -> dict[str, Any]:
    """`preprocessing` of samples that a transform has made of pixels in 0..1 already. Raise DataError where it cannot have."""
    ends = [end * std + mean for end in told["range"] for mean, std in zip(own.mean, own.std, strict=True)]
    if min(ends) < -FAR or max(ends) > 1 + FAR:
        raise DataError(
            f"samples of {told['range'][0]:.4g}..{told['range'][1]:.4g} would be pixels of "
            f"{min(ends):.3g}..{max(ends):.3g} by this mean and std",
            path=path,
            expected="the mean and std that the samples' own transform used, of pixels in 0..1",
        )
    formula = "(x - mean) / std, a channel each; x in 0..1, by the samples' transform"
    return {**told, **said_to_be(own), "range": [0.0, 1.0], "scale": 1.0, "formula": formula}
