"""Studies: names that become files, values beyond the limits, weights of nothing, text that is no text."""

from __future__ import annotations

import pytest

from kdsearch.limits import STUDY_BYTES, STUDY_VALUES
from tests.hostile.rows import Row, check, sets, shown

BAD_NAMES = (
    "../../evil",
    "/tmp/evil",
    "a/b",
    "..",
    ".",
    ".hidden",
    "-rf",
    "a b",
    "n" * 65,
    "n" * 300,
    "a\nb",
    "a\tb",
    "a\x1b[31mb",
    "a\x00b",
    "a\\b",
    "C:evil",
    "ａ",  # a letter, but not one of ASCII  # noqa: RUF001
    "аdmin",  # Cyrillic а  # noqa: RUF001
    "na\u0308me",
    "\u202eevil",
    "\u200b",
    "a*",
    "~root",
    "$HOME",
    "a;b",
    "%2e%2e",
    "",
)
PLACES = {  # what is named -> the study's text with NAME in it, as JSON inside of YAML
    "study": "name: NAME\n",
    "teacher": "teachers: {NAME: {use: trained, options: {epochs: 1}}}\n",
    "role": "students: {NAME: {space: cifar_resnet}}\n",
    "distiller": "recipe: {distillers: [{use: kd, name: NAME}]}\n",
    "term": "recipe: {distillers: [{use: kd, weights: {NAME: 1.0}}]}\n",
    "named teacher": "recipe: {distillers: [{use: kd, teacher: NAME}]}\n",
}


def named(what: str, name: str) -> Row:
    """A study with a bad name; characters that a study cannot hold at all are refused as such."""
    import json

    def arrange(folder) -> None:
        from tests.hostile.rows import STUDY

        text = PLACES[what].replace("NAME", json.dumps(name))
        key = text.partition(":")[0]
        dropped = {"teachers": "teacher", "students": "student"}.get(key, key)
        lines = [line for line in STUDY.splitlines() if not line.startswith(f"{dropped}:")]
        (folder / "study.yaml").write_text("\n".join([*lines, text]), encoding="utf-8")

    return Row(f"{what} {shown(name)!r}", "1 to 64 letters, digits", ("run", "study.yaml"), arrange)


NAMES = [named(what, name) for what in PLACES for name in BAD_NAMES]

LIMITS = sets(
    {
        "run.threads_per_trial=100000": r"run.threads_per_trial: got 100000. Expected less than or equal to 256",
        "run.threads_per_trial=257": r"less than or equal to 256",
        "run.workers=100000": r"run.workers: got 100000. Expected less than or equal to 256",
        "run.devices=100000": r"run.devices: got 100000. Expected less than or equal to 256",
        "data.workers=100000": r"data.workers: got 100000",
        "constraints.latency_ms={max: 1.0, threads: 100000}": r"latency_ms.threads: got 100000",
        "recipe.train.batch_size=1000000000": r"recipe.train.batch_size: got 1000000000",
        "recipe.train.batch_size={choices: [32, 1000000000]}": r"recipe.train.batch_size",
        "recipe.train.accumulate=1000000000": r"recipe.train.accumulate: got 1000000000",
        "search.probe.batch_size=1000000000": r"search.probe.batch_size: got 1000000000",
        "search.probe.seeds=1000000000": r"search.probe.seeds: got 1000000000",
        "search.candidates=100000000000": r"search.candidates: got 100000000000",
        "search.keep=100000000": r"search.keep: got 100000000",
        "refine.trials=1000000000": r"refine.trials: got 1000000000",
        "refine.epochs=1000000000": r"refine.epochs: got 1000000000",
        "refine.generation=1000000000": r"refine.generation: got 1000000000",
        "distill.epochs=1000000000": r"distill.epochs: got 1000000000",
        "distill.winners=1000000000": r"distill.winners: got 1000000000",
        "distill.compare={random: 1000000000}": r"distill.compare.random: got 1000000000",
        "compress.prune={use: channels, recover_epochs: 1000000000}": r"recover_epochs: got 1000000000",
        "teacher.options.batch_size=1000000000": r"teacher.options.batch_size: got 1000000000",
        "teacher.options.epochs=1000000000": r"teacher.options.epochs: got 1000000000",
        "teacher.options.threads=100000": r"teacher.options.threads: got 100000",
        "teacher.options.accumulate=1000000000": r"teacher.options.accumulate: got 1000000000",
        "run.executor={use: processes, options: {grace_s: -1}}": r"run.executor.options.grace_s: got -1",
        "data.options.classes=1000000000": r"data.options.classes: got 1000000000",
        "data.options.resize=100000": r"data.options.resize: got 100000",
        "data.options.resize=-1": r"data.options.resize: got -1",
        "seed=9223372036854775808": r"a whole number below 2\*\*63",
        "seed=-1": r"seed: got -1",
        f"seed={'9' * 5000}": r"--set seed=9+\.\.\. \(5,011 characters\)",
        f"seed=0x{'f' * 6000}": r"a whole number below 2\*\*63",
        f"data.use={'x' * 20_000}": r"at most 10,000 characters",
        f"data.use={'x' * 9_000}": r"unknown dataset 'x+\.\.\. \(9,\d\d\d characters\)",
        f"{'a.' * 200}a=1": r"nested too deeply",
        f"data.options.path={'[' * 100}{']' * 100}": r"nested too deeply",
        f"recipe.distillers[{'9' * 5000}].weight=1": r"Expected such as search.keep",
        "recipe.distillers[99999].weight=1": r"there is no item \[99999\]",
    }
)

WEIGHTS = sets(
    {
        "recipe.distillers=[{use: kd, weights: {kll: 1.0}}]": r"'kd' has no term 'kll'; did you mean 'kl'\?",
        "recipe.distillers=[{use: dkd, weights: {kl: 1.0}}]": r"'dkd' has no term 'kl'.* Expected nckd or tckd",
        "recipe.distillers=[{use: fitnet, weights: {task: 1.0}}]": r"'fitnet' has no term 'task'",
        "recipe.distillers=[{use: composed, weights: {map: 1.0}}]": r"has no term 'map'; did you mean 'maps'",
        "recipe.distillers=[{use: kd, weights: {kl: -1.0}}]": r"weights.kl: got -1.0",
        "recipe.distillers=[{use: kd, weight: .inf}]": r"a finite number",
        "recipe.distillers=[{use: kd, name: task}]": r"not 'task'",
        "recipe.distillers=[{use: kd, name: a.b}]": r"the name 'a.b'",
        "recipe={task_weight: 0.0, distillers: []}": r"every weight is 0",
        "recipe={task_weight: 0, distillers: [{use: kd, weight: 0}]}": r"recipe.task_weight: every weight is 0",
        "recipe={task_weight: 0, distillers: [{use: kd, weight: 0.0}, {use: sp, weights: {similarity: 0.0}}]}": "is 0",
        "distill.controls=[baseline, baseline]": r"distill.controls\[1\]: 'baseline' is there twice",
        "distill.controls=[all_labels, baseline, all_labels]": r"distill.controls\[2\]: 'all_labels' is there twice",
        "export.formats=[onnx-fp32, onnx-fp32]": r"given twice",
        "export.formats=[../../evil]": r"unknown format",
        "search.proxy=[params, params]": r"there twice",
        "compress.quantize=[{use: int8}, {use: int8}]": r"given twice",
    }
)


def text(name: str, data: bytes, message: str) -> Row:
    return Row(
        f"study of {name}", message, ("validate", "s.yaml"), lambda folder: (folder / "s.yaml").write_bytes(data)
    )


TEXTS = [
    text("a megabyte of comment", b"#" * (STUDY_BYTES + 1), r"s.yaml: 1,000,001 bytes"),
    text("800 kB of a list", b"a: [" + b"1, " * 266_000 + b"1]", rf"s.yaml:1: more than {STUDY_VALUES:,} values"),
    text("800 kB of keys", b"".join(b"k%d: v\n" % i for i in range(80_000)), rf"more than {STUDY_VALUES:,} values"),
    text("400,000 brackets", b"a: " + b"[" * 400_000, r"s.yaml:1: nested too deeply"),
    text("400,000 braces", b"a: " + b"{a: " * 200_000, r"s.yaml:1: nested too deeply"),
    text("deep blocks", b"".join(b" " * i + b"a:\n" for i in range(100)), r"nested too deeply"),
    text(
        "aliases of aliases",
        b"a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
        + b"".join(b"%c: &%c [" % (c, c) + b", ".join([b"*%c" % (c - 1)] * 8) + b"]\n" for c in b"bcdefgh"),
        r"more than 20,000 values once aliases are filled in",
    ),
    text(
        "merges of merges",
        b"m0: &m0 {}\n"
        + b"".join(b"m%d: &m%d {<<: [%s]}\n" % (i, i, b", ".join([b"*m%d" % (i - 1)] * 30)) for i in range(1, 9)),
        r"more than 20,000 values",
    ),
    text("a number of a megabyte", b"seed: " + b"1" * 900_000, r"seed: got '1{60}\.\.\. \(900,000 characters\)'"),
    text("a hexadecimal of a megabyte", b"seed: 0x" + b"f" * 900_000, r"a whole number below 2\*\*63"),
    text("a text of a megabyte", b"data: {use: " + b"x" * 900_000 + b"}", r"at most 10,000 characters"),
    text("a key of 20,000 letters", b"? " + b"x" * 20_000 + b"\n: 1", r"at most 10,000 characters"),
    text("NUL", b"data: \0", r"not a text file \(byte 0x00\)"),
    text("ESC", b"data: \x1b[31m", r"not a text file \(byte 0x1b\)"),
    text("DEL", b"data: \x7f", r"not a text file"),
    text("bytes", bytes(range(128, 256)), r"not a text file"),
    text("a lone surrogate", b"name: \xed\xa0\x80", r"not a text file"),
    text("an overlong slash", b"name: \xc0\xaf", r"not a text file"),
    text("half a document", b"data: {use: digits", r"not valid YAML"),
    text("an anchor of itself", b"a: &a [*a]", r"an alias that contains itself"),
    text("an unknown alias", b"a: *b", r"not valid YAML"),
    text("a Python object", b"a: !!python/object/apply:os.system [ls]", r"tag '!!python"),
    text("a set", b"a: !!set {x}", r"tag '!!set'"),
    text("binary", b"a: !!binary aGk=", r"tag '!!binary'"),
    text("a directive", b"%YAML 9.9\n---\na: 1", r"not valid YAML|unknown key"),
    text("two documents", b"a: 1\n---\nb: 2", r"a second document"),
    text("a list", b"- 1\n- 2", r"the file holds a list"),
    text("a number", b"7", r"the file holds a number"),
    text("nothing", b"", r"the file is empty"),
    text("a null key", b"null: 1", r"key null|a name"),
    text("a list as key", b"? [1, 2]\n: 1", r"a key that is no text"),
    text("a date", b"name: 2020-01-01", r"which YAML reads as a date"),
    text("infinity", b"refine: {epochs: .inf}", r"a finite number"),
    text("not a number", b"refine: {epochs: .nan}", r"a finite number"),
    text("a tab", b"data:\n\tuse: digits", r"a tab in the indentation"),
]
ROWS = [*NAMES, *LIMITS, *WEIGHTS, *TEXTS]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refused(row, capsys, place):
    row.arrange(place)
    check(row, capsys, place, own=place / "nowhere")
