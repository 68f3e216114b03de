"""Products of several graphs, and several students that ship: every one costed, pruned, quantised, exported and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.store.files import read_json, read_lines
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.outside.conftest import HERE, ended_here, killed_in

SHAPE = (1, 16, 16)


def session(file: Path) -> Any:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def held_out(study: str, n: int) -> tuple[Any, Any]:
    """Images and masks of the study's test split."""
    from kdsearch_segments import ShapesSplit

    host = Host.load()
    ids = open_materials(load_study(HERE / study, host), host).data.split("test").ids
    every = ShapesSplit(n)
    rows = [every.ids.index(each) for each in ids]
    return every.images[rows].numpy(), every.masks[rows]


def mean_iou(logits: Any, masks: Any) -> float:
    found = torch.from_numpy(logits.argmax(1))
    shares = [((found == k) & (masks == k)).sum() / ((found == k) | (masks == k)).sum() for k in range(3)]
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The study's folder and result, after a SIGKILL in `export`."""
    folder = tmp_path_factory.mktemp("chained") / "study"
    killed_in(HERE / "chained.yaml", folder, "export")
    return folder, ended_here(HERE / "chained.yaml", folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pair") / "study"
    return folder, ended_here(HERE / "pair.yaml", folder)


def test_the_chain_goes_on_after_a_kill(chained):
    folder, result = chained
    stages = [each for each in read_lines(folder / "events.jsonl") if each["event"] == "stage"]
    assert [each["stage"] for each in stages if each["state"] == "begun"].count("export") == 2
    assert result["refused"] == []
    assert result["student"]["quality"]["metric"] == "overlap"
    assert result["student"]["quality"]["value"] > 0.5


def test_the_chain_of_files_answers_as_it_is_said_to(chained, outside):
    """Run here by hand: the encoder's outputs into the head, for every format."""
    folder, result = chained
    images, masks = held_out("chained.yaml", 96)
    for row in result["exports"]:
        encoder, head = (session(folder / path) for path in row["paths"])
        assert [each.name for each in head.get_inputs()] == ["fine", "coarse"]
        fine, coarse = encoder.run(["fine", "coarse"], {"image": images})
        (logits,) = head.run(["logits"], {"fine": fine, "coarse": coarse})
        assert row["quality"]["value"] == pytest.approx(mean_iou(logits, masks), abs=5e-3)
        assert row["bytes"] == sum((folder / path).stat().st_size for path in row["paths"])
        assert row["top1_agreement"] > 0.9
    assert result["exports"][0]["parity_max_abs"] < 1e-4


def test_both_graphs_are_quantised_on_what_they_receive(chained, outside):
    """The INT8 head's input scale is of the maps that the encoder gives, at most the largest of them over 255."""
    import onnx

    folder, result = chained
    row = next(each for each in result["exports"] if each["format"] == "onnx-int8")
    images, _ = held_out("chained.yaml", 96)
    encoder = session(folder / result["exports"][0]["paths"][0])
    fine, _ = encoder.run(["fine", "coarse"], {"image": images})
    model = onnx.load(str(folder / row["paths"][1]))
    values = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    quantised = next(each for each in model.graph.node if each.op_type == "QuantizeLinear" and each.input[0] == "fine")
    scale = float(values[quantised.input[1]])
    assert 0 < scale <= 2 * float(fine.max()) / 255


def test_one_file_of_several_is_verified_but_for_its_quality(chained, outside, capsys):
    folder, result = chained
    encoder, head = (str(folder / path) for path in result["exports"][0]["paths"])
    assert main(["verify", encoder, "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", head, "--data", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"an answer takes {Path(encoder).name} and {Path(head).name} together" in said
    assert "--data" in said


def test_cards_are_of_their_graph_and_their_lines_run(chained, monkeypatch):
    folder, result = chained
    monkeypatch.chdir(folder / "export")
    for row in result["exports"]:
        shapes = []
        for graph in row["graphs"]:
            card = read_json((folder / graph["path"]).with_suffix(".json"))
            assert [each["name"] for each in card["use"]["inputs"]] == [each["name"] for each in graph["inputs"]]
            assert card["facts"]["product"]["files"] == ["chained-classes.json"]
            assert card["facts"]["product"]["facts"] == {"stride": 2}
            assert card["parity"]["output"] in [each["name"] for each in graph["outputs"]]
            scope: dict[str, Any] = {}
            exec("\n".join(card["use"]["run"]), scope)
            shapes.append([each.shape for each in scope["outputs"]])
        assert shapes[1] == [(1, 3, 16, 16)]
        assert [each[0] for each in shapes[0]] == [1, 1]
    names = json.loads((folder / "export" / "chained-classes.json").read_text())
    assert names == ["ground", "disc", "square"]


def test_files_cost_what_all_graphs_cost(chained):
    """The limit of `constraints.onnx_bytes` is held against encoder and head together: before pruning both were larger."""
    folder, result = chained
    facts = read_json(next(folder.glob("artifacts/search-*/artifact.json")))["facts"]
    kept = next(iter(facts["roles"].values()))["kept"]
    width = json.loads(result["student"]["architecture"])["width"]
    (cost,) = (each["costs"]["onnx_bytes"] for each in kept if each["spec"]["width"] == width)
    encoder, head = (graph["bytes"] for graph in result["exports"][0]["graphs"])
    assert cost > encoder + head > max(encoder, head) + 1000
    assert cost < 100_000


def test_every_student_that_ships_is_pruned_and_exported(pair, outside):
    folder, result = pair
    images, masks = held_out("pair.yaml", 96)
    assert [(row["role"], row["format"]) for row in result["exports"]] == [
        ("left", "onnx-fp32"),
        ("left", "onnx-int8"),
        ("right", "onnx-fp32"),
        ("right", "onnx-int8"),
    ]
    for row in result["exports"]:
        assert row["path"] == f"export/pair-{row['role']}-{row['format'].removeprefix('onnx-')}.onnx"
        (logits,) = session(folder / row["path"]).run(["logits"], {"image": images})
        assert row["quality"]["value"] == pytest.approx(mean_iou(logits, masks), abs=5e-3)
    chosen = result["recommended"]
    files = {(row["role"], row["format"]): row for row in result["exports"]}
    assert files[chosen["role"], chosen["format"]]["path"] == chosen["path"]
    assert set(chosen["roles"]) == {"left", "right"}
    for role, each in chosen["roles"].items():
        row = files[role, each["format"]]
        assert (each["role"], each["path"]) == (role, row["path"])
        assert read_json((folder / row["path"]).with_suffix(".json"))["recommended"]
        assert each["why"].startswith(f"overlap {100 * row['quality']['value']:.1f} %")
    for row in result["exports"]:
        card = read_json((folder / row["path"]).with_suffix(".json"))
        assert card["model"]["params"] == result["pruned"]["roles"][row["role"]]["params"]
        assert card["recommended"] == (chosen["roles"][row["role"]]["path"] == row["path"])
    roles = result["student"]["roles"]
    assert set(roles) == {"left", "right"}
    assert sum(each["params"] for each in roles.values()) == result["student"]["params"]
    pruned = result["pruned"]
    assert pruned["params"] < pruned["params_before"] == result["student"]["params"]
    assert {line.partition(":")[0] for line in pruned["log"]} == {"left", "right"}
    assert (
        "No controls: they are plain trainings of one student, and this procedure trains left, right."
        in result["notes"]
    )


def test_controls_and_comparisons_that_cannot_be_are_not_announced(outside, capsys):
    """They are trainings of one student, and this procedure trains two."""
    compare = "distill.compare={largest: true, random: 2}"
    sets = [each for text in (compare, "distill.controls=[baseline]") for each in ("--set", text)]
    assert main(["validate", str(outside / "pair.yaml"), *sets, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["trainings"]
    assert [each["what"] for each in found] == ["trials", "winners", "recovery"]
    assert main(["validate", "--plan", str(outside / "pair.yaml"), *sets]) == 0
    planned = capsys.readouterr().out
    assert "1 winner, 8 epochs\n" in planned
    assert "compare" not in planned
    assert "baseline" not in planned


def test_a_procedure_and_a_pruner_get_what_they_ask_for(pair):
    """See `Mutual` and `Shallow`; a norm that takes statistics though it is to stay as it is would have failed the study."""
    folder, result = pair
    distilled = read_json(next(folder.glob("artifacts/distill-*/artifact.json")))["facts"]
    rows = distilled["runs"][distilled["winner"]]["history"]
    assert [each["phase"] for each in rows] == ["pair"] * 4 + ["stay"] * 4
    assert {"task", "near", "flip", "hidden", "crossed", "young"} <= rows[0]["terms"].keys()
    assert rows[3]["terms"]["young"] < rows[0]["terms"]["young"], "the beginner is trained"
    assert rows[3]["terms"]["crossed"] < rows[0]["terms"]["crossed"], "the bridge is trained"
    assert rows[0]["terms"]["hidden"] > 0
    assert rows[7]["terms"]["drift"] > 0, "what it was does not move along"
    assert result["pruned"]["params"] < result["pruned"]["params_before"]
    assert all("encoder.coarse.2" in line for line in result["pruned"]["log"])
    two_stages = float(np.log(4) + np.log(8))  # entropies sum up to less without the blocks that the space names
    scores = [each["scores"] for each in read_lines(folder / "candidates-left.jsonl") if each["spec"]["width"] == 4]
    assert scores[0]["expressivity"] > two_stages


def test_what_a_procedure_logs_and_notes_is_told(pair):
    """Beside the losses and in the notes, in JSON and page; both students are scored, the first one for the training."""
    folder, result = pair
    page = (folder / "report" / "index.html").read_text()
    (note,) = [each for each in result["notes"] if each.startswith("Recipe: a beginner of ")]
    assert note in page
    (evidence,) = (folder / "artifacts").glob("report-*/evidence.json")
    rows = [row for row in read_json(evidence)["curves"]["student"] if row["phase"] == "pair"]
    assert rows
    assert all(1 / 3 <= row["logs"]["commonest"] <= 1 for row in rows)
    assert all(row["scores"]["left"] == row["score"] and 0 <= row["scores"]["right"] <= 1 for row in rows)
    assert "commonest" in page
