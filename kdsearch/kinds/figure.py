"""A figure of a report: what it shows as Vega-Lite charts, and the same numbers as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers under `head`; None = not known. A reader may sort by any column."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


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
        missing: what is said where there is neither panel nor table.
    """

    slug: str
    title: str
    says: str
    panels: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    missing: str = "Nothing to show."

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Figure:
        """What `as_json` gave."""
        return cls(**{**raw, "tables": tuple(Table(**each) for each in raw.get("tables", ()))})
