"""A key holds the contents of the files that options name, however they are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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


def test_a_home_that_nobody_has_is_no_file(tmp_path: Path) -> None:
    study: Any = SimpleNamespace(study=SimpleNamespace(folder=tmp_path))
    assert Materials.files_key(study, "~nobody-of-this-name/weights.bin") == {}
