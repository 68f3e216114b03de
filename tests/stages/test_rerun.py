"""Running again: nothing twice, a changed section redoes what depends on it, and `clean` takes what is left of the rest."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal

import pytest
import torch

from kdsearch.builtin.channels.pruner import Channels
from kdsearch.cli import main
from kdsearch.errors import ArtifactError, InterruptedRun
from kdsearch.stages import one_file, report, run
from kdsearch.stages.versions import what_changed
from kdsearch.store.files import read_json, write_json
from kdsearch.training import teachers, train, trainings
from kdsearch.verbs import commands
from kdsearch.verbs.status import status_of
from kdsearch.version import VERSION
from tests.stages.tiny import LESS, events, files_of, is_stage, made, run_tiny, run_up_to, settled, watching

FEWER_ANSWERS = "export.min_agreement={onnx-int4: 0.5}"  # two epochs make unsure networks


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """One entry for every optimiser step of a training."""
    from kdsearch.engine import loop

    taken: list[str] = []

    class Counting(loop.Report):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            before = self.step

            def counted(phase, at, of, loss):
                taken.append(phase)
                before(phase, at, of, loss)

            self.step = counted

    for module in (train, teachers, trainings):
        monkeypatch.setattr(module, "Report", Counting)
    return taken


def test_nothing_twice(finished, copied, steps):
    before, artifacts = len(events(copied)), files_of(copied / "study" / "artifacts")
    assert settled(run_tiny(copied)) == finished.settled
    assert events(copied)[before:] == []
    assert steps == []
    assert files_of(copied / "study" / "artifacts") == artifacts


def test_all_trials_are_those_that_there_were_to_try(tmp_path):
    """Of one network with one recipe there is one, though the study asks for five."""
    fixed = ("student.spec={depths: [1, 1, 1], widths: [4, 4, 4]}", "recipe.distillers=[kd]", "recipe.train={lr: 0.01}")
    run_up_to(tmp_path, "refine", *LESS, *fixed, "refine.trials=5", "refine.first=[scored]")
    found = status_of(tmp_path / "study")
    assert (found["trials"], found["trials_total"]) == (1, 1)
    assert "trials: 1 of 1; best" in found["text"]


def test_trials_of_which_the_folder_knows_nothing_are_counted(finished, copied):
    """Another folder ran them, in a database that is this one's, too; or a kill came before one was told."""
    file, known = copied / "study" / "events.jsonl", status_of(copied / "study")
    told = [line for line in file.read_text().splitlines() if json.loads(line)["event"] == "trial"]
    assert known["trials"] == known["trials_total"] == len(told) > 1
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if line not in told[1:]))
    shutil.rmtree(next((copied / "study" / "artifacts").glob("refine-*")))
    run_up_to(copied, "refine")
    found = status_of(copied / "study")
    assert (found["trials"], found["best"]) == (known["trials"], known["best"])
    again = [{name: each[name] for name in each if name != "time"} for each in events(copied, "trial")]
    before = [{name: each[name] for name in each if name != "time"} for each in map(json.loads, told)]
    assert sorted(again, key=lambda each: each["number"]) == sorted(before, key=lambda each: each["number"]), "once"


def test_seconds_are_those_that_the_work_took(finished, copied):
    assert run_tiny(copied)["seconds"] == finished.result["seconds"]


@pytest.mark.parametrize(
    ("change", "redone", "trains"),
    [
        ("distill.epochs=3", ["distill", "compress", "export", "report"], True),
        ("export.formats=[onnx-fp32, onnx-int8]", ["export", "report"], False),
        ("export.max_drop={onnx-int8: 0.9, onnx-int4: 1.0}", ["export", "report"], False),
        ("name=other", ["export", "report"], False),
        ("run.workers=1", [], False),
    ],
)
def test_changed_section(change, redone, trains, finished, copied, steps):
    before = len(events(copied))
    sets = (change, "export.max_drop={}") if "formats" in change else (change,)
    result = run_tiny(copied, *sets)
    assert made(copied, before) == redone
    assert [each["redo"] for each in events(copied)[before:] if each["event"] == "changed"] == (
        [redone] if redone else []
    )
    assert bool(steps) == trains
    if not trains and "formats" not in change:
        renamed = json.dumps(settled(result)).replace("export/other-", "export/tiny-")  # files bear the study's name
        found = {**json.loads(renamed), "study": "tiny"}
        for row, was in zip(found["exports"], finished.settled["exports"], strict=True):
            row["bounds"] = was["bounds"]  # what was asked of a file, which is what one of these changes
            if change == "name=other":  # a file says which study it comes from
                assert 0 < row["bytes"] - was["bytes"] < 8
                assert row["weight_share"] == pytest.approx(was["weight_share"])  # weighted by bytes
                row |= {name: was[name] for name in ("bytes", "graphs", "weight_share")}
        assert found == finished.settled
    if "formats" in change:
        assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
        assert sorted(each.name for each in (copied / "study" / "export").glob("*.onnx")) == [
            "tiny-fp32.onnx",
            "tiny-int8.onnx",
        ]


ONE_FORMAT = ("export.formats=[onnx-fp32]", "compress.quantize=[]", "export.max_drop={}")
TWO_FORMATS = ("export.formats=[onnx-fp32, onnx-int8]", "compress.quantize=[{use: int8}]", "export.max_drop={}")


def in_export(folder):
    return sorted(each.name for each in (folder / "study" / "export").iterdir())


def test_a_file_made_by_hand_stays_with_its_student(copied, monkeypatch):
    """What the text asked for once goes; so does a file by hand with another student, and that is said once."""
    monkeypatch.setattr(one_file, "check_drop", lambda *_: None)
    monkeypatch.setattr(one_file, "check_agreement", lambda *_: None)
    study, own, by_hand = copied / "study", ["predict.py", "tiny-fp32.json", "tiny-fp32.onnx"], "export/tiny-int8.onnx"
    first = run_tiny(copied, *ONE_FORMAT)
    assert in_export(copied) == own
    commands.export(dir=study, format="onnx-int8", progress=False)
    file = (study / by_hand).read_bytes()
    again = run_tiny(copied, *ONE_FORMAT)
    kept = f"{by_hand}: no part of this result; `kdsearch export` made it, of the same student."
    assert kept in again["notes"]
    assert f"note        {kept}" in commands.summary_of(again, study)
    assert again["exports"] == first["exports"]
    assert again["seconds"] == first["seconds"], "of when each stage was made, whatever was made since"
    assert in_export(copied) == [*own, "tiny-int8.json", "tiny-int8.onnx"]
    assert (study / by_hand).read_bytes() == file
    assert main(["report", str(study)]) == 0
    assert "made it, of the same student" in (study / "report" / "index.html").read_text()

    assert not [each for each in run_tiny(copied, *TWO_FORMATS)["notes"] if "export/" in each]
    run_tiny(copied, *ONE_FORMAT)
    assert in_export(copied) == own, "the text had asked for it since, so that it was not by hand any more"

    commands.export(dir=study, format="onnx-int8", progress=False)
    other = run_tiny(copied, *ONE_FORMAT, "compress.prune=null")
    assert in_export(copied) == own
    told = f"`kdsearch export {study} --format onnx-int8` makes it of this one."
    assert f"{by_hand}: was of another student, and is gone; {told}" in other["notes"]
    assert not [each for each in run_tiny(copied, *ONE_FORMAT)["notes"] if "export/" in each]


def test_a_program_that_the_study_has_no_more_goes(copied, monkeypatch):
    """It would run files that are not there any more; a program of one's own stays."""
    place = copied / "study" / "export" / "predict.py"
    assert place.exists()
    monkeypatch.setattr(report, "write_predict", lambda *_: None)
    run_tiny(copied, *ONE_FORMAT)
    assert not place.exists()
    place.write_text("print('mine')")
    run_tiny(copied, *ONE_FORMAT)
    assert place.read_text() == "print('mine')"


def test_what_a_run_adds_to_the_notes_is_no_change_by_hand(copied, monkeypatch):
    """Of artifacts that other versions made, for one."""
    monkeypatch.setattr(run, "older", lambda made: "Made by other versions, and kept: all")
    monkeypatch.setattr(report, "notes_of", lambda *_: ["one", "two"])
    shutil.rmtree(next((copied / "study" / "artifacts").glob("report-*")))
    told = run_tiny(copied)["notes"]
    assert told == ["one", "two", "Made by other versions, and kept: all"]
    assert commands.export(dir=copied / "study", format="onnx-int8")["format"] == "onnx-int8"
    file = copied / "study" / "result.json"
    for changed in (["one"], ["one", "2", "three"]):
        write_json(file, {**read_json(file), "notes": changed})
        with pytest.raises(ArtifactError, match=r"result.json: notes: has changed"):
            commands.export(dir=copied / "study", format="onnx-int8")


def test_what_is_being_redone_is_not_said_to_be_done(finished, copied):
    """In the middle of it and after a kill; a study that is changed back is as it was."""
    folder, seen = copied / "study", []
    whole = status_of(folder)

    def states(found):
        return [each["state"] for each in found["stages"].values()]

    def looked(event):
        if is_stage(event, "distill"):
            seen.append(status_of(folder))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRun):
        run_tiny(copied, "distill.epochs=3", host=watching(looked))
    after = status_of(folder)
    assert states(seen[0]) == [*["done"] * 3, "begun", *["not begun"] * 3]
    assert states(after) == [*["done"] * 3, "stopped", *["not begun"] * 3]
    for each in (seen[0], after):
        assert each["stage"]["name"] == "distill"
        assert each["recommended"] is None
        assert each["stages"]["report"]["seconds"] is None
        assert each["trials"] == whole["trials"]
    run_tiny(copied)
    assert {**status_of(folder), "last_error": ""} == {**whole, "last_error": ""}


def test_trials_of_a_study_as_it_was_are_not_those_of_what_is_redone(copied):
    with pytest.raises(InterruptedRun):
        run_tiny(
            copied,
            "search.candidates=5",
            host=watching(lambda each: is_stage(each, "search") and signal.raise_signal(signal.SIGTERM)),
        )
    found = status_of(copied / "study")
    assert found["stages"]["refine"]["state"] == "not begun"
    assert (found["trials"], found["trials_total"], found["best"]) == (0, None, None)


def test_what_was_interrupted_goes_on_and_is_not_said_to_have_changed_again(copied, capsys):
    said = "the study has changed: redoing refine, distill, "
    stopping = watching(lambda each: is_stage(each, "refine") and signal.raise_signal(signal.SIGTERM))
    for change, host, expected in (
        ("refine.epochs=1", stopping, 1),
        ("refine.epochs=1", stopping, 0),
        ("refine.epochs=3", stopping, 1),
        ("refine.epochs=1", None, 1),
    ):
        with pytest.raises(InterruptedRun) if host else contextlib.nullcontext():
            run_up_to(copied, "refine", change, host=host, progress=True)
        assert capsys.readouterr().err.count(said) == expected, change


def test_another_quantizer_recovers_nothing_anew(finished, copied, steps):
    """Pruned and recovered students are an artifact of their own."""
    before, fewer = len(events(copied)), ("export.formats=[onnx-int8]", "export.max_drop={onnx-int8: 1.0}")
    other = run_tiny(copied, "compress.quantize=[{use: int8, options: {samples: 8}}]", *fewer)
    assert made(copied, before) == ["compress", "export", "report"]
    assert steps == []
    assert other["pruned"] == finished.result["pruned"]
    run_tiny(copied, "compress.prune.options.macs=0.95", FEWER_ANSWERS)
    assert steps, "another pruner's students recover"
    folder = copied / "study"
    commands.clean(dir=folder)
    assert len(list(folder.glob("artifacts/recovered-*"))) == 1
    del steps[:]
    run_tiny(copied, "compress.prune.options.macs=0.95", "compress.quantize=[int8]", *fewer)
    assert steps == [], "clean leaves what the last run was made from"


def test_what_is_redone_is_said_and_files_of_others_stay(copied, capsys):
    own = [copied / "study" / "export" / name for name in ("notes.json", "mine.onnx")]
    for each in own:
        each.write_text("mine")
    assert main(["run", str(copied / "tiny.yaml"), "--dir", str(copied / "study"), "--set", "name=other"]) == 0
    out, err = capsys.readouterr()
    assert "the study has changed: redoing export, report; what they replace stays until `kdsearch clean`" in err
    assert f"{copied / 'study'} was of the study 'tiny' so far, and is of 'other' now\n" in err
    assert "recommended" in out
    assert [each.read_text() for each in own] == ["mine", "mine"]
    left = [each.name for each in (copied / "study" / "export").iterdir() if each.name.startswith("tiny-")]
    assert not left, "an earlier study's, by the record of its result"


def test_that_kdsearch_is_another_version_is_no_change_of_the_study(copied, capsys, monkeypatch):
    for module in ("kdsearch.store.artifacts", "kdsearch.stages.versions"):
        monkeypatch.setattr(f"{module}.VERSION", "99.1")
    run_up_to(copied, "prepare", progress=True)
    assert f"kdsearch is 99.1 now, and was {VERSION}: redoing prepare, search, refine, " in capsys.readouterr().err
    gone = copied / "study" / "artifacts" / "prepare-0123abcd"
    assert what_changed(gone, "prepare") == "the study has changed"


def test_that_a_plugin_is_another_version_or_may_have_other_code_is_said(tmp_path, monkeypatch):
    folder = tmp_path / "artifacts" / "refine-0123abcd"
    provenance = {
        "kdsearch": VERSION,
        "plugins": {"own-kd:own": "1.0", "kdsearch:builtin": VERSION, "idle:idle": "3.0"},
    }
    folder.mkdir(parents=True)
    (folder / "artifact.json").touch()
    monkeypatch.setattr("kdsearch.stages.versions.about_of", lambda path, stage: {"provenance": provenance})
    used = [f"kdsearch {VERSION} 01ab", "live 23cd", "own-kd 1.1 45ef"]
    assert what_changed(folder, "refine", used) == "own-kd is 1.1 now, and was 1.0"
    used[2] = "own-kd 1.0 67ab"
    assert what_changed(folder, "refine", used) == "the study, or the code of own-kd, has changed"
    assert what_changed(folder, "refine", used[:2]) == "the study has changed"


def test_another_machine_measures_latencies_anew_and_says_so(copied, capsys, monkeypatch):
    monkeypatch.setattr("kdsearch.deploy.latency._cpu", lambda: "a faster one")
    run_up_to(copied, "export", progress=True)
    assert "the machine is another one: redoing export, report; " in capsys.readouterr().err


def test_what_is_cut_to_a_latency_is_cut_anew_on_another_machine(copied, capsys, monkeypatch):
    folder = copied / "study" / "artifacts"
    for timed in (False, True):
        monkeypatch.setattr(Channels, "is_timed", timed)
        for cpu in ("a slow one", "a faster one"):
            monkeypatch.setattr("kdsearch.deploy.latency._cpu", lambda cpu=cpu: cpu)
            run_up_to(copied, "compress", progress=True)
        assert len(list(folder.glob("recovered-*"))) == len(list(folder.glob("compress-*"))) == 1 + 2 * timed
        assert ("the machine is another one: redoing compress, " in capsys.readouterr().err) == timed


def test_other_versions_of_libraries_redo_nothing_and_are_said(finished, copied, capsys, monkeypatch):
    monkeypatch.setattr("kdsearch.stages.versions.versions", lambda: {"torch": "99.1", "onnxruntime": "1.0"})
    before = len(events(copied))
    result = run_tiny(copied)
    assert made(copied, before) == []
    (note,) = [each for each in result["notes"] if each.startswith("Made by other versions, and kept: ")]
    assert note not in finished.result["notes"]
    assert "prepare, search, refine, distill, compress, export, report; onnxruntime " in note
    assert f"torch {torch.__version__.partition('+')[0]}" in note
    assert "(now 99.1). A new folder (--dir) makes them anew." in note
    assert main(["run", str(copied / "tiny.yaml"), "--dir", str(copied / "study")]) == 0
    assert note in " ".join(capsys.readouterr().out.split())
    monkeypatch.undo()
    assert settled(run_tiny(copied)) == finished.settled


def test_another_seed_keeps_the_old_until_clean(finished, copied, capsys, steps):
    study = copied / "study"
    first = {each.name for each in (study / "artifacts").iterdir()}
    other = run_tiny(copied, FEWER_ANSWERS, seed=4)
    assert settled(other) != finished.settled
    assert other["teacher"]["accuracy"] != finished.result["teacher"]["accuracy"]
    assert other["student"]["recipe"] != finished.result["student"]["recipe"]
    both = {each.name for each in (study / "artifacts").iterdir()}
    assert first < both
    assert len(both) == 2 * len(first)
    before = len(steps)
    assert settled(run_tiny(copied)) == finished.settled, "the first seed's artifacts are still there"
    assert len(steps) == before

    (study / "work" / "refine-0123").mkdir()
    (study / "work" / "refine-0123" / "phase-0.safetensors").write_bytes(b"x" * 1000)
    (study / "export" / ".tiny.onnx.77.part").write_bytes(b"x" * 10)
    untouched = files_of(study)
    assert main(["clean", str(study), "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: each for name, each in files_of(study).items() if name != ".lock"} == {
        name: each for name, each in untouched.items() if name != ".lock"
    }
    assert main(["clean", str(study)]) == 0
    text = capsys.readouterr().out
    for name in sorted(both - first):
        assert f"artifacts/{name}" in text
    assert "work/refine-0123" in text
    assert ".tiny.onnx.77.part" in text
    now = files_of(study)
    gone = {name: each for name, each in untouched.items() if name not in now}
    assert {each.name for each in (study / "artifacts").iterdir()} == first
    assert said["bytes"] == sum(len(each) for each in gone.values())
    assert sorted(each["path"] for each in said["removed"])[0].startswith("artifacts/")
    assert said["dry_run"]

    n_events = len(events(copied))
    assert settled(run_tiny(copied)) == finished.settled
    assert made(copied, n_events) == []
    assert commands.clean(dir=study)["removed"] == []


def test_clean_keeps_the_work_of_a_run_that_was_stopped(stopped, tmp_path, finished):
    folder = shutil.copytree(stopped["refine"], tmp_path / "it")
    before = files_of(folder / "study")
    assert any(name.startswith("work/refine-") for name in before)
    assert commands.clean(dir=folder / "study")["removed"] == []
    assert files_of(folder / "study").keys() - {".holder.json"} == before.keys() - {".holder.json"}


def test_clean_of_what_is_no_study(tmp_path):
    with pytest.raises(ArtifactError, match="no study's folder"):
        commands.clean(dir=tmp_path)
