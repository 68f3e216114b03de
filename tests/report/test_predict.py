"""The programs beside files: of images that a file prepares itself, and of data that have a `prepare.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from kdsearch.builtin.datasets.folder import decode
from kdsearch.errors import DataError
from kdsearch.kit.images import READABLE
from kdsearch.report.predict import predict_text, prepared_text
from kdsearch.stages.cards import write_predict

PREPARE = """import numpy as np
def inputs(sample, files):
    return {"x": np.array([[float(each) for each in sample.split()]], np.float32)}
"""


def asked(folder: Path, output: str, labels: list[str], sample: str) -> subprocess.CompletedProcess[str]:
    """The program's answer by a file that gives a sample back; of output `class` where its least number is."""
    least = helper.make_node("ArgMin", ["x"], [output], axis=1, keepdims=0)
    answer = (TensorProto.INT64, ["n"]) if output == "class" else (TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(
        [least if output == "class" else helper.make_node("Identity", ["x"], [output])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(output, *answer)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if labels:
        helper.set_model_props(model, {"labels": json.dumps(labels)})
    onnx.save(model, folder / "m.onnx")
    (folder / "m-prepare.py").write_text(PREPARE)
    (folder / "predict.py").write_text(prepared_text("m.onnx", {"prepare.py": "m-prepare.py"}))
    return subprocess.run(
        [sys.executable, "-I", folder / "predict.py", sample], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("output", "labels", "line"),
    [
        ("logits", ["a", "b"], "1 -1: a 88.1%, b 11.9%"),
        ("probabilities", ["b", "a"], "1 -1: b 100.0%, a -100.0%"),
        ("class", ["a", "b"], "1 -1: b"),
        ("scores", ["a", "b"], '1 -1: {"a": 0.7311, "b": 0.2689}'),
        ("value", ["price", "age"], '1 -1: {"price": 1.0, "age": -1.0}'),
        ("embedding", [], '1 -1: {"embedding": [1.0, -1.0]}'),
    ],
)
def test_answers_by_name(output: str, labels: list[str], line: str, tmp_path: Path) -> None:
    assert asked(tmp_path, output, labels, "1 -1").stdout.strip() == line


def test_a_number_is_said_in_its_own_size(tmp_path: Path) -> None:
    done = asked(tmp_path, "value", ["tiny", "large"], "3.25e-08 1234567")
    assert done.stdout.strip() == '3.25e-08 1234567: {"tiny": 3.25e-08, "large": 1234567.0}'


def test_what_cannot_be_prepared_is_one_line(tmp_path: Path) -> None:
    done = asked(tmp_path, "value", ["a", "b"], "1 x")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == ["1 x: could not convert string to float: 'x'"]


def test_of_images_that_cannot_be_read_each_is_one_line_and_the_others_are_answered(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Flatten", ["image"], ["logits"])], "g", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    told = {"channels": 1, "size": [2, 2], "range": [0, 1], "scale": 1, "mean": [0], "std": [1]}
    helper.set_model_props(model, {"labels": json.dumps(list("abcd")), "preprocessing": json.dumps(told)})
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "predict.py").write_text(predict_text("m.onnx"))
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "empty.npy").write_bytes(b"")
    Image.new("L", (2, 2)).save(tmp_path / "huge.bmp")
    bmp = (tmp_path / "huge.bmp").read_bytes()
    (tmp_path / "huge.bmp").write_bytes(bmp[:18] + 2 * (100_000).to_bytes(4, "little") + bmp[26:])
    np.save(tmp_path / "wide.npy", np.zeros((2, 3)))
    np.save(tmp_path / "right.npy", np.array([[0, 0], [9, 0]]))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "predict.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("none.png", "words.png", "huge.bmp", "empty.npy", "wide.npy", "right.npy", "--top", "1")
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["right.npy: c 100.0%"]
    assert done.stderr.splitlines() == [
        "none.png: No such file or directory",
        "words.png: cannot identify image file 'words.png'",
        "huge.bmp: Image size (10000000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.",
        "empty.npy: No data left in file",
        "wide.npy: (1, 2, 3); expected (1, 2, 2)",
    ]
    assert run("right.npy").returncode == 0
    other = run("right.npy", "--model", "other.onnx")
    assert (other.returncode, other.stderr.splitlines()[-1]) == (2, "predict.py: error: other.onnx: no such file")
    (tmp_path / "other.onnx").write_bytes(b"no model")
    other = run("right.npy", "--model", "other.onnx")
    assert (other.returncode, "Traceback" in other.stderr) == (2, False)
    assert "predict.py: error: other.onnx: " in other.stderr
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    said = "predict.py: error: other.onnx: does not say how images are prepared and what its classes are called"
    assert run("right.npy", "--model", "other.onnx").stderr.splitlines()[-1] == said


def program() -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "predict", "__file__": "predict.py"}
    exec(compile(predict_text("m.onnx"), "predict.py", "exec"), found)
    return found


@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("reads", ["pixels", "any_size"])
def test_what_a_file_reads_that_prepares_images_itself(reads: str, layout: str, tmp_path: Path) -> None:
    """0..255 in the file's layout: of the data's values as an array, and of a picture, of any size where the file says so."""
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)  # (H, W, C)
    Image.fromarray(image).save(tmp_path / "i.png")
    np.save(tmp_path / "i.npy", image[:2].transpose(2, 0, 1) / 255 * 4 - 1)
    told = {"channels": 3, "size": (2, 4), "range": (-1, 3)}
    inside = {"input": reads, "layout": layout}
    picture, array = (program()["picture"](tmp_path / f"i.{end}", told, inside) for end in ("png", "npy"))
    rows = image if reads == "any_size" else image[2:4]  # the middle of the picture
    for found, expected in ((picture, rows), (array, image[:2])):
        assert found.dtype == np.uint8
        assert np.array_equal(found[0] if layout == "hwc" else found[0].transpose(1, 2, 0), expected)


SIZES = [(100, 155), (155, 100), (101, 131), (64, 96), (97, 200), (40, 31), (13, 17), (64, 64), (32, 33)]


def smooth(width: int, height: int, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, C): waves, steep enough that a shift by a pixel of the file is seen in one of the network's."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((k + 3) * x / width * 4 + k) * np.cos((5 - k) * y / height * 3) for k in range(channels)]
    return (127.5 + 127 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_becomes_what_training_reads_of_it(width: int, height: int, channels: int, tmp_path: Path) -> None:
    file = tmp_path / "i.png"
    told = {"channels": channels, "size": [32, 32], "range": [0, 255]}
    for turn in (1, 6, 3):
        exif = Image.Exif()
        exif[0x0112] = turn  # upright, by 90 degrees, by 180
        Image.fromarray(smooth(width, height)).save(file, exif=exif)
        found, trained = program()["pixels"](file, told), decode(file, channels, 32).numpy()
        assert np.abs(found - trained).max() <= 1, "both round to whole values"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white(mode: str, channels: int, tmp_path: Path) -> None:
    """The left half is black; the right half nobody sees, whatever it holds, but where an alpha of 128 shows half of its black."""
    file = tmp_path / "i.png"
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[:, :4, 3] = 255
    seen = np.full((8, 8), 255)
    seen[:, :4] = 0
    if mode in ("RGBA", "LA"):
        drawn[:2, 4:, 3], seen[:2, 4:] = 128, 127  # 255 - 128
        Image.fromarray(drawn).convert(mode).save(file)
    else:
        at = (drawn[:, :, 3] == 0).astype(np.uint8) * 3  # a colour by itself: transparent where it stands
        image = Image.fromarray(at)
        made = {"L": image, "1": Image.fromarray(at > 0), "RGB": Image.merge("RGB", [image] * 3)}.get(mode)
        if made is None:
            made = image.copy()
            made.putpalette([0, 0, 0] * 256)
        made.save(file, transparency=(3, 3, 3) if mode == "RGB" else 1 if mode == "1" else 3)
    told = {"channels": channels, "size": [8, 8], "range": [0, 255]}
    for found in (program()["pixels"](file, told), decode(file, channels, None).numpy()):
        assert np.array_equal(found, np.broadcast_to(seen, (channels, 8, 8))), mode


def test_an_image_that_training_refuses_has_no_answer(tmp_path: Path) -> None:
    """16 bits a channel, which pillow would clip at 255."""
    file = tmp_path / "deep.png"
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(file)
    found = program()
    with pytest.raises(ValueError, match="'I;16'"):
        found["upright"](file, 1)
    with pytest.raises(DataError, match="I;16"):
        decode(file, 1, None)
    assert found["READABLE"] == READABLE


@pytest.mark.parametrize(
    ("output", "said"), [("raw", "b 73.1%, a 26.9%"), ("probabilities", "b 100.0%, a 0.0%"), ("class", "b")]
)
def test_what_it_answers_is_not_computed_again(
    output: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the pixels 0 and 1: logits, probabilities, or the class alone."""
    last = helper.make_node("ArgMax", ["f"], ["y"], axis=1, keepdims=0)
    nodes = [
        helper.make_node("Flatten", ["x"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        last if output == "class" else helper.make_node("Identity", ["f"], ["y"]),
    ]
    answer = (TensorProto.INT64, ["n"]) if output == "class" else (TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 1, 1, 2])],
        [helper.make_tensor_value_info("y", *answer)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    told = {"channels": 1, "size": [1, 2], "range": [0, 255]}
    inside = {"input": "pixels", "layout": "chw", "output": output}
    about = {"labels": ["a", "b"], "preprocessing": told, "inside": inside}
    helper.set_model_props(model, {name: json.dumps(each) for name, each in about.items()})
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "i.npy", np.array([[0.0, 1.0]]))
    monkeypatch.setattr(sys, "argv", ["predict.py", str(tmp_path / "i.npy"), "--model", str(tmp_path / "m.onnx")])
    with pytest.raises(SystemExit, match="0"):
        program()["main"]()
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'i.npy'}: {said}"


@pytest.mark.parametrize(
    ("kind", "shape", "written"),
    [("logits", [3], True), ("class", [], True), ("logits", [3, 8, 8], False), ("class", [8, 8], False)],
)
def test_a_file_that_answers_a_class_a_pixel_has_none(
    kind: str, shape: list[int], written: bool, tmp_path: Path
) -> None:
    graph = {
        "inputs": [{"name": "image", "kind": "image", "shape": [1, 8, 8]}],
        "outputs": [{"name": "logits", "kind": kind, "shape": shape}],
    }
    facts = {"classes": ["a", "b", "c"], "preprocessing": {"mean": [0.5], "std": [0.5]}}
    materials: Any = SimpleNamespace(data=SimpleNamespace(facts=facts, source=None))
    result = {"exports": [{"path": "export/m.onnx", "graphs": [graph]}], "recommended": None}
    write_predict(materials, result, tmp_path)
    assert (tmp_path / "predict.py").exists() is written
