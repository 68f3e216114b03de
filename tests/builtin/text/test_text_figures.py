"""Figures of retrieval and of written texts, from answers made by hand."""

import json
from math import exp, log

import pytest
import torch
from torch.nn import functional as F

from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.builtin.text.embedding import Embedding, EmbeddingOptions
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.seq2seq import Seq2Seq
from kdsearch.builtin.text.sequence_options import SequenceOptions
from kdsearch.builtin.text.sequence_source import SequenceSource, Written, bounded, windows
from kdsearch.builtin.text.source import Rows, TextSource
from kdsearch.builtin.text.tokenizer import Tokenizer, TokenizerOptions
from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import NoOptions


class NoTeacher:
    def predict(self, model, batch, taps=()):
        raise PluginError(f"no model '{model}'")


class WithTeacher:
    def __init__(self, answer):
        self.answer = answer

    def predict(self, model, batch, taps=()):
        assert model == "teacher"
        return self.answer(batch)


class Stored(WithTeacher):
    """A teacher that answers these samples alone."""

    def __init__(self, answer, ids):
        super().__init__(answer)
        self.ids = ids

    def predict(self, model, batch, taps=()):
        if lacking := [each for each in batch.ids if each not in self.ids]:
            raise DataError(f"no answers to {lacking}")
        return super().predict(model, batch, taps)


def shown(task, answer, data, services):
    figures = task.figures(answer, data, "train", services)
    json.dumps([each.as_json() for each in figures], allow_nan=False)
    return {each.slug: each for each in figures}


def pairs(n=6):
    texts = {"q": [f"question {i}" for i in range(n)], "d": [f"document {i}" for i in range(n)]}
    rows = Rows(tuple(map(str, range(n))), texts)
    return TextSource({"train": rows}, ("q",), TokenizerOptions(min_count=1), {}, "d")


def at_angles(angles):
    """Query i is at 0, 60, 120, ... degrees, document i as far from it as `angles` says."""

    def answer(batch):
        i = torch.tensor([int(each) for each in batch.ids]).double()
        query = i * torch.pi / 3
        document = query + torch.tensor(angles, dtype=torch.float64)[i.long()] * torch.pi / 180
        return {"embedding": torch.stack([torch.stack([a.cos(), a.sin()], 1) for a in (query, document)], 1)}

    return answer


def test_what_is_found_and_what_stands_first():
    """Document 0 is where query 3 is, and 3 where 0 is: both find it last, the four others first."""
    swapped, right = at_angles([180, 0, 0, 180, 0, 0]), at_angles([0] * 6)
    found = shown(Embedding(EmbeddingOptions()), swapped, pairs(), WithTeacher(right))
    values = {(row["who"], row["k"]): row["found"] for row in found["recall-at-k"].panels[0]["data"]["values"]}
    assert [k for who, k in values if who == "student"] == [1, 2, 3, 5]
    assert values["student", 1] == values["student", 5] == pytest.approx(4 / 6)
    assert values["teacher", 1] == 1
    table = found["recall-at-k"].tables[0]
    assert table.head == ["k", "teacher", "student", "by chance"]
    assert table.rows[0] == [1, "100.0 %", "66.7 %", "16.7 %"]
    rows = found["queries"].tables[0].rows
    best = ["question 1", "document 1", "document 1", 1, "document 1", 1]  # what the teacher finds, then the student
    assert rows[0] == best
    assert rows[-1] == ["question 3", "document 3", "document 3", 1, "document 0", 6]


def test_without_a_teacher_or_texts_the_rest_is_shown():
    source = pairs()

    class Bare:
        facts, split = {}, staticmethod(source.split)

    found = shown(Embedding(EmbeddingOptions()), at_angles([0] * 6), Bare(), NoTeacher())
    assert list(found) == ["recall-at-k"]
    assert found["recall-at-k"].tables[0].head == ["k", "student", "by chance"]


def letters(texts, length=16):
    rows = windows({f"t{i}": tuple(each) for i, each in enumerate(texts)}, length, packed=False)
    return SequenceSource({"train": rows}, SequenceOptions(min_count=1, max_length=length), {})


def sure(n_values, share):
    """Says that a letter follows itself, with this probability; all others share the rest."""

    def answer(batch):
        wanted = F.one_hot(batch["tokens"], n_values).double()
        return {"logits": (wanted * share + (1 - wanted) * (1 - share) / (n_values - 1)).log()}

    return answer


def test_perplexity_by_what_was_read_and_how_texts_go_on():
    data = letters(["aaaabbbb", "bbbbbbbb", "aab"])
    n = data.fields[0].n_values
    found = shown(CausalLm(NoOptions()), sure(n, 0.5), data, WithTeacher(sure(n, 0.9)))
    values = {(row["who"], row["read"]): row for row in found["places"].panels[0]["data"]["values"]}
    assert list(dict.fromkeys(read for _, read in values)) == ["1", "2-3", "4-7", "8-9"]
    for who, share in (("student", 0.5), ("teacher", 0.9)):
        hit, miss = -log(share), -log((1 - share) / (n - 1))
        # read: the boundary alone, never right; after 2 and 3 letters, 5 of 6 go on; of places 4 to 7, 7 of 9 (the third text ends)
        for read, hits, misses in (("1", 0, 3), ("2-3", 5, 1), ("4-7", 7, 2), ("8-9", 2, 2)):
            assert values[who, read]["n"] == hits + misses
            assert values[who, read]["perplexity"] == pytest.approx(exp((hits * hit + misses * miss) / (hits + misses)))
    rows = found["texts"].tables[0].rows
    assert found["texts"].tables[0].head == ["text", "truth", "teacher", "student"]
    assert rows == [["aaa", "abbbb", "a" * 48, "a" * 48], ["bbb", "bbbbb", "b" * 48, "b" * 48]]


def written(texts):
    ids = tuple(f"t{i}" for i in range(len(texts)))
    rows = Written(ids, [bounded(each[::-1]) for each in texts], [tuple(each) for each in texts])
    return SequenceSource({"train": rows}, SequenceOptions(min_count=1, max_length=16), {})


def reversing(n_values, most=99):
    """Writes a text from its end, at most so many letters."""

    def answer(batch):
        out = torch.zeros(*batch["prefix"].shape, n_values)
        for i, (tokens, mask) in enumerate(zip(batch["tokens"].tolist(), batch["mask"].tolist(), strict=True)):
            text = [token for token, real in zip(tokens, mask, strict=True) if real][::-1][:most]
            for place in range(out.shape[1]):
                out[i, place, [*text, BOUNDARY][min(place, len(text))]] = 1
        return {"logits": out}

    return answer


def test_targets_by_length_and_text_by_text():
    data = written(["ab", "abc", "bca", "cabab", "a", "bbbaa"])
    n = data.fields[0].n_values
    found = shown(Seq2Seq(NoOptions()), reversing(n, most=3), data, WithTeacher(reversing(n)))
    values = {(row["who"], row["length"]): row for row in found["lengths"].panels[0]["data"]["values"]}
    assert [(length, row["exact"], row["n"]) for (who, length), row in values.items() if who == "student"] == [
        ("1", 1.0, 1), ("2", 1.0, 1), ("3", 1.0, 2), ("5", 0.0, 2)
    ]  # fmt: skip
    assert all(row["exact"] == 1 for (who, _), row in values.items() if who == "teacher")
    assert found["lengths"].tables[0].rows[-1] == ["5", "100.0 %", "0.0 %", 2]
    table = found["texts"].tables[0]
    assert table.head == ["text", "truth", "teacher", "student", "exact"]
    assert table.rows[:2] == [["cabab", "babac", "babac", "bab", "no"], ["bbbaa", "aabbb", "aabbb", "aab", "no"]]
    assert all(row[1] == row[3] and row[4] == "yes" for row in table.rows[2:])
    assert len(table.rows) == 6
    assert "2 of 6" in found["texts"].says


@pytest.mark.parametrize("stored", ["none", "one", "all"])
@pytest.mark.parametrize("task", ["embedding", "causal_lm", "seq2seq"])
def test_a_teacher_without_answers_to_some_samples_is_left_out_of_what_it_lacks(task, stored):
    """Its answers to what is written by itself are stored by nobody."""
    if task == "embedding":
        data, made, answer = pairs(), Embedding(EmbeddingOptions()), at_angles([0] * 6)
    elif task == "causal_lm":
        data, made = letters(["aaaabbbb", "bbbbbbbb", "aab"]), CausalLm(NoOptions())
        answer = sure(data.fields[0].n_values, 0.5)
    else:
        data, made = written(["ab", "abc", "bca"]), Seq2Seq(NoOptions())
        answer = reversing(data.fields[0].n_values)
    ids = data.split("train").ids
    services = Stored(answer, {"none": (), "one": ids[:1], "all": ids}[stored])
    found = shown(made, answer, data, services)
    alone = shown(made, answer, data, NoTeacher())
    assert list(found) == list(alone)
    first, second = (each.tables[0] for each in found.values())
    assert ("teacher" in first.head) == (stored == "all")
    assert any("teacher" in head for head in second.head) == (stored == "all" and task == "embedding")
    if stored != "all":
        assert [each.tables for each in found.values()] == [each.tables for each in alone.values()]


def test_tokens_that_nobody_can_read_are_not_shown():
    data = letters(["aaaabbbb"])

    class Bare:
        fields, facts, split = data.fields, {}, staticmethod(data.split)

    assert list(shown(CausalLm(NoOptions()), sure(data.fields[0].n_values, 0.5), Bare(), NoTeacher())) == ["places"]


def test_decoding_is_the_other_way_round():
    data = letters(["ab a", "b a"])
    batch = data.split("train").load([0])
    assert data.decode(batch["tokens"][0].tolist()) == "ab a"
    words = TokenizerOptions(level="word", min_count=1)
    assert data.decode([0, 1, BOUNDARY]) == "?"
    tokenizer = Tokenizer.of(words, ("text",), ["one two"])
    assert tokenizer.decode(tokenizer.encode(["two one"])) == "two one"
