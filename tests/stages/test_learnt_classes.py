"""Classes that are learnt one group after another: what each phase is fed, and what result and page say was learnt and forgotten.

The procedure is learning without forgetting (Li and Hoiem, ECCV 2016): a frozen previous self holds the student near.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import Field

from kdsearch.engine.feeds import in_order
from kdsearch.errors import PluginError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, Options, Phase, Procedure, Setup, Step, Update
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.training.dry import check_recipe
from kdsearch.training.materials import open_materials
from tests.stages.tiny import LESS, run_tiny, write_study

GROUPS = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
SETS = (
    *LESS,
    "recipe.procedure={use: incremental}",
    "recipe.distillers=[]",
    "data.labeled=1.0",
    "data.train_samples=null",
    "refine.trials=1",
    "distill.epochs=9",
    "recipe.train={lr: 0.01}",
)


class IncrementalOptions(Options):
    groups: tuple[tuple[int, ...], ...] = Field(GROUPS, strict=False)
    keep: float = Field(0.1, ge=0, description="weight of the previous self's word")


class Incremental(Procedure[IncrementalOptions]):
    """A phase a group of classes, each fed the samples of its own."""

    def phases(self, setup: Setup) -> Iterator[Phase]:
        student = {"student": setup.models["student"].module}
        first = self.options.groups[0]

        def learn(s: Step) -> Iterator[Update]:
            assert set(s.batch["label"].tolist()) <= set(first)
            yield Update({"task": s.task()})

        def go_on(before: str, group: tuple[int, ...]) -> Any:
            def step(s: Step) -> Iterator[Update]:
                assert set(s.batch["label"].tolist()) <= set(group)
                near = (s.student["logits"] - s.run(before)["logits"]).square().mean()
                yield Update({"task": s.task(), "keep": near})

            return step

        epochs = max(setup.epochs // len(self.options.groups), 1)
        for nth, group in enumerate(self.options.groups):
            if nth:
                setup.freeze(f"self-{nth}", setup.models["student"].copy())
            yield Phase(
                f"group-{nth}",
                go_on(f"self-{nth}", group) if nth else learn,
                {"train": setup.feed("train", classes=group)},
                [setup.optim(student, name="main")],
                epochs,
                weights={"keep": self.options.keep},
                classes=group,
                score="student",
            )


class Unscored(Incremental):
    def phases(self, setup: Setup) -> Iterator[Phase]:
        from dataclasses import replace

        yield from (replace(each, score="") for each in super().phases(setup))


def host(cls: type[Procedure[Any]] = Incremental) -> Host:
    return Host.load().with_classes({("procedure", "incremental"): cls})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("classes")
    return folder, run_tiny(folder, *SETS, host=host())


def history_of(folder: Any) -> list[dict[str, Any]]:
    (distilled,) = (folder / "study" / "artifacts").glob("distill-*")
    return list(read_json(distilled / "artifact.json")["facts"]["runs"]["winner-0"]["history"])


def test_each_phase_is_judged_on_new_old_and_all_classes(finished):
    folder, _ = finished
    taught = [(row["phase"], row["classes"]) for row in history_of(folder) if "classes" in row]
    assert [phase for phase, _ in taught] == ["group-0", "group-1", "group-2"]
    assert [row["phase"] for row in history_of(folder)] == [f"group-{i}" for i in range(3) for _ in range(3)]
    (_, first), (_, second), (_, third) = taught
    assert (first["old"], first["forgotten"]) == (None, None)
    assert first["new"] == first["all"] > 0.5
    assert list(third["phases"]) == ["group-0", "group-1", "group-2"]
    a = [each["phases"] for each in (first, second, third)]
    assert second["forgotten"] == pytest.approx(a[0]["group-0"] - a[1]["group-0"])
    best = max(a[0]["group-0"], a[1]["group-0"])
    lost = [best - a[2]["group-0"], a[1]["group-1"] - a[2]["group-1"]]
    assert third["forgotten"] == pytest.approx(np.mean(lost))
    assert third["of"] == {f"group-{i}": list(group) for i, group in enumerate(GROUPS)}


def test_figures_on_test_are_those_of_the_file(finished):
    """Counted here, sample by sample, from the answers of onnxruntime."""
    folder, result = finished
    data = open_materials(load_study(write_study(folder), host(), sets=SETS), host()).data
    session = onnxruntime.InferenceSession(str(folder / "study" / result["exports"][0]["path"]))
    hits, labels = [], []
    for batch in in_order(data.split("test")):
        (logits,) = session.run(None, {session.get_inputs()[0].name: batch["image"].numpy()})
        hits += (logits.argmax(1) == batch["label"].numpy()).tolist()
        labels += batch["label"].tolist()
    hits, labels = np.array(hits), np.array(labels)
    found = result["student"]["classes"]
    for name, classes in {"new": GROUPS[-1], "old": sum(GROUPS[:-1], ()), "all": sum(GROUPS, ())}.items():
        assert found[name] == pytest.approx(hits[np.isin(labels, classes)].mean())
    assert found["all"] == pytest.approx(result["student"]["accuracy"])


def test_the_page_shows_them(finished):
    folder, result = finished
    page = (folder / "study" / "report" / "index.html").read_text()
    assert "Classes learnt and forgotten" in page
    assert "group-1: classes 4, 5, 6." in page
    last = history_of(folder)[-1]["classes"]
    for value in (last["forgotten"], last["new"], result["student"]["classes"]["old"]):
        assert f"{100 * value:.2f} %" in page


def test_a_plain_study_says_nothing_of_it(tmp_path):
    from kdsearch.report.classes_figure import classes_figure

    assert classes_figure({}, {"curves": {"student": [{"epoch": 1, "phase": "distill", "loss": 1.0}]}}) is None


def test_the_dry_step_has_a_sample_of_each_class(tmp_path):
    study = load_study(write_study(tmp_path), host(), sets=SETS)
    check_recipe(open_materials(study, host()))


@pytest.mark.parametrize(
    ("cls", "sets", "words"),
    [
        (Unscored, (), "phase 'group-0' has `classes` and no `score`"),
        (Incremental, ("objectives={ece: min}",), "metric 'ece' has no value of a group of classes"),
    ],
)
def test_what_cannot_be_judged_is_said_before_any_work(cls, sets, words, tmp_path):
    study = load_study(write_study(tmp_path), host(cls), sets=(*SETS, *sets))
    with pytest.raises(PluginError, match=words) as caught:
        check_recipe(open_materials(study, host(cls)))
    assert caught.value.path == "recipe.procedure.use"


def test_targets_of_other_classes_are_hidden():
    """Also where a sample shows several, as an image whose every pixel has a class."""
    from kdsearch.kinds import Batch
    from kdsearch.kinds import Field as Of
    from kdsearch.kinds.targets import of_classes

    mask = torch.tensor([[[0, 1], [2, 1]], [[0, 0], [2, 2]], [[HIDDEN, 3], [3, 3]]])
    batch = Batch(("a", "b", "c"), {"mask": mask})
    found, shown = of_classes(batch, {1, 3}, [Of("mask", "map", (2, 2), "int64", "target", 4)])
    assert shown.tolist() == [True, False, True]
    assert found["mask"].tolist() == [
        [[HIDDEN, 1], [HIDDEN, 1]],
        [[HIDDEN, HIDDEN], [HIDDEN, HIDDEN]],
        [[HIDDEN, 3], [3, 3]],
    ]
