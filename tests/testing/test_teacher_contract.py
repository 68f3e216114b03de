"""Teachers that write or embed keep their contract, and each rule of both teachers' contracts finds what breaks it."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdsearch.builtin.teachers.http import Http
from kdsearch.kinds import IO, Access, Batch, Field, Model, NoOptions, Reply, Teacher, Training, traced_taps
from kdsearch.testing.contract import failures
from kdsearch.testing.models import small_resnet
from kdsearch.testing.teacher import TeacherContract
from kdsearch.testing.text_teacher import TextTeacherContract
from tests.builtin.teachers.endpoint_server import serving
from tests.outside.conftest import HERE

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(HERE))
    from kdsearch_texts.scripted import Scripted, ScriptedOptions

COUNT = itertools.count()  # of asked identities: an id() may be that of an object that is gone


class TestScripted(TextTeacherContract):
    teacher = Scripted


@pytest.mark.parametrize("options", [{}, {"api": "completions", "logprobs": True}])
def test_an_endpoint_conforms(options, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        given = {"base_url": server.url, "model": "small", "backoff_s": 0.0, **options}
        assert failures(type("Contract", (TextTeacherContract,), {"teacher": Http, "options": given})) == {}


class Small(Teacher[NoOptions]):
    """A network with random weights of a fixed seed, trained by the study."""

    access = Access.GRADIENT

    @property
    def training(self):
        return Training(2, scale={"stem*": 0.1}, is_fresh=True)

    def model(self, io, services):
        channels, height, width = io.inputs[0].sizes
        return small_resnet(classes=io.outputs[0].sizes[0], image=(channels, height, width))


class TestSmall(TeacherContract):
    teacher = Small


class FromView(Small):
    """Fed crops under a name of its own."""

    def view(self, batch, rng):
        at = int(torch.randint(4, (), generator=rng))
        return Batch(batch.ids, {"crop": batch["image"][:, :, at : at + 8, at : at + 8]})

    def model(self, io, services):
        net = small_resnet(classes=io.outputs[0].sizes[0])
        return Model(net.module, ("crop",), net.taps)


class TestFromView(TeacherContract):
    teacher = FromView


class Tagger(nn.Module):
    """Tokens (B, N) -> an answer a token, (B, N, 5)."""

    def __init__(self):
        super().__init__()
        self.look = nn.Embedding(7, 5)

    def forward(self, tokens):
        return self.look(tokens)


class Tags(Teacher[NoOptions]):
    access = Access.LOGITS

    def model(self, io, services):
        with torch.random.fork_rng():
            torch.manual_seed(services.seed)
            return Model(Tagger(), ("tokens",), outputs=("logits",))


class TestOpenSizes(TeacherContract):
    """Of texts of any length, as the task `causal_lm` has them."""

    teacher = Tags

    def io(self):
        tokens = Field("tokens", "tokens", (None,), "int64", n_values=7)
        return IO((tokens,), (Field("logits", "logits", (None, 5)),))


class Bank(Tags):
    def model(self, io, services):
        return Model(super().model(io, services).module, ("tokens",), outputs=("features",))


class TestBank(TestOpenSizes):
    """Its outputs are not the task's."""

    teacher = Bank

    def answers(self):
        return (Field("features", "features", (None, 5)),)


def breaking(**members: Any) -> type[TeacherContract]:
    broken = type("Broken", (Small,), {"options_class": NoOptions, **members})
    return type("Contract", (TeacherContract,), {"teacher": broken})


def built(change):
    def model(self, io, services):
        return change(Small.model(self, io, services))

    return model


class Wrapped(nn.Module):
    def __init__(self, net, act):
        super().__init__()
        self.net, self.act = net, act

    def forward(self, image):
        return self.act(self.net(image))


def acting(act):
    def change(model):
        net = Wrapped(model.module, act)
        taps = traced_taps(net, [torch.zeros(1, 3, 16, 16)], {"penultimate": "net.pool"})
        return Model(net, model.inputs, taps)

    return built(change)


def freshly_drawn(model):
    with torch.no_grad():
        next(model.module.parameters()).normal_()
    return model


def lying(model):
    model.taps = tuple(type(tap)(tap.name, tap.path, tap.kind, (1, *tap.shape[1:])) for tap in model.taps)
    return model


def other_copy(model):
    class Once(Model):
        def copy(self):
            found = super().copy()
            with torch.no_grad():
                next(found.module.parameters()).mul_(3)
            return found

    return Once(model.module, model.inputs, model.taps)


def drops_a_sample(self, batch, rng):
    return batch.rows(torch.tensor([0]))


def draws_globally(self, batch, rng):
    return batch.having(image=batch["image"] + torch.randn(batch["image"].shape))


def renames(self, batch, rng):
    return Batch(batch.ids, {"picture": batch["image"]})


def absent(self, services):
    raise FileNotFoundError("no weights here")


FAULTS = [
    (
        breaking(model=acting(lambda z: z - z.mean(0))),
        "test_answers_each_sample_on_its_own_and_repeatably",
        "other samples",
    ),
    (
        breaking(model=acting(lambda z: z * torch.rand(()))),
        "test_answers_each_sample_on_its_own_and_repeatably",
        "different answers",
    ),
    (
        breaking(model=acting(lambda z: z[:, :4])),
        "test_answers_each_sample_on_its_own_and_repeatably",
        "answered by (3, 4)",
    ),
    (breaking(view=renames), "test_answers_each_sample_on_its_own_and_repeatably", "which the view has not"),
    (breaking(model=built(freshly_drawn)), "test_equal_seeds_give_equal_weights", "more than the study's seed"),
    (breaking(model=built(lying)), "test_taps_have_the_promised_shapes", "promised"),
    (breaking(access=Access.LOGITS), "test_taps_have_the_promised_shapes", "taps are offered"),
    (
        breaking(model=acting(lambda z: z.detach() + 0 * z.sum().detach())),
        "test_gradients_reach_the_input_where_access_says_so",
        "has no graph",
    ),
    (breaking(model=built(other_copy)), "test_copies_answer_alike", "answers otherwise"),
    (
        breaking(training=Training(2, scale={"nothing*": 0.1})),
        "test_declared_training_fits_the_model",
        "matches no parameter",
    ),
    (breaking(training=Training(0)), "test_declared_training_fits_the_model", "0 epochs"),
    (breaking(view=drops_a_sample), "test_views_are_read_and_repeat", "other samples"),
    (breaking(view=draws_globally), "test_views_are_read_and_repeat", "global stream"),
    (breaking(view=renames), "test_views_are_read_and_repeat", "'image'"),
    (breaking(normalization="imagenet"), "test_what_it_says_before_it_is_built", "is a str"),
    (breaking(preflight=absent), "test_what_it_says_before_it_is_built", "no weights here"),
    (breaking(access=Access.TEXT), "test_what_it_says_before_it_is_built", "TextTeacherContract"),
    (breaking(facts=lambda self: {"at": Path()}), "test_facts_are_json", "JSON"),
]


class Echo(Teacher[ScriptedOptions]):
    """Says a prompt again; embeds by length."""

    access = Access.TEXT

    def writer(self, services):
        return EchoWriter()

    def embed(self, texts, services):
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


class EchoWriter:
    def write(self, prompts, n=1, temperature=0.0, stop=(), seed=0, max_tokens=256):
        return [[Reply(prompt)] * n for prompt in prompts]


def texting(**members: Any) -> type[TextTeacherContract]:
    broken = type("Broken", (Echo,), {"options_class": ScriptedOptions, **members})
    return type("Contract", (TextTeacherContract,), {"teacher": broken})


def writing(reply):
    class Writer(EchoWriter):
        def write(self, prompts, n=1, **options):
            return reply(prompts, n)

    return lambda self, services: Writer()


TEXT_FAULTS = [
    (texting(access=Access.TAPS), "test_it_is_a_teacher_of_texts", "access is TAPS"),
    (texting(writer=Teacher.writer, embed=Teacher.embed), "test_it_is_a_teacher_of_texts", "neither"),
    (
        texting(writer=writing(lambda prompts, n: [[Reply("a")] for _ in prompts])),
        "test_there_are_n_replies_a_prompt",
        "2 replies",
    ),
    (
        texting(writer=writing(lambda prompts, n: [[Reply("a")] * n])),
        "test_there_are_n_replies_a_prompt",
        "3 prompts, 1 answers",
    ),
    (
        texting(writer=writing(lambda prompts, n: [[Reply("a", "done")] * n for _ in prompts])),
        "test_there_are_n_replies_a_prompt",
        "'done'",
    ),
    (
        texting(writer=writing(lambda prompts, n: [[Reply("a", logprobs=(-1.0,))] * n for _ in prompts])),
        "test_there_are_n_replies_a_prompt",
        "logprobs",
    ),
    (
        texting(writer=writing(lambda prompts, n: [[Reply(str(torch.rand(())))] * n for _ in prompts])),
        "test_equal_requests_have_equal_replies",
        "asked again",
    ),
    (
        texting(writer=writing(lambda prompts, n: [[Reply(str(i))] * n for i, _ in enumerate(prompts)])),
        "test_equal_requests_have_equal_replies",
        "other prompts",
    ),
    (
        texting(embed=lambda self, texts, services: Echo.embed(self, texts, services) - len(texts)),
        "test_a_row_is_its_texts_alone",
        "other texts",
    ),
    (
        texting(embed=lambda self, texts, services: Echo.embed(self, texts, services).double()),
        "test_a_row_is_its_texts_alone",
        "expected float32",
    ),
    (texting(identity=lambda self, services: {}), "test_its_identity_is_json_and_of_its_options", "no identity"),
    (
        texting(identity=lambda self, services: {"id": next(COUNT)}),
        "test_its_identity_is_json_and_of_its_options",
        "different identities",
    ),
    (texting(facts=lambda self: {"at": Path()}), "test_facts_are_json", "JSON"),
]


@pytest.mark.parametrize(("contract", "test", "says"), [*FAULTS, *TEXT_FAULTS])
def test_a_faulty_teacher_is_found(contract, test, says):
    found = failures(contract, test)
    assert says in found.get(test, "(it passed)"), found


@pytest.mark.parametrize(("contract", "faults"), [(TeacherContract, FAULTS), (TextTeacherContract, TEXT_FAULTS)])
def test_every_rule_has_a_teacher_that_breaks_it(contract, faults):
    assert {test for _, test, _ in faults} == {each for each in dir(contract) if each.startswith("test_")}
