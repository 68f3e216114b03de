"""An image file as everybody sees it: upright as its EXIF says, and on white where it is transparent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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

__all__ = ["ALPHA", "ENDINGS", "GREY", "READABLE", "Head", "decode", "header", "image_files", "unreadable"]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
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
    """The images of a folder, however deep, by their path. Raise DataError where there is none."""
    files = sorted(
        (file for file in below(folder) if file.suffix.lower() in ENDINGS and not file.name.startswith(".")),
        key=str,
    )
    if not files:
        raise DataError("no images", file=folder, expected=", ".join(f"*{ending}" for ending in ENDINGS))
    return files


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
