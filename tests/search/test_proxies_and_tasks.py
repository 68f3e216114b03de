"""Every proxy on every task: it scores the task's networks, or is refused by name, with those that would do."""

from __future__ import annotations

from typing import Any

import pytest

from kdsearch.errors import PluginError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Field
from kdsearch.kinds.options import searchable
from kdsearch.search.needs import check_needs, needing_none
from kdsearch.search.scoring import Scorer
from kdsearch.study.schema import Use
from kdsearch.training.materials import make
from kdsearch.verbs.scorers import scorer_on

HOST = Host.load()
OF_CLASSES = {"diswot_ms", "epe_nas"}
LABEL = Field("label", "label", (), "int64", "target")
NUMBERS = Field("numbers", "vector", (6,))
CLASSES = {"classes": ["a", "b", "c"]}


def ids(name: str, mask: str, n: int) -> tuple[Field, Field]:
    """Token ids of open length, of a vocabulary of 20, and their mask."""
    tokens = Field(name, "tokens", (None,), "int64", n_values=20, open_size=n)
    return tokens, Field(mask, "mask", (None,), "int64", open_size=n)


def following(n: int) -> Field:
    return Field("next", "tokens", (None,), "int64", "target", 20, open_size=n)


TEXT = ids("tokens", "mask", 5)
PAIR = (
    *TEXT,
    *ids("document_tokens", "document_mask", 5),
    *(Field(n, "id", (), "int64", "extra") for n in ("query", "document")),
)
EGO = (
    Field("nodes", "nodes", (4, 6)),
    Field("adjacency", "adjacency", (4, 4), "int64", n_values=2),
    Field("mask", "mask", (4,), "int64"),
)
MAPS = (Field("image", "image", (3, 16, 16)), Field("mask", "map", (16, 16), "int64", "target", 3))
VALUES = Field("target", "value", (2,), "float32", "target", mean=(0.0, 1.0), std=(1.0, 2.0))
MLP: dict[str, Any] = {"depth": {"low": 1, "high": 2}, "widths": {"choices": [[8, 8], [16, 8]]}}

# task -> search space, what of it is not searched, fields, facts
TASKS: dict[str, tuple[str, dict[str, Any], tuple[Field, ...], dict[str, Any]]] = {
    "classification": ("cifar_resnet", {}, (Field("image", "image", (3, 8, 8)), LABEL), CLASSES),
    "node_classification": ("gnn", {}, (*EGO, LABEL), CLASSES),
    "segmentation": ("seg", {}, MAPS, CLASSES),
    "regression": ("mlp", MLP, (NUMBERS, VALUES), {}),
    "multilabel": ("mlp", MLP, (NUMBERS, Field("labels", "labels", (3,), "int64", "target")), {}),
    "embedding": ("text_encoder", {}, PAIR, {}),
    "causal_lm": ("decoder", {}, (*TEXT, following(5)), {}),
    "seq2seq": ("seq2seq", {}, (*TEXT, *ids("prefix", "prefix_mask", 4), following(4)), {}),
}


def opened(name: str) -> tuple[Any, Any, Any]:
    """The task, its space and what its networks read and answer."""
    space_name, fixed, fields, facts = TASKS[name]
    task = make(HOST, "task", Use(use=name, options={}), "task")
    io = task.io(fields, facts)
    cls = HOST.load_class("search_space", space_name)
    return task, cls(searchable(cls.options_class, fixed, "")).narrowed(io) if fixed else cls().narrowed(io), io


def scorer(name: str, *proxies: str) -> Scorer:
    task, space, io = opened(name)
    made = {each: make(HOST, "proxy", Use(use=each, options={}), each) for each in proxies}
    check_needs(made, io, HOST)
    return scorer_on(space, io, task, made, None, None, 0)


def test_every_task_is_here():
    assert set(TASKS) == set(HOST.names("task"))


@pytest.mark.parametrize("task", TASKS)
def test_a_proxy_scores_or_is_refused_by_name(task):
    has_classes = task in ("classification", "node_classification")
    proxies = [each for each in HOST.names("proxy") if has_classes or each not in OF_CLASSES]
    proxies = [each for each in proxies if each != "diswot_ms"]  # of equal widths alone
    assert scorer(task, *proxies).silent() == {}
    for proxy in () if has_classes else sorted(OF_CLASSES):
        with pytest.raises(PluginError, match=f"'{proxy}' compares classes, and the task answers") as caught:
            scorer(task, proxy)
        assert "relation" in caught.value.fix
        assert "one class a sample" in caught.value.expected


@pytest.mark.parametrize("task", TASKS)
def test_a_distiller_as_a_proxy_scores_or_is_refused_by_name(task):
    refused = {}
    for proxy in HOST.members("proxy"):
        try:
            assert scorer(task, proxy).silent() == {}, proxy
        except UserError as error:
            refused[proxy] = str(error)
    assert [proxy for proxy, said in refused.items() if proxy.removeprefix("kd.") not in said] == []
    assert len(refused) < len(HOST.members("proxy"))


def test_those_that_need_no_classes():
    assert set(needing_none(HOST)) == set(HOST.names("proxy")) - OF_CLASSES
