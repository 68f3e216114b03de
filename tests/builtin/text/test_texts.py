"""Texts of tables keep the contract of data sets; their vocabulary is of what the study trains on."""

import json
import sysconfig
from pathlib import Path

import pytest
import torch

from kdsearch.builtin.text.docstrings import Docstrings, DocstringsOptions, documented
from kdsearch.builtin.text.texts import Texts, TextsOptions
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Carries, Encodes, Measured
from kdsearch.testing.dataset import DatasetContract, FileServices

ROWS = [(f"word{i % 5} and {'more ' * (i % 4)}text {i}", ["good", "bad", ""][i % 3]) for i in range(30)]


@pytest.fixture
def table(tmp_path):
    """A CSV with labels, a third of them missing, and JSON Lines of pairs."""
    lines = ["said,stars,also", *(f"{text},{label},{text}" for text, label in ROWS)]
    (tmp_path / "reviews.csv").write_text("\n".join(lines))
    pairs = [
        {"question": f"what is {i % 20} and why", "answer": f"it is number {i}", "number": i % 2} for i in range(24)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(each) for each in pairs))
    return tmp_path


def texts(**options):
    return Texts(TextsOptions(**{"min_count": 1, **options}))


class TestClasses(DatasetContract):
    @pytest.fixture
    def dataset(self, table):
        return texts(path="reviews.csv", text="said", label="stars")


class TestPairs(DatasetContract):
    @pytest.fixture
    def dataset(self, table):
        return texts(path="pairs.jsonl", text="question", document="answer")


class TestDocstrings(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Docstrings(DocstringsOptions(max_length=16))


class TestMatchedDocstrings(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Docstrings(DocstringsOptions(max_length=16, pairs="match"))


def test_labels_are_the_column_s_and_an_empty_cell_is_none(table):
    source = texts(path="reviews.csv", text="said", label="stars").open(FileServices(table))
    assert source.facts["classes"] == ["bad", "good"]
    expected = [{"good": 1, "bad": 0, "": HIDDEN}[label] for _, label in ROWS]
    assert source.split("train").load(range(30))["label"].tolist() == expected
    assert source.split("train").load([3]).texts["said"] == [ROWS[3][0]]


def test_equal_texts_of_a_class_are_not_carved_apart(tmp_path):
    rows = [f"text {i % 20},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    source = texts(path="t.csv", label="label").open(FileServices(tmp_path))
    parts = arrange(source, labeled=1.0, validation=0.2, test=0.2)
    held = [set(parts.split(name).load(range(12)).texts["text"]) for name in ("val", "test")]
    assert [len(each) for each in held] == [4, 4]
    train = parts.split("train")
    assert not set(train.load(range(len(train.ids))).texts["text"]) & (held[0] | held[1])


def test_the_vocabulary_is_of_the_samples_that_the_study_trains_on(table):
    source = texts(path="reviews.csv", text="said", label="stars").open(FileServices(table))
    assert isinstance(source, Measured)
    data = arrange(source, labeled=1.0, validation=0.2, test=0.3)
    (tokenizer,) = [json.loads(data.source.files()["tokenizer.json"])]
    held_out = {sample for name in ("val", "test") for sample in data.split(name).ids}
    of_train = {
        piece
        for i, (text, _) in enumerate(ROWS)
        if source.split("train").ids[i] not in held_out
        for piece in text.split()
    }
    assert set(tokenizer["vocabulary"]) == of_train
    (tokens,) = [each for each in data.fields if each.name == "tokens"]
    assert tokens.n_values == 3 + len(of_train)
    batch = data.split("test").load(range(5))
    assert int(batch["tokens"].max()) < tokens.n_values
    assert (batch["tokens"] == 1).any(), "a number that no training text has is unknown"
    assert tokens.open_size == data.facts["tokenizer"]["length"]


def test_pairs_that_match_or_not_are_of_one_split_and_neither_half_tells():
    """Each text and each signature is there twice, both in one split: once with its own partner, once with another of its part."""
    source = Docstrings(DocstringsOptions(pairs="match")).open(FileServices(Path()))
    found = documented(Path(sysconfig.get_path("stdlib")))
    own = {(row["first"], row["signature"]) for row in found}
    parts = {row[half]: row["part"] for row in reversed(found) for half in ("first", "signature")}
    classes, homes, sizes = source.facts["classes"], {}, {}
    for name in ("train", "val", "test"):
        rows = source.split(name).rows
        said = [classes[i] for i in rows.labels.tolist()]
        sizes[name] = len(rows.ids)
        for text, signature, answer in zip(rows.texts["text"], rows.texts["signature"], said, strict=True):
            homes.setdefault(text, []).append((name, answer))
            homes.setdefault(signature, []).append((name, answer))
            assert ((text, signature) in own) == (answer == "yes")
            assert parts[text] == parts[signature]
    assert all(sorted(answer for _, answer in each) == ["no", "yes"] for each in homes.values())
    assert all(len({name for name, _ in each}) == 1 for each in homes.values())
    assert sum(sizes.values()) > 5000
    assert sizes["test"] / sum(sizes.values()) == pytest.approx(0.2, abs=0.03)


def test_a_field_of_two_texts_says_what_is_between_them(table):
    pair = texts(path="pairs.jsonl", text=("question", "answer"), label="number").open(FileServices(table))
    (tokens,) = [each for each in pair.fields if each.name == "tokens"]
    assert (pair.split("train").load([0])["tokens"] == tokens.separator).sum() == 1
    single = texts(path="reviews.csv", text="said", label="stars").open(FileServices(table))
    assert single.fields[0].separator is None


def test_what_is_carried_and_encoded_is_what_samples_hold(table):
    source = texts(path="reviews.csv", text="said", label="stars").open(FileServices(table))
    assert isinstance(source, Carries)
    assert isinstance(source, Encodes)
    batch = source.split("train").load([2, 5])
    again = source.encode(batch.texts)
    assert torch.equal(again["tokens"], batch["tokens"])
    assert torch.equal(again["mask"], batch["mask"])


def test_equal_texts_of_pairs_have_equal_numbers(table):
    source = texts(path="pairs.jsonl", text="question", document="answer").open(FileServices(table))
    batch = source.split("train").load(range(24))
    assert batch["query"][0] == batch["query"][20]
    assert len(set(batch["document"].tolist())) == 24
    assert texts(path="pairs.jsonl", text="question", document="answer").task == "embedding"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "sayd", "label": "stars"}, "no column 'sayd'.*said"),
        ({"text": "said"}, "neither is given"),
        ({"text": "said", "label": "stars", "document": "stars"}, "said, stars, stars"),
        ({"text": ("said", "said"), "label": "stars"}, "each once"),
        ({"text": "said", "label": "stars", "min_count": 99}, "no token occurs 99 times"),
        ({"text": ("said", "also"), "label": "stars", "max_length": 2}, "max_length 2. Expected 3 or more"),
    ],
)
def test_what_does_not_fit_is_said(table, options, says):
    with pytest.raises(DataError, match=says):
        texts(path="reviews.csv", **options).open(FileServices(table))


def test_docstrings_are_parsed_and_not_run(tmp_path):
    (tmp_path / "logging").mkdir()
    code = (
        'import missing\n\nclass A:\n    """What it is, in a few words. More."""\n'
        '    def f(self, x, *, y):\n        """Does a thing with x and y."""\n'
    )
    (tmp_path / "logging" / "a.py").write_text(code)
    (tmp_path / "logging" / "broken.py").write_text("def (")
    first, second = documented(tmp_path)
    assert first == {
        "part": "logging",
        "name": "logging.a.A",
        "signature": "class logging.a.A",
        "text": "What it is, in a few words. More.",
        "first": "What it is, in a few words",
    }
    assert second["signature"] == "logging.a.A.f(self, x, y)"


def test_a_copy_across_splits_is_refused_whatever_stands_in_columns_that_nobody_reads(table):
    lines = [f"{text},{label}" for text, label in ROWS]
    for name, rows in (("a", lines), ("b", lines[::-1])):
        (table / f"{name}.csv").write_text("\n".join([",said,stars", *(f"{i},{row}" for i, row in enumerate(rows))]))
    with pytest.raises(DataError, match="this row of 'train' is in 'test' too"):
        texts(path="a.csv", test="b.csv", text="said", label="stars").open(FileServices(table))


def test_classes_that_are_numbers_are_in_their_order(table):
    rows = [f"some words number {i},{i % 12}" for i in range(48)]
    (table / "twelve.csv").write_text("\n".join(["said,stars", *rows]))
    source = texts(path="twelve.csv", text="said", label="stars").open(FileServices(table))
    assert source.facts["classes"] == [str(k) for k in range(12)]
    assert source.split("train").labels.tolist() == [i % 12 for i in range(48)]


def test_an_unlabeled_copy_of_a_test_text_is_refused(tmp_path):
    """Students would hear the teacher on the very texts that judge them."""
    rows = [*(f"text {i},{'ab'[i % 2]},train" for i in range(8)), "held 1,a,test", "held 2,b,test", "held 2,,unlabeled"]
    (tmp_path / "t.csv").write_text("\n".join(["text,label,part", *rows]))
    with pytest.raises(DataError, match=r"t\.csv:12: this row of 'unlabeled' is in 'test' too \(t\.csv:11\), as 1 are"):
        texts(path="t.csv", label="label", split="part").open(FileServices(tmp_path))
