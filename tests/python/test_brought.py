"""Samples without labels: which ones quantizers see, how images are prepared, and what is wrong with what was brought."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from torch import nn

import kdsearch
from kdsearch.builtin.int4 import quantizer
from kdsearch.builtin.int4.quantizer import Int4
from kdsearch.cli import main
from kdsearch.deploy.files import open_session
from kdsearch.errors import DataError, RefusedError, StudyError
from kdsearch.kinds import IMAGENET, IO, Field, Normalization
from kdsearch.python import brought as module
from kdsearch.python.brought import Reader, _divided, brought_of
from kdsearch.python.given import Given
from kdsearch.python.networks import sized
from kdsearch.report.predict import predict_text

ROOT = Path(__file__).parents[2]
ANSWER = (Field("y", "logits", (3,), use="target"),)


class Net(nn.Sequential):
    def __init__(self, channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )


def io_of(*shape, dtype="float32", kind="image", **more):
    return IO((Field("x", kind, shape, dtype, **more),), ANSWER)


def seen(brought, io, given=None, normalize="none", own=None, seed=0, net=None):
    return brought_of(brought, Reader(io, net or nn.Identity(), given or Given(), normalize, own), seed)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty photographs of noise that differ in size and shape, some in folders of their own."""
    folder = tmp_path_factory.mktemp("seen") / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(20):
        h, w = rng.integers(12, 60, 2)
        place = folder / "deep" / "er" if i % 3 == 0 else folder
        smooth = np.cumsum(rng.normal(0, 8, (h, w, 3)), 1) + 128
        Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(place / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@drawn(st.integers(2, 2000), st.integers(1, 1 << 31), st.integers(0, 5))
def test_some_are_seen_and_others_compared(n, sample_bytes, seed):
    shown, held, split = _divided(n, sample_bytes, seed)
    assert len(shown) <= module.CALIBRATION
    assert len(held) <= max(module.COMPARED, module.CALIBRATION if n < 8 else 0)
    assert {*shown, *held} <= {*range(n)}
    assert len({*shown}) == len(shown) >= 2
    assert len(shown) * sample_bytes <= max(module.BYTES, 2 * sample_bytes)
    assert (shown, held, split) == _divided(n, sample_bytes, seed)
    if n < 8:
        assert shown == held
        assert sorted(shown) == [*range(n)] or sample_bytes * n > module.BYTES
        assert split == "that it was calibrated on"
    else:
        assert held
        assert not {*shown} & {*held}
        assert split == "held out of calibration"


def test_the_first_ones_are_of_all_there_are():
    """INT4 sees 128 by default: not those of the first folders alone."""
    shown, held, _ = _divided(1000, 1000, 0)
    assert 300 < np.mean(shown[:128]) < 700
    assert 300 < np.mean(held[:32]) < 700
    assert len({*np.asarray(shown[:128]) // 100}) == 10


def test_a_quantizer_sees_as_many_as_it_asks_for(tmp_path):
    x = np.random.default_rng(0).normal(size=(600, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=np.zeros((600, 8, 8, 3), np.uint8), label=np.arange(600) % 3)
    counted = {}

    class Counting(Int4):
        def rewrite(self, file, plan, feeds):
            counted[self.options.samples] = sum(len(each["image"]) for each in feeds)
            super().rewrite(file, plan, [])

    own, data = {"calibration": x, "input_shape": (3, 8, 8)}, {"data": str(tmp_path / "data.npz"), "max_drop": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizer, "Int4", Counting)
        for samples, more in ((300, own), (300, data), (8, own)):
            asked = {"formats": {"onnx-int4": {"samples": samples}}, "progress": False, **more}
            kdsearch.compress(Net().eval(), tmp_path / "out", **asked)
            assert counted.pop(samples) == max(samples, 256)


def test_all_are_used_where_they_fit():
    shown, held, _ = _divided(100, 1000, 0)
    assert (len(shown), len(held)) == (75, 25)
    shown, held, _ = _divided(1000, 1000, 0)
    assert (len(shown), len(held)) == (256, 64)
    shown, held, _ = _divided(1000, 1 << 26, 0)
    assert (len(shown), len(held)) == (8, 8)
    assert _divided(1000, 1000, 0)[0] != _divided(1000, 1000, 1)[0], "which ones is the seed's choice"


@pytest.mark.parametrize(("channels", "size"), [(3, (16, 24)), (3, (24, 16)), (1, (16, 16)), (3, (40, 40))])
def test_images_are_prepared_as_predict_does(channels, size, photos):
    """An independent program, which a file's user runs: pillow's scaling, by at most one level of 255 otherwise."""
    norm = IMAGENET.of(channels)
    found = seen(photos, io_of(channels, *size), normalize="imagenet")
    assert (len(found.calibration), len(found.compared), found.name) == (15, 5, "photos")
    assert "deep/er/0.png" in (*found.calibration.ids, *found.compared.ids)
    program: dict[str, object] = {}
    exec(predict_text("net.onnx").partition("\ndef main")[0], program)
    told = found.given.preprocessing
    for batch in (found.calibration, found.compared):
        for name, image in zip(batch.ids, batch["x"], strict=True):
            wanted = program["prepared"](str(photos / name), told)[0]  # type: ignore[operator]
            assert image.shape == wanted.shape == (channels, *size)
            levels = np.abs(image.numpy() - wanted) * np.asarray(norm.std).reshape(-1, 1, 1) * 255
            assert levels.max() < 1.01


def test_an_image_of_the_right_size_by_hand(tmp_path):
    pixels = np.array([[[255, 0, 51], [0, 102, 0]]], np.uint8)  # one row of two
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    by = Normalization((0.2,), (0.5,))
    (image, _) = seen(tmp_path, io_of(3, 1, 2), Given(preprocessing={"mean": [0.2], "std": [0.5]}), "auto").calibration[
        "x"
    ]
    assert torch.allclose(image, torch.tensor([[[1.6, -0.4]], [[-0.4, 0.4]], [[0.0, -0.4]]]), atol=1e-6)
    again = seen(tmp_path, io_of(3, 1, 2), normalize="auto", own=by).calibration["x"][0]
    assert torch.equal(again, image)
    rows = seen(tmp_path, io_of(2, 2, 3), normalize="none").calibration["x"]
    assert rows.shape == (2, 2, 2, 3), "colours last, where they cannot be first"
    raw = seen(tmp_path, io_of(3, 1, 2, dtype="uint8", kind="pixels"), normalize="auto")
    assert torch.equal(raw.calibration["x"][0], torch.from_numpy(pixels).permute(2, 0, 1)), "bytes are as they are"
    with pytest.raises(StudyError, match="--normalize: 'x' is of uint8: images are fed as they are"):
        seen(tmp_path, io_of(3, 1, 2, dtype="uint8", kind="pixels"), normalize="imagenet")


def test_colours_are_the_first_axis_where_two_may_be(tmp_path):
    for i in range(2):
        Image.new("RGB", (3, 2), "red").save(tmp_path / f"{i}.png")
    (red, *others), *_ = seen(tmp_path, io_of(3, 2, 3)).calibration["x"]
    assert bool((red == 1).all())
    assert all(not each.any() for each in others)


def test_what_nobody_says_is_asked_for(photos):
    with pytest.raises(StudyError, match=r"--normalize: nobody knows how images become .*0\.\.255, imagenet or none"):
        seen(photos, io_of(3, 16, 16), normalize="auto")
    timm = nn.Identity()
    timm.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # type: ignore[assignment]
    found = seen(photos, io_of(3, 16, 16), normalize="auto", net=timm)
    assert found.given.preprocessing["mean"] == [0.5] * 3
    assert float(found.calibration["x"].min()) < -0.5
    with pytest.raises(StudyError, match="--normalize: got 'imagenett'"):
        seen(photos, io_of(3, 16, 16), normalize="imagenett")
    with pytest.raises(StudyError, match="--input-shape: nobody knows which size"):
        seen(photos, io_of(3, None, None))
    told = {"size": [16, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3, "labels": "kept"}
    known = Given(preprocessing=told)
    assert seen(photos, io_of(3, None, None), known, "auto").calibration["x"].shape[1:] == (3, 16, 8)
    assert seen(photos, io_of(3, 16, 8), known, "none").given.preprocessing == told, "what the file says of it stays"
    assert seen(photos, io_of(3, 16, 8), known, "imagenet").given.preprocessing["mean"] == list(IMAGENET.mean)


@pytest.mark.parametrize(
    "io",
    [
        io_of(5, 16, 16),
        io_of(16, kind="vector"),
        io_of(3, 16, 16, dtype="int32"),
        IO((*io_of(3, 8, 8).inputs, Field("z", "vector", (2,))), ANSWER),
    ],
)
def test_images_are_for_what_reads_one(io, photos):
    with pytest.raises(
        StudyError,
        match=r"--calibration: the network reads x .*Expected one grey or RGB image of floats or uint8, or a \.npz",
    ):
        seen(photos, io)


def test_a_folder_without_images_and_a_damaged_one(tmp_path):
    with pytest.raises(DataError, match="no images"):
        seen(tmp_path, io_of(3, 8, 8))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"1 samples\. Expected two at least"):
        seen(tmp_path, io_of(3, 8, 8))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: not a readable image"):
        seen(tmp_path, io_of(3, 8, 8))


TWO = IO((Field("ids", "tokens", (None,), "int64"), Field("mask", "mask", (None,), "bool")), ANSWER)


def test_arrays_as_the_network_reads_them(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 2, 4)).astype(np.float32)
    np.savez(tmp_path / "own.npz", anything=x)
    for brought in (
        tmp_path / "own.npz",
        str(tmp_path / "own.npz"),
        x,
        torch.from_numpy(x),
        {"x": x},
        x.astype(np.float64),
    ):
        found = seen(brought, io_of(2, None, kind="sequence"))
        assert (len(found.calibration), len(found.compared)) == (9, 3)
        rows = torch.cat([found.calibration["x"], found.compared["x"]])
        order = [int(each) for each in (*found.calibration.ids, *found.compared.ids)]
        assert torch.equal(rows, torch.from_numpy(x)[order])
        assert sum(len(each["x"]) for each in found.batches()) == 3
        assert found.feeds()[0]["x"].dtype == np.float32
    ids, mask = np.arange(12).reshape(4, 3), np.ones((4, 3), int)
    np.savez(tmp_path / "two.npz", ids=ids, mask=mask, label=np.zeros(4))
    found = seen(tmp_path / "two.npz", TWO)
    assert {name: each.dtype for name, each in found.calibration.tensors.items()} == {
        "ids": torch.int64,
        "mask": torch.bool,
    }
    order = [int(each) for each in found.calibration.ids]
    assert torch.equal(found.calibration["ids"], torch.from_numpy(ids)[order])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"ids": np.zeros((4, 3), int)}, "no array 'mask'; there are ids"),
        ({"ids": np.zeros((4, 3), int), "masks": np.ones((4, 3))}, "there are ids, masks; did you mean 'masks'?"),
        ({"ids": np.zeros((4, 3), int), "mask": np.ones((5, 3), bool)}, "arrays of 'ids' 4, 'mask' 5 samples"),
        ({"ids": np.zeros((4, 3)) + 0.5, "mask": np.ones((4, 3))}, "'ids' holds what is no int64"),
        (
            {"ids": np.zeros((4, 3, 1), int), "mask": np.ones((4, 3))},
            "'ids' is 4 x 3 x 1. Expected int64 N x any, as the network",
        ),
        ({"ids": np.zeros((4, 3), int), "mask": np.full((4, 3), 2)}, "'mask' holds what is no bool"),
        ({"ids": np.array([["a"] * 3] * 4), "mask": np.ones((4, 3))}, "'ids' is <U1"),
        ({"ids": np.float64(3), "mask": np.ones((4, 3))}, "'ids' is one number"),
        ({"ids": np.zeros((0, 3), int), "mask": np.ones((0, 3))}, "0 samples"),
        ({"ids": np.full((4, 3), np.nan), "mask": np.ones((4, 3))}, "'ids' holds what is not finite"),
    ],
)
def test_arrays_that_are_none_of_its_inputs(arrays, said, tmp_path):
    np.savez(tmp_path / "own.npz", **arrays)
    for brought in (arrays, tmp_path / "own.npz"):
        with pytest.raises(DataError) as error:
            seen(brought, TWO)
        assert said in str(error.value)
        assert ("own.npz" in str(error.value)) == (brought is not arrays)


def test_pixels_are_no_prepared_floats():
    with pytest.raises(DataError, match=r"'x' is uint8\. Expected float32 N x 3 x 8 x 8"):
        seen(np.zeros((4, 3, 8, 8), np.uint8), io_of(3, 8, 8))
    with pytest.raises(DataError, match="'x' holds what is no float32"):
        seen(np.full((4, 3, 8, 8), 1e300), io_of(3, 8, 8))
    with pytest.raises(DataError, match=r"'x' is torch\.bfloat16 \(torch\.strided, cpu\), which numpy has not"):
        seen(torch.zeros(4, 3, 8, 8).bfloat16(), io_of(3, 8, 8))
    with pytest.raises(DataError, match="array 'x' is object"):
        seen(SimpleNamespace(), io_of(3, 8, 8))
    for nothing in ("no/such", "", "a\0b"):
        with pytest.raises(
            StudyError, match=r"--calibration: there is no '.*'\. Expected data, random, a folder of images"
        ):
            seen(nothing, io_of(3, 8, 8))
    with pytest.raises(StudyError, match="--calibration: got '/dev/null'"):
        seen("/dev/null", io_of(3, 8, 8))


def input_range(file):
    """Largest and smallest value that the first quantised activation of a static INT8 file can have."""
    graph = onnx.load(file).graph
    known = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    node = next(
        each for each in graph.node if each.op_type == "QuantizeLinear" and each.input[0] == graph.input[0].name
    )
    scale, zero = (known[name] for name in node.input[1:3])
    low, high = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
    return float((low - int(zero)) * scale), float((high - int(zero)) * scale)


def test_quantizers_see_what_was_brought(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.25, 0.5, (40, 3, 8, 8)).astype(np.float32)
    asked = {"input_shape": (3, 8, 8), "formats": ["onnx-int8"], "progress": False}
    found = kdsearch.compress(Net().eval(), tmp_path / "own", calibration=x, **asked)
    low, high = input_range(found["exports"][1]["path"])
    assert (low, high) == pytest.approx((-0.25, 0.5), abs=0.01)
    assert "files are compared on 10 samples held out of calibration, of the caller's samples" in found["notes"]
    card = json.loads((tmp_path / "own" / "Net-int8.json").read_text())
    assert card["metrics"]["split"] == "samples held out of calibration"
    assert card["metrics"]["top1_agreement_with_torch"]["n"] == 10
    assert "calibrated on the caller's samples" in card["quantization"]
    noise = kdsearch.compress(Net().eval(), tmp_path / "noise", calibration="random", **asked)
    assert input_range(noise["exports"][1]["path"])[1] > 2


class Narrow(nn.Module):
    """Answers what is below .6 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.sqrt(0.6 - x))


def test_files_are_compared_on_what_was_brought(tmp_path):
    """On all that is held out, and on no noise, of which this network knows nothing."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (300, 4)).astype(np.float32)
    asked = {"input_shape": (4,), "formats": ["onnx-fp32", "onnx-int4"], "progress": False}
    found = kdsearch.compress(Narrow().eval(), tmp_path / "own", calibration=x, **asked)
    assert [row["agreement_n"] for row in found["exports"]] == [64, 64]
    with pytest.raises(RefusedError, match="not a number"):
        kdsearch.compress(Narrow().eval(), tmp_path / "noise", calibration="random", **asked)


def test_with_data_they_calibrate_and_data_judge(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", image=rng.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8), label=np.arange(90) % 3)
    x = rng.uniform(-0.25, 0.5, (40, 3, 8, 8)).astype(np.float32)
    data = str(tmp_path / "data.npz")
    asked = {"data": data, "normalize": "none", "max_drop": 1.0, "progress": False}
    found = kdsearch.compress(
        Net().eval(), tmp_path / "own", calibration=x, formats=["onnx-fp32", "onnx-int8"], **asked
    )
    path, row = found["exports"][1]["path"], found["exports"][1]
    assert input_range(path) == pytest.approx((-0.25, 0.5), abs=0.01)
    assert row["quality"]["n"] == row["agreement_n"] == 18
    assert "compared on" not in " ".join(found["notes"])
    with pytest.raises(StudyError, match=r"--calibration: nothing here heeds it\. Expected a format that is quantised"):
        kdsearch.compress(Net().eval(), tmp_path / "none", calibration=x, formats=["onnx-fp32"], **asked)


def test_a_folder_makes_files_of_pixels(photos, tmp_path, capsys, monkeypatch):
    """What is known of images goes into file and card, so that the file can prepare them itself."""
    code = tmp_path / "own.py"
    code.write_text(
        f"import sys\nsys.path.insert(0, {str(kdsearch.__path__[0] + '/..')!r})\nfrom tests.python.test_brought import Net\n"
    )
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    asked = ["--input-shape", "3,16,24", "--calibration", str(photos), "--normalize", "-1..1", "--input", "pixels"]
    asked += ["--format", "onnx-fp32", "--format", "onnx-int8", "--allow-code", "own.py:Net", "--out", str(out)]
    assert main(["compress", "own.py:Net", *asked]) == 0
    assert "note: files are compared on 5 images held out of calibration, of photos" in capsys.readouterr().out
    card = json.loads((out / "Net-int8.json").read_text())
    assert card["use"]["preprocessing"]["mean"] == card["use"]["preprocessing"]["std"] == [0.5] * 3
    assert card["use"]["preprocessing"]["resize"] == "scaled to cover 24x16, the middle 24x16 cut out"
    assert card["metrics"]["split"] == "images held out of calibration"
    session = open_session(out / "Net-fp32.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    assert session.run(None, {session.get_inputs()[0].name: pixels})[0].shape == (2, 3)
    for name in ("Net-fp32.onnx", "Net-int8.onnx"):
        assert main(["verify", str(out / name)]) == 0
    assert (
        main(["compress", str(out / "Net-fp32.onnx"), "--calibration", str(photos), "--out", str(tmp_path / "again")])
        == 0
    )


def test_a_file_of_open_sizes_is_told_one(photos, tmp_path, capsys):
    """As detectors are often exported: noise and images are of the size that is asked for, and all others go on working."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.Conv2d(4, 7, 1), nn.Flatten(2))
    file, size = tmp_path / "open.onnx", {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            body.eval(), (torch.zeros(1, 3, 48, 48),), file, dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": size, "y": {0: "n", 2: "places"}},
        )  # fmt: skip
    asked = ["compress", str(file), "--format", "onnx-int8", "--normalize", "none"]
    asked += ["--output", "boxes,places=last", "--out", str(tmp_path / "out")]
    assert main([*asked, "--calibration", str(photos)]) == 2
    assert "--input-shape: nobody knows which size of images the network is fed" in capsys.readouterr().err
    assert main([*asked, "--calibration", str(photos), "--input-shape", "3,96,96"]) == 0
    session = open_session(tmp_path / "out" / "open-int8.onnx")
    assert session.get_inputs()[0].shape[2:] == ["h", "w"]
    assert session.run(None, {"x": np.zeros((2, 3, 64, 128), np.float32)})[0].shape[2] == 6
    assert main(["verify", str(tmp_path / "out" / "open-int8.onnx")]) == 0
    capsys.readouterr()
    for shape in ("1,96,96", "3,96,64", "3,96"):
        assert main([*asked, "--calibration", str(photos), "--input-shape", shape]) == 2
        said = f"--input-shape: got {shape}. Expected 3,N,N as the file reads, one number for N"
        assert said in capsys.readouterr().err
    np.savez(tmp_path / "own.npz", np.zeros((8, 3, 48, 48), np.float32))
    own = ["--calibration", str(tmp_path / "own.npz"), "--input-shape", "3,96,96", "--out", str(tmp_path / "own")]
    assert main([*asked[:4], *own]) == 2
    assert "array 'x' is 8 x 3 x 48 x 48. Expected float32 N x 3 x 96 x 96" in capsys.readouterr().err


def test_a_size_is_of_the_only_input():
    assert sized(io_of(3, None, None), (3, 5, 5)).inputs[0].sizes == (3, 5, 5)
    with pytest.raises(StudyError, match="--input-shape: nothing here heeds it"):
        sized(TWO, (9,))


def test_normalize_is_of_images(tmp_path, capsys):
    asked = [
        "compress",
        "timm:resnet10t,num_classes=3",
        "--out",
        str(tmp_path),
        "--normalize",
        "imagenet",
        "--calibration",
    ]
    assert main([*asked, "random"]) == 2
    assert "--normalize: nothing here heeds it. Expected --data or --calibration FOLDER" in capsys.readouterr().err
    assert main([*asked, "photoss"]) == 2
    assert "--calibration: there is no 'photoss'. Expected" in capsys.readouterr().err, "a folder that is misspelt"
    assert not [*tmp_path.iterdir()]
    np.savez(tmp_path / "own.npz", x=np.zeros((4, 3, 224, 224), np.float32))
    assert main([*asked, str(tmp_path / "own.npz")]) == 2, "arrays are as the network reads them already"


def test_images_beside_data_are_prepared_as_these(photos, tmp_path):
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(100, 156, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", image=pixels, label=np.arange(60) % 3)
    data = {"data": str(tmp_path / "data.npz"), "max_drop": 1.0, "progress": False}
    net = Net().eval()
    found = kdsearch.compress(net, tmp_path / "out", calibration=photos, formats=["onnx-int8"], **data)
    low, high = input_range(found["exports"][1]["path"])
    assert low < -3, "pixels of 0..255, by the mean and the small spread of the data"
    assert high > 3


def test_a_file_that_answers_otherwise_is_told(tmp_path):
    """Three classes that four bits do not tell apart."""
    net = nn.Linear(512, 3, bias=False).eval()
    row = torch.linspace(-1, 1, 512)
    net.weight.data = row + 1e-3 * torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    x = np.random.default_rng(0).normal(size=(40, 512)).astype(np.float32)
    found = kdsearch.compress(
        net, tmp_path, input_shape=(512,), calibration=x, formats={"onnx-int4": {"rounding": "nearest"}}, progress=False
    )
    assert re.search(
        r"onnx-int4 gives \d+% of the network's answers to samples held out of calibration", " ".join(found["notes"])
    )
