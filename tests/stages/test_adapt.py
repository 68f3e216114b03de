"""A procedure that adapts its student: search, constraints, trials, report and file count the network that is trained."""

from __future__ import annotations

import json
import math
from typing import Any

import onnx
import pytest
from torch import nn

from kdsearch.host import Host
from kdsearch.kinds import IO, Field, NoOptions, Phase, Procedure, Update
from kdsearch.stages.run import STAGES
from kdsearch.store.files import read_json, read_lines
from kdsearch.store.weights import read
from kdsearch.study import load_study
from kdsearch.training.built import FINAL
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials
from tests.stages.tiny import LESS, run_tiny, write_study

HEAD = 10 * 50 + 50 + 50 * 10 + 10  # weights and biases of Wide's two layers
HERE = "run.executor={use: inprocess}"


class Wide(nn.Module):
    """A net under a head of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.head = net, nn.Sequential(nn.Linear(10, 50), nn.Linear(50, 10))

    def forward(self, x: Any) -> Any:
        return self.head(self.net(x))


class Adapting(Procedure[NoOptions]):
    """Puts a head on the student."""

    def adapt(self, role: str, model: Any, setup: Any) -> Any:
        assert setup.io.output("logits").shape == (10,)
        model.module, model.taps = Wide(model.module), ()
        return model

    def phases(self, setup: Any) -> Any:
        def step(s: Any) -> Any:
            yield Update({"task": s.task()})

        train = {"train": setup.feed("train")}
        optim = setup.optim({"s": setup.models["student"].module})
        yield Phase("one", step, train, [optim], setup.epochs, score="student")


def host(cls: type[Procedure[Any]] = Adapting) -> Host:
    return Host.load().with_classes({("procedure", "mine"): cls})


SETS = (*LESS, "recipe.procedure={use: mine}", "recipe.distillers=[]", HERE)


def plain_params(spec: Any) -> int:
    space = Host.load().load_class("search_space", "cifar_resnet")()
    io = IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (10,)),))
    return sum(each.numel() for each in space.build(space.parse(spec), io).module.parameters())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and result; half of the candidates keep the limit only without the head."""
    folder = tmp_path_factory.mktemp("adapt")
    sets = (*SETS, "constraints={params: 3500}", "distill.controls=[baseline]")
    return folder, run_tiny(folder, *sets, host=host())


def test_candidates_are_counted_and_limited_with_what_is_added(finished):
    folder, _ = finished
    rows = read_lines(folder / "study" / "candidates.jsonl")
    assert [row["params"] for row in rows] == [plain_params(row["spec"]) + HEAD for row in rows]
    assert all(row["params"] <= 3500 for row in rows)
    assert [row["scores"]["params"] for row in rows] == pytest.approx([math.log(row["params"]) for row in rows])
    assert all(row["macs"] > 50 * 20 for row in rows)
    (search,) = (folder / "study" / "artifacts").glob("search-*")
    assert read_json(search / "artifact.json")["facts"]["roles"]["student"]["infeasible"] > 0


def test_trials_report_and_file_count_the_same_network(finished):
    folder, result = finished
    spec = json.loads(result["student"]["architecture"])
    assert result["student"]["params"] == plain_params(spec) + HEAD
    (refine,) = (folder / "study" / "artifacts").glob("refine-*")
    assert result["student"]["params"] in [each["params"] for each in read_json(refine / "trials.json")]
    weights = onnx.load(folder / "study" / result["exports"][0]["path"]).graph.initializer
    assert sum(len(onnx.numpy_helper.to_array(each).ravel()) for each in weights) > HEAD
    assert any(list(each.dims) in ([10, 50], [50, 10]) for each in weights), "the head is in the file"


def test_the_control_is_the_network_that_ships(finished):
    folder, result = finished
    (distill,) = (folder / "study" / "artifacts").glob("distill-*")
    names = "baseline", read_json(distill / "artifact.json")["facts"]["winner"]
    baseline, winner = (
        {key: tuple(each.shape) for key, each in read(distill / name / FINAL).items()} for name in names
    )
    assert baseline == winner
    assert (10, 50) in baseline.values()
    assert 0 < result["baseline"]["accuracy"] <= 1


def test_a_procedure_that_adapts_is_in_the_key_of_the_search(tmp_path):
    class Plain(Adapting):
        adapt = Procedure.adapt

    def part(cls: type[Procedure[Any]]) -> Any:
        study = load_study(write_study(tmp_path), host(cls), sets=SETS)
        return part_of(next(each for each in STAGES if each.NAME == "search"), open_materials(study, host(cls)))

    assert "recipe.procedure" in part(Adapting)
    assert "procedure:mine" in part(Adapting)["capabilities"]
    assert "recipe.procedure" not in part(Plain)
