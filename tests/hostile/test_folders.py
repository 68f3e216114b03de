"""A study's folder in which somebody changed, damaged or replaced a JSON file: one message that names it and what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from kdsearch.cli import main
from kdsearch.store.artifacts import sealed
from kdsearch.store.files import read_json, write_json
from tests.hostile.permissions import obeyed
from tests.hostile.rows import Row, check

Damage = Callable[[Path], None]


def text(data: str) -> Damage:
    return lambda file: void(file.write_bytes(data.encode("utf-8", "surrogatepass")))


def void(_: object) -> None:
    return None


def changed(change: Callable[[Any], Any]) -> Damage:
    def damage(file: Path) -> None:
        value = json.loads(file.read_text())
        found = change(value)
        file.write_text(json.dumps(value if found is None else found))

    return damage


def replaced(make: Callable[[Path], None]) -> Damage:
    def damage(file: Path) -> None:
        file.unlink()
        make(file)

    return damage


def a_socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no JSON": (text("{"), "not valid JSON"),
    "empty": (text(""), "not valid JSON"),
    "bytes": (lambda file: void(file.write_bytes(b"\xff\xfe\x00")), "not valid JSON"),
    "a lone surrogate": (text('{"a": "\ud800"}'), "not valid JSON|not as|has changed|states no|is missing|got"),
    "100,000 brackets": (text("[" * 100_000 + "]" * 100_000), "nested too deeply"),
    "200 brackets": (text("[" * 200 + "]" * 200), "nested too deeply"),
    "not a number": (text('{"format": NaN}'), "NaN is no number"),
    "infinity": (text('{"format": -Infinity}'), "-Infinity is no number"),
    "1e999": (text('{"format": 1e999}'), "1e999 is no number"),
    "a number of 10,000 digits": (text('{"format": ' + "9" * 10_000 + "}"), "not valid JSON"),
    "null": (text("null"), "."),
    "a list": (text("[]"), "."),
    "text": (text('"text"'), "."),
    "a number": (text("7"), "."),
    "a FIFO": (replaced(os.mkfifo), "is a FIFO"),
    "a folder": (replaced(os.mkdir), "is a folder"),
    "a device": (replaced(lambda file: file.symlink_to("/dev/zero")), "is a device"),
    "a socket": (replaced(a_socket), "is a socket"),
    "a circle of links": (replaced(lambda file: file.symlink_to(file.name)), "leads back to itself"),
    "no permission": (lambda file: file.chmod(0), "permission denied"),
}
VERBS = {"kdsearch.json": "status", "last.json": "status", "result.json": "report", "origin.json": "export-anew"}


def of_file(name: str, damage: str) -> Row:
    do, message = DAMAGES[damage]
    verb = VERBS[name]
    arguments = ("export", "study", "--format", "onnx-int8") if verb == "export-anew" else (verb, "study")
    return Row(f"{name}: {damage}", message, arguments, lambda folder: do(folder / "study" / name))


def artifact(folder: Path, stage: str) -> Path:
    return next((folder / "study" / "artifacts").glob(f"{stage}-*/artifact.json"))


def of_artifact(stage: str, verb: str, damage: str) -> Row:
    do, message = DAMAGES[damage]
    fix = rf"artifact.json: .*(?:{message}).*Delete the folder"
    arguments = ("run", "tiny.yaml", "--dir", "study") if verb == "run" else (verb, "study")
    return Row(
        f"{verb}, artifact.json of {stage}: {damage}", fix, arguments, lambda folder: do(artifact(folder, stage))
    )


def of_value(name: str, what: str, change: Callable[[Any], Any], message: str, *arguments: str) -> Row:
    return Row(
        f"{name}: {what}", message, arguments, lambda folder: changed(change)(next((folder / "study").glob(name)))
    )


def event(line: str) -> Callable[[Path], None]:
    def arrange(folder: Path) -> None:
        with (folder / "study" / "events.jsonl").open("a") as stream:
            stream.write(line + "\n")

    return arrange


REPORT, EXPORT = ("report", "study"), ("export", "study", "--format", "onnx-fp32")
RUN = ("run", "tiny.yaml", "--dir", "study")
CHANGES = [
    of_value(
        "last.json", "no key", lambda v: v["report"].pop("key") and None, r"last.json: report.key: is missing", *REPORT
    ),
    of_value(
        "last.json", "key of a number", lambda v: v["report"].update(key=7), r"last.json: report.key: got 7", *REPORT
    ),
    of_value("last.json", "key outside", lambda v: v["report"].update(key="../../../etc"), r"report.key: got", *REPORT),
    of_value(
        "last.json",
        "foreign key",
        lambda v: v["report"].update(key="0" * 16),
        r"the report's artifact is gone",
        *REPORT,
    ),
    of_value("last.json", "no report", lambda v: v.pop("report") and None, r"the report's artifact is gone", *EXPORT),
    of_value(
        "last.json", "seconds of text", lambda v: v["search"].update(seconds="1"), r"search.seconds: got \"1\"", *RUN
    ),
    of_value(
        "last.json",
        "negative seconds",
        lambda v: v["search"].update(seconds=-1),
        r"search.seconds: got -1",
        "status",
        "study",
    ),
    of_value(
        "last.json", "a list inside", lambda v: v.update(search=[]), r"last.json: search: got \[\]", "clean", "study"
    ),
    of_value("kdsearch.json", "newer", lambda v: v.update(format=99), r"format 99 is newer", "status", "study"),
    of_value("kdsearch.json", "format of text", lambda v: v.update(format="1"), r"format '1'", "clean", "study"),
    of_value(
        "origin.json",
        "no base",
        lambda v: v.pop("base") and None,
        r"origin.json: base: is missing",
        "export",
        "study",
        "--format",
        "onnx-int8",
    ),
    of_value(
        "origin.json",
        "base of a number",
        lambda v: v.update(base=7),
        r"origin.json: base: got 7",
        "export",
        "study",
        "--format",
        "onnx-int8",
    ),
    of_value(
        "result.json",
        "accuracy",
        lambda v: v["student"].update(accuracy=0.999),
        r"result.json: student: has changed.*Delete it",
        *REPORT,
    ),
    of_value(
        "result.json",
        "accuracy",
        lambda v: v["exports"][0].update(accuracy=0.999),
        r"result.json: exports: has changed",
        *EXPORT,
    ),
    of_value(
        "result.json", "no exports", lambda v: v.pop("exports") and None, r"result.json: exports: has changed", *EXPORT
    ),
    of_value(
        "result.json",
        "paths outside",
        lambda v: v["exports"][0].update(paths=["../../evil"]),
        r"exports: has changed",
        *EXPORT,
    ),
    *(
        of_value(
            f"artifacts/{stage}-*/artifact.json",
            what,
            change,
            r"artifact.json: has changed since it was written.*Delete the folder",
            *RUN,
        )
        for stage, what, change in (
            ("prepare", "score", lambda v: v["facts"]["teachers"]["main"].update(score=0.999)),
            ("search", "a fact", lambda v: v["facts"].update(more=1)),
            ("refine", "number of trials", lambda v: v["facts"].update(trials=99)),
            ("distill", "winner", lambda v: v["facts"].update(winner="other")),
            ("compress", "provenance", lambda v: v.update(provenance={})),
            ("export", "accuracy", lambda v: v["facts"]["exports"][0].update(accuracy=0.999)),
            ("export", "fewer files", lambda v: v["files"].clear()),
            ("report", "accuracy", lambda v: v["facts"]["result"]["student"].update(accuracy=0.999)),
            ("report", "no digest", lambda v: v.pop("digest") and None),
            ("report", "digest of nothing", lambda v: v.update(digest="")),
        )
    ),
    *(
        Row(f"events.jsonl: {line[:40]}", r"events.jsonl:\d+: " + message, (verb, "study"), event(line))
        for line, message, verb in (
            ("[]", "not as kdsearch wrote it", "status"),
            ("7", "not as kdsearch wrote it", "status"),
            ("{}", "time: is missing", "status"),
            ('{"time": "x", "event": 7}', "event: got 7", "status"),
            ('{"time": "x", "event": "stage"}', "stage: is missing", "status"),
            (
                '{"time": "x", "event": "stage", "stage": "prepare", "state": "begun", "key": "../../x"}',
                "key: got",
                "status",
            ),
            ('{"time": "x", "event": "trial"}', "number: is missing", "status"),
            ('{"time": "x", "event": "other", "error": 7}', "error: got 7", "status"),
        )
    ),
    *(
        Row(
            f"events.jsonl: {name}",
            message,
            ("status", "study"),
            lambda folder, do=do: do(folder / "study/events.jsonl"),
        )
        for name, (do, message) in DAMAGES.items()
        if name in ("a FIFO", "a folder", "a device", "a socket", "a circle of links", "no permission")
    ),
]
FOLDERS = [
    Row("status of no folder", "no study's folder", ("status", "nothing")),
    Row("status of a file", "is a file", ("status", "tiny.yaml")),
    Row("status below a file", "no study's folder", ("status", "tiny.yaml/study")),
    Row("status of 300 letters", "has a name that is too long", ("status", "n" * 300)),
    Row("status of 5,000 letters", "has a name that is too long", ("status", "n/" * 2500)),
    Row("status of bytes", "UTF-8", ("status", "study\udcff")),
    Row("report of bytes", "UTF-8", ("report", "study\udcff")),
    Row("run of bytes", "UTF-8", ("run", "tiny.yaml", "--dir", "out\udcff")),
    Row("run of a study of bytes", "UTF-8", ("run", "\udcff.yaml")),
    Row("set of bytes", "UTF-8", ("validate", "tiny.yaml", "--set", "name=\udcff")),
    Row("NUL in a name", "UTF-8, without NUL", ("status", "a\0b")),
    Row("run into 300 letters", "cannot be made|too long", ("run", "tiny.yaml", "--dir", "n" * 300)),
    Row("run into a file", "is a file", ("run", "tiny.yaml", "--dir", "d.npz")),
    Row("run below a file", "is below a file, d.npz", ("run", "tiny.yaml", "--dir", "d.npz/out")),
    Row(
        "run into a FIFO", "is a|cannot be made", ("run", "tiny.yaml", "--dir", "fifo"), lambda f: os.mkfifo(f / "fifo")
    ),
    Row(
        "run into a circle",
        "itself|cannot be made|is a file",
        ("run", "tiny.yaml", "--dir", "ring"),
        lambda f: (f / "ring").symlink_to("ring"),
    ),
    Row(
        "a folder without permission",
        "permission denied|not readable",
        ("status", "study"),
        lambda f: (f / "study").chmod(0),
    ),
    Row(
        "run in a folder without permission",
        "permission denied|not writable",
        ("run", "tiny.yaml", "--dir", "shut/out"),
        lambda f: (f / "shut").mkdir(mode=0o500),
        code=1,
    ),
    *(
        Row(
            f"run where the folder's {name} is {what}",
            message,
            ("run", "tiny.yaml", "--dir", "study"),
            lambda folder, name=name, make=make: replaced(make)(folder / "study" / name),
            code=code,
        )
        for name, what, make, message, code in (
            ("study.yaml", "a folder", os.mkdir, "study.yaml: is a folder", 2),
            ("study.yaml", "a FIFO", os.mkfifo, "study.yaml: is a FIFO", 2),
            (".lock", "a folder", os.mkdir, ".lock: is a folder", 1),
        )
    ),
    Row(
        "status where the lock is a folder",
        ".lock: is a folder",
        ("status", "study"),
        lambda folder: replaced(os.mkdir)(folder / "study/.lock"),
        code=1,
    ),
    *(
        Row(
            f"{' '.join(words)} beyond the limit",
            f"invalid value for '{words[-2]}': got '{words[-1]}'. Expected less than",
            words,
        )
        for words in (
            ("run", "tiny.yaml", "--workers", "100000"),
            ("run", "tiny.yaml", "--seed", str(2**80)),
            ("quickstart", "q", "--seed", str(2**80)),
            ("score", "--space", "nb201", "--proxies", "params", "--sample", str(2**40)),
            ("score", "--space", "nb201", "--proxies", "params", "--sample", "2", "--workers", "100000"),
            ("score", "--space", "nb201", "--proxies", "params", "--sample", "2", "--init-seeds", "100000"),
            ("bench", "search", "--space", "nb201", "--table", "t", "--column", "c", "--repeats", str(2**40)),
        )
    ),
    Row("export of 300 letters", "unknown format", ("export", "study", "--format", "n" * 300)),
    Row("export outside", "unknown format", ("export", "study", "--format", "onnx-../../evil")),
]
ROWS = [
    *(of_file(name, damage) for name in VERBS for damage in DAMAGES),
    *(of_artifact("report", "report", damage) for damage in DAMAGES if damage != "a circle of links"),
    *(of_artifact(stage, "run", "null") for stage in ("prepare", "search", "refine", "distill", "compress", "export")),
    *(of_artifact("prepare", "clean", damage) for damage in ("no JSON", "a list", "a FIFO", "100,000 brackets")),
    *CHANGES,
    *FOLDERS,
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refused(row, capsys, place, done):
    row.arrange(place)
    with obeyed():
        check(row, capsys, place, own=place / "study")
    for each in (place / "study", place / "shut"):
        if each.exists() and not each.is_symlink():
            each.chmod(0o700)  # so that pytest can tidy up


def test_a_changed_fact_is_made_again_as_the_message_says(capsys, done, whole):
    file = artifact(done.parent, "report")
    about = read_json(file)
    about["facts"]["result"]["student"]["accuracy"] = 0.999
    write_json(file, about)
    assert main([*RUN, "--json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(str(file.relative_to(Path.cwd())))
    shutil.rmtree(file.parent)
    assert main([*RUN, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["student"] == read_json(whole / "study" / "result.json")["student"]


def test_the_digest_is_of_everything_else():
    about = {"facts": {"a": 0.1, "b": [1, 2]}, "files": {}, "key": "k"}
    seal = sealed(about)["digest"]
    assert sealed(json.loads(json.dumps(about)))["digest"] == seal
    for other in ({**about, "key": "l"}, {**about, "facts": {"a": 0.1, "b": [2, 1]}}, {**about, "more": None}):
        assert sealed(other)["digest"] != seal


@pytest.mark.parametrize("holder", ["{", "[]", '{"pid": "x"}', "", "[" * 100_000])
def test_who_holds_the_folder_is_told_as_far_as_it_can_be(holder, capsys, done):
    (done / ".holder.json").write_text(holder)
    with FileLock(str(done / ".lock")):
        assert main(["status", "study", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["held_by"] is None
        assert main([*RUN]) == 1
        assert "study: in use. Wait for it" in capsys.readouterr().err
