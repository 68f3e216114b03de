"""The report: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from kdsearch.kinds.figure import Figure
from kdsearch.report import tables
from kdsearch.report.charts import CONFIG, PALETTE
from kdsearch.report.figures import OWN, figures, framed
from kdsearch.report.plugin_html import section
from kdsearch.report.summary import header
from kdsearch.report.values import HUGE, esc, plain

LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.min.js")


def jsonable(value: object) -> object:
    """The value as JSON holds it: NaN and infinities become null, keys and foreign objects text."""
    if isinstance(value, Mapping):
        return {plain(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < HUGE else None
    return plain(value)


def embedded(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(jsonable(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def themed(value: object) -> object:
    """A specification whose palette's colours are the style sheet's, light or dark; its data stay as they are."""
    if isinstance(value, Mapping):
        return {key: each if key == "values" else themed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [themed(each) for each in value]
    return VARIABLES.get(value, value) if isinstance(value, str) else value


VARIABLES = {code: f"var(--{name})" for name, code in PALETTE.items()}


@cache
def asset(name: str) -> str:
    text = files("kdsearch.report").joinpath(name).read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("//# sourceMappingURL"))


@cache
def scripts() -> tuple[str, ...]:
    """What the page runs: the libraries with their licences, then its own script."""
    licences = asset("vendor/LICENSES.txt").replace("*/", "* /")
    return (f"/*\n{licences}\n*/", *(asset(f"vendor/{name}") for name in LIBRARIES), asset("page.js"))


def policy() -> str:
    """A content security policy: no request at all, no script but the page's own."""
    digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts())
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "form-action 'none'; base-uri 'none'"
    )


def document(title: str, body: str, specs: Sequence[Mapping[str, Any]]) -> str:
    """A page of its own around `body`, which draws `specs` where the body has `data-chart`."""
    charts = embedded({"config": themed(CONFIG), "specs": [themed(each) for each in specs]})
    run = "".join(f"<script>{each}</script>\n" for each in scripts())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(policy())}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{esc(title)}</title><style>{asset('page.css')}</style></head>\n<body>{body}\n"
        '<div id="tip" role="tooltip" hidden></div><div id="live" role="status" aria-live="polite"></div>\n'
        f'<script type="application/json" id="kdsearch-charts">{charts}</script>\n{run}</body></html>\n'
    )


def part(slug: str, title: str, body: str) -> str:
    return f'<section id="{slug}" aria-labelledby="h-{slug}"><h2 id="h-{slug}">{esc(title)}</h2>{body}</section>'


def render(result: Mapping[str, Any], evidence: Mapping[str, Any], sections: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page.

    Args:
        result: the final JSON of a run.
        evidence: candidates, trials, objectives, curves, ladder, finals and figures; any may be missing, the page then says so.
        sections: (title, HTML) of plugins, cleaned of what could run or load.
    """
    made = figures(result, evidence)
    task = [slug for slug in made if slug not in OWN]
    order = [
        slug for slug in ("ladder", "weights", *task, "front", "history", "proxies", "curves", "learnt") if slug in made
    ]
    specs: list[Mapping[str, Any]] = []
    drawn: dict[str, str] = {}
    for at, slug in enumerate(order, 1):
        figure: Figure = made[slug]
        drawn[slug] = framed(figure, at, len(specs))
        specs += figure.panels
    limits = tables.columns(
        "<h3>Constraints</h3>" + tables.constraints(result), "<h3>Gates</h3>" + tables.refused(result)
    )
    making = tables.columns("<h3>Time</h3>" + tables.time(result), "<h3>Recipe</h3>" + tables.recipe(result))
    parts = [
        ("outcome", "Outcome", tables.outcome(result)),
        ("files", "Files", tables.files(result) + drawn["ladder"] + drawn["weights"]),
        *([("answers", "Answers on the test split", "".join(drawn[slug] for slug in task))] if task else []),
        ("limits", "Limits and refusals", limits),
        ("search", "Search", drawn["front"] + drawn["history"] + drawn["proxies"]),
        ("training", "Distillation", drawn["curves"] + drawn.get("learnt", "")),
        ("data", "Data and labels", tables.data(result)),
        ("making", "How it was made", making + "<h3>Provenance</h3>" + tables.provenance(result)),
    ]
    links = "".join(f'<a href="#{slug}">{esc(title)}</a>' for slug, title, _ in parts)
    body = "".join(part(*each) for each in parts) + "".join(section(title, fragment) for title, fragment in sections)
    words = "The charts are drawn by a script of this page, which is off; the tables under them hold the same numbers."
    return document(
        f"{plain(result.get('study'))} · kdsearch report",
        f'<main>{header(result)}<noscript><p class="none">{words}</p></noscript>'
        f'<nav aria-label="Sections">{links}</nav>\n{body}\n'
        "<footer>The numbers of this page are embedded as JSON in the element <code>kdsearch-result</code>.</footer>"
        f'</main>\n<script type="application/json" id="kdsearch-result">{embedded(result)}</script>',
        specs,
    )
