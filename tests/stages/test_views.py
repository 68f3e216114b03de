"""Teachers with a view and with outputs of their own, through whole studies: what they are fed, cached, measured and asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.engine.cache import TeacherCache
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.kinds import Access, Distiller, Model, NoOptions, Teacher
from kdsearch.stages.run import run_stages
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events, open_folder
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Request
from kdsearch.training.tools import Progress, Tools
from kdsearch.training.train import train
from kdsearch.verbs.run import run_study
from tests.python.tiny_live import Digits, made, tiny

FED: list[tuple[str, torch.Tensor]] = []  # crops that a teacher's network was run on


class Corner(nn.Module):
    """Reads a crop of 4x4."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, n)

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        FED.append(("crop", crop.detach().clone()))
        return self.linear(crop.flatten(1))


class Cropping(Teacher[NoOptions]):
    """Fed the upper left corner."""

    access = Access.LOGITS

    def model(self, io: Any, services: Any) -> Model:
        return Model(Corner(10), ("crop",), name="corner")

    def view(self, batch: Any, rng: Any) -> Any:
        return batch.having(crop=batch["image"][:, :, :4, :4])


class Drawing(Cropping):
    """Fed a corner that is drawn for each batch."""

    def view(self, batch: Any, rng: Any) -> Any:
        y, x = (int(torch.randint(5, (), generator=rng)) for _ in range(2))
        return batch.having(crop=batch["image"][:, :, y : y + 4, x : x + 4])


class Losing(Cropping):
    def view(self, batch: Any, rng: Any) -> Any:
        return batch.rows(torch.arange(len(batch) - 1))


class Prototypes(nn.Module):
    """How alike images are to twelve that are kept: no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.randn(12, 64))

    def forward(self, image: Any) -> Any:
        return image.flatten(1) @ self.get_buffer("kept").T


class Bank(Teacher[NoOptions]):
    """Features, no logits."""

    access = Access.LOGITS

    def model(self, io: Any, services: Any) -> Model:
        return Model(Prototypes(), ("image",), outputs=("features",), name="bank")


class Features(Distiller[NoOptions]):
    """Term `near`: squared distance of the student's projected logits to the teacher's features."""

    def build(self, shapes: Any) -> None:
        self.project = nn.Linear(10, shapes.teacher.vector("features"))

    def terms(self, step: Any) -> Any:
        return {"near": (self.project(step.student["logits"]) - step.teacher["features"]).square().mean()}


def prepared(folder: Any, **changes: Any) -> Any:
    """Materials, the facts of `prepare`, its artifact."""
    materials = open_materials(tiny(**changes), Host.load())
    open_folder(folder)
    tools = Tools(Store(folder), Events(folder / "events.jsonl", lambda event: None), folder, Progress(False))
    artifact = run_stages(materials, tools, "prepare")["prepare"]
    return materials, artifact


def test_a_view_is_what_steps_cache_and_scores_are_of(tmp_path):
    materials, artifact = prepared(tmp_path, teacher=Cropping)
    facts = artifact.facts["teachers"]["main"]
    (live,) = open_teachers(materials, artifact).values()
    split = materials.data.split("train")
    batch = split.load(range(20))
    expected = live.model.module(batch["image"][:, :, :4, :4]).detach()
    rows = TeacherCache(artifact.path / facts["cache"]).get(batch, ["logits"])["logits"]
    assert torch.allclose(rows, expected, atol=1e-6)
    out = live.outputs(batch, ["logits"], torch.device("cpu"), cached=False)["logits"]
    assert torch.allclose(out, expected, atol=1e-6)
    assert facts["params"] == 16 * 10 + 10
    assert facts["macs"] == 160
    test = materials.data.revealed().split("val")
    whole = test.load(range(len(test.ids)))
    right = live.model.module(whole["image"][:, :, :4, :4]).argmax(1) == whole["label"]
    assert facts["score"] == pytest.approx(right.float().mean().item())


def test_a_view_that_draws_is_stored_for_nobody_and_repeats(tmp_path):
    materials, artifact = prepared(tmp_path / "one", teacher=Drawing)
    facts = artifact.facts["teachers"]["main"]
    assert facts["cache"] == ""
    assert facts["cached"]["draws"] is True
    histories, crops = [], []
    for name in ("a", "b"):
        FED.clear()
        request = Request(
            "t", "recipe", {"student": {"depths": [1, 1, 1], "widths": [4, 4, 4]}}, materials.recipe.default(), 2
        )
        outcome, _, _ = train(materials, request, tmp_path / name, open_teachers(materials, artifact))
        histories.append(outcome.history)
        crops.append([crop for _, crop in FED])
    assert histories[0] == histories[1]
    assert len(crops[0]) == len(crops[1])
    assert all(torch.equal(a, b) for a, b in zip(*crops, strict=True))
    whole = materials.data.split("train").load(range(200))["image"]
    places = {find(crop[0, 0], whole) for crop in crops[0] if crop.shape[0] > 1}
    assert len(places) > 2, "another corner for another batch"


def find(crop: torch.Tensor, images: torch.Tensor) -> tuple[int, int]:
    """Where the crop lies in one of the images (the first place that fits)."""
    for y in range(5):
        for x in range(5):
            if bool((images[:, 0, y : y + 4, x : x + 4] == crop).all(-1).all(-1).any()):
                return y, x
    return -1, -1


def test_what_cannot_be_of_a_view_is_refused(tmp_path):
    from kdsearch.errors import PluginError, StudyError

    with pytest.raises(StudyError, match=r"cache 'on', but what the teacher is fed is drawn anew"):
        prepared(tmp_path / "one", teacher={"use": Drawing, "cache": "on"})
    with pytest.raises(PluginError, match=r"view of teacher 'corner' has other samples"):
        prepared(tmp_path / "two", teacher=Losing)


def test_stored_answers_teach_and_what_they_lack_is_said(tmp_path):
    """A table of the training samples: no network is needed, and the test split, which it does not know, ends nothing."""
    ids = [f"train-{i:06d}" for i in range(300)]
    logits = 4 * torch.nn.functional.one_hot(torch.tensor(Digits().targets), 10).float()
    np.savez(tmp_path / "answers.npz", ids=np.array(ids), logits=logits.numpy())
    table = {"use": "table", "options": {"path": str(tmp_path / "answers.npz")}}
    study = tiny(teacher=table, compress={"quantize": []})
    result = run_study(study, Host.load(), tmp_path / "study", progress=False)
    facts = made(open_materials(study, Host.load()), tmp_path / "study", "prepare")["prepare"]["teachers"]["main"]
    assert (facts["score"], facts["params"], facts["macs"]) == (1.0, 0, 0)
    assert result["teacher"]["quality"] is None
    assert result["exports"][0]["parity_max_abs"] < 1e-4
    np.savez(tmp_path / "answers.npz", ids=np.array(ids[:-2]), logits=logits[:-2].numpy())
    with pytest.raises(DataError, match=r"has no answers to [12] samples of split '(train|val)': 'train-00029"):
        run_study(study, Host.load(), tmp_path / "other", progress=False)


def test_a_bank_of_features_is_learned_from_and_not_measured_on_the_task(tmp_path):
    """It had 25.7 % where argmax of its features was taken for a class."""
    study = tiny(teacher=Bank, recipe=[Features], compress={"quantize": []})
    result = run_study(study, Host.load(), tmp_path / "study", progress=False)
    assert result["teacher"]["quality"] is None
    assert "accuracy" not in result["teacher"]
    assert result["teacher"]["quality"] is None
    assert "Teacher 'main' answers features (12), not logits (10): it is not measured on the task." in result["notes"]
    assert result["warnings"] == []
    assert result["exports"][0]["parity_max_abs"] < 1e-4
    assert result["teacher"]["params"] == 64 * 12
    assert (
        made(open_materials(study, Host.load()), tmp_path / "study", "prepare")["prepare"]["teachers"]["main"]["score"]
        is None
    )
