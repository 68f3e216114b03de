"""Samples without labels of the user's own, where no task judges: quantizers see some, and files are compared on the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import DataError, StudyError, nearest, one_of
from kdsearch.kinds import COMMON, IO, Batch, Field, Normalization
from kdsearch.kit.arrays import read_arrays
from kdsearch.kit.images import decode, image_files
from kdsearch.python.fed import of_timm
from kdsearch.python.given import Given
from kdsearch.store.hashing import stream

CALIBRATION, COMPARED = 256, 64  # samples at most, of each, where no quantizer asks for more
BYTES = 1 << 29  # of those that quantizers see, at most
EXPECTED = "data, random, a folder of images, or a .npz of inputs as the network reads them"


@dataclass(frozen=True)
class Brought:
    """What was brought, by the names that the network has for its inputs.

    Args:
        calibration: for quantizers. compared: what files are compared on; others, where there are enough.
        split: what `compared` is, for the card. name: of folder or file, without its place.
        given: what is known of images, and how they were prepared.
    """

    calibration: Batch
    compared: Batch
    split: str
    name: str
    given: Given = field(default_factory=Given)

    def feeds(self, n: int = CALIBRATION) -> list[dict[str, Any]]:
        """Of n samples at most."""
        return feeds(self.calibration.rows(torch.arange(min(n, len(self.calibration)))))

    def batches(self) -> list[Batch]:
        return _parts(self.compared)


def feeds(batch: Batch) -> list[dict[str, Any]]:
    """As quantizers get them."""
    return [{name: each.numpy() for name, each in some.tensors.items()} for some in _parts(batch)]


def is_images(brought: Any) -> bool:
    """Whether it is a folder, whose images have to be prepared. Raise StudyError for a path of neither that nor a .npz."""
    if not isinstance(brought, str | Path):
        return False
    if os.path.isdir(brought):  # of a name that no file system takes, too
        return True
    if Path(brought).suffix.lower() != ".npz":
        problem = f"got '{brought}'" if os.path.lexists(brought) else f"there is no '{brought}'"
        raise StudyError(problem, path="--calibration", expected=EXPECTED)
    return False


@dataclass(frozen=True)
class Reader:
    """The network that samples are brought for, and what is known of how it reads them.

    Args:
        normalize: what it was trained on; "auto": `own` (as other data have it), what its file says, or timm.
        is_sized: whether `open_size` of an input is what images are fed in, and what arrays have.
    """

    io: IO
    net: nn.Module
    given: Given
    normalize: str = "auto"
    own: Normalization | None = None
    is_sized: bool = False


def brought_of(brought: Any, by: Reader, seed: int, most: int = CALIBRATION) -> Brought:
    """Samples from a folder of images, a .npz, an array, or arrays by the inputs' names; `most` for quantizers.

    Raises:
        StudyError, DataError: what was brought is no such thing, has not the network's inputs, or holds fewer than two samples.
    """
    if is_images(brought):
        return _of_images(Path(brought), by, seed, most)
    if isinstance(brought, str | Path):
        name, arrays = Path(brought).name, read_arrays(Path(brought))
    else:
        name = "the caller's samples"
        arrays = {str(key): each for key, each in brought.items()} if isinstance(brought, Mapping) else {"": brought}
    place = Path(brought) if isinstance(brought, str | Path) else None
    tensors = _inputs(arrays, by.io, place, by.is_sized)
    n = len(next(iter(tensors.values())))
    sample_bytes = sum(each[:1].numel() * each.element_size() for each in tensors.values())
    shown, held, split = _divided(n, sample_bytes, seed, place, most)
    calibration, compared = (
        Batch(tuple(map(str, at)), {key: each[at] for key, each in tensors.items()}) for at in (shown, held)
    )
    return Brought(calibration, compared, f"samples {split}", name, by.given)


def _of_images(folder: Path, by: Reader, seed: int, most: int) -> Brought:
    """Scaled so that they cover what the network reads, and the middle of them, as `predict.py` does."""
    image, given = by.io.inputs[0], by.given
    axis = _channel_axis(image)
    is_bytes = image.dtype == "uint8"
    if len(by.io.inputs) != 1 or axis is None or not (is_bytes or image.torch_dtype.is_floating_point):
        read = ", ".join(
            f"{each.name} ({each.dtype} {'x'.join(str(size or '?') for size in each.shape)})" for each in by.io.inputs
        )
        raise StudyError(
            f"the network reads {read}",
            path="--calibration",
            expected="one grey or RGB image of floats or uint8, or a .npz with its inputs",
        )
    if is_bytes and by.normalize != "auto":
        raise StudyError(f"'{image.name}' is of uint8: images are fed as they are", path="--normalize", expected="auto")
    channels = image.sizes[axis]
    shape = image.sizes if by.is_sized else image.shape
    sides: list[int | None] = [size for at, size in enumerate(shape) if at != axis]
    if None in sides:
        sides = list(given.preprocessing.get("size") or sides)
    height, width = sides
    if height is None or width is None:
        raise StudyError(
            "nobody knows which size of images the network is fed", path="--input-shape", expected="such as 3,224,224"
        )
    files = image_files(folder)
    at_a_time = channels * height * width * image.torch_dtype.itemsize
    shown, held, split = _divided(len(files), at_a_time, seed, folder, most)
    wanted = None if is_bytes else _normalization(by).of(channels)

    def batch(index: Sequence[int]) -> Batch:
        rows = [_fitted(decode(files[i], channels), height, width) for i in index]
        pixels = torch.stack(rows)
        if wanted is not None:
            mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (wanted.mean, wanted.std))
            pixels = ((pixels / 255 - mean) / std).to(image.torch_dtype)
        pixels = pixels if axis == 0 else pixels.movedim(1, -1).contiguous()
        return Batch(tuple(files[i].relative_to(folder).as_posix() for i in index), {image.name: pixels})

    about = (
        given
        if wanted is None
        else replace(given, preprocessing=_preprocessing(wanted, channels, height, width, given))
    )
    calibration = batch(shown)
    return Brought(
        calibration, calibration if held == shown else batch(held), f"images {split}", folder.absolute().name, about
    )


def _normalization(by: Reader) -> Normalization:
    if by.normalize != "auto":
        if by.normalize not in COMMON:
            raise StudyError(f"got '{by.normalize}'", path="--normalize", expected=one_of(["auto", *COMMON]))
        return COMMON[by.normalize]
    known = by.own or by.given.normalization or of_timm(by.net)
    if known is None:
        raise StudyError(
            "nobody knows how images become what the network reads", path="--normalize", expected=one_of(COMMON)
        )
    return known


def _preprocessing(wanted: Normalization, channels: int, height: int, width: int, given: Given) -> dict[str, Any]:
    """For file and card, as data sets of images say it."""
    if given.normalization is not None and given.normalization.of(channels) == wanted:
        return dict(given.preprocessing)
    return {
        "size": [height, width],
        "channels": channels,
        "color": "grey" if channels == 1 else "RGB",
        "range": [0.0, 255.0],
        "scale": 255.0,
        "mean": list(wanted.mean),
        "std": list(wanted.std),
        "formula": "(x / 255 - mean) / std, a channel each; x in 0..255",
        "normalize": "given",
        "resize": f"scaled to cover {width}x{height}, the middle {width}x{height} cut out",
        "resize_filter": "bilinear, antialiased",
    }


def _channel_axis(image: Field) -> int | None:
    """Of one image: first where it can be, else last; None where it is no grey or RGB image."""
    if len(image.shape) != 3:
        return None
    return next((axis for axis in (0, 2) if image.shape[axis] in (1, 3)), None)


def _fitted(image: Tensor, height: int, width: int) -> Tensor:
    """(C, h, w) -> (C, H, W) uint8."""
    h, w = image.shape[1:]
    if (h, w) == (height, width):
        return image
    size = (width * h // w, width) if width * h >= height * w else (height, height * w // h)
    whole = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().clamp(0, 255)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return whole[:, top : top + height, left : left + width].to(torch.uint8)


def _divided(
    n: int, sample_bytes: int, seed: int, place: Path | None = None, most: int = CALIBRATION
) -> tuple[list[int], list[int], str]:
    """Which samples quantizers see, which files are compared on, and what to call these: a quarter held out, of eight or more.

    As they are drawn: some quantizers see the first ones alone, and parity is of the first ones, which are not those of one folder.
    """
    if n < 2:
        raise DataError(f"{n} samples", file=place, path="--calibration", expected="two at least; some hundred do well")
    order = torch.randperm(n, generator=stream(seed, "calibration")).tolist()
    held = min(n // 4, COMPARED) if n >= 8 else 0
    most = max(2, min(most, BYTES // max(sample_bytes, 1)))
    shown = order[held : held + most]
    if not held:
        return shown, shown, "that it was calibrated on"
    return shown, order[: min(held, most)], "held out of calibration"


def _parts(batch: Batch, size: int = 32) -> list[Batch]:
    return [batch.rows(index) for index in torch.split(torch.arange(len(batch)), size)]


def _inputs(arrays: Mapping[str, Any], io: IO, place: Path | None, is_sized: bool) -> dict[str, Tensor]:
    """A tensor for each input: the array of its name, or of a single input the single array."""
    names = [each.name for each in io.inputs]
    if len(names) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    found = {}
    for each in io.inputs:
        if each.name not in arrays:
            raise DataError(
                f"no array '{each.name}'; there are {', '.join(arrays) or 'none'}",
                file=place,
                path="--calibration",
                nearest=nearest(each.name, arrays),
                expected=f"one for each input: {', '.join(names)}",
            )
        found[each.name] = _checked(arrays[each.name], replace(each, shape=each.sizes) if is_sized else each, place)
    counts = {name: len(each) for name, each in found.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"'{name}' {n}" for name, n in counts.items())
        raise DataError(f"arrays of {said} samples", file=place, path="--calibration", expected="as many of each")
    return found


def _checked(given: Any, input: Field, place: Path | None) -> Tensor:
    """(N, ...) of the input's own type. Raise DataError where it is of another kind or size, or not finite."""
    shape = " x ".join(["N", *("any" if size is None else str(size) for size in input.shape)])
    wanted = f"{input.dtype} {shape}, as the network reads"

    def wrong(problem: str) -> DataError:
        return DataError(f"array '{input.name}' {problem}", file=place, path="--calibration", expected=wanted)

    try:
        array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        known = (
            f"{given.dtype} ({given.layout}, {given.device}), which numpy has not" if isinstance(given, Tensor) else ""
        )
        raise wrong(f"is {known or type(given).__name__}") from None
    if array.dtype.kind not in "biuf":
        raise wrong(f"is {array.dtype}")
    sizes = array.shape[1:]
    if array.ndim != len(input.shape) + 1 or any(
        b is not None and a != b for a, b in zip(sizes, input.shape, strict=True)
    ):
        raise wrong(f"is {' x '.join(map(str, array.shape)) or 'one number'}")
    dtype = np.dtype(input.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise wrong("holds what is not finite")
    if dtype.kind == "f" and array.dtype.kind != "f":
        raise wrong(f"is {array.dtype}")  # most likely pixels, which nobody has prepared
    with np.errstate(all="ignore"):
        cast = np.ascontiguousarray(array, dtype)
    if dtype.kind != "f" and not np.array_equal(cast, array):
        raise wrong(f"holds what is no {dtype}")
    if not np.isfinite(cast).all():
        raise wrong(f"holds what is no {dtype}")
    return torch.from_numpy(cast if cast.flags.writeable else cast.copy())
