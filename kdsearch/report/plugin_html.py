"""HTML that a plugin hands in, reduced to what can neither run, load nor leave its section."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from kdsearch.report.values import UNPRINTABLE, esc

TEXT = (
    "p div span h3 h4 h5 h6 ul ol li dl dt dd table caption thead tbody tfoot tr th td pre code kbd samp em strong b i u s "
    "small sub sup br hr blockquote figure figcaption details summary a abbr mark img wbr"
)
DRAWING = "svg g path rect circle ellipse line polyline polygon text tspan title desc"
ALLOWED = frozenset((TEXT + " " + DRAWING).split())
VOID = frozenset(("br", "hr", "img", "wbr"))
UNSAFE = "script style iframe object noscript template textarea select math head"
SILENT = frozenset(UNSAFE.split())  # their content goes with them
PLAIN = "class title lang dir colspan rowspan scope open alt width height role href src style start value"
DRAWN = (
    "viewbox preserveaspectratio d x y x1 x2 y1 y2 cx cy r rx ry dx dy points transform fill fill-opacity stroke stroke-width "
    "stroke-dasharray stroke-linecap opacity text-anchor font-size font-weight"
)
ATTRIBUTES = frozenset((PLAIN + " " + DRAWN).split())
SPELLED = {"viewbox": "viewBox", "preserveaspectratio": "preserveAspectRatio"}  # SVG minds the case
IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
LOADING = re.compile(r"url|image|import|expression|behavior|binding|@|\\|//|/\*|position|javascript", re.IGNORECASE)


class Cleaner(HTMLParser):
    """Rebuilds the fragment from allowed tags and attributes, all text escaped, every tag closed.

    `removed` names what was left out, in order of appearance.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.stack: list[str] = []
        self.removed: dict[str, None] = {}
        self.mute: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ALLOWED:
            self.removed[f"<{tag}>"] = None
            if tag in SILENT:
                self.mute.append(tag)
            return
        if self.mute:
            return
        kept = "".join(self.attribute(tag, name, value or "") for name, value in attrs)
        self.parts.append(f"<{tag}{kept}>")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.mute:
            del self.mute[self.mute.index(tag) :]
        elif not self.mute and tag in self.stack:
            while self.stack:
                self.parts.append(f"</{(last := self.stack.pop())}>")
                if last == tag:
                    break

    def handle_data(self, data: str) -> None:
        if not self.mute and data:
            self.parts.append(esc(data))

    def attribute(self, tag: str, name: str, value: str) -> str:
        """The attribute as ` name="value"`, or nothing where it could run, load or pose as one of the page's own marks."""
        if name == "class":
            value = " ".join(each for each in value.split() if each != "mark")
        local = name == "href" and tag == "a" and value.startswith("#")
        inline = name == "src" and tag == "img" and IMAGE.fullmatch(value) is not None
        linked = name in ("href", "src")
        harmless = name in ("class", "title", "alt", "lang", "d", "points") or not LOADING.search(value)
        if name not in ATTRIBUTES or (linked and not (local or inline)) or (not linked and not harmless):
            self.removed[name] = None
            return ""
        return f' {SPELLED.get(name, name)}="{esc(value) if value else ""}"'


def clean(fragment: str) -> tuple[str, list[str]]:
    """(safe HTML, names of the tags and attributes that were removed)."""
    cleaner = Cleaner()
    cleaner.feed(UNPRINTABLE.sub("\ufffd", fragment))
    cleaner.close()
    while cleaner.stack:
        cleaner.parts.append(f"</{cleaner.stack.pop()}>")
    return "".join(cleaner.parts), list(cleaner.removed)


def section(title: str, fragment: str) -> str:
    """A plugin's section; what was removed is said at its foot."""
    body, removed = clean(fragment)
    said = f'<p class="remark">Left out of this section: {esc(", ".join(removed))}.</p>' if removed else ""
    return f'<section class="plugin"><h2>{esc(title)}</h2>{body}{said}</section>'
