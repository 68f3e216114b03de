"""Controls are the student without its teacher, and in all else what the student is."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock

import torch

from kdsearch.engine.cache import Live
from kdsearch.host import Host
from kdsearch.kinds import Model, NoOptions, Phase, Procedure, Setup
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.request import Request
from kdsearch.training.train import staged
from tests.stages.tiny import write_study


def test_they_average_and_keep_weights_as_the_student_does(tmp_path):
    """A student of its best epoch beside a control of its last one would be a comparison of the two."""
    options = {"keep": "best", "ema": 0.9}
    study = load_study(
        write_study(tmp_path), Host.load(), sets=("recipe.procedure={use: distill, options: {keep: best, ema: 0.9}}",)
    )
    materials = open_materials(study, Host.load())
    spec = materials.spaces["student"].sample(torch.Generator().manual_seed(0)).model_dump()
    for kind, split in (("baseline", "labeled"), ("all_labels", "train")):
        request = Request(kind, kind, {"student": spec}, materials.recipe.default(), 1)
        procedure, setup = staged(materials, request, {}, tmp_path, 0)
        assert procedure.options.model_dump() == {**options, "split": split}
        assert setup.distillers == {}


class Borrowing(Procedure[NoOptions]):
    """Adapts its student by what a teacher is, where there is one; its phases make another network of it."""

    def adapt(self, role: str, model: Model, setup: Setup) -> Model:
        model.name = ", ".join(setup.teachers) or "nobody"
        return model

    def grown(self, role: str, model: Model, setup: Setup) -> Model:
        model.name = f"{model.name}, grown"
        return model

    def phases(self, setup: Setup) -> Iterator[Phase]:
        raise AssertionError


def test_they_are_the_network_that_ships_and_what_makes_it_finds_no_teacher(tmp_path):
    """Else the student without a teacher would be a smaller one, or begin with the teacher's classifier."""
    host = Host.load().with_classes({("procedure", "borrowing"): Borrowing})
    study = load_study(write_study(tmp_path), host, sets=("recipe.procedure={use: borrowing}", "recipe.distillers=[]"))
    materials = open_materials(study, host)
    spec = materials.spaces["student"].sample(torch.Generator().manual_seed(0)).model_dump()
    found = {}
    for kind in ("recipe", "baseline", "all_labels"):
        request = Request(kind, kind, {"student": spec}, materials.recipe.default(), 1)
        _, setup = staged(materials, request, {"large": Mock(spec=Live)}, tmp_path, 0)
        found[kind] = setup.models["student"].name
    assert found == {"recipe": "large, teacher", "baseline": "nobody, grown", "all_labels": "nobody, grown"}
