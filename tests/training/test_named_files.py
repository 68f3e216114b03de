"""A key holds the contents of the files that options name, however they are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kdsearch.training.materials import Materials


@pytest.mark.parametrize("name", ["weights.bin", "~/weights.bin", "ABSOLUTE"])
def test_another_content_is_another_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "weights.bin"
    asked = {"weights": [str(file) if name == "ABSOLUTE" else name]}
    study: Any = SimpleNamespace(study=SimpleNamespace(folder=tmp_path))
    assert Materials.files_key(study, asked) == {}
    keys = []
    for content in (b"one", b"another one"):
        file.write_bytes(content)
        keys.append(Materials.files_key(study, asked))
    assert keys[0] != keys[1]
    assert list(keys[0]) == list(keys[1]) == asked["weights"]


def test_weights_of_an_onnx_file_that_lie_beside_it_are_in_the_key(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [weights])
    model = helper.make_model(graph, ir_version=9)
    onnx.save(model, str(tmp_path / "t.onnx"), save_as_external_data=True, location="t.data", size_threshold=0)
    study: Any = SimpleNamespace(study=SimpleNamespace(folder=tmp_path))
    first = Materials.files_key(study, ["t.onnx"])
    assert list(first) == ["t.onnx", "t.onnx t.data"]
    (tmp_path / "t.data").write_bytes(bytes(17))
    again = Materials.files_key(study, ["t.onnx"])
    assert again["t.onnx"] == first["t.onnx"]
    assert again["t.onnx t.data"] != first["t.onnx t.data"]


@pytest.mark.parametrize("text", ["Antworte in einem Satz. " * 12, "\uac00" * 90, "a" * 5000, "a\0b"])
def test_a_text_that_is_too_long_for_a_name_is_no_file(text: str, tmp_path: Path) -> None:
    """A prompt of a teacher that writes."""
    study: Any = SimpleNamespace(study=SimpleNamespace(folder=tmp_path))
    assert Materials.files_key(study, {"system": text}) == {}


def test_a_home_that_nobody_has_is_no_file(tmp_path: Path) -> None:
    study: Any = SimpleNamespace(study=SimpleNamespace(folder=tmp_path))
    assert Materials.files_key(study, "~nobody-of-this-name/weights.bin") == {}
