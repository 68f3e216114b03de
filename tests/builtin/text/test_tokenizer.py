"""Tokens are those of scikit-learn's analyzers, the vocabulary is of training texts, and the shipped program says the same."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from kdsearch.builtin.text import prepare
from kdsearch.builtin.text.tokenizer import Tokenizer, TokenizerOptions

TEXTS = ["The cat sat.", "the dog's cat", "A cat_and a DOG!", "zebra"]
WORDS = r"[^\W_]+|[^\w\s]|_"


def tokenizer(texts=TEXTS, columns=("text",), **options):
    return Tokenizer.of(TokenizerOptions(**{"min_count": 1, **options}), columns, texts)


@given(st.text(max_size=60), st.booleans())
@settings(deadline=None, max_examples=200)
def test_words_are_those_of_scikit_learn(text, lowercase):
    theirs = CountVectorizer(lowercase=lowercase, token_pattern=WORDS).build_analyzer()(text)
    assert tokenizer(lowercase=lowercase).pieces(text) == theirs


@given(st.text(alphabet=st.characters(exclude_characters="\x1c\x1d\x1e\x1f\x85"), max_size=60), st.booleans())
@settings(deadline=None, max_examples=200)
def test_characters_are_those_of_scikit_learn(text, lowercase):
    """But for a single space of another kind, which is a space here."""
    theirs = CountVectorizer(lowercase=lowercase, analyzer="char").build_analyzer()(text)
    expected = [" " if piece.isspace() else piece for piece in theirs]
    assert tokenizer(level="char", lowercase=lowercase).pieces(text) == expected


def test_texts_are_brought_to_a_normal_form_by_the_shipped_program_too():
    made = tokenizer(["각 é"], level="char", form="NFD")
    assert made.pieces("각 é") == ["\u1100", "\u1161", "\u11a8", " ", "e", "\u0301"]
    assert made.pieces("e\u0301") == made.pieces("é") == prepare.pieces("é", json.loads(made.files()["tokenizer.json"]))
    assert tokenizer(["é"], level="char").pieces("é") == ["é"]
    assert tokenizer(["ﬁne"], form="NFKC").vocabulary == ("fine",)
    before = {name: value for name, value in made.about.items() if name != "form"}
    assert prepare.pieces("é", before) == ["é"], "a tokenizer of before says none"


def test_the_most_frequent_tokens_come_first_and_the_rest_is_unknown():
    made = tokenizer(vocabulary=3)
    assert made.vocabulary == ("cat", "a", "dog")  # 3, 2, 2 times; "the" has 2 too, and comes later in the alphabet
    assert made.encode(["cat dog fish a"]) == [3, 5, prepare.UNKNOWN, 4]
    assert made.n_values == 6
    assert "zebra" not in tokenizer(min_count=2).vocabulary


def test_texts_are_cut_and_none_is_empty():
    made = tokenizer(max_length=3)
    assert len(made.encode(["the cat sat on the dog"])) == 3
    assert made.encode([" "]) == made.encode([""]) == [prepare.UNKNOWN]


def test_several_texts_share_the_length_with_a_separator():
    made = tokenizer(columns=("a", "b"), max_length=5)
    found = made.encode(["the cat sat", "dog"])
    assert found == [*made.encode(["the cat"])[:2], prepare.SEPARATOR, made.ids["dog"]]
    assert len(made.encode(["the " * 9, "dog " * 9])) == 5


@pytest.mark.parametrize("columns", [("text",), ("a", "b")])
@pytest.mark.parametrize("level", ["word", "char"])
def test_the_shipped_program_alone_gives_the_same_tokens(columns, level, tmp_path, monkeypatch):
    made = tokenizer(columns=columns, level=level, max_length=9)
    for name, content in made.files().items():
        (tmp_path / name).write_bytes(content)
    assert b"kdsearch." not in made.files()["prepare.py"]
    for module in [name for name in sys.modules if name.startswith("kdsearch")]:
        monkeypatch.delitem(sys.modules, module)  # found again only if it were imported
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "kd" not in each])
    spec = importlib.util.spec_from_file_location("shipped", tmp_path / "prepare.py")
    shipped = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shipped)
    texts = ["The dog's naïve cat", "sat!"][: len(columns)]
    sample = texts[0] if len(columns) == 1 else json.dumps(dict(zip(columns, texts, strict=True)))
    found = shipped.inputs(sample, {"tokenizer.json": tmp_path / "tokenizer.json"})
    assert found["tokens"].tolist() == [made.encode(texts)]
    assert found["tokens"].dtype == found["mask"].dtype == np.int64
    assert found["mask"].all()
    if len(columns) > 1:
        for sample in ("no object", '{"a": "one"}', '{"a": "one", "b": 2}', '{"a": null, "b": "two"}'):
            with pytest.raises(ValueError, match="expected a JSON object with a, b, a text each"):
                shipped.inputs(sample, {"tokenizer.json": tmp_path / "tokenizer.json"})
