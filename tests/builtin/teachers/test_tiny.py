"""A character model that is trained on the spot: it learns, repeats, writes with its own probabilities, and serves as a writer."""

import math
from typing import ClassVar

import pytest
import torch

from kdsearch.builtin.teachers.tiny import Characters, Tiny, TinyOptions, help_texts
from kdsearch.engine.setup import Site
from kdsearch.errors import DataError
from kdsearch.testing.text_teacher import TextTeacherContract

VERSE = "the cat sat on the mat. the dog sat on the log.\n" * 8


@pytest.fixture(scope="module")
def verse(tmp_path_factory):
    """A site whose folder has the verse, and keeps what is made once."""
    folder = tmp_path_factory.mktemp("verse")
    (folder / "verse.txt").write_text(VERSE)
    return Site(seed=0, base=folder, memory=folder / "memory")


def teacher(**options):
    return Tiny(TinyOptions(**{"path": "verse.txt", "steps": 120, "width": 32, **options}))


def test_it_learns_a_text_by_heart(verse):
    """Its likeliest continuation of a verse's beginning is the verse."""
    ((reply,),) = teacher().writer(verse).write(["the cat sat on"], stop=["."])
    assert (reply.text, reply.finish) == (" the mat", "stop")
    assert reply.tokens == len(reply.logprobs) == len(reply.text)
    assert reply.prompt_tokens == len("the cat sat on")
    ((cut,),) = teacher().writer(verse).write(["the cat sat on"], max_tokens=4)
    assert (cut.text, cut.finish) == (" the", "length")


def test_its_logprobs_are_those_of_one_pass_over_the_whole(verse):
    writer = teacher().writer(verse)
    ((reply,),) = writer.write(["the dog "], temperature=1.0, seed=3, max_tokens=12)
    model = writer._model
    with torch.no_grad():
        logits = model(model.encoded("the dog " + reply.text))[0][0]
    logits[:, 0] = -math.inf
    start = len("the dog ") - 1
    for i, (letter, logprob) in enumerate(zip(reply.text, reply.logprobs, strict=True)):
        assert logits[start + i].log_softmax(0)[model.place[letter]].item() == pytest.approx(logprob, abs=1e-4)


def test_draws_are_of_seed_prompt_and_number_and_weights_are_made_once(verse, monkeypatch):
    writer = teacher().writer(verse)
    (many,) = writer.write(["the "], n=6, temperature=1.5, max_tokens=12)
    assert len({each.text for each in many}) > 1
    monkeypatch.setattr("kdsearch.builtin.teachers.tiny.trained", lambda *_: pytest.fail("it is trained again"))
    assert teacher().writer(verse).write(["the "], n=6, temperature=1.5, max_tokens=12) == [many]
    assert writer.write(["the "], n=6, temperature=1.5, max_tokens=12, seed=1) != [many]
    (greedy,) = writer.write(["the "], n=2)
    assert greedy[0] == greedy[1]


def test_embeddings_tell_texts_apart_and_unknown_letters_are_no_fault(verse):
    rows = teacher().embed(["the cat", "the dog", "", "Ünknown"], verse)
    assert rows.shape == (4, 32)
    assert not torch.allclose(rows[0], rows[1])
    assert rows[2].abs().sum() == 0
    ((reply,),) = teacher().writer(verse).write(["Ünknown"], max_tokens=20)
    assert set(reply.text) <= set(VERSE)
    assert teacher().embed([], verse).shape == (0, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"short", "5 characters.*more than 64"), (b"\xff" * 99, "byte 0 is no UTF-8"), (b"a" * 99, "of two kinds")],
)
def test_a_text_that_cannot_be_learned_is_said(content, message, tmp_path):
    (tmp_path / "verse.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        teacher().preflight(Site(seed=0, base=tmp_path))


def test_help_texts_are_prose_and_the_identity_is_of_them():
    text = help_texts()
    assert len(text) > 200_000
    assert text.isascii()
    site = Site(seed=0, base=None)
    assert Tiny(TinyOptions()).identity(site)["text"] != ""
    assert Tiny(TinyOptions(path="verse.txt")).identity(site) == {
        "path": "verse.txt",
        "steps": 300,
        "width": 96,
        "text": "",
    }


def test_letters_before_do_not_depend_on_letters_after():
    torch.manual_seed(0)
    model = Characters("abc", 8)
    long, short = model(model.encoded("abcab"))[0], model(model.encoded("abc"))[0]
    assert torch.allclose(long[:, :3], short, atol=1e-6)


class TestTiny(TextTeacherContract):
    teacher = Tiny
    options: ClassVar = {"path": "verse.txt", "steps": 5, "width": 8}
    folder = None

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        (tmp_path / "verse.txt").write_text(VERSE)
        type(self).folder = tmp_path

    def services(self):
        return Site(seed=0, base=self.folder)
