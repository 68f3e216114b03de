"""Installed and outside compressors keep the contract of compressors, and each rule finds the one that breaks it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from kdsearch.builtin.magnitude import Magnitude, MagnitudeOptions
from kdsearch.host import Host
from kdsearch.kinds import Compressor, NoOptions, Plan
from kdsearch.kit.onnx import read_onnx, save_onnx
from kdsearch.testing.compressor import CompressorContract
from kdsearch.testing.contract import failures
from tests.outside.conftest import HERE
from tests.testing.extras import installed

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(HERE))
    from kdsearch_little import Barred, LowRank, LowRankOptions

NAMED = [(kind, name) for kind in ("pruner", "sparsifier", "quantizer") for name in Host.load().names(kind)]


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_installed_compressors_conform(kind, name):
    compressor = installed(kind, name)
    assert failures(type("Contract", (CompressorContract,), {"compressor": compressor})) == {}


class TestLowRank(CompressorContract):
    compressor = LowRank


class TestBarred(CompressorContract):
    compressor = Barred


class Half(Compressor[NoOptions]):
    """Weights in 16 bits, unpacked by a Cast."""

    side = "file"

    def plan(self, subject):
        return Plan({}, log=("weights in 16 bits",))

    def rewrite(self, file, plan, feeds):
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        model = read_onnx(file)
        casts = []
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                name, values = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
                tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
                casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        nodes = [*casts, *(type(node).FromString(node.SerializeToString()) for node in model.graph.node)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        save_onnx(model, file)


class TestHalf(CompressorContract):
    compressor = Half
    near = 0.01


def pruner(**members: Any) -> type[CompressorContract]:
    broken = type("Broken", (LowRank,), {"options_class": LowRankOptions, **members})
    return type("Contract", (CompressorContract,), {"compressor": broken})


def quantizer(**members: Any) -> type[CompressorContract]:
    broken = type("Broken", (Half,), {"options_class": NoOptions, **members})
    return type("Contract", (CompressorContract,), {"compressor": broken})


def sparsifier(**members: Any) -> type[CompressorContract]:
    broken = type("Broken", (Magnitude,), {"options_class": MagnitudeOptions, **members})
    return type("Contract", (CompressorContract,), {"compressor": broken})


@torch.no_grad()
def moves_others(self, model, plan, progress):
    Magnitude.enforce(self, model, plan, progress)
    model.module.get_parameter(plan.edits["weights"][0]).mul_(1.01)


@torch.no_grad()
def draws_anew(self, model, plan, progress):
    weight = model.module.get_parameter(plan.edits["weights"][0])
    weight.masked_fill_(torch.rand(weight.shape) < 0.5, 0)


def leaves_all(self, model, plan, progress):
    return None


def planned(change):
    return lambda self, subject: change(LowRank.plan(self, subject))


def drawn(plan):
    return replace(plan, edits={"a": torch.rand(()).item()})


def plans_in_place(self, subject):
    with torch.no_grad():
        next(subject.model.module.parameters()).mul_(2)
    return LowRank.plan(self, subject)


def applied(change):
    return lambda self, model, plan: change(LowRank.apply(self, model, plan))


def cuts_in_place(self, model, plan):
    made = LowRank.apply(self, model, plan)
    model.module.classifier = made.module.classifier
    return made


def changes_nothing(self, model, plan):
    return model.copy()


def forgets_its_cost(model):
    return replace(model, cost_of=lambda: type(model.cost())(1, 1))


def loses_taps(model):
    return replace(model, taps=model.taps[1:])


def wrong_taps(model):
    return replace(model, taps=tuple(replace(tap, shape=(3,)) for tap in model.taps))


def breaks_answers(model):
    with torch.no_grad():
        model.module.classifier[1].bias.fill_(torch.nan)
    return model


def idle(model):
    model.module.idle = nn.Linear(2, 2)
    return model


def frozen(model):
    model.module.requires_grad_(False)
    return model


def noisy(model):
    with torch.no_grad():
        model.module.classifier[0].weight.add_(torch.randn(()))
    return model


def by_value(self, model, plan):
    is_other = bool((next(model.module.parameters()) != FIRST).any())
    return LowRank.apply(self, model, replace(plan, edits={**plan.edits, "ranks": {"classifier": 1 + is_other}}))


FIRST = next(CompressorContract().model().module.parameters())


def larger(self, file, plan, feeds):
    model = read_onnx(file)
    model.doc_string = "x" * file.stat().st_size
    save_onnx(model, file)


def rewrites_beside(self, file, plan, feeds):
    Half.rewrite(self, file, plan, feeds)
    file.with_suffix(".log").touch()


def far_off(self, file, plan, feeds):
    from onnx import numpy_helper

    model = read_onnx(file)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(0 * values, tensor.name))
    save_onnx(model, file)
    Half.rewrite(self, file, plan, feeds)


def rewrites_anew(self, file, plan, feeds):
    Half.rewrite(self, file, plan, feeds)
    model = read_onnx(file)
    model.doc_string = str(torch.rand(()).item())
    save_onnx(model, file)


FAULTS = [
    (pruner(side="both"), "test_it_does_what_its_side_says", "side is 'both'"),
    (pruner(side="file"), "test_it_does_what_its_side_says", "there is no rewrite()"),
    (quantizer(side="model"), "test_it_does_what_its_side_says", "there is no apply()"),
    (
        pruner(plan=planned(lambda plan: replace(plan, edits={"a": float("nan")}))),
        "test_a_plan_is_json_and_repeats",
        "JSON",
    ),
    (pruner(plan=planned(drawn)), "test_a_plan_is_json_and_repeats", "different plans"),
    (pruner(plan=planned(lambda plan: replace(plan, log=()))), "test_a_plan_is_json_and_repeats", "says nothing"),
    (pruner(plan=plans_in_place), "test_planning_leaves_the_model_as_it_was", "planning changes"),
    (pruner(apply=cuts_in_place), "test_a_pruner_leaves_a_smaller_network_that_answers", "apply to a copy"),
    (pruner(apply=changes_nothing), "test_a_pruner_leaves_a_smaller_network_that_answers", "nothing is gained"),
    (
        pruner(apply=applied(forgets_its_cost)),
        "test_a_pruner_leaves_a_smaller_network_that_answers",
        "says that it costs",
    ),
    (pruner(apply=applied(loses_taps)), "test_a_pruner_leaves_a_smaller_network_that_answers", "taps are lost"),
    (pruner(apply=applied(wrong_taps)), "test_a_pruner_leaves_a_smaller_network_that_answers", "promised"),
    (pruner(apply=applied(breaks_answers)), "test_a_pruner_leaves_a_smaller_network_that_answers", "not finite"),
    (pruner(apply=applied(idle)), "test_a_pruned_network_can_recover", "no gradient reaches idle"),
    (pruner(apply=applied(frozen)), "test_a_pruned_network_can_recover", "no weight can be trained"),
    (pruner(apply=applied(noisy)), "test_a_plan_replays", "gives others"),
    (pruner(apply=by_value), "test_a_plan_replays", "shapes are others"),
    (sparsifier(enforce=moves_others), "test_a_sparsifier_leaves_zeros_that_stay", "weights that are not zero change"),
    (sparsifier(enforce=draws_anew), "test_a_sparsifier_leaves_zeros_that_stay", "enforced twice"),
    (sparsifier(enforce=leaves_all), "test_a_sparsifier_leaves_zeros_that_stay", "zeros before and at three times"),
    (quantizer(rewrite=larger), "test_a_quantizer_leaves_a_smaller_file_that_answers", "bytes, then"),
    (quantizer(rewrite=rewrites_beside), "test_a_quantizer_leaves_a_smaller_file_that_answers", "beside the file"),
    (quantizer(rewrite=far_off), "test_a_quantizer_leaves_a_smaller_file_that_answers", "of how samples differ off"),
    (quantizer(rewrite=rewrites_anew), "test_a_rewrite_repeats", "different files"),
]


@pytest.mark.parametrize(("contract", "test", "says"), FAULTS)
def test_a_faulty_compressor_is_found(contract, test, says):
    found = failures(contract, test)
    assert says in found.get(test, "(it passed)"), found


def test_every_rule_has_a_compressor_that_breaks_it():
    assert {test for _, test, _ in FAULTS} == {each for each in dir(CompressorContract) if each.startswith("test_")}
