"""Figures that show themselves in a notebook, each a page of its own that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdsearch.kinds.figure import Figure
from kdsearch.report.charts import CONFIG, SCHEMA
from kdsearch.report.figures import framed
from kdsearch.report.page import document, jsonable
from kdsearch.report.values import esc, plain

MIME = "application/vnd.vegalite.v5+json"
WIDTH = 360  # pixels of a panel where a notebook draws the specification itself


class Shown:
    """One figure of a study: the last value of a notebook's cell shows it, `save` writes it as a page of its own.

    `figure` holds its specifications (`panels`) and tables.
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __repr__(self) -> str:
        return f"<figure '{plain(self.figure.slug)}': {plain(self.figure.title)}>"

    @property
    def spec(self) -> dict[str, Any]:
        """All panels as one Vega-Lite specification, for what draws such: `altair.Chart.from_dict(figure.spec)`."""
        panels = [
            {**{key: value for key, value in panel.items() if key != "$schema"}, "width": WIDTH}
            for panel in self.figure.panels
        ]
        found = jsonable({"$schema": SCHEMA, "title": self.figure.title, "config": CONFIG, "hconcat": panels})
        assert isinstance(found, dict)
        return found

    def html(self) -> str:
        """The figure with caption and tables as a page."""
        body = f'<main class="alone">{framed(self.figure, 0, 0)}</main>'
        return document(plain(self.figure.title), body, self.figure.panels)

    def save(self, path: Path | str) -> None:
        Path(path).write_text(self.html(), encoding="utf-8")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        frame = (
            f'<iframe title="{esc(self.figure.title)}" srcdoc="{esc(self.html())}" '
            'style="width:100%;height:420px;border:0"></iframe>'
        )
        drawn = {MIME: self.spec} if self.figure.panels else {}
        return {"text/html": frame, **drawn, "text/plain": repr(self)}


class Figures(Mapping[str, Shown]):
    """Name -> figure, in the order of the page."""

    def __init__(self, made: Mapping[str, Figure]) -> None:
        self._shown = {slug: Shown(figure) for slug, figure in made.items()}

    def __getitem__(self, name: str) -> Shown:
        if name not in self._shown:
            raise KeyError(f"no figure '{name}'; there are {', '.join(self._shown)}")
        return self._shown[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown)

    def __len__(self) -> int:
        return len(self._shown)

    def __repr__(self) -> str:
        return "\n".join(f"{slug}: {shown.figure.title}" for slug, shown in self._shown.items())
