"""The studies of sequences, at the size of a test: from YAML to verified INT8 files that write as they were measured."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kdsearch.builtin.text.hangul import romanised
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs import commands

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = (
    "search={proxy: params, candidates: 4, keep: 1}",
    "refine={trials: 1, epochs: 1}",
    "run={device: cpu, executor: {use: inprocess}}",
)
LM = (
    "data.options={texts: 60, max_length: 48}",
    "data.labeled=0.5",
    "teacher.options={space: decoder, spec: {kind: gru, layers: 1, width: 32}, epochs: 6, batch_size: 8, lr: 0.01}",
    "student.spec={kind: gru, layers: 1, width: {choices: [16, 24]}}",  # exported in a tenth of a transformer's time
    "recipe.train={lr: 0.01, batch_size: 8}",
    "distill={epochs: 5, controls: [baseline]}",
    "compress.quantize=[{use: int8, options: {samples: 32}}]",
    "export.max_drop={onnx-int8: 3%}",
)


def run(name: str, folder: Path, *sets: str) -> dict[str, Any]:
    found: dict[str, Any] = commands.run(file=EXAMPLES / f"{name}.yaml", dir=folder, sets=(*SMALL, *sets))
    return found


def held_out(name: str, *sets: str) -> Any:
    materials = open_materials(load_study(EXAMPLES / f"{name}.yaml", Host.load(), sets=(*SMALL, *sets)), Host.load())
    return materials.data.split("test")


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def program(folder: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, f"{name}-generate.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("prose") / "study"
    return folder, run("causal_lm", folder, *LM)


def test_a_language_model_speaks_of_perplexity(prose):
    folder, result = prose
    for name in ("teacher", "student", "baseline", *(each["format"] for each in result["exports"])):
        row = result[name] if name in result else next(each for each in result["exports"] if each["format"] == name)
        quality = row["quality"]
        assert (quality["metric"], quality["direction"], quality["unit"]) == ("perplexity", "min", "")
        low, high = quality["interval"]
        assert 1 < low < quality["value"] < high < 40, name
        assert high < 1.5 * low
    assert [each["format"] for each in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    assert result["refused"] == []
    page = (folder / "report/index.html").read_text(encoding="utf-8").split("<script", 1)[0]
    assert "perplexity" in page
    assert "accuracy" not in page.replace("next-token accuracy", "").replace("next_token_accuracy", "")


def test_its_files_answer_texts_of_any_length_as_measured(prose):
    """Perplexity and next tokens found, from scratch: each text of the test split alone, without padding."""
    folder, result = prose
    split = held_out("causal_lm", *LM)
    for row in result["exports"]:
        found, n, hits, lengths = 0.0, 0, 0, set()
        file = session(folder / row["path"])
        for i in range(len(split.ids)):
            batch = split.load([i])
            (logits,) = file.run(None, {"tokens": batch["tokens"].numpy(), "mask": batch["mask"].numpy()})
            wanted, logits = batch["next"][0].numpy(), logits[0].astype(np.float64)
            assert (wanted != HIDDEN).all()
            log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            found, n = found - log_p[np.arange(len(wanted)), wanted].sum(), n + len(wanted)
            hits += int((logits.argmax(1) == wanted).sum())
            lengths.add(len(wanted))
        assert len(lengths) > 3
        rel = 2e-4 if row["format"] == "onnx-fp32" else 2e-3
        assert row["quality"]["value"] == pytest.approx(math.exp(found / n), rel=rel)
        assert row["metrics"]["next_token_accuracy"] == pytest.approx(hits / n, abs=2e-3)


def test_what_lies_beside_them_continues_a_text(prose):
    folder, result = prose
    at = {each["format"]: Path(each["path"]).name for each in result["exports"]}
    out = folder / "export"
    first = program(out, "causal_lm", at["onnx-int8"], "The value of", "--most", "12")
    assert first.startswith("The value of")
    assert len(first) > len("The value of\n")
    assert first == program(out, "causal_lm", at["onnx-int8"], "The value of", "--most", "12")
    about = json.loads((out / "causal_lm-tokenizer.json").read_text(encoding="utf-8"))
    assert set(first.strip()) <= {*about["vocabulary"], *"The value of"}
    card = read_json(folder / f"export/{Path(at['onnx-int8']).stem}.json")
    assert set(card["costs_at"]) == {"tokens", "mask"}


PAIRS = (
    "data.options={n: 260, syllables: 1, max_length: 16, min_count: 1}",
    "teacher.options={space: seq2seq, spec: {kind: gru, encoder_layers: 1, decoder_layers: 1, width: 32, heads: 2},"
    " epochs: 40, batch_size: 16, lr: 0.01}",
    "student.spec={kind: gru, encoder_layers: 1, decoder_layers: 1, width: {choices: [16, 24]}, heads: 2}",
    "recipe.train={lr: 0.02, batch_size: 16}",
    "distill={epochs: 16, controls: []}",
    "compress.quantize=[{use: int8, options: {samples: 32}}]",
    "export.max_drop={onnx-int8: 0.1}",
)


@pytest.fixture(scope="module")
def hangul(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hangul") / "study"
    return folder, run("seq2seq", folder, *PAIRS)


def test_targets_are_written_as_measured(hangul):
    """By the program that lies beside the files, token by token, for every text of the test split."""
    folder, result = hangul
    assert result["student"]["quality"]["metric"] == "exact_match"
    assert result["student"]["quality"]["value"] > 0.5
    assert [each["format"] for each in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    page = (folder / "report/index.html").read_text(encoding="utf-8")
    assert "Written exactly, by length" in page
    assert ">teacher</button>" in page.split("What is written", 1)[1].split("</thead>", 1)[0]
    split = held_out("seq2seq", *PAIRS)
    tools = runpy.run_path(str(folder / "export/seq2seq-generate.py"))
    for row in result["exports"]:
        encoder, decoder = (session(folder / path) for path in row["paths"])
        right = 0
        for i in range(len(split.ids)):
            batch = split.load([i])
            given = {name: batch[name].numpy() for name in ("tokens", "mask")}
            given["memory"] = tools["fed"](encoder, given)

            def follows(ids, given=given, decoder=decoder):
                prefix = tools["row"](ids)
                return tools["fed"](decoder, {**given, "prefix": prefix, "prefix_mask": np.ones_like(prefix)})[0, -1]

            found = tools["written"](follows, [2], 2, 16, 0.0, 0)
            right += [*found, 2] == batch["next"][0].tolist()
        assert row["quality"]["value"] == pytest.approx(
            right / len(split.ids), abs=1e-9 if "fp32" in row["format"] else 0.03
        )
        assert row["quality"]["n"] == len(split.ids)


def test_the_program_writes_for_a_word_as_it_is_typed(hangul):
    """Its syllables are taken apart as for training: NFC and NFD say the same word."""
    folder, result = hangul
    files = [Path(path).name for path in result["exports"][0]["paths"]]
    words = ["".join(chr(int(each, 16)) for each in name.split("-")) for name in held_out("seq2seq", *PAIRS).ids[:8]]
    said = [program(folder / "export", "seq2seq", *files, word).strip() for word in words]
    assert sum(found == romanised(word) for word, found in zip(words, said, strict=True)) >= 3
    assert program(folder / "export", "seq2seq", *files, unicodedata.normalize("NFD", words[0])).strip() == said[0]


def test_a_student_is_judged_on_fewer_targets_than_its_teacher(hangul):
    """Where no answer of the teacher stands in for a hidden one: what differences between students mean depends on it."""
    folder, result = hangul
    (facts,) = [read_json(each)["facts"] for each in (folder / "artifacts").glob("prepare-*/artifact.json")]
    val, teacher = result["data"]["counts"]["val"], facts["teachers"]["main"]
    assert val["unlabeled"] > val["labeled"] > 0
    assert teacher["judged"] == val["labeled"]
    assert teacher["validation"]["exact_match"]["n"] == val["labeled"] + val["unlabeled"]


def test_the_program_writes_a_name(hangul):
    folder, result = hangul
    files = [Path(path).name for path in result["exports"][0]["paths"]]
    assert program(folder / "export", "seq2seq", *files, "\u1100\u1161").strip().isalpha()
