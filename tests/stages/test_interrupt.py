"""Ctrl-C and SIGTERM: a checkpoint, children ended, exit 130, the command that goes on; and a folder that is in use."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from types import SimpleNamespace

import psutil
import pytest
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace

from kdsearch.builtin.channels.pruner import Channels
from kdsearch.cli import main
from kdsearch.engine.rows import RowWriter
from kdsearch.errors import InterruptedRun
from kdsearch.host import Host
from kdsearch.search.scoring import Scorer
from kdsearch.stages import search
from kdsearch.stages.search import CHUNK
from kdsearch.store.files import read_json, read_lines
from kdsearch.store.folder import held
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Progress
from tests.stages.test_kill import start
from tests.stages.tiny import LESS, is_at_work, is_stage, run_tiny, run_up_to, settled, watching, write_study

REAL_LOAD = Host.load


@pytest.mark.parametrize("proxy", ["params", "[params, macs]"])
def test_a_search_heeds_it_before_any_candidate_is_found(proxy, tmp_path, monkeypatch):
    """While nothing that is drawn keeps the limits, and while those are scored that several proxies are ranked among."""
    monkeypatch.setattr(CifarResNetSpace, "size", lambda self: None)
    host = Host.load()
    sets = ("constraints={params: 1}", f"search.proxy={proxy}", "run.executor={use: inprocess}")
    materials = open_materials(load_study(write_study(tmp_path), host, sets=sets), host)
    tools = SimpleNamespace(
        stop=lambda: True,
        progress=Progress(False),
        executor=lambda each: each.make("executor", each.study.executor, ""),
    )
    region, scorer = search._region(materials, "student"), search.scorer_of(materials, "student")
    with pytest.raises(InterruptedRun):
        search._explored(materials, "student", region, scorer, [], None, tools, tmp_path)
    kept = tmp_path / "reference-student.jsonl"
    assert len(kept.read_text().splitlines()) - 1 == CHUNK if kept.exists() else proxy == "params"


def test_a_resumed_refine_shows_the_trials_that_it_has(tmp_path, monkeypatch):
    """In this process too, where the first training that goes on shows each of its steps."""
    sets = (*LESS, "run.executor={use: inprocess}", "refine.trials=3")
    ended: list[int] = []

    def stop_after_two(event):
        if event["event"] == "trial" and event["state"] == "complete":
            ended.append(event["number"])
        if len(ended) == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run_up_to(tmp_path, "refine", *sets, host=watching(stop_after_two))
    shown, at = [], Progress.at
    monkeypatch.setattr(
        Progress, "at", lambda bar, *told, **named: (shown.append((bar.stage, told[0])), at(bar, *told, **named))
    )
    run_up_to(tmp_path, "refine", *sets)
    own = [done for stage, done in shown if stage == "refine"]
    assert min(own) >= 2
    assert any(2 < done < 3 for done in own)


def test_signals_in_process(finished, tmp_path, capsys, monkeypatch):
    """One study, stopped in each stage that trains; each time the printed command goes on."""
    study, file = tmp_path / "own", write_study(tmp_path)
    command = ["run", str(file), "--dir", str(study), "--set", "run.executor={use: inprocess}"]
    plan = Channels.plan

    def planning(self, subject):
        signal.raise_signal(signal.SIGINT)  # heeded as soon as it says how far it is
        return plan(self, subject)

    def planned(self, subject):
        made = plan(self, subject)
        signal.raise_signal(signal.SIGINT)  # heeded by the first step of the recovery
        return made

    at_work = {"planning": planning, "compress": planned}
    for number, stage in (
        (signal.SIGINT, "refine"),
        (signal.SIGTERM, "distill"),
        (signal.SIGINT, "planning"),
        (signal.SIGINT, "compress"),
    ):
        monkeypatch.setattr(Host, "load", REAL_LOAD)
        host = watching(
            lambda event, n=number, stage=stage: (
                signal.raise_signal(n) if stage not in at_work and is_at_work(event, stage) else None
            )
        )
        monkeypatch.setattr(Channels, "plan", at_work.get(stage, plan))
        monkeypatch.setattr(Host, "load", classmethod(lambda cls, host=host: host))
        before = signal.getsignal(number)
        assert main([*command, "--json"]) == 130
        out, err = capsys.readouterr()
        assert json.loads(out)["exit_code"] == 130
        assert signal.getsignal(number) is before
        place = {"compress": "recovered", "planning": "recovered"}.get(stage, stage)
        steps = list((study / "work").glob(f"{place}-*/*/phase-*.safetensors"))
        assert bool(steps) is (stage != "planning"), "the step that ran is kept; a plan is made whole"
        assert not list((study / "artifacts").glob(".*"))
        again = re.search(r"to go on: kdsearch (.*)", err)
        assert again is not None, err
        command = shlex.split(again[1])
    monkeypatch.setattr(Host, "load", REAL_LOAD)
    monkeypatch.setattr(Channels, "plan", plan)
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert all(": done in " in line for line in err.splitlines()), err
    assert settled(json.loads(out)) == finished.settled
    begun = [each["stage"] for each in read_lines(study / "events.jsonl") if is_begun(each)]
    assert begun == [
        "prepare",
        "search",
        "refine",
        "refine",
        "distill",
        "distill",
        "compress",
        "compress",
        "compress",
        "export",
        "report",
    ]


def is_begun(event) -> bool:
    return event["event"] == "stage" and event["state"] == "begun"


def test_signal_between_pieces_of_a_stage_without_training(finished, copied):
    for name in ("export", "report"):
        for each in (copied / "study" / "artifacts").glob(f"{name}-*"):
            each.rename(copied / each.name)
    host = watching(lambda event: signal.raise_signal(signal.SIGTERM) if is_stage(event, "export") else None)
    with pytest.raises(InterruptedRun):
        run_tiny(copied, host=host)
    assert settled(run_tiny(copied)) == finished.settled


@pytest.mark.parametrize(
    ("owner", "piece"),
    [
        pytest.param(RowWriter, "add", id="a teacher's answers are stored"),
        pytest.param(Scorer, "score_all", id="what the candidates are ranked among is scored"),
    ],
)
def test_a_signal_is_heeded_after_a_piece_of(owner, piece, tmp_path, monkeypatch):
    done = []
    real = getattr(owner, piece)

    def signalled(self, *arguments):
        done.append(piece)
        if len(done) == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *arguments)

    monkeypatch.setattr(owner, piece, signalled)
    with pytest.raises(InterruptedRun):
        run_tiny(tmp_path)
    assert len(done) == 1


def test_second_signal_ends_at_once(copied):
    for each in (copied / "study" / "artifacts").glob("report-*"):
        each.rename(copied / each.name)

    def twice(event):
        if is_stage(event, "report"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run_tiny(copied, host=watching(twice))


@pytest.mark.slow  # in one process: test_signals_in_process
def test_sigterm_with_two_workers(tmp_path):
    long = (*LESS, "refine.epochs=30")
    command = ["--workers", "2", *(part for each in long for part in ("--set", each))]
    process = start(tmp_path / "two", *command)
    supervisor, children = psutil.Process(process.pid), set()
    while process.poll() is None:
        children |= set(supervisor.children(recursive=True))
        if list((tmp_path / "two" / "study" / "work").glob("refine-*/trial-*/phase-*.safetensors")):
            os.kill(process.pid, signal.SIGTERM)
            break
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "to go on:" in err
    assert out == ""
    assert len(children) >= 2
    assert not [each for each in children if each.is_running()], "no orphans"
    assert list((tmp_path / "two" / "study" / "work").glob("refine-*/trial-*/phase-*.safetensors"))
    assert settled(run_tiny(tmp_path / "two", *long)) == settled(run_tiny(tmp_path / "one", *long))


def test_folder_in_use(copied, capsys):
    study = copied / "study"
    with held(study):
        about = read_json(study / ".holder.json")
        assert main(["run", str(write_study(copied)), "--dir", str(study), "--json"]) == 1
        out, err = capsys.readouterr()
        assert main(["clean", str(study)]) == 1
    assert json.loads(out)["exit_code"] == 1
    assert err.startswith(f"{study}: in use by pid {os.getpid()} on {socket.gethostname()} since {about['since']}")
    assert "choose another folder with --dir" in err
    assert main(["run", str(write_study(copied)), "--dir", str(study), "--json"]) == 0
