"""`kd.<name>`: minus the loss of any distiller between an untrained student and an untrained teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jsonschema
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.builtin.distiller_proxy import ProbeStep, proxy_of
from kdsearch.cli import main
from kdsearch.errors import KdsearchError, PluginError, TapShapeError
from kdsearch.host import Host
from kdsearch.kinds import (
    HIDDEN,
    IO,
    Distiller,
    Model,
    NoOptions,
    Options,
    Probe,
    Step,
    StudentTap,
    TapShapes,
    TextTeacher,
)
from kdsearch.kinds import Field as DataField
from kdsearch.kinds.options import TeacherNamed, validate
from kdsearch.python.scorer import scorer
from kdsearch.stages import search
from kdsearch.study import load_study
from kdsearch.study.api import make
from kdsearch.study.json_schema import study_schema
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials

HOST = Host.load()
SPECS = [{"depths": [a, 1, b], "widths": [4, 8, 8]} for a in (1, 2) for b in (1, 2)]


class TestKd(ProxyContract):
    proxy = HOST.load_class("proxy", "kd.kd")
    options: ClassVar = {"temperature": 2.0}


class TestFitNet(ProxyContract):
    proxy = HOST.load_class("proxy", "kd.fitnet")
    options: ClassVar = {"student_tap": "stage[0]", "teacher_tap": "stage[-1]"}


class TestDkd(ProxyContract):
    proxy = HOST.load_class("proxy", "kd.dkd")


class TestSp(ProxyContract):
    proxy = HOST.load_class("proxy", "kd.sp")


class TestDiswot(ProxyContract):
    proxy = HOST.load_class("proxy", "kd.diswot")


@pytest.fixture
def probe() -> HandProbe:
    return HandProbe(noise_batch(8), teacher=small_resnet(depth=3, seed=9, name="teacher"))


def score(cls: type[Distiller[Any]], student: Model, probe: Probe, **options: Any) -> float:
    return proxy_of("x", cls)(validate(cls.options_class, options)).score(student, probe)


def test_kd_is_minus_the_papers_loss_in_batch_statistics(probe: HandProbe) -> None:
    student = small_resnet(depth=2, seed=3)
    made = HOST.load_class("proxy", "kd.kd")
    found = made(made.options_class(temperature=4.0)).score(student, probe)
    z = [model.copy().module.train()(probe.batch["image"]).double() / 4 for model in (student, probe.teacher_model)]
    p = [each.softmax(1) for each in z]
    kl = (p[1] * (p[1].log() - p[0].log())).sum(1).mean() * 16
    assert found == pytest.approx(-0.9 * float(kl.detach()), rel=1e-5)


def test_sp_scores_as_m_r_does(probe: HandProbe) -> None:
    sp, m_r = HOST.load_class("proxy", "kd.sp"), HOST.load_class("proxy", "diswot_mr")
    for seed in range(3):
        student = small_resnet((3, 7), seed=seed)
        found = sp(sp.options_class()).score(student, probe)
        assert found == pytest.approx(3000 * m_r(m_r.options_class(init="kaiming")).score(student, probe), rel=1e-4)


def test_a_projection_is_drawn_from_the_candidates_stream(probe: HandProbe) -> None:
    fitnet = HOST.load_class("proxy", "kd.fitnet")
    student, proxy = small_resnet((3, 7), seed=1), fitnet(fitnet.options_class(student_tap="stage[0]"))
    found = []
    for elsewhere, seed in enumerate((0, 0, 1)):
        torch.manual_seed(elsewhere)  # the global stream must not matter
        mine = HandProbe(probe.batch, probe.teacher_model, seed=seed)
        found.append(proxy.score(student, mine))
    assert found[0] == found[1] != found[2]


def scored(names: list[str], specs: list[dict[str, Any]]) -> list[Mapping[str, float | None]]:
    teacher = {"depths": [3, 1, 3], "widths": [4, 8, 8]}
    made = scorer("cifar_resnet", names, shape=(3, 8, 8), classes=5, teacher=teacher)
    return [row.scores for row in made.score_all(specs)]


def test_neither_company_nor_order_changes_a_bit() -> None:
    names = ["kd.kd", "kd.fitnet", "kd.sp", "kd.diswot"]
    together = scored(names, SPECS)
    assert all(value is not None for row in together for value in row.values())
    assert len({row["kd.kd"] for row in together}) == len(SPECS)
    assert scored(names, SPECS[::-1])[::-1] == together
    for name in names:
        assert [row[name] for row in scored(["nwot", name], SPECS)] == [row[name] for row in together]


def test_taps_of_student_and_teacher_are_asked_by_role() -> None:
    """`module:` globs that match in one of the two networks alone."""
    sp = {"use": "kd.sp", "options": {"student_tap": "module:stages.2.1", "teacher_tap": "module:stages.2.2.bn2"}}
    (row,) = scored([sp], [SPECS[1]])  # type: ignore[list-item]
    assert row["kd.sp"] is not None
    assert row["kd.sp"] < 0


class Differentiates(Distiller[NoOptions]):
    """Compares gradients of the logits by the features, which needs a graph."""

    def terms(self, step: Step) -> dict[str, Tensor]:
        out = step.student
        (grad,) = torch.autograd.grad(out["logits"].square().sum(), out["stage[-1]"], create_graph=True)
        return {"grad": grad.square().mean()}

    def taps(self) -> dict[str, list[str]]:
        return {"student": ["stage[-1]"], "teacher": []}


def test_a_loss_that_differentiates_inside_gets_a_graph_and_leaves_no_trace(probe: HandProbe) -> None:
    student = small_resnet(depth=2, seed=3)
    before = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    found = score(Differentiates, student, probe)
    net = student.copy().module.train()
    image = F.relu(net.stem(probe.batch["image"]))
    maps = net.stages[1](net.stages[0](image))
    (grad,) = torch.autograd.grad(net.classifier(net.pool(maps)).square().sum(), maps)
    assert found == pytest.approx(-float(grad.square().mean().detach()), rel=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.module.state_dict().items())
    assert all(each.grad is None for each in student.module.parameters())


class Weighted(Distiller[NoOptions]):
    """Two terms, one with the paper's constant."""

    needs_teacher = False
    paper_weights: ClassVar[Mapping[str, float]] = {"a": 3.0}

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}


def test_terms_count_with_the_papers_constants_and_no_teacher_is_asked_for() -> None:
    assert score(Weighted, small_resnet(), HandProbe(noise_batch())) == -11
    assert proxy_of("x", Weighted).needs_teacher is False


class NoNumber(Weighted):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": step.student["logits"].sum() * torch.nan}


def test_a_loss_that_is_no_number_ranks_last() -> None:
    assert score(NoNumber, small_resnet(), HandProbe(noise_batch())) == -torch.inf


class NoMapping(Weighted):
    def terms(self, step: Step) -> Any:
        return [step.student["logits"].sum()]


def test_terms_that_are_no_mapping_are_said_so() -> None:
    with pytest.raises(PluginError, match=r"distiller 'x' gave list\. Expected a mapping of names to scalars"):
        score(NoMapping, small_resnet(), HandProbe(noise_batch()))


class ElsewhereOptions(Options):
    student_tap: StudentTap = "stage[0]"


class Elsewhere(Distiller[ElsewhereOptions]):
    """Runs both networks on a mirrored batch, and the student with a tap replaced."""

    def terms(self, step: Step) -> dict[str, Tensor]:
        mirrored = step.batch.having(image=step.batch["image"].flip(-1))
        there = step.pair("student", "teacher").on(mirrored)
        moved = (there.student["logits"] - step.student["logits"]).abs().mean()
        taught = (there.teacher["logits"] - step.teacher["logits"]).abs().mean()
        zero = step.run("student", writes={"stage[0]": torch.zeros_like})["logits"]
        return {"moved": moved, "taught": taught, "dead": zero.std(0).mean(), "task": step.task()}


def test_a_loss_may_run_the_networks_on_other_batches(probe: HandProbe) -> None:
    student = small_resnet(depth=2, seed=3)
    found = score(Elsewhere, student, probe)
    image, label = probe.batch["image"], probe.batch["label"]
    wanted = 0.0
    for model in (student, probe.teacher_model):
        net = model.copy().module.train()
        with torch.no_grad():
            wanted += float((net(image.flip(-1)) - net(image)).abs().mean())
    net = student.copy().module.train()
    wanted += float(
        F.cross_entropy(net(image), label).detach()
    )  # all zeros after the first stage: every sample's logits are the same
    assert found == pytest.approx(-wanted, rel=1e-5)


def test_on_another_batch_a_teacher_is_fed_its_view_of_that(probe: HandProbe) -> None:
    fed = HandProbe(
        probe.batch, probe.teacher_model, teacher_fed=lambda given: given.having(image=given["image"].flip(-1))
    )
    net, image = probe.teacher_model.copy().module.train(), probe.batch["image"]
    step = ProbeStep(small_resnet(), fed, {}, 0)
    with torch.no_grad():
        for found, given in ((step.teacher, image), (step.on(probe.batch.rows(torch.arange(4))).teacher, image[:4])):
            torch.testing.assert_close(found["logits"], net(given.flip(-1)))


class Reads(Distiller[NoOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": step.batch["label"].double().mean() + step.student["logits"].mean()}


class Peers(Distiller[NoOptions]):
    def taps(self) -> dict[str, list[str]]:
        return {"peer": ["stage[0]"]}

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": step.run("peer")["stage[0]"].mean()}


class Prepares(Distiller[NoOptions]):
    def prepare(self, setup: Any) -> None:
        self.register_buffer("mean", torch.zeros(1))

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": self.mean.sum()}


class NotesOptions(Options):
    writer: TextTeacher = Field("llm", description="who wrote the notes")


class Notes(Distiller[NotesOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": torch.zeros(())}


class MaybeOptions(Options):
    writer: Annotated[str | None, TeacherNamed("text")] = Field(None, description="who wrote the notes")


class MaybeNotes(Distiller[MaybeOptions]):
    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": step.student["logits"].sum()}


@pytest.mark.parametrize(
    ("cls", "options", "what"),
    [
        (Reads, {}, "batch has no field 'label'; it has image"),
        (Peers, {}, "a model in the role 'peer'"),
        (Prepares, {}, "the study's data"),
        (Notes, {}, "the teacher that its option 'writer' names"),
        (MaybeNotes, {"writer": "llm"}, "the teacher that its option 'writer' names"),
    ],
)
def test_what_a_probe_lacks_is_named(cls: Any, options: dict[str, Any], what: str) -> None:
    batch = noise_batch()
    batch["label"][:] = HIDDEN
    probe = HandProbe(batch, small_resnet(seed=1))
    with pytest.raises(PluginError, match=f"distiller 'x' is no proxy.*{what}"):
        score(cls, small_resnet(), probe, **options)


def test_what_needs_nothing_of_the_kind_scores_without_labels() -> None:
    batch = noise_batch()
    batch["label"][:] = HIDDEN
    probe = HandProbe(batch, small_resnet(seed=1))
    assert isinstance(score(MaybeNotes, small_resnet(), probe), float)
    assert isinstance(score(HOST.load_class("distiller", "dkd"), small_resnet(), probe), float)


class OwnHead(Distiller[NoOptions]):
    """Refuses networks of one stage."""

    def build(self, shapes: TapShapes) -> None:
        if len(shapes.student.model.taps) < 3:
            raise TapShapeError("one stage only", expected="two stages")
        self.head = nn.Linear(shapes.student.vector("penultimate"), 1)

    def taps(self) -> dict[str, list[str]]:
        return {"student": ["penultimate"]}

    def terms(self, step: Step) -> dict[str, Tensor]:
        return {"a": self.head(step.student["penultimate"]).square().mean()}


def test_networks_that_do_not_fit_are_refused_by_the_distillers_own_words(probe: HandProbe) -> None:
    with pytest.raises(TapShapeError, match="one stage only"):
        score(OwnHead, small_resnet((4,)), probe)
    assert score(OwnHead, small_resnet(), probe) < 0


ARCH = '{"depths": [1, 2, 1], "widths": [4, 4, 8]}'
STUDY = """\
data: {use: digits}
teacher: {use: trained, options: {space: cifar_resnet}}
student: {space: cifar_resnet}
recipe: {distillers: [{use: kd}]}
search: {proxy: [{use: kd.fitnet, options: {kernel: 3}}, kd.sp, nwot]}
"""


def test_a_study_names_it_with_the_distillers_options(tmp_path, capsys) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    study = load_study(file, HOST)
    schema = jsonschema.Draft202012Validator(study_schema(HOST))
    assert not list(schema.iter_errors(study.source.raw))
    for wrong, message in (
        ("kernel: 3", "kernel: 5"),
        ("kernel: 3", "kernl: 3"),
        ("use: kd.fitnet", "use: kd.fitnett"),
    ):
        file.write_text(STUDY.replace(wrong, message))
        with pytest.raises(KdsearchError) as caught:
            load_study(file, HOST)
        assert caught.value.path.startswith("search.proxy[0]")
        assert caught.value.line == 5
        raw = load_study.__globals__["read"](file).raw
        assert list(schema.iter_errors(raw)), f"the schema takes {message}"
    file.write_text(STUDY)
    assert main(["validate", str(file)]) == 0
    capsys.readouterr()


def test_score_takes_them_by_name(tmp_path, capsys) -> None:
    archs = tmp_path / "archs"
    archs.write_text(ARCH)
    words = [
        "score",
        "--space",
        "cifar_resnet",
        "--archs",
        str(archs),
        "--teacher",
        ARCH,
        "--data",
        "digits",
        "--proxies",
    ]
    assert main([*words, "kd.kd,kd.sp,kd.fitnet"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["kd.kd", "kd.sp", "kd.fitnet"]
    assert main([*words, "kd.spp"]) == 2
    assert "unknown proxy 'kd.spp'; did you mean 'kd.sp'?" in capsys.readouterr().err


def test_changed_code_of_a_live_distiller_is_another_search() -> None:
    study = make(
        data={"use": "digits"},
        student={"space": "cifar_resnet"},
        recipe=[Weighted],
        search={"proxy": ["kd.Weighted", "params"]},
        host=HOST,
    )
    found = part_of(search, open_materials(study, HOST))["capabilities"]
    assert "live" in found["proxy:kd.Weighted"]
    plain = make(data={"use": "digits"}, student={"space": "cifar_resnet"}, recipe=[Weighted], host=HOST)
    assert "live" not in str(part_of(search, open_materials(plain, HOST))["capabilities"])


@pytest.mark.parametrize("options", [{"distance": "cosine"}, {"distance": "mse"}])
def test_answers_of_a_task_that_calls_twice_a_sample_are_rows_too(options):
    """An embedding's network answers (B, D), its task two vectors a sample: (B, 2, D)."""
    task_of, space = HOST.load_class("task", "embedding"), HOST.load_class("search_space", "text_encoder")()
    task = task_of(task_of.options_class(width=6))
    tokens, mask = (
        DataField("tokens", "tokens", (None,), "int64", n_values=9),
        DataField("mask", "mask", (None,), "int64"),
    )
    io = IO((tokens, mask), (DataField("embedding", "vector", (6,)),))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        few, many = (
            space.build(space.options_class(kind="transformer", layers=n, width=8, embedding=6, heads=2), io)
            for n in (1, 2)
        )
    probe = HandProbe(task.dummy(io, 8, torch.Generator().manual_seed(0)), teacher=many, task=task, io=io)
    cls = HOST.load_class("proxy", "kd.match")
    found = cls(cls.options_class(**options)).score(few, probe)
    z_s, z_t = (
        probe_run.double().flatten(0, 1) for probe_run in (probe.run(few)["embedding"], probe.teacher["embedding"])
    )
    expected = {
        "cosine": (1 - F.cosine_similarity(z_s, z_t)).mean(),
        "mse": ((z_s - z_t) / z_t.std(0, unbiased=False)).square().mean(),
    }[options["distance"]]
    assert found == pytest.approx(-float(expected), rel=1e-4)
