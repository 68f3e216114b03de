"""A teacher that a procedure of its own trains: planned, tried before work, keyed, stopped and gone on with, and reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kdsearch.errors import InterruptedRun, PluginError, StudyError, TrialError
from kdsearch.host import Host
from kdsearch.kinds import NoOptions, Options, Phase, Procedure, Setup, Step, Update
from kdsearch.store.files import read_json
from kdsearch.store.weights import read
from kdsearch.study import load_study
from kdsearch.training.dry import check_recipe
from kdsearch.training.materials import open_materials
from kdsearch.training.teachers import part_of
from kdsearch.verbs.finished import evidence_of_last
from tests.stages.tiny import LESS, TEXT, events, is_stage, run_tiny, watching, write_study

MINE = "teacher.options.procedure={use: smooth, options: {smoothing: 0.2}}"
SETS = (*LESS, MINE, "refine.trials=1", "teacher.options.epochs=3", "constraints={}")


class SmoothOptions(Options):
    smoothing: float = 0.1
    fails: str = ""


class Smooth(Procedure[SmoothOptions]):
    """A paper's teacher: smoothed labels, then a phase of cross entropy on twice the labels' weight."""

    def phases(self, setup: Setup) -> Any:
        student = setup.models["student"]
        shift = setup.once("shift", lambda: {"shift": torch.randn(10, generator=setup.rng("shift"))})["shift"]

        def smoothed(s: Step) -> Any:
            logits, label = s.student["logits"], s.batch["label"]
            if self.options.fails == "step":
                raise IndexError("no such row")
            if self.options.fails == "batch" and len(label) > 8:
                raise RuntimeError("more\nthan a dry step sees")
            s.log("sure", logits.softmax(1).amax(1).mean())
            yield Update({"smooth": F.cross_entropy(logits, label, label_smoothing=self.options.smoothing)})

        def plain(s: Step) -> Any:
            yield Update(
                {
                    "task": s.task(),
                    "near": (s.student["logits"].mean(0) - shift).square().mean(),
                }
            )

        def phase(name: str, step: Any, epochs: int) -> Phase:
            feeds, optims = (
                {"train": setup.feed("train")},
                [setup.optim({"student": student.module}, kind="sgd", lr=0.05)],
            )
            return Phase(name, step, feeds, optims, epochs, score="student")

        yield phase("smoothed", smoothed, 2)
        setup.note("began with smoothed labels")
        if self.options.fails == "network":
            student.module.classifier = torch.nn.Sequential(student.module.classifier, torch.nn.Linear(10, 10))
        yield phase("plain", plain, setup.epochs - 2)


class Peers(Smooth):
    roles = ("student", "peer")


class Taught(Smooth):
    needs_teacher = True


class Adapted(Procedure[NoOptions]):
    def adapt(self, role: str, model: Any, setup: Setup) -> Any:
        return model

    def phases(self, setup: Setup) -> Any:
        raise NotImplementedError


OWN: Mapping[Any, Any] = {("procedure", cls.__name__.lower()): cls for cls in (Smooth, Peers, Taught, Adapted)}


def host() -> Host:
    return Host.load().with_classes(OWN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and result of a study that was stopped in its teacher's training."""
    folder = tmp_path_factory.mktemp("own")
    seen: list[Any] = []

    def stop(event: Mapping[str, Any]) -> None:
        if is_stage(event, "prepare") and not seen:
            import signal

            seen.append(event)
            signal.raise_signal(signal.SIGINT)

    stopping = watching(stop).with_classes(OWN)
    with pytest.raises((InterruptedRun, KeyboardInterrupt)):
        run_tiny(folder, *SETS, host=stopping)
    return folder, run_tiny(folder, *SETS, host=host())


def facts_of(folder: Any) -> dict[str, Any]:
    (prepared,) = (folder / "study" / "artifacts").glob("prepare-*")
    return dict(read_json(prepared / "artifact.json")["facts"]["teachers"]["main"])


def test_its_phases_are_what_trained_it(finished):
    folder, result = finished
    facts = facts_of(folder)
    assert [row["phase"] for row in facts["history"]] == ["smoothed", "smoothed", "plain"]
    assert set(facts["history"][0]["terms"]) == {"smooth"}
    assert set(facts["history"][-1]["terms"]) == {"task", "near"}
    assert 0.1 <= facts["history"][0]["logs"]["sure"] <= 1
    assert "Teacher 'main': began with smoothed labels" in result["notes"]
    page = (folder / "study" / "report" / "index.html").read_text()
    assert "began with smoothed labels" in page
    curve = evidence_of_last(folder / "study")["curves"]["teacher"]
    assert [row["epoch"] for row in curve] == [1, 2, 3]


def test_stopped_and_gone_on_with_it_ends_as_one_that_was_not(finished, tmp_path):
    folder, _ = finished
    run_tiny(tmp_path, *SETS, host=host())
    weights = []
    for each in (folder, tmp_path):
        (made,) = (each / "study" / "artifacts").glob("teacher-*")
        weights.append(read(made / "teacher.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (
        len([each for each in events(folder, "stage") if each["stage"] == "prepare" and each["state"] == "begun"]) == 2
    )


def opened(folder: Any, *sets: str) -> Any:
    study = load_study(write_study(folder), host(), sets=sets)
    return open_materials(study, host())


def test_procedure_and_options_are_in_its_key(tmp_path):
    plain, mine, other = (
        part_of(opened(tmp_path, *sets), "main")
        for sets in ((), (MINE,), ("teacher.options.procedure={use: smooth, options: {smoothing: 0.3}}",))
    )
    assert "procedure:smooth" in mine["code"]
    assert "procedure:smooth" not in plain["code"]
    assert mine["teacher"] != other["teacher"]


LINE = 1 + TEXT[: TEXT.index("  options: {space: cifar_resnet")].count("\n")


@pytest.mark.parametrize(
    ("procedure", "path", "words"),
    [
        ("{use: smoth}", "procedure.use", "did you mean 'smooth'"),
        ("{use: smooth, options: {smoothin: 1}}", "procedure.options.smoothin", "did you mean 'smoothing'"),
        ("{use: peers}", "procedure.use", "trained by 'peers', which trains student, peer"),
        ("{use: taught}", "procedure.use", "trained by 'taught', which needs a teacher"),
        ("{use: adapted}", "procedure.use", "trained by 'adapted', which changes its student's network"),
    ],
)
def test_what_cannot_train_a_teacher_is_refused_with_its_line(procedure, path, words, tmp_path):
    with pytest.raises((StudyError, PluginError), match=words) as caught:
        load_study(write_study(tmp_path), host(), sets=(f"teacher.options.procedure={procedure}",))
    assert caught.value.path == f"teacher.options.{path}"


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("step", "one step of procedure 'smooth', which trains teacher 'main', fails: IndexError: no such row"),
        ("network", "procedure 'smooth' leaves another network than teacher 'main' is"),
    ],
)
def test_a_step_of_it_is_tried_before_work(fails, words, tmp_path):
    materials = opened(
        tmp_path, f"teacher.options.procedure={{use: smooth, options: {{fails: {fails}}}}}", "teacher.options.epochs=3"
    )
    with pytest.raises(PluginError, match=words) as caught:
        check_recipe(materials)
    assert caught.value.path == "teacher.options"
    assert caught.value.line == LINE


def test_what_its_training_raises_is_told_in_a_line_with_its_name(tmp_path):
    sets = (*LESS, "teacher.options.procedure={use: smooth, options: {fails: batch}}", "teacher.options.epochs=3")
    with pytest.raises(TrialError) as caught:
        run_tiny(tmp_path, *sets, host=host())
    words = "training teacher 'main' failed: RuntimeError: more than a dry step sees (in smoothed, "
    assert caught.value.problem.startswith(words)
    assert (caught.value.path, caught.value.exit_code) == ("teacher", 1)
    assert "\n" not in str(caught.value)
