"""Training-free scores where the probe is no image: tokens with their mask, and several inputs."""

import math
from typing import Annotated, ClassVar

import pytest
import torch
from pydantic import Field as Option
from torch import nn

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Field, Model, Options, SearchSpace, Tap, searched
from kdsearch.kinds.options import searchable, validate
from kdsearch.search.scoring import Scorer, built, random_teacher
from kdsearch.testing.space import SearchSpaceContract
from kdsearch.verbs.commands import score

LOGITS = Field("logits", "logits", (3,))
TASK = Classification(ClassificationOptions())
HOST = Host.load()
PROXIES = sorted({each.name for each in HOST.entries("proxy")})


class TwoSpec(Options):
    width: Annotated[int, searched(8, 16, 32)] = Option(16, ge=1)


class TwoNet(nn.Module):
    def __init__(self, io: IO, width: int) -> None:
        super().__init__()
        pixels, sizes = (math.prod(each.sizes) for each in io.inputs)
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU())
        self.sensor = nn.Sequential(nn.Linear(sizes, width), nn.ReLU())
        self.both = nn.Sequential(nn.Linear(2 * width, 8), nn.ReLU())
        self.classifier = nn.Linear(8, 3)

    def forward(self, sensor, image):
        return self.classifier(self.both(torch.cat([self.image(image), self.sensor(sensor)], 1)))


class TwoInputs(SearchSpace[TwoSpec]):
    """An image and a vector, read in another order than the task names them in."""

    def build(self, spec: TwoSpec, io: IO) -> Model:
        w = spec.width
        taps = (
            Tap("stage[0]", "image", "vector", (w,)),
            Tap("stage[1]", "both", "vector", (8,)),
            Tap("penultimate", "classifier", "vector", (8,), side="input"),
            Tap("logits", "classifier", "vector", (3,)),
        )
        return Model(TwoNet(io, w), ("sensor", "image"), taps)

    def example_io(self) -> IO:
        return IO((Field("image", "image", (1, 4, 4)), Field("sensor", "vector", (5,))), (LOGITS,))


class TestTwoInputs(SearchSpaceContract):
    space = TwoInputs

    def io(self):
        return TwoInputs().example_io()


class OfTokens:
    """A small region of `text_encoder`, all 16 wide before the classifier."""

    io = IO(
        (Field("tokens", "tokens", (None,), "int64", n_values=50), Field("mask", "mask", (None,), "int64")), (LOGITS,)
    )
    fixed: ClassVar = {"width": 16, "embedding": 8, "heads": 2, "max_length": 8, "dropout": 0.0}

    @classmethod
    def space(cls):
        found = HOST.load_class("search_space", "text_encoder")
        return found(
            searchable(found.options_class, {**cls.fixed, "kind": "search", "layers": {"low": 1, "high": 2}}, "")
        )

    @classmethod
    def spec(cls, kind, layers=2):
        return cls.space().parse({**cls.fixed, "kind": kind, "layers": layers})

    @classmethod
    def scorer(cls, name):
        teacher = built(cls.space(), cls.spec("transformer", 3), cls.io, 0)
        return Scorer(cls.space(), cls.io, TASK, {name: proxy(name)}, teacher=teacher)


def proxy(name):
    cls = HOST.load_class("proxy", name)
    return cls(validate(cls.options_class, {}))


@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_answers_on_tokens(name):
    """A number for a transformer; for all kinds the same answer, a number or none, in any order."""
    specs = [OfTokens.spec(kind) for kind in ("transformer", "bag", "bilstm")]
    first, again = OfTokens.scorer(name).score_all(specs), OfTokens.scorer(name).score_all(specs[::-1])
    assert not first[0].errors
    assert first[0].scores[name] is not None
    assert [row.scores for row in first] == [row.scores for row in again[::-1]]


@pytest.mark.parametrize("name", ["zen", "jacob_cov", "epe_nas"])
def test_texts_that_a_network_cuts_are_moved_as_short_ones_are(name):
    """16 tokens of which 8 are read: vectors that are looked up are moved, as where there are 8 tokens."""
    space, spec = OfTokens.space(), OfTokens.spec("transformer")
    scores = []
    for length in (16, 8):
        tokens, mask = (
            Field("tokens", "tokens", (length,), "int64", n_values=50),
            Field("mask", "mask", (length,), "int64"),
        )
        io = IO((tokens, mask), (LOGITS,))
        rng = torch.Generator().manual_seed(0)
        batch = Batch(
            tuple(map(str, range(32))),
            {
                "tokens": torch.randint(0, 50, (32, 16), generator=rng)[:, :length],
                "mask": torch.ones(32, length, dtype=torch.int64),
                "label": torch.arange(32) % 3,
            },
        )
        scores.append(Scorer(space, io, TASK, {name: proxy(name)}, batch=batch).score(spec).scores[name])
    assert None not in scores
    assert scores[0] == scores[1] or name == "zen"  # zen draws its own noise, as long as the texts


@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_answers_on_two_inputs(name):
    space = TwoInputs()
    io = space.example_io()
    scorer = Scorer(space, io, TASK, {name: proxy(name)}, teacher=random_teacher(space, io, 0))
    for row in scorer.score_all([{"width": 8}, {"width": 32}]):
        assert not row.errors
        assert row.scores[name] is not None


def test_score_draws_texts_where_there_are_no_data():
    proxies = ("nwot", "synflow", "diswot_mr", "params", "macs")
    found = score(space="text_encoder", proxies=proxies, sample=3, progress=False)
    assert found["data"] == "noise 64, 64"
    assert len(found["rows"]) == 3
    for row in found["rows"]:
        for name in ("params", "macs", "diswot_mr"):
            assert row["scores"][name] is not None
        if row["spec"]["kind"] == "transformer":
            assert None not in row["scores"].values()
