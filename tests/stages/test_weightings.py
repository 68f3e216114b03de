"""Loss weightings scored without training: the score by hand, and what a study begins with."""

import json
import math
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.engine.gradients import measured as terms_measured
from kdsearch.errors import InterruptedRun, RefusedError, TrialError
from kdsearch.host import Host
from kdsearch.kinds import Ask, Dim, Range, Trial
from kdsearch.python.session import Session
from kdsearch.stages import weightings
from kdsearch.stages.refine import VAIN, next_ask
from kdsearch.stages.starts import Start, what_was_tried
from kdsearch.stages.weightings import DRAWS, SETTINGS, descent
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.stages.tiny import LESS, is_stage, run_up_to, watching, write_study

NAMES = ("task", "kd.kl")


def measured(*batches):
    """Of one parameter, from the gradients (task's, kd's) of each batch."""
    return of_several(*[[[gradient] for gradient in each] for each in batches])


def of_several(*batches):
    """Of several parameters: a batch is (task's gradients, kd's gradients)."""
    return terms_measured(
        {n: (1.0, [torch.tensor(g) for g in gs]) for n, gs in zip(NAMES, each, strict=True)} for each in batches
    )


def score(found, *weights):
    return descent(found, torch.tensor(weights, dtype=torch.float64))


def test_by_hand():
    """The task's gradient is (1, 0) on both batches, the other term's is across it."""
    found = measured([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert score(found, 1, 0) == pytest.approx(1)
    assert score(found, 1, 1) == pytest.approx(1 / math.sqrt(2))
    assert score(found, 0, 1) == pytest.approx(0)
    assert score(found, 3, 4) == pytest.approx(0.6)


def test_a_steadier_term_is_worth_more_than_the_task_itself():
    """The task's gradients (1, 1) and (1, -1) say nothing of one another; the other term is their mean."""
    found = measured([[1.0, 1.0], [1.0, 0.0]], [[1.0, -1.0], [1.0, 0.0]])
    assert score(found, 1, 0) == pytest.approx(0)
    assert score(found, 0, 1) == pytest.approx(1 / math.sqrt(2))
    assert score(found, 1, 1) == pytest.approx(1 / math.sqrt(5 * 2))  # <(2, 1), (1, -1)> = 1, and so the other way


def test_a_long_term_that_says_nothing_costs():
    found = measured([[1.0, 0.0, 0.0], [0.0, 9.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert score(found, 1, 0) > score(found, 1, 0.1) > score(found, 1, 1) > 0


def test_a_term_against_the_task_goes_uphill():
    found = measured([[1.0], [-3.0]], [[1.0], [-3.0]])
    assert score(found, 1, 1) == pytest.approx(-1)


def test_parameters_count_alike_whatever_the_length_of_their_gradients():
    """The term agrees with the task in the first parameter, goes across it in the second; the third the task does not move."""
    for length in (1.0, 100.0):
        batch = [[[length, 0.0], [1.0, 0.0], [0.0]], [[length, 0.0], [0.0, 1.0], [5.0]]]
        found = of_several(batch, batch)
        assert score(found, 0, 1) == pytest.approx((1 + 0) / 2)
        assert score(found, 1, 0) == pytest.approx(1)


def test_one_batch_says_nothing():
    assert score(measured([[1.0], [1.0]]), 1, 1) == 0


def test_nothing_moves_the_student():
    found = measured([[0.0], [0.0]], [[0.0], [0.0]])
    assert score(found, 1, 1) == 0


vectors = st.lists(st.floats(-5, 5), min_size=3, max_size=3)


@given(
    st.lists(st.tuples(vectors, vectors), min_size=2, max_size=5),
    st.floats(0.01, 9),
    st.floats(0.01, 9),
    st.floats(0.01, 9),
)
def test_range_and_scale(batches, w_task, w_kd, factor):
    found = measured(*batches)
    value = score(found, w_task, w_kd)
    assert -1 - 1e-6 <= value <= 1 + 1e-6
    assert score(found, factor * w_task, factor * w_kd) == pytest.approx(value, abs=1e-6)


KD = "{use: kd, weight: search, options: {temperature: search}}"
RECIPE = f"recipe={{distillers: [{KD}, {{use: sp, weight: search, optional: true}}]}}"
SCORED = (RECIPE, "refine.weightings=true")


def trials_of(folder):
    (file,) = (folder / "study" / "artifacts").glob("refine-*/trials.json")
    return json.loads(file.read_text())


def scored_of(folder):
    (file,) = (folder / "study" / "artifacts").glob("refine-*/weightings.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a study that begins with scored weightings, since its data hide labels."""
    folder = tmp_path_factory.mktemp("begun")
    defaults = [each for each in LESS if not each.startswith("refine.weightings")]
    run_up_to(folder, "refine", *defaults, RECIPE, "refine.first=[scored, largest]", "refine.trials=4")
    return folder


def test_a_study_begins_with_the_best_weighting_and_tries_the_plain_one(begun):
    scored, trials = scored_of(begun), trials_of(begun)
    assert len(scored) == SETTINGS * DRAWS
    recipe = recipe_space(begun)
    assert scored[0]["values"] == recipe.default()
    for each in scored:
        recipe.at(each["values"])  # a whole point
        assert -1 - 1e-6 <= each["score"] <= 1 + 1e-6
    best = max(scored, key=lambda each: each["score"])
    assert trials[0]["values"] == best["values"]
    assert all(trials[i]["values"] not in (best["values"], recipe.plain()) for i in (1, 2)), "the controller's"
    assert trials[3]["values"] == recipe.plain()
    assert best["score"] > scored[0]["score"]
    left_out = [each for each in scored if not each["values"]["recipe.distillers[1].used"]]
    assert left_out
    assert all("recipe.distillers[1].weight" not in each["values"] for each in left_out)


def recipe_space(folder):
    from kdsearch.study.recipe import RecipeSpace

    host = Host.load()
    study = load_study(folder / "tiny.yaml", host, sets=SCORED)
    return RecipeSpace.from_study(study, host)


def test_the_same_again(begun, tmp_path):
    run_up_to(tmp_path, "refine", *LESS, *SCORED, "refine.trials=1")
    assert scored_of(tmp_path) == scored_of(begun)


def test_without_scores_a_study_begins_with_the_plain_weighting(tmp_path):
    run_up_to(tmp_path, "refine", *LESS, RECIPE, "refine.trials=1")
    assert trials_of(tmp_path)[0]["values"] == recipe_space(tmp_path).default()
    assert not list((tmp_path / "study" / "artifacts").glob("refine-*/weightings.json"))


@pytest.mark.parametrize(
    ("sets", "wanted"),
    [
        (("data.labeled=0.2",), True),
        (("data.labeled=1.0",), False),
        (("data.labeled=0.2", "refine.first=[largest]"), False),
        (("data.labeled=1.0", "refine.first=[]", "refine.weightings=true"), True),
        (("data.labeled=0.2", "refine.weightings=false"), False),
    ],
)
def test_by_themselves_they_are_scored_where_labels_are_hidden(sets, wanted, tmp_path):
    host = Host.load()
    study = load_study(write_study(tmp_path), host, sets=sets)
    assert weightings.are_scored(open_materials(study, host)) is wanted


@pytest.mark.parametrize(
    "recipe",
    ["{distillers: [{use: kd, weight: 2.0}]}", "{distillers: [], train: {lr: search}}"],
    ids=["fixed", "no teacher"],
)
def test_nothing_is_scored_where_no_weight_is_open(recipe, tmp_path):
    run_up_to(tmp_path, "refine", *LESS, f"recipe={recipe}", "refine.trials=1", "refine.weightings=true")
    assert not list((tmp_path / "study" / "artifacts").glob("refine-*/weightings.json"))


def test_a_loop_of_ones_own_begins_alike(begun, tmp_path):
    study = load_study(write_study(tmp_path), Host.load(), sets=[*LESS, *SCORED])
    with Session(study, tmp_path / "own") as session:
        own = session.ask()
    assert {k: v for k, v in own.values.items() if k.startswith("recipe.")} == trials_of(begun)[0]["values"]


def test_ctrl_c_is_heeded_between_settings_and_the_study_goes_on(tmp_path):
    sets = (*LESS, *SCORED, "refine.trials=1")
    host = watching(lambda event: signal.raise_signal(signal.SIGINT) if is_stage(event, "refine") else None)
    with pytest.raises(InterruptedRun):
        run_up_to(tmp_path, "refine", *sets, host=host)
    assert not list((tmp_path / "study").glob("**/weightings.json"))
    run_up_to(tmp_path, "refine", *sets)
    best = max(scored_of(tmp_path), key=lambda each: each["score"])
    assert trials_of(tmp_path)[0]["values"] == best["values"]


@pytest.mark.parametrize("name", ["surrogate", "exhaustive", "random", "evolution", "optuna"])
def test_what_a_study_begins_with_is_not_asked_again(name):
    cls = Host.load().load_class("controller", name)
    dims = [Dim("student.architecture", Range(choices=tuple("abcde")))]
    for seed in range(5):
        controller, running = cls(cls.options_class()), list[Trial]()
        for number in range(4):
            ask = next_ask(controller, dims, [Start({"student.architecture": "a"}, ())], running, seed)
            running.append(Trial(number, ask.values, None, "running"))
        found = [each.values["student.architecture"] for each in running]
        assert found[0] == "a"
        assert len(set(found)) == len(found)


class Four:
    """A controller that knows four candidates."""

    def ask(self, space, dims, history, n, seed):
        asked = sum("other" in trial.values for trial in history)
        return [Ask({"other": asked})][: 4 - asked]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (1, ["x0", "other0", "other1", "other2", "other3"]),
        (2, ["x0", "other0", "other1", "x1", "other2", "other3"]),
        (5, ["x0", "other0", "other1", "x1", "other2", "other3", "x2", "x3", "x4"]),
    ],
)
def test_what_a_study_begins_with_has_one_of_three_trials(known, expected):
    """Each once; what one of them lacks the other goes on with."""
    starts = [Start({"x": at}, (f"the {at}th",)) for at in range(known)]
    history, found = list[Trial](), []
    while (ask := next_ask(Four(), [], starts, history, 0)) is not None:
        found.append("".join(f"{name}{value}" for name, value in ask.values.items()))
        history.append(Trial(len(history), json.loads(json.dumps(ask.values)), None, "running"))
    assert found == expected
    told = what_was_tried(starts, history)
    assert told == [[f"the {each[1:]}th"] if each.startswith("x") else [] for each in found]


def test_what_the_controller_asked_for_is_no_start_again():
    starts = [Start({"x": at}, ()) for at in range(2)]
    history = [Trial(0, {"x": 0}), Trial(1, {"other": 0}), Trial(2, {"x": 1}), Trial(3, {"other": 1})]
    assert next_ask(Four(), [], starts, history[:3], 0).values == {"other": 1}
    assert next_ask(Four(), [], starts, history[:2], 0).values == {"other": 1}
    assert next_ask(Four(), [], [*starts, Start({"x": 2}, ())], history[:3], 0).values == {"x": 2}


class Counts:
    """A controller that asks for as many as it was told of, up to `most`."""

    def __init__(self, most: int = 9999) -> None:
        self.most, self.told = most, list[list[Trial]]()

    def ask(self, space, dims, history, n, seed):
        self.told.append([*history])
        return [Ask({"x": len(history)})][: self.most - len(history)]


def test_what_breaks_limits_together_is_told_and_no_trial():
    controller, history = Counts(), [Trial(0, {"x": 0})]
    ask = next_ask(controller, [], [], history, 0, lambda trial: (trial.values["x"] - 9.0, 3.0 - trial.values["x"]))
    assert ask.values == {"x": 3}
    refused = [Trial(at, {"x": at}, None, "pruned", violations=(at - 9.0, 3.0 - at)) for at in (1, 2)]
    assert controller.told == [history, [*history, refused[0]], [*history, *refused]]
    assert len(history) == 1


@pytest.mark.parametrize("most", [9999, 5])
def test_where_all_that_is_asked_for_breaks_limits_a_start_is_left_or_nothing(most):
    def over(trial: Trial) -> tuple[float, ...]:
        return (1.0,)

    history = [Trial(0, {"y": 0})]
    controller = Counts(most)
    assert next_ask(controller, [], [Start({"y": at}, ()) for at in range(2)], history, 0, over).values == {"y": 1}
    assert len(controller.told) == min(VAIN, most)
    assert next_ask(Counts(most), [], [], history, 0, over) is None
    with pytest.raises(RefusedError, match="none of those asked for") as caught:
        next_ask(Counts(most), [], [], [], 0, over)
    assert caught.value.path == "constraints"


@pytest.mark.parametrize("error", [TrialError("term 'kd.kl' is nan"), RuntimeError("1x3 and 4x5"), SystemExit(1)])
def test_options_at_which_a_trial_would_fail_are_left_out(error, tmp_path, monkeypatch):
    measured_there, count = weightings._gradients, []

    def sometimes(*given):
        count.append(1)
        if len(count) % 2 == 0:
            raise error
        return measured_there(*given)

    monkeypatch.setattr(weightings, "_gradients", sometimes)
    run_up_to(tmp_path, "refine", *LESS, *SCORED, "refine.trials=1")
    assert len(scored_of(tmp_path)) == SETTINGS // 2 * DRAWS
