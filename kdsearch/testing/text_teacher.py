"""The contract of teachers that write or embed, as tests.

# tests/test_my_writer.py in your package; needs pytest
from kdsearch.testing.text_teacher import TextTeacherContract
from my_package.writer import MyWriter


class TestMyWriter(TextTeacherContract):
    teacher = MyWriter
    options = {"model": "small"}  # as in a study's `options:`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdsearch.engine.replies import FINISHES
from kdsearch.engine.setup import Site
from kdsearch.kinds import Access, Reply, Services, Teacher
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import require


class TextTeacherContract:
    """Inherit it as `TestX` and name the teacher; a remote one is asked of whatever its options name: give it a local one."""

    teacher: ClassVar[type[Teacher[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}
    prompts: ClassVar[Sequence[str]] = ("say hello", "name a colour", "say hello again")

    def services(self) -> Services:
        return Site(seed=0, base=Path())

    def made(self) -> Teacher[Any]:
        return self.teacher(validate(self.teacher.options_class, self.options))

    @property
    def writes(self) -> bool:
        return self.teacher.writer is not Teacher.writer

    @property
    def embeds(self) -> bool:
        return self.teacher.embed is not Teacher.embed

    def write(self, prompts: Sequence[str], n: int = 1) -> list[list[Reply]]:
        return self.made().writer(self.services()).write(prompts, n=n)

    def embed(self, texts: Sequence[str]) -> Tensor:
        return self.made().embed(texts, self.services())

    def test_it_is_a_teacher_of_texts(self) -> None:
        made = self.made()
        require(
            made.access <= Access.LOGPROBS,
            f"access is {made.access.name}; of what writes or embeds it is TEXT or LOGPROBS",
        )
        require(self.writes or self.embeds, "it defines neither writer() nor embed()")
        made.preflight(self.services())

    def test_there_are_n_replies_a_prompt(self) -> None:
        if not self.writes:
            return
        for n in (1, 2):
            found = self.write(self.prompts, n)
            require(len(found) == len(self.prompts), f"{len(self.prompts)} prompts, {len(found)} answers")
            require(all(len(each) == n for each in found), f"{n} replies a prompt were asked for")
            for reply in (reply for each in found for reply in each):
                require(isinstance(reply.text, str), f"a reply's text is {type(reply.text).__name__}")
                require(reply.finish in FINISHES, f"finish is '{reply.finish}', expected one of {', '.join(FINISHES)}")
                require(reply.tokens >= 0 and reply.prompt_tokens >= 0, "tokens are counted below 0")
                has_logprobs = not reply.logprobs or self.made().access >= Access.LOGPROBS
                require(has_logprobs, "access is TEXT, but logprobs are given")

    def test_equal_requests_have_equal_replies(self) -> None:
        """Whatever else is asked with them: each is kept by itself."""
        if not self.writes:
            return
        whole = self.write(self.prompts)
        torch.manual_seed(1)
        require(self.write(self.prompts) == whole, "asked again, it replies otherwise")
        alone = [self.write([prompt])[0] for prompt in self.prompts]
        require(alone == whole, "a reply depends on the other prompts")

    def test_a_row_is_its_texts_alone(self) -> None:
        if not self.embeds:
            return
        texts = [*self.prompts, self.prompts[0]]
        whole = self.embed(texts)
        require(whole.ndim == 2 and len(whole) == len(texts), f"{len(texts)} texts are {tuple(whole.shape)}")
        require(whole.dtype == torch.float32, f"rows are {whole.dtype}, expected float32")
        require(bool(torch.isfinite(whole).all()), "a row is not finite")
        require(not whole.requires_grad, "rows carry a graph; they are constants")
        near = torch.allclose(self.embed(texts[::-1]).flip(0), whole, atol=1e-5)
        near = near and all(
            torch.allclose(self.embed([text])[0], row, atol=1e-5) for text, row in zip(texts, whole, strict=True)
        )
        require(near, "a row depends on the other texts")

    def test_its_identity_is_json_and_of_its_options(self) -> None:
        one, again = (
            json.loads(json.dumps(dict(self.made().identity(self.services())), allow_nan=False)) for _ in range(2)
        )
        require(bool(one), "it has no identity: what is kept of it would be any teacher's")
        require(one == again, "two of equal options have different identities: nothing that is kept would be found")

    def test_facts_are_json(self) -> None:
        json.dumps(dict(self.made().facts()), allow_nan=False)
