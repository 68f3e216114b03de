"""NNI's tuners in a study, from the command line: what it runs to, what it says, and what NNI does beside it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("nni") is None:
    pytest.skip("the extra nni is not installed", allow_module_level=True)

from kdsearch_plugins.nni_controller.controller import NniOptions
from ruamel.yaml import YAML

from kdsearch.cli import main
from kdsearch.kinds.options import validate
from tests.stages.tiny import LESS, events, write_study

SETS = [each for text in LESS for each in ("--set", text)]


def run(folder: Path, *sets: str) -> int:
    file = write_study(folder)
    more = [each for text in sets for each in ("--set", text)]
    return main(["run", str(file), "--dir", str(folder / "study"), *SETS, *more])


def test_a_study_runs_to_its_end_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sets = (
        "refine.trials=4",
        "refine.controller={use: nni, options: {tuner: TPE, n_startup: 2}}",
        "search.strategy={use: nni, options: {tuner: Evolution, population: 4}}",
    )
    assert run(tmp_path, *sets) == 0
    found = json.loads((tmp_path / "study" / "result.json").read_text(encoding="utf-8"))
    (file,) = (tmp_path / "study" / "artifacts").glob("refine-*/trials.json")
    trials = json.loads(file.read_text(encoding="utf-8"))
    assert len(trials) == 4
    assert [each["format"] for each in found["exports"]] == ["onnx-fp32"]
    told = [each for each in events(tmp_path, "trial") if each["state"] == "complete"]
    assert sorted(each["number"] for each in told) == [0, 1, 2, 3]
    assert len({json.dumps([each["keys"], each["values"]], sort_keys=True) for each in trials}) == 4
    n = len(events(tmp_path, "stage"))
    assert run(tmp_path, *sets) == 0
    assert len(events(tmp_path, "stage")) == n
    assert "random seed" not in capsys.readouterr().out  # NNI's log


@pytest.mark.parametrize("place", ["refine.controller", "search.strategy"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{tuner: Tpe}", ["options.tuner: got 'Tpe'; did you mean 'TPE'?", "'Evolution'"]),
        (
            "{tuner: GP}",
            [
                "options.tuner: got 'GP'",
                "Batch, Evolution, GridSearch, Random or TPE",
                "GP is not available: it fails its",
            ],
        ),
        ("{tuner: Anneal}", ["NNI's Anneal is not available: it fails its self-test", "hyperopt"]),
        ("{tuner: PBT}", ["NNI's PBT is not available: it copies checkpoints"]),
        ("{tuner: TPE, n_startup: 0}", ["options.n_startup: got 0"]),
    ],
)
def test_a_tuner_that_is_not_to_be_had_is_an_error_before_any_work(
    place: str, options: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, f"{place}={{use: nni, options: {options}}}") == 2
    said = capsys.readouterr().err
    for each in (place, *words):
        assert each in said
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_several_objectives_without_weights_are_an_error_with_the_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write_study(tmp_path)
    text = file.read_text(encoding="utf-8").replace(
        "objectives: {accuracy: max}", "objectives: {accuracy: max, params: min}"
    )
    text = text.replace("refine: {", "refine: {controller: {use: nni, options: {tuner: Evolution}}, ")
    file.write_text(text, encoding="utf-8")
    assert main([verb, str(file), *(("--dir", str(tmp_path / "study")) if verb == "run" else ())]) == 2
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "use: nni" in each)
    said = capsys.readouterr().err
    assert f"tiny.yaml:{line}: refine.controller.options.weights: NNI's Evolution minimises one number" in said
    assert "2 weights" in said
    assert "surrogate, evolution or optuna" in said


WATCHED = """
import logging, socket, sys, os, warnings
warnings.simplefilter("error")
seen = []
def hook(event, arguments):
    if event == "socket.bind" and arguments[1] == ("::1", 0):
        return  # urllib3, as it is imported: whether there is IPv6
    if event.startswith(("socket.bind", "socket.connect", "subprocess", "os.mkdir", "os.fork")):
        seen.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"{event} {arguments[0]}")
sys.addaudithook(hook)
from kdsearch.kinds import Trial
from kdsearch.testing.controller import DIMS, HillSpace
import kdsearch_plugins.nni_controller.controller as controller
assert "nni" not in sys.modules
for tuner in ("TPE", "Evolution", "Random", "GridSearch"):
    made = controller.Nni(controller.NniOptions(tuner=tuner))
    made.preflight(1)
    made.ask(HillSpace(), DIMS, [], 8, 0)
assert logging.getLogger("nni").handlers == []
print(seen)
"""


def test_nni_says_nothing_writes_nothing_and_opens_no_connection(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["home"]


def test_a_program_s_own_nni_keeps_its_log(tmp_path: Path) -> None:
    """Who imports NNI before has its handler and level as they were, and reads nothing of our tuners there."""
    code = (
        "import logging, nni\n"
        "from kdsearch_plugins.nni_controller.controller import Nni, NniOptions\n"
        "from kdsearch.testing.controller import DIMS\n"
        "Nni(NniOptions()).ask(None, DIMS, [], 2, 0)\n"
        "log = logging.getLogger('nni')\n"
        "print(len(log.handlers), log.level)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"1 {20}\n", "")


def test_what_the_documentation_shows_are_settings() -> None:
    page = Path(__file__).parents[3] / "docs" / "studies.md"
    (block,) = re.findall(r"```yaml nni\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    shown = [YAML(typ="safe").load(line) for line in block.splitlines()]
    made = [validate(NniOptions, each["options"]) for each in shown]
    assert [each.tuner for each in made] == ["TPE", "Evolution", "Batch", "TPE"]
    assert [dict(each) for each in made[2].sets] == [{"recipe.train.lr": 0.01}, {"recipe.train.lr": 0.002}]
    assert all(each["use"] == "nni" for each in shown)


def test_a_batch_of_recipes_is_tried_and_one_that_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    batch = "refine.controller={use: nni, options: {tuner: Batch, sets: [{RATE: 0.01}, {RATE: 0.002}]}}"
    fixed = ("recipe.distillers=[kd]", "refine.first=[]", "search.keep=1", "refine.trials=4")
    assert run(tmp_path, *fixed, batch.replace("RATE", "recipe.train.rate")) == 2
    said = capsys.readouterr().err
    assert "refine.controller.options.sets[0]: 'recipe.train.rate' is not searched" in said
    assert run(tmp_path, *fixed, batch.replace("RATE", "recipe.train.lr")) == 0
    (file,) = (tmp_path / "study" / "artifacts").glob("refine-*/trials.json")
    trials = json.loads(file.read_text(encoding="utf-8"))
    assert [each["values"] for each in trials] == [{"recipe.train.lr": 0.01}, {"recipe.train.lr": 0.002}]
