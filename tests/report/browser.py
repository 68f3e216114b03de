"""A page seen by headless Chromium: its DOM after drawing, what it logged, every address it asked for, what an act gave."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((found for name in ("/usr/bin/chromium", "chromium") if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: neither /usr/bin/chromium nor in PATH"
)
QUIET = "disable-quic no-first-run disable-background-networking disable-component-update disable-sync disable-dev-shm-usage"
FLAGS = [
    f"--{flag}"
    for flag in f"headless no-sandbox disable-gpu {QUIET} enable-logging=stderr dump-dom virtual-time-budget=60000".split()
]
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"  # whatever asks, nothing leaves this machine
# put before everything else: keeps errors and refused loads in the DOM, where --dump-dom shows them
LISTENER = """<script>window.seen=[];
addEventListener('error',e=>{seen.push(e.message||('load '+(e.target.src||e.target.href)))},true);
addEventListener('unhandledrejection',e=>seen.push('rejected '+e.reason));
addEventListener('securitypolicyviolation',e=>seen.push('policy '+e.violatedDirective+' '+e.blockedURI));
addEventListener('load',async()=>{while(document.body.dataset.drawn===undefined)await new Promise(r=>setTimeout(r,20));
try{document.body.dataset.act=JSON.stringify(await (async()=>{ACT})()??null)}catch(e){seen.push('act '+e)}
document.body.dataset.seen=JSON.stringify(seen)})</script>"""


class Parsed(HTMLParser):
    """Elements as (tag, attributes), and all text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.json = self.charts = ""
        self.inside = ""
        self.groups: list[str] = []  # of the SVG: class of the group of marks that is open
        self.marks: Counter[str] = Counter()  # drawn marks by type: symbol, line, rect, ...
        self.feed(text)
        self.close()
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag in ("script", "style"):
            self.inside = found.get("id", tag)
        if tag == "g":
            self.groups.append(found.get("class", ""))
        elif tag == "path" and self.groups and (kind := re.match(r"mark-(\w+) role-mark", self.groups[-1])):
            self.marks[kind[1]] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.inside = ""
        if tag == "g" and self.groups:
            self.groups.pop()

    def handle_data(self, data: str) -> None:
        if self.inside == "kdsearch-result":
            self.json += data
        elif self.inside == "kdsearch-charts":
            self.charts += data
        elif not self.inside:
            self.words.append(data)

    @property
    def body(self) -> dict[str, str]:
        return next(attrs for tag, attrs in self.elements if tag == "body")

    @property
    def specs(self) -> list[dict[str, Any]]:
        """The charts' specifications, in order."""
        found: list[dict[str, Any]] = json.loads(self.charts)["specs"]
        return found


@dataclass(frozen=True)
class Seen:
    """`console`: its lines on stderr; `requests`: what the page itself asked for; `page`: the DOM after drawing."""

    console: list[str]
    requests: list[str]
    page: Parsed

    @property
    def errors(self) -> list[str]:
        """What the recorder heard; the page must have been opened with it."""
        return list(json.loads(self.page.body["data-seen"]))

    @property
    def act(self) -> Any:
        """What the act returned."""
        return json.loads(self.page.body["data-act"])


def see(html: str, folder: Path, *, listen: bool = False, act: str = "") -> Seen:
    """Opens the page with a fresh profile. `listen` adds a recorder of errors, for which the page's policy is lifted; `act` is
    JavaScript that runs there after the charts are drawn, its answer JSON."""
    if listen or act:
        start = html.index('<meta http-equiv="Content-Security-Policy"')
        html = html[:start] + LISTENER.replace("ACT", act) + html[html.index(">", start) + 1 :]
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
