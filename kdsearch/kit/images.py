"""An image file as everybody sees it: upright as its EXIF says, and on white where it is transparent."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kit.files import below, opened
from kdsearch.limits import PIXELS, SIDES

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "ALPHA",
    "ENDINGS",
    "GREY",
    "READABLE",
    "Head",
    "decode",
    "header",
    "image_files",
    "left_out",
    "no_images",
    "unreadable",
]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# formats that are not read: a list, as whatever else lies in a folder is no image
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
_SMALL = (".avif", ".heic", ".heif", ".jfif", ".jp2", ".jxl")
OTHERS = (".dcm", ".gif", ".pgm", ".ppm", ".psd", ".svg", ".tga", ".tif", ".tiff", *_SMALL, *_RAW)
GREY = ("1", "L", "LA")
ALPHA = ("LA", "PA", "RGBA")
READABLE = (*GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # eight bits a channel


@dataclass(frozen=True)
class Head:
    """What an image's header says, unrotated."""

    width: int
    height: int
    mode: str


def image_files(folder: Path) -> Sequence[Path]:
    """The images of a folder, however deep, by their path. Raise DataError where there is none that is read."""
    files = sorted((file for file in _seen(folder) if file.suffix.lower() in ENDINGS), key=str)
    if not files:
        raise no_images(folder)
    return files


def no_images(folder: Path) -> DataError:
    """That a folder has no image, or none of a format that is read."""
    said, expected = _others([folder]), ", ".join(f"*{ending}" for ending in ENDINGS)
    if not said:
        return DataError("no images", file=folder, expected=expected)
    return DataError(f"no images but {said}", file=folder, expected=expected, fix="Convert them to png.")


def left_out(folders: Iterable[Path]) -> list[str]:
    """What a data set notes of images in these folders, however deep, that `image_files` leaves out; [] where it leaves out none.

    Raise DataError for a folder that may not be read.
    """
    said = _others(folders)
    return [f"Images that were left out: {said}."] if said else []


def _others(folders: Iterable[Path]) -> str:
    """How many images are of formats that are not read, by ending; "" where there is none."""
    endings = Counter(file.suffix.lower() for folder in folders for file in _seen(folder))
    found = {ending: n for ending, n in endings.most_common() if ending in OTHERS}
    each = ", ".join(f"{ending}: {n:,}" for ending, n in found.items())
    return f"{sum(found.values()):,} of a format that is not read ({each})" if found else ""


def _seen(folder: Path) -> Iterator[Path]:
    """The files that a user means: hidden ones are a system's own, such as what macOS writes beside each."""
    return (file for file in below(folder) if not file.name.startswith("."))


def header(file: Path) -> Head:
    """Size and mode without decoding. Raise DataError for what is no image, too large, or deeper than 8 bits."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked below, for one message
            with opened(file, "an image") as stream, Image.open(stream) as image:
                head = Head(image.width, image.height, image.mode)
    except DataError:
        raise
    except Exception as error:  # a damaged file fails anywhere in its reader
        raise unreadable(file, error) from error
    if head.width * head.height > PIXELS:
        raise DataError(f"{head.width}x{head.height} pixels", file=file, expected=f"at most {PIXELS:,} pixels")
    if max(head.width, head.height) > SIDES * min(head.width, head.height):
        expected = f"sides of which the longer is at most {SIDES} times the shorter"
        raise DataError(f"{head.width}x{head.height} pixels", file=file, expected=expected)
    if head.mode not in READABLE:
        raise DataError(f"pixel mode '{head.mode}'", file=file, expected="8 bits a channel, grey, palette or colour")
    return head


def decode(file: Path, channels: int) -> Tensor:
    """(C, H, W) uint8, grey where `channels` is 1, else RGB. Raise DataError naming a corrupt file."""
    from PIL import Image, ImageOps

    header(file)
    try:
        with opened(file, "an image") as stream, Image.open(stream) as image:
            upright = _opaque(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
            pixels = torch.from_numpy(np.array(upright, dtype=np.uint8))
    except DataError:
        raise
    except Exception as error:
        raise unreadable(file, error) from error
    return (pixels[None] if channels == 1 else pixels.permute(2, 0, 1)).contiguous()


def _opaque(image: Image.Image) -> Image.Image:
    """The image on white: what a transparent pixel holds beside its alpha is nothing that anyone sees."""
    from PIL import Image

    if image.mode not in ALPHA and "transparency" not in image.info:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)


def unreadable(file: Path, error: Exception) -> DataError:
    """What Pillow raised, which names a stream where it knows no format."""
    from PIL import UnidentifiedImageError

    said = "its content is of no format that is known" if isinstance(error, UnidentifiedImageError) else str(error)[:80]
    if not file.stat().st_size:
        said = "the file is empty"
    return DataError(
        f"not a readable image ({said})",
        file=file,
        expected="a whole " + ", ".join(ending[1:] for ending in ENDINGS),
        fix="Repair or remove the file.",
    )
