"""What a plugin's report and event hooks raise is told: on the terminal, in the JSON and on the page."""

from __future__ import annotations

import json

import pytest
import torch

from kdsearch.cli import main
from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from kdsearch.store.weights import load_into, read
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import live_teacher
from tests.stages.tiny import LESS, TEXT, run_tiny, write_study


class Torn:
    """A plugin whose hooks raise, and that names a module which is not there."""

    @hookimpl
    def kdsearch_register(self, register: Register) -> None:
        register.distiller("gone", "kdsearch_gone.some:Gone")
        register.metric("away", "kdsearch.kit.away:Away")

    @hookimpl
    def kdsearch_report(self, study):
        raise ValueError("no section today")

    @hookimpl
    def kdsearch_event(self, event):
        raise KeyError("an event it does not know")


def test_broken_hooks_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: HOST))
    file = write_study(tmp_path, TEXT)
    sets = [part for each in (*LESS, "refine.trials=1") for part in ("--set", each)]
    assert main(["run", str(file), *sets]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "tiny"
    notes = json.loads((folder / "result.json").read_text())["notes"]
    page = (folder / "report" / "index.html").read_text()
    for hook, words in (
        ("kdsearch_report", "ValueError: no section today"),
        ("kdsearch_event", "an event it does not know"),
    ):
        (said,) = [note for note in notes if f"Plugin 'torn' of live 0 failed in {hook}" in note]
        assert words in said
        assert hook in out
        assert hook in page

    assert main(["report", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [note for note in answer["notes"] if "no section today" in note]


HOST = Host.load(extra=[("torn", Torn())])


def test_ok_is_said_where_the_module_is_there(monkeypatch, capsys):
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: HOST))
    assert main(["plugins", "--json"]) == 0
    states = {
        (each["kind"], each["name"]): each["state"] for each in json.loads(capsys.readouterr().out)["capabilities"]
    }
    assert {key for key, state in states.items() if state not in ("ok", "not installed")} == {
        ("distiller", "gone"),
        ("metric", "away"),
    }
    assert states["distiller", "gone"] == "missing"


def host_with(plugin):
    return Host.load(extra=[("looking", plugin)])


class Looking:
    """Shows what it is handed of samples."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def kdsearch_report(self, study, samples):
        self.seen.append(samples)
        right = samples.answers["student"]["logits"].argmax(1) == samples.batch["label"]
        return [("First samples", f"<p>{int(right.sum())} of {len(samples.batch)} are right</p>")]


def test_a_section_is_handed_samples_with_what_student_and_teacher_answer(tmp_path, monkeypatch):
    """Against the file's answers, by hand; when the page is written anew, too."""
    import onnxruntime

    looking = Looking()
    result = run_tiny(tmp_path, *LESS, "refine.trials=1", host=host_with(looking))
    (samples,) = looking.seen
    assert set(samples.answers) == {"student", "teacher", "main"}
    assert len(samples.batch) == 64
    file = tmp_path / "study" / result["exports"][0]["path"]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: samples.batch["image"].numpy()})
    assert samples.answers["student"]["logits"].numpy() == pytest.approx(logits, abs=1e-4)
    right = int((logits.argmax(1) == samples.batch["label"].numpy()).sum())
    assert f"<p>{right} of 64 are right</p>" in (tmp_path / "study" / "report" / "index.html").read_text()
    page = tmp_path / "study" / "report" / "index.html"
    page.unlink()
    again = Looking()
    host = host_with(again)
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    assert main(["report", str(tmp_path / "study")]) == 0
    assert again.seen[0].answers["student"]["logits"].equal(samples.answers["student"]["logits"])
    assert f"<p>{right} of 64 are right</p>" in page.read_text()
    monkeypatch.undo()
    materials = open_materials(load_study(tmp_path / "study" / "study.yaml", Host.load()), Host.load())
    (prepared,) = (tmp_path / "study" / "artifacts").glob("prepare-*")
    live = live_teacher(materials, "main")
    load_into(live.model.module, read(prepared / "main.safetensors"), prepared)
    with torch.no_grad():
        taught = live.model.module.eval()(samples.batch["image"])
    assert samples.answers["main"]["logits"].numpy() == pytest.approx(taught.numpy(), abs=1e-4)
    assert samples.answers["teacher"]["logits"].equal(samples.answers["main"]["logits"])
