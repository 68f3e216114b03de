"""A teacher that teaches nothing is the first thing that a finished study says."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kdsearch import Result
from kdsearch.cli import main
from kdsearch.stages.notes import _best_is_no_find, warnings_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import write_json
from kdsearch.verbs.summary import summary_of
from tests.stages.tiny import LESS, run_tiny, write_study


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    slow = "teacher.options={space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}, epochs: 1, lr: 1.0e-6}"
    sets = [each for each in LESS if not each.startswith("distill.controls")]
    folder = tmp_path_factory.mktemp("lost")
    return run_tiny(
        folder, *sets, slow, "distill.controls=[baseline]", "distill.epochs=6", "data.labeled=1.0", "constraints={}"
    ), folder


def test_terminal_json_and_page_begin_with_it(result):
    found, folder = result
    chance, worse = found["warnings"]
    assert "hardly better than chance" in chance
    assert "is worse than the student that was trained on the labels alone" in worse
    assert summary_of(found, folder).splitlines()[:2] == [f"WARNING  {chance}", f"WARNING  {worse}"]
    page = (folder / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert 'role="alert"' in page[: page.index('class="verdict"')]


def test_a_student_as_large_as_its_teacher_is_told_where_nothing_keeps_it_small(result):
    found, folder = result
    large, small = found["student"]["params"], found["teacher"]["params"]
    assert large >= small
    note = f"Teacher 'main' has {small:,} parameters, the student {large:,}: nothing in `constraints` keeps it small."
    assert note in found["notes"]
    assert f"note        {note}" in summary_of(found, folder).splitlines()


@pytest.mark.parametrize(
    ("facts", "expected"), [({}, []), ({"copies": {"test": 1200}}, ["1,200 samples of 'test' are copies"])]
)
def test_copies_of_training_samples_are_a_warning(facts, expected):
    made = {
        "export": {"qualities": {"runs": {}}, "shipped": {}, "shipped_roles": {}},
        "prepare": {"data": {"facts": facts}},
    }
    inputs = {stage: Artifact(stage, "key", Path(), each) for stage, each in made.items()}
    found = warnings_of(SimpleNamespace(study=SimpleNamespace(teachers=())), inputs)
    assert [each.partition(" of training")[0] for each in found] == expected


@pytest.mark.parametrize(
    ("pick", "objectives", "came", "level", "said"),
    [
        ("best", {"accuracy": "max"}, (0.9, 0.8), [], "found nothing of better accuracy"),
        ("max:accuracy", {"accuracy": "max"}, (0.9, 0.8), [], "found nothing of better accuracy"),
        ("best", {"accuracy": "max"}, (0.9, 0.91), [], "chose nothing else"),
        ("best", {"accuracy": "max"}, (0.9, 0.91), [0, 1], "found nothing of clearly better accuracy"),
        ("best", {"accuracy": "max"}, (0.9, 0.93), [0], "chose nothing else"),
        ("best", {"accuracy": "min"}, (0.9, 0.8), [], "chose nothing else"),
        ("best", {"accuracy": "min"}, (0.9, 0.91), [], "found nothing of better accuracy"),
        ("best", {"accuracy": "max"}, (None, 0.8), [], "chose nothing else"),
        ("max:params", {"accuracy": "max"}, (0.9, 0.8), [], "chose nothing else"),
        ("best", {"params": "min"}, (0.9, 0.8), [], "chose nothing else"),
        ("best", {"accuracy": "max", "params": "min"}, (0.9, 0.8), [], "chose nothing else"),
    ],
)
def test_that_nothing_better_was_found_is_said_where_it_was_looked_for(pick, objectives, came, level, said, tmp_path):
    """`came`: accuracies of the student's trial, which anybody would have begun with, and of another; None: it was stopped."""
    rows = [
        {"number": i, "objectives": {} if each is None else dict.fromkeys(objectives, each)}
        for i, each in enumerate(came)
    ]
    write_json(tmp_path / "trials.json", rows)
    distill = SimpleNamespace(pick=pick)
    materials = SimpleNamespace(
        ships=("student",),
        objective="accuracy",
        objectives=objectives,
        metrics={"accuracy": SimpleNamespace(title="", unit="share", direction="max")},
        study=SimpleNamespace(config=SimpleNamespace(distill=distill)),
    )
    facts = {
        "search": {"roles": {"student": {"candidates": 2}}},
        "refine": {"first": [["the most params"]]},
        "distill": {"trial": 0, "level": level, "error": 0.02},
    }
    inputs = {stage: Artifact(stage, "key", tmp_path, each) for stage, each in facts.items()}
    note = f"The student is that of trial 0, the network of the most params: the search {said}."
    assert _best_is_no_find(materials, inputs) == [note]


TABLE = """\
name: rows
data: {use: table, options: {path: rows.csv, target: y}}
student: {space: mlp, spec: {depth: 1, widths: [8]}}
recipe: {distillers: []}
refine: {trials: 1, epochs: 1}
distill: {epochs: 1, controls: [], compare: null}
compress: {quantize: []}
export: {exporter: {use: onnx, options: {engine: torchscript}}, formats: [onnx-fp32]}
run: {device: cpu, executor: {use: inprocess}}
"""


def test_what_the_data_say_of_themselves_is_said_before_and_after(tmp_path, capsys):
    """A column without a value: by `validate`, `--plan`, `run` and its result."""
    rows = "".join(f"{i % 7},,{i % 3},{i % 2}\n" for i in range(80))
    (tmp_path / "rows.csv").write_text(f"a,none,b,y\n{rows}")
    file = write_study(tmp_path, TABLE)
    said = "Data: Column 'none' is not read: no training row has a value there."
    for command in (["validate", str(file)], ["validate", str(file), "--plan"]):
        assert main(command) == 0
        assert f"NOTE  {said}" in capsys.readouterr().out.splitlines()
    assert main(["run", str(file), "--dir", str(tmp_path / "study")]) == 0
    out, err = capsys.readouterr()
    assert f"note        {said}" in out.splitlines()
    assert said in err.splitlines()
    assert Result.open(tmp_path / "study")["notes"][0] == said


def test_of_stored_answers_nobody_knows_the_networks_size(tmp_path):
    """It had 0 weights, and the page set the student's beside it."""
    rows = "".join(f"s{i},{i % 7},{i % 3},{i % 2}\n" for i in range(80))
    (tmp_path / "rows.csv").write_text(f"id,a,b,y\n{rows}")
    ids = [f"s{i}" for i in range(80)]
    np.savez(tmp_path / "told.npz", ids=np.array(ids), logits=np.eye(2, dtype=np.float32)[np.arange(80) % 2])
    taught = TABLE.replace("target: y}", "target: y, id: id}") + "teacher: {use: table, options: {path: told.npz}}\n"
    file = write_study(tmp_path, taught)
    assert main(["run", str(file), "--dir", str(tmp_path / "study")]) == 0
    teacher = Result.open(tmp_path / "study")["teacher"]
    assert (teacher["params"], teacher["macs"]) == (None, None)
    assert teacher["quality"]["value"] == 1


def test_a_control_that_no_label_of_the_test_split_can_judge_is_left_out(tmp_path, capsys):
    """The teacher stands in for the student's labels there; the control has none, and ended the run after all its work."""
    rows = "".join(f"{i % 7},{i % 3},{i % 2 if i < 60 else ''},{'train' if i < 60 else 'test'}\n" for i in range(80))
    (tmp_path / "rows.csv").write_text(f"a,b,y,part\n{rows}")
    taught = TABLE.replace("target: y}", "target: y, split: part}").replace("distillers: []", "distillers: [kd]")
    taught = taught.replace("controls: []", "controls: [baseline]")
    file = write_study(tmp_path, taught + "teacher: {use: trained, options: {space: mlp, epochs: 1}}\n")
    assert main(["run", str(file), "--dir", str(tmp_path / "study")]) == 0
    said = "'baseline' is not measured on the test split: split 'test' has 20 samples and no label"
    assert said in capsys.readouterr().err.splitlines()
    result = Result.open(tmp_path / "study")
    assert result["baseline"] is None
    assert result["metrics"]["teacher_agreement"] == result["metrics"]["accuracy"]
    assert (
        "The samples of the test split have no label: there the teacher's class counts as right." in result["warnings"]
    )


def test_what_ships_has_to_be_judged(tmp_path, capsys):
    rows = "".join(f"{i % 7},{i % 3},{i % 2 if i < 60 else ''},{'train' if i < 60 else 'test'}\n" for i in range(80))
    (tmp_path / "rows.csv").write_text(f"a,b,y,part\n{rows}")
    file = write_study(tmp_path, TABLE.replace("target: y}", "target: y, split: part}"))
    assert main(["run", str(file), "--dir", str(tmp_path / "study")]) == 2
    assert "split 'test' has 20 samples and no label. Expected labels, or a teacher" in capsys.readouterr().err
    assert not (tmp_path / "study" / "result.json").exists()
