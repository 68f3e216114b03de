"""Data of sequences: the contract, every token foretold once, the training texts' vocabulary, files that lack something."""

import json
import re
import runpy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.builtin.text.prose import Prose, ProseOptions, paragraphs
from kdsearch.builtin.text.seq2seq import Seq2Seq
from kdsearch.builtin.text.sequence_options import pieces_of
from kdsearch.builtin.text.sequence_source import BOUNDARY, SequenceSource, windows
from kdsearch.builtin.text.sequences import Sequences, SequencesOptions
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, NoOptions
from kdsearch.testing.dataset import DatasetContract, FileServices

LINES = ["the cat sat", "a dog ran away", "", "the end of it", "so it goes", "cats and dogs", "more of it", "it rains"]


def jsonl(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class TestProse(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Prose(ProseOptions(texts=40, max_length=50))


class TestPlainText(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "a.txt").write_text("\n".join(LINES), encoding="utf-8")
        (tmp_path / "b.txt").write_text("a cat\nthe dog\n", encoding="utf-8")
        return Sequences(SequencesOptions(path="a.txt", test="b.txt", max_length=8, min_count=1))


class TestPackedPlainText(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "a.txt").write_text("\n".join(LINES), encoding="utf-8")
        return Sequences(SequencesOptions(path="a.txt", max_length=8, min_count=1, packed=True))


class TestPairs(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        jsonl(tmp_path, "a.jsonl", [{"text": line, "reply": line[::-1] + "!"} for line in LINES if line])
        return Sequences(SequencesOptions(path="a.jsonl", target="reply", max_length=20, min_count=1))


def opened(folder, **options):
    return Sequences(SequencesOptions(min_count=1, **options)).open(FileServices(folder))


def told(folder, **options):
    with pytest.raises(DataError) as found:
        opened(folder, **options)
    return str(found.value)


def written(source, split="train"):
    """The texts of a split, from the ids of its tokens and the vocabulary that is shipped."""
    about = json.loads(source.files()["tokenizer.json"])
    pieces = ["?", "?", "|", *about["vocabulary"]]
    batch = source.split(split).load(range(len(source.split(split).ids)))
    rows = zip(batch["tokens"], batch["next"], batch["mask"].bool(), strict=True)
    return [("".join(pieces[i] for i in t[m]), "".join(pieces[i] for i in n[m])) for t, n, m in rows]


def test_a_text_a_sample_between_boundaries(tmp_path):
    (tmp_path / "a.txt").write_text("abc\n\n  ab ca \n", encoding="utf-8")
    assert written(opened(tmp_path, path="a.txt")) == [("|abc", "abc|"), ("|ab ca", "ab ca|")]


def test_long_texts_are_samples_that_foretell_each_token_once(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefg\nab\n", encoding="utf-8")
    source = opened(tmp_path, path="a.txt", max_length=3)
    assert written(source) == [("|ab", "abc"), ("cde", "def"), ("fg", "g|"), ("|ab", "ab|")]
    ids = source.split("train").ids
    assert [each.partition("+")[2] for each in ids] == ["", "1", "2", ""]


def test_packed_texts_fill_samples(tmp_path):
    (tmp_path / "a.txt").write_text("abc\nde\nf\n", encoding="utf-8")
    assert written(opened(tmp_path, path="a.txt", max_length=4, packed=True)) == [
        ("|abc", "abc|"),
        ("|de|", "de|f"),
        ("f", "|"),
    ]


@given(st.lists(st.text("abc ", min_size=1, max_size=12), min_size=1, max_size=6), st.integers(2, 7), st.booleans())
def test_windows_hold_every_token_once(texts, length, packed):
    pieces = {str(i): list(text) for i, text in enumerate(texts)}
    rows = windows(pieces, length, packed)
    foretold = [piece for each in rows.target for piece in each[1:]]
    assert foretold == [piece for text in texts for piece in (*text, None)]
    assert all(2 <= len(each) <= length + 1 for each in rows.target)
    assert len(set(rows.ids)) == len(rows.ids)


@pytest.mark.parametrize("how", ["texts", "packed", "pairs"])
def test_equal_samples_are_a_group(tmp_path, how):
    (tmp_path / "a.txt").write_text("abcde\nxyz\nabcde\n", encoding="utf-8")
    jsonl(tmp_path, "a.jsonl", [{"text": text, "reply": "r"} for text in ("abcde", "xyz", "abcde")])
    options = {
        "texts": {"path": "a.txt", "max_length": 4},  # abcde is two samples
        "packed": {"path": "a.txt", "max_length": 5, "packed": True},
        "pairs": {"path": "a.jsonl", "target": "reply"},
    }[how]
    split = opened(tmp_path, **options).split("train")
    batch = split.load(range(len(split.ids)))
    held = [(tuple(t.tolist()), tuple(n.tolist())) for t, n in zip(batch["tokens"], batch["next"], strict=True)]
    same = [[one == other for other in held] for one in held]
    assert [[one == other for other in split.groups] for one in split.groups] == same
    assert sum(map(sum, same)) > len(held)
    assert all(group == sample for group, sample in zip(split.groups, split.ids, strict=True) if "-2" not in sample)


@pytest.mark.parametrize("target", [None, "target"])
def test_equal_samples_are_a_group_whatever_nobody_reads(tmp_path, target):
    jsonl(tmp_path, "a.jsonl", [{"text": f"a {i % 2}", "target": f"b {i % 2}", "n": i} for i in range(4)])
    groups = opened(tmp_path, path="a.jsonl", target=target).split("train").groups
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_padding_is_nothing_to_foretell(tmp_path):
    (tmp_path / "a.txt").write_text("abc\na\n", encoding="utf-8")
    batch = opened(tmp_path, path="a.txt").split("train").load([0, 1])
    assert batch["mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["next"][1].tolist()[1:] == [BOUNDARY, HIDDEN, HIDDEN]
    assert batch["tokens"][1].tolist()[2:] == [0, 0]


def test_the_vocabulary_is_of_the_training_texts_and_of_a_studys_own(tmp_path):
    (tmp_path / "a.txt").write_text("aab\nccc\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("azc\n", encoding="utf-8")
    source = opened(tmp_path, path="a.txt", test="b.txt")
    assert written(source, "test") == [("|a?c", "a?c|")]
    assert source.fields[0].n_values == 3 + 3
    first = source.split("train").ids[0]
    study = source.measured_on([first], [first])
    assert json.loads(study.files()["tokenizer.json"])["vocabulary"] == ["a", "b"]
    assert written(study, "test") == [("|a??", "a??|")]


def test_a_teachers_texts_become_samples(tmp_path):
    (tmp_path / "a.txt").write_text("abc\nab\n", encoding="utf-8")
    source = opened(tmp_path, path="a.txt")
    batch = source.split("train").load([0, 1])
    found = source.encode({"text": ["abc", "ab"]})
    assert found.keys() == batch.tensors.keys()
    assert all(torch.equal(found[name], batch[name]) for name in found)
    jsonl(tmp_path, "p.jsonl", [{"text": "ab", "reply": "bab"}, {"text": "b", "reply": "a"}])
    pairs = opened(tmp_path, path="p.jsonl", target="reply")
    batch, found = pairs.split("train").load([0, 1]), pairs.encode({"text": ["ab", "b"], "target": ["bab", "a"]})
    assert all(torch.equal(found[name], batch[name]) for name in batch.tensors)
    with pytest.raises(DataError, match="no text 'target'"):
        pairs.encode({"text": ["ab"]})


def test_pairs_show_what_has_been_written_so_far(tmp_path):
    jsonl(tmp_path, "a.jsonl", [{"q": "ab", "a": "ba"}, {"q": "b", "a": "bbb"}])
    source = opened(tmp_path, path="a.jsonl", text="q", target="a")
    batch = source.split("train").load([0, 1])
    b, a = (json.loads(source.files()["tokenizer.json"])["vocabulary"].index(each) + 3 for each in "ba")
    assert batch["tokens"].tolist() == [[a, b], [b, 0]]
    assert batch["prefix"].tolist() == [[2, b, a, 0], [2, b, b, b]]
    assert batch["next"].tolist() == [[b, a, 2, HIDDEN], [b, b, b, 2]]
    assert batch["prefix_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_pair_whose_target_nobody_knows_has_no_label(tmp_path):
    rows = [{"q": "ab", "a": "ba"}, {"q": "ab", "a": None}, {"q": "b", "a": "bb"}, {"q": "a", "a": "a"}]
    rows += [{"q": "aab", "a": "bab"}, {"q": "bb", "a": "b"}]
    jsonl(tmp_path, "a.jsonl", rows)
    source = opened(tmp_path, path="a.jsonl", text="q", target="a")
    batch = source.split("train").load([0, 1])
    assert batch["prefix"][1].tolist() == [BOUNDARY, 0, 0]
    assert batch["prefix_mask"][1].tolist() == [1, 0, 0]
    assert batch["next"][1].tolist() == [HIDDEN] * 3
    assert batch["tokens"][1].tolist() == batch["tokens"][0].tolist()
    alone = source.split("train").load([1])
    assert alone["prefix"].tolist() == [[BOUNDARY]]
    assert alone["next"].tolist() == [[HIDDEN]]
    data = arrange(source, labeled=1.0, validation=0.25, test=0.25, seed=0, task=Seq2Seq(NoOptions()))
    assert data.split("unlabeled").ids == (source.split("train").ids[1],)


def test_hidden_targets_are_not_in_the_vocabulary(tmp_path):
    """Pair i reads a letter of its own and writes another: what only hidden targets hold is not known."""
    jsonl(tmp_path, "a.jsonl", [{"q": chr(0x4E00 + i), "a": chr(0x5E00 + i) * 2} for i in range(40)])
    source = opened(tmp_path, path="a.jsonl", text="q", target="a")
    data = arrange(source, labeled=0.3, validation=0.2, test=0.2, seed=1, task=Seq2Seq(NoOptions()))
    known = set(json.loads(data.source.files()["tokenizer.json"])["vocabulary"])
    train, labeled = data.split("train").ids, data.split("labeled").ids
    numbers = {sample: i for i, sample in enumerate(source.split("train").ids)}
    assert 0 < len(labeled) < len(train)
    read, written = ({chr(start + numbers[i]) for i in ids} for start, ids in ((0x4E00, train), (0x5E00, labeled)))
    assert known == read | written


@pytest.mark.parametrize(
    ("name", "text", "options", "says"),
    [
        ("a.txt", "", {}, "has no row"),
        ("a.txt", "ab\nab\n", {"test": "a.txt"}, "this row of 'train' is in 'test' too"),
        ("a.doc", "ab", {}, "plain text (.txt)"),
        ("a.txt", "ab", {"text": "body"}, "no column 'body'"),
        ("a.csv", "text,reply\nab,c\n", {"target": "reply", "packed": True}, "pairs: packed"),
        ("a.csv", "text,reply\nab,c\n", {"target": "text"}, "is text and target"),
        ("a.csv", "text,reply\nab,c\nabcdef,c\n", {"target": "reply", "max_length": 4}, "a.csv:3"),
        ("a.jsonl", '{"text": "ab", "reply": 1}', {"target": "reply"}, "column 'reply'"),
    ],
)
def test_files_are_told_what_they_lack(tmp_path, name, text, options, says):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert says in told(tmp_path, path=name, **options)


@pytest.mark.parametrize("target", [None, "target"])
def test_what_goes_along_makes_inputs_as_a_batch_has_them(tmp_path, target):
    rows = [{"text": f"abc {i}", "target": f"cba {i} it is"} for i in range(20)]
    jsonl(tmp_path, "a.jsonl", rows)
    source = opened(tmp_path, path="a.jsonl", target=target, max_length=16)
    place = {name: tmp_path / name for name in source.files()}
    for name, content in source.files().items():
        place[name].write_bytes(content)
    inputs = runpy.run_path(str(place["prepare.py"]))["inputs"]
    batch = source.split("train").load([7])
    found = inputs(rows[7]["text"] if target is None else json.dumps(rows[7]), place)
    assert {name: each.tolist() for name, each in found.items()} == {
        name: tensor.tolist() for name, tensor in batch.tensors.items() if name != "next"
    }
    if target is None:
        assert inputs("", place)["tokens"].tolist() == [[2]]
        assert inputs("a" * 99, place)["tokens"].shape == (1, 16)
    else:
        begun = inputs('{"text": "abc 7"}', place)
        assert (begun["prefix"].tolist(), begun["prefix_mask"].tolist()) == ([[2]], [[1]])
        with pytest.raises(ValueError, match="expected a JSON object with text, target"):
            inputs("abc 7", place)


def test_rare_tokens_alone_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("abc\n", encoding="utf-8")
    with pytest.raises(DataError, match="no token occurs 5 times"):
        Sequences(SequencesOptions(path="a.txt", min_count=5)).open(FileServices(tmp_path))


def test_equal_content_is_needed_for_equal_facts(tmp_path):
    (tmp_path / "a.txt").write_text("abc\nca\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("abc\nac\n", encoding="utf-8")
    a, b = (opened(tmp_path, path=name).facts["content"] for name in ("a.txt", "b.txt"))
    assert a != b


def test_prose_is_prose():
    found = paragraphs(
        "Title\n*****\n\nA sentence of more than eight words is a paragraph here.\n\n   code = 1\n\nToo short.\n"
    )
    assert found == ["A sentence of more than eight words is a paragraph here."]
    source = Prose(ProseOptions(texts=30, max_length=40)).open(None)
    assert isinstance(source, SequenceSource)
    assert all(re.fullmatch(r"[\x20-\x7e|]+", text) for text, _ in written(source))
    assert len(pieces_of(ProseOptions(), "a  b")) == 3
