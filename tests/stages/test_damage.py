"""Damaged, foreign and newer files: exit 2, one message; what it says to delete lets the run go on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from kdsearch.engine.checkpoint import digest_of
from kdsearch.engine.setup import Site
from kdsearch.errors import ArtifactError, KdsearchError
from kdsearch.stages.file_costs import file_costs
from kdsearch.store.artifacts import FORMAT, Store
from kdsearch.store.files import read_json, read_lines, write_json
from kdsearch.store.folder import open_folder
from kdsearch.verbs import commands
from tests.stages.test_keys import materials
from tests.stages.tiny import run_tiny, settled


def artifact(folder: Path, stage: str) -> Path:
    return next((folder / "study" / "artifacts").glob(f"{stage}-*"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


def newer(file: Path) -> None:
    write_json(file, {**read_json(file), "format": FORMAT + 1})


def remove(file: Path) -> None:
    file.unlink()


def delete_what_it_names(error: KdsearchError) -> None:
    named = re.search(r"Delete the folder (\S+);", error.fix)
    path = Path(named[1]) if named else Path(str(error.file))
    assert named or error.fix.startswith("Delete")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("stage", "name", "damage", "message"),
    [
        ("distill", "winner-0/final.safetensors", truncate, r"winner-0/final.safetensors: [\d,]+ of [\d,]+ bytes"),
        ("prepare", "main.safetensors", flip, r"its bytes have changed. Expected SHA-256 [0-9a-f]{12}"),
        ("compress", "recover/final.safetensors", remove, r"recover/final.safetensors: missing"),
        ("report", "artifact.json", truncate, r"artifact.json: not valid JSON"),
        ("search", "candidates-student.jsonl", flip, r"candidates-student.jsonl: its bytes have changed"),
    ],
)
def test_artifact(stage, name, damage, message, finished, copied):
    folder = artifact(copied, stage)
    if stage == "distill":  # which of the finalists won
        winner = read_json(folder / "artifact.json")["facts"]["winner"]
        name, message = (each.replace("winner-0", winner) for each in (name, message))
    damage(folder / name)
    with pytest.raises(ArtifactError, match=message) as caught:
        run_tiny(copied)
    assert caught.value.exit_code == 2
    assert f"Delete the folder {folder}; `kdsearch run` redoes stage '{stage}'." in str(caught.value)
    delete_what_it_names(caught.value)
    assert settled(run_tiny(copied)) == finished.settled


@pytest.mark.parametrize("where", ["artifact.json", "kdsearch.json"])
def test_newer_format(where, copied):
    file = copied / "study" / where if where == "kdsearch.json" else artifact(copied, "export") / where
    newer(file)
    with pytest.raises(ArtifactError, match=rf"format {FORMAT + 1} is newer than this kdsearch .* reads") as caught:
        run_tiny(copied)
    assert caught.value.file == file
    assert "Install a newer kdsearch" in str(caught.value)


@pytest.mark.parametrize("name", ["kdsearch.json", "last.json"])
@pytest.mark.parametrize("text", ["{", "[]", '"text"'])
def test_torn_table_of_the_folder(name, text, finished, copied):
    file = copied / "study" / name
    file.write_text(text)
    with pytest.raises(ArtifactError) as caught:
        run_tiny(copied)
    assert caught.value.file == file
    delete_what_it_names(caught.value)
    assert settled(run_tiny(copied)) == finished.settled


def test_damaged_result_is_written_anew(finished, copied):
    (copied / "study" / "result.json").write_text("{")
    (copied / "study" / "report" / "index.html").unlink()
    (copied / "study" / "export" / "tiny-int8.onnx").write_text("no model")
    assert settled(run_tiny(copied)) == finished.settled
    assert (copied / "study/export/tiny-int8.onnx").stat().st_size == finished.result["exports"][1]["bytes"]
    assert read_json(copied / "study" / "result.json")["study"] == "tiny"


def test_folder_that_is_no_study(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.tex").write_text("x")
    with pytest.raises(ArtifactError, match="the folder has other files in it"):
        run_tiny(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"file: is a file. Expected a folder"):
        open_folder(tmp_path / "file")
    assert [each.name for each in (tmp_path / "study").iterdir()] == ["thesis.tex"]


def checkpoints(folder: Path, stage: str) -> list[Path]:
    found = sorted((folder / "study" / "work").glob(f"{stage}-*/*/phase-*.safetensors"))
    assert found
    return found


def rewritten(file: Path, change) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(file), framework="pt") as opened:
        header, tensors = dict(opened.metadata()), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    before = header["position"]
    change(header)
    if header["position"] != before:  # as somebody else's program would write it
        header["digest"] = digest_of(header["position"], tensors)
    save_file(tensors, file, header)


def foreign(header) -> None:
    header["position"] = json.dumps({**json.loads(header["position"]), "owner": "another"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a whole checkpoint"),
        (flip, "its bytes have changed since it was written"),
        (lambda file: rewritten(file, lambda header: header.update(digest="0")), "its bytes have changed"),
        (lambda file: rewritten(file, lambda header: header.update(format="99")), "format '?99'? is newer"),
        (lambda file: rewritten(file, lambda header: header.update(position="{")), "position"),
    ],
    ids=["truncated", "flipped", "digest", "newer", "position"],
)
def test_checkpoint(damage, message, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped["refine"], tmp_path / "it"))
    file = checkpoints(folder, "refine")[0]
    damage(file)
    with pytest.raises(ArtifactError, match=message) as caught:
        run_tiny(folder)
    assert str(caught.value.file) == str(file)
    assert caught.value.exit_code == 2


def test_the_checkpoint_of_another_study_makes_way(finished, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped["refine"], tmp_path / "it"))
    rewritten(checkpoints(folder, "refine")[0], foreign)
    assert settled(run_tiny(folder)) == finished.settled


def test_torn_lines_are_dropped(finished, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped["search"], tmp_path / "it"))
    rows = next((folder / "study" / "work").glob("search-*/candidates-student.jsonl"))
    assert len(rows.read_text().splitlines()) >= 2
    for file in (rows, folder / "study" / "events.jsonl"):
        with file.open("a") as stream:
            stream.write('{"key": "to')
    (folder / "study" / "trials.journal").write_text('{"op_co')
    assert settled(run_tiny(folder)) == finished.settled
    assert all(isinstance(each, dict) for each in read_lines(folder / "study" / "events.jsonl"))


def test_damage_in_the_middle_of_a_journal_is_said(stopped, tmp_path):
    folder = Path(shutil.copytree(stopped["refine"], tmp_path / "it"))
    file = folder / "study" / "trials.journal"
    file.write_bytes(b"no line of a journal\n" + (file.read_bytes() if file.exists() else b""))
    with pytest.raises(ArtifactError, match=r"trials.journal: not a journal of trials .*Delete the file") as caught:
        run_tiny(folder)
    assert caught.value.exit_code == 2


def test_a_trial_of_the_journal_changed_by_hand_is_not_believed(stopped, tmp_path):
    folder = Path(shutil.copytree(stopped["refine"], tmp_path / "it"))
    file = folder / "study" / "trials.journal"
    text = file.read_text()
    changed = text.replace('train.lr\\": 0.002', 'train.lr\\": 0.02')
    assert changed != text
    file.write_text(changed)
    with pytest.raises(ArtifactError, match=r"trial 0 has changed since it was written") as caught:
        run_tiny(folder)
    assert (caught.value.file, caught.value.exit_code) == (file, 2)
    assert "Delete the file; `run` tries again." in str(caught.value)


@pytest.mark.parametrize(
    "about", ["[]", "{}", '{"format": 1}', '{"format": 1, "files": [], "facts": {}}', '{"format": "x"}']
)
def test_nonsense_where_an_artifact_says_what_it_is(about, tmp_path):
    store = Store(tmp_path)
    store.put("search", "k", lambda out: {}, {})
    (store.folder("search", "k") / "artifact.json").write_text(about)
    with pytest.raises(ArtifactError, match=r"artifact.json: .*Delete the folder .*search-k"):
        store.get("search", "k")


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), flip, remove], ids=["empty", "flipped", "gone"])
@pytest.mark.parametrize("name", ["tiny-int8.onnx", "tiny-int8.json"])
def test_an_exported_file_is_called_verified_only_after_it_was_read(name, damage, finished, copied):
    folder = copied / "study"
    before = (finished.folder / "study" / "export" / name).read_bytes()
    damage(folder / "export" / name)
    row = commands.export(dir=folder, format="onnx-int8")
    assert "was damaged; put back" in row["text"]
    assert (folder / "export" / name).read_bytes() == before
    assert "damaged" not in commands.export(dir=folder, format="onnx-int8")["text"]


def test_public_folders_that_are_gone_are_made_again(finished, copied):
    folder = copied / "study"
    for name in ("export", "report"):
        shutil.rmtree(folder / name)
    commands.export(dir=folder, format="onnx-int8")
    commands.report(dir=folder)
    name = "export/tiny-int8.onnx"
    assert (folder / name).read_bytes() == (finished.folder / "study" / name).read_bytes()
    assert (folder / "report" / "index.html").is_file()


def test_a_row_of_the_result_changed_by_hand_is_not_believed(finished, copied):
    file = copied / "study" / "result.json"
    result = read_json(file)
    result["exports"][0]["accuracy"] = 0.999
    write_json(file, result)
    with pytest.raises(ArtifactError, match=r"result.json: exports: has changed since it was written. Delete it"):
        commands.export(dir=copied / "study", format=result["exports"][0]["format"])
    file.unlink()
    assert settled(run_tiny(copied)) == finished.settled
    row = commands.export(dir=copied / "study", format=result["exports"][0]["format"])
    assert row["accuracy"] == finished.result["exports"][0]["accuracy"]


def test_a_damaged_copy_of_a_damaged_artifact_is_refused(copied):
    flip(copied / "study" / "export" / "tiny-fp32.onnx")
    flip(artifact(copied, "export") / "tiny-fp32.onnx")
    with pytest.raises(ArtifactError, match="its bytes have changed"):
        commands.export(dir=copied / "study", format="onnx-fp32")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"score":', '"score":1', r"has changed since it was written"),
        ('"params":', '"params":-', r"params: got -\d+. Expected"),
        ('"macs":', '"macs":"', r"is no JSON object"),
        ('"params":', '"params":1e999,"n":', r"is no JSON object"),
        ('"feasible":true', '"feasible":3', r"Expected"),
    ],
)
def test_a_scored_candidate_changed_by_hand_is_one_message(old, new, message, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped["search"], tmp_path / "it"))
    file = next((folder / "study" / "work").glob("search-*/candidates-student.jsonl"))
    text = file.read_text()
    file.write_text(text.replace(old, new, 1))
    assert file.read_text() != text
    with pytest.raises(ArtifactError, match=message) as caught:
        run_tiny(folder)
    assert (caught.value.file, caught.value.line, caught.value.exit_code) == (file, 2, 2)
    assert "Delete the file; `run` scores again." in str(caught.value)


@pytest.mark.parametrize("made", [0.5, [1, 2], {"a": torch.ones(2), "b": torch.zeros(3, 1)}])
@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.write_text('{"key": "k", "value": 9}')])
def test_what_is_kept_once_is_what_was_made(made, damage, tmp_path):
    def value() -> str:
        return str(Site(0, tmp_path, memory=tmp_path / "memory").once("k", lambda: made))

    assert value() == value() == str(made)
    (file,) = (tmp_path / "memory").glob("once-*")
    damage(file)
    with pytest.raises(ArtifactError, match="Delete it; `kdsearch run` makes it again") as caught:
        value()
    assert (caught.value.file, caught.value.exit_code) == (file, 2)
    file.unlink()
    assert value() == str(made)


@pytest.mark.parametrize("damage", [truncate, lambda file: write_json(file, {**read_json(file), "onnx_bytes": 1})])
def test_a_cost_that_was_changed_is_measured_anew(damage, tmp_path):
    found = materials("constraints.onnx_bytes=1000000")
    role, space = next(iter(found.spaces.items()))
    spec = next(space.every()).model_dump(mode="json")
    cost = file_costs(found, role, spec, tmp_path)
    assert cost["onnx_bytes"] > 1000
    (file,) = tmp_path.glob("costs-*.json")
    whole = file.read_bytes()
    assert file_costs(found, role, spec, tmp_path) == cost
    damage(file)
    assert file_costs(found, role, spec, tmp_path) == cost
    assert file.read_bytes() == whole
