"""What a plan says of the data before anything is trained."""

import pytest
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace
from torch import Generator

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.search.candidates import Explored
from kdsearch.stages import search
from kdsearch.stages.feasible import hardly_feasible
from kdsearch.study import load_study
from kdsearch.study.summary import summary, trainings
from kdsearch.training.materials import open_materials
from kdsearch.verbs import plan
from kdsearch.verbs.plan import in_words, plan_of
from kdsearch.verbs.preflight import looked_at
from tests.stages.tiny import LESS, write_study


def test_the_data_are_counted(tmp_path):
    host = Host.load()
    found = plan_of(load_study(write_study(tmp_path), host, sets=LESS), host)
    train, val, test = (found["samples"][name] for name in ("train", "val", "test"))
    assert (train["samples"], test) == (240, {"samples": 180, "labeled": 180, "unlabeled": 0})
    given = open_materials(load_study(write_study(tmp_path), host, sets=LESS), host).given
    for name, each in (("train", train), ("val", val)):
        counts, truth = given.counts()[name], given.revealed().counts()[name]
        assert each["labeled"] + each["unlabeled"] == each["samples"] == sum(truth.values())
        assert each["unlabeled"] == counts.pop("unlabeled")
        assert all(abs(n - 0.2 * truth[label]) < 1 for label, n in counts.items()), "a fifth of each class"
    lines = found["text"].splitlines()
    assert f"  data     {240 + val['samples'] + 180:,} samples (image 1x8x8) of 10 classes" in lines
    assert "  refine   2 trials, 2 epochs each" in lines
    assert f"    train        240  {train['labeled']} labelled, {train['unlabeled']} unlabelled" in lines


def test_trainings_are_told_as_what_they_are(tmp_path):
    """A control is of the one winner that ships, and training as quantised is no control."""
    sets = (
        "refine.trials=3",
        "distill={winners: 3, controls: [baseline], epochs: 4}",
        "compress.quantize=[{use: int8, recover_epochs: 2}]",
        "export={formats: [onnx-fp32, onnx-int8]}",
    )
    found = trainings(load_study(write_study(tmp_path), Host.load(), sets=sets))
    assert [in_words(each) for each in found] == [
        "3 trials, 2 epochs each",
        "3 winners, 4 epochs each",
        "1 control 'baseline', 4 epochs",
        "1 recovery, 1 epoch",
        "1 training as int8, where its file loses too much, 2 epochs",
    ]


@pytest.mark.parametrize(
    ("widths", "recipe", "expected"),
    [
        ("[4, 4, 8]", "[kd]", ["1 trial, 2 epochs", "1 winner, 3 epochs", "1 control 'no_search', 5 epochs"]),
        (
            "{choices: [[4, 4, 8], [4, 4, 4]]}",
            "[kd]",
            [
                "2 trials, 2 epochs each",
                "1 other finalist, 1 epoch",
                "1 winner, 3 epochs",
                "1 control 'no_search', 8 epochs",
            ],
        ),
        # three weights and the plain one
        ("[4, 4, 8]", "[{use: kd, weight: {choices: [2.0, 3.0, 4.0]}}]", ["4 trials, 2 epochs each"]),
        ("{choices: [4, 8]}", "[kd]", ["5 trials, 2 epochs each"]),  # of 8 networks 5 are scored
        ("[4, 4, 8]", "[{use: kd, weight: search}]", ["6 trials, 2 epochs each"]),
    ],
)
def test_no_more_trials_are_told_than_can_differ(widths, recipe, expected, tmp_path):
    host = Host.load()
    sets = (
        *LESS,
        f"student.spec={{depths: [1, 1, 1], widths: {widths}}}",
        f"recipe={{distillers: {recipe}}}",
        "search.candidates=5",
        "refine.trials=6",
        "distill={epochs: 3, controls: [no_search]}",
    )
    found = summary(load_study(write_study(tmp_path), host, sets=sets), host)["trainings"]
    assert [in_words(each) for each in found][: len(expected)] == expected


def test_what_trials_may_leave_is_told(tmp_path):
    """6 trials of 2 epochs, two finalists' quarters and a winner's 9 are 27 at most, however long the winner is trained."""
    sets = (*LESS, "refine.trials=6", "distill={epochs: 9, leftover: true, controls: [baseline, no_search]}")
    found = trainings(load_study(write_study(tmp_path), Host.load(), sets=sets))
    assert [in_words(each) for each in found] == [
        "6 trials, 2 epochs each",
        "2 other finalists, 3 to 4 epochs each",
        "1 winner, 9 to 13 epochs",
        "1 control 'baseline', 9 to 13 epochs",
        "1 control 'no_search', 27 epochs",
    ]


def test_a_mask_says_no_more_than_what_it_is_of(tmp_path):
    host = Host.load()
    text = (
        "data: {use: docstrings, train_samples: 300}\n"
        "teacher: {use: trained, options: {space: text_encoder, spec: {kind: bag}, epochs: 1}}\n"
        "student: {space: text_encoder, spec: {kind: bag, embedding: {choices: [8, 16]}}}\n"
        "recipe: {distillers: [kd]}\nobjectives: {accuracy: max}\nsearch: {candidates: 4}\n"
    )
    (tmp_path / "texts.yaml").write_text(text, encoding="utf-8")
    (line,) = [
        each
        for each in plan_of(load_study(tmp_path / "texts.yaml", host), host)["text"].splitlines()
        if "data " in each
    ]
    assert line.endswith(" samples (tokens of any length) of 11 classes")


def test_more_workers_than_trainings_at_once_save_nothing(tmp_path):
    """Of three trials two are asked for before the first has ended; two winners are trained at once, recoveries one by one."""
    host = Host.load()
    sets = (
        *LESS,
        "compress.steps=[{prune: {use: channels, recover_epochs: 7}}]",
        "refine={trials: 3, epochs: 5, generation: 2, weightings: false}",
        "distill={winners: 2, finalists: 2, epochs: 3}",
        "run={workers: 9, executor: {use: processes}}",
    )
    seconds = plan_of(load_study(write_study(tmp_path), host, sets=sets), host)["seconds"]
    assert seconds["refine"] == pytest.approx(3 * 5 / 2 * seconds["compress"] / 7)
    assert seconds["distill"] == pytest.approx(2 * 3 / 2 * seconds["compress"] / 7)


def test_a_recovery_takes_its_epochs(tmp_path):
    """In seconds of an epoch of the same plan, however fast the machine is."""
    host = Host.load()
    sets = (
        *LESS[:2],
        *LESS[4:],
        "compress.prune=null",
        "compress.steps=[{prune: {use: channels, recover_epochs: 3}}, {sparsify: {use: magnitude, recover_epochs: 2}}]",
        "compress.quantize=[{use: int8, recover_epochs: 4}, {use: int4, recover_epochs: 8}]",
        "export.formats=[onnx-fp32, onnx-int8]",  # no file is made of int4, so that nothing is trained for it
        "refine.epochs=5",
    )
    seconds = plan_of(load_study(write_study(tmp_path), host, sets=sets), host)["seconds"]
    assert seconds["compress"] == pytest.approx((3 + 2 + 4) * seconds["refine"] / (2 * 5))
    assert seconds["export"] == 3.0 * (2 + 1), "two formats, and the teacher's file for its latency"


def test_fp32_is_measured_once_whether_it_is_asked_for_or_not(tmp_path):
    host = Host.load()
    for formats in ("[onnx-int8]", "[onnx-int8, onnx-fp32]"):
        sets = (*LESS, "compress.quantize=[int8]", f"export.formats={formats}")
        assert plan_of(load_study(write_study(tmp_path), host, sets=sets), host)["seconds"]["export"] == 3.0 * (2 + 1)


def test_no_more_candidates_are_counted_than_the_space_has(tmp_path, capsys):
    """Two widths in each of three stages."""
    sets = (*LESS, "search.candidates=100", "student.spec={depths: [1, 1, 1], widths: {choices: [4, 8]}}")
    host = Host.load()
    found = plan_of(load_study(write_study(tmp_path), host, sets=sets), host)
    assert found["candidates"] == 8
    assert found["text"].startswith("tiny: 8 candidates scored, ")
    assert main(["validate", str(tmp_path / "tiny.yaml"), *(word for each in sets for word in ("--set", each))]) == 0
    assert "search   8 candidates, scored by params" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sets", "networks", "floats"),
    [
        ((), 2 + 1 + 2 * 1 + 2 * 2, 10),
        (("teacher.cache=off",), 2 + 1 + 2 * 1 + 2 * 2, 0),
        (("recipe.distillers=[fitnet]",), 2 + 1 + 2 * 1 + 2 * 2, 10 + 8 * 4 * 4),
        (("refine.trials=6", "distill.winners=2", "distill.finalists=3"), 2 + 2 + 2 * 1 + 2 * 6, 10),
        (("distill.controls=[baseline, all_labels]", "refine.trials=1"), 2 + 3 + 2 * 1 + 2 * 3, 10),
        (("compress.prune={use: channels}", "refine.trials=1"), 2 + 1 + 4 * 1 + 2 * 1 + 2 * 1, 10),
        (("compress.quantize=[int8]", "export.formats=[onnx-fp32, onnx-int8]"), 2 + 1 + 2 * 2 + 2 * 2, 10),
    ],
)
def test_disk_is_what_is_kept_and_worked_on(sets, networks, floats, tmp_path, monkeypatch):
    """Each network as 1,000 bytes: twice the teacher, what `distill` and `compress` keep, files twice, trainings twice.

    And the page twice. Rows are a teacher's logits and, for fitnet, its map stage[-2], 8x4x4, of train and val.
    """
    monkeypatch.setattr(plan, "_bytes", lambda model: 1000)
    host = Host.load()
    found = plan_of(load_study(write_study(tmp_path), host, sets=(*LESS, *sets)), host)
    rows = found["samples"]["train"]["samples"] + found["samples"]["val"]["samples"]
    assert found["disk_bytes"] == 1000 * networks + 4 * floats * rows + 1_800_000


def test_disk_counts_what_a_teacher_s_cache_leaves_out(tmp_path, monkeypatch):
    """A tap beyond the limit, and the test split, whose 180 rows are below it."""
    monkeypatch.setattr(plan, "_bytes", lambda model: 0)
    monkeypatch.setattr(plan, "CACHE_BYTES", 4 * 8 * 4 * 4 * 200)
    host = Host.load()
    sets = (*LESS, "recipe.distillers=[fitnet]", "teacher.cache=all")
    found = plan_of(load_study(write_study(tmp_path), host, sets=sets), host)
    train, val, test = (found["samples"][name]["samples"] for name in ("train", "val", "test"))
    assert test == 180
    assert found["disk_bytes"] == 4 * 10 * (train + val) + 4 * (10 + 8 * 4 * 4) * test + 1_800_000


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("params=10", "keeps params <= 10, macs <= 2,000,000;"),
        ("macs=20", "keeps params <= 20,000, macs <= 20;"),
        ("onnx_bytes=500", "keeps params <= 20,000, macs <= 2,000,000, onnx_bytes <= 500;"),
        ("onnx_bytes={format: onnx-fp32, max: 500}", "macs <= 2,000,000, onnx_bytes <= 500;"),
    ],
)
def test_limits_that_nothing_drawn_keeps_are_said_before_a_teacher_is_trained(tmp_path, limit, said):
    host = Host.load()
    materials = looked_at(load_study(write_study(tmp_path), host, sets=(*LESS, f"constraints.{limit}")), host)
    (warning,) = hardly_feasible(materials)
    space = materials.spaces["student"]
    cost = space.cost(space.parse({"depths": [1, 1, 1], "widths": [4, 4, 4]}), materials.io)  # of 64
    assert said in warning
    assert warning.endswith(f"the smallest of them has {cost.params:,} params and {cost.macs:,} MACs")


def test_what_one_network_costs_may_be_unknown_where_limits_are_looked_at(tmp_path, monkeypatch):
    """The search tells of networks that a space's own code fails at, and goes on with the others."""

    def failing(real):
        def told(self, spec, io):
            if spec.depths[0] == 2:
                raise ValueError("no such network")
            return real(self, spec, io)

        return told

    for name in ("cost", "build"):
        monkeypatch.setattr(CifarResNetSpace, name, failing(getattr(CifarResNetSpace, name)))
    host, study = Host.load(), write_study(tmp_path)
    materials = looked_at(load_study(study, host, sets=(*LESS, "constraints.params=10")), host)
    space, rng = materials.spaces["student"], Generator().manual_seed(0)
    assert all(plan._middling(materials, space, rng).depths[0] == 1 for _ in range(4))
    (warning,) = hardly_feasible(materials)
    said = search._nothing_feasible(materials, "student", Explored((), "exhausted", 9))
    assert "keeps params <= 10," in warning
    assert "keeps params <= 10," in said
    assert "the smallest of a sample has 1," in said


@pytest.mark.parametrize(
    ("sets", "files"),
    [
        ((), 0),
        (("constraints.onnx_bytes=90000",), 4),  # all candidates: no more are drawn
        (("constraints.onnx_bytes=90000", "search.candidates=60"), 24),
        (("constraints.latency_ms=5", "search.candidates=60", "search.keep=7"), 7),
        (("constraints.peak_bytes=9000000", "search.candidates=900"), 24),
    ],
)
def test_files_that_limits_need_are_counted(tmp_path, sets, files):
    less = [each for each in LESS if not each.startswith("search.keep")]
    materials = looked_at(
        load_study(write_study(tmp_path), Host.load(), sets=(*less, "search.keep=null", *sets)), Host.load()
    )
    assert search.measured(materials) == files


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((), ""),  # scores of a thousand cost nothing
        (("constraints.onnx_bytes=90000",), "choose from 24 networks, whose files are measured beforehand"),
        (("constraints.onnx_bytes=90000", "refine.trials=24"), ""),
        (("constraints.onnx_bytes=90000", "search.candidates=24"), ""),
        (("constraints.onnx_bytes=90000", "search.keep=24"), ""),  # as was asked for
        (("refine.controller={use: optuna}",), "choose from 8 networks, by score"),
        (("refine.controller={use: optuna}", "search.keep=30"), ""),
    ],
)
def test_trials_that_have_few_networks_to_choose_from_are_told(tmp_path, sets, said):
    file = write_study(tmp_path)
    base = ("search.candidates=60", "search.keep=null", "refine.trials=30")
    notes = plan_of(load_study(file, Host.load(), sets=(*base, *sets)), Host.load())["notes"]
    found = [each for each in notes if each.startswith("refine: 30 trials")]
    assert [said in each and "(here up to 60)" in each for each in found] == ([True] if said else [])


@pytest.mark.parametrize(("cache", "step"), [("auto", 0.5), ("off", 1.0)])
def test_a_stage_takes_what_its_parts_do(cache, step, tmp_path, monkeypatch):
    """A step of 1 s, of which .25 s are the student's passes and .5 s the teacher's answer, that is stored beforehand or not."""
    told = {
        "_step_seconds": lambda *_: 0.25,
        "_answer_seconds": lambda *_: 0.5,
        "_whole_step_seconds": lambda *_: 1.0,
        "_forward": lambda *_: lambda model: 0.125,
        "_score_seconds": lambda *_: 12.0,
    }
    for name, value in told.items():
        monkeypatch.setattr(f"kdsearch.verbs.timing.{name}", value)
    sets = (
        *LESS[:2],
        *LESS[4:],
        f"teacher.cache={cache}",
        "recipe.train.batch_size=100",
        "refine={trials: 5, epochs: 2, generation: 4, weightings: false, first: [scored]}",
        "distill={winners: 1, finalists: 1, epochs: 3, controls: [baseline]}",
        "run={workers: 2, executor: {use: processes}}",
    )
    study = load_study(write_study(tmp_path), Host.load(), sets=sets)
    found = plan_of(study, Host.load())
    n = {name: each["samples"] for name, each in found["samples"].items()}
    seconds, (trials,) = found["seconds"], (each["count"] for each in found["trainings"] if each["what"] == "trials")
    epoch = n["train"] / 100 * step + n["val"] / 100 * 0.125
    assert seconds["refine"] == pytest.approx(trials * 2 * epoch / min(2, trials))
    assert seconds["distill"] == pytest.approx(3 * epoch), "winner and control side by side"
    more = ("distill.finalists=2", "run.workers=9")
    beside = plan_of(load_study(write_study(tmp_path), Host.load(), sets=(*sets, *more)), Host.load())["seconds"][
        "distill"
    ]
    assert beside == pytest.approx((0.25 * 3 + 3) * epoch), "controls are of the finalist that goes on after a quarter"
    assert seconds["search"] == pytest.approx(6.0)
    stored = 0.5 / 100 * (n["train"] + n["val"]) if cache == "auto" else 0.0
    assert seconds["prepare"] == pytest.approx(stored + 2 * n["train"] / 128 * (0.25 + 0.25))


def test_their_time_is_the_searchs(tmp_path, monkeypatch):
    monkeypatch.setattr("kdsearch.verbs.timing.EXPORT_S", 1e6)  # beside which nothing else counts
    study = load_study(write_study(tmp_path), Host.load(), sets=(*LESS, "constraints.onnx_bytes=90000"))
    assert plan_of(study, Host.load())["seconds"]["search"] // 1e6 == 2  # candidates go on


def test_limits_that_something_keeps_are_no_matter(tmp_path):
    host = Host.load()
    assert hardly_feasible(looked_at(load_study(write_study(tmp_path), host, sets=LESS), host)) == []
