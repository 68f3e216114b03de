"""The report: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.report import tables
from kdsearch.report.figures import figures
from kdsearch.report.plugin_html import section
from kdsearch.report.style import CSS, SCRIPT
from kdsearch.report.summary import header
from kdsearch.report.values import HUGE, esc, plain


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


def policy() -> str:
    """A content security policy: no request at all, no script but the page's own."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "form-action 'none'; base-uri 'none'"
    )


def part(slug: str, title: str, body: str) -> str:
    return f'<section id="{slug}"><h2>{esc(title)}</h2>{body}</section>'


def render(result: Mapping[str, Any], evidence: Mapping[str, Any], sections: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page.

    Args:
        result: the final JSON of a run.
        evidence: candidates, trials, objectives, curves, ladder and finals; any may be missing, the page then says so.
        sections: (title, HTML) of plugins, cleaned of what could run or load.
    """
    drawn = figures(result, evidence)
    parts = [
        (
            "outcome",
            "Outcome",
            tables.outcome(result),
        ),
        ("files", "Files", tables.files(result) + drawn["ladder"] + drawn["weights"]),
        (
            "limits",
            "Limits and refusals",
            tables.columns(
                "<h3>Constraints</h3>" + tables.constraints(result), "<h3>Gates</h3>" + tables.refused(result)
            ),
        ),
        ("search", "Search", drawn["front"] + drawn["history"] + drawn["proxies"]),
        ("training", "Distillation", drawn["curves"]),
        ("data", "Data and labels", tables.data(result)),
        (
            "making",
            "How it was made",
            tables.columns("<h3>Time</h3>" + tables.time(result), "<h3>Recipe</h3>" + tables.recipe(result))
            + "<h3>Provenance</h3>"
            + tables.provenance(result),
        ),
    ]
    links = "".join(f'<a href="#{slug}">{esc(title)}</a>' for slug, title, _ in parts)
    body = "".join(part(*each) for each in parts) + "".join(section(title, fragment) for title, fragment in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(policy())}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{esc(result.get('study'))} · kdsearch report</title><style>{CSS}</style></head>\n<body><main>"
        f'{header(result)}<nav aria-label="Sections">{links}</nav>\n{body}\n'
        "<footer>The numbers of this page are embedded as JSON in the element <code>kdsearch-result</code>.</footer>"
        f'</main><div id="tip" role="tooltip" hidden></div>\n<script type="application/json" id="kdsearch-result">'
        f"{embedded(result)}</script>\n<script>{SCRIPT}</script></body></html>\n"
    )
