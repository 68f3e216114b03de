"""Installed and outside procedures keep the contract of procedures, and each rule finds the procedure that breaks it."""

from typing import Any

import pytest
import torch
from torch import nn

from kdsearch.builtin.distill import Distill
from kdsearch.host import Host
from kdsearch.kinds import Distiller, Graph, NoOptions, Phase, Procedure, Product, Update
from kdsearch.testing.contract import failures
from kdsearch.testing.procedure import CLASSES, ProcedureContract
from tests.outside.conftest import HERE

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(HERE))
    from kdsearch_segments import Chained, MeanIou, Mutual, Segmentation, ShapesSource, Unet, UnetSpec


class Memory(Distiller[NoOptions]):
    """Pulls the student's logits, through a map of its own, to what the teacher's were on the mean."""

    def build(self, shapes):
        self.map = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("mean", torch.zeros(CLASSES))

    def terms(self, step):
        return {"near": (self.map(step.student["logits"]) - self.mean).square().mean()}

    def on_step_end(self, step):
        self.mean.lerp_(step.gather(step.teacher["logits"]).mean(0), 0.1)


@pytest.mark.parametrize("name", Host.load().names("procedure"))
def test_installed_procedures_conform(name):
    procedure = Host.load().load_class("procedure", name)
    assert failures(type("Contract", (ProcedureContract,), {"procedure": procedure})) == {}


def test_the_built_in_conforms_with_all_that_it_can_do():
    """An average that ships, the best epoch kept, a distiller with a memory of its own."""
    members = {
        "procedure": Distill,
        "options": {"ema": 0.9, "keep": "best"},
        "distillers": lambda self: {"memory": Memory(NoOptions())},
    }
    assert failures(type("Contract", (ProcedureContract,), members)) == {}


class OverShapes(ProcedureContract):
    """Segmentation by U-Nets, from an outside package."""

    epochs = 1

    def source(self):
        from kdsearch.engine.splits import arrange

        return arrange(ShapesSource(48), labeled=1.0, validation=0.2, test=0.2)

    def task(self):
        return Segmentation(NoOptions())

    def metrics(self):
        return {"overlap": MeanIou(NoOptions())}

    def unet(self, seed):
        source = ShapesSource(48)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Unet().build(UnetSpec(), self.task().io(source.fields, source.facts))

    def models(self):
        return {role: self.unet(i) for i, role in enumerate(self.procedure.roles)}

    def teachers(self):
        return {"teacher": self.unet(9)}


class TestChained(OverShapes):
    procedure = Chained


class TestMutual(OverShapes):
    procedure = Mutual


class Plain(Procedure[NoOptions]):
    """Two phases with a part of its own, which begins with numbers that it draws."""

    def __init__(self, options):
        super().__init__(options)
        self.scale = nn.Parameter(torch.ones(()))

    def phases(self, setup):
        net = {"student": setup.models["student"].module, "own": self}
        drawn = setup.once("weight", lambda: float(torch.rand((), generator=setup.rng("weight"))))

        def step(s):
            yield Update({"task": s.task(), "scale": (self.scale - drawn).square()})

        for name in ("first", "second"):
            yield Phase(name, step, {"train": setup.feed("train")}, [setup.optim(net)], 1)


class TestPlain(ProcedureContract):
    procedure = Plain
    epochs = 1


def breaking(**members: Any) -> type[ProcedureContract]:
    broken = type("Broken", (Plain,), {"options_class": NoOptions, **members})
    return type("Contract", (ProcedureContract,), {"procedure": broken, "epochs": 1})


def one_phase(setup, step, train=None, name="only", feed="train"):
    modules = train or {"student": setup.models["student"].module}
    return Phase(name, step, {"train": setup.feed(feed)}, [setup.optim(modules)], 1)


def task_only(step):
    yield Update({"task": step.task()})


def trains_itself_alone(self, setup):
    def step(s):
        yield Update({"scale": self.scale.square()})

    yield one_phase(setup, step, {"own": self})


def moves_the_teacher(self, setup):
    with torch.no_grad():
        for weight in setup.teachers["teacher"].model.module.parameters():
            weight.add_(0.1)
    yield one_phase(setup, task_only)


def infinite(self, setup):
    yield one_phase(setup, task_only)
    with torch.no_grad():
        next(setup.models["student"].module.parameters()).fill_(torch.inf)


def no_phase(self, setup):
    yield from ()


def slash(self, setup):
    yield one_phase(setup, task_only, name="a b")


def global_draws(self, setup):
    factor = DRAWN.append(1) or 1 + len(DRAWN)

    def step(s):
        yield Update({"task": s.task() * factor})

    yield one_phase(setup, step)


DRAWN: list[int] = []


class Forgetful(Plain):
    """Counts its steps in an attribute, which no checkpoint holds."""

    options_class = NoOptions
    seen = 0

    def phases(self, setup):
        def step(s):
            self.seen += 1
            yield Update({"task": s.task() / self.seen})

        yield one_phase(setup, step)


def peeps(self, setup):
    setup.data.split("test").load([0])
    yield one_phase(setup, task_only)


def deeper(self, role, model, setup):
    model.module.classifier = nn.Sequential(model.module.classifier, nn.Linear(CLASSES, CLASSES))
    return model


def grows(self, setup):
    yield one_phase(setup, task_only)
    deeper(self, "student", setup.models["student"], setup)


def wider_answers(self, role, model, setup):
    net = model.module
    net.classifier = nn.Linear(net.classifier.in_features, 7)
    return model


def ever_wider(self, role, model, setup):
    DRAWN.append(1)
    model.module.extra = nn.Linear(1, len(DRAWN))
    return model


def idle_graph(self, setup):
    model, io = setup.models["student"], setup.io
    graph = Graph(model.module, io.inputs, io.outputs)
    return Product({"net": graph, "idle": graph}, lambda calls, batch: calls["net"](batch["image"]))


def no_answer(self, setup):
    model, io = setup.models["student"], setup.io
    graph = Graph(model.module, io.inputs, io.outputs)
    return Product({"net": graph}, lambda calls, batch: {"found": calls["net"](batch["image"])["logits"]})


FAULTS: list[tuple[type[ProcedureContract], str, str]] = [
    (breaking(ships=("student", "other")), "test_roles_that_ship_are_trained", "'other' ships"),
    (breaking(ships=()), "test_roles_that_ship_are_trained", "no role ships"),
    (breaking(phases=trains_itself_alone), "test_training_moves_what_ships_and_no_teacher", "ships as it was made"),
    (
        breaking(phases=moves_the_teacher),
        "test_training_moves_what_ships_and_no_teacher",
        "teacher 'teacher' is changed",
    ),
    (breaking(phases=infinite), "test_training_moves_what_ships_and_no_teacher", "not finite"),
    (breaking(phases=grows), "test_phases_leave_the_networks_that_it_says", "other networks than `grown` says"),
    (
        breaking(phases=grows, grown=deeper),
        "test_phases_leave_the_networks_that_it_says",
        "the phases after pruning change networks again",
    ),
    (breaking(phases=no_phase), "test_terms_are_finite_and_epochs_are_told", "yields no phase"),
    (breaking(phases=slash), "test_phases_have_names_of_their_own", "it names a file"),
    (breaking(phases=no_phase), "test_phases_have_names_of_their_own", "yields no phase"),
    (breaking(phases=global_draws), "test_equal_seeds_end_alike", "different losses"),
    (
        breaking(phases=Forgetful.phases, seen=0),
        "test_stopped_anywhere_it_goes_on_to_the_same_end",
        "its losses are others",
    ),
    (breaking(phases=peeps), "test_the_test_split_is_not_read", "reads the test split"),
    (breaking(adapt=wider_answers), "test_adapted_models_answer_the_task", "(7,) a sample"),
    (breaking(adapt=ever_wider), "test_adapted_models_answer_the_task", "adapted differently"),
    (breaking(product=idle_graph), "test_its_product_answers_the_task", "'idle' is delivered, but not called"),
    (breaking(product=no_answer), "test_its_product_answers_the_task", "does not answer 'logits'"),
]


@pytest.mark.parametrize(("contract", "test", "says"), FAULTS)
def test_a_faulty_procedure_is_found(contract, test, says):
    found = failures(contract, test)
    assert says in found.get(test, "(it passed)"), found


def test_every_rule_has_a_procedure_that_breaks_it():
    assert {test for _, test, _ in FAULTS} == {each for each in dir(ProcedureContract) if each.startswith("test_")}
