"""The pruner on transformers and residual CNNs: targets, granularity, what may go, what is refused, what recovery is handed."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdsearch_plugins.hierarchical_prune.nf4 import file_bytes
from kdsearch_plugins.hierarchical_prune.pruner import HierarchicalPrune, HierarchicalPruneOptions
from kdsearch_spaces.vit.space import VitSpace
from torch import nn

import kdsearch
from kdsearch.errors import RefusedError, UserError
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Field, Model, Plan
from kdsearch.kit.residual import blocks_of
from kdsearch.python import compressed
from kdsearch.study import load_study
from kdsearch.testing.compressor import CompressorContract, HandSubject
from kdsearch.training.dry import check_recipe
from kdsearch.training.materials import open_materials

ONE = (IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (5,)),)), 48)


def vit(depth=4, seed=0):
    space = VitSpace()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spec = space.options_class(depth=depth, width=16, heads=2, patch=2)
        return space.build(spec, ONE[0])


def batch():
    torch.manual_seed(0)
    labels = torch.arange(48) % 5
    return Batch(tuple(map(str, range(48))), {"image": torch.randn(48, 1, 8, 8), "label": labels})


class OfVit(CompressorContract):
    compressor = HierarchicalPrune

    def model(self):
        return vit()

    def io(self):
        return ONE[0]

    def batch(self):
        return batch()


class TestComponents(OfVit):
    options: ClassVar = {"params": 0.8}


class TestBlocksByZero(OfVit):
    options: ClassVar = {"params": 0.8, "granularity": "block", "removal": "zero"}


class TestHybrid(OfVit):
    options: ClassVar = {"params": 0.5, "granularity": "hybrid", "removal": "zero", "exclude": ["norm1"]}


class TestResNet(CompressorContract):
    compressor = HierarchicalPrune
    options: ClassVar = {"macs": 0.9, "params": None}


def planned(model=None, memory=None, **options):
    model = model or vit()
    subject = HandSubject(0, Path(), memory, model=model, io=ONE[0], batch=batch())
    made = HierarchicalPrune(HierarchicalPruneOptions(**options))
    plan = made.plan(subject)
    return made, plan, made.apply(model, plan)


def n_params(model):
    return sum(each.numel() for each in model.module.parameters())


def test_the_cut_is_counted_as_it_is():
    model = vit()
    _, plan, cut = planned(model, params=0.7)
    assert n_params(cut) / n_params(model) == pytest.approx(plan.edits["ratios"][-1])
    assert plan.edits["ratios"][-1] < 0.7 <= plan.edits["ratios"][-2]
    assert plan.edits["ratios"] == sorted(plan.edits["ratios"], reverse=True)


def test_bytes_are_those_of_the_format():
    model = vit()
    _, _, cut = planned(model, params=None, bytes=0.75, bytes_format="nf4", granularity="block")
    assert file_bytes(cut.module, "nf4") < 0.75 * file_bytes(model.module, "nf4")


def test_without_a_target_the_listed_blocks_go():
    _, plan, cut = planned(params=None, granularity="block", blocks="1-3")
    assert plan.edits["removed"] == [[1, "all"], [2, "all"]]
    images = batch()["image"]
    intact = vit().module.eval()
    first, last = (intact.get_submodule(each["path"]) for each in plan.edits["blocks"])
    hooks = [part.register_forward_hook(lambda _, given, out: given[0]) for part in (first, last)]
    assert torch.equal(cut.module.eval()(images), intact(images))
    assert len(hooks) == 2


def test_only_what_may_go_goes():
    _, plan, _ = planned(params=0.9, blocks="1-3", exclude=("norm1", "norm2", "attention"))
    assert {index for index, _ in plan.edits["removed"]} <= {1, 2}
    assert {name for _, name in plan.edits["removed"]} == {"mlp"}


def test_hybrid_takes_blocks_first():
    _, plan, _ = planned(params=0.5, granularity="hybrid", component_blocks="0-4", block_share=0.4)
    kinds = [name == "all" for _, name in plan.edits["removed"]]
    assert kinds == sorted(kinds, reverse=True)
    assert any(kinds)
    assert not all(kinds)


def test_rounds_measure_what_is_left(tmp_path):
    def kept(**options):
        folder = tmp_path / str(options)
        folder.mkdir()
        _, plan, _ = planned(memory=folder, params=0.5, **options)
        assert plan.edits["ratios"][-1] < 0.5
        return plan, len(list(folder.glob("once-*.json")))

    _, once = kept()
    plan, thrice = kept(rounds=3)
    gone = [sum(ratio >= end for ratio in plan.edits["ratios"]) + 1 for end in (5 / 6, 4 / 6)]  # after rounds 1 and 2
    assert once == 17
    assert thrice <= 17 + (17 - gone[0]) + (17 - gone[1])
    assert thrice > 2 * 12, "what is left is measured in every round"


def test_the_second_plan_measures_nothing(tmp_path, monkeypatch):
    calls = []
    score = HandSubject.score

    def counted(self, model, samples=None):
        calls.append(samples)
        return score(self, model, samples)

    monkeypatch.setattr(HandSubject, "score", counted)
    _, first, _ = planned(memory=tmp_path, params=0.8, samples=16)
    assert len(calls) == 17
    assert set(calls) == {16}, "16 components and the intact network, on so many samples"
    _, again, _ = planned(memory=tmp_path, params=0.6, samples=16)
    assert len(calls) == 17
    assert again.edits["removed"][: len(first.edits["removed"])] == first.edits["removed"]
    planned(memory=tmp_path, params=0.8, samples=20)
    assert len(calls) == 34


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"params": 0.01}, RefusedError, "of the params are left.*expected a share above that"),
        ({"exclude": ("atn",)}, UserError, "no component 'atn'.*attention"),
        ({"features": ("sa",)}, UserError, "no component 'sa'"),
        ({"blocks": "2-9"}, UserError, "block 4.*0 to 3"),
        ({"freeze_before": 7}, UserError, "block 7"),
    ],
)
def test_what_cannot_be_is_said(options, error, said):
    with pytest.raises(error, match=f"(?is){said}"):
        planned(**options)


STUDY = """\
name: vit
data: {use: digits, options: {resize: 8}, train_samples: 60}
student: {space: vit, spec: {depth: 4, width: 16, heads: 2, patch: 2}}
recipe: {distillers: []}
compress:
  steps:
    - prune: {use: channels}
    - prune: {use: hierarchical_prune, options: OPTIONS}
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{exclude: [atention]}", r"exclude: no component 'atention'; did you mean 'attention'\?"),
        ("{params: 0.9, lambda_kd_out: 0.0, lambda_kd_feat: 0.0}", "every lambda is 0"),
    ],
)
def test_a_wrong_name_is_found_before_any_work(options, said, tmp_path):
    file = tmp_path / "vit.yaml"
    file.write_text(STUDY.replace("OPTIONS", options))
    materials = open_materials(load_study(file, Host.load()), Host.load())
    with pytest.raises(UserError, match=rf"vit\.yaml:8: compress\.steps\[1\]\.prune\.options.*{said}"):
        check_recipe(materials)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": ("mpl",)}, r"features: no component 'mpl'; did you mean 'mlp'\?"),
        ({"blocks": "1,4-6"}, r"blocks: block 4\. Expected 0 to 3"),
        ({"component_blocks": "9"}, r"component_blocks: block 9"),
        ({"blocks": "2-2"}, r"blocks: '2-2'\. Expected block indices"),
        ({"component_blocks": "3-1"}, r"component_blocks: '3-1'"),
        ({"freeze_before": 7}, r"freeze_before: block 7"),
    ],
)
def test_all_names_and_numbers_of_blocks_are_looked_at(options, said):
    made = HierarchicalPrune(HierarchicalPruneOptions(**options))
    with pytest.raises(UserError, match=rf"compress\.prune\.options\.{said}"):
        made.preflight(vit(), ONE[0])
    HierarchicalPrune(HierarchicalPruneOptions(blocks="1-4", exclude=("norm1",))).preflight(vit(), ONE[0])


class Failing(HandSubject):
    """Which measurements fail, and how: `errors` by their number, "all" for each but the first."""

    errors: ClassVar = {}
    calls: ClassVar = []

    def score(self, model, samples=None):
        self.calls.append(len(self.calls))
        error = self.errors.get(self.calls[-1], self.errors.get("all") if self.calls[-1] else None)
        if error is not None:
            raise error
        return super().score(model, samples)


def failing(folder, errors):
    Failing.errors, Failing.calls = errors, []
    subject = Failing(0, Path(), folder, model=vit(), io=ONE[0], batch=batch())
    return HierarchicalPrune(HierarchicalPruneOptions(params=0.8)).plan(subject)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_short_for_once_is_no_measurement(tmp_path, error):
    with pytest.raises(type(error), match=str(error)):
        failing(tmp_path, {4: error})
    plan = failing(tmp_path, {})
    assert len(Failing.calls) == 17 - 4, "those before it are kept, its own is made"
    assert not any("inf" in line for line in plan.log)


@pytest.mark.parametrize("kind", [AttributeError, AssertionError, IndexError])
def test_why_all_is_lost_without_a_part_is_said(kind, tmp_path):
    for errors in ({4: kind("no attribute 'weight'")}, {}):  # as it is kept, too
        lost = [line for line in failing(tmp_path, errors).log if "inf" in line]
        assert len(lost) == 1
        assert lost[0].endswith(f"-inf ({kind.__name__}: no attribute 'weight')")
        assert lost[0].startswith("Delta P without 0.")


def test_a_network_that_answers_without_no_part_is_refused(tmp_path):
    with pytest.raises(RefusedError, match=r"without any one of 16 parts.*AttributeError: no attribute 'batch_first'"):
        failing(tmp_path, {"all": AttributeError("no attribute 'batch_first'")})


class Layer(nn.Module):
    """8 x 8 weights and a bias: 72 of them."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.inner(x)


class Read(nn.Module):
    """Four blocks. Of `alone` each is read outside of itself; of `together` one is, as long as one of them is there."""

    def __init__(self, alone=(), together=()):
        super().__init__()
        self.alone, self.together = alone, together
        self.blocks, self.head = nn.ModuleList(Layer() for _ in range(4)), nn.Linear(8, 5)

    def forward(self, image):
        x = image.flatten(1)[:, :8]
        for block in self.blocks:
            x = block(x)
        for at in self.alone:
            x = x + 0 * self.blocks[at].inner.bias
        if self.together:
            kept = [block for block in map(self.blocks.__getitem__, self.together) if hasattr(block, "inner")]
            x = x + 0 * kept[0].inner.bias
        return self.head(x)


def read(**options):
    torch.manual_seed(0)
    return Model(Read(**options), ("image",), outputs=("logits",))


@pytest.mark.parametrize("target", ["params", "macs"])
def test_a_part_that_the_network_needs_stays(target):
    _, plan, cut = planned(read(alone=(2, 3)), granularity="block", **{target: 0.6})  # of 333 weights 189 are left
    assert sorted(index for index, _ in plan.edits["removed"]) == [0, 1]
    assert any(line.startswith("Delta P without 3: -inf") for line in plan.log)
    cut.module(batch()["image"])
    said = rf"without 2 parts 0\.\d+ of the {target} are left; without any one of 2 others it does not answer"
    for rounds in (1, 2):
        with pytest.raises(RefusedError, match=said):
            planned(read(alone=(2, 3)), granularity="block", rounds=rounds, **{target: 0.4})


@pytest.mark.parametrize("target", ["params", "macs"])
def test_of_parts_that_are_needed_together_one_stays(target):
    _, plan, cut = planned(read(together=(0, 1)), granularity="block", **{target: 0.4})
    assert len(plan.edits["removed"]) == 3
    cut.module(batch()["image"])
    with pytest.raises(RefusedError, match="without 3 parts"):
        planned(read(together=(0, 1)), granularity="block", **{target: 0.2})


class NoNumber(HandSubject):
    def score(self, model, samples=None):
        return super().score(model, samples) if hasattr(model.module.blocks[3], "inner") else float("nan")


def test_a_part_without_which_the_score_is_no_number_stays():
    subject = NoNumber(0, Path(), model=read(), io=ONE[0], batch=batch())
    with pytest.raises(RefusedError, match=r"without 3 parts 0\.351 .*without any one of 1 others"):  # 72 + 45 of 333
        HierarchicalPrune(HierarchicalPruneOptions(params=0.3, granularity="block")).plan(subject)


def test_listed_blocks_that_the_network_needs_are_refused():
    with pytest.raises(RefusedError, match=r"options\.blocks: without 0, 1 the network does not answer: IndexError"):
        planned(read(together=(0, 1)), params=None, blocks="0-2")
    planned(read(together=(0, 1)), params=None, blocks="0,2")


def test_recovery_freezes_by_position_and_slows_by_sensitivity():
    made, plan, cut = planned(params=0.7, granularity="block", blocks="1-3", r_thres=0.2, sgdistill="inverse")
    names = [name for name, _ in cut.module.named_parameters()]
    frozen = {name for name, factor in plan.lr_scale.items() if factor == 0}
    assert set(plan.lr_scale) <= set(names)
    assert {"stem.position", "stem.patches.weight"} <= frozen
    assert not any(name.startswith("classifier") for name in frozen)
    assert any("SGDistill (inverse): r = " in line for line in plan.log)
    made, plan, _ = planned(params=0.8, r_thres=0.9)
    assert any(line.startswith("no SGDistill: r = ") for line in plan.log)
    made, plan, _ = planned(params=0.8, pwp=False)
    assert plan.lr_scale == {}
    procedure = made.recovery({"student": plan})
    assert procedure.constants == {"kd_out": 1.0, "kd_feat": 1e-4}
    assert HierarchicalPrune(HierarchicalPruneOptions(recovery="recipe")).recovery({"student": plan}) is None
    with pytest.raises(UserError, match="every lambda is 0"):
        HierarchicalPrune(HierarchicalPruneOptions(lambda_kd_out=0, lambda_kd_feat=0)).recovery({"student": plan})


def test_what_is_frozen_before_a_block_is_so_without_pwp():
    _, plan, cut = planned(params=0.9, pwp=False, freeze_before=2)
    frozen = {name for name, factor in plan.lr_scale.items() if factor == 0}
    places = [name for name, _ in cut.module.named_parameters()]
    third = blocks_of(vit().module, [batch()["image"][:1]])[2].path
    first = next(i for i, (name, _) in enumerate(vit().module.named_parameters()) if name.startswith(f"{third}."))
    before = {name for name, _ in list(vit().module.named_parameters())[:first]}
    assert frozen == before & set(places)
    sizes = {name: each.numel() for name, each in cut.module.named_parameters()}
    said = f"before block 2: {sum(sizes[name] for name in frozen):,} of {sum(sizes.values()):,} weights are frozen"
    assert said in plan.log


def test_another_target_takes_the_default_s_place():
    options = HierarchicalPruneOptions(macs=0.95)
    assert (options.params, HierarchicalPruneOptions().params) == (None, 0.8)
    assert HierarchicalPruneOptions(**options.model_dump()) == options
    assert HierarchicalPruneOptions(macs=0.95, params=0.7).params == 0.7
    model = vit()
    _, _, cut = planned(macs=0.95)
    assert n_params(cut) > 0.8 * n_params(model)


def test_that_nothing_is_slowed_is_said():
    _, plan, _ = planned(params=0.7, r_thres=0.2)
    assert any(line.startswith("SGDistill (binary)") and "nothing is slowed" in line for line in plan.log)


def test_features_are_of_kept_and_trained_blocks():
    _, plan, _ = planned(params=None, granularity="block", blocks="1,2")
    assert len(plan.edits["features"]) == 1, "0 is frozen, 1 and 2 are gone"
    _, plan, _ = planned(params=None, granularity="block", blocks="1", features=("block", "attention"))
    assert len(plan.edits["features"]) == 4
    _, plan, _ = planned(params=None, granularity="block", blocks="1", pwp=False)
    assert len(plan.edits["features"]) == 3


def test_a_plan_is_of_any_network_of_the_architecture():
    made, plan, cut = planned(params=0.7)
    other = made.apply(vit(seed=9), Plan(plan.edits))
    other.module.load_state_dict(cut.module.state_dict(), strict=True)
    images = batch()["image"]
    assert torch.equal(other.module.eval()(images), cut.module.eval()(images))
    assert replace(other, taps=()).blocks == cut.blocks


def test_what_the_log_calls_frozen_is_so_without_a_study(tmp_path, monkeypatch):
    net, made = read().module, []
    image = np.random.default_rng(0).random((60, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=image, label=np.arange(60) % 5)
    monkeypatch.setattr(compressed, "files_of", lambda job, forms: (made.append(job.model.module), ([], []))[1])
    found = kdsearch.compress(
        net, tmp_path / "out", data=str(tmp_path / "data.npz"), pruner="hierarchical_prune",
        prune={"params": None, "blocks": "1", "granularity": "block"}, recover_epochs=1, progress=False,
    )  # fmt: skip
    assert "PWP: 72 of 261 weights are frozen" in found["pruned"]["log"]
    before, after = net.state_dict(), made[0].state_dict()
    still = {name for name in after if torch.equal(before[name], after[name])}
    assert still == {"blocks.0.inner.weight", "blocks.0.inner.bias"}
