"""A search space in a file and a plugin in a package, as their authors use them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.stages import prepare, search
from kdsearch.study import load_study
from kdsearch.testing.space import SearchSpaceContract
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials
from tests.examples.test_examples import EXAMPLES, loaded
from tests.python.tiny_live import made

ALLOWED = ("own_space.py:Plain",)
SMALL = (
    *("search.candidates=8", "search.proxy=params", "search.keep=1", "refine.trials=1", "refine.epochs=1"),
    *("distill.epochs=1", "distill.controls=[]", "teacher.options.epochs=1", "data.train_samples=200"),
    "run.executor=inprocess",
)


class TestPlain(SearchSpaceContract):
    space = loaded("own_space").Plain


def test_own_space_needs_leave_and_then_runs(tmp_path, capsys):
    for name in ("own_space.py", "own_space.yaml"):
        shutil.copyfile(EXAMPLES / name, tmp_path / name)
    file = tmp_path / "own_space.yaml"
    assert main(["validate", str(file)]) == 2
    assert "would run code. If you trust it, add: --allow-code 'own_space.py:Plain'" in capsys.readouterr().err
    study = load_study(file, Host.load(), ALLOWED, SMALL)
    materials = open_materials(study, Host.load())
    found = made(materials, tmp_path / "study", "distill")
    (winner,) = found["refine"]["ranked"]
    assert set(winner["specs"]["student"]) == {"widths", "kernel", "act"}
    assert all(each["costs"]["params"] <= 10_000 for each in found["search"]["roles"]["student"]["kept"])
    assert found["distill"]["runs"]["winner-0"]["history"][-1]["terms"]["kd.kl"] > 0
    before = [part_of(search, materials), part_of(prepare, materials)]
    with (tmp_path / "own_space.py").open("a") as source:
        source.write("# changed\n")
    after = [part_of(search, materials), part_of(prepare, materials)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_own_plugin_keeps_its_contract():
    folder = EXAMPLES / "own_plugin"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", folder, folder],
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


STUDY = """\
data: {use: digits, options: {resize: 8}, train_samples: 200}
teacher: {use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 8, 16]}, epochs: 1}}
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: {choices: [4, 8]}}}
recipe: {distillers: [{use: angle, options: {power: search}}]}
search: {proxy: params, candidates: 4, keep: 1}
refine: {trials: 1, epochs: 1}
distill: {epochs: 1, controls: []}
"""


@pytest.mark.slow
def test_own_plugin_is_installed_and_used(tmp_path):
    """In an environment of its own, which sees this one's packages."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    package = shutil.copytree(EXAMPLES / "own_plugin", tmp_path / "own_plugin")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", package]
    subprocess.run(install, check=True)
    (tmp_path / "study.yaml").write_text(STUDY)

    def kdsearch(*words):
        done = subprocess.run(
            [python, "-m", "kdsearch", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (found,) = [each for each in kdsearch("plugins", "--json")["capabilities"] if each["name"] == "angle"]
    assert (found["kind"], found["distribution"], found["version"]) == ("distiller", "kdsearch-own", "0.1.0")
    (shown,) = kdsearch("plugins", "show", "angle", "--json")["capabilities"]
    assert [each["name"] for each in shown["options"]] == ["power"]
    result = kdsearch("run", "study.yaml", "--json")
    assert result["student"]["recipe"]["distillers"][0]["use"] == "angle"
