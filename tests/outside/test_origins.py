"""Samples that lack a modality: each capability of the package `kdsearch_origins` against its contract, and what it counts."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.engine.recipe_source import RecordSource, Swapped
from kdsearch.engine.splits import arrange
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, DataSource, Model, NoOptions, Services, Tap, Teacher, Training
from kdsearch.kinds.options import searchable
from kdsearch.kinds.units import in_units
from kdsearch.kit.modalities import is_present
from kdsearch.stages.probe_teacher import probe_teacher
from kdsearch.stages.run import run_stages
from kdsearch.stages.search import check
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events
from kdsearch.study import load_study
from kdsearch.testing.compressor import CompressorContract
from kdsearch.testing.data_recipe import DataRecipeContract, site
from kdsearch.testing.dataset import DatasetContract
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.metric import MetricContract
from kdsearch.testing.space import SearchSpaceContract
from kdsearch.testing.task import TaskContract
from kdsearch.testing.teacher import TeacherContract
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Progress, Tools
from tests.outside.conftest import HERE

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(HERE / "kdsearch_origins" / "src"))
    import kdsearch_origins
    from kdsearch_origins import prepare
    from kdsearch_origins.data import PACKAGES, PARTS, Functions, FunctionsOptions, module_docs
    from kdsearch_origins.distiller import Blinded
    from kdsearch_origins.metric import AnySubset
    from kdsearch_origins.recipes import Agreed, Modules
    from kdsearch_origins.space import Fusion, FusionSpec
    from kdsearch_origins.spare import Spare
    from kdsearch_origins.task import Origins
    from kdsearch_origins.teacher import Experts, ExpertsOptions

STUDY = HERE / "kdsearch_origins" / "origins.yaml"
K = len(PACKAGES)


@cache
def source() -> DataSource:
    """The packages of this Python, read once and by the first test that needs them."""
    return Functions(FunctionsOptions(each=20)).open(site())


@cache
def divided() -> DataSource:
    return arrange(source(), labeled=0.5, validation=0.3, test=0.2)


@cache
def fields() -> IO:
    return Origins(NoOptions()).io(source().fields, source().facts)


@cache
def network() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = in_units(Fusion(searchable(FusionSpec, {}, "spec")).build(FusionSpec(), fields()), fields())
    model.module.eval()
    return model


def answer(batch: Batch, model: Model | None = None) -> dict[str, Tensor]:
    model = model or network()
    with torch.no_grad():
        return {"logits": model.module(*[batch[name] for name in model.inputs])}


class TestFunctions(DatasetContract):
    @pytest.fixture
    def dataset(self) -> Functions:
        return Functions(FunctionsOptions(each=20))


class TestOrigins(TaskContract):
    task = Origins

    def source(self) -> DataSource:
        return source()


class TestFusion(SearchSpaceContract):
    space = Fusion
    samples = 2

    def io(self) -> Any:
        return fields()


class TestBlinded(DistillerContract):
    distiller = Blinded

    def models(self) -> tuple[Model, Model]:
        return network(), network()

    def labels(self, n: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(7)
        return {**super().labels(n), **{each.name: each.noise(n, rng) for each in fields().inputs}}


class TestAnySubset(MetricContract):
    metric = AnySubset
    name = "any_subset"

    def source(self) -> DataSource:
        return Swapped(source(), {"val": source().split("train")})

    def answer(self, batch: Batch) -> Mapping[str, Tensor]:
        return answer(batch)

    def right(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"logits": 20 * F.one_hot(batch["label"].clamp(min=0), K).float()}


class TestExperts(TeacherContract):
    teacher = Experts

    def io(self) -> Any:
        return fields()

    def fields(self) -> Any:
        return source().fields

    def services(self) -> Services:
        return site(data=divided())


class TestAgreed(DataRecipeContract):
    recipe = Agreed

    def source(self) -> DataSource:
        return divided()

    def services(self) -> Services:
        experts = Experts(ExpertsOptions()).model(fields(), site(data=divided()))
        return site(networks={"main": lambda batch: answer(batch, experts)})


class TestModules(DataRecipeContract):
    recipe = Modules

    def source(self) -> DataSource:
        return divided()

    def test_new_samples_have_documentation_alone(self) -> None:
        kept = self.records()
        split = RecordSource(kept, self.offered()).split("train")
        new = [i for i, sample in enumerate(split.ids) if sample not in divided().split("train").ids]
        batch = split.load(new)
        assert len(new) > 50
        assert is_present(batch, "doc").all()
        assert not any(is_present(batch, each).any() for each in ("args", "shape", "body"))
        assert all(not batch[each].any() for each in ("args", "args_mask", "shape", "body", "body_mask"))
        known = {record.key: record.fields for record in kept}
        assert batch["doc"][0][batch["doc_mask"][0] > 0].tolist() == known[batch.ids[0]]["doc"]
        whole = split.load(range(len(split.ids)))  # old and new ones in one batch
        assert set(whole.tensors) == {each.name for each in source().fields}


class TestSpare(CompressorContract):
    compressor = Spare

    def model(self) -> Model:
        return network()

    def io(self) -> Any:
        return fields()

    def batch(self) -> Batch:
        return source().split("train").load(range(40))


def test_the_objective_is_of_every_subset_of_what_there_is():
    """Against loops over samples, one at a time, and subsets, without kdsearch's own words for what is missing."""
    data = Swapped(source(), {"val": source().split("train")})
    found = AnySubset(NoOptions()).measure(answer, data, "val", site())
    shares, alone, split = [], [], source().split("train")
    for i in range(len(split.ids)):
        sample, hits = split.load([i]), {}
        has = [part for part in PARTS if sample[f"present_{part}"].item()]
        for keeps in product((False, True), repeat=len(has)):
            kept = {part for part, keep in zip(has, keeps, strict=True) if keep}
            if kept:
                gone = [each for each in sample.tensors if {*each.split("_")} & ({*PARTS} - kept)]
                less = sample.having(**{each: torch.zeros_like(sample[each]) for each in gone})
                hits[frozenset(kept)] = float(answer(less)["logits"].argmax() == sample["label"])
        shares.append(sum(hits.values()) / len(hits))
        alone.append(sum(hit for kept, hit in hits.items() if len(kept) == 1) / len(has))
    assert found["n"] == len(split.ids)
    assert found["any_subset"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert found["with_one"] == pytest.approx(sum(alone) / len(alone), abs=1e-6)


def test_what_a_function_lacks_is_read_from_its_source(tmp_path):
    files = source().files()
    (tmp_path / "inputs.json").write_bytes(files["inputs.json"])
    compile(files["prepare.py"], "prepare.py", "exec")
    fed = prepare.inputs("def f(self): pass", {"inputs.json": tmp_path / "inputs.json"})
    assert [fed[f"present_{part}"].item() for part in PARTS] == [0, 0, 0]
    fed = prepare.inputs("def f(self, a, *, b=1):\n    return a + b", {"inputs.json": tmp_path / "inputs.json"})
    assert [fed[f"present_{part}"].item() for part in PARTS] == [0, 1, 1]
    assert fed["args"].shape == (1, 2)
    assert {each.name for each in fields().inputs} == set(fed)
    found = prepare.parts(ast.parse('def f():\n    "Two words."\n    raise x.Y').body[0])
    assert found["doc"] == ["two", "words"]
    assert found["body"] == ["Y", "x"]


def test_a_teacher_reads_what_no_student_does_and_recipes_add_samples(tmp_path):
    """In `prepare` of a study: the teacher's parameters are counted, and it is measured, with a field that is no input."""
    host = Host.load([("origins", kdsearch_origins)])
    study = load_study(STUDY, host, sets=["data.options={each: 20}", "data.labeled=0.5"])
    materials = open_materials(study, host, tmp_path)
    assert "body" not in {each.name for each in materials.io.inputs}
    made = run_stages(
        materials, Tools(Store(tmp_path), Events(tmp_path / "log"), tmp_path, Progress(False)), until="prepare"
    )
    facts = made["prepare"].facts
    (teacher,) = facts["teachers"].values()
    assert teacher["params"] == K * (sum(prepare.VALUES.values()) + len(prepare.KINDS)) + len(prepare.KINDS)
    assert teacher["score"] > 2 / K
    agreed, modules = facts["recipes"]
    assert agreed["kept"] < agreed["records"]
    assert modules["kept"] == agreed["kept"] + len(module_docs())


class Looking(Teacher[NoOptions]):
    """Looks into the body, with taps to be compared with a student's."""

    training = Training(epochs=1, is_fresh=True)

    def model(self, io: IO, services: Services) -> Model:
        net = torch.nn.Sequential(torch.nn.EmbeddingBag(prepare.VALUES["body"], 8), torch.nn.Linear(8, K))
        taps = [Tap("stage[0]", "0", "vector", (8,)), Tap("penultimate", "0", "vector", (8,))]
        return Model(net, ("body",), tuple(taps), name="looking")


@pytest.mark.parametrize("probe", ["noise", "train"])
def test_proxies_look_at_it_where_there_are_samples(probe, tmp_path):
    host = Host.load([("origins", kdsearch_origins)]).with_classes({("teacher", "looking"): Looking})
    sets = ["data={use: functions, options: {each: 20}}", "teacher={use: looking}", f"search.probe.input={probe}"]
    materials = open_materials(load_study(STUDY, host, sets=sets), host, tmp_path)
    relation = host.load_class("proxy", "relation")
    teacher, note, _ = probe_teacher(materials, "student", 0, [relation(relation.options_class())])
    assert teacher.name == ("looking" if probe == "train" else "fusion64")
    assert ("'looking' reads body, which no student does, and the probe is noise" in note) == (probe == "noise")
    check(materials)
