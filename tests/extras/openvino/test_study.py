"""A digits study to its end with OpenVINO's formats, and what is said of its files afterwards; nobody is told anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from kdsearch_plugins.openvino_exporter.exporter import OpenVinoExporter, OpenVinoOptions

import kdsearch
from kdsearch.cli import main
from kdsearch.errors import ArtifactError, StudyError
from kdsearch.host import Host
from kdsearch.python.own_data import open_data
from kdsearch.stages.calibration import CALIBRATION_BATCH
from kdsearch.store.files import read_json
from kdsearch.store.hashing import file_digest
from kdsearch.study import load_study
from tests.cli.test_quiet import INTERNET, at_home, everything

STUDY = """\
name: tiny
data: {use: digits, options: {resize: 8}}
teacher: {use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 8, 16]}, epochs: 8}}
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 8, 8]}}
recipe: {distillers: [kd], train: {lr: 0.01}}
objectives: {accuracy: max}
constraints: {onnx_bytes: {max: 200000, format: openvino-nncf_int8}, latency_ms: 50}
distill: {epochs: 25}  # so many that what INT8 rounds changes few answers, on any processor
compress: {quantize: [{use: nncf_int8, options: {samples: 64}}]}
export:
  exporter: {use: openvino}
  formats: [openvino-fp32, openvino-nncf_int8]
  max_drop: {openvino-nncf_int8: 0.05}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study as the command line runs it, watched: (folder, files below a home that was empty)."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(STUDY)
    home, trace = folder / "home", folder / "trace"
    home.mkdir()
    run = [sys.executable, "-m", "kdsearch", "run", str(folder / "tiny.yaml"), "--dir", str(folder / "out"), "--json"]
    if shutil.which("strace"):
        run = [
            "strace",
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            "trace=connect,sendto,sendmsg,sendmmsg",
            "-o",
            str(trace),
            *run,
        ]
    at_home(home, *run)
    return folder


@pytest.fixture
def export(made, tmp_path):
    return Path(shutil.copytree(made / "out" / "export", tmp_path / "export"))


def rows(made):
    return {each["format"]: each for each in read_json(made / "out" / "result.json")["exports"]}


def test_it_ends_with_both_formats(made):
    found = rows(made)
    assert list(found) == ["openvino-fp32", "openvino-nncf_int8"]
    fp32, int8 = found.values()
    names = sorted(each.name for each in (made / "out" / "export").iterdir() if each.name.startswith("tiny-"))
    assert names == [f"tiny-{kind}.{end}" for kind in ("fp32", "nncf_int8") for end in ("bin", "json", "xml")]
    for row in (fp32, int8):
        parts = [made / "out" / path for path in (row["path"], *row["graphs"][0]["companions"])]
        assert row["bytes"] == sum(each.stat().st_size for each in parts)
        assert row["latency_ms"]["median"] > 0
    weights = [(made / "out" / row["graphs"][0]["companions"][0]).stat().st_size for row in (fp32, int8)]
    assert weights[1] < 0.4 * weights[0]
    assert fp32["parity"]["relative"] < 1e-4 < int8["parity"]["relative"]
    assert int8["quality"]["value"] >= fp32["quality"]["value"] - 0.05
    assert any("8 bits by NNCF" in line for line in int8["quantization"])
    assert read_json(made / "out" / "result.json")["teacher"]["latency_in"] == "OpenVINO"


def test_neither_openvino_nor_nncf_tells_anybody(made):
    if not (made / "trace").exists():
        pytest.skip("strace is not installed")
    asked = [line for line in (made / "trace").read_text(errors="replace").splitlines() if INTERNET.search(line)]
    assert not asked, asked[:5]
    assert {each.partition("/")[0] for each in everything(made / "home")} <= {".cache"}
    assert {each.split("/")[1] for each in everything(made / "home") if "/" in each} <= {"kdsearch"}


def test_who_imported_the_reporter_before_is_heard_no_more(tmp_path):
    code = (
        "import openvino_telemetry as tm; from unittest.mock import MagicMock; "
        "from openvino_telemetry.utils.sender import TelemetrySender as Sender; Sender.send = MagicMock(); "
        "first = tm.Telemetry('own', '1', 'tid', 'ga4', False); first.consent = True; "
        "from kdsearch_plugins.openvino_exporter.runtime import openvino; openvino(); import nncf; "
        "from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry as again; "
        "again().send_event('a', 'b', 'c'); first.send_event('a', 'b', 'c'); assert not first.consent; "
        "assert not Sender.send.called"
    )
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text("0")  # only so that the import itself leaves nothing
    at_home(tmp_path, sys.executable, "-c", code)


@pytest.mark.parametrize("kind", ["fp32", "nncf_int8"])
def test_the_cards_code_runs_alone_and_answers_as_torch_does(kind, export, tmp_path):
    """With numpy and openvino alone, in a home where nothing is left."""
    card = read_json(export / f"tiny-{kind}.json")
    kept = card["check"]
    from kdsearch.deploy.probe import drawn

    np.savez(tmp_path / "asked.npz", **drawn(kept["inputs"], kept["seed"]))
    (export / "as_is.py").write_text("\n".join(card["use"]["run"]) + "\n")
    more = (
        "import runpy, sys; scope = runpy.run_path('as_is.py'); np = scope['np']; "
        f"asked = dict(np.load({str(tmp_path / 'asked.npz')!r})); "
        "assert list(scope['outputs']) == ['logits'] and scope['outputs']['logits'].shape == (1, 10); "
        "np.save('answer.npy', scope['model'](asked)['logits']); "
        "assert not {'torch', 'kdsearch', 'onnxruntime'} & set(sys.modules)"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", more], cwd=export, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert everything(home) == []
    (answers,) = kept["outputs"]
    found = np.load(export / "answer.npy").flat[answers["at"]]
    against, allowed = (answers["torch"], 1e-4) if kind == "fp32" else (answers["file"], 1e-3)
    assert np.abs(found - np.asarray(against)).max() <= allowed * answers["scale"]


def verify(capsys, *words):
    code = main(["verify", *map(str, words), "--json"])
    out = capsys.readouterr().out.splitlines()
    return code, json.loads(out[0]) if out else {}


def test_verify_takes_whole_files_and_their_quality(made, export, capsys):
    for kind in ("fp32", "nncf_int8"):
        code, found = verify(capsys, export / f"tiny-{kind}.xml", "--data", made / "out")
        assert (code, found["differs"]) == (0, [])
        assert "OpenVINO opens it" in {each["check"] for each in found["checks"]}
        assert next(each for each in found["checks"] if each["check"] == "quality")["ok"]
    digits = open_data("digits", "auto", 0, Host.load()).arranged.split("test").load(list(range(CALIBRATION_BATCH)))
    np.savez(export / "own.npz", image=np.zeros((4, 1, 8, 8), np.float32), label=digits["label"].numpy()[:4])
    code, found = verify(capsys, export / "tiny-fp32.xml", "--data", export / "own.npz")
    assert next(each["said"] for each in found["checks"] if each["check"] == "quality").startswith("accuracy")


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 64
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "differs"),
    [
        (lambda file: flipped(file.with_suffix(".bin")), {"sha256 of tiny-fp32.bin", "OpenVINO opens it"}),
        (lambda file: file.with_suffix(".bin").unlink(), {"size", "sha256 of tiny-fp32.bin", "OpenVINO opens it"}),
        (lambda file: file.write_bytes(file.read_bytes()[:-400]), {"size", "sha256", "OpenVINO opens it"}),
    ],
)
def test_a_damaged_file_is_refused(spoil, differs, export, capsys):
    file = export / "tiny-fp32.xml"
    spoil(file)
    code, found = verify(capsys, file)
    assert (code, set(found["differs"])) == (3, differs)
    with pytest.raises(ArtifactError):
        OpenVinoExporter(OpenVinoOptions()).load(file)


def test_a_changed_graph_is_found_by_its_answers_where_the_hash_was_made_to_fit(export, capsys):
    file, place = export / "tiny-fp32.xml", export / "tiny-fp32.json"
    file.write_text(file.read_text("utf-8").replace('type="ReLU"', 'type="Abs"', 1), "utf-8")
    card = json.loads(place.read_text("utf-8"))
    card |= {"sha256": file_digest(file), "size_bytes": card["size_bytes"] - 1}
    place.write_text(json.dumps(card), "utf-8")
    code, found = verify(capsys, file)
    assert (code, set(found["differs"])) == (3, {"answers as torch's", "answers as when the card was written"})


def test_labels_by_another_hand_are_found(export, capsys):
    file = export / "tiny-fp32.xml"
    exporter = OpenVinoExporter(OpenVinoOptions())
    exporter.label(file, {**exporter.labels(file), "labels": '["a"]'})
    assert "metadata" in verify(capsys, file)[1]["differs"]


def test_a_companion_is_verified_with_its_file(export, capsys):
    assert main(["verify", str(export / "tiny-fp32.bin")]) == 2
    assert "tiny-fp32.xml, which is verified with it" in capsys.readouterr().err


def test_a_pair_that_was_renamed_is_still_what_its_card_says(export, tmp_path):
    for suffix in (".xml", ".bin", ".json"):
        shutil.copyfile(export / f"tiny-fp32{suffix}", tmp_path / f"other{suffix}")
    assert main(["verify", str(tmp_path / "other.xml")]) == 0
    (tmp_path / "tiny-fp32.bin").write_bytes((tmp_path / "other.bin").read_bytes())
    (tmp_path / "other.bin").write_bytes(b"")
    assert main(["verify", str(tmp_path / "other.xml")]) == 3


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("use.outputs.0.name", "zzz", 3),
        ("use.outputs.0.shape", ["batch", 77], 3),
        ("use.inputs.0.shape", ["batch", 3, 99, 99], 3),
        ("use.inputs.0", {}, 2),  # it is no card
        ("companions", ["tiny-fp32.bin"], 3),
        ("companions", 5, 3),
    ],
)
def test_a_card_that_says_something_else_is_told(export, tmp_path, path, value, code):
    for suffix in (".xml", ".bin", ".json"):
        shutil.copyfile(export / f"tiny-fp32{suffix}", tmp_path / f"tiny-fp32{suffix}")
    card = read_json(tmp_path / "tiny-fp32.json")
    *where, last = path.split(".")
    at = card
    for each in where:
        at = at[int(each) if each.isdigit() else each]
    at[int(last) if last.isdigit() else last] = value
    (tmp_path / "tiny-fp32.json").write_text(json.dumps(card))
    assert main(["verify", str(tmp_path / "tiny-fp32.xml")]) == code


def test_a_damaged_companion_is_put_back(made, tmp_path, capsys):
    folder = Path(shutil.copytree(made / "out", tmp_path / "out"))
    weights = folder / "export" / "tiny-fp32.bin"
    whole = weights.read_bytes()
    flipped(weights)
    assert main(["export", str(folder), "--format", "openvino-fp32"]) == 0
    assert "was damaged; put back" in capsys.readouterr().out
    assert weights.read_bytes() == whole


@pytest.mark.parametrize(("quantizer", "exporter"), [("int8", "openvino"), ("nncf_int8", "onnx")])
def test_a_quantizer_of_other_files_is_an_error_of_the_study(quantizer, exporter, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(STUDY)
    sets = [f"compress.quantize=[{quantizer}]", f"export.exporter={{use: {exporter}}}", "constraints={}"]
    sets += [f"export.formats=[{exporter}-fp32]", "export.max_drop={}"]
    with pytest.raises(
        StudyError, match=rf"compress.quantize\[0\]: '{quantizer}' rewrites '\.\w+' files, and exporter"
    ):
        load_study(file, Host.load(), sets=sets)


def test_compress_sets_both_runtimes_beside_one_another(tmp_path, capsys):
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    asked = ["onnx-fp32", "onnx-int8", "openvino-nncf_int8"]
    found = kdsearch.compress(net, tmp_path, data="digits", formats=asked, max_drop=0.2, progress=False)
    assert [each["format"] for each in found["exports"]] == [
        "onnx-fp32",
        "onnx-int8",
        "openvino-fp32",
        "openvino-nncf_int8",
    ]
    assert found["exports"][2]["quality"]["value"] == found["exports"][0]["quality"]["value"]
    for row in found["exports"]:
        assert row["latency_ms"]["median"] > 0
        assert verify(capsys, row["path"])[0] == 0
    card = read_json(tmp_path / "Sequential-openvino-nncf_int8.json")
    assert card["exporter"] == "openvino"
    assert card["bounds"]["elsewhere"] == 0.05
    assert [each["file"] for each in card["companions"]] == ["Sequential-openvino-nncf_int8.bin"]


def test_compress_without_data_needs_noise_by_name(tmp_path, capsys):
    words = ["compress", "timm:test_vit", "--input-shape", "3,160,160", "--out", str(tmp_path)]
    assert main([*words, "--format", "openvino-nncf_int8"]) == 2
    assert "openvino-nncf_int8 needs samples to calibrate with" in capsys.readouterr().err
    assert main([*words, "--format", "openvino-int8"]) == 2
    said = capsys.readouterr().err
    assert "unknown format 'openvino-int8'" in said
    assert "openvino-nncf_int8" in said


def test_a_network_of_a_program_is_exported_and_named_rightly(tmp_path):
    import torch
    from torch import nn

    net, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.rand(24, 1, 8, 8)
    made = kdsearch.export(net, images, tmp_path / "net.xml", exporter="openvino", quantize="nncf_int8")
    assert made.bytes == sum((tmp_path / f"net.{end}").stat().st_size for end in ("xml", "bin"))
    with pytest.raises(StudyError, match=r"a name with the ending \.xml"):
        kdsearch.export(net, images, tmp_path / "net.onnx", exporter="openvino")
    with pytest.raises(StudyError, match=r"rewrites '\.onnx' files"):
        kdsearch.export(net, images, tmp_path / "net.xml", exporter="openvino", quantize="int8")
