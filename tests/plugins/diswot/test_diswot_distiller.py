"""The distiller `diswot`."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from kdsearch_plugins.diswot.distiller import DiswotLoss, DiswotLossOptions

from kdsearch.errors import TapShapeError
from kdsearch.kinds import Model, Shapes, TapShapes
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.models import small_resnet
from kdsearch.testing.step import HandStep


class TestDiswotLoss(DistillerContract):
    distiller = DiswotLoss
    zero_at_equal = ("relation", "semantic")


class TestDiswotLossEqualWidths(DistillerContract):
    distiller = DiswotLoss
    options: ClassVar = {"project": False}
    zero_at_equal = ("relation", "semantic")

    def models(self) -> tuple[Model, Model]:
        return small_resnet((4, 8), 1, self.classes), small_resnet((6, 8), 2, self.classes)


def built(options: DiswotLossOptions, student: Model, teacher: Model) -> DiswotLoss:
    loss = DiswotLoss(options)
    loss.build(TapShapes(Shapes(student, {}), Shapes(teacher, {})))
    return loss


def test_semantic_is_the_mean_over_samples_and_channels() -> None:
    rng = np.random.default_rng(0)
    f_s, f_t = rng.normal(size=(3, 8, 2, 2)), rng.normal(size=(3, 8, 4, 4))  # places may differ
    total = 0.0
    for s, t in zip(f_s.reshape(3, 8, -1), f_t.reshape(3, 8, -1), strict=True):
        e_s, e_t = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (s @ s.T, t @ t.T))
        total += np.square(e_s - e_t).sum()
    loss = built(DiswotLossOptions(), small_resnet(), small_resnet(seed=1))
    found = loss.terms(HandStep({"stage[-1]": torch.tensor(f_s)}, {"stage[-1]": torch.tensor(f_t)}))["semantic"]
    assert float(found) == pytest.approx(total / (3 * 8), abs=1e-12)


def test_the_projection_exists_only_where_widths_differ() -> None:
    assert not list(built(DiswotLossOptions(), small_resnet(), small_resnet(seed=1)).parameters())
    loss = built(DiswotLossOptions(), small_resnet((4, 6)), small_resnet())
    assert [tuple(p.shape) for p in loss.parameters()] == [(8, 6, 1, 1)]


def test_without_projection_other_widths_are_refused() -> None:
    with pytest.raises(TapShapeError, match=r"'stage\[-1\]' of 'thin' has 6 channels.*'small_resnet' has 8"):
        built(DiswotLossOptions(project=False), small_resnet((4, 6), name="thin"), small_resnet())
