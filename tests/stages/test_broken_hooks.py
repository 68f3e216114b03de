"""What a plugin's report and event hooks raise is told: on the terminal, in the JSON and on the page."""

from __future__ import annotations

import json

from kdsearch.cli import main
from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from tests.stages.tiny import LESS, TEXT, write_study


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
    assert {key for key, state in states.items() if state != "ok"} == {("distiller", "gone"), ("metric", "away")}
    assert states["distiller", "gone"] == "missing"
