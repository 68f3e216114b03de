"""Figures of regression and of several labels: their numbers against plain NumPy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdsearch.builtin.tables.label_figures import label_figures
from kdsearch.builtin.tables.source import Rows
from kdsearch.builtin.tables.value_figures import DRAWN, value_figures
from kdsearch.builtin.text.retrieval import CutOptions, Ndcg, RetrievalRecall
from kdsearch.kinds import HIDDEN

rng = np.random.default_rng(0)


def source(rows: Rows, **facts: object) -> SimpleNamespace:
    return SimpleNamespace(facts=facts, split=lambda name: rows)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_answers_and_errors(n: int) -> None:
    truth, said = rng.normal(size=(n, 2)) * [1, 100], rng.normal(size=(n, 2)) * [1, 100]
    rows = Rows(tuple(map(str, range(n))), {"target": torch.from_numpy(truth), "said": torch.from_numpy(said)})
    (figure,) = value_figures(lambda batch: {"value": batch["said"]}, source(rows, targets=["a", "b"]), "test")
    (table,) = figure.tables
    for k, (name, panel) in enumerate(zip("ab", figure.panels, strict=True)):
        error = said[:, k] - truth[:, k]
        expected = [truth[:, k].min(), truth[:, k].max(), error.mean(), *np.quantile(abs(error), [0.5, 0.9])]
        assert list(table.rows[k]) == [name, *(f"{each:.4g}" for each in [*expected, abs(error).max()])]
        drawn = panel["data"]["values"]
        assert len(drawn) == min(n, DRAWN)
        assert {(each["truth"], each["answer"]) for each in drawn} <= set(zip(truth[:, k], said[:, k], strict=True))
        assert {truth[:, k].min(), truth[:, k].max()} <= {each["truth"] for each in drawn}
    assert figure.as_json()["panels"]


def test_errors_of_a_target_are_of_the_samples_that_know_it() -> None:
    truth, said = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    truth[:4, 0] = truth[4:, 1] = truth[:, 2] = np.nan
    rows = Rows(tuple("abcdef"), {"target": torch.from_numpy(truth), "said": torch.from_numpy(said)})
    (figure,) = value_figures(lambda batch: {"value": batch["said"]}, source(rows, targets=["a", "b", "c"]), "test")
    assert [len(panel["data"]["values"]) for panel in figure.panels] == [2, 4]
    table = {row[0]: row[1:] for row in figure.tables[0].rows}
    assert list(table) == ["a", "b"]
    assert table["a"][2] == f"{(said[4:, 0] - truth[4:, 0]).mean():.4g}"
    assert table["b"][2] == f"{(said[:4, 1] - truth[:4, 1]).mean():.4g}"


def test_labels_one_by_one() -> None:
    truth, scores = rng.integers(0, 2, (200, 3)), rng.normal(size=(200, 3))
    truth[:50, 0] = HIDDEN
    truth[:, 2], scores[:, 2] = 0, -1  # nobody has it, and nobody is told to
    rows = Rows(tuple(map(str, range(200))), {"labels": torch.from_numpy(truth), "said": torch.from_numpy(scores)})
    predict = lambda batch: {"scores": batch["said"]}  # noqa: E731
    (figure,) = label_figures(predict, source(rows, labels=["a", "b", "c"]), "test")
    found = {row[0]: row[1:] for row in figure.tables[0].rows}
    for k, name in enumerate("ab"):
        known = truth[:, k] != HIDDEN
        said, there = scores[known, k] > 0, truth[known, k] == 1
        hits = (said & there).sum()
        precision, recall = hits / said.sum(), hits / there.sum()
        f1 = 2 * precision * recall / (precision + recall)
        assert list(found[name]) == [*(f"{100 * x:.1f} %" for x in (f1, precision, recall)), there.sum(), known.sum()]
    assert list(found["c"]) == [None, None, None, 0, 200]
    assert [each["name"] for each in figure.panels[0]["data"]["values"]] == sorted(
        "ab", key=lambda n: float(found[n][0][:-2])
    )
    assert label_figures(predict, source(rows), "test") == ()


def test_what_is_cut_is_said() -> None:
    assert (Ndcg(CutOptions(k=5)).title, RetrievalRecall(CutOptions()).title) == ("nDCG@5", "recall@10")
