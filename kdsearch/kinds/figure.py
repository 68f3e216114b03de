"""A figure of a report: what it shows as Vega-Lite charts and pictures, and the same numbers as tables."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 192  # pixels a side of a picture: many of them stand on one page
GOLDEN = 0.6180339887498949  # of the circle of hues, from one class to the next: the first dozen are far apart
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers under `head`; None = not known. A reader may sort by any column."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """One small image, from `of` or `of_classes`.

    Args:
        title: what it is: input, truth, teacher, student. One column of a figure's pictures has one title.
        src: a PNG as a data URI.
        says: a few words below it, such as how good this answer is.
    """

    title: str
    src: str
    says: str = ""

    @classmethod
    def of(cls, title: str, pixels: Tensor, says: str = "") -> Picture:
        """Of pixels (C, H, W) or (H, W): uint8 as they are, others from their least value (black) to their greatest (white).

        So a normalised image can be given as it is. C is 3 for red, green and blue; of any other the mean is shown. More than
        192 pixels a side are scaled down.
        """
        import torch

        known = pixels.detach().cpu()
        if known.dtype != torch.uint8:
            known = known.double()
            known = torch.where(
                known.isfinite(), known, known[known.isfinite()].min() if known.isfinite().any() else 0.0
            )
            low, high = known.min(), known.max()
            known = ((known - low) / (high - low if high > low else 1.0) * 255).round().to(torch.uint8)
        if known.ndim == 3 and len(known) != 3:
            known = known.double().mean(0).round().to(torch.uint8)
        return cls(title, _png(known.permute(1, 2, 0) if known.ndim == 3 else known, smooth=True), says)

    @classmethod
    def of_classes(cls, title: str, classes: Tensor, says: str = "") -> Picture:
        """Of a class index a pixel, (H, W): a colour each, the same in every picture; negative ones (HIDDEN) are light grey."""
        import torch

        found = classes.detach().cpu().long()
        colours = [_colour(k) for k in range(int(found.max()) + 1)] if found.numel() else []
        table = torch.tensor([*colours, (224, 224, 224)], dtype=torch.uint8)
        return cls(title, _png(table[torch.where(found < 0, len(colours), found)], smooth=False), says)


def class_colour(k: int) -> str:
    """The colour of class k in `Picture.of_classes`, as `#rrggbb`: for a legend."""
    return "#{:02x}{:02x}{:02x}".format(*_colour(k))


def _colour(k: int) -> tuple[int, int, int]:
    """Of class k; the first one, most often the background, is dark."""
    if k == 0:
        return (40, 44, 52)
    red, green, blue = colorsys.hsv_to_rgb(k * GOLDEN % 1, 0.62, (0.92, 0.74)[k // 8 % 2])
    return (round(255 * red), round(255 * green), round(255 * blue))


def _png(pixels: Tensor, smooth: bool) -> str:
    """(H, W) or (H, W, 3) uint8 as a data URI."""
    from PIL import Image

    image = Image.fromarray(pixels.contiguous().numpy())
    if max(image.size) > LARGEST:
        factor = LARGEST / max(image.size)
        width, height = (max(1, round(factor * side)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


@dataclass(frozen=True)
class Figure:
    """One figure, on the page and in a notebook.

    Args:
        slug: its name among the figures of a report, such as "confusion"; letters, digits and hyphens.
        title, says: what it shows, and how to read it; plain text.
        panels: Vega-Lite specifications with their data as `data.values`, drawn side by side where there is room. Colours,
            fonts and width are the page's. `description` is read to those who do not see it, `tooltip` shown at a mark.
        tables: the same data, or all there is where there are no panels.
        notes: further sentences under the caption.
        missing: what is said where there is neither panel, picture nor table.
        pictures: rows of them, a sample each: input, truth, what the teacher and the student say.
    """

    slug: str
    title: str
    says: str
    panels: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    missing: str = "Nothing to show."
    pictures: Sequence[Sequence[Picture]] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Figure:
        """What `as_json` gave."""
        tables = tuple(Table(**each) for each in raw.get("tables", ()))
        pictures = tuple(tuple(Picture(**each) for each in row) for row in raw.get("pictures", ()))
        return cls(**{**raw, "tables": tables, "pictures": pictures})
