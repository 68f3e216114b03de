"""`kdsearch dashboard` on a real study of two objectives: what its page is given, and what it cannot do."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from wsgiref.util import setup_testing_defaults

import pytest

import kdsearch
from kdsearch.kinds import Trial
from kdsearch.search.trials import Board, TrialLog
from kdsearch.verbs.dashboard import app_of
from tests.stages.tiny import LESS, files_of, run_tiny

pytest.importorskip("optuna_dashboard", reason="the extra `dashboard` is not installed")

CHROMIUM = shutil.which("chromium")
MORE = (
    "objectives={accuracy: max, params: min}",
    "refine.trials=8",
    "refine.epochs=6",
    "refine.first=[]",
    "refine.stopper={use: halving, options: {keep: 0.25}}",
)
STATES = {"complete": "Complete", "pruned": "Pruned", "failed": "Fail"}


@dataclass(frozen=True)
class Served:
    """A dashboard in a process of its own: the study's folder, and its address."""

    folder: Path
    address: str
    process: subprocess.Popen[str]

    @property
    def root(self) -> str:
        return self.address.partition("/dashboard")[0]

    def get(self, path: str, method: str = "GET", **headers: str) -> Any:
        with urlopen(Request(self.root + path, headers=headers, method=method), timeout=60) as answer:
            return json.loads(answer.read())


def serve(folder: Path) -> Served:
    command = [sys.executable, "-m", "kdsearch", "dashboard", str(folder), "--port", "0"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/dashboard/studies/\d+) shows the trials of .*\n", line)
    assert found, line + process.communicate()[1]
    return Served(folder, found[1], process)


def end(served: Served) -> tuple[int, str, str]:
    served.process.send_signal(signal.SIGINT)
    out, said = served.process.communicate(timeout=120)
    return served.process.returncode, out, said


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    run_tiny(folder, *LESS, *MORE)
    return folder / "study"


@pytest.fixture(scope="module")
def served(study: Path) -> Iterator[Served]:
    found = serve(study)
    yield found
    if found.process.poll() is None:
        end(found)


def test_it_gives_what_the_result_says(served: Served) -> None:
    rows = kdsearch.Result.open(served.folder).evidence["trials"]
    assert len(rows) == 8
    assert {each["state"] for each in rows} == {"complete", "pruned"}
    id = served.address.rpartition("/")[2]
    shown = served.get(f"/api/studies/{id}")
    assert (shown["objective_names"], shown["directions"]) == (["accuracy", "params"], ["maximize", "minimize"])
    assert [(each["number"], each["state"]) for each in shown["trials"]] == [
        (row["number"], STATES[row["state"]]) for row in rows
    ]
    for each, row in zip(shown["trials"], rows, strict=True):
        assert each.get("values") == (list(row["objectives"].values()) or None)
        assert {param["name"] for param in each["params"]} == {"kd.weight", "kd.temperature", "train.lr"}
        assert [(point["step"] / 1000, point["value"]) for point in each["intermediate_values"]] == [
            (pytest.approx(share, abs=5e-4), -losses["accuracy"]) for share, losses in row["curve"]
        ]
    (figure,) = shown["plotly_graph_objects"]
    told = json.loads(figure["graph_object"])
    assert told["layout"]["yaxis"]["title"]["text"] == "accuracy"
    assert [line["name"] for line in told["data"]] == [f"{row['number']} ({row['state']})" for row in rows]
    for line, row in zip(told["data"], rows, strict=True):
        assert line["x"] == pytest.approx([100 * share for share, _ in row["curve"]], abs=0.05)
        assert line["y"] == [-losses["accuracy"] for _, losses in row["curve"]]


def test_nothing_can_be_changed_and_no_other_name_reads_it(served: Served) -> None:
    before = files_of(served.folder)
    for method, path in (("DELETE", "/api/studies/0"), ("POST", "/api/trials/0/tell"), ("PUT", "/api/studies/0/note")):
        with pytest.raises(HTTPError, match="405"):
            served.get(path, method)
    with pytest.raises(HTTPError, match="403"):
        served.get("/api/studies", Host="elsewhere.example:80")
    assert len(served.get("/api/studies")["study_summaries"]) == 1
    assert files_of(served.folder) == before


def test_the_page_may_ask_nobody_else(served: Served) -> None:
    with urlopen(served.address, timeout=60) as answer:
        policy = answer.headers["Content-Security-Policy"].split(";")
        page = answer.read().decode()
    assert {"default-src 'self'", "connect-src 'self'", "img-src 'self' data: blob:"} <= set(policy)
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", page) == ["/static/bundle.js"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_it_and_misses_nothing(served: Served, tmp_path: Path) -> None:
    """Objectives by name and the curves; what the policy refused, or asked elsewhere, would be in the log."""
    quiet = "disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    flags = f"headless no-sandbox disable-gpu {quiet} enable-logging=stderr dump-dom virtual-time-budget=20000"
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    command = [
        str(CHROMIUM),
        *(f"--{each}" for each in flags.split()),
        rules,
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    seen = subprocess.run([*command, served.address], capture_output=True, text=True, timeout=300, check=True)
    for text in ("Pareto Front", "accuracy during the trials", "% of a trial's training", "params", "7 (", "Timeline"):
        assert text in seen.stdout, text
    assert "Content Security Policy" not in seen.stderr
    assert not re.search(r"CONSOLE.*(Failed to load|net::ERR)", seen.stderr), seen.stderr


def test_a_port_in_use_is_one_message_and_ctrl_c_is_a_clean_end(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from kdsearch.cli import main

    first = serve(study)
    port = first.root.rpartition(":")[2]
    try:
        assert main(["dashboard", str(study), "--port", port]) == 2
    finally:
        assert end(first) == (0, "", "")
    said = capfd.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"port {port} of 127.0.0.1" in said.err
    assert "--port" in said.err


def called(app: Any, path: str) -> Any:
    """A GET of the application in this process."""
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    return json.loads(b"".join(app(environ, lambda status, headers, error=None: None)))


def test_it_follows_a_study_that_runs(study: Path, tmp_path: Path) -> None:
    """A trial that is put while the application is there; a line that is half written by then is nobody's error."""
    shutil.copytree(study, tmp_path / "study")
    file = tmp_path / "study" / "trials.journal"
    log = TrialLog(file, "refine ffff", Board({"accuracy": "max", "params": "min"}, "study"))
    with (tmp_path / "study" / "events.jsonl").open("a") as events:
        about = {"artifact": "refine-ffff", "total": 8, "metric": "accuracy", "direction": "max", "at": 0}
        events.write(json.dumps({"time": "", "event": "trials", "key": "refine ffff", **about}) + "\n")
    app, page = app_of(tmp_path / "study")
    assert page == "/dashboard/studies/1"
    log.put(Trial(0, {}, state="running"))
    log.put(Trial(0, {}, state="paused", curve=((0.5, (-0.25, 900.0)),)))
    with file.open("ab") as torn:
        torn.write(b'{"op_co')
    (shown,) = called(app, "/api/studies/1")["trials"]
    assert (shown["state"], shown["intermediate_values"]) == ("Running", [{"step": 500, "value": 0.25}])
