"""A network of one's own from its name to verified files, with data and without; what is asked wrongly is said."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdsearch
from kdsearch.builtin.channels.targets import Taken
from kdsearch.builtin.int8.quantizer import Int8
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.cli import main
from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.errors import DataError, RefusedError, StudyError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Batch, Field, Graph, Model
from kdsearch.python import formats
from kdsearch.python.compressed import _text
from kdsearch.python.given import Given, given_by
from kdsearch.python.networks import is_untrained, network
from kdsearch.python.own_data import differences, open_data
from kdsearch.python.pieces import as_model
from kdsearch.python.recovery import recover
from kdsearch.store import weights
from kdsearch.training.tools import Progress

ROOT = Path(__file__).parents[2]
CODE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3))

def other():
    return "no network"
"""


def images(n, seed):
    """Three kinds of noise that a small network tells apart."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    x = rng.normal(0.5, 0.15, (n, 8, 8))
    for i, kind in enumerate(label):
        x[i, : 4 if kind == 0 else 8, : 4 if kind == 1 else 8] += 0.35
    return np.clip(x, 0, 1), label


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`net.py`, its trained weights, its ONNX file, and data."""
    made = tmp_path_factory.mktemp("own")
    (made / "net.py").write_text(CODE)
    namespace: dict[str, object] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    net: nn.Module = namespace["Net"]()  # type: ignore[operator]
    x, label = images(360, 0)
    np.savez(made / "data.npz", image=(255 * x).astype(np.uint8), label=label)
    pixels, target = torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(label)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net((pixels - 0.5) / 0.5), target).backward()
        optimizer.step()
    weights.write(made / "net.safetensors", net.state_dict())
    graph = Graph(net.eval(), (Field("x", "image", (1, 8, 8)),), (Field("y", "logits", (3,)),))
    example = Batch(("a", "b"), {"x": pixels[:2]})
    OnnxExporter(OnnxOptions(engine="torchscript")).write(graph, example, made / "net.onnx")
    return made


def run(capsys, *words):
    code = main(["compress", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[0]) if out else {}, err


@pytest.mark.parametrize("fails", [False, True])
def test_the_exporter_writes_a_network_once_for_all_formats(fails, tmp_path, monkeypatch):
    """It is most of the time of a large one; where it cannot, every format is refused for its reason, and no earlier file stays."""
    write, calls = OnnxExporter.write, []

    def counted(self, graph, example, file):
        calls.append(file)
        if fails:
            raise RefusedError("torch's exporter cannot write the network", fix="Write it otherwise.")
        write(self, graph, example, file)

    monkeypatch.setattr(OnnxExporter, "write", counted)
    names = ["onnx-fp32", "onnx-int8", "onnx-int4"]
    asked = {"input_shape": (8,), "calibration": "random", "formats": names, "progress": False}
    earlier = tmp_path / "Linear-int8.onnx"
    earlier.write_bytes(b"of an earlier call")
    if fails:
        with pytest.raises(RefusedError) as refused:
            kdsearch.compress(nn.Linear(8, 3), out=tmp_path, **asked)
        result = refused.value.result  # type: ignore[attr-defined]
        assert [each["format"] for each in result["refused"]] == names
        reason = "torch's exporter cannot write the network"
        assert [each["reason"] for each in result["refused"]] == [reason, *[f"its fp32 file is refused: {reason}"] * 2]
        others = [f"{each}: its fp32 file is refused" for each in names[1:]]
        assert refused.value.problem == "; ".join([f"onnx-fp32: {reason}", *others])
        assert refused.value.fix == "Write it otherwise."
        assert result["refused"][0]["fix"] == "Write it otherwise."
        assert not earlier.exists()
        assert not any("noise" in note for note in result["notes"]), "of files that are not there"
    else:
        found = kdsearch.compress(nn.Linear(8, 3), out=tmp_path, **asked)
        assert [each["format"] for each in found["exports"]] == names
        assert "quantised files were calibrated on noise" in found["notes"]
    assert len(calls) == 1
    assert not calls[0].parent.exists(), "the scratch folder is gone"


def test_a_file_of_which_nothing_is_quantised_says_so(tmp_path):
    asked = {"input_shape": (8,), "formats": ["onnx-fp32", "onnx-int4"], "progress": False, "calibration": "random"}
    notes = [kdsearch.compress(net, out=tmp_path, **asked)["notes"] for net in (nn.LayerNorm(8), nn.Linear(8, 32))]
    said = "onnx-int4 stores no weight in fewer bits than fp32: it finds none that it can."
    assert [said in each for each in notes] == [True, False]
    assert not any("onnx-fp32 stores" in each for each in notes[0])


def test_a_file_that_quantising_does_not_make_smaller_says_so(tmp_path):
    asked = {"input_shape": (8,), "formats": ["onnx-fp32", "onnx-int8"], "progress": False, "calibration": "random"}
    said = "onnx-int8 is no smaller than fp32: what quantisation adds outweighs what it saves."
    for net, is_small in ((nn.Linear(8, 3), True), (nn.Linear(8, 4096), False)):
        found = kdsearch.compress(net, out=tmp_path, **asked)
        fp32, int8 = (each["bytes"] for each in found["exports"])
        assert (said in found["notes"]) == (int8 >= fp32) == is_small


@pytest.mark.parametrize("spoils", [False, True])
def test_a_file_that_answers_noise_otherwise_is_told(spoils, tmp_path, monkeypatch):
    import onnx
    from onnx import numpy_helper

    def rewrite(self, file, plan, feeds):
        model = onnx.load(file)
        for each in model.graph.initializer:
            sign = -1 if spoils else 1
            each.CopyFrom(numpy_helper.from_array(sign * numpy_helper.to_array(each), each.name))
        onnx.save(model, file)

    monkeypatch.setattr(Int8, "rewrite", rewrite)
    asked = {"input_shape": (8,), "formats": ["onnx-int8"], "calibration": "random", "progress": False}
    notes = kdsearch.compress(nn.Linear(8, 3), out=tmp_path, **asked)["notes"]
    said = [
        each
        for each in notes
        if each.endswith("% of the network's answers to noise; real samples tell whether it matters")
    ]
    assert [each.split()[:2] for each in said] == ([["onnx-int8", "gives"]] if spoils else [])


def test_a_network_that_answers_all_alike_is_told(tmp_path):
    """As some of timm's do before they are trained, whose last weights are zeros: what is compared is 0 and 0."""
    said = "the network answers two samples alike: that its files answer as it does says little"
    for zero in (False, True):
        net = nn.Linear(8, 3)
        if zero:
            nn.init.zeros_(net.weight)
        found = kdsearch.compress(net, out=tmp_path, input_shape=(8,), formats=["onnx-fp32"], progress=False)
        assert (said in found["notes"]) == zero


def test_a_file_that_is_quantised_already_is_not_quantised_to_int8(folder, tmp_path, capsys):
    asked = ("--format", "onnx-int8", "--format", "onnx-int4", "--calibration", "random")
    said = "is quantised already: what is called fp32 here is that file as it is"
    code, found, _ = run(capsys, folder / "net.onnx", "--out", tmp_path / "once", *asked)
    assert code == 0
    assert not any(said in note for note in found["notes"])
    for row in found["exports"][1:]:
        code, again, err = run(capsys, row["path"], "--out", tmp_path / row["format"], *asked)
        assert code == 3
        assert "onnx-int8: its network is quantised already: INT8 is made of one in fp32" in err
        assert [each["format"] for each in again["exports"]] == ["onnx-fp32", "onnx-int4"]
        assert f"{Path(row['path']).name} {said}" in again["notes"]


@pytest.mark.parametrize("rows", [1, 4])
def test_a_file_for_one_number_of_samples_is_opened_to_any(rows, folder, tmp_path, capsys):
    """As most files are that were exported without a word about axes; with the same bytes as of a file that had left it open."""
    import onnx

    model = onnx.load(folder / "net.onnx")
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = rows
    weights = model.graph.initializer if rows == 4 else []  # older files list them among the inputs
    model.graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights)
    model = onnx.shape_inference.infer_shapes(model)
    if rows == 4:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "net.onnx")
    asked = ("--data", folder / "data.npz", "--format", "onnx-int8")
    code, fixed, _ = run(capsys, tmp_path / "net.onnx", "--out", tmp_path / "fixed", *asked)
    assert code == 0
    said = f"net.onnx takes {rows} sample{'s' if rows > 1 else ''} at a time; its network takes any number, "
    assert [each.startswith(said) for each in fixed["notes"]].count(True) == 1
    code, free, _ = run(capsys, folder / "net.onnx", "--out", tmp_path / "free", *asked)
    assert code == 0
    assert not any("at a time" in each for each in free["notes"])
    assert fixed["params"] == free["params"]
    assert [each["accuracy"] for each in fixed["exports"]] == [each["accuracy"] for each in free["exports"]]
    _, *listed = onnx.load(fixed["exports"][0]["path"]).graph.input
    assert [[size.dim_value for size in each.type.tensor_type.shape.dim] for each in listed] == [
        [*w.dims] for w in weights
    ]
    for row in fixed["exports"]:
        session = open_session(Path(row["path"]))
        assert session.run(None, {"x": np.zeros((3, 1, 8, 8), np.float32)})[0].shape == (3, 3)
        assert main(["verify", row["path"]]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("why", ["a fixed shape inside", "samples that see one another", "one answer to all"])
def test_a_network_for_one_number_of_samples_is_refused(why, tmp_path, capsys):
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    if why == "a fixed shape inside":
        sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [1, 4])
        nodes, stored = [helper.make_node("Reshape", ["x", "sizes"], ["y"])], [sizes]
    elif why == "samples that see one another":
        nodes, stored = [helper.make_node("Softmax", ["x"], ["y"], axis=0)], []
    else:
        only, none = helper.make_tensor("only", TensorProto.BOOL, [1], [True]), helper.make_tensor("none", 1, [], [0.0])
        nodes = [
            helper.make_node("Mul", ["x", "none"], ["z"]),
            helper.make_node("Compress", ["z", "only"], ["y"], axis=0),
        ]
        stored = [only, none]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    code, _, err = run(capsys, tmp_path / "net.onnx", "--out", tmp_path / "out", "--format", "onnx-fp32")
    assert code == 2
    assert "Export the network again with a dynamic batch axis." in err
    assert (
        "fixed" if why == "a fixed shape inside" else "takes 1 at a time, and its network no other number of samples"
    ) in err
    assert not (tmp_path / "out").exists()


def test_what_is_no_tensor_is_told_as_what_it_is(tmp_path, capsys):
    """A classifier of scikit-learn's, as its exporter writes it unless it is told otherwise: a map a sample."""
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_value_info(
        "y",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        ),
    )
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=sets, ir_version=8),
        tmp_path / "net.onnx",
    )
    code, _, err = run(capsys, tmp_path / "net.onnx", "--out", tmp_path, "--format", "onnx-fp32")
    assert code == 2
    assert "output 'y' is of seq(map(int64,tensor(float))). Expected a tensor of numbers" in err


def test_an_onnx_file_with_data(folder, tmp_path, capsys):
    """Calibrated, judged and held against its bound, by its own names; verified later with the same arrays."""
    asked = ["--data", folder / "data.npz", "--format", "onnx-int8", "--format", "onnx-int4"]
    code, found, _ = run(capsys, folder / "net.onnx", "--out", tmp_path, *asked)
    assert code == 0
    assert [each["format"] for each in found["exports"]] == ["onnx-fp32", "onnx-int8", "onnx-int4"]
    assert set(found) >= {"model", "params", "macs", "exports", "refused", "data", "notes"}
    assert found["params"] == dict.fromkeys(("before", "after"), 80 + 584 + 387)
    assert found["macs"] == {"before": None, "after": None}
    fp32, int8, int4 = found["exports"]
    assert fp32["accuracy"] > 0.6
    assert int8["weight_share"]["8"] > 0.9
    assert int4["weight_share"]["4"] > 0.5
    assert int4["quantization"][-1] == "calibrated on 128 samples", "as many as a study's, of more that there are"
    for row in found["exports"]:
        assert main(["verify", row["path"]]) == 0
        card = json.loads((tmp_path / row["path"]).with_suffix(".json").read_text())
        inside = open_session(Path(row["path"])).get_modelmeta().custom_metadata_map
        assert inside["model"] == card["provenance"]["model"] == "net.onnx", "and no path of this machine"
        assert card["metrics"]["quality"]["value"] == row["accuracy"]
        assert row["latency_ms"]["median"] > 0
        assert card["latency_ms"] == row["latency_ms"]


def documented():
    """Fields of an export's row, as docs/result.md names them."""
    return set(re.findall(r"`exports\[\]\.(\w+)", (ROOT / "docs" / "result.md").read_text()))


@pytest.mark.parametrize("reads", ["prepared", "pixels"])
def test_agreement_is_of_the_whole_test_split(reads, folder, tmp_path, capsys):
    """More than one batch of it."""
    x, label = images(1500, 0)
    np.savez(tmp_path / "more.npz", image=(255 * x).astype(np.uint8), label=label)
    asked = ["--data", tmp_path / "more.npz", "--format", "onnx-int4", "--input", reads, "--out", tmp_path]
    code, found, err = run(capsys, folder / "net.onnx", *asked)
    assert code == 0, err
    card = json.loads((tmp_path / "net-int4.json").read_text())
    metrics = card["metrics"]
    assert metrics["top1_agreement_with_torch"]["n"] == metrics["quality"]["n"] == 300
    assert metrics["top1_agreement_with_torch"]["value"] > 0.9
    assert metrics["split"] == "test"
    a_study_s = {"graphs", "facts", "validation", "metrics", "over", "zipped_bytes", "role"}
    for row in found["exports"]:
        assert documented() - a_study_s == {*row} & documented(), "as docs/result.md and docs/export.md say"
        assert (row["paths"], row["files"], row["agreement_n"]) == ([row["path"]], [], 300)
        assert Path(row["path"]).parent == Path(found["out"])
        assert row["bounds"]["max_drop"] == (None if row["format"] == "onnx-fp32" else 0.01)
    assert card["bounds"] == found["exports"][1]["bounds"]


@pytest.mark.parametrize("layout", ["pixels", "any_size"])
def test_an_onnx_file_that_reads_pixels(layout, folder, tmp_path, capsys):
    """What prepares them stands before the network of the file; its answers are those of the file that was given."""
    forms = ["onnx-fp32", "onnx-int8", "onnx-int4"] if layout == "pixels" else ["onnx-fp32"]
    asked = ["--data", folder / "data.npz", *(word for form in forms for word in ("--format", form))]
    code, found, err = run(capsys, folder / "net.onnx", "--out", tmp_path, *asked, "--input", layout)
    assert code == 0, err
    assert [each["format"] for each in found["exports"]] == forms
    pixels = (255 * images(6, 1)[0]).astype(np.uint8)[..., None]
    told = json.loads((tmp_path / "net-fp32.json").read_text())["use"]["preprocessing"]
    prepared = ((pixels / 255 - told["mean"]) / told["std"]).astype(np.float32).transpose(0, 3, 1, 2)
    expected = open_session(folder / "net.onnx").run(None, {"x": prepared})[0]
    for row in found["exports"]:
        session = open_session(Path(row["path"]))
        assert session.get_inputs()[0].type == "tensor(uint8)"
        got = session.run(None, {"x": pixels})[0]
        near = {"onnx-fp32": 1e-5, "onnx-int8": 0.1, "onnx-int4": 0.2}[row["format"]]
        assert np.abs(got - expected).max() < near * expected.std()
        assert main(["verify", row["path"]]) == 0


@pytest.mark.parametrize("model", [["net.onnx"], ["net.py:Net", "--allow-code", "net.py:Net", "--prune", "macs=0.5"]])
def test_pixels_that_nobody_can_prepare_are_refused_before_any_work(model, folder, tmp_path, monkeypatch, capsys):
    """By the command's own option; nothing is pruned or written first."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("kdsearch.python.compressed.files_of", None)
    monkeypatch.setattr("kdsearch.python.compressed._cut", None)
    shape = [] if "net.onnx" in model else ["--input-shape", "1,8,8"]
    code, _, err = run(capsys, *model, *shape, "--input", "pixels", "--format", "onnx-fp32", "--out", tmp_path)
    assert code == 2
    assert err.startswith("--input: nobody knows how images become what the network reads. Expected data whose")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--out", "net.py"], 2, "--out: 'net.py' is a file. Expected a folder, or none"),
        (["--out", "net.py/deep/er"], 2, "--out: 'net.py/deep/er' is below a file, net.py."),
        (["--out", "new", "--teacher", "timm:resnet19"], 2, "--teacher: timm has no 'resnet19'"),
        (
            ["--out", "new", "--teacher", "net.onnx", "--teacher-weights", "net.safetensors"],
            2,
            "--teacher-weights: an ONNX",
        ),
        (["--out", "new", "--prune", "macs=0.001"], 3, "--prune.options: pruning reaches"),
    ],
)
def test_what_cannot_be_done_is_said_of_the_option_it_was_asked_by(words, code, said, folder, monkeypatch, capsys):
    """Before anything is recovered or written."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("kdsearch.python.compressed.recover", None)
    asked = ["net.py:Net", "--allow-code", "net.py:Net", "--format", "onnx-fp32"]
    asked += ["--data", "data.npz"] if "--teacher" in words else ["--input-shape", "1,8,8"]
    asked += [] if code == 3 else ["--prune", "macs=0.6"]
    found, _, err = run(capsys, *asked, *words)
    assert (found, err[: len(said)]) == (code, said)
    assert not (folder / "new").exists()


def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(folder, tmp_path, monkeypatch, capsys):
    """As on a disk that is read-only, for root, too."""
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)
    monkeypatch.setattr("kdsearch.python.compressed.files_of", None)
    asked = (folder / "net.onnx", "--format", "onnx-fp32", "--out", tmp_path / "new" / "er")
    assert run(capsys, *asked)[::2] == (2, f"--out: '{tmp_path}' is not writable. Choose another folder.\n")
    assert not list(tmp_path.iterdir())


def test_an_option_of_the_pruner_is_called_as_it_was_typed(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    asked = ["net.py:Net", "--allow-code", "net.py:Net", "--input-shape", "1,8,8", "--format", "onnx-fp32"]
    code, _, err = run(capsys, *asked, "--prune", "macs=0.6,exclude=['nothing']", "--out", tmp_path)
    assert code == 2
    assert err.startswith("--prune.options.exclude")


def test_it_says_how_far_the_pruning_is(folder, tmp_path, capsys, monkeypatch):
    notes = []
    monkeypatch.setattr("kdsearch.training.tools.Progress.at", lambda self, done, note="", best="": notes.append(note))
    monkeypatch.chdir(folder)
    asked = ("--allow-code", "net.py:Net", "--input-shape", "1,8,8", "--prune", "macs=0.7", "--out", tmp_path)
    assert run(capsys, "net.py:Net", *asked, "--format", "onnx-fp32")[0] == 0
    assert "channels, 0%: following channels" in notes
    assert any(note.startswith("channels, 20%: trying cuts of ") for note in notes)


def test_without_data_nothing_is_claimed(folder, tmp_path, capsys):
    code, _, err = run(capsys, folder / "net.onnx", "--out", tmp_path, "--format", "onnx-int8")
    assert code == 2
    assert "--calibration random" in err
    assert not list(tmp_path.iterdir())
    code, found, _ = run(
        capsys, folder / "net.onnx", "--out", tmp_path, "--format", "onnx-int8", "--calibration", "random"
    )
    assert code == 0
    assert [each["accuracy"] for each in found["exports"]] == [None, None]
    assert "quantised files were calibrated on noise" in found["notes"]
    card = json.loads((tmp_path / "net-int8.json").read_text())
    assert "calibrated on noise" in card["quantization"][-1]
    assert card["metrics"]["split"] == "noise"


@pytest.mark.parametrize("calibration", ["data", "random"])
def test_int4_without_data_says_how_it_was_rounded(calibration, folder, tmp_path, capsys):
    asked = ["--format", "onnx-int4", "--calibration", calibration]
    code, found, _ = run(capsys, folder / "net.onnx", "--out", tmp_path, *asked)
    assert code == 0
    said = json.loads((tmp_path / "net-int4.json").read_text())["quantization"]
    is_noise = calibration == "random"
    assert ("calibrated on 128 samples" in said, "rounded to the nearest: there are no samples" in said) == (
        is_noise,
        not is_noise,
    )
    assert any("calibrated on noise" in each for each in said) == is_noise
    assert ("quantised files were calibrated on noise" in found["notes"]) == is_noise


def test_a_session_option_that_makes_a_file_faster_is_in_its_card(monkeypatch, folder, tmp_path, capsys):
    """INT4 weights are unpacked at every call in a session as anybody opens it."""
    from kdsearch.deploy.files import read_onnx, stores_int4
    from kdsearch.deploy.latency import Latency
    from kdsearch.stages import costs

    def measure(file, inputs, threads=1, entries=None):
        ms = 9.0 if stores_int4(read_onnx(file)) and not entries else 1.0
        return Latency(ms, ms, 0.1, 1)

    monkeypatch.setattr(formats, "measure", measure)
    monkeypatch.setattr(costs, "measure", measure)
    code, found, _ = run(capsys, folder / "net.onnx", "--out", tmp_path, "--format", "onnx-int4")
    assert code == 0
    plain, row = found["exports"]
    assert (plain["latency_tuned_ms"], plain["session_options"]) == (None, {})
    assert row["latency_tuned_ms"]["median"] == 1
    assert row["slower_than_fp32"]
    card = json.loads((tmp_path / "net-int4.json").read_text())
    assert card["session_options"] == {"session.disable_quant_qdq": "1"} == row["session_options"]
    assert any("session.disable_quant_qdq" in line and "instead of 9" in line for line in card["use"]["run"])
    assert main(["compress", str(folder / "net.onnx"), "--out", str(tmp_path), "--format", "onnx-int4"]) == 0
    said = "9.00 ms (1.00 ms with session option session.disable_quant_qdq=1), slower than fp32"
    assert said in capsys.readouterr().out


def test_a_refused_file_is_not_left(folder, tmp_path, capsys):
    """Nor is that of a run before, which kept its bound."""
    asked = ["--data", folder / "data.npz", "--format", "onnx-int8", "--max-drop"]
    assert run(capsys, folder / "net.onnx", "--out", tmp_path, *asked, "1")[0] == 0
    assert (tmp_path / "net-int8.onnx").exists()
    code, found, err = run(capsys, folder / "net.onnx", "--out", tmp_path, *asked, "-1")
    assert code == 3
    assert found["refused"][0]["format"] == "onnx-int8"
    assert "worse than fp32's" in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net-fp32.json", "net-fp32.onnx"]


@pytest.mark.parametrize("fails", ["the file", "a candidate"])
def test_a_file_that_onnxruntime_does_not_take_is_refused_and_the_others_are_made(
    fails, folder, tmp_path, monkeypatch, capsys
):
    import onnx

    def rewrite(self, file, plan, feeds):
        model = onnx.load(file)
        model.opset_import[0].version = 99
        onnx.save(model, file)
        if fails == "a candidate":
            open_session(file)

    monkeypatch.setattr(Int8, "rewrite", rewrite)
    asked = ["--format", "onnx-int8", "--format", "onnx-int4", "--calibration", "random"]
    code, found, err = run(capsys, folder / "net.onnx", "--out", tmp_path, *asked)
    assert code == 3
    assert [each["format"] for each in found["exports"]] == ["onnx-fp32", "onnx-int4"]
    (refused,) = found["refused"]
    assert refused["reason"].startswith("the file that was written is refused by onnxruntime")
    assert str(tmp_path) not in err


class Off(nn.Module):
    """What answers one more at every class: another answer, and the same decisions."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) + 1


def test_where_fp32_is_refused_no_other_format_is_written(folder, tmp_path, monkeypatch, capsys):
    """For the same reason, though it agrees with the network; what an earlier call left goes."""
    write = OnnxExporter.write

    def off(self, graph, example, file):
        write(self, replace(graph, module=Off(graph.module).eval()), example, file)

    monkeypatch.setattr(OnnxExporter, "write", off)
    monkeypatch.chdir(folder)
    (tmp_path / "Net-int8.onnx").write_bytes(b"an earlier one")
    asked = ["--allow-code", "net.py:Net", "--weights", "net.safetensors", "--data", "data.npz"]
    code, found, _ = run(capsys, "net.py:Net", *asked, "--out", tmp_path, "--format", "onnx-int8")
    assert code == 3
    whole, int8 = found["refused"]
    assert (whole["format"], int8["format"], found["exports"]) == ("onnx-fp32", "onnx-int8", [])
    assert whole["reason"].startswith("differs from torch by 1 at output 'logits'")
    assert int8["reason"] == f"its fp32 file is refused: {whole['reason']}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["onnx-fp32", "onnx-int8"])
def test_a_class_that_is_another_is_refused(form, folder, tmp_path, monkeypatch, capsys):
    """Weights of the file alone are others, so that it answers another class at every sample."""
    import onnx

    finish, finished = OnnxExporter.finish, []

    def other(self, file, ends):
        finished.append(file)
        if len(finished) == 1 and form != "onnx-fp32":
            return finish(self, file, ends)
        model = onnx.load(file)
        tensor = next(each for each in model.graph.initializer if len(each.dims) == 1 and each.dims[0] == 3)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[0] = np.iinfo(values.dtype).max // 2 if values.dtype.kind == "i" else 1e4
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, file)
        return finish(self, file, ends)

    monkeypatch.setattr(OnnxExporter, "finish", other)
    asked = ["--data", folder / "data.npz", "--format", form, "--output", "class", "--max-drop", "1"]
    code, found, _ = run(capsys, folder / "net.onnx", "--out", tmp_path, *asked)
    assert code == 3
    (refused,) = found["refused"]
    said = "the answers at output 'class' are not torch's" if form == "onnx-fp32" else "its answers are the network's"
    assert (refused["format"], said in refused["reason"]) == (form, True)


def test_a_network_of_ones_own_is_cut_and_recovers(folder, tmp_path, monkeypatch, capsys):
    """From code and weights: pruned, recovered on data, exported."""
    monkeypatch.chdir(folder)
    code, found, _ = run(
        capsys, "net.py:Net", "--allow-code", "net.py:Net", "--weights", "net.safetensors", "--data", "data.npz",
        "--prune", "macs=0.6", "--recover-epochs", "6", "--out", tmp_path, "--format", "onnx-fp32",
    )  # fmt: skip
    assert code == 0
    assert found["macs"]["after"] <= 0.6 * found["macs"]["before"]
    assert found["params"]["after"] < found["params"]["before"]
    scores = found["pruned"]["validation"]
    assert scores["recovered"] >= scores["cut"]
    values = ", ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items())
    assert f"accuracy on validation: {values}" in _text(found).splitlines()
    assert f"accuracy {100 * found['exports'][0]['accuracy']:.1f} %, " in _text(found)
    assert found["exports"][0]["accuracy"] > 0.6
    assert main(["verify", found["exports"][0]["path"]]) == 0


def test_what_came_frozen_recovers_too(folder):
    """All of the network that was cut, of which only the last layer was open; the whole one is as it was."""
    opened = open_data(str(folder / "data.npz"), "auto", 0, Host.load())
    made: dict[str, object] = {}
    exec(CODE, made)
    net = made["Net"]().requires_grad_(False)  # type: ignore[operator]
    net[6].requires_grad_(True)
    whole = as_model(net, opened.io, "net")
    student = whole.copy()
    recover(student, whole, opened.task, opened.io, opened.arranged, 1, 0, lambda share, what: None)
    before, after = net.state_dict(), student.module.state_dict()
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert [each.requires_grad for each in net.parameters()] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("importance", ["taylor", "hessian", "activation"])
def test_a_pruner_that_looks_at_samples_has_them(importance, folder, tmp_path, monkeypatch, capsys):
    """Each choice is its own, and without data it is said what is missing."""
    monkeypatch.chdir(folder)
    asked = ["net.py:Net", "--allow-code", "net.py:Net", "--weights", "net.safetensors", "--format", "onnx-fp32"]
    asked += ["--recover-epochs", "0", "--prune", f"macs=0.6,importance={importance},samples=64"]
    code, found, _ = run(capsys, *asked, "--data", "data.npz", "--out", tmp_path)
    assert code == 0
    assert found["pruned"]["target"] == {"macs": 0.6, "importance": importance, "samples": 64}
    assert found["macs"]["after"] <= 0.6 * found["macs"]["before"]
    assert found["pruned"]["validation"]["cut"] > 0.1
    code, _, err = run(capsys, *asked, "--input-shape", "1,8,8", "--out", tmp_path)
    assert code == 2
    assert "--data: this pruner looks at training samples. Expected a data set." in err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("importanc=taylor", "unknown option 'importanc'; did you mean 'importance'?"),
        ("importance=tylor", "importance: got 'tylor'"),
        ("importance", "--prune: got 'importance'. Expected an option, such as importance=taylor"),
        ("importance=2001-99-99", "--prune: got 'importance=2001-99-99'"),
        ("macs=0.5", "--prune: got 'macs' twice"),
        ("exclude=[*.fc]", "--prune: got 'exclude=[*.fc]': not valid YAML"),
        ("exclude=['*.fc','nothing']", "'*.fc' matches no layer of this network"),
        ("latency=fast", "--prune: got 'latency=fast'"),
        ("=3", "--prune: got '=3'"),
        ("keep=[", "--prune: got 'keep=['"),
    ],
)
def test_options_of_a_pruner_are_read(option, said, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    asked = ["net.py:Net", "--allow-code", "net.py:Net", "--input-shape", "1,8,8", "--format", "onnx-fp32"]
    code, _, err = run(capsys, *asked, "--prune", f"macs=0.6,{option}", "--out", tmp_path)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pruner", "hierarchical_prun"], "--pruner"),
        (["--pruner", "hierarchical_prune", "--prune", "macs=0.7,granularity=blok"], "granularity: got 'blok'"),
        (["--pruner", "hierarchical_prune", "--prune", "params=0.7"], "--data: this pruner"),
        (["--pruner", "hierarchical_prune"], "--pruner: nothing here heeds it. Expected --prune"),
    ],
)
def test_another_pruner(words, said, tmp_path, capsys):
    prune = [] if "heeds" in said or "--prune" in words else ["--prune", "params=0.7"]
    asked = ["timm:resnet10t,num_classes=3", "--input-shape", "3,32,32", "--out", tmp_path / "out"]
    code, _, err = run(capsys, *asked, "--format", "onnx-fp32", *words, *prune)
    assert code == 2
    assert said in err


def blocks_of(file):
    return {
        each.i
        for node in read_onnx(Path(file)).graph.node
        if node.op_type == "DequantizeLinear"
        for each in node.attribute
        if each.name == "block_size"
    }


def test_options_of_a_quantizer_and_of_the_data(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with np.load("data.npz") as arrays:
        np.savez("own, of x=1.npz", x=arrays["image"], y=arrays["label"])
    asked = ["net.py:Net", "--allow-code", "net.py:Net", "--weights", "net.safetensors"]
    files = [
        "--format",
        "onnx-int4,block=64,rounding=rtn",
        "--format",
        "onnx-int8,mode=dynamic",
        "--out",
        tmp_path / "a",
    ]
    code, found, _ = run(capsys, *asked, "--data", "own, of x=1.npz,image=x,label=y", *files)
    assert code == 2, "a name with a comma is one where there is such a file and nothing behind it"
    shutil.move("own, of x=1.npz", "own.npz")
    code, found, _ = run(capsys, *asked, "--data", "own.npz,image=x,label=y", *files)
    assert code == 0
    assert found["data"] == "own.npz"
    assert blocks_of(found["exports"][1]["path"]) == {64}
    kinds = {node.op_type for node in read_onnx(Path(found["exports"][2]["path"])).graph.node}
    assert "DynamicQuantizeLinear" in kinds
    again = kdsearch.compress(
        Path("net.onnx"), tmp_path / "b", data="own.npz", data_options={"image": "x", "label": "y"},
        formats={"onnx-int4": {"block": 16}, "onnx-int8": {"mode": "static"}}, progress=False,
    )  # fmt: skip
    assert [each["format"] for each in again["exports"]] == ["onnx-fp32", "onnx-int4", "onnx-int8"]
    assert blocks_of(again["exports"][1]["path"]) == {16}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx-int4,blok=64"], "onnx-int4.options.blok: unknown option 'blok'; did you mean 'block'?"),
        (["--format", "onnx-int4,block=63"], "onnx-int4.options.block: got 63"),
        (["--format", "onnx-int4,block"], "--format: got 'block'. Expected an option, such as block=64"),
        (["--format", "onnx-int4,block=64,block=32"], "--format: got 'block' twice"),
        (["--format", "onnx-int4,block=64", "--format", "onnx-int4"], "--format: got 'onnx-int4' twice"),
        (["--format", "onnx-fp32,block=64"], "--format: got options of onnx-fp32"),
        (["--format", "onnx-in4,block=64"], "unknown format 'onnx-in4'; did you mean 'onnx-int4'?"),
        (["--data", "data.npz,imag=x"], "--data.options.imag: unknown option 'imag'; did you mean 'image'?"),
        (["--data", "data.npz,image=x"], "no array 'x'"),
        (["--data", "nothing.npz,image=x"], "nothing.npz"),
        (["--data", f"{'x' * 5000},image=x"], "--data"),
        (["--data", "digits,=3"], "--data: got '=3'. Expected an option, such as image=x"),
    ],
)
def test_wrong_options_of_formats_and_data(words, said, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    asked = ["net.py:Net", "--allow-code", "net.py:Net", "--out", tmp_path / "out"]
    shape = [] if "--data" in words else ["--input-shape", "1,8,8"]
    code, _, err = run(capsys, *asked, *shape, *words)
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()


def test_what_trains_is_rounded_as_its_file(folder, tmp_path, monkeypatch):
    """By the options of its format: in 8 bits at the ends, so that 32 weights of a row have more than 15 values."""
    opened = open_data(str(folder / "data.npz"), "auto", 0, Host.load())
    made: dict[str, object] = {}
    exec(CODE, made)
    model = as_model(made["Net"](), opened.io, "net")  # type: ignore[operator]
    job = formats.Job(model, opened.io, opened, None, tmp_path, "net", None, False, -2.0, 0, 1, Progress(False), [])
    monkeypatch.setattr(formats, "recover", lambda *given: None)
    better = itertools.cycle(
        (1.0, 0.0, 1.0, 0.9)
    )  # the network, its file, the network, the file of the one that trained
    monkeypatch.setattr(formats, "goodness", lambda quality: next(better))
    for edges, many in ((8, True), (4, False)):
        form = formats.forms_of({"onnx-int4": {"edges": edges, "min_elements": 16}}, {}, Host.load())[-1]
        found = formats._trained(job, form, job.source(form, model, 1))
        assert found is not None
        assert (max(len(row[:32].unique()) for row in found.module[-1].weight) > 15) == many


def test_training_as_quantised_where_a_file_loses_too_much(folder, tmp_path, monkeypatch, capsys):
    """A bound that nothing keeps: the network that trained as INT4 is nearer, and the result says by how much."""
    monkeypatch.chdir(folder)
    asked = ["--allow-code", "net.py:Net", "--weights", "net.safetensors", "--data", "data.npz", "--qat-epochs", "3"]
    code, found, _ = run(
        capsys, "net.py:Net", *asked, "--out", tmp_path, "--format", "onnx-int4", "--max-drop", "-0.05"
    )
    assert code == 3
    (said,) = (each for each in found["notes"] if "after training as quantised" in each)
    assert said.startswith("onnx-int4: ")
    code, found, _ = run(capsys, "net.py:Net", *asked, "--out", tmp_path, "--format", "onnx-int4")
    assert code == 0
    assert not [each for each in found["notes"] if "training as quantised" in each], "within its bound it is left alone"


class Recurrent(nn.Module):
    """Rows of an image, read one by one; what it has seen last answers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x.flatten(1, 2))[0][:, -1]


def test_that_nothing_can_be_rounded_in_training_is_said(folder, tmp_path):
    asked = {"data": str(folder / "data.npz"), "qat_epochs": 1, "max_drop": -2.0, "formats": ["onnx-int8"]}
    with pytest.raises(RefusedError) as refused:
        kdsearch.compress(Recurrent(), out=tmp_path, progress=False, **asked)
    notes = refused.value.result["notes"]  # type: ignore[attr-defined]
    assert any(each.endswith("nothing of it can be rounded in training") for each in notes)


@pytest.mark.parametrize("fails", ["the plain file", "the training", "its file"])
def test_where_training_as_quantised_fails_the_plain_file_is_taken(fails, folder, tmp_path, monkeypatch):
    """It may pass all the same; if not, whoever writes it says why."""
    opened = open_data(str(folder / "data.npz"), "auto", 0, Host.load())
    made: dict[str, object] = {}
    exec(CODE, made)
    model = as_model(made["Net"](), opened.io, "net")  # type: ignore[operator]
    job = formats.Job(model, opened.io, opened, None, tmp_path, "net", None, False, None, 0, 1, Progress(False), [])
    form = formats.forms_of(["onnx-int4"], {}, Host.load())[-1]

    def raising(what, result=None):
        if fails == what:
            raise RefusedError("the loss is nan")
        return result

    def rewritten(source, file, kind):
        is_plain = source.model is model
        return raising("the plain file" if is_plain else "its file", lambda x: {"logits": torch.zeros(len(x), 3)})

    monkeypatch.setattr(formats, "rewritten", rewritten)
    monkeypatch.setattr(formats, "allowed_drop", lambda stated, fp32: -2.0)
    monkeypatch.setattr(formats, "recover", lambda *given: raising("the training"))
    assert formats._trained(job, form, job.source(form, model, 1)) is None
    said = ["onnx-int4: training as quantised failed: the loss is nan"]
    assert job.notes == (said if fails != "the plain file" else [])


def test_timm_is_made_for_the_data(folder, tmp_path, capsys):
    """Grey images of three classes; what the text says goes first."""
    asked = ["--data", folder / "data.npz", "--format", "onnx-fp32", "--out", tmp_path]
    code, _, _ = run(capsys, "timm:test_resnet", *asked)
    assert code == 0
    use = json.loads((tmp_path / "test_resnet-fp32.json").read_text())["use"]
    assert use["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert use["outputs"][0]["shape"] == ["batch", 3]
    code, _, err = run(capsys, "timm:test_resnet,in_chans=3", *asked)
    assert code == 2
    assert "cannot read image 1x8x8" in err


def test_timm_without_data(tmp_path, capsys):
    asked = ["--input-shape", "3,32,32", "--format", "onnx-fp32", "--format", "onnx-int4"]
    code, found, _ = run(capsys, "timm:resnet10t,num_classes=7", "--out", tmp_path, *asked)
    assert code == 0
    assert found["model"] == "timm:resnet10t,num_classes=7"
    assert "timm:resnet10t,num_classes=7 has weights drawn at random" in " ".join(found["notes"])
    assert found["macs"]["before"] == found["macs"]["after"]
    assert json.loads((tmp_path / "resnet10t-fp32.json").read_text())["use"]["outputs"][0]["shape"] == ["batch", 7]


def test_a_pruned_network_that_does_not_run_is_refused(tmp_path, monkeypatch):
    """Where it takes a branch that the pruner did not see."""

    def broken(model, *rest):
        return replace(model, module=nn.Linear(9, 3)), {}

    monkeypatch.setattr("kdsearch.python.compressed._cut", broken)
    asked = {"input_shape": (8,), "prune": {"macs": 0.5}, "formats": ["onnx-fp32"], "progress": False}
    with pytest.raises(
        RefusedError, match=r"--prune: the pruned network fails at what the whole one reads: RuntimeError"
    ):
        kdsearch.compress(nn.Linear(8, 3), tmp_path, **asked)


class Padded(nn.Module):
    """Rows of zeros are padding, which it leaves out; a sample of these alone torch's own encoder cannot read."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 3)

    def forward(self, x):
        is_padding = x.abs().sum(2) == 0
        if not bool((~is_padding).any()):
            raise ValueError("padding alone")
        return self.head(self.body(x, src_key_padding_mask=is_padding).mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_a_network_that_cannot_read_padding_alone(tmp_path):
    """MACs by hand, of 6 rows of width 8: four products with 8 x 8, 2 x 6 x 6 x 8 of attention, two layers of 16; and 3 classes."""
    asked = {"input_shape": (6, 8), "formats": ["onnx-fp32"], "progress": False, "inside": {"engine": "torchscript"}}
    found = kdsearch.compress(Padded(), tmp_path, **asked)
    assert found["macs"]["before"] == 6 * 4 * 8 * 8 + 2 * 6 * 6 * 8 + 6 * 2 * 8 * 16 + 3 * 8


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_heads_of_an_encoder_that_is_given_a_padding_mask_are_pruned(tmp_path):
    """In evaluation torch's encoder hands its layers nested tensors, where padding ends the rows."""

    class Masked(Padded):
        def forward(self, x):
            return self.head(self.body(x, src_key_padding_mask=x[..., 0] > 1.5)[:, 0])

    asked = {"input_shape": (6, 8), "formats": ["onnx-fp32"], "progress": False, "inside": {"engine": "torchscript"}}
    net = Masked().eval()
    found = kdsearch.compress(net, tmp_path, prune={"macs": 0.7}, calibration="random", **asked)
    assert found["macs"]["after"] < 0.75 * found["macs"]["before"]
    assert net.body.use_nested_tensor, "the owner's own is as it was"


def test_a_network_without_parameters_cannot_be_pruned(tmp_path):
    with pytest.raises(UserError, match="--prune: the network has no parameters: there is nothing to prune"):
        kdsearch.compress(
            nn.Flatten(), tmp_path, input_shape=(6, 8), prune={"macs": 0.7}, calibration="random", progress=False
        )


def test_what_a_cut_was_measured_at_is_said(tmp_path, monkeypatch):
    """A target that three measurements miss is no refusal, so that a person has to see it."""
    times = [1.0, 0.9, 0.8]
    taken = contextlib.nullcontext(lambda _: Taken(times.pop(0)))
    monkeypatch.setattr("kdsearch.builtin.channels.pruner.timing", lambda *_: taken)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 4)
    )
    asked = {"input_shape": (1, 8, 8), "formats": ["onnx-fp32"], "calibration": "random", "progress": False}
    text = kdsearch.compress(net, tmp_path, prune={"latency_ms": 0.7}, **asked)["text"]
    assert "\nlatency 1.000 ms before\n" in text
    assert "\nlatency is 14.3% above its target after 3 measurements\n" in text


def test_random_weights_are_said():
    """Who forgets --weights compresses noise."""
    drawn = ["timm:resnet18", "timm:resnet18,num_classes=3,pretrained=false", "torchvision:resnet18,num_classes=3"]
    trained = [
        "timm:resnet18,pretrained=true",
        "torchvision:resnet18,weights=DEFAULT",
        "net.py:Net",
        "net.onnx",
        "net.pt2",
    ]
    assert [is_untrained(each, None) for each in (*drawn, *trained)] == [True] * len(drawn) + [False] * len(trained)
    assert not is_untrained("timm:resnet18", Path("net.safetensors"))


def test_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.manual_seed(5)
    net = network("torchvision:mobilenet_v3_small,num_classes=4", seed=1)
    again = network("torchvision:mobilenet_v3_small,num_classes=4", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert not net.training
    own = network("net.py:Net", ("net.py:Net",), folder / "net.safetensors")
    read = weights.read(folder / "net.safetensors")
    assert all(torch.equal(value, read[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize(("text", "expected"), [(",pretrained=true", True), ("", False)])
def test_trained_weights_of_timm_are_asked_for(text, expected, monkeypatch):
    """By the text alone; what timm would fetch is none of this test."""
    asked = []
    monkeypatch.setattr("timm.create_model", lambda name, **given: asked.append(given) or nn.Linear(1, 1))
    network(f"timm:resnet18{text},num_classes=3")
    assert asked == [{"pretrained": expected, "num_classes": 3}]


def test_a_backbone_is_not_fetched(monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
    net = network("torchvision:lraspp_mobilenet_v3_large,num_classes=4")
    assert net(torch.zeros(1, 3, 32, 32))["out"].shape == (1, 4, 32, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["timm:resnet19"], "timm has no 'resnet19'; did you mean 'resnet1"),
        (["torchvision:resnet19"], "torchvision has no 'resnet19'"),
        (["timm:resnet18,depth"], "key=value"),
        (["timm:resnet18,nothing=3"], "timm:resnet18 cannot be built"),
        (["resnet18"], "timm:NAME, torchvision:NAME"),
        (["net.py:Net"], "--allow-code 'net.py:Net'"),
        (["net.py:other", "--allow-code", "net.py:other", "--input-shape", "1,8,8"], "gives str"),
        (["net.py:Net", "--allow-code", "net.py:Net"], "nobody knows what the network reads"),
        (["net.py:Net", "--allow-code", "net.py:Net", "--input-shape", "3,8,8"], "cannot read 3x8x8"),
        (["net.py:Net", "--input-shape", "3,x"], "such as 3,224,224"),
        (["net.onnx", "--prune", "macs=0.5"], "quantised and verified only"),
        (["net.onnx", "--prune", "flops=0.5"], "params=0.7 or macs=0.7, "),
        (["net.onnx", "--prune", "latency=1.5"], "latency=1.5ms"),
        (["net.onnx", "--prune", "latency=-1ms"], "latency=1.5ms"),
        (["net.onnx", "--prune", "latency=infms"], "latency=1.5ms"),
        (["net.onnx", "--weights", "net.safetensors"], "an ONNX file has its weights"),
        (["net.onnx", "--data", "digitz"], "digits"),
        (
            ["net.onnx", "--data", "./photoz"],
            "--data: there is no folder './photoz'. Expected a data set's name, a .npz",
        ),
        (
            ["net.onnx", "--data", "digits", "--max-drop", "2"],
            "--max-drop: got 2. It is a share of 0 to 1: write 0.02.",
        ),
        (["net.py"], "timm:NAME, torchvision:NAME"),
        (["net.onnx", "--format", "onnx-int9"], "onnx-int8"),
        (["none.onnx"], "there is no such file"),
        (
            ["net.onnx", "--data", "data.npz", "--teacher", "timm:resnet18"],
            "--teacher: nothing here heeds it. Expected a",
        ),
        (["net.py:Net", "--prune", "macs=0.5", "--teacher", "timm:resnet18"], "--teacher: nothing here heeds it"),
        (["net.py:Net", "--data", "data.npz", "--teacher", "timm:resnet18"], "--teacher: nothing here heeds it"),
        (
            ["net.py:Net", "--teacher-weights", "net.safetensors"],
            "--teacher-weights: nothing here heeds it. Expected --teacher",
        ),
        (
            ["net.onnx", "--data", "data.npz", "--qat-epochs", "4"],
            "--qat-epochs: nothing here heeds it. Expected a torch network",
        ),
        (["net.py:Net", "--qat-epochs", "4"], "--qat-epochs: nothing here heeds it"),
        (["net.onnx", "--max-drop", "0.0001"], "--max-drop: nothing here heeds it. Expected --data, by which"),
        (["net.onnx", "--normalize", "foo"], "--normalize: nothing here heeds it. Expected --data"),
        (
            ["net.onnx", "--input-shape", "9,9,9"],
            "--input-shape: nothing here heeds it. Expected none: the file or the data",
        ),
        (["net.py:Net", "--data", "data.npz", "--input-shape", "1,8,8"], "--input-shape: nothing here heeds it"),
        (
            ["net.onnx", "--calibration", "none"],
            "--calibration: there is no 'none'. Expected data, random, a folder of images",
        ),
    ],
)
def test_what_is_asked_wrongly(words, said, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(folder)
    assert main(["compress", *words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def file_of(file, shape, classes=3, dtype=np.float32, answers="logits", opset=21):
    """An ONNX file of one matrix product of what it reads, (N, *shape), or the class that is the largest of it."""
    import onnx
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    size = int(np.prod([each if isinstance(each, int) else 8 for each in shape]))
    w = np.random.default_rng(0).normal(size=(size, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=1),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0),
    ]
    out = [helper.make_tensor_value_info("logits", 1, ["n", classes]), helper.make_tensor_value_info("class", 7, ["n"])]
    graph = helper.make_graph(
        nodes[: 4 if answers == "class" else 3], "g", [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [each for each in out if each.name == answers], [onnx.numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), file)
    return file


def test_an_older_file_that_reads_any_size(folder, tmp_path, capsys):
    """Its operator set has no Shape of some axes; the finished file is compared with torch at three sizes."""
    file = file_of(tmp_path / "file.onnx", (1, 8, 8), opset=11)
    asked = ("--data", folder / "data.npz", "--format", "onnx-fp32", "--out", tmp_path / "out")
    code, found, err = run(capsys, file, *asked, "--input", "any_size")
    assert code == 0, err
    assert found["exports"][0]["parity"]["relative"] < 1e-5


def test_noise_for_a_file_that_reads_pixels_is_of_all_their_values(tmp_path, capsys):
    """The range of what INT8 sees is that of 0..255."""
    import onnx

    file = file_of(tmp_path / "file.onnx", (1, 8, 8), dtype=np.uint8)
    asked = ("--format", "onnx-int8", "--calibration", "random", "--out", tmp_path)
    assert run(capsys, file, *asked)[0] == 0
    model = onnx.load(tmp_path / "file-int8.onnx")
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    scale = next(tensors[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert float(scale) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shape": (3, 8, 8)}, "'x' is float32 3x8x8 for each sample. Expected float32 1x8x8, as the data's 'image'."),
        ({"shape": (1, 16, 16)}, "'x' is float32 1x16x16 for each sample."),
        ({"shape": (64,)}, "'x' is float32 64 for each sample."),
        ({"shape": (1, 8, 8), "dtype": np.uint8}, "'x' is uint8 1x8x8 for each sample."),
        (
            {"shape": (1, 8, 8), "classes": 5},
            "'logits' is float32 5 for each sample. Expected float32 3, as the data's",
        ),
        (
            {"shape": (1, 8, 8), "answers": "class"},
            "'class' is int64 one number for each sample. Expected float32 3, as",
        ),
        ({"shape": ("c", 4, 4)}, "file.onnx: fails at x float32 1x8x4x4: "),
    ],
)
def test_a_file_and_data_that_do_not_fit(given, said, folder, tmp_path, capsys):
    data = folder / "data.npz"
    if given["shape"] == ("c", 4, 4):  # what it reads is open, and it fails at all sizes but one
        np.savez(tmp_path / "small.npz", image=np.zeros((60, 4, 4), np.uint8), label=np.arange(60) % 3)
        data, file = tmp_path / "small.npz", file_of(tmp_path / "file.onnx", ("c", 4, 4))
        import onnx

        model = onnx.load(file)
        tensor = model.graph.initializer[0]
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:16], "w"))
        onnx.save(model, file)
    else:
        file = file_of(tmp_path / "file.onnx", **given)
    code, _, err = run(capsys, file, "--data", data, "--out", tmp_path / "out", "--format", "onnx-int8")
    assert code == 2
    assert said in err


def test_a_file_that_answers_a_class(tmp_path, capsys):
    """Classes are equal or not; nobody takes their numbers for logits."""
    file = file_of(tmp_path / "file.onnx", (1, 8, 8), classes=40, answers="class")
    asked = ("--format", "onnx-int4", "--calibration", "random")
    code, found, err = run(capsys, file, "--out", tmp_path / "out", *asked)
    assert code == 0, err
    fp32, int4 = found["exports"]
    assert (fp32["parity"]["relative"], fp32["top1_agreement"]) == (0.0, 1.0)
    assert int4["parity_max_abs"] <= 1
    assert 0.2 < int4["top1_agreement"] <= 1
    for row in found["exports"]:
        card = json.loads(Path(row["path"]).with_suffix(".json").read_text())
        assert (
            card["use"]["outputs"][0] | {"shape": ["batch"], "dtype": "int64", "kind": "class"}
            == card["use"]["outputs"][0]
        )
        assert main(["verify", row["path"]]) == 0


@pytest.mark.parametrize(
    ("classes", "node", "output", "metadata", "kind"),
    [
        (3, "Identity", "y", {}, "logits"),
        (1, "Identity", "y", {}, "vector"),
        (3, "Not", "y", {}, "vector"),
        (3, "Identity", "value", {"study_hash": "0"}, "value"),
        (1, "Identity", "scores", {"study_hash": "0"}, "scores"),
        (3, "Identity", "embedding", {"study_hash": "0"}, "vector"),
        (3, "Identity", "probabilities", {"study_hash": "0", "inside": {"output": "probabilities"}}, "logits"),
    ],
)
def test_classes_are_agreed_upon_where_a_file_has_classes(classes, node, output, metadata, kind, tmp_path, capsys):
    """Not of one number, which always is the largest, nor of yes and no, nor of what a study's file calls otherwise."""
    import onnx
    from onnx import helper

    file = file_of(tmp_path / "file.onnx", (1, 8, 8), classes=classes)
    model = onnx.load(file)
    nodes = [helper.make_node("Cast", ["logits"], ["yes"], to=9)] if node == "Not" else []
    nodes.append(helper.make_node(node, ["yes" if nodes else "logits"], [output]))
    model.graph.node.extend(nodes)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(output, 9 if node == "Not" else 1, ["n", classes]))
    onnx.save(model, file)
    saying(file, file, **metadata)
    code, found, err = run(capsys, file, "--format", "onnx-fp32", "--out", tmp_path)
    assert code == 0, err
    card = json.loads((tmp_path / "file-fp32.json").read_text())
    assert card["use"]["outputs"][0]["kind"] == kind
    decides = kind in ("logits", "scores")
    assert found["exports"][0]["top1_agreement"] == (1.0 if decides else None)


def test_a_network_of_one_number_has_no_agreement(tmp_path):
    found = kdsearch.compress(
        nn.Linear(8, 1), tmp_path, input_shape=(8,), formats=["onnx-fp32"], calibration="random", progress=False
    )
    assert found["exports"][0]["top1_agreement"] is None


def test_a_file_that_lists_its_weights_as_inputs(tmp_path, capsys):
    """As all did before IR version 4."""
    import onnx
    from onnx import helper

    model = onnx.load(file_of(tmp_path / "file.onnx", (1, 8, 8)))
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [64, 3]))
    onnx.save(model, tmp_path / "file.onnx")
    code, found, err = run(capsys, tmp_path / "file.onnx", "--out", tmp_path / "out", "--format", "onnx-int4")
    assert code == 0, err
    assert [each["peak_bytes"] > 0 for each in found["exports"]] == [True, True]


def in_two_files(source, target, location="net.onnx.data"):
    """As torch.onnx.export writes it unless told otherwise."""
    import onnx

    onnx.save(onnx.load(source), target, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    model = onnx.load(target, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    onnx.save(model, target)
    return target


def test_a_file_whose_weights_lie_beside_it(folder, tmp_path, capsys):
    """What is made of it is what is made of the file in one piece; measured, it is as large."""
    file = in_two_files(folder / "net.onnx", tmp_path / "net.onnx")
    asked = ["--format", "onnx-int8", "--calibration", "random"]
    for source in (folder / "net.onnx", file):
        code, _, err = run(capsys, source, "--out", tmp_path / source.parent.name, *asked)
        assert code == 0, err
    whole, own = (tmp_path / each.name for each in (folder, tmp_path))
    assert (own / "net-int8.onnx").read_bytes() == (whole / "net-int8.onnx").read_bytes()
    x = {"x": np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)}
    answers = [open_session(each / "net-fp32.onnx").run(None, x)[0] for each in (whole, own)]
    assert np.array_equal(*answers)
    assert main(["bench", "onnx", str(file), "--rounds", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["bytes"] == file.stat().st_size + (tmp_path / "net.onnx.data").stat().st_size


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../net.onnx.data", "in '../net.onnx.data'. Expected a file in the same folder or below it."),
        ("/etc/passwd", "in '/etc/passwd'. Expected a file in the same folder or below it."),
        ("none.data", "its weights in 'none.data' are not there. Expected that file beside it."),
        ("short.data", "its weights in another file cannot be read: "),
    ],
)
def test_weights_that_cannot_be_taken_from_beside_a_file(location, said, folder, tmp_path, capsys):
    (tmp_path / "short.data").write_bytes(b"123")
    file = in_two_files(folder / "net.onnx", tmp_path / "net.onnx", location)
    for asked in (
        ["compress", str(file), "--out", str(tmp_path / "out"), "--format", "onnx-fp32"],
        ["bench", "onnx", str(file)],
    ):
        assert main(asked) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_file_says_of_itself_stays(folder, tmp_path, capsys):
    """Beside what the command says, whose keys it takes."""
    import onnx

    model, own = onnx.load(folder / "net.onnx"), {"names": "{0: 'cat'}", "stride": "32", "model": "another"}
    onnx.helper.set_model_props(model, own)
    onnx.save(model, tmp_path / "own.onnx")
    asked = ["--format", "onnx-int8", "--format", "onnx-int4", "--calibration", "random", "--out", tmp_path]
    assert run(capsys, tmp_path / "own.onnx", *asked)[0] == 0
    for kind in ("fp32", "int8", "int4"):
        found = open_session(tmp_path / f"own-{kind}.onnx").get_modelmeta().custom_metadata_map
        assert found == {**own, "model": "own.onnx"}
        assert main(["verify", str(tmp_path / f"own-{kind}.onnx")]) == 0


HALVES = {
    "size": [8, 8], "channels": 1, "color": "grey", "range": [0.0, 255.0], "scale": 255.0, "mean": [0.5], "std": [0.5],
    "formula": "(x / 255 - mean) / std", "normalize": "given", "resize": "the shorter side to 8",
}  # fmt: skip


def saying(source, target, **metadata):
    """The file with what it says of itself, JSON where it is more than a word."""
    import onnx

    model = onnx.load(source)
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, told)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("normalize", ["auto", "none"])
def test_a_file_that_says_how_it_was_trained_is_judged_so(normalize, folder, tmp_path, capsys):
    """By its mean and std, unless others are asked for, which is noted; its classes keep their names."""
    file = saying(folder / "net.onnx", tmp_path / "own.onnx", preprocessing=HALVES, labels=["low", "mid", "high"])
    asked = ["--data", folder / "data.npz", "--format", "onnx-int8", "--max-drop", "1", "--out", tmp_path]
    code, found, err = run(capsys, file, *asked, "--normalize", normalize)
    assert code == 0, err
    test = open_data(str(folder / "data.npz"), "none", 0, Host.load()).arranged.split("test")
    batch = test.load(range(len(test.ids)))
    x = batch["image"].numpy() if normalize == "none" else (batch["image"].numpy() - 0.5) / 0.5
    answers = open_session(folder / "net.onnx").run(None, {"x": x})[0].argmax(1)
    assert found["exports"][0]["accuracy"] == pytest.approx((answers == batch["label"].numpy()).mean())
    notes = [each for each in found["notes"] if "prepared" in each]
    assert notes == (
        []
        if normalize == "auto"
        else [
            'images are prepared by {"mean": 0.0, "std": 1.0}, as asked for; the file says that it was trained with '
            '{"mean": 0.5, "std": 0.5}'
        ]
    )
    for kind in ("fp32", "int8"):
        use = json.loads((tmp_path / f"own-{kind}.json").read_text())["use"]
        inside = open_session(tmp_path / f"own-{kind}.onnx").get_modelmeta().custom_metadata_map
        assert use["labels"] == json.loads(inside["labels"]) == ["low", "mid", "high"]
        assert use["preprocessing"] == json.loads(inside["preprocessing"])
        assert use["preprocessing"]["mean"] == ([0.5] if normalize == "auto" else [0.0])
        assert (use["preprocessing"] == HALVES) is (normalize == "auto")
        assert main(["verify", str(tmp_path / f"own-{kind}.onnx")]) == 0


def test_a_file_s_own_ends_stay_and_are_not_written_twice(folder, tmp_path, capsys):
    """Without data, too, the card says what its metadata do; what comes before a network is added to what comes after it."""
    file = saying(folder / "net.onnx", tmp_path / "own.onnx", preprocessing=HALVES, labels=["low", "mid", "high"])
    asked = ["--format", "onnx-fp32", "--out", tmp_path]
    code, _, err = run(capsys, file, *asked, "--output", "probabilities")
    assert code == 0, err
    once = (tmp_path / "own-fp32.onnx").rename(tmp_path / "once.onnx")
    code, _, err = run(capsys, once, *asked, "--input", "any_size")
    assert code == 0, err
    twice = (tmp_path / "once-fp32.onnx").rename(tmp_path / "twice.onnx")
    assert run(capsys, twice, *asked)[0] == 0
    use = json.loads((tmp_path / "twice-fp32.json").read_text())["use"]
    assert use["inside"] == {"input": "any_size", "layout": "hwc", "output": "probabilities"}
    assert (use["labels"], use["preprocessing"]) == (["low", "mid", "high"], HALVES)
    assert (use["inputs"][0]["kind"], use["inputs"][0]["shape"]) == ("pixels", ["batch", "any", "any", 1])
    assert main(["verify", str(tmp_path / "twice-fp32.onnx")]) == 0
    capsys.readouterr()
    for words, said in (
        (["--output", "class"], "--output: the file answers probabilities already. Expected raw."),
        (["--input", "pixels"], "--input: the network reads x (pixels). Expected one image of a fixed size."),
    ):
        assert run(capsys, twice, *asked, *words)[::2] == (2, f"{said}\n")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"labels": "cat, dog", "preprocessing": "[1", "inside": "3"}, Given()),
        ({"labels": '["a", 1]', "inside": '{"input": 1}'}, Given()),
        ({"preprocessing": json.dumps({**HALVES, "std": [0.0]})}, Given()),
        ({"preprocessing": json.dumps({**HALVES, "mean": [0.5, 0.5]})}, Given()),
        ({"preprocessing": json.dumps({**HALVES, "size": []})}, Given()),
        ({"labels": '["a"]', "study_hash": "0"}, Given(labels=("a",), is_exported=True)),
        ({"preprocessing": json.dumps(HALVES)}, Given(preprocessing=HALVES)),
    ],
)
def test_metadata_that_another_program_wrote_say_nothing(metadata, expected):
    assert given_by(metadata) == expected


def test_classes_of_data_in_another_order_than_the_file_s_are_refused():
    def data(*classes):
        return SimpleNamespace(arranged=SimpleNamespace(facts={"classes": list(classes)}))

    given = Given(labels=("low", "mid", "high"))
    assert differences(data("low", "mid", "high"), given) == differences(data("0", "1", "2"), given) == []
    (note,) = differences(data("a", "b", "c"), given)
    assert note == "the data's classes are a, b, c, the file's low, mid, high: the i-th of both is taken for the same"
    with pytest.raises(StudyError, match="data's classes are high, mid, low, the file's low, mid, high"):
        differences(data("high", "mid", "low"), given)


def test_a_module_from_python(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    net = network("net.py:Net", ("net.py:Net",))
    found = kdsearch.compress(net, tmp_path, input_shape=(1, 8, 8), formats=["onnx-fp32"], progress=False)
    assert found["model"] == "Net"
    assert found["exports"][0]["accuracy"] is None
    with pytest.raises(StudyError, match=r"data: got a tuple. Expected a data set's name, a .npz file \(numpy.savez"):
        kdsearch.compress(net, tmp_path / "other", data=(torch.zeros(4, 1, 8, 8), torch.zeros(4)), progress=False)
    shutil.rmtree(tmp_path)


def test_a_path_and_a_model_are_taken(folder, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    given = [folder / "net.onnx", Model(net, ("image",), outputs=("logits",))]
    for nth, model in enumerate(given):
        shape = (1, 8, 8) if nth else None
        found = kdsearch.compress(model, tmp_path / str(nth), input_shape=shape, formats=["onnx-fp32"], progress=False)
        assert [row["format"] for row in found["exports"]] == ["onnx-fp32"]
    assert found["params"]["before"] == 64 * 3 + 3


@pytest.mark.parametrize(("model", "said"), [(nn.Linear, "got the class Linear"), (3, "got int")])
def test_what_is_no_network_is_refused_by_name(model, said, tmp_path):
    with pytest.raises(StudyError, match=rf"model: {said}\. Expected a torch\.nn\.Module"):
        kdsearch.compress(model, tmp_path, input_shape=(10,), progress=False)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_torchscript_is_refused_by_the_part_s_name(tmp_path):
    part = torch.jit.script(nn.Sequential(nn.Linear(10, 8), nn.ReLU()))
    given = [(nn.Sequential(part, nn.Linear(8, 3)), "Sequential: its part '0' is"), (part, "Module: it is")]
    for net, said in given:
        with pytest.raises(DataError, match=f"{said} TorchScript, which cannot be looked into"):
            kdsearch.compress(net, tmp_path, input_shape=(10,), formats=["onnx-fp32"], progress=False)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.yes, self.no = nn.Linear(10, 3), nn.Linear(10, 3)

    def forward(self, x):
        return torch.cond(x.mean() > 0, self.yes, self.no, (x,))


def test_control_flow_of_torch_s_own_is_refused_with_what_to_write_instead(tmp_path):
    with pytest.raises(DataError, match=r"Branching cannot be looked into as it runs: .*torch\.cond.* torch\.where\."):
        kdsearch.compress(Branching(), tmp_path, input_shape=(10,), formats=["onnx-fp32"], progress=False)
    assert not list(tmp_path.iterdir())
