"""Scores and tables by a study file: what the study's own search would score, in the direction of its objective."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest

from kdsearch.cli import main
from kdsearch.errors import StudyError, UserError
from kdsearch.host import Host
from kdsearch.stages.search import scorer_of
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs import bench_search, commands, scorers
from tests.stages.tiny import LESS, run_tiny

REGRESSION = """\
name: cars
seed: 2
data: {use: bundled_table, options: {name: auto_mpg}}
teacher: {use: trained, options: {space: mlp, epochs: 1}}
student: {space: mlp, spec: {widths: {choices: [8, 16]}, depth: {choices: [1, 2, 3]}}}
recipe: {distillers: [match]}
objectives: {rmse: min}
search: {candidates: 6, proxy: params}
"""


def test_scores_are_those_of_the_studys_search(tmp_path):
    run_tiny(tmp_path, *LESS[:-1], "search.proxy=auto")
    (found,) = (tmp_path / "study" / "artifacts").glob("search-*/candidates-student.jsonl")
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    assert len(rows) == 4
    (tmp_path / "archs.txt").write_text("\n".join(json.dumps(row["spec"]) for row in rows))
    study = tmp_path / "study" / "study.yaml"
    asked = ("auto", "relation", "synflow")
    own = commands.score(study=study, proxies=asked, archs=tmp_path / "archs.txt", progress=False)
    for row, known in zip(own["rows"], rows, strict=True):
        assert row["scores"]["auto"] == pytest.approx(known["score"], abs=1e-12)
        assert row["scores"]["relation"] == known["scores"]["relation"]
        assert row["params"] == known["params"]
    other = commands.score(study=study, proxies=("relation",), archs=tmp_path / "archs.txt", seed=5, progress=False)
    assert [each["scores"] for each in other["rows"]] != [{"relation": r["scores"]["relation"]} for r in rows]
    assert own["data"] == "noise 1x8x8"


def test_a_study_says_how_many_initialisations_and_is_read_anew(tmp_path):
    study = tmp_path / "cars.yaml"
    study.write_text(REGRESSION.replace("proxy: params}", "proxy: params, probe: {seeds: 3}}"))
    found = commands.score(study=study, proxies=("synflow",), sample=3, progress=False)
    assert found["init_seeds"] == 3
    assert all(row["spread"]["synflow"] > 0 for row in found["rows"])
    assert {row["spec"]["depth"] for row in found["rows"]} <= {1, 2, 3}
    study.write_text(REGRESSION.replace("choices: [1, 2, 3]", "choices: [4]"))
    found = commands.score(study=study, proxies=("synflow",), sample=3, progress=False)
    assert found["init_seeds"] == 1
    assert {row["spec"]["depth"] for row in found["rows"]} == {4}


@pytest.fixture
def cars(tmp_path):
    """A table in which the error falls as networks grow."""
    (tmp_path / "cars.yaml").write_text(REGRESSION)
    materials = open_materials(load_study(tmp_path / "cars.yaml", Host.load()), Host.load())
    space = materials.spaces["student"]
    specs = [{"depth": depth, "widths": [width] * depth} for depth in (1, 2, 3) for width in (8, 16)]
    assert scorer_of(materials, "student").space is space
    rows = []
    for spec in specs:
        parsed = space.parse(spec)
        rows.append((space.encode(parsed), space.cost(parsed, materials.io).params))
    quoted = ['"' + text.replace('"', '""') + f'",{100 / params}' for text, params in rows]
    (tmp_path / "table.csv").write_text("\n".join(["arch,error", *quoted]))
    return tmp_path, min(100 / params for _, params in rows)


def test_less_is_better_where_the_study_says_so(cars):
    folder, best = cars
    found = commands.bench_proxies(
        study=folder / "cars.yaml", table=folder / "table.csv", column="error", proxies=("params",), progress=False
    )
    (row,) = found["rows"]
    assert (row["kendall_tau"], row["top10_best"]) == pytest.approx((1.0, best))
    assert (found["space"], found["study"]) == ("mlp", str((folder / "cars.yaml").resolve()))
    search = partial(
        commands.bench_search,
        study=folder / "cars.yaml",
        table=folder / "table.csv",
        column="error",
        budgets=(1, 6),
        repeats=2,
        strategies=("kdsearch", "random", "params_top_k"),
        progress=False,
    )
    found = search()
    assert search(workers=2) == found
    few = search(candidates=2, budgets=(6,), repeats=4, strategies=("kdsearch",))
    assert few["candidates"] == 2
    assert few["rows"][0]["regret"] > 0, "not in each repeat is the best one among the two that are scored"
    (folder / "table.csv").write_text("arch,error\n")
    once = bench_search.Search("params_top_k", 0, 1)
    setting = scorers.setting_of(None, folder / "cars.yaml", ("params",), None, None, None, None, ())
    judged = bench_search.Judged(setting, folder / "table.csv", "error", 1.0)
    with pytest.raises(UserError, match=r"--strategies: params_top_k: .*table.csv"):
        list(bench_search._curves(judged, None, [once], 2))
    after = {(row["strategy"], row["budget"]): row for row in found["rows"]}
    assert found["candidates"] == 6
    assert found["optimum"] == pytest.approx(best)
    assert after["params_top_k", 1]["mean_best"] == pytest.approx(best)
    assert after["random", 1]["mean_best"] >= best
    for row in after.values():
        assert row["regret"] == pytest.approx(row["mean_best"] - best)
        assert row["regret"] >= 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--space: neither a space nor a study is named"),
        (("--study", "cars.yaml", "--space", "mlp"), "--space: --space beside --study"),
        (("--study", "cars.yaml", "--init-seeds", "2"), "--init-seeds: --init-seeds beside --study"),
        (("--study", "cars.yaml", "--data", "digits"), "--data: --data beside --study"),
        (("--study", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_what_is_named_twice_or_not_at_all(words, says, cars, capsys, monkeypatch):
    monkeypatch.chdir(cars[0])
    assert main(["score", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_study_of_several_students_is_refused(tmp_path, monkeypatch):
    (tmp_path / "two.yaml").write_text(REGRESSION)
    monkeypatch.setattr(scorers, "_materials", lambda *asked: SimpleNamespace(spaces={"a": None, "b": None}))
    with pytest.raises(StudyError, match="students: 2 students"):
        commands.score(study=tmp_path / "two.yaml", proxies=("params",), progress=False)
