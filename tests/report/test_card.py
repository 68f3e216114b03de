"""Model cards: intervals, shapes, and lines of Python that run the real file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdsearch.report.card import card
from kdsearch.stages.cards import write_cards

FACTS = {
    "inputs": [{"name": "image", "kind": "image", "shape": (1, 8, 8), "dtype": "float32"}],
    "outputs": [{"name": "logits", "kind": "logits", "shape": (10,), "dtype": "float32"}],
    "preprocessing": {"range": [0, 1], "mean": [0.3], "std": [0.2]},
    "labels": [str(digit) for digit in range(10)],
    "sha256": "ab" * 32,
    "licence": "Apache-2.0",
}


def test_card_carries_the_export_and_is_json(result: dict[str, Any]) -> None:
    export = result["exports"][1]
    made = card(result, export, FACTS)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["format"] == 1
    assert made["file"] == "student.onnx-int8.onnx"
    assert made["recommended"] is True
    assert made["size_bytes"] == 98_304
    assert made["weight_share"] == export["weight_share"]
    assert made["use"]["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert made["use"]["labels"] == FACTS["labels"]
    assert card(result, result["exports"][0], FACTS)["recommended"] is False


def test_intervals_are_wilson_at_95(result: dict[str, Any]) -> None:
    p, n, z = 349 / 360, 360, 1.959963984540054
    result["exports"][0]["accuracy"] = p
    result["exports"][0]["quality"] = {"metric": "accuracy", "value": p, "n": n}
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    found = card(result, result["exports"][0], FACTS)["metrics"]["accuracy"]
    assert found["value"] == p
    assert found["n"] == n
    assert found["interval_95"] == pytest.approx([middle - half, middle + half], abs=1e-6)


LOSS = {"metric": "loss", "direction": "min", "unit": "nats", "interval": [0.2, 0.4], "n": 100}


def test_another_objective_is_not_called_accuracy(result: dict[str, Any]) -> None:
    """Of file, student, teacher and the control: their quality, whatever it is."""
    for name, value in (("student", 0.3), ("baseline", 0.5), ("teacher", 0.2)):
        result[name] |= {"quality": {**LOSS, "value": value}}
        del result[name]["accuracy"]
    export = {**result["exports"][0], "quality": {**LOSS, "value": 0.31}}
    result["metrics"] = {"loss": 0.3, "f1": 0.9}
    made = card(result, export, FACTS)
    assert "accuracy" not in json.dumps(made).replace("drop of accuracy", "")
    assert made["metrics"]["quality"]["value"] == 0.31
    assert made["metrics"]["student_in_torch"] == {"loss": 0.3, "f1": 0.9, "quality": {**LOSS, "value": 0.3}}
    assert made["metrics"]["same_network_without_teacher"] == {"quality": {**LOSS, "value": 0.5}}
    assert made["teacher"]["quality"]["value"] == 0.2


def test_of_a_pruned_student_every_figure_is_of_the_network_in_the_file(result: dict[str, Any]) -> None:
    """Else what pruning cost would look like what quantisation did."""
    result["student"] |= {"params": 300, "quality": {**LOSS, "value": 0.3}}
    result["pruned"] = {"params": 200, "macs": 9, "quality": {**LOSS, "value": 0.5}}
    result["metrics"] = {"loss": 0.5, "f1": 0.7}
    made = card(result, {**result["exports"][1], "quality": {**LOSS, "value": 0.51}}, FACTS)
    assert made["model"]["params"] == 200
    assert made["metrics"]["student_in_torch"] == {"loss": 0.5, "f1": 0.7, "quality": {**LOSS, "value": 0.5}}


def test_of_several_roles_a_card_is_of_its_own(result: dict[str, Any]) -> None:
    """Network, metrics and recommendation, though both have the same formats."""
    roles = {
        name: {"architecture": f"{name} net", "params": n, "macs": 10 * n, "quality": {**LOSS, "value": n / 1000}}
        for name, n in (("tagger", 100), ("ranker", 300))
    }
    result["student"]["roles"] = roles
    result["pruned"] = {"params": 270, "macs": 9, "roles": {"ranker": {"params": 200, "macs": 2000}}}
    result["metrics"] = {"tagger": {"loss": 0.1}, "ranker": {"loss": 0.3}}
    rows = [{**row, "role": role, "quality": roles[role]["quality"]} for role in roles for row in result["exports"][:2]]
    one, other = ({"format": "onnx-int8", "role": role, "why": "small"} for role in roles)
    result |= {"exports": rows, "recommended": {**other, "roles": {"tagger": one, "ranker": other}}}
    cards = {(row["role"], row["format"]): card(result, row, FACTS) for row in rows}
    assert {key for key, made in cards.items() if made["recommended"]} == {
        ("tagger", "onnx-int8"),
        ("ranker", "onnx-int8"),
    }
    tagger, ranker = cards["tagger", "onnx-int8"], cards["ranker", "onnx-int8"]
    assert (tagger["model"]["architecture"], tagger["model"]["params"]) == ("tagger net", 100)
    assert (ranker["model"]["architecture"], ranker["model"]["params"]) == ("ranker net", 200), "as it was pruned"
    assert ranker["metrics"]["student_in_torch"] == {"loss": 0.3, "quality": {**LOSS, "value": 0.3}}
    assert ranker["metrics"]["quality"]["value"] == 0.3


def test_without_accuracy_or_n_nothing_is_invented(result: dict[str, Any]) -> None:
    result["exports"][0]["accuracy"] = None
    result["baseline"] = None
    made = card(result, result["exports"][0], FACTS)
    assert made["metrics"]["accuracy"] is None
    assert made["metrics"]["same_network_without_teacher"] is None
    assert made["metrics"]["top1_agreement_with_torch"] == {"value": 1.0, "n": None, "interval_95": None}


def test_the_lines_run_the_file(result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    node = helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("image", kinds.FLOAT, ["batch", 3, None, 8])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    name = 'stu"dent\\.onnx'
    (tmp_path / name).write_bytes(model.SerializeToString())
    facts = {**FACTS, "inputs": [{"name": "image", "shape": (3, None, 8)}]}
    lines = card(result, {"format": "onnx-fp32", "path": f"export/{name}"}, facts)["use"]["run"]
    assert lines.index("import onnxruntime as ort") > next(n for n, each in enumerate(lines) if "TELEMETRY" in each)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    assert np.array_equal(scope["outputs"][0], np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    ("kind", "by"), [("pixels", "an image, 0..255, which the file prepares"), ("image", "a prepared sample")]
)
def test_the_lines_say_what_the_file_is_fed(kind: str, by: str, result: dict[str, Any]) -> None:
    inputs = [{"name": "image", "kind": kind, "shape": (8, 8, 1), "dtype": "uint8"}]
    lines = card(result, result["exports"][0], {**FACTS, "inputs": inputs})["use"]["run"]
    assert [each.partition("  # replace the zeros by ")[2] for each in lines if "feeds = " in each] == [by]


def test_the_card_says_how_to_get_the_fast_session_and_its_lines_do(result: dict[str, Any]) -> None:
    export = {
        **result["exports"][0],
        "latency_ms": {"min": 2.0, "median": 2.227},
        "latency_tuned_ms": {"min": 0.7, "median": 0.775},
        "session_options": {"session.disable_quant_qdq": "1"},
    }
    made = card(result, export, FACTS)
    assert made["latency_tuned_ms"] == export["latency_tuned_ms"]
    assert made["session_options"] == export["session_options"]
    [line] = [each for each in made["use"]["run"] if "add_session_config_entry" in each]
    assert line.endswith('("session.disable_quant_qdq", "1")  # 0.775 ms a sample instead of 2.23')
    assert any("InferenceSession(" in each and ", options," in each for each in made["use"]["run"])
    plain = card(result, result["exports"][0], FACTS)
    assert plain["session_options"] == {}
    assert not any("options" in each for each in plain["use"]["run"])


def test_a_hostile_dtype_or_name_stays_data(result: dict[str, Any]) -> None:
    facts = {"inputs": [{"name": "a'\"\n]; boom()", "shape": ["boom()", 2], "dtype": "float32'); boom("}]}
    lines = card(result, result["exports"][0], facts)["use"]["run"]
    compiled = compile("\n".join(lines), "run", "exec")
    assert "boom" not in compiled.co_names


def test_each_file_s_card_has_its_own_difference_and_says_what_is_of_all_together(
    result: dict[str, Any], tmp_path: Path
) -> None:
    """Of an encoder and a head, of which the head is further off."""
    parities = {
        name: {"output": out, "relative": far, "scale": 1.0, "torch_fp32_to_fp64": own}
        for name, out, far, own in (("encoder", "memory", 1e-6, None), ("head", "logits", 2e-4, 1e-4))
    }
    graphs = [
        {
            "name": name,
            "path": f"export/{name}.onnx",
            "bytes": 1,
            "inputs": [],
            "outputs": [],
            "parity": parity,
            "parity_max_abs": parity["relative"],
        }
        for name, parity in parities.items()
    ]
    row = {**result["exports"][0], "graphs": graphs, "files": [], "facts": {}}
    row |= {"parity": parities["head"], "parity_max_abs": 2e-4}
    for name in parities:
        (tmp_path / f"{name}.onnx").write_bytes(b"x")
    stage: Any = SimpleNamespace(facts={"data": {"facts": {}}}, key="k", path=tmp_path)
    made = dict.fromkeys(("prepare", "compress", "export"), stage)
    anything: Any = None
    write_cards(anything, made, {**result, "exports": [row]}, tmp_path / "several")
    for name, parity in parities.items():
        found = json.loads((tmp_path / "several" / f"{name}.json").read_text())
        assert found["parity"] == {**parity, "max_abs_difference_to_torch": parity["relative"]}
        assert {"metrics", "latency_ms", "peak_bytes", "weight_share"} <= {*found["facts"]["product"]["together"]}
        assert {*found["facts"]["product"]["together"]} <= found.keys()
    for each in graphs:  # as an export of before has them
        del each["parity"], each["parity_max_abs"]
    write_cards(anything, made, {**result, "exports": [{**row, "graphs": graphs[:1]}]}, tmp_path / "one")
    found = json.loads((tmp_path / "one" / "encoder.json").read_text())
    assert found["parity"]["output"] == "logits"
    assert "together" not in found["facts"]["product"]
