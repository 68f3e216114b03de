"""A page seen by headless Chromium: its DOM after loading, what it logged, and every address it asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next((found for name in ("/usr/bin/chromium", "chromium") if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: neither /usr/bin/chromium nor in PATH"
)
QUIET = "disable-quic no-first-run disable-background-networking disable-component-update disable-sync disable-dev-shm-usage"
FLAGS = [f"--{flag}" for flag in f"headless no-sandbox disable-gpu {QUIET} enable-logging=stderr dump-dom".split()]
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"  # whatever asks, nothing leaves this machine
# put before everything else: keeps errors and refused loads in the DOM, where --dump-dom shows them
LISTENER = """<script>window.seen=[];
addEventListener('error',e=>{seen.push(e.message||('load '+(e.target.src||e.target.href)))},true);
addEventListener('securitypolicyviolation',e=>seen.push('policy '+e.violatedDirective+' '+e.blockedURI));
addEventListener('load',()=>{document.body.dataset.seen=JSON.stringify(seen);
const m=document.querySelector('.mark');if(m){m.dispatchEvent(new PointerEvent('pointerover',{bubbles:true}));
document.body.dataset.tip=document.getElementById('tip').textContent}})</script>"""


class Parsed(HTMLParser):
    """Elements as (tag, attributes), and all text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.json = ""
        self.inside = ""
        self.feed(text)
        self.close()
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag in ("script", "style"):
            self.inside = found.get("id", tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "kdsearch-result":
            self.json += data
        elif not self.inside:
            self.words.append(data)

    def marks(self, kind: str) -> list[dict[str, str]]:
        """Attributes of the marks of this class."""
        return [attrs for _, attrs in self.elements if {"mark", kind} <= set(attrs.get("class", "").split())]


@dataclass(frozen=True)
class Seen:
    """`console`: its lines on stderr; `requests`: what the page itself asked for; `page`: the DOM after loading."""

    console: list[str]
    requests: list[str]
    page: Parsed


def see(html: str, folder: Path, *, listen: bool = False) -> Seen:
    """Opens the page with a fresh profile. `listen` adds a recorder of errors, for which the page's policy is lifted."""
    if listen:
        start = html.index('<meta http-equiv="Content-Security-Policy"')
        html = html[:start] + LISTENER + html[html.index(">", start) + 1 :]
    file, log = folder / "index.html", folder / "net.json"
    file.write_text(html, encoding="utf-8")
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *FLAGS,
        OFFLINE,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # the browser's own background requests have no origin; the page's have one, even from a file
    asked = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    own = {str(each["url"]) for each in asked if each.get("initiator", "not an origin") != "not an origin"}
    return Seen(console, sorted(each for each in own if not each.startswith("file:")), Parsed(done.stdout))
