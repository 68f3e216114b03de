"""Every broken study ends with exit 2 and one message that names file and line; nothing is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.study.summary import summary
from tests import small_plugin

FOLDER = Path(__file__).parents[1] / "bad_studies"
GOOD = Path(__file__).parents[1] / "study" / "good.yaml"
CASES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def small_host(monkeypatch, tmp_path):
    host = Host.load(extra=[("small", small_plugin)], entry_points=False)
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments: object) -> str:
    """Run a command that must be refused; its one message."""
    before = sorted(os.walk("."))
    code = main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (code, out, err)
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert "Traceback" not in err
    assert sorted(os.walk(".")) == before
    return err.strip()


def test_the_good_study_is_good(capsys, monkeypatch):
    monkeypatch.setattr("kdsearch.verbs.preflight.look", summary)  # the small plugin's data set has no data
    qat = "compress.quantize[0].recover_epochs=3"
    assert main(["validate", str(GOOD), "--set", qat]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{GOOD} is valid (`--plan`")
    assert "  student  cifar_resnet, 54 architectures\n" in said
    assert "  search   50 candidates, scored by nwot, params\n" in said
    assert "  distill  1 control 'baseline', " in said
    assert "  compress 1 training as int8, where its file loses too much, 3 epochs\n" in said


def test_there_are_many():
    assert len(CASES) >= 25


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_validate_says_what_is_wrong(file, capsys):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    expected = first.removeprefix("# expect: ")
    assert expected != first, "the file's first line is no `# expect: `"
    message = refused(capsys, "validate", file)
    assert message.startswith(f"{file}:{expected}"), message


@pytest.mark.parametrize("file", [CASES[0], CASES[-1]], ids=lambda file: file.stem)
def test_the_message_is_the_same_with_json(file, capsys):
    plain = refused(capsys, "validate", file)
    code = main(["validate", str(file), "--json"])
    out, err = capsys.readouterr()
    assert (code, err.strip()) == (2, plain.strip())
    assert json.loads(out)["exit_code"] == 2


BYTES = {
    "empty": (b"", ": the file is empty"),
    "spaces": (b"   \n\n", ": the file is empty"),
    "latin1": (b"data:\n  use: d\xefgits\n", ":2: not a text file"),
    "zeros": (b"data: 1\n\0\0\0", ":2: not a text file"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ":1: not a text file"),
    "utf16": ("data: {use: digits}".encode("utf-16"), ":1: not a text file"),
    "text": (b"just some words\n", ":1: the file holds text"),
    "deep": (b"a: " + b"[" * 3000 + b"]" * 3000, ": nested too deeply"),
    "big": (b"#" * 1_000_001, ": 1,000,001 bytes"),
    "aliases": (
        b"a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
        + b"".join(b"%c: &%c [" % (c, c) + b", ".join([b"*%c" % (c - 1)] * 8) + b"]\n" for c in b"bcdefgh"),
        "more than 20,000 values",
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_study(name, capsys):
    data, expected = BYTES[name]
    file = Path(f"{name}.yaml")
    file.write_bytes(data)
    message = refused(capsys, "validate", file)
    assert message.startswith(str(file))
    assert expected in message


def test_a_missing_file_names_its_neighbour(capsys):
    Path("study.yaml").write_text(GOOD.read_text())
    assert "did you mean 'study.yaml'?" in refused(capsys, "validate", "studdy.yaml")
    assert "kdsearch init" in refused(capsys, "validate", "elsewhere.yaml")
    Path("folder").mkdir()
    assert "is a folder" in refused(capsys, "validate", "folder")


SETTINGS = {
    "recipe.train.optimizer=adamm": "--set recipe.train.optimizer=adamm: recipe.train.optimizer: got 'adamm'; did you mean 'adam'?",
    "run.device=cdua": "--set run.device=cdua: run.device: got 'cdua'; did you mean 'cuda'?",
    "recipe.distillers[0].options.temprature=2.0": (
        "--set recipe.distillers[0].options.temprature=2.0: recipe.distillers[0].options.temprature: unknown option"
    ),
    "refine.epochs=1e400": "--set refine.epochs=1e400: '1e400' is no value: got 1e400. Expected a finite number",
    "name=two words": "--set name=two words: name: got 'two words'. Expected 1 to 64 letters",
    "teacher.options.space=7": "--set teacher.options.space=7: teacher.options.space: got 7. Expected text.",
    "teacher.options.epochs=1.5": "--set teacher.options.epochs=1.5: teacher.options.epochs: got 1.5. Expected a whole number.",
    "student.spec.width.choices=[]": "--set student.spec.width.choices=[]: student.spec.width: choices is empty",
    "run.store=''": "--set run.store='': run.store: got ''. Expected at least 1 character",
    "run.store=study.yaml": "--set run.store=study.yaml: run.store: 'study.yaml' is a file. Expected a folder or a URL",
    "run.store=flie://x": "--set run.store=flie://x: run.store: unknown kind of store 'flie'; did you mean 'file'?",
    "run.store=smb://me:geheim@x/y": "--set run.store=smb://me:***@x/y: run.store: 'smb://me:***@x/y' cannot be opened here: ",
    "constraints.params=20k": (
        "--set constraints.params=20k: constraints.params: got '20k'. Expected a whole number. Write 20000."
    ),
    "constraints.params=2e4": (
        "--set constraints.params=2e4: constraints.params: got 20000.0. Expected a whole number. Write 20000."
    ),
    "data.labeled=10%": "--set data.labeled=10%: data.labeled: got '10%'. Expected a number. Write 0.1.",
    "constraints.onnx_bytes=1.5 MiB": (
        "--set constraints.onnx_bytes=1.5 MiB: constraints.onnx_bytes: got '1.5 MiB'. "
        "Expected a whole number or a section with the keys max, format. Write 1572864."
    ),
    "data.normalize={mean: [0.5], std: [0]}": (
        "--set data.normalize={mean: [0.5], std: [0]}: data.normalize.std[0]: got 0. Expected greater than 0."
    ),
    "refine.trials=2.5k": "--set refine.trials=2.5k: refine.trials: got '2.5k'. Expected a whole number. Write 2500.",
    "search.keep": "--set: got 'search.keep'. Expected key.path=value",
    "search.kep=3": "--set search.kep=3: search.kep: unknown key 'kep'; did you mean 'keep'?",
    "refine.trials=none": "--set refine.trials=none: refine.trials: got 'none'. Expected a whole number",
    "search.keep=500": "--set search.keep=500: search.keep: keep 500 of 50 candidates",
    "recipe.distillers[7].weight=1": "--set recipe.distillers[7].weight=1: recipe.distillers: there is no item [7]",
    "name.first=x": "--set name.first=x: name: 'first' cannot be set in text",
    "search..keep=1": "--set search..keep=1: 'search..keep' is no key path",
    "search.keep=!!int 3": "--set search.keep=!!int 3: '!!int 3' is no value: tag '!!int'",
    "recipe.distillers[0].options.temperature=-1": (
        "--set recipe.distillers[0].options.temperature=-1: recipe.distillers[0].options.temperature: got -1"
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_wrong_setting_is_named_as_such(setting, capsys):
    text = GOOD.read_text() + "name: good\n"
    Path("study.yaml").write_text(text)
    assert refused(capsys, "validate", "study.yaml", "--set", setting).startswith(SETTINGS[setting])


def test_a_negative_seed_is_refused(capsys):
    assert "'--seed'" in refused(capsys, "validate", GOOD, "--seed", "-1")
