"""Verbs that know a study's folder alone find what its relative paths mean."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from kdsearch.errors import UserError
from kdsearch.host import Host
from kdsearch.study import load_study
from kdsearch.training.job import open_job
from kdsearch.training.tools import Address
from kdsearch.verbs.commands import export
from kdsearch.verbs.run import run_study
from tests.examples.test_examples import EXAMPLES
from tests.examples.test_own_code import ALLOWED, SMALL


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a study that names a file beside it, and its finished folder."""
    home = tmp_path_factory.mktemp("home")
    for name in ("own_space.py", "own_space.yaml"):
        shutil.copyfile(EXAMPLES / name, home / name)
    study = load_study(home / "own_space.yaml", Host.load(), ALLOWED, SMALL)
    run_study(study, Host.load(), home / "runs" / "one", progress=False)
    return home


def test_a_format_that_was_not_asked_for_is_added(home):
    row = export(dir=home / "runs" / "one", format="onnx-int4", allow_code=ALLOWED, progress=False)
    file = home / "runs" / "one" / row["path"]
    assert row["text"].startswith(f"{file}: ")
    assert file.stat().st_size == row["bytes"]
    assert json.loads((home / "runs" / "one" / "origin.json").read_text()) == {"base": "../.."}
    with pytest.raises(UserError, match="would run code"):
        export(dir=home / "runs" / "one", format="onnx-int8", progress=False)
    with pytest.raises(UserError, match="unknown format 'int4'; did you mean 'onnx-int4'"):
        export(dir=home / "runs" / "one", format="int4", allow_code=ALLOWED, progress=False)


def test_a_spawned_job_finds_the_file_beside_the_study(home):
    materials = open_job(Address(str(home / "runs" / "one"), str(home), ALLOWED))
    assert type(materials.spaces["student"]).__name__ == "Plain"


def test_a_machine_that_computes_on_something_else_is_refused(home):
    """Its trials would be other ones than the artifact's key says."""
    address = Address(str(home / "runs" / "one"), str(home), ALLOWED, accelerator="cpu")
    assert open_job(address).device.accelerator == "cpu"
    with pytest.raises(
        UserError, match=r"run\.device: the machine of a trial computes on cpu. Expected cuda, as where the"
    ):
        open_job(replace(address, accelerator="cuda"))
