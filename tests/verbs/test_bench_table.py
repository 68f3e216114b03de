"""`kdsearch bench table` on a study of a few seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.kinds import IO, Field
from kdsearch.stages import table
from kdsearch.store.artifacts import Store
from kdsearch.store.files import read_lines
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.trainings import Trainings
from kdsearch.verbs import commands
from kdsearch.verbs.bench_table import _agreement
from tests.stages.tiny import TEXT, write_study

ASKED = ("--n", "3", "--epochs", "2", "--seeds", "2", "--set", "teacher.options.epochs=1")


def run(capsys, file, *words):
    code = main(["bench", "table", str(file), *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def rows_of(path):
    with path.open(newline="") as stream:
        return [
            {name: value if name == "arch" else float(value) for name, value in row.items()}
            for row in csv.DictReader(stream)
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    assert main(["bench", "table", str(write_study(folder)), *ASKED]) == 0
    return folder / "tiny-table"


def test_every_architecture_has_each_figure(whole):
    rows = rows_of(whole / "table.csv")
    assert len(rows) == 3
    assert len({row["arch"] for row in rows}) == 3
    space = CifarResNetSpace()
    lines = read_lines(next(whole.glob("work/*/rows.jsonl")))
    assert len(lines) == 3 * 2 * 2
    for row in rows:
        spec = space.decode(row["arch"])
        assert row["params"] <= 20000
        assert row["macs"] <= 2_000_000
        assert row["params"] == sum(each.numel() for each in space.build(spec, _io()).module.parameters())
        for kind in ("kd", "ce"):
            for split in ("val", "test"):
                seeds = [row[f"{kind}_{split}_s{seed}"] for seed in (0, 1)]
                assert row[f"{kind}_{split}"] == pytest.approx(sum(seeds) / 2, abs=1e-5)
            for seed in (0, 1):
                assert row[f"{kind}_val_s{seed}_e2"] == row[f"{kind}_val_s{seed}"]
                assert 0 <= row[f"{kind}_val_s{seed}_e1"] <= 1
    assert any(row["kd_test_s0"] != row["kd_test_s1"] for row in rows)
    assert any(row["kd_test_s0"] != row["ce_test_s0"] for row in rows)


def _io():
    return IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (10,)),))


def test_killed_it_goes_on_to_the_same_table(whole, tmp_path, capsys, monkeypatch):
    told = []
    own = table.append_line

    def until_the_fifth(path, value):
        if len(told) == 5:
            raise KeyboardInterrupt
        told.append(value)
        own(path, value)

    monkeypatch.setattr(table, "append_line", until_the_fifth)
    file = write_study(tmp_path)
    code, _, err = run(capsys, file, *ASKED)
    assert (code, len(told)) == (130, 5)
    assert "kdsearch bench table" in err
    monkeypatch.setattr(table, "append_line", lambda path, value: (told.append(value), own(path, value)))
    code, out, _ = run(capsys, file, *ASKED, "--json")
    assert code == 0
    assert len(told) == 12
    assert (tmp_path / "tiny-table/table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    found = json.loads(out)
    assert (found["architectures"], found["objective"], found["direction"]) == (3, "accuracy", "max")
    assert not list((tmp_path / "tiny-table/work").glob("table-*/kd-*"))


def test_a_longer_training_is_another_one_and_the_table_is_for_bench(whole, capsys):
    words = ("--space", "cifar_resnet", "--table", whole / "table.csv", "--column", "kd_test", "--proxies", "params")
    assert main(["bench", "proxies", *map(str, words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sample"] == 3


def test_the_command_hands_over_what_was_written(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(commands, "bench_table", lambda **given: seen.update(given) or {"text": ""}, raising=False)
    words = "s.yaml --n 3 --epochs 4 --seeds 2 --kinds kd,ce --out t.csv --dir d --workers 2 --seed 5 --set a=1"
    assert main(["bench", "table", *words.split(), "--allow-code", "x.py:Y"]) == 0, capsys.readouterr().err
    assert seen == {
        "file": Path("s.yaml"),
        "n": 3,
        "epochs": 4,
        "seeds": 2,
        "kinds": ("kd", "ce"),
        "out": Path("t.csv"),
        "dir": Path("d"),
        "workers": 2,
        "seed": 5,
        "sets": ("a=1",),
        "allow_code": ("x.py:Y",),
    }


def test_files_that_break_a_limit_are_none_of_the_table(tmp_path, monkeypatch):
    """Every second file is too large."""
    sizes = iter([9.0, 11.0] * 50)
    monkeypatch.setattr(table, "file_costs", lambda *_: {"onnx_bytes": next(sizes)})
    study = load_study(write_study(tmp_path), Host.load(), sets=("constraints.onnx_bytes=10",))
    tools = SimpleNamespace(heed_stop=lambda: None)
    found = table.students_of(open_materials(study, Host.load()), "student", 4, tmp_path, tools)
    assert [each.costs["onnx_bytes"] for each in found] == [9.0] * 4


def test_rows_and_file_costs_are_of_what_they_were_made_from(tmp_path, monkeypatch):
    """Another objective or recipe is another table; other limits have other files, and the same trainings."""
    folders = []
    monkeypatch.setattr(table, "file_costs", lambda *given: folders.append(given[3]) or {"onnx_bytes": 1.0})
    store, prepared = Store(tmp_path / "store"), SimpleNamespace(key="p")
    limit = "constraints.onnx_bytes=100000"

    def key(*sets):
        materials = open_materials(load_study(write_study(tmp_path), Host.load(), sets=sets), Host.load())
        table.students_of(materials, "student", 2, tmp_path, SimpleNamespace(heed_stop=lambda: None))
        return table.key_of(materials, prepared, store), folders[-1]

    rows, files = key(limit)
    assert key(limit, "distill.epochs=3", "search.keep=2")[0] == rows
    assert key("constraints.onnx_bytes={max: 100000, format: onnx-int4}") == (rows, folders[-1])
    assert folders[-1] != files
    assert key(limit, "objectives={nll: min}")[0] != rows
    assert key(limit, "recipe.distillers[0].options.temperature=2")[0] != rows


def test_the_best_is_the_least_where_less_is_better():
    students = [table.Student(name, name, {}, {"params": n}) for n, name in enumerate("abc")]
    rows = [
        {"key": name, "kind": "kd", "seed": 0, "error": "", "val": value, "test": value}
        for name, value in zip("abc", (0.5, 0.2, 0.9), strict=True)
    ]
    assert [_agreement(rows, "kd", students, way)["best"] for way in ("max", "min")] == [0.9, 0.2]


def test_larger_ones_that_are_better_agree_whichever_way_is_better():
    """An error that falls with size is ordered by size as an accuracy is that rises with it."""
    students = [SimpleNamespace(key=name, costs={"params": n}) for name, n in (("a", 1), ("b", 2), ("c", 3))]

    def found(way, values):
        about = {"kind": "kd", "seed": 0, "error": ""}
        rows = [{**about, "key": name, "val": each, "test": each} for name, each in zip("abc", values, strict=True)]
        return _agreement(rows, "kd", students, way)

    for way, values in (("max", (0.2, 0.5, 0.9)), ("min", (0.9, 0.5, 0.2))):
        assert (found(way, values)["tau_of_params"], found(way, values)["tau_of_validation"]) == (1.0, 1.0)


def test_one_that_failed_is_tried_anew(whole, tmp_path, capsys, monkeypatch):
    """Its process was killed; the same command goes on, and a space of fewer architectures than were asked for is said to be."""
    ended, lost = Trainings.ended, []

    def losing(self):
        found = ended(self)
        for name in [*found][: 1 - len(lost)]:
            lost.append(name)
            found[name] = "killed by signal 9"
        return found

    monkeypatch.setattr(Trainings, "ended", losing)
    spec = "student.spec={depths: {choices: [1, 2]}, widths: [4, 4, 8]}"
    words = ("--n", 9, "--epochs", 1, "--kinds", "kd", "--set", spec)
    file = write_study(tmp_path)
    code, out, _ = run(capsys, file, *words, "--json")
    assert (code, len(lost)) == (0, 1), out
    assert [each.partition(":")[0] for each in json.loads(out)["notes"]] == ["left out", "8 architectures, not 9"]
    assert json.loads(out)["architectures"] == 7
    began, submit = [], Trainings.submit

    def watched(self, request, *more):
        began.append(request.name)
        submit(self, request, *more)

    monkeypatch.setattr(Trainings, "submit", watched)
    code, out, _ = run(capsys, file, *words, "--json")
    assert (code, began) == (0, lost)
    assert json.loads(out)["architectures"] == 8


def test_one_that_fails_is_left_out_and_said(whole):
    students = [table.Student(name, name, {}, {"params": 1.0}) for name in "abc"]
    good = {"kind": "kd", "seed": 0, "error": "", "val": 0.5, "test": 0.25, "epochs": [0.5]}
    rows = [{**good, "key": "a"}, {**good, "key": "b"}, {"kind": "kd", "seed": 0, "key": "c", "error": "loss is nan"}]
    text, notes = table.csv_of(students, rows, table.Asked(3, 1, 1, ("kd",)))
    assert text.splitlines()[0] == "arch,params,kd_val,kd_test,kd_val_s0,kd_test_s0,kd_val_s0_e1"
    assert text.splitlines()[1:] == ["a,1,0.5,0.25,0.5,0.25,0.5", "b,1,0.5,0.25,0.5,0.25,0.5"]
    assert notes == ["left out: c: loss is nan"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--n", 3, "--kinds", "kdd"), "--kinds: 'kdd'; did you mean 'kd'?"),
        (("--n", 1), "--n"),
        (("--n", 3, "--set", "constraints.params=10"), "architectures keep the constraints"),
        (
            ("--n", 3, "--set", "student.spec={depths: [1, 1, 1], widths: [4, 4, 8]}"),
            "student.spec: the space holds one architecture. Expected two or more",
        ),
    ],
)
def test_what_is_wrong_is_named(words, message, tmp_path, capsys):
    file = write_study(tmp_path, TEXT.replace("epochs: 2, batch_size: 128", "epochs: 1, batch_size: 400"))
    code, out, err = run(capsys, file, *words)
    assert (code, out) == (3 if "constraints" in message else 2, "")
    assert message in err
