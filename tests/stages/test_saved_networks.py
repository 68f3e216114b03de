"""A study's pruned network is there again without the study: the same answers as its file, and nothing of an earlier study."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import safetensors.torch
import torch

import kdsearch
from kdsearch.stages.saved_networks import PRUNED, STUDENT, publish_networks
from kdsearch.store.artifacts import Artifact
from kdsearch.training.built import FINAL
from tests.stages.conftest import Done


def test_it_answers_as_the_file_does(finished: Done) -> None:
    study = finished.folder / "study"
    assert finished.result["pruned"]["paths"] == [PRUNED]
    model = kdsearch.load_model(study / PRUNED)
    assert sum(each.numel() for each in model.module.parameters()) == finished.result["pruned"]["params"]
    assert finished.result["pruned"]["params"] < finished.result["student"]["params"]
    session = onnxruntime.InferenceSession(str(study / finished.result["exports"][0]["path"]))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    np.testing.assert_allclose(model.module(images).detach().numpy(), answers, rtol=1e-4, atol=1e-4)


def test_the_student_is_there_as_it_was_distilled(finished: Done) -> None:
    """With the weights that its training ended with."""
    study = finished.folder / "study"
    assert finished.result["student"]["paths"] == [STUDENT]
    model = kdsearch.load_model(study / STUDENT)
    own = model.module.state_dict()
    assert sum(each.numel() for each in model.module.parameters()) == finished.result["student"]["params"]
    (distilled,) = (study / "artifacts").glob("distill-*")
    winner = json.loads((distilled / "artifact.json").read_text())["facts"]["winner"]
    trained = safetensors.torch.load_file(distilled / winner / FINAL)
    assert trained.keys() == {f"student/{name}" for name in own}
    assert all(torch.equal(value, trained[f"student/{name}"]) for name, value in own.items())


def artifact(folder, *paths):
    for path in paths:
        (folder / path).mkdir(parents=True)
        for name in ("model.json", "weights.safetensors"):
            (folder / path / name).write_text(path)
    return Artifact("compress", "key", folder, {"saved": {path: {"path": path, "reason": ""} for path in paths}})


def test_what_an_earlier_study_left_goes_and_nothing_else(tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    publish_networks(artifact(tmp_path / "one", "pruned/a", "pruned/b"), study)
    (study / "pruned" / "b" / "mine.txt").write_text("kept")
    assert (study / "pruned/a/model.json").read_text() == "pruned/a"
    publish_networks(artifact(tmp_path / "two", "pruned"), study)
    left = sorted(str(each.relative_to(study)) for each in study.rglob("*") if each.is_file())
    assert left == ["pruned/b/mine.txt", "pruned/model.json", "pruned/weights.safetensors"]
    (study / "pruned" / "b" / "mine.txt").unlink()
    (study / "pruned" / "b").rmdir()
    both = artifact(tmp_path / "three", "student")
    publish_networks(Artifact("compress", "key", both.path, {"students": both.facts["saved"], "saved": {}}), study)
    assert not (study / "pruned").exists()
    assert (study / "student" / "model.json").read_text() == "student"
    publish_networks(Artifact("compress", "key", tmp_path, {}), study)
    assert not (study / "student").exists()
