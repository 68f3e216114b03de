"""Samples of several splits in one batch: padded to the longest, each field by its own."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from kdsearch.engine.members import Members, Piece
from kdsearch.engine.recipe_source import RecordSource
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import HIDDEN, Batch, Field, Record
from kdsearch.ops.padding import stacked
from tests.engine.test_cache import LABEL, MASK, TOKENS, Texts

TAGS = Field("tags", "tags", (None,), "int64", use="target")
SCORES = Field("scores", "vector", (None,), use="target")
UNK = Field("tokens", "tokens", (None,), "int64", n_values=9, padding=8)


class Labelled:
    """Twenty numbers of two classes."""

    splits = ("train",)
    fields = (Field("x", "vector", ()), LABEL)
    facts: ClassVar = {"classes": ["a", "b"]}
    ids = tuple(f"s{i}" for i in range(20))

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.as_tensor(list(index))
        return Batch(tuple(self.ids[i] for i in index), {"x": at.float(), "label": at % 2})


def two(fields):
    class Tagged(Texts):
        def load(self, index, augment=False, seed=0):
            batch = super().load(index)
            return batch.having(tags=batch["tokens"] % 2, scores=batch["tokens"].float())

    long, short = Tagged([7, 6]), Tagged([2, 3], 1)
    pieces = [
        Piece(long, torch.tensor([0, 2]).numpy(), torch.tensor([0, 1]).numpy()),
        Piece(short, torch.tensor([1, 3]).numpy(), torch.tensor([0, 1]).numpy()),
    ]
    return Members(["a", "b", "c", "d"], pieces, fields=fields), long, short


def test_batches_of_several_splits_are_padded_to_the_longest():
    """torch.cat of (2, 7) and (2, 3) raised."""
    members, long, short = two((UNK, MASK, TAGS, SCORES, LABEL))
    batch = members.load([3, 0, 1])
    assert batch["tokens"].tolist() == [
        [*short.rows[1].tolist(), 8, 8, 8, 8],
        long.rows[0].tolist(),
        [*short.rows[0].tolist(), 0, 8, 8, 8, 8],  # its own split's padding, then ours
    ]
    assert batch["mask"].sum(1).tolist() == [3, 7, 2]
    assert batch["tags"][0].tolist() == [*(short.rows[1] % 2).tolist(), *[HIDDEN] * 4]
    assert batch["scores"][2, 3:].isnan().all()
    assert members.load([1, 3])["tokens"].shape == (2, 3), "of one split: as that split pads"


def test_fields_with_other_axes_are_named():
    members, *_ = two(())

    class Odd(Texts):
        def load(self, index, augment=False, seed=0):
            batch = super().load(index)
            return batch.having(tags=batch["label"], scores=batch["tokens"].float())

    members._pieces = (members._pieces[0], Piece(Odd([2, 3]), members._pieces[1].at, members._pieces[1].row))
    with pytest.raises(DataError, match=r"field 'tags' has rows of 7 and one number"):
        members.load([0, 1])


class Mixed:
    """n samples with a number, a set of boxes, a word, and a row of open length that no field describes."""

    def __init__(self, name, n, extra=()):
        self.name, self.ids, self.extra = name, [f"{name}{i}" for i in range(n)], extra
        self.asked = []

    def load(self, index, augment=False, seed=0):
        self.asked.append((augment, seed))
        at = list(index)
        length = 2 if self.name == "p" else 4
        tensors = {"x": torch.tensor([float(i) for i in at]), "open": torch.ones(len(at), length)}
        tensors |= {each: torch.zeros(len(at)) for each in self.extra}
        lists = {"boxes": [torch.full((i + 1, 4), float(i)) for i in at]}
        return Batch(tuple(self.ids[i] for i in at), tensors, lists, {"word": [f"{self.name}{i}" for i in at]})


def mixed(hide=None, hidden=None, extra=()):
    """Samples p0, q0, p1, q1, p2 of two splits."""
    first, second = Mixed("p", 3), Mixed("q", 2, extra)
    pieces = [
        Piece(first, np.array([0, 2, 4]), np.array([0, 1, 2])),
        Piece(second, np.array([1, 3]), np.array([0, 1])),
    ]
    return Members(["p0", "q0", "p1", "q1", "p2"], pieces, None, hidden, hide), first, second


def test_whatever_a_sample_holds_stays_with_it():
    members, first, second = mixed()
    batch = members.load([4, 1, 3, 0])
    assert batch.ids == ("p2", "q0", "q1", "p0")
    assert batch["x"].tolist() == [2, 0, 1, 0]
    assert batch.texts["word"] == ["p2", "q0", "q1", "p0"]
    assert [len(each) for each in batch.lists["boxes"]] == [3, 1, 2, 1]
    assert batch["open"].tolist() == [[1, 1, 0, 0], [1] * 4, [1] * 4, [1, 1, 0, 0]], (
        "zeros, where nothing says otherwise"
    )
    members.load([0, 1], augment=True, seed=5)
    assert first.asked == second.asked == [(False, 0), (True, 5)]


def test_what_is_hidden_is_each_samples_own_whatever_split_it_is_from():
    hidden = torch.tensor([True, False, False, True, False])  # p0 and q1
    seen = []

    def hide(batch, rows):
        seen.append(dict(zip(batch.ids, rows.tolist(), strict=True)))
        return batch.having(x=batch["x"].masked_fill(rows, -1.0))

    members, *_ = mixed(hide, hidden)
    assert members.load([3, 0, 2, 1])["x"].tolist() == [-1, -1, 1, 0]
    assert seen == [{"p0": True, "p1": False}, {"q1": True, "q0": False}]


def test_two_splits_with_other_fields_are_named():
    members, *_ = mixed(extra=("more",))
    assert members.load([0, 2]).ids == ("p0", "p1")
    with pytest.raises(DataError, match="more"):
        members.load([0, 1])


def records(*rows):
    return [Record(f"r{i}", {"tokens": row, "mask": [1] * len(row), "label": i % 3}) for i, row in enumerate(rows)]


def test_records_of_open_length_are_padded_to_the_batchs_longest():
    """They were refused: "field 'tokens' of the records has several lengths"."""
    split = RecordSource(records([1, 2, 3], [4], [], [5, 6]), Texts([3])).split("train")
    assert split.load([0, 1])["tokens"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert split.load([3, 1, 2])["tokens"].tolist() == [[5, 6], [4, 0], [0, 0]]
    assert split.load([3, 1, 2])["mask"].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert split.load([2])["tokens"].dtype == torch.int64


def test_records_beside_samples_of_the_source_are_padded_together():
    source = Texts([5, 2])
    known = Record("t-0", {"label": 2})
    made = Record("new", {"tokens": [1], "mask": [1], "label": 0})
    batch = RecordSource([made, known], source).split("train").load([0, 1])
    assert batch["tokens"].tolist() == [[1, 0, 0, 0, 0], source.rows[0].tolist()]
    assert batch["label"].tolist() == [0, 2]


def test_a_record_without_a_target_is_the_sample_as_it_is_or_a_new_one_that_nobody_knows():
    """Beside one that has it, it was refused; where no new one had it the batch had none."""
    source = Texts([5, 2, 3])
    own = source.load([0, 1, 2])["label"].tolist()
    given = [
        Record("new", {"tokens": [1], "mask": [1]}),
        Record("t-0", {}),
        Record("told", {"tokens": [2, 2], "mask": [1, 1], "label": 1}),
        Record("t-1", {"label": (own[1] + 1) % 3}),
    ]
    split = RecordSource(given, source).split("train")
    batch = split.load([0, 1, 2, 3])
    assert batch.ids == ("new", "t-0", "told", "t-1")
    assert batch["label"].tolist() == [HIDDEN, own[0], 1, (own[1] + 1) % 3]
    assert batch["tokens"][:3].tolist() == [[1, 0, 0, 0, 0], source.rows[0].tolist(), [2, 2, 0, 0, 0]]
    alone = RecordSource(given[:1], source).split("train").load([0])
    assert alone["label"].tolist() == [HIDDEN]
    assert alone["label"].dtype == torch.int64


def test_records_may_not_differ_in_what_no_sample_lacks():
    source = Texts([5, 2])
    with pytest.raises(PluginError, match=r"records 't-0' and 't-1' have other fields: weight"):
        RecordSource([Record("t-0", {}), Record("t-1", {"weight": 1.0})], source)
    with pytest.raises(PluginError, match=r"records 'a' and 'b' have other fields: mask"):
        RecordSource([Record("a", {"tokens": [1], "mask": [1]}), Record("b", {"tokens": [1]})], source)


def test_a_new_record_without_a_target_of_open_length_is_named():
    class Tagged(Texts):
        fields = (TOKENS, MASK, TAGS)

    with pytest.raises(PluginError, match=r"record 'a' has no 'tags'\. Expected the target, or as many -100"):
        RecordSource([Record("a", {"tokens": [1, 2], "mask": [1, 1]})], Tagged([3]))
    given = {"tokens": [1, 2], "mask": [1, 1], "tags": [HIDDEN, HIDDEN]}
    assert RecordSource([Record("a", given)], Tagged([3])).split("train").load([0])["tags"].tolist() == [[HIDDEN] * 2]


def test_arranged_records_without_a_label_are_unlabeled():
    source = arrange(Labelled(), labeled=1.0, validation=0.2, test=0.2)
    train = source.split("train").ids
    given = [Record("new", {"x": 0.5}), Record(train[0], {"label": 1}), Record("told", {"x": 1.5, "label": 0})]
    made = source.trained_on(RecordSource(given, source))
    assert made.split("unlabeled").ids == ("new",)
    assert made.split("labeled").ids == (train[0], "told")
    assert made.split("labeled").load([0, 1])["label"].tolist() == [1, 0]


def test_a_record_with_other_axes_or_fractions_is_named():
    with pytest.raises(PluginError, match=r"'tokens' of record 'r1' is 1x2. Expected \?"):
        RecordSource(records([1, 2], [[3, 4]]), Texts([3]))
    with pytest.raises(PluginError, match=r"'tokens' of record 'r0' is \[1.5\]"):
        RecordSource(records([1.5]), Texts([3]))


def test_texts_are_encoded_as_long_as_their_batch():
    class Encoding(Texts):
        def encode(self, texts):
            rows = [torch.tensor([len(word) for word in text.split()]) for text in texts["text"]]
            return {"tokens": stacked(rows), "mask": stacked([torch.ones_like(row) for row in rows])}

    made = [Record("a", {"text": "one two three", "label": 0}), Record("b", {"text": "four", "label": 1})]
    split = RecordSource(made, Encoding([3])).split("train")
    assert split.load([0, 1])["tokens"].tolist() == [[3, 3, 5], [4, 0, 0]]
    assert split.load([1])["tokens"].tolist() == [[4]]


def test_a_batch_that_has_nothing_of_a_field_has_one_place_of_padding():
    """torch.export fails at a size of 0."""
    members, *_ = two((UNK, MASK, TAGS, SCORES, LABEL))

    class Empty(Texts):
        def load(self, index, augment=False, seed=0):
            batch = super().load(index)
            none = {name: batch[name][:, :0] for name in ("tokens", "mask")}
            return batch.having(**none, tags=none["tokens"], scores=none["tokens"].float())

    members._pieces = (members._pieces[0], Piece(Empty([2, 3]), members._pieces[1].at, members._pieces[1].row))
    batch = members.load([1, 3])
    assert batch["tokens"].tolist() == [[8], [8]]
    assert batch["mask"].tolist() == [[0], [0]]
    assert batch["tags"].tolist() == [[HIDDEN], [HIDDEN]]
    assert members.load([0, 1])["tokens"].shape == (2, 7)
