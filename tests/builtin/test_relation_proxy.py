"""`relation`: its matrices against sums written out, which stages are compared, and what it does not see."""

import math

import pytest
import torch
from torch import nn

from kdsearch.builtin.relation_proxy import COSINES, Relation, counterpart, relations, relations_of
from kdsearch.errors import TapError
from kdsearch.kinds import Model, NoOptions
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract


class TestRelation(ProxyContract):
    proxy = Relation


def probe_of(teacher, seed=0):
    return HandProbe(noise_batch(8, seed=seed), teacher)


def score(student, probe):
    return Relation(NoOptions()).score(student, probe)


def test_both_matrices_by_hand():
    """Samples (1, 0), (1, 1), (0, 2): Gram [[1, 1, 0], [1, 2, 2], [0, 2, 4]]."""
    r, c = relations(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    s = math.sqrt
    expected_r = torch.tensor([[1 / s(2), 1 / s(2), 0], [1 / 3, 2 / 3, 2 / 3], [0, 2 / s(20), 4 / s(20)]]).double()
    expected_c = torch.tensor([[1, 1 / s(2), 0], [1 / s(2), 1, 1 / s(2)], [0, 1 / s(2), 1]]).double()
    torch.testing.assert_close(r, expected_r, atol=1e-6, rtol=0)
    torch.testing.assert_close(c, expected_c, atol=1e-6, rtol=0)


def mirrored(batch):
    return batch.having(image=batch["image"].flip(-1))


@pytest.mark.parametrize("fed", [lambda batch: batch, mirrored])
def test_the_score_written_out_in_loops(fed):
    """A teacher with a view is fed that."""
    student, teacher = small_resnet((4, 6), 1, seed=1), small_resnet((4, 6), 2, seed=2)
    probe = HandProbe(noise_batch(8), teacher, teacher_fed=fed)
    expected = 0.0
    own = relations_of(student, probe.task, probe.batch)
    theirs = relations_of(teacher, probe.task, fed(probe.batch))
    for (r, c), (r_t, c_t) in zip(own, theirs, strict=True):
        n = len(r)
        for i in range(n):
            for j in range(n):
                expected += float((r[i, j] - r_t[i, j]) ** 2) / n + COSINES * float((c[i, j] - c_t[i, j]) ** 2) / n**2
    assert score(student, probe) == pytest.approx(-expected / 2, rel=1e-9)
    if fed is not mirrored:
        assert score(teacher.copy(), probe) == pytest.approx(0.0, abs=1e-12)


def test_neither_scale_nor_a_rotation_of_features_counts():
    x = torch.randn(6, 5, 3, 3)
    q, _ = torch.linalg.qr(torch.randn(45, 45))
    turned = (3.7 * x.flatten(1) @ q).reshape(6, 5, 9)
    for a, b in zip(relations(x), relations(turned), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_cosines_do_not_see_how_long_a_sample_is_and_rows_do():
    x = torch.randn(6, 5)
    longer = x.clone()
    longer[2] *= 10
    (r, c), (r_l, c_l) = relations(x), relations(longer)
    torch.testing.assert_close(c, c_l, atol=1e-6, rtol=0)
    assert float((r - r_l).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [(3, 3, [0, 1, 2]), (2, 4, [1, 3]), (4, 2, [0, 0, 1, 1]), (3, 5, [1, 3, 4]), (5, 1, [0] * 5)],
)
def test_stages_meet_at_the_same_share_of_the_depth(n, m, expected):
    assert [counterpart(k, n, m) for k in range(n)] == expected


def test_dead_and_broken_students_have_a_defined_score():
    teacher = small_resnet((4, 6), 1, seed=2)
    dead, broken = small_resnet((4, 6), 1, seed=1), small_resnet((4, 6), 1, seed=1)
    with torch.no_grad():
        for parameter in dead.module.parameters():
            parameter.zero_()
        next(broken.module.parameters()).fill_(math.nan)
    alive = score(small_resnet((4, 6), 1, seed=1), probe_of(teacher))
    assert math.isfinite(score(dead, probe_of(teacher)))
    assert score(dead, probe_of(teacher)) < alive
    assert score(broken, probe_of(teacher)) == -math.inf


def test_a_model_without_stages_is_told_what_it_has():
    bare = Model(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), ("image",), name="bare")
    with pytest.raises(TapError, match="'bare' has no stage"):
        score(bare, probe_of(small_resnet((4, 6), 1)))
