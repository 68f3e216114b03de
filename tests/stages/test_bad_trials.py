"""A plugin that fails costs its trial; the study goes on with the others."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from kdsearch.cli import main
from kdsearch.errors import PluginError, TrialError, UserError
from kdsearch.host import Host
from kdsearch.store.files import read_lines
from tests.stages import bad_plugin
from tests.stages.tiny import LESS, TEXT, events, made, run_tiny, write_study

KD = "- {use: kd, weight: search, options: {temperature: search}}"


def with_bad(how: str, optional: bool = False) -> str:
    assert KD in TEXT
    return TEXT.replace(KD, f"- {{use: bad, optional: {str(optional).lower()}, options: {{how: {how}}}}}")


def with_choices(*how: str) -> str:
    return with_bad("{choices: [" + ", ".join(how) + "]}")


@pytest.fixture
def host() -> Host:
    return Host.load(extra=[("bad", bad_plugin)])


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The plugin on the path of this process and of those it starts."""
    monkeypatch.syspath_prepend(str(bad_plugin.install(tmp_path / "site")))
    importlib.invalidate_caches()
    yield
    sys.path_importer_cache.clear()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", r"^distiller 'bad': ValueError: a plugin's own fault \(in terms, bad_plugin.py:\d+\)$"),
        ("nan", r"term 'bad.bad' is nan in phase '.*', epoch 0, step 0"),
        ("memory", r"^MemoryError: no more"),
    ],
)
def test_some_trials_fail(how, message, host, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("kdsearch.training.tools.Progress.say", lambda _, text: said.append(text))
    result = run_tiny(
        tmp_path, *LESS, "refine.trials=6", "refine.generation=3", host=host, text=with_choices("well", how)
    )
    trials = events(tmp_path, "trial")
    states = [each["state"] for each in trials]
    assert states.count("failed") >= 1
    assert states.count("complete") >= 1
    assert len(states) == 6
    for each in trials:
        if each["state"] == "failed":
            assert_matches(message, each["error"])
    assert result["student"]["recipe"]["distillers"][0]["options"]["how"] == "well"
    errors = {each["error"] for each in trials if each["state"] == "failed"}
    (note,) = (each for each in result["notes"] if "trials failed" in each)
    assert note.startswith(f"{states.count('failed')} of 6 trials failed: ")
    assert note.removeprefix(f"{states.count('failed')} of 6 trials failed: ") in errors
    assert len([text for text in said if re.match(r"trial \d failed: ", text)]) == len(
        errors
    )  # an equal error is said once


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("numbers", PluginError, r"distiller 'bad' gave a term named 1. Expected a mapping of names to scalars"),
        (
            "change",
            TrialError,
            r"distiller 'bad' gave the terms bad1, and bad0 before. Expected the same at every step",
        ),
    ],
)
def test_terms_keep_their_names(how, error, message, host, tmp_path):
    with pytest.raises(error, match=message):
        run_tiny(tmp_path, *LESS, "refine.trials=1", host=host, text=with_bad(how))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exits", r"proxy 'exits' called sys.exit\(0\)"),
        ("raises", r"proxy 'raises' scored none of \d+ candidates, the first: ValueError: a proxy's own fault"),
        ("infinite", r"proxy 'infinite' scored none of \d+ candidates, the first: no finite number, but inf"),
    ],
)
def test_a_proxy_that_scores_nothing_ends_the_search(name, message, host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    file = write_study(tmp_path)
    sets = [*LESS, f"search.proxy=[params, {name}]"]
    assert main(["run", str(file), *(part for each in sets for part in ("--set", each))]) == 1
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err


def test_validate_tells_a_proxy_that_scores_nothing(host, tmp_path, monkeypatch, capsys):
    """Eight networks of the space, and not first after the teacher is trained."""
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    sets = [*LESS, "search.proxy=[params, raises]"]
    assert main(["validate", str(write_study(tmp_path)), *(part for each in sets for part in ("--set", each))]) == 1
    said = capsys.readouterr().err
    assert "search.proxy[1]: proxy 'raises' scored none of 8 candidates, the first: ValueError: a proxy's own" in said
    assert "Mend it, or use" in said


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", r"distiller 'bad' called sys.exit\(0\)"),
        ("late", r"distiller 'bad': ValueError: too late \(in terms, bad_plugin.py:\d+\)"),
        ("stop late", r"distiller 'bad': Stop: here \(in terms, bad_plugin.py:\d+\)"),
    ],
)
def test_what_a_distiller_raises_fails_its_trial_with_its_name(how, words, host, tmp_path):
    with pytest.raises(TrialError, match=f"all 2 trials failed; the first: {words}"):
        run_tiny(tmp_path, *LESS, host=host, text=with_bad(how))


def test_a_metric_that_gives_a_word_fails_trials_with_its_key(host, tmp_path):
    sets = (*LESS, "objectives={accuracy: max, worded: max}", "metrics=[accuracy, worded]")
    words = r"all 2 trials failed; the first: metrics\[1\]: metric 'worded' \(.*\) gives 'good' as 'worded'. Expected a number"
    with pytest.raises(TrialError, match=words):
        run_tiny(tmp_path, *sets, host=host)


def test_stdout_holds_the_answer_alone_and_hooks_change_copies(installed, tmp_path):
    file = write_study(tmp_path, with_bad("print"))
    sets = [part for each in (*LESS, "refine.trials=1") for part in ("--set", each)]
    path = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run(
        [sys.executable, "-m", "kdsearch", "run", str(file), "--json", *sets],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "a line of a" not in done.stdout
    assert 0 < result["student"]["accuracy"] < 1
    assert all(row["accuracy"] < 1 for row in result["exports"])
    rows = read_lines(tmp_path / "tiny" / "events.jsonl")
    assert {each["event"] for each in rows} >= {"stage", "trial"}


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(TrialError, match=pattern):
        raise TrialError(text)


def test_a_fault_of_every_point_is_said_before_any_work(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    file = write_study(tmp_path, with_bad("raise"))
    assert main(["run", str(file)]) == 2
    err = capsys.readouterr().err
    assert "distiller 'bad' fails at its first step: ValueError: a plugin's own fault (in terms, bad_plugin.py:" in err
    assert "Traceback" not in err
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]


def test_all_trials_fail_and_the_next_run_tries_anew(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    file = write_study(tmp_path, with_bad("nan"))
    command = ["run", str(file), "--dir", str(tmp_path / "study"), *(part for each in LESS for part in ("--set", each))]
    assert main(command) == 1
    err = capsys.readouterr().err
    assert "all 2 trials failed; the first: term 'bad.bad' is nan in phase 'distill', epoch 0, step 0" in err
    assert "Traceback" not in err
    assert [each["state"] for each in events(tmp_path, "trial")] == ["failed"] * 2
    assert not list((tmp_path / "study" / "artifacts").glob("*refine*"))

    monkeypatch.setattr(bad_plugin.Bad, "terms", lambda self, step: {"bad": 0.0 * step.student["logits"].mean()})
    before = len(events(tmp_path))
    assert main(command) == 0
    assert made(tmp_path, before)[0] == "refine"
    assert [each["state"] for each in events(tmp_path, "trial")] == ["failed"] * 2 + ["complete"] * 2


def test_a_metric_that_is_no_number_fails_its_trial_alone(tmp_path, monkeypatch):
    from kdsearch.engine.setup import LiveSetup

    real, n = LiveSetup.score, [0]

    def score(self, metric, role, split="val"):
        n[0] += 1
        return float("nan") if n[0] == 4 else real(self, metric, role, split)

    monkeypatch.setattr(LiveSetup, "score", score)
    run_tiny(tmp_path, *LESS, "refine.epochs=1", "refine.trials=3")
    errors = [each["error"] for each in events(tmp_path, "trial")]
    assert sorted(errors) == ["", "", "accuracy of 'student' on validation is nan after epoch 1"]


def test_failed_control_is_said_not_fatal(host, tmp_path, monkeypatch):
    from kdsearch.training.train import train_shared

    def failing(materials, request, *arguments, **named):
        if request.name == "baseline":
            raise ValueError("no baseline")
        return train_shared(materials, request, *arguments, **named)

    monkeypatch.setattr("kdsearch.training.train.train_shared", failing)
    sets = [each for each in LESS if "controls" not in each]
    result = run_tiny(tmp_path, *sets, "distill.controls=[baseline]", host=host, text=with_bad("well"))
    assert result["baseline"] is None
    assert [note for note in result["notes"] if note.startswith("baseline failed: ValueError: no baseline")]


DEADLY = {"segfault": "its process was killed by SIGSEGV", "leave well": "its process ended with exit code 0"}


def test_trials_that_take_their_processes_along(installed, tmp_path):
    """As a study runs by default, with one worker: each costs its trial, and a new process goes on with the next."""
    how = ("well", *DEADLY)
    finite = ("refine.controller={use: exhaustive}", "recipe.train.lr=0.002", "search.candidates=1", "search.keep=1")
    sets = (*LESS, "refine.trials=3", *finite)
    result = run_tiny(tmp_path, *sets, "run.executor=null", text=with_choices(*(f"'{each}'" for each in how)))
    trials = events(tmp_path, "trial")
    assert sorted(each["state"] for each in trials) == ["complete", "failed", "failed"]
    errors = [each["error"] for each in trials if each["error"]]
    for message in DEADLY.values():
        assert [error for error in errors if message in error], errors
    assert result["student"]["recipe"]["distillers"][0]["options"]["how"] == "well"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "limit", "message"),
    [
        ("hang", "run.trial_timeout_s=8.0", "timed out after 8 s"),
        ("swallow", "run.trial_memory_bytes=2000000000", "MB of 2,000 MB allowed"),
        ("leave", "run.workers=1", "exit code 7"),
        ("raise", "run.workers=1", "ValueError: a plugin's own fault"),
    ],
)
def test_limits_of_a_trial(how, limit, message, installed, tmp_path):
    sets = (*LESS, "refine.trials=4", "run.executor={use: processes}", limit)
    result = run_tiny(tmp_path, *sets, workers=2, text=with_choices("well", how))
    failed = [each["error"] for each in events(tmp_path, "trial") if each["state"] == "failed"]
    assert failed
    assert all(message in each for each in failed), failed
    assert result["student"]["recipe"]["distillers"][0]["options"]["how"] == "well"


def test_limits_need_a_process_of_their_own():
    import torch

    from kdsearch.study.api import make

    images, labels = torch.zeros(40, 1, 8, 8), torch.arange(40) % 4
    asked = {"train": (images, labels), "student": "cifar_resnet", "recipe": {"distillers": []}}
    with pytest.raises(UserError, match=r"run.trial_timeout_s: got 5.0, a limit .*live objects \(data\)"):
        make(**asked, run={"trial_timeout_s": 5.0})


@pytest.mark.parametrize(
    ("sets", "workers", "message"),
    [
        (("run.trial_memory_bytes=2000000000",), None, "run.trial_memory_bytes: got 2,000,000,000, a limit that only"),
        (("run.workers=2",), None, "run.workers: 2 workers, but executor 'inprocess' runs trials in this process"),
        ((), 2, "run.workers: 2 workers, but executor 'inprocess' runs trials in this process, one at a time"),
    ],
)
def test_what_one_process_cannot_do_is_refused(sets, workers, message, tmp_path, capsys):
    command = ["run", str(write_study(tmp_path)), *(part for each in sets for part in ("--set", each))]
    assert main([*command, *(["--workers", str(workers)] if workers else [])]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Leave run.executor out" in err
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]
