"""Written answers from a file: by prompt, by sample id, and what no line answers."""

import json
from typing import ClassVar

import pytest
import torch

from kdsearch.builtin.teachers.scripted import Scripted, ScriptedOptions
from kdsearch.engine.setup import Site
from kdsearch.errors import DataError
from kdsearch.testing.text_teacher import TextTeacherContract

LINES = [
    {"prompt": "say hello", "text": ["hello there, you", "good day"], "vector": [1, 2.5]},
    {"prompt": "name a colour", "text": "red", "vector": [0, 1]},
    {"prompt": "say hello again", "text": "hello", "vector": [3, 4]},
    {"id": "digit-0007", "text": "seven"},
    {"id": "digit-0008", "text": "eight"},
]


def written(folder, lines, name="script.jsonl"):
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / name


def opened(folder, lines=LINES, **options):
    written(folder, lines)
    teacher = Scripted(ScriptedOptions(path="script.jsonl", **options))
    site = Site(seed=0, base=folder)
    teacher.preflight(site)
    return teacher, teacher.writer(site), site


def test_a_prompt_is_answered_by_its_line_or_by_the_id_in_it(tmp_path):
    _, writer, _ = opened(tmp_path)
    prompts = ["name a colour", "what is digit-0007 ?", "digit-0008"]
    assert [each[0].text for each in writer.write(prompts)] == ["red", "seven", "eight"]
    (replies,) = writer.write(["say hello"], n=3, temperature=1.0, seed=5)
    assert [each.text for each in replies] == ["hello there, you", "good day", "hello there, you"]
    assert [(each.tokens, each.prompt_tokens) for each in replies] == [(3, 2), (2, 0), (3, 0)]


def test_stops_and_lengths_hold(tmp_path):
    _, writer, _ = opened(tmp_path)
    (((cut,),), ((short,),)) = (
        writer.write(["say hello"], stop=[",", "o "]),
        writer.write(["say hello"], max_tokens=2),
    )
    assert (cut.text, cut.finish) == ("hell", "stop")
    assert (short.text, short.finish, short.tokens) == ("hello there,", "length", 2)


def test_what_no_line_answers_is_said(tmp_path):
    teacher, writer, site = opened(tmp_path)
    with pytest.raises(DataError, match=r"has no text for 'name a color'.*did you mean 'name a colour'") as caught:
        writer.write(["name a color"])
    assert caught.value.file == tmp_path / "script.jsonl"
    with pytest.raises(DataError, match=r"two ids of this file as words: 'digit-0007' and 'digit-0008'"):
        writer.write(["digit-0008 or digit-0007"])
    with pytest.raises(DataError, match=r"has no vector of 'digit-0007'"):
        teacher.embed(["digit-0007"], site)
    _, patient, _ = opened(tmp_path, missing="error")
    (found,) = patient.write(["what"], n=2)
    assert [(each.text, each.finish) for each in found] == [("", "error")] * 2


def test_vectors_are_those_of_the_file(tmp_path):
    teacher, _, site = opened(tmp_path)
    assert torch.equal(teacher.embed(["name a colour", "say hello"], site), torch.tensor([[0.0, 1.0], [1.0, 2.5]]))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"prompt": "a", "answer": "b"}], r"its lines have prompt, answer.*`text` or `vector`"),
        ([{"prompt": "a", "text": "b"}, {"prompt": "a", "text": "c"}], r":2: .*'a' is answered twice"),
        ([{"prompt": "a", "id": "b", "text": "c"}], r":1: .*neither or both of `prompt` and `id`"),
        ([{"prompt": "a", "text": "b"}, {"prompt": "c", "text": 3}], r":2: .*3.*a text, or a list of texts"),
        ([{"prompt": "a", "vector": [1, 2]}, {"prompt": "b", "vector": [1]}], r":2: .*a list of 2 numbers"),
        ([{"prompt": "a", "vector": [True]}], r":1: .*numbers"),
        ([{"prompt": 4, "text": "b"}], r":1: .*4.*a text"),
    ],
)
def test_lines_of_another_form_are_named(lines, message, tmp_path):
    with pytest.raises(DataError, match=message):
        opened(tmp_path, lines)


class TestScripted(TextTeacherContract):
    teacher = Scripted
    options: ClassVar = {"path": "script.jsonl"}
    folder = None

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        written(tmp_path, LINES)
        type(self).folder = tmp_path

    def services(self):
        return Site(seed=0, base=self.folder)
