"""Teachers that write or embed, as recipes and methods ask them."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from kdsearch.kinds import NoOptions, Teacher
from kdsearch.training import text_teachers


class Lengths(Teacher[NoOptions]):
    def embed(self, texts, services):
        return torch.tensor([[float(len(text)), services] for text in texts])


def test_the_site_of_one_that_embeds_is_made_once(monkeypatch):
    """Its name is a digest of every sample of the data."""
    made = []
    monkeypatch.setattr(text_teachers, "teacher_site", lambda materials, name: made.append(name) or 7.0)
    monkeypatch.setattr(text_teachers, "placing", lambda study, path: nullcontext())
    monkeypatch.setattr(text_teachers, "_made", lambda materials, only: {"a": Lengths(NoOptions())})
    study = SimpleNamespace(path_of_teacher=lambda name: f"teachers.{name}")
    embedder = text_teachers.embedders(SimpleNamespace(folder=None, study=study))["a"]
    assert made == []
    texts = ["x" * n for n in range(1, 101)]
    assert embedder(texts).tolist() == [[n, 7.0] for n in range(1, 101)]
    assert made == ["a"]
