"""Pieces without a study: distillers in a loop of one's own. Files: `exported`; scores: `scorer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Generator, Tensor, nn

from kdsearch.engine.cache import Live
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.errors import DataError, PluginError, StudyError, told
from kdsearch.host import Host
from kdsearch.host.host import base_class
from kdsearch.kinds import (
    IO,
    Batch,
    Capability,
    Clock,
    Distiller,
    Field,
    Model,
    TapShapes,
)
from kdsearch.kinds.distiller import check_roles, check_said, check_terms
from kdsearch.kit.networks import modelled
from kdsearch.ops.copies import module_copy
from kdsearch.ops.place import device_of
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.study.schema import Use
from kdsearch.training.materials import make
from kdsearch.training.train import shapes_of

Named = (
    str | Mapping[str, Any] | type[Capability] | Capability
)  # "kd", {"use": "kd", "options": {...}}, a class, an object
START = Clock(epoch=0, step=0, progress=0.0, epochs=1)


def capability(kind: str, named: Named, host: Host | None = None) -> tuple[str, Any]:
    """(name, object) of a capability by its name, section, class or object. Raise PluginError or StudyError for a wrong one."""
    if isinstance(named, type):
        name, host = named.__name__, (host or Host()).with_classes({(kind, named.__name__): named})
        return name, make(host, kind, Use(use=name, options={}), kind)
    if isinstance(named, base_class(kind)):
        return type(named).__name__, named
    section: dict[str, Any] = (
        {"use": named} if isinstance(named, str) else dict(named) if isinstance(named, Mapping) else {}
    )
    if not isinstance(section.get("use"), str) or set(section) - {"use", "options", "name"}:
        raise StudyError(
            f"got {named!r}"[:200], path=kind, expected="a name, {'use': NAME, 'options': {...}} or a class"
        )
    use = Use(use=section["use"], options=section.get("options", {}))
    return section.get("name", use.use.rpartition(":")[2]), make(host or Host.load(), kind, use, kind)


class Distillation(nn.Module):
    """Runs student and teacher on a batch: the student's outputs, and the terms of any distillers, in a loop of one's own.

        distillation = Distillation(student, teacher, ["kd", {"use": "fitnet", "options": {...}}], images)
        optimizer = torch.optim.AdamW([*student.parameters(), *distillation.parameters()])
        logits, terms = distillation(images, labels)
        loss = F.cross_entropy(logits, labels) + terms["kd.kl"] + 0.5 * terms["fitnet.hint"]

    Args:
        student, teacher: modules from images (B, C, H, W) to logits (B, K), whose taps are found, or `kinds.Model`s; where the
            example lies.
        distillers: names, sections or classes; their own parameters are this module's, student's and teacher's are not.
        example: (B, C, H, W), at least one image; with `io` what it says is read, by name where there are several.
        task: a name, section, class or object: how networks are called and what targets are.
        io: what both networks read and answer; default: images and logits, by the example.

    Raises:
        DataError, TapError: a network that does not read the example, a tap that is not there or does not fit.
        PluginError: what a distiller says of itself is none of that, or it reads another model than these two.
    """

    def __init__(
        self,
        student: nn.Module | Model,
        teacher: nn.Module | Model,
        distillers: Sequence[Named],
        example: Tensor | Mapping[str, Tensor],
        *,
        task: Named = "classification",
        io: IO | None = None,
    ) -> None:
        super().__init__()
        check_network(student, "student")
        check_network(teacher, "teacher")
        for name, each in example.items() if isinstance(example, Mapping) else [("", example)]:
            if not isinstance(each, Tensor) or not each.ndim or not len(each):
                check_samples(each, f"example.{name}".rstrip("."))
        device = next(iter(example.values())).device if isinstance(example, Mapping) else example.device
        if isinstance(distillers, str):
            raise StudyError(f"got '{distillers}'", path="distillers", expected="a list")
        if io is None:
            if isinstance(example, Mapping):
                raise StudyError(
                    "the example has names", path="example", expected="an image, or `io`, which names inputs"
                )
            io = io_of(teacher, example, ("teacher", "example"))
        self._task = capability("task", task)[1]
        drawn = self._task.dummy(io, 1, Generator().manual_seed(0)).tensors
        self._reads = tuple(each.name for each in io.inputs)
        self._judges = tuple(name for name in drawn if name not in self._reads)
        self._answer = io.outputs[0].name
        self._models = {"student": as_model(student, io, "student"), "teacher": as_model(teacher, io, "teacher")}
        made = dict(capability("distiller", each) for each in distillers)
        if len(made) < len(distillers):
            raise StudyError("two distillers have one name", path="distillers", fix="Give one of them a 'name'.")
        taps: dict[str, list[str]] = {}
        for name, each in made.items():
            if "." in name:  # weights call its terms `name.term`
                raise StudyError(f"the name '{name}'", path="distillers", expected="letters, digits, '_' and '-'")
            if type(each).prepare is not Distiller.prepare:
                raise PluginError(f"distiller '{name}' prepares itself on a study's data", expected="one that does not")
            check_said(each, name)
            asked = each.taps()
            check_roles(asked, tuple(self._models), f"distiller '{name}'")
            sides = {role: shapes_of(model, io, asked.get(role, ())) for role, model in self._models.items()}
            each.build(TapShapes(sides["student"], sides["teacher"]))
            for role, names in asked.items():
                taps.setdefault(role, []).extend(names)
        self.distillers = nn.ModuleDict(made).to(device)
        live = {"teacher": Live(self._models["teacher"], self._task, None)}
        self._cast = Cast(self._task, io, {"student": self._models["student"]}, live, taps, device)
        self._rng = Generator().manual_seed(0)
        self.last: LiveStep | None = None

    def forward(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        targets: Tensor | Mapping[str, Tensor] | None = None,
        clock: Clock = START,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's answer, such as logits (B, K), with graph, and unweighted scalars by `distiller.term`.

        Inputs and targets are by name where there are several. Unknown labels are -100, or left out.
        """
        tensors = dict(inputs) if isinstance(inputs, Mapping) else {self._reads[0]: inputs}
        if targets is not None:
            tensors |= dict(targets) if isinstance(targets, Mapping) else {self._judges[0]: targets}
        batch = Batch(tuple(str(i) for i in range(len(next(iter(tensors.values()))))), tensors)
        step = LiveStep(self._cast, {"train": batch}, batch, self._rng, clock)
        terms: dict[str, Tensor] = {}
        for name, each in self._each():
            given = each.terms(step)
            check_terms(given, name)
            terms |= {f"{name}.{term}": value for term, value in given.items()}
        self.last = step
        return step.student[self._answer], terms

    def end_step(self) -> None:
        """After the optimiser's step: distillers with a memory fill it. Others need no call."""
        for _, each in self._each():
            if self.last is not None:
                each.on_step_end(self.last)

    def __repr__(self) -> str:
        sizes = [f"{name} {self._size(name):,} params" for name in self._models]
        return f"<Distillation: {', '.join(sizes)}; distillers {', '.join(self.distillers)}>"

    def _size(self, name: str) -> int:
        return sum(each.numel() for each in self._models[name].module.parameters())

    def _each(self) -> Iterator[tuple[str, Distiller[Any]]]:
        for name, each in self.distillers.items():
            assert isinstance(each, Distiller)
            yield name, each


def as_model(net: nn.Module | Model, io: IO, who: str) -> Model:
    """The network itself, not a copy, with the taps that one forward pass finds."""
    if isinstance(net, Model):
        return net
    with undisturbed(net, train=False):
        return modelled(net, io, who, role="")


def on_cpu(net: nn.Module | Model) -> nn.Module | Model:
    """The network itself, or a copy of one that lies elsewhere."""
    if device_of(net.module if isinstance(net, Model) else net).type == "cpu":
        return net
    if isinstance(net, Model):
        net = net.copy()
        net.module.cpu()
        return net
    return module_copy(net).cpu()


def check_network(net: object, name: str) -> None:
    """Raise StudyError, by the argument's name, for what is no network: a class, say."""
    if not isinstance(net, nn.Module | Model):
        got = f"the class {net.__name__}" if isinstance(net, type) else type(net).__name__
        raise StudyError(f"got {got}", path=name, expected="a torch.nn.Module")


def check_samples(given: object, name: str) -> None:
    """Raise DataError, by the argument's name, for what is no tensor of samples, or has none."""
    if not isinstance(given, Tensor) or given.ndim < 2:
        got = f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise DataError(f"got {got}", path=name, expected="a tensor (B, C, H, W)")
    if not len(given):
        raise DataError(f"got a tensor {tuple(given.shape)}", path=name, expected="at least one row")


def io_of(net: nn.Module | Model, example: Tensor, names: tuple[str, str] = ("net", "samples")) -> IO:
    """What a network reads and answers, by one image. names: of both, as the caller wrote them.

    Raises:
        StudyError: no network, or an answer that is no logits (B, K). DataError: no images, or such as it does not read.
    """
    check_network(net, names[0])
    check_samples(example, names[1])
    module = net.module if isinstance(net, Model) else net
    with undisturbed(module, train=False):
        try:
            out = module(example[:1])
        except Exception as error:  # code of the caller's
            dtype = str(example.dtype).removeprefix("torch.")
            read = f"the network does not read a sample {tuple(example.shape[1:])} of {dtype}: {told(error)}"
            raise DataError(read, path=names[1]) from error
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise StudyError(f"the network answers {getattr(out, 'shape', type(out).__name__)}", expected="logits (B, K)")
    shape = tuple(example.shape[1:])
    fields = (Field("image", "image", shape, str(example.dtype).removeprefix("torch.")),)
    return IO(fields, (Field("logits", "logits", tuple(out.shape[1:])),))
