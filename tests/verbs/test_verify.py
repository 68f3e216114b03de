"""What `verify` says of files that are their card's, and of those that are not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.cli import main
from kdsearch.deploy.files import open_session
from kdsearch.deploy.probe import drawn
from kdsearch.deploy.verify import _answers, _each_alone
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.store.hashing import file_digest
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs.verify import _classes, _of_arrays
from kdsearch.verbs.verify_study import _naming_the_file
from tests.stages.tiny import LESS, run_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two exported networks, fp32 and INT8."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    images = torch.rand(24, 1, 8, 8)
    asked = {"exporter": {"use": "onnx", "options": {"engine": "torchscript"}}, "labels": ["a", "b", "c"]}
    kdsearch.export(net, images, folder / "net.onnx", **asked)
    kdsearch.export(net, images, folder / "small.onnx", quantize="int8", **asked)
    decides = {**asked, "exporter": {"use": "onnx", "options": {"engine": "torchscript", "output": "class"}}}
    kdsearch.export(net, images, folder / "class.onnx", **decides)
    kdsearch.export(net, images, folder / "small_class.onnx", quantize="int8", **decides)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copied"))


def verify(file, capsys, *more):
    """(exit code, JSON)"""
    code = main(["verify", str(file), "--json", *map(str, more)])
    return code, json.loads(capsys.readouterr().out.splitlines()[0])


@pytest.mark.parametrize(("own", "code"), [(None, 3), (0.0001, 3), (0.01, 0)])
def test_what_torch_itself_rounded_at_the_question_is_allowed(own, code, folder, capsys):
    """Torch's kept answers are .03 off; four times its own error may be."""
    place = folder / "net.json"
    card = json.loads(place.read_text("utf-8"))
    for each in card["check"]["outputs"]:
        each["torch"] = [value + 0.03 for value in each["torch"]]
        each["torch_fp32_to_fp64"] = own
    place.write_text(json.dumps(card), "utf-8")
    found = verify(folder / "net.onnx", capsys)
    assert found[0] == code
    assert {each["check"] for each in found[1]["checks"] if not each["ok"]} == (
        {"answers as torch's"} if code else set()
    )


@pytest.mark.parametrize("name", ["net.onnx", "small.onnx", "class.onnx", "small_class.onnx"])
def test_a_file_as_it_was_exported(name, folder, capsys):
    code, found = verify(folder / name, capsys)
    assert (code, found["verified"], found["differs"]) == (0, True, [])
    checks = {each["check"] for each in found["checks"]}
    assert {"sha256", "inputs", "outputs", "metadata", "answers as when the card was written"} <= checks
    assert ("answers as torch's" in checks) == (name in ("net.onnx", "class.onnx"))
    assert main(["verify", str(folder / name)]) == 0
    assert "ok" in capsys.readouterr().out


def changed(file, change, sealed):
    """Change the model; `sealed`: and make the card's size and hash those of the changed file."""
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    if sealed:
        card = json.loads(file.with_suffix(".json").read_text())
        card |= {"sha256": file_digest(file), "size_bytes": file.stat().st_size}
        file.with_suffix(".json").write_text(json.dumps(card))


def weight(model):
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 2)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[3] = -values.flat[3] - 0.1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def output(model):
    model.graph.output[0].name = model.graph.node[0].output[0]


def opset(model):
    model.opset_import[0].version = 99


def labels(model):
    next(each for each in model.metadata_props if each.key == "labels").value = '["b", "a", "c"]'


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (weight, "answers as torch's", "logits differs by"),
        (output, "outputs", "the card says logits"),
        (opset, "onnxruntime opens it", "operator set 99 is newer"),
        (labels, "metadata", "labels in the file are not the card's"),
    ],
)
def test_a_changed_file(change, check, said, sealed, folder, capsys):
    """Also where size and hash in the card were made to fit."""
    changed(folder / "net.onnx", change, sealed)
    code, found = verify(folder / "net.onnx", capsys)
    assert code == 3
    assert not found["verified"]
    assert ("sha256" in found["differs"]) == (not sealed)
    assert check in found["differs"]
    assert said in next(each["said"] for each in found["checks"] if each["check"] == check)


def test_a_changed_weight_of_int8(folder, capsys):
    def scale(model):
        tensor = next(each for each in model.graph.initializer if each.data_type == 1 and each.name.endswith("_scale"))
        tensor.CopyFrom(onnx.numpy_helper.from_array(3 * onnx.numpy_helper.to_array(tensor), tensor.name))

    changed(folder / "small.onnx", scale, True)
    code, found = verify(folder / "small.onnx", capsys)
    assert (code, "answers as when the card was written" in found["differs"]) == (3, True)


def answers_of(name):
    return {"class.onnx": "answers as torch's", "small_class.onnx": "answers as when the card was written"}[name]


@pytest.mark.parametrize("name", ["class.onnx", "small_class.onnx"])
def test_a_changed_weight_of_a_file_that_answers_a_class(name, folder, capsys):
    """By the share of answers that are others now."""

    def other(model):
        biases = [each for each in model.graph.initializer if list(each.dims) == [3]]
        tensor = max(biases, key=lambda each: each.data_type == onnx.TensorProto.INT32)  # no scales
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1), tensor.name))

    file, x = folder / name, np.random.RandomState(0).standard_normal((48, 1, 8, 8)).astype(np.float32)
    before = open_session(file).run(None, {"image": x})[0]
    changed(file, other, True)
    share = float((open_session(file).run(None, {"image": x})[0] != before).mean())
    assert share > 0.05
    code, found = verify(file, capsys)
    assert (code, answers_of(name) in found["differs"]) == (3, True)
    said = next(each["said"] for each in found["checks"] if each["check"] == "answers as when the card was written")
    assert said.startswith(f"{share:.3g} of the answers of class differ; allowed are ")


def test_a_truncated_file(folder, capsys):
    file = folder / "net.onnx"
    file.write_bytes(file.read_bytes()[:-40])
    code, found = verify(file, capsys)
    assert code == 3
    assert found["differs"][:2] == ["size", "sha256"]
    assert "onnxruntime opens it" in found["differs"]


@pytest.mark.parametrize("text", [b'"c"]', b"logits"])
def test_texts_of_a_file_that_are_damaged(text, folder, capsys):
    """Metadata, and the name of an output with all that reads it: onnxruntime opens the file, and cannot say what they are."""
    file = folder / "net.onnx"
    data = file.read_bytes()
    assert text in data
    file.write_bytes(data.replace(text, text[:-1] + b"\xff"))
    code, found = verify(file, capsys)
    assert code == 3
    assert found["differs"] == ["sha256", "names and metadata"]


def test_what_onnxruntime_refuses_is_said_once(folder, capsys):
    """Without the second try of its own, of which it prints."""
    file = folder / "net.onnx"
    data = file.read_bytes()
    name = onnx.load(file).graph.node[0].output[0].encode()
    end = data.rindex(name) + len(name)  # where the next node reads it
    file.write_bytes(data[: end - 1] + b"\xff" + data[end:])
    assert main(["verify", str(file), "--json"]) == 3
    out, err = capsys.readouterr()
    assert "onnxruntime opens it" in json.loads(out)["differs"]
    assert "EP Error" not in err


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"use": []}, "use"),
        ({"use": {"inputs": ["image"]}}, "use.inputs[0]"),
        ({"use": {"inputs": [{"shape": [1]}]}}, "use.inputs[0].name"),
        ({"bounds": "x"}, "bounds"),
        ({"bounds": {"parity": "x"}}, "bounds.parity"),
        ({"parity": {"torch_fp32_to_fp64": []}}, "parity.torch_fp32_to_fp64"),
        ({"provenance": 3}, "provenance"),
        ({"metrics": [1]}, "metrics"),
    ],
)
def test_a_card_that_is_damaged(change, place, folder, capsys):
    card = json.loads((folder / "net.json").read_text())
    (folder / "net.json").write_text(json.dumps({**card, **change}))
    assert main(["verify", str(folder / "net.onnx")]) == 2
    assert f"net.json: {place}: " in capsys.readouterr().err


def test_an_output_that_the_card_does_not_know_is_another_file(folder, capsys):
    def more(model):
        model.graph.output.add().name = model.graph.node[0].output[0]

    changed(folder / "net.onnx", more, True)
    code, found = verify(folder / "net.onnx", capsys)
    assert (code, found["differs"]) == (3, ["outputs"])


def test_another_files_card(folder, capsys):
    shutil.copy(folder / "small.json", folder / "net.json")
    code, found = verify(folder / "net.onnx", capsys)
    assert code == 3
    assert {"size", "sha256", "name"} <= set(found["differs"])


def test_what_cannot_be_judged(folder, capsys, tmp_path):
    (folder / "small.json").unlink()
    assert main(["verify", str(folder / "small.onnx")]) == 2
    assert "no card beside it" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none.onnx")]) == 2
    capsys.readouterr()
    assert main(["verify", str(tmp_path)]) == 2
    assert "is a folder. Expected a file that kdsearch exported" in capsys.readouterr().err
    (folder / "net.json").write_text('{"kind": "other"}')
    assert main(["verify", str(folder / "net.onnx")]) == 2
    assert "no card of kdsearch" in capsys.readouterr().err


def test_arrays_of_ones_own(folder, capsys, tmp_path):
    images = np.random.default_rng(0).random((40, 1, 8, 8)).astype(np.float32)
    session = open_session(folder / "net.onnx")
    right = session.run(None, {"image": images})[0].argmax(1)
    np.savez(tmp_path / "own.npz", image=images, label=right)
    code, found = verify(folder / "net.onnx", capsys, "--data", tmp_path / "own.npz")
    assert code == 0
    assert found["checks"][-1] == {
        "check": "quality",
        "ok": True,
        "said": "accuracy 1.0000 of 40; the card states none",
    }
    np.savez(tmp_path / "own.npz", image=images, label=np.where(np.arange(40) < 30, -100, right))
    code, found = verify(folder / "net.onnx", capsys, "--data", tmp_path / "own.npz")
    assert found["checks"][-1]["said"] == "accuracy 1.0000 of 10; the card states none", "of those that are known"
    np.savez(tmp_path / "own.npz", image=images, label=np.full(40, -100))
    assert main(["verify", str(folder / "net.onnx"), "--data", str(tmp_path / "own.npz")]) == 2
    assert "array 'label' is -100 everywhere. Expected the class of some samples" in capsys.readouterr().err
    card = json.loads((folder / "net.json").read_text())
    quality = {"metric": "accuracy", "value": 0.9, "direction": "max", "unit": "share"}
    (folder / "net.json").write_text(json.dumps({**card, "metrics": {"quality": quality}}))
    np.savez(tmp_path / "own.npz", image=images, label=(right + (np.arange(40) < 8)) % 3)
    code, found = verify(folder / "net.onnx", capsys, "--data", tmp_path / "own.npz")
    assert (code, found["differs"]) == (3, ["quality"])
    assert found["checks"][-1]["said"] == "accuracy 0.8000 of 40; the card says 0.9000"
    for array, said in (
        (right[:30], "array 'image' has 40 samples, 'label' 30. Expected a label for each sample."),
        (np.eye(3)[right], "array 'label' is float64 of 40 x 3. Expected a class index for each sample."),
        (right.astype(str), "array 'label' is <U"),
    ):
        np.savez(tmp_path / "own.npz", image=images, label=array)
        assert main(["verify", str(folder / "net.onnx"), "--data", str(tmp_path / "own.npz")]) == 2
        assert said in capsys.readouterr().err
    np.savez(tmp_path / "own.npz", image=images.astype(str), label=right)
    assert main(["verify", str(folder / "net.onnx"), "--data", str(tmp_path / "own.npz")]) == 2
    assert "array 'image' is <U" in capsys.readouterr().err
    np.savez(tmp_path / "own.npz", image=images)
    assert main(["verify", str(folder / "net.onnx"), "--data", str(tmp_path / "own.npz")]) == 2
    assert "no array 'label'" in capsys.readouterr().err
    for other, said in (
        (images[:, :, :4], "40 x 1 x 4 x 8"),
        (images[0, 0, 0, 0], "one number"),
        (images[0], "1 x 8 x 8"),
    ):
        np.savez(tmp_path / "own.npz", image=other, label=right)
        assert main(["verify", str(folder / "net.onnx"), "--data", str(tmp_path / "own.npz")]) == 2
        assert f"own.npz: array 'image' is {said}. Expected samples of (1, 8, 8), as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 2), 0.5), "float64 with numbers such as 0.5,"),
        (np.full((4, 2), 256.0), "float64 with numbers such as 256,"),
        (np.array([[0, 1], [2, -1]] * 2), "int64 with numbers such as -1,"),
        (np.array([[0, 1], [2, np.nan]] * 2), "float64 with numbers such as nan,"),
        (np.array([[0, 1], [2, 255]] * 2), ""),
        (np.array([[0.0, 1.0], [2.0, 255.0]] * 2), ""),
    ],
)
def test_arrays_are_not_cut_to_the_integers_that_a_file_reads(values, said, tmp_path):
    """Which were zeros where images of 0..1 were given for pixels, and an accuracy of those."""
    x, y = (
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["n", 2]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2]),
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Cast", ["x"], ["y"], to=1)], "g", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "own.npz", x=values, label=values.argmax(1))
    card = {"use": {"inputs": [{"name": "x", "shape": ["batch", 2], "dtype": "uint8"}]}}
    if said:
        with pytest.raises(
            DataError, match=rf"array 'x' is {said} and the file reads uint8. Expected whole numbers in 0..255"
        ):
            _of_arrays(tmp_path / "m.onnx", card, tmp_path / "own.npz", None)
        return
    assert _of_arrays(tmp_path / "m.onnx", card, tmp_path / "own.npz", None) == ("accuracy", 1.0, 4)


@pytest.mark.parametrize("damage", ["cut", "flipped", "one array", "text"])
def test_arrays_that_cannot_be_read(damage, folder, capsys, tmp_path):
    file = tmp_path / "own.npz"
    np.savez(file, image=np.zeros((4, 1, 8, 8), np.float32), label=np.zeros(4, int))
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[300:310] = b"x" * 10
    file.write_bytes(data[:-100] if damage == "cut" else b"text" if damage == "text" else bytes(data))
    if damage == "one array":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(4))
    assert main(["verify", str(folder / "net.onnx"), "--data", str(file)]) == 2
    err = capsys.readouterr().err
    assert "own.npz: " in err
    assert "not readable" in err
    assert "Expected an .npz of plain arrays, as numpy.savez writes it" in err


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (np.array([[0.1, 0.9], [2.0, 1.0]], "f4"), [1, 0]),
        (np.array([1, 0]), [1, 0]),
        (np.zeros((2, 3, 4, 4), "f4"), "the file answers float32 of N x 3 x 4 x 4"),
        (np.zeros((2, 1), "f4"), "the file answers float32 of N x 1,"),
        (np.zeros((2, 5), "i8"), "the file answers int64 of N x 5,"),
        (np.zeros(2, "f4"), "the file answers float32 of N,"),
    ],
)
def test_arrays_are_judged_by_one_class_a_sample_alone(answer, expected, tmp_path):
    if isinstance(expected, list):
        assert _classes(answer, tmp_path).tolist() == expected
        return
    with pytest.raises(DataError, match=expected):
        _classes(answer, tmp_path)


def told(answers):
    """What `_each_alone` says of a file that answers so, by how many it is asked."""
    kept = {
        "seed": 0,
        "inputs": [{"name": "x", "shape": [3, 2], "dtype": "float32", "values": "ones"}],
        "outputs": [{"name": "y", "scale": 1.0}],
    }

    def run(feeds):
        return {"y": answers(len(feeds["x"]))}

    return _each_alone(run, kept, 1e-3, {})


@pytest.mark.parametrize(
    ("of", "here", "far", "ok"),
    [
        ("a", None, "a", True),
        ("a", None, "b_out", False),
        ("b", None, "b_out", True),
        ("b", None, "a", False),
        ("a", 0.2, "b_out", True),
        (None, None, "b_out", True),
    ],
)
def test_torch_s_own_error_at_one_output_is_no_other_one_s_excuse(of, here, far, ok):
    """One output is .5 off, of a scale of 1; four times .2 allow for that. here: what b_out's own is at the question."""
    outputs = [
        {"name": name, "shape": [1, 1], "scale": 1.0, "at": [0], "torch": [1.0], "file": [1.0]}
        for name in ("a", "b_out")
    ]
    outputs[1]["torch_fp32_to_fp64"] = here
    asked = [{"name": "b", "shape": [1, 1], "dtype": "float32", "values": "ones"}]
    card = {"bounds": {"parity": 1e-4}, "parity": {"output": of, "torch_fp32_to_fp64": 0.2}}

    def run(feeds):
        return {name: np.full((1, 1), 1.5 if name == far else 1.0) for name in ("a", "b_out")}

    found = {each.check: each.ok for each in _answers(run, card, {"seed": 0, "inputs": asked, "outputs": outputs})}
    assert found["answers as torch's"] == ok
    assert found["answers as when the card was written"] == (ok and not here), "the card says nothing of it there"


def test_what_is_no_number_is_no_equal_answer():
    assert told(lambda n: np.ones((n, 2))).ok
    assert not told(lambda n: np.full((n, 2), np.nan)).ok
    assert not told(lambda n: np.full((n, 2), np.nan if n == 1 else 1.0)).ok


def test_a_file_that_fails_where_a_sample_is_alone_differs():
    def answers(n):
        if n == 1:
            raise RuntimeError("Got invalid dimensions")
        return np.ones((n, 2))

    found = told(answers)
    assert (found.ok, found.said) == (False, "the file fails where a sample is asked alone: Got invalid dimensions")


def test_a_study_s_own_paths_are_beside_it(tmp_path, capsys, monkeypatch):
    """From whatever folder it is asked."""
    rng = np.random.default_rng(0)
    images, labels = (rng.random((200, 8, 8, 1)) * 255).astype("u1"), np.arange(200) % 3
    np.savez(tmp_path / "own.npz", image=images, label=labels)
    data = "data={use: npz, options: {path: own.npz}}"
    teacher = "teacher.options={space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 8]}, epochs: 1}"
    run_tiny(tmp_path, *LESS, data, teacher, "refine.trials=1", "refine.epochs=1", "distill.epochs=1")
    file = tmp_path / "study" / "export" / "tiny-fp32.onnx"
    for folder in (tmp_path, tmp_path / "study", Path("/")):
        monkeypatch.chdir(folder)
        code, found = verify(file, capsys, "--data", tmp_path / "study")
        assert code == 0, found
        assert found["checks"][-1]["check"] == "quality"
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "study/export/tiny-fp32.onnx", "--data", "study", "--json"]) == 0


DIGITS = {
    "raw": {"output": "raw"},
    "class": {"output": "class"},
    "any": {"input": "any_size", "output": "probabilities"},
    "table": {},
}


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    """One network of ten classes in files that read and answer in several ways, and one of a table."""
    folder = tmp_path_factory.mktemp("of_digits")
    torch.manual_seed(0)
    net, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.rand(24, 1, 8, 8)
    for name, options in DIGITS.items():
        exporter = {"use": "onnx", "options": {"engine": "torchscript", **options}}
        samples = images.flatten(1) if name == "table" else images
        kdsearch.export(net, samples, folder / f"{name}.onnx", exporter=exporter, normalize="none")
    return folder


def on_digits(file, tmp_path, capsys, quality=None, **sections):
    """(exit code, what is said of the quality, or the error) of a file on a study that was never run."""
    card = json.loads(file.with_suffix(".json").read_text())
    shutil.copy(file, tmp_path)
    (tmp_path / file.with_suffix(".json").name).write_text(json.dumps({**card, "metrics": {"quality": quality}}))
    study = {"name": "other", **TINY, **sections}
    (tmp_path / "other.yaml").write_text(json.dumps(study))
    code = main(["verify", str(tmp_path / file.name), "--data", str(tmp_path / "other.yaml"), "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    return code, found["checks"][-1]["said"] if "checks" in found else err


TINY = {
    "data": {"use": "digits", "options": {"resize": 8}},
    "student": {"space": "cifar_resnet"},
    "recipe": {"distillers": []},
    "objectives": {"accuracy": "max"},
}


@pytest.mark.parametrize("output", ["raw", "class"])
@pytest.mark.parametrize("name", ["raw", "class", "any"])
def test_a_file_answers_as_its_card_says_whatever_the_study_says_now(name, output, of_digits, tmp_path, capsys):
    exporter = {"use": "onnx", "options": {"output": output}}
    code, said = on_digits(of_digits / f"{name}.onnx", tmp_path, capsys, export={"exporter": exporter})
    assert code == 0
    materials = open_materials(load_study(tmp_path / "other.yaml", Host.load()), Host.load())
    split = materials.data.split("test")
    batch = split.load(list(range(len(split.ids))))
    told, images = materials.data.facts["preprocessing"], batch["image"].numpy()
    if name == "any":  # this file was made for images in 0..1
        images = images * np.float32(told["std"][0]) + np.float32(told["mean"][0])
    answers = open_session(of_digits / "raw.onnx").run(None, {"image": images})[0]
    right = float((answers.argmax(1) == batch["label"].numpy()).mean())
    assert said == f"accuracy {right:.4f} of {len(batch)}; the card states none"


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("raw", 10, "reads image (1 x 10 x 10, float32), and this one image (1 x 8 x 8, float32)"),
        ("table", 8, "reads image (1 x 8 x 8, float32), and this one "),
    ],
)
def test_a_study_of_other_samples(name, size, said, of_digits, tmp_path, capsys):
    data = {"use": "digits", "options": {"resize": size}}
    code, err = on_digits(of_digits / f"{name}.onnx", tmp_path, capsys, data=data)
    assert (code, f"--data: a file of the study {said}" in err) == (2, True)


def test_a_study_of_other_answers(folder, of_digits, tmp_path, capsys):
    code, err = on_digits(folder / "net.onnx", tmp_path, capsys)
    assert code == 2
    assert "--data: a file of the study answers logits (10, float32), and this one logits (3, float32)" in err
    data, student = {"use": "bundled_table", "options": {"name": "wine"}}, {"space": "mlp"}
    code, err = on_digits(of_digits / "any.onnx", tmp_path, capsys, data=data, student=student)
    assert code == 2
    assert (
        "--data: the file is of input any_size, layout hwc, output probabilities, which does not fit the study" in err
    )


def test_the_card_s_metric_is_measured_not_the_study_s_objective(of_digits, tmp_path, capsys):
    quality = {"metric": "accuracy", "value": 0.99, "direction": "max", "unit": "share"}
    objective = {"objectives": {"nll": "min"}}
    code, said = on_digits(of_digits / "raw.onnx", tmp_path, capsys, quality, **objective)
    assert code == 3
    assert re.fullmatch(r"accuracy 0\.[01]\d+ of \d+; the card says 0\.9900", said)
    code, err = on_digits(of_digits / "raw.onnx", tmp_path, capsys, {**quality, "metric": "mIoU"}, **objective)
    assert (code, "--data: the card states mIoU, and the study measures " in err) == (2, True)
    code, err = on_digits(of_digits / "class.onnx", tmp_path, capsys, **objective)
    assert (code, "--data: a file that answers the class alone has no nll" in err) == (2, True)


def test_arrays_say_nothing_of_another_metric(folder, tmp_path, capsys):
    card = json.loads((folder / "net.json").read_text())
    quality = {"metric": "nll", "value": 0.3, "direction": "min", "unit": "nats"}
    (folder / "net.json").write_text(json.dumps({**card, "metrics": {"quality": quality}}))
    np.savez(tmp_path / "own.npz", image=np.zeros((4, 1, 8, 8), np.float32), label=np.zeros(4, int))
    assert main(["verify", str(folder / "net.onnx"), "--data", str(tmp_path / "own.npz")]) == 2
    assert "--data: the card states nll, and of arrays accuracy is measured" in capsys.readouterr().err


def test_a_file_that_fails_at_the_study_s_samples(tmp_path):
    def fails(*tensors):
        raise RuntimeError("Got invalid dimensions\nand more")

    with pytest.raises(DataError, match=r"net.onnx: the file fails at the study's samples: Got invalid dimensions$"):
        _naming_the_file(fails, tmp_path / "net.onnx")(torch.zeros(1))


def test_questions_are_the_same_everywhere():
    """numpy promises RandomState's stream; these are its numbers (Mersenne Twister, polar method), seed 0."""
    asked = [
        {"name": "x", "shape": [2, 1], "dtype": "float32", "values": "normal"},
        {"name": "n", "shape": [1, 3], "dtype": "int64", "values": "integers", "below": 7},
        {"name": "mask", "shape": [1, 2], "dtype": "bool", "values": "ones"},
    ]
    found = drawn(asked, 0)
    rng = np.random.RandomState(0)
    assert found["x"].ravel() == pytest.approx([1.764052346, 0.4001572084])
    rng.standard_normal((2, 1))
    assert found["n"].tolist() == rng.randint(0, 7, (1, 3)).tolist()
    assert found["mask"].tolist() == [[True, True]]


ALONE = """
import sys

class Stranger:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "onnxruntime"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Stranger())
"""


@pytest.mark.parametrize("name", ["net", "small"])
def test_the_card_s_code_runs_with_numpy_and_onnxruntime_alone(name, folder):
    """As it stands in the card, in a process that finds no other package."""
    code = json.loads((folder / f"{name}.json").read_text())["use"]["run"]
    told = "print(json.dumps([each.tolist() for each in outputs]))"
    program = "\n".join([ALONE, *code, "import json", told])
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    zeros = np.zeros((1, 1, 8, 8), np.float32)
    expected = open_session(folder / f"{name}.onnx").run(None, {"image": zeros})[0]
    assert np.allclose(json.loads(done.stdout)[0], expected, atol=1e-6)
    other = subprocess.run([sys.executable, "-c", ALONE + "import torch"], capture_output=True, text=True, check=False)
    assert "torch is not installed here" in other.stderr


@pytest.mark.parametrize("name", ["nothing", "nothing.yaml", "n" * 5000])
def test_data_that_are_nowhere_are_one_line(name, folder, capsys):
    assert main(["verify", str(folder / "net.onnx"), "--data", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
