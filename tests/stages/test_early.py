"""What can be known of a search is said before a teacher is trained, and nothing is left behind."""

from __future__ import annotations

import pytest
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace

from kdsearch.builtin.controllers.evolution import Evolution
from kdsearch.builtin.controllers.surrogate import Surrogate
from kdsearch.errors import PluginError, StudyError, UserError
from kdsearch.stages import prepare
from kdsearch.training.tools import Progress
from kdsearch.verbs.status import status_of
from tests.stages.tiny import LESS, run_tiny, run_up_to


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("student.space=masternet", "student.spec={}", "search.strategy={use: optuna}"),
            "search.strategy: optuna cannot",
        ),
        (("student.space=masternet", "student.spec={}", "search.strategy={use: exhaustive}"), "search.strategy: "),
        (("student.space=text_encoder", "student.spec={}"), "student.space: search space 'text_encoder': the input is"),
        (
            ("student.space=mlp", "student.spec={}", "search.proxy=kd.fitnet"),
            "search.proxy: tap 'stage[-2]' of 'mlp' is",
        ),
        (("search.proxy=[params, diswot_ms]",), "search.proxy[1]: M_s is undefined"),
    ],
)
def test_it_is_named_before_any_training(sets, message, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "make", lambda *_: pytest.fail("a teacher was trained"))
    with pytest.raises(UserError) as caught:
        run_tiny(tmp_path, *LESS, *sets)
    assert message in str(caught.value)
    assert "tiny.yaml" in str(caught.value) or "--set" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("cls", "use", "option"),
    [
        (Surrogate, "refine.controller={use: surrogate, options: {first: 2}}", "first"),
        (Evolution, "search.strategy={use: evolution, options: {population: 8}}", "order"),
    ],
)
def test_a_controller_is_told_how_many_objectives_there_are(cls, use, option, tmp_path, monkeypatch):
    """Of a search the score and what is minimised beside it, of trials all that the study names."""
    asked = []

    def preflight(self, n_objectives):
        asked.append(n_objectives)
        raise StudyError("one objective only", path=option)

    monkeypatch.setattr(cls, "preflight", preflight)
    monkeypatch.setattr(prepare, "make", lambda *_: pytest.fail("a teacher was trained"))
    with pytest.raises(StudyError, match=rf"{use.partition('=')[0]}.options.{option}: one objective only"):
        run_tiny(tmp_path, *LESS, "objectives={accuracy: max, params: min, macs: min}", use)
    assert asked == [3]
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("fails", "said"), [((4,), "some candidates cannot be built"), ((4, 8), "one step of the recipe fails")]
)
def test_networks_that_cannot_be_built_are_left_out_and_told(fails, said, tmp_path, monkeypatch):
    build = CifarResNetSpace.build

    def broken(self, spec, io):
        if spec.widths[1] in fails and spec.depths[1] < 3:
            raise RuntimeError("no such width")
        return build(self, spec, io)

    monkeypatch.setattr(CifarResNetSpace, "build", broken)
    monkeypatch.setattr(CifarResNetSpace, "cost", lambda *_: None)
    teacher = "teacher.options.spec={depths: [1, 3, 1], widths: [4, 8, 8]}"
    if said.startswith("some"):
        result = run_tiny(tmp_path, *LESS, teacher)
        assert any(
            f"{said}, the first as: RuntimeError: no such width (in broken, " in each for each in result["notes"]
        )
        assert '"widths":[' in result["student"]["architecture"]
    else:
        with pytest.raises(UserError, match=rf"{said}: RuntimeError: no such width"):
            run_tiny(tmp_path, *LESS, teacher)


@pytest.mark.parametrize(
    "kept", ["", "artifacts/teacher-0123abcd/weights.safetensors", "texts/answers.jsonl", "work/x/a.json"]
)
def test_what_was_trained_or_paid_for_stays_where_the_input_proves_wrong_later(kept, tmp_path, monkeypatch):
    """An endpoint that wants money after a thousand answers, a recipe that keeps nothing."""

    def make(materials, inputs, tools, work, out):
        if kept:
            (tools.folder / kept).parent.mkdir(parents=True)
            (tools.folder / kept).write_text("1")
        raise PluginError("the endpoint answers with status 402")

    monkeypatch.setattr(prepare, "make", make)
    with pytest.raises(UserError, match="status 402"):
        run_tiny(tmp_path, *LESS)
    assert (tmp_path / "study").exists() == bool(kept)
    if kept:
        assert (tmp_path / "study" / kept).read_text() == "1"
        assert "status 402" in status_of(tmp_path / "study")["text"]


def test_a_search_of_a_small_space_has_as_much_to_do_as_the_space_holds(tmp_path, monkeypatch):
    totals, begin = {}, Progress.begin
    monkeypatch.setattr(Progress, "begin", lambda bar, stage, n: (totals.update({stage: n}), begin(bar, stage, n))[1])
    spec = "student.spec={depths: {choices: [1, 2]}, widths: [4, 4, 4]}"
    run_up_to(tmp_path, "search", *LESS, "search.candidates=500", "search.keep=null", spec)
    assert totals["search"] == 8
