"""One way to tell what foreign code raised."""

import importlib
import shlex
from pathlib import Path

import pytest

from kdsearch.errors import DataError, PluginError, nearest, told, without_password
from kdsearch.verbs.run import command


def raised(error):
    with pytest.raises(type(error)) as found:
        raise error
    return found.value


def test_type_message_and_the_innermost_place():
    def inner():
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as found:
        inner()
    line = inner.__code__.co_firstlineno + 1
    assert told(found.value) == f"ZeroDivisionError: division by zero (in inner, test_errors.py:{line})"


def test_one_line_of_bounded_length():
    text = told(raised(ValueError("a tensor of\n  many\nlines" + " 0.1" * 1000)))
    assert text.startswith("ValueError: a tensor of many lines 0.1 0.1")
    assert "\n" not in text
    assert len(text) < 600


def test_without_a_message_or_a_place():
    assert told(KeyError()) == "KeyError"


def test_our_own_errors_say_all_themselves():
    error = PluginError("no such thing", fix="Install it.")
    assert told(raised(error)) == str(error) == "no such thing. Install it."


def test_an_import_is_told_where_it_stands(tmp_path, monkeypatch):
    (tmp_path / "imports_nothing.py").write_text("\nimport there_is_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as found:
        importlib.import_module("imports_nothing")
    assert told(found.value).endswith("'there_is_no_such_module' (in <module>, imports_nothing.py:2)")


def test_an_error_that_cannot_speak_is_named_all_the_same():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert told(raised(MuteError())).startswith("MuteError (in raised, ")


def test_a_line_is_of_the_file_that_is_named():
    assert str(DataError("no").at(file="study.yaml", line=3)).startswith("study.yaml:3")
    assert str(DataError("no", file="study.yaml").at(file="study.yaml", line=3)).startswith("study.yaml:3")
    assert str(DataError("no", file="w.safetensors").at(file="study.yaml", line=3)).startswith("w.safetensors: no")


@pytest.mark.parametrize(("name", "found"), [("tpe", "TPE"), ("Evoluton", "Evolution"), ("kdd", "kd"), ("gp", "")])
def test_the_nearest_name_in_whatever_case(name, found):
    assert nearest(name, ["TPE", "Evolution", "kd"]) == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p:@ss@host/db", "postgresql://me:***@host/db"),
        (
            "run.storage=mysql+pymysql://me@host/db?charset=utf8&ssl_password=a",
            "run.storage=mysql+pymysql://me@host/db?charset=utf8&ssl_password=***",
        ),
        ("refine.trials=8", "refine.trials=8"),
    ],
)
def test_a_command_that_is_told_again_holds_no_password(text, shown):
    assert without_password(text) == shown
    assert command("run", Path("a.yaml"), {}, (text,), ()) == shlex.join(["kdsearch", "run", "a.yaml", "--set", shown])
