"""A study's result in Python and in a notebook."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import pytest

import kdsearch
from kdsearch.errors import ArtifactError, UserError
from kdsearch.python.result import Result
from kdsearch.store.files import read_json, read_lines
from kdsearch.verbs.finished import evidence_of_last
from kdsearch.verbs.summary import summary_of
from tests.report.browser import needs_chromium, see
from tests.stages.conftest import Done


@pytest.fixture
def result(finished: Done) -> Result:
    return kdsearch.Result.open(finished.folder / "study")


def test_it_is_the_final_json_and_reads_as_the_summary(finished: Done, result: Result) -> None:
    folder = finished.folder / "study"
    assert dict(result) == read_json(folder / "result.json")
    assert json.loads(json.dumps(result)) == copy.deepcopy(result) == result
    assert repr(result) == summary_of(result, folder)
    with pytest.raises(ArtifactError, match="no study's folder"):
        Result.open(finished.folder)


def test_it_is_read_wherever_the_program_goes(
    finished: Done, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    relative = Result.open("study")
    assert relative["dir"] == "study"
    monkeypatch.chdir(tmp_path)
    assert relative.evidence["trials"] == result.evidence["trials"]


def test_tables_hold_every_trial_candidate_and_file(finished: Done, result: Result) -> None:
    evidence = evidence_of_last(finished.folder / "study")
    trials, candidates, exports = (
        table() for table in (result.trials_dataframe, result.candidates_dataframe, result.exports_dataframe)
    )
    assert list(trials["number"]) == [each["number"] for each in evidence["trials"]]
    known = [each["objectives"]["accuracy"] for each in evidence["trials"] if each["state"] == "complete"]
    assert list(trials[trials["state"] == "complete"]["accuracy"]) == known
    assert trials["recipe.train.lr"].notna().all()
    rows = read_lines(finished.folder / "study" / "candidates.jsonl")
    assert list(candidates["score"]) == sorted((each["score"] for each in rows), reverse=True)
    assert candidates["architecture"].str.contains("widths ").all()
    assert dict(zip(exports["format"], exports["bytes"], strict=True)) == {
        each["format"]: each["bytes"] for each in result["exports"]
    }
    assert list(exports["format"][exports["recommended"]]) == [result["recommended"]["format"]]


def test_a_result_does_not_show_a_later_runs_trials(finished: Done, result: Result) -> None:
    """As what `kdsearch.run` gave, not only as the file has it; what a user adds is the user's."""
    own = Result({**finished.result, "mine": 1, "dir": str(finished.folder / "study"), "seconds": {}})
    assert own.evidence["trials"] == result.evidence["trials"]
    before = Result({**result, "student": {**result["student"], "accuracy": 0.0}})
    with pytest.raises(ArtifactError, match=r"student: the folder holds the result of a later run. Open it again"):
        before.trials_dataframe()


def test_tables_without_pandas_say_what_to_install(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (result.trials_dataframe, result.candidates_dataframe, result.exports_dataframe):
        with pytest.raises(UserError, match=r"pandas is not installed.*pip install 'kdsearch\[notebook\]'"):
            table()


def test_figures_are_those_of_the_page_by_name(finished: Done, result: Result) -> None:
    names = ["ladder", "weights", "front", "history", "proxies", "curves", "classes", "confusion"]
    assert list(result.figures) == names
    page = (finished.folder / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<figure id="fig-([a-z]+)"', page)) == set(names)
    with pytest.raises(KeyError, match="no figure 'fronts'; there are ladder, weights, front"):
        result.figures["fronts"]
    assert repr(result.figures).startswith("ladder: From the teacher")
    assert repr(result.figures["front"]) == "<figure 'front': What the search saw>"


@needs_chromium
def test_a_figure_shows_itself_in_a_notebook(result: Result, tmp_path: Path) -> None:
    shown = result.figures["front"]
    bundle = shown._repr_mimebundle_()
    spec = bundle["application/vnd.vegalite.v5+json"]
    assert [len(panel["data"]["values"]) for panel in spec["hconcat"]] == [
        len(panel["data"]["values"]) for panel in shown.figure.panels
    ]
    json.dumps(spec, allow_nan=False)
    act = """
const frame=document.querySelector('iframe'), f=frame.contentDocument;
while(f.body.dataset.drawn===undefined)await new Promise(r=>setTimeout(r,20));
return [+f.body.dataset.drawn, f.documentElement.scrollHeight-f.documentElement.clientHeight, f.querySelectorAll('table').length];
"""
    cell = '<html><head><meta http-equiv="Content-Security-Policy" content=""></head><body data-drawn="0">'
    seen = see(cell + bundle["text/html"], tmp_path, act=act)
    assert seen.act == [len(shown.figure.panels), 0, len(shown.figure.tables)]
    assert (seen.requests, seen.errors) == ([], [])
    shown.save(tmp_path / "front.html")
    assert (tmp_path / "front.html").read_text(encoding="utf-8") == shown.html()
