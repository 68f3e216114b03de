"""The notebook in a real kernel: every cell runs, and shows what it is there to show."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
SHORTER = {
    '"candidates": 30, "keep": 4': '"proxy": "params", "candidates": 4, "keep": 2',
    '"trials": 4, "epochs": 2': '"trials": 2, "epochs": 1',
    '"epochs": 10, "controls": ["baseline"]': '"epochs": 1, "controls": []',
    'FOLDER = Path("digits-study")': 'FOLDER = Path("here")',
    '"max_drop": {"onnx-int8": 0.05}': '"max_drop": {"onnx-int8": 1.0}',
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Last line of a cell -> its outputs, of a study that is shorter."""
    folder = tmp_path_factory.mktemp("notebook")
    book = nbformat.read(ROOT / "examples" / "digits.ipynb", 4)
    for cell in book.cells:
        assert not cell.get("outputs"), "the notebook is kept without outputs"
    source = "".join(cell.source for cell in book.cells)
    assert all(source.count(each) == 1 for each in SHORTER)
    for cell in book.cells:
        for before, after in SHORTER.items():
            cell.source = cell.source.replace(before, after)
    paths = [str(ROOT / each) for each in ("", "plugins", "search_spaces")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    kernel = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=kernel)
    with client.setup_kernel(env=environment, cwd=str(folder)):
        for index, cell in enumerate(book.cells):
            client.execute_cell(cell, index)
    assert (folder / "here" / "export" / "study-int8.onnx").is_file()
    return {
        cell.source.splitlines()[-1].split("  #")[0]: cell.outputs for cell in book.cells if cell.cell_type == "code"
    }


def result_of(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each["data"] for each in outputs if each["output_type"] == "execute_result")
    return found


def test_each_stage_has_a_bar_in_its_cell_that_ends_full(cells: dict[str, list[dict[str, Any]]]) -> None:
    bars = [each["data"] for each in cells["result"] if each["output_type"] == "display_data"]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", each["text/plain"]) for each in bars]
    assert [each.split()[0] for each in plain] == [
        *("prepare", "search", "refine", "distill", "compress", "export", "report"),
    ]
    for each in plain:
        done, total = re.findall(r"(\d+)/(\d+)", each)[0]
        assert done == total
    assert all("<span" in each["text/html"] and "━" in each["text/html"] for each in bars)
    assert "best accuracy" in plain[2]


def test_objects_tables_and_figures_show_themselves(cells: dict[str, list[dict[str, Any]]]) -> None:
    assert result_of(cells["study"])["text/plain"].startswith("Study 'study', seed 0\n")
    assert result_of(cells["result"])["text/plain"].startswith("teacher ")
    for name in ("trials_dataframe()", "candidates_dataframe().head()", "exports_dataframe()"):
        assert "<table" in result_of(cells[f"result.{name}"])["text/html"]
    shown = result_of(cells['result.figures["front"]'])
    assert "application/vnd.vegalite.v5+json" in shown
    assert shown["text/html"].startswith("<iframe")
    assert "history: The trials in order" in result_of(cells["result.figures"])["text/plain"]
    assert result_of(cells["distillation"])["text/plain"].startswith("<Distillation: student ")
    exported = next(each for line, each in cells.items() if line.startswith("kdsearch.export"))
    assert result_of(exported)["text/plain"].startswith("<Exported here.onnx: ")
