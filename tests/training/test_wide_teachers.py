"""Teachers whose vectors are wider than the student's: distillers see the width that they have, and need no look inside."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch import nn

from kdsearch.errors import DataError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Field
from kdsearch.kit.networks import modelled
from kdsearch.study import load_study
from kdsearch.training.dry import check_recipe
from kdsearch.training.materials import open_materials

IDS = [f"row{i}" for i in range(40)]
STUDY = """\
data: {use: texts, options: {path: pairs.jsonl, id: id, text: query, document: found, min_count: 1, max_length: 8}}
task: {use: embedding, options: {width: 4}}
teacher: {use: table, options: {path: wide.npz}}
student: {space: text_encoder, spec: {kind: bag, layers: 0, embedding: {choices: [4, 6]}, max_length: 8}}
recipe: {distillers: [DISTILLER]}
objectives: {ndcg: max}
"""


def opened(folder, distiller):
    words = [{"id": name, "query": f"a{i % 7} b{i}", "found": f"c{i % 5} d{i}"} for i, name in enumerate(IDS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in words))
    np.savez(folder / "wide.npz", ids=np.array(IDS), embedding=np.random.default_rng(0).normal(size=(40, 2, 9)))
    (folder / "study.yaml").write_text(STUDY.replace("DISTILLER", distiller))
    host = Host.load()
    return open_materials(load_study(folder / "study.yaml", host), host)


@pytest.mark.parametrize("distiller", ["{use: match, options: {distance: cosine}}", "{use: relevance}"])
def test_stored_vectors_of_another_width_teach(distiller, tmp_path):
    check_recipe(opened(tmp_path, distiller))


def test_what_lies_within_is_still_asked_for(tmp_path):
    with pytest.raises(StudyError, match=r"'sp' needs TAPS of the teacher; 'table' \(teacher\) gives LOGITS"):
        opened(tmp_path, "{use: sp}")


def test_a_foreign_network_s_vectors_may_be_of_any_width_if_it_teaches():
    io = IO((Field("x", "vector", (3,)),), (Field("embedding", "vector", (4,)),))
    assert modelled(nn.Linear(3, 9), io, "wide").outputs == ("embedding",)
    with pytest.raises(DataError, match=r"student wide answers 9 a sample\. Expected 4 as embedding"):
        modelled(nn.Linear(3, 9), io, "wide", role="student ")
    with pytest.raises(DataError, match="Expected 4: one logits for each class"):
        modelled(nn.Linear(3, 9), IO(io.inputs, (Field("logits", "logits", (4,)),)), "wide")
    with pytest.raises(DataError, match=r"Expected \? as embedding"):
        modelled(nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2))), io, "square")
