"""Memory of one call as a limit and as an objective, measured on files before anything is trained."""

from __future__ import annotations

import json

import pytest

from kdsearch.builtin.onnx_exporter import OnnxExporter
from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.stages import export
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.stages.tiny import LESS, run_tiny, write_study

MAP = 8 * 8 * 4  # bytes of one channel of the first stage's maps


def read(folder):
    """The search's kept rows, the trials."""
    artifacts = folder / "study" / "artifacts"
    (searched,), (refined,) = artifacts.glob("search-*"), artifacts.glob("refine-*")
    return read_json(searched / "artifact.json")["facts"]["roles"]["student"]["kept"], read_json(
        refined / "trials.json"
    )


def test_what_goes_on_keeps_a_limit_of_memory(tmp_path):
    """A block of the first stage holds three maps at once (input, both convolutions): of 4 channels they fit, of 8 they do not."""
    limit = 3 * 4 * MAP + MAP
    drawn = "distill.compare={largest: false, random: 3, epochs: 1}"
    result = run_tiny(
        tmp_path, *LESS, drawn, "search.candidates=12", "search.keep=8", f"constraints.peak_bytes={limit}"
    )
    kept, trials = read(tmp_path)
    (distilled,) = (tmp_path / "study" / "artifacts").glob("distill-*/artifact.json")
    runs = read_json(distilled)["facts"]["runs"]
    beside = [run["request"]["specs"]["student"] for name, run in runs.items() if name.startswith("compare-random")]
    assert [spec["widths"][0] for spec in beside] == [4, 4, 4], "what is drawn to compare with keeps it, too"
    assert {row["spec"]["widths"][0] for row in kept} == {4}
    assert {row["costs"]["peak_bytes"] for row in kept} == {3 * 4 * MAP}
    assert {row["peak_bytes"] for row in trials} == {3 * 4 * MAP}
    (file,) = result["exports"]
    assert (file["peak_bytes"], file["over"]) == (3 * 4 * MAP, {})
    card = json.loads((tmp_path / "study" / file["path"]).with_suffix(".json").read_text())
    assert card["peak_bytes"] == 3 * 4 * MAP
    page = (tmp_path / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert "memory of one call of the fp32 file, beside the weights (bytes)" in page


def test_a_limit_of_a_quantised_file_is_of_its_own_memory(tmp_path):
    """Bytes in place of floats, as onnxruntime fuses what is around a convolution: 8 channels fit into what 4 needed."""
    sets = [each for each in LESS if not each.startswith(("compress.quantize", "export.formats"))]
    limit = f"constraints.peak_bytes={{max: {3 * 4 * MAP}, format: onnx-int8}}"
    formats = ("compress.quantize=[{use: int8, options: {samples: 32}}]", "export.formats=[onnx-fp32, onnx-int8]")
    bounds = ("export.max_drop={onnx-int8: 1.0}", "export.min_agreement={onnx-int8: 0.0}")
    result = run_tiny(tmp_path, *sets, *formats, *bounds, "search.candidates=12", "search.keep=8", limit)
    kept, _ = read(tmp_path)
    assert {row["spec"]["widths"][0] for row in kept} == {4, 8}
    by_format = {row["format"]: row for row in result["exports"]}
    assert by_format["onnx-int8"]["peak_bytes"] < by_format["onnx-fp32"]["peak_bytes"] / 2
    assert by_format["onnx-int8"]["peak_bytes"] <= 3 * 4 * MAP


def test_as_an_objective_and_to_pick_by(tmp_path):
    sets = ("objectives={accuracy: max, peak_bytes: min}", "distill.pick=min:peak_bytes", "refine.trials=4")
    result = run_tiny(tmp_path, *LESS, "search.candidates=12", "search.keep=8", *sets)
    _, trials = read(tmp_path)
    values = [row["objectives"]["peak_bytes"] for row in trials if row["state"] == "complete"]
    assert set(values) <= {3 * 4 * MAP, 3 * 8 * MAP}
    assert result["exports"][0]["peak_bytes"] == min(values)


@pytest.mark.parametrize("way", ["constraints.peak_bytes=100", "objectives={accuracy: max, peak_bytes: min}"])
def test_memory_of_files_that_are_not_onnx_is_refused(way, tmp_path, monkeypatch):
    host = Host.load()
    materials = open_materials(load_study(write_study(tmp_path), host, sets=(*LESS, way)), host)
    export.check(materials)
    monkeypatch.setattr(OnnxExporter, "is_onnx", False)
    with pytest.raises(StudyError, match=r"peak_bytes: files of exporter 'onnx' are not ONNX"):
        export.check(materials)
