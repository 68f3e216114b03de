"""A student that is adapted, and that phases make larger, in a study that limits and prunes it: every figure is of what ships."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kdsearch.host import Host
from kdsearch.kinds import Model, NoOptions, Phase, Procedure, Setup, Step, Update
from kdsearch.store.files import read_json, read_lines
from kdsearch.study import load_study
from kdsearch.training.finished import load_finished
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials
from tests.stages.test_adapt import STAGES, Adapting, plain_params
from tests.stages.tiny import LESS, events, run_tiny, write_study

HIDDEN = 40
MORE = 110 + 10 * HIDDEN + HIDDEN + HIDDEN * 10 + 10  # weights and biases that `adapt` and the second phase add
LIMIT = 3500
SETS = (
    *(each for each in LESS if not each.startswith("compress.prune")),
    "recipe.procedure={use: growing}",
    "recipe.distillers=[]",
    f"constraints={{params: {LIMIT}}}",
    "search.candidates=8",
)


class Growing(Procedure[NoOptions]):
    """Learns with one layer more, then learns on with another two, which begin at random."""

    def adapt(self, role: str, model: Model, setup: Setup) -> Model:
        model.module.classifier = nn.Sequential(model.module.classifier, nn.Linear(10, 10))
        return model

    def grown(self, role: str, model: Model, setup: Setup) -> Model:
        more = nn.Sequential(nn.Linear(10, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
        model.module.classifier = nn.Sequential(model.module.classifier, more)
        return model

    def phase(self, name: str, setup: Setup) -> Phase:
        def step(s: Step) -> Any:
            yield Update({"task": s.task()})

        optim = setup.optim({"student": setup.models["student"].module})
        return Phase(name, step, {"train": setup.feed("train")}, [optim], max(setup.epochs // 2, 1), score="student")

    def phases(self, setup: Setup) -> Any:
        yield self.phase("young", setup)
        setup.models["student"] = self.grown("student", setup.models["student"], setup)
        yield self.phase("old", setup)

    def recovery(self, setup: Setup) -> Any:
        yield self.phase("again", setup)


def host(cls: type[Procedure[Any]] = Growing) -> Host:
    return Host.load().with_classes({("procedure", "growing"): cls})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("growth")
    return folder, run_tiny(folder, *SETS, host=host())


def test_search_counts_and_limits_what_ships(finished):
    folder, _ = finished
    rows = read_lines(folder / "study" / "candidates.jsonl")
    assert [row["params"] for row in rows] == [plain_params(row["spec"]) + MORE for row in rows]
    assert all(row["params"] <= LIMIT for row in rows)
    (search,) = (folder / "study" / "artifacts").glob("search-*")
    assert read_json(search / "artifact.json")["facts"]["roles"]["student"]["infeasible"] > 0
    (refine,) = (folder / "study" / "artifacts").glob("refine-*")
    assert all(each["feasible"] for each in read_json(refine / "trials.json"))


def test_report_pruning_and_file_count_the_same_network(finished):
    folder, result = finished
    grown = plain_params(json.loads(result["student"]["architecture"])) + MORE
    pruned = result["pruned"]
    assert result["student"]["params"] == pruned["params_before"] == grown
    assert result["student"]["macs"] == pruned["macs_before"]
    assert pruned["params"] < grown
    assert pruned["macs"] <= 0.8 * pruned["macs_before"]
    weights = onnx.load(folder / "study" / result["exports"][0]["path"]).graph.initializer
    held = sum(np.size(onnx.numpy_helper.to_array(each)) for each in weights)
    assert 0.9 * pruned["params"] < held <= pruned["params"], "but for norms that are folded"


def recovered(folder: Any) -> Any:
    """What `export` loads, and the folder that it is in."""
    study = load_study(write_study(folder), host(), sets=SETS)
    materials = open_materials(study, host())
    (made,) = (folder / "study" / "artifacts").glob("recovered-*")
    from kdsearch.stages.compress import started

    request = started(read_json(made / "artifact.json")["facts"]["request"], made)
    return materials, request, made / "recover"


def test_the_pruned_and_recovered_student_loads_again(finished):
    """Architecture, history and weights from the folder alone; the file answers as it does."""
    import onnxruntime

    folder, result = finished
    materials, request, made = recovered(folder)
    found = load_finished(materials, request, made)
    assert sum(each.numel() for each in found.model.module.parameters()) == result["pruned"]["params"]
    facts = read_json(made.parent / "artifact.json")["facts"]
    assert [row["phase"] for row in facts["step"]["history"]] == ["again"]
    images = torch.randn(5, *found.setup.io.inputs[0].sizes)
    file = folder / "study" / result["exports"][0]["path"]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert answer == pytest.approx(found.model.module(images).numpy(), abs=1e-4)


def test_nothing_is_trained_again(finished):
    folder, result = finished
    n = len(events(folder))
    again = run_tiny(folder, *SETS, host=host())
    assert again["pruned"] == result["pruned"]
    assert not [each for each in events(folder)[n:] if each["event"] == "stage" and each["state"] == "begun"]


def test_what_it_grows_to_is_in_the_key_of_the_search(tmp_path):
    class Still(Growing):
        adapt, grown = Procedure.adapt, Procedure.grown

    def reads(cls: type[Procedure[Any]]) -> Any:
        study = load_study(write_study(tmp_path), host(cls), sets=SETS)
        return part_of(next(each for each in STAGES if each.NAME == "search"), open_materials(study, host(cls)))

    assert "recipe.procedure" in reads(Growing)
    assert "recipe.procedure" not in reads(Still)


def test_growth_that_depends_on_what_is_learnt_is_reported_as_it_is(tmp_path):
    """Nobody can say it before: without limits on it, it is counted once it is there."""

    class Sudden(Adapting):
        adapt = Procedure.adapt

        def phases(self, setup: Any) -> Any:
            yield from super().phases(setup)
            net = setup.models["student"].module
            net.classifier = nn.Sequential(net.classifier, nn.Linear(10, 10))

    result = run_tiny(tmp_path, *SETS, "constraints={}", "compress.prune=null", "refine.trials=1", host=host(Sudden))
    assert result["student"]["params"] == plain_params(json.loads(result["student"]["architecture"])) + 110
