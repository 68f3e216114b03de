"""Data of which nobody knows a label: what a teacher is for."""

from __future__ import annotations

import numpy as np
from torch import nn

import kdsearch


def test_a_study_of_unlabelled_images_runs(tmp_path):
    rng = np.random.default_rng(0)
    images = (rng.random((120, 8, 8, 1)) * 255).astype("u1")
    np.savez(tmp_path / "some.npz", image=images, label=np.full(120, -100, dtype="i8"))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    study = kdsearch.Study(
        teacher=teacher,
        student="cifar_resnet",
        constraints={"params": 5000},
        data={"use": "npz", "options": {"path": str(tmp_path / "some.npz"), "classes": 4}},
        search={"candidates": 3, "proxy": "params"},
        refine={"trials": 1, "epochs": 1},
        distill={"controls": [], "epochs": 1},
        run={"executor": {"use": "inprocess"}},
    )
    result = kdsearch.run(study, tmp_path / "study")
    assert result["teacher"]["quality"] is None
    assert result["student"]["quality"]["n"] == 24, "judged by the teacher's answers"
    assert [each["format"] for each in result["exports"]] == ["onnx-fp32"]
