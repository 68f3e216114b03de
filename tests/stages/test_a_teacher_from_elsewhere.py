"""A teacher trained outside with ImageNet's normalisation, brought in four forms to four forms of data: its accuracy is there in
every combination."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import kdsearch
from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.stages.run import run_stages
from kdsearch.store import weights
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events, open_folder
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.tools import Progress, Tools

NAME = "test_efficientnet"  # 102 k parameters; timm's word for its weights is ImageNet's normalisation
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
N_TRAIN = 500
FORMS = ("safetensors", "timm", "onnx", "python")
DATA = ("folder", "npz", "pixels", "normalised", "bytes")


class Samples(Dataset):
    """What a user's own transform gives."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, mean=0.0, std=1.0) -> None:
        self.images, self.targets, self.mean, self.std = images, labels, mean, std

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int):
        return (self.images[i].float() / 255 - self.mean) / self.std, int(self.targets[i])


def coloured(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Faint digits on a blue-grey ground, (n, 3, 32, 32) uint8: their own mean and std are far from ImageNet's."""
    found = load_digits()
    ink = F.interpolate(torch.tensor(found.images[:n] / 16).float()[:, None], (32, 32), mode="nearest")
    ground, gain = torch.tensor([0.25, 0.35, 0.45]).view(3, 1, 1), torch.tensor([0.30, 0.22, 0.16]).view(3, 1, 1)
    return ((ground + gain * ink) * 255).round().byte(), torch.tensor(found.target[:n])


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The user's own: files of data and teacher, the network itself, and its accuracy on what the study holds out."""
    folder = tmp_path_factory.mktemp("outside")
    images, labels = coloured(N_TRAIN + 200)
    ready = (images.float() / 255 - MEAN) / STD
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(NAME, num_classes=10)
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
        for _ in range(9):
            for rows in torch.randperm(N_TRAIN).split(25):
                optimizer.zero_grad()
                F.cross_entropy(net(ready[rows]), labels[rows]).backward()
                optimizer.step()
    net.eval()
    weights.write(folder / "teacher.safetensors", net.state_dict())
    traced = {"use": "onnx", "options": {"engine": "torchscript"}}  # a tenth of dynamo's time
    kdsearch.export(net, ready[:4], folder / "teacher.onnx", exporter=traced)
    splits = {"train": slice(0, 200), "val": slice(N_TRAIN, N_TRAIN + 140), "test": slice(N_TRAIN + 140, None)}
    np.savez(
        folder / "own.npz",
        **{f"{name}_image": images[rows].permute(0, 2, 3, 1).numpy() for name, rows in splits.items()},
        **{f"{name}_label": labels[rows].numpy() for name, rows in splits.items()},
    )
    for name, rows in splits.items():
        for i, (image, label) in enumerate(zip(images[rows], labels[rows], strict=True)):
            place = folder / "own" / name / str(int(label))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:03}.png")
    with torch.no_grad():
        hits = net(ready[splits["val"]]).argmax(1) == labels[splits["val"]]
    live = {name: (images[rows], labels[rows]) for name, rows in splits.items()}
    return folder, net, live, float(hits.float().mean())


def study_of(outside, form: str, data: str, teacher=None, normalize=None, labeled=1.0, **changes):
    folder, net, live, _ = outside
    named = {
        "safetensors": {"use": "safetensors", "options": {"path": str(folder / "teacher.safetensors"), "timm": NAME}},
        "timm": {"use": "timm", "options": {"name": NAME, "weights": str(folder / "teacher.safetensors")}},
        "onnx": {"use": "onnx", "options": {"path": str(folder / "teacher.onnx")}},
        "python": {"use": net},
    }
    mean, std = (MEAN, STD) if data == "normalised" else (0.0, 1 / 255 if data == "bytes" else 1.0)
    given = {"data": {"labeled": labeled, **({"normalize": normalize} if normalize else {})}}
    if data in ("folder", "npz"):
        name, path = ("image_folder", "own") if data == "folder" else ("npz", "own.npz")
        given = {"data": {"use": name, "options": {"path": str(folder / path)}, **given["data"]}}
    else:
        given |= {name: Samples(*each, mean, std) for name, each in live.items()}
    return kdsearch.Study(
        teacher={**named[form], **(teacher or {})},
        student={"space": "cifar_resnet", "spec": {"depths": [1, 1, 1], "widths": [4, 4, 4]}},
        recipe=["kd"],
        **{"search": {"proxy": "params", "candidates": 1, "keep": 1}, **given, **changes},
    )


def prepared(study, folder: Path):
    """The opened study and the artifact of its first stage."""
    materials = open_materials(study, Host.load())
    open_folder(folder)
    tools = Tools(Store(folder), Events(folder / "events.jsonl", lambda event: None), folder, Progress(False))
    return materials, run_stages(materials, tools, "prepare")["prepare"]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("form", FORMS)
def test_its_accuracy_is_there(outside, tmp_path, form, data):
    materials, made = prepared(study_of(outside, form, data), tmp_path)
    assert outside[3] > 0.85
    facts = made.facts["teachers"]["main"]
    assert facts["score"] == pytest.approx(outside[3], abs=1e-6)
    assert facts["warnings"] == []
    live = open_teachers(materials, made)["main"]  # as trials get it: from the cache, and afresh
    batch = materials.data.split("val").load(range(20))
    stored = live.outputs(batch, ["logits"], materials.torch_device)["logits"]
    fresh = live.outputs(batch, ["logits"], materials.torch_device, cached=False)["logits"]
    torch.testing.assert_close(stored, fresh, atol=1e-4, rtol=1e-4)
    pixels = torch.cat([outside[2]["val"][0][int(i[4:10])][None] for i in batch.ids]) if data != "folder" else None
    if pixels is not None:
        with torch.no_grad():
            wanted = outside[1]((pixels.float() / 255 - MEAN) / STD)
        torch.testing.assert_close(fresh, wanted, atol=2e-3, rtol=2e-3)


def test_what_validation_chose_is_said(outside, tmp_path):
    _, made = prepared(study_of(outside, "onnx", "npz"), tmp_path)
    found = made.facts["teachers"]["main"]["normalize"]
    assert (found["name"], found["by"]) == ("imagenet", "validation")
    assert found["tried"]["data"] < 0.7 < found["tried"]["imagenet"]
    _, made = prepared(study_of(outside, "timm", "npz"), tmp_path / "timm")
    found = made.facts["teachers"]["main"]["normalize"]
    assert (found["name"], found["by"]) == ("imagenet", "weights")


@pytest.mark.parametrize(("labeled", "by"), [(200, "validation"), (20, "data")])
def test_labels_that_the_study_hides_choose_nothing(outside, tmp_path, labeled, by):
    """Of 340 labels 200 show some 80 of 140 validation samples, which tell; 20 show eight, which do not."""
    materials, made = prepared(study_of(outside, "onnx", "npz", labeled=labeled), tmp_path)
    split = materials.data.split("val")
    seen = (split.labels >= 0).nonzero()[:, 0].tolist()
    assert 0 < len(seen) < 140
    batch, (pixels, labels) = materials.data.revealed().split("val").load(seen), outside[2]["val"]
    found = made.facts["teachers"]["main"]["normalize"]
    rows = [int(each.rpartition("-")[2]) for each in batch.ids]
    with torch.no_grad():
        hits = outside[1]((pixels[rows].float() / 255 - MEAN) / STD).argmax(1) == labels[rows]
    assert found["tried"]["imagenet"] == pytest.approx(float(hits.float().mean()))
    assert found["by"] == by
    assert made.facts["teachers"]["main"]["validation"]["accuracy"]["n"] == 140, (
        "what it is worth is told by every label"
    )


def test_as_the_data_are_it_is_a_poor_teacher_and_what_is_expected_refuses_it(outside, tmp_path):
    as_data = {"normalize": "data"}
    _, made = prepared(study_of(outside, "timm", "npz", as_data), tmp_path)
    assert made.facts["teachers"]["main"]["score"] < 0.7
    with pytest.raises(StudyError, match=r"teacher 'main' has accuracy 0\.\d+ on 140") as caught:
        prepared(study_of(outside, "timm", "npz", {**as_data, "expected": {"accuracy": 0.85}}), tmp_path / "b")
    assert caught.value.path == "teacher.expected.accuracy"
    assert "`normalize`" in caught.value.fix
    prepared(study_of(outside, "timm", "npz", {"expected": {"accuracy": 0.85}}), tmp_path / "c")


@pytest.mark.parametrize("asked", ["imagenet", {"mean": MEAN.flatten().tolist(), "std": STD.flatten().tolist()}])
def test_the_study_says_it(outside, tmp_path, asked):
    _, made = prepared(study_of(outside, "python", "folder", {"normalize": asked}), tmp_path)
    assert made.facts["teachers"]["main"]["score"] == pytest.approx(outside[3], abs=1e-6)
    assert made.facts["teachers"]["main"]["normalize"] is None  # nothing was tried


def test_samples_of_an_unknown_transform_need_it_said(outside, tmp_path):
    with pytest.raises(StudyError, match="do not say how their images are normalised") as caught:
        prepared(study_of(outside, "python", "normalised", {"normalize": "none"}), tmp_path)
    assert caught.value.path == "teacher.normalize"
    assert "data.normalize" in caught.value.fix
    _, made = prepared(
        study_of(outside, "python", "normalised", {"normalize": "imagenet"}, normalize="imagenet"), tmp_path / "b"
    )
    assert made.facts["teachers"]["main"]["score"] == pytest.approx(outside[3], abs=1e-6)


def test_a_teacher_of_nothing_is_shouted(outside, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lost = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    folder, _, live, right = outside
    _, made = prepared(study_of((folder, lost, live, right), "python", "pixels"), tmp_path)
    [said] = made.facts["teachers"]["main"]["warnings"]
    assert "hardly better than chance" in said
    assert "140 validation samples" in said


def test_a_teacher_that_answers_probabilities_is_warned_of(outside, tmp_path):
    folder, net, live, right = outside
    said = {}
    for name, each in {"plain": net, "soft": nn.Sequential(net, nn.Softmax(1))}.items():
        (tmp_path / name).mkdir()
        _, made = prepared(study_of((folder, each, live, right), "python", "pixels"), tmp_path / name)
        said[name] = made.facts["teachers"]["main"]["warnings"]
    assert said["plain"] == []
    (warning,) = said["soft"]
    assert "Teacher 'main' answers probabilities" in warning
