"""What the documentation says is so: tables come from the schema, snippets run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

import kdsearch.testing
from kdsearch import hooks, limits
from kdsearch.engine.splits import arrange
from kdsearch.host import Host
from kdsearch.kinds import IO, Field, Model, NoOptions, Run
from kdsearch.stages.quality import quality_of
from kdsearch.stages.run import STAGES
from kdsearch.study import load_study
from kdsearch.study.view import is_within
from kdsearch.testing.compressor import CompressorContract
from kdsearch.testing.controller import ControllerContract
from kdsearch.testing.data_recipe import site
from kdsearch.testing.dataset import DatasetContract
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.executor import ExecutorContract
from kdsearch.testing.logger import LoggerContract
from kdsearch.testing.metric import MetricContract
from kdsearch.testing.procedure import ProcedureContract
from kdsearch.testing.proxy import ProxyContract
from kdsearch.testing.space import SearchSpaceContract
from kdsearch.testing.stopper import StopperContract
from kdsearch.testing.task import TaskContract
from kdsearch.testing.teacher import TeacherContract
from kdsearch.testing.text_teacher import TextTeacherContract
from kdsearch.training.materials import open_materials
from tests.python.tiny_live import made, tiny
from tests.stages.every_key import CHANGES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def loaded(file):
    spec = importlib.util.spec_from_file_location(f"docs_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snippets(page):
    """Kind -> code of the page's named Python blocks."""
    return dict(re.findall(r"```python (\w+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))


def module_of(kind):
    """The snippet as a module: options classes look their annotations up there."""
    module = sys.modules[f"docs_{kind}"] = ModuleType(f"docs_{kind}")
    exec(compile(snippets("plugins.md")[kind], f"docs/plugins.md ({kind})", "exec"), module.__dict__)
    return module


KINDS = (
    "distiller",
    "proxy",
    "search_space",
    "dataset",
    "data_recipe",
    "procedure",
    "distillation",
    "growing",
    "metric",
    "controller",
    "task",
    "teacher",
    "pruner",
    "sparsifier",
    "quantizer",
    "modalities",
    "text_teacher",
    "stopper",
    "executor",
    "logger",
)
DISTILLER, PROXY, SPACE, DATASET, RECIPE, PROCEDURE, DISTILLATION, GROWING, *REST = map(module_of, KINDS)
METRIC, CONTROLLER, TASK, TEACHER, PRUNER, SPARSIFIER, QUANTIZER, *REST = REST
MODALITIES, TEXT_TEACHER, STOPPER, EXECUTOR, LOGGER = REST


def test_the_tables_of_studies_are_those_of_the_schema():
    tables = loaded(DOCS / "study_tables.py")
    text = (DOCS / "studies.md").read_text()
    assert tables.page(text) == text, "run: python docs/study_tables.py"
    assert set(re.findall(r"<!-- table (\S+) -->", text)) == set(tables.SECTIONS)
    known = {f"{path}.{name}" for path, cls in tables.SECTIONS.items() for name in cls.model_fields}
    assert set(tables.MEANING) <= known
    assert "| `labeled` |" in text


def test_every_limit_is_stated():
    section = (DOCS / "studies.md").read_text().partition("## Limits")[2]
    numbers = {name: value for name, value in vars(limits).items() if isinstance(value, int)}
    said = {name: f"{value:,}" for name, value in numbers.items()}
    said |= {name: f"{value >> 30} GiB" for name, value in numbers.items() if value % (1 << 30) == 0}
    said |= {"LINES_BYTES": "64 MiB", "WHOLE": "2^63"}
    assert {
        name for name, text in said.items() if not re.search(rf"(?<![\d,]){re.escape(text)}(?![\d,]\d)", section)
    } == set()
    assert len(numbers) > 20


def test_the_shortest_study_is_one(tmp_path):
    (study,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "studies.md").read_text(), re.DOTALL)
    (tmp_path / "study.yaml").write_text(study)
    assert load_study(tmp_path / "study.yaml", Host.load()).config.constraints.params == 20_000


def test_the_published_settings_are_settings_of_evolution():
    (block,) = re.findall(r"```yaml strategy\n(.*?)```", (DOCS / "studies.md").read_text(), re.DOTALL)
    shown = [YAML(typ="safe").load(line) for line in block.splitlines() if not line.startswith("#")]
    host = Host.load()
    made = [host.load_class("controller", each["use"]).options_class(**each["options"]) for each in shown]
    assert [each.population for each in made] == [100, 36, 512]


class TestProjected(DistillerContract):
    distiller = DISTILLER.Projected


class TestSpread(ProxyContract):
    proxy = PROXY.Spread


class TestMlp(SearchSpaceContract):
    space = SPACE.Mlp


class TestBlind(ControllerContract):
    def controller(self):
        return CONTROLLER.Blind(NoOptions())


class TestOrdered(TaskContract):
    task = TASK.Ordered


class TestMeans(TeacherContract):
    teacher = TEACHER.Means

    def io(self):
        return IO(DATASET.StripesSource.fields[:1], (Field("logits", "logits", (2,)),))

    def services(self):
        return site(data=arrange(DATASET.StripesSource(60), labeled=20, validation=0.2, test=0.2))


class TestKeywords(TextTeacherContract):
    teacher = TEXT_TEACHER.Keywords

    def test_it_counts_words(self):
        assert [[each.text for each in row] for row in self.write(["an oven and salt", "a goal"], 2)] == [
            ["kitchen"] * 2,
            ["sport"] * 2,
        ]


class TestBehind(StopperContract):
    def stopper(self):
        return STOPPER.Behind(NoOptions())


class TestLines(LoggerContract):
    def logger(self):
        return LOGGER.Lines(NoOptions())

    def read(self, folder):
        runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
        assert len(runs) == len({run["id"] for run in runs})
        return {run["id"]: Run(run["id"], "", *map(run.get, ("state", "params", "curves", "values"))) for run in runs}


class TestHere(ExecutorContract):
    def executor(self, workers=1):
        return EXECUTOR.Here(NoOptions())


class TestThin(CompressorContract):
    compressor = PRUNER.Thin

    def model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 8))
        return Model(net, ("image",))

    def test_of_a_matrix_of_low_rank_nothing_is_lost(self):
        model = self.model()
        with torch.no_grad():
            for at, rank in ((1, 32), (3, 4)):
                u, s, v = torch.linalg.svd(model.module[at].weight, full_matrices=False)
                model.module[at].weight.copy_(u[:, :rank] * s[:rank] @ v[:rank])
        cut = self.made().apply(model, self.plan())
        assert sum(each.numel() for each in cut.module.parameters()) == 32 * (192 + 64) + 64 + 4 * (64 + 8) + 8
        torch.testing.assert_close(self.answer(cut), self.answer(model), rtol=1e-4, atol=1e-5)


class TestRows(CompressorContract):
    compressor = SPARSIFIER.Rows

    def test_half_of_each_row_is_zero(self):
        model, plan = self.model(), self.plan()
        self.made().enforce(model, plan, 1.0)
        for path in plan.edits["layers"]:
            rows = model.module.get_submodule(path).weight.flatten(1)
            assert ((rows == 0).sum(1) == rows.shape[1] // 2).all()


class TestHalf(CompressorContract):
    compressor = QUANTIZER.Half


class TestBlinded(DistillerContract):
    distiller = MODALITIES.Blinded

    def models(self):
        """They differ in what they answer; of what they read the names alone are looked at."""
        read = ("image", "present_image", "sound", "present_sound")
        return tuple(replace(each, inputs=read) for each in super().models())

    def labels(self, n):
        gates = torch.arange(n) % 3
        sides = {"present_image": (gates != 1).float(), "present_sound": (gates != 2).float()}
        return {**super().labels(n), "image": torch.ones(n, 2), "sound": torch.ones(n, 3), **sides}


class TestStripes(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return DATASET.Stripes(DATASET.StripesOptions(n=60))


class TestBrier(MetricContract):
    metric = METRIC.Brier
    name = "brier"


def test_the_snippet_of_a_metric_measures_with_an_interval():
    """Answers of 50 % and of 100 % on the label of two classes: squared distances .5 and 0."""
    data = DATASET.StripesSource(40)

    def predict(batch):
        sure = torch.tensor([int(each[-1]) % 4 < 2 for each in batch.ids])
        right = torch.nn.functional.one_hot(batch["label"], 2).float()
        return {"logits": torch.where(sure[:, None], 100 * right, torch.zeros(1))}

    metric = METRIC.Brier(NoOptions())
    values = metric.measure(predict, data, "train", None)
    sure = sum(int(each[-1]) % 4 < 2 for each in data.split("train").ids) / 40
    found = quality_of("brier", metric, values, 0)
    assert found.value == pytest.approx(0.5 * (1 - sure))
    assert (found.n, found.direction) == (40, "min")
    assert found.interval[0] < found.value < found.interval[1]


def test_the_snippet_of_a_growing_procedure_grows_as_it_says():
    type(
        "Contract", (ProcedureContract,), {"procedure": GROWING.TwoHeads}
    )().test_phases_leave_the_networks_that_it_says()


@pytest.mark.parametrize("procedure", [None, PROCEDURE.TeacherThenLabels, DISTILLATION.SureStudent])
def test_snippets_make_a_study(procedure, tmp_path):
    recipes = [] if procedure else [{"use": RECIPE.Sure, "options": {"least": 0.55}}]
    recipe = {"procedure": {"use": procedure}} if procedure else {"distillers": [{"use": DISTILLER.Projected}]}
    study = tiny(
        train=None,
        test=None,
        data={"use": DATASET.Stripes, "options": {"n": 120}, "recipes": recipes},
        student=SPACE.Mlp,
        teacher={"use": "trained", "options": {"space": "cifar_resnet", "spec": {"depths": [1, 1, 1]}, "epochs": 1}},
        recipe=recipe,
        search={"proxy": [PROXY.Spread], "candidates": 4, "keep": 2},
        distill={"epochs": 2, "controls": []},
    )
    found = made(open_materials(study, Host.load()), tmp_path, "distill")
    history = found["distill"]["runs"]["winner-0"]["history"]
    if procedure:
        is_list = procedure is PROCEDURE.TeacherThenLabels
        assert [row["phase"] for row in history] == (["imitate", "label"] if is_list else ["distill", "distill"])
        assert set(history[0]["terms"]) == ({"match"} if is_list else {"task", "entropy"})
    else:
        assert history[-1]["terms"]["Projected.direction"] > 0
        (about,) = found["prepare"]["recipes"]
        assert 0 < about["kept"] <= about["records"]
        assert about["cost"] == {}
    assert all(len(each["spec"]["widths"]) == 2 for each in found["search"]["roles"]["student"]["kept"])


def test_every_kind_has_an_example_that_runs():
    """An exporter is named instead: it is longer than a page."""
    assert set(KINDS) >= set(hooks.KINDS) - {"exporter"}
    assert set(snippets("plugins.md")) == set(KINDS)
    text = (DOCS / "plugins.md").read_text()
    named = re.findall(r"`(tests/outside/\w+(?:\.py)?)`", text)
    assert len(named) > 3
    assert all((DOCS.parent / each).exists() for each in named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_pages_name_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for file in re.findall(r"`((?:kdsearch|plugins|search_spaces|examples|docs)/[\w./]+)`", text):
        assert (DOCS.parent / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_table_has_its_heads_cells(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.sub(r"\\\|", "", row).count("|") for row in table.splitlines()]
        assert set(rows) == {rows[0]}, table.splitlines()[next(i for i, n in enumerate(rows) if n != rows[0])]


def test_contracts_that_the_page_names_are_there():
    text = (DOCS / "plugins.md").read_text()
    sources = "".join(file.read_text() for file in Path(kdsearch.testing.__file__).parent.glob("*.py"))
    named = set(re.findall(r"\b(\w+Contract)\b", text))
    assert {name for name in named if f"class {name}" not in sources} == set()
    assert set(re.findall(r"^class (\w+Contract)", sources, re.M)) == named
    rows = re.findall(r"^\| ([\w ,]+) \| `[\w.]+Contract`", text, re.M)
    assert {kind.replace(" ", "_") for row in rows for kind in row.split(", ")} == set(hooks.KINDS)


def test_the_table_of_what_is_redone_is_right():
    rows = re.findall(
        r"^\| (.+) \| (\w+).* \|$", (DOCS / "how-it-works.md").read_text().partition("| changed |")[2], re.M
    )
    assert len(rows) > 5
    for names, stage in rows:
        for name in re.findall(r"`([\w.]+)`", names):
            found = {change.stage for key, change in CHANGES.items() if is_within(key, name)}
            first = next((each.NAME for each in STAGES if each.NAME in found), "nothing")
            assert first == stage, name
