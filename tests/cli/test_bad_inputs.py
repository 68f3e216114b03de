"""Files that a study names and that are broken: `run` ends with exit 2 and one message, and makes nothing of the study."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from kdsearch.cli import main

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
LABELS = np.arange(60) % 3
MEMBER = "space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}"
TRAINED = f"use: trained, options: {{{MEMBER}, epochs: 1}}"
STUDY = """
data: {DATA}
teacher: {TEACHER}
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}}
recipe: {distillers: [{use: kd}]}
search: {candidates: 1, keep: 1}
refine: {trials: 1, epochs: 1}
distill: {epochs: 1, controls: []}
compress: {quantize: []}
export: {formats: [onnx-fp32]}
"""


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def refused(capsys, data: str, teacher: str = TRAINED, *more: str) -> str:
    """Run the study, which must be refused; its one message."""
    Path("study.yaml").write_text(STUDY.replace("DATA", data).replace("TEACHER", teacher))
    was_there = Path("study").exists()
    code = main(["run", "study.yaml", "--json", *more])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (code, told["exit_code"]) == (2, 2), (code, out, err)
    assert told["error"]["problem"] in err
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert Path("study").exists() == was_there
    return err


def arrays(**changes: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"image": IMAGES, "label": LABELS, **changes})
    return file.getvalue()


def spoilt(value: float) -> np.ndarray:
    images = IMAGES.astype(np.float32)
    images[7, 2, 3] = value
    return images


NPZ = {
    "cut": (arrays()[:-100], "d.npz: not readable"),
    "text": (b"image,label", "d.npz: not readable"),
    "nothing": (b"", "d.npz: not readable"),
    "objects": (arrays(image=np.array([None] * 60)), "d.npz: array 'image': not readable"),
    "nan": (arrays(image=spoilt(np.nan)), "d.npz: array 'image' holds nan in image 7 (row 2, column 3)"),
    "infinity": (arrays(image=spoilt(np.inf)), "d.npz: array 'image' holds inf in image 7"),
    "wrong shape": (arrays(image=IMAGES.reshape(60, 64)), "d.npz: array 'image' has shape 60x64. Expected (N, H, W)"),
    "too few labels": (arrays(label=LABELS[:50]), "d.npz: array 'label' has 50 rows, 'image' has 60"),
    "label below": (arrays(label=LABELS - 2), "d.npz: array 'label' holds -2 at 0. Expected 0 or more"),
    "label far beyond": (arrays(label=LABELS + 10**7), "d.npz: the greatest label is 10,000,002"),
    "labels of no class": (arrays(label=LABELS * 0 - 100), "d.npz: every label is -100"),
    "one class": (
        arrays(label=LABELS * 0),
        "study.yaml:2: data: classification: the data set's classes are ['0']. Expected two or more",
    ),
    "empty": (arrays(image=IMAGES[:0], label=LABELS[:0]), "d.npz: split 'train' has no samples"),
    "empty split": (arrays(val_image=IMAGES[:0], val_label=LABELS[:0]), "d.npz: split 'val' has no samples"),
    "other size": (
        arrays(test_image=np.zeros((9, 9, 9), np.uint8), test_label=LABELS[:9]),
        "d.npz: split 'test' has images of 1x9x9, 'train' of 1x8x8",
    ),
}


@pytest.mark.parametrize("name", NPZ)
def test_arrays(name, capsys):
    content, expected = NPZ[name]
    Path("d.npz").write_bytes(content)
    assert refused(capsys, "use: npz, options: {path: d.npz}").startswith(expected)
    assert not Path("study").exists()


SETTINGS = {
    "data.options.path=e.npz": "data.options.path: 'e.npz' does not exist; did you mean 'd.npz'?",
    "data.options.path=.": "is a folder. Expected an .npz file",
    "data.options.label=labl": "d.npz: no array 'labl'; the file has image, label.",
    "data.options.classes=2": "label 2 of sample 2 in split 'train' (20 like it). Expected 0..1 for 2 classes",
    "data.options.layout=chw": "d.npz: array 'image' has shape 60x8x8. Expected (N, C, H, W)",
    "data.labeled=61": "data.labeled: labeled 61, but only 48 samples",
    "data.labeled=2": "data.labeled: labeled 2 means 2 labels for 3 classes",
    "data.train_samples=2": "data.train_samples: train_samples 2 is less than one for each of 3 classes",
    "data.test=0.001": "data.test: split 'test' is empty",
    "data.validation=0.001": "data.validation: split 'val' is empty",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_the_data_do_not_allow(setting, capsys):
    Path("d.npz").write_bytes(arrays())
    assert SETTINGS[setting] in refused(capsys, "use: npz, options: {path: d.npz}", TRAINED, "--set", setting)
    assert not Path("study").exists()


def image_folder(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(IMAGES[i]).save(root / name / f"{i}.png")


FOLDERS = {
    "cut": (
        lambda f: (f / "cat/3.png").write_bytes((f / "cat/2.png").read_bytes()[:60]),
        "photos/cat/3.png: not a read",
    ),
    "no image": (lambda f: (f / "cat/3.png").write_bytes(b"x"), "photos/cat/3.png: not a readable image"),
    "no byte": (lambda f: (f / "cat/3.png").write_bytes(b""), "photos/cat/3.png: not a readable image"),
    "dangling": (lambda f: (f / "cat/x.png").symlink_to("gone"), "photos/cat/x.png: no such file. Expected an image"),
    "16 bits": (lambda f: Image.new("I;16", (8, 8)).save(f / "cat/x.png"), "photos/cat/x.png: pixel mode 'I;16'"),
    "other size": (
        lambda f: Image.new("L", (9, 8)).save(f / "dog/x.png"),
        "photos/dog/x.png: is 9x8 pixels, 0.png is 8x8",
    ),
    "empty class": (lambda f: (f / "fox").mkdir(), "photos/fox: no images"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_image_folders(name, capsys):
    spoil, expected = FOLDERS[name]
    image_folder(Path("photos"))
    spoil(Path("photos"))
    assert refused(capsys, "use: image_folder, options: {path: photos}").startswith(expected)
    assert not Path("study").exists()


WEIGHTS = {
    "cut": (save({"x": torch.zeros(3)})[:-4], "w.safetensors: 72 of 76 bytes. Expected a complete safetensors file"),
    "nothing": (b"", "w.safetensors: not a safetensors file: 0 bytes"),
    "junk": (
        b"\xff" * 100,
        "w.safetensors: not a safetensors file: its header claims 18,446,744,073,709,551,615 of 100",
    ),
    "foreign": (
        save({"x": torch.zeros(3)}),
        "w.safetensors: the weights are of another network: missing: stem.0.weight",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_a_teacher(name, capsys):
    content, expected = WEIGHTS[name]
    Path("d.npz").write_bytes(arrays())
    Path("w.safetensors").write_bytes(content)
    teacher = f"use: safetensors, options: {{path: w.safetensors, {MEMBER}}}"
    assert refused(capsys, "use: npz, options: {path: d.npz}", teacher).startswith(expected)


def test_a_folder_with_other_files_is_left_as_it_is(capsys):
    Path("d.npz").write_bytes(arrays())
    Path("study").mkdir()
    Path("study/notes.txt").write_text("mine")
    message = refused(capsys, "use: npz, options: {path: d.npz}")
    assert message.startswith("study: the folder has other files in it")
    assert [each.name for each in Path("study").iterdir()] == ["notes.txt"]
