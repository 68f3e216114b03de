"""Pieces without a study: distillers in a loop of one's own, verified files of any network. Scores: `scorer_piece`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from kdsearch.deploy.audit import weight_share
from kdsearch.deploy.cost import count
from kdsearch.deploy.parity import compare, module_call, numbers
from kdsearch.engine.cache import Live
from kdsearch.engine.setup import Site
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.errors import DataError, PluginError, RefusedError, StudyError
from kdsearch.host import Host
from kdsearch.host.host import base_class
from kdsearch.kinds import (
    IO,
    Batch,
    Capability,
    Clock,
    Compressor,
    Cost,
    Distiller,
    Exporter,
    Field,
    Graph,
    Model,
    TapShapes,
)
from kdsearch.kit.networks import modelled
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.store.files import storing
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
        student, teacher: modules from images (B, C, H, W) to logits (B, K), whose taps are found, or `kinds.Model`s.
        distillers: names, sections or classes; their own parameters are this module's, student's and teacher's are not.
        example: (B, C, H, W), at least one image.

    Raises:
        DataError, TapError: a network that does not read the example, a tap that is not there or does not fit.
    """

    def __init__(
        self, student: nn.Module | Model, teacher: nn.Module | Model, distillers: Sequence[Named], example: Tensor
    ) -> None:
        super().__init__()
        io = _io(teacher, example)
        self._task = capability("task", "classification")[1]
        self._models = {"student": as_model(student, io, "student"), "teacher": as_model(teacher, io, "teacher")}
        made = dict(capability("distiller", each) for each in distillers)
        if len(made) < len(distillers):
            raise StudyError("two distillers have one name", path="distillers", fix="Give one of them a 'name'.")
        taps: dict[str, list[str]] = {}
        for name, each in made.items():
            if type(each).prepare is not Distiller.prepare:
                raise PluginError(f"distiller '{name}' prepares itself on a study's data", expected="one that does not")
            asked = each.taps()
            sides = (shapes_of(model, io, asked.get(role, ())) for role, model in self._models.items())
            each.build(TapShapes(*sides))
            for role, names in asked.items():
                taps.setdefault(role, []).extend(names)
        self.distillers = nn.ModuleDict(made)
        live = {"teacher": Live(self._models["teacher"], self._task, None)}
        self._cast = Cast(self._task, io, {"student": self._models["student"]}, live, taps, example.device)
        self._rng = Generator().manual_seed(0)
        self.last: LiveStep | None = None

    def forward(
        self, image: Tensor, label: Tensor | None = None, clock: Clock = START
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K) with graph, and unweighted scalars by `distiller.term`. Unknown labels are -100, or left out."""
        ids = tuple(str(i) for i in range(len(image)))
        batch = Batch(ids, {"image": image} if label is None else {"image": image, "label": label})
        step = LiveStep(self._cast, {"train": batch}, batch, self._rng, clock)
        terms = {f"{name}.{term}": value for name, each in self._each() for term, value in each.terms(step).items()}
        self.last = step
        return step.student["logits"], terms

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
    """The network itself, not a copy, with the taps that one forward pass of zeros finds."""
    if isinstance(net, Model):
        return net
    with undisturbed(net, train=False):
        return modelled(net, io, who, role="")


def _io(net: nn.Module | Model, example: Tensor) -> IO:
    module = net.module if isinstance(net, Model) else net
    with undisturbed(module, train=False):
        out = module(example[:1])
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise StudyError(f"the network answers {getattr(out, 'shape', type(out).__name__)}", expected="logits (B, K)")
    shape = tuple(example.shape[1:])
    fields = (Field("image", "image", shape, str(example.dtype).removeprefix("torch.")),)
    return IO(fields, (Field("logits", "logits", tuple(out.shape[1:])),))


@dataclass(frozen=True)
class Exported:
    """A file and how it compares with its network.

    Args:
        parity_max_abs: largest absolute difference of any logit. top1_agreement: share of equal argmax, over `samples`.
        weight_share: width in bits -> share of the fp32 graph's weights that are stored so.
        quantization: what the quantizer says of the file, such as the processors that its answers hold for; nothing of fp32.
    """

    file: Path
    bytes: int
    parity_max_abs: float
    top1_agreement: float | None
    weight_share: Mapping[str, float]
    quantization: tuple[str, ...] = ()

    def __repr__(self) -> str:
        agree = "" if self.top1_agreement is None else f", {self.top1_agreement:.1%} of the answers agree"
        shares = ", ".join(
            f"{share:.0%} of the weights at {bits} bit" for bits, share in self.weight_share.items() if share
        )
        differs = f"logits differ by {self.parity_max_abs:.2g} at most"
        return f"<Exported {self.file}: {self.bytes:,} bytes, {differs}{agree}; {shares}>"


class _Subject(Site):
    """What a quantizer's plan may ask for where there is no study."""

    def __init__(self, model: Model, io: IO) -> None:
        super().__init__(0, Path())
        self.model, self.io = model, io
        self.budget: Mapping[str, float] = {}

    def score(self, model: Model) -> float:
        raise PluginError("this quantizer scores models on validation data", expected="a study")

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)


def export(
    net: nn.Module | Model,
    samples: Tensor,
    file: Path | str,
    *,
    quantize: Named | None = None,
    exporter: Named = "onnx",
    parity: float = 1e-4,
) -> Exported:
    """Write a network, open the file in its runtime, and compare both on `samples`, at several batch sizes.

    Args:
        net: from images to logits; runs in eval mode.
        samples: (B, C, H, W): for comparison, and for calibration where the quantizer calibrates.
        quantize: such as "int8", or `{"use": "int4", "options": {"block": 16}}`; None = fp32.
        parity: largest absolute difference of an fp32 file; a quantised one has no bound here.

    Raises:
        RefusedError: the network answers NaN, or the file fails or is too far off; it is not written.
        StudyError, DataError: the target is a folder; no samples.
    """
    target = Path(file)
    if target.is_dir():
        raise StudyError("is a folder", file=target, expected="a file's name")
    if not len(samples):
        raise DataError(f"samples are {tuple(samples.shape)}", expected="at least one row")
    io = _io(net, samples)
    model = as_model(net, io, "network")
    made: Exporter[Any] = capability("exporter", exporter)[1]
    graph = Graph(model.module, io.inputs, io.outputs)
    numbers(module_call(graph), [samples], io.outputs)
    batch = Batch(tuple(str(i) for i in range(len(samples))), {"image": samples})
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        fp32, final = Path(folder) / f"fp32{made.suffix}", Path(folder) / f"final{made.suffix}"
        made.write(graph, batch, fp32)
        shutil.copyfile(fp32, final)
        log: tuple[str, ...] = ()
        if quantize is not None:
            quantizer: Compressor[Any] = capability("quantizer", quantize)[1]
            feeds = [{"image": rows.cpu().numpy()} for rows in torch.split(samples, 32)]
            plan = quantizer.plan(_Subject(model, io))
            log = tuple(plan.log)
            quantizer.rewrite(final, plan, feeds)
        found = compare(
            module_call(graph), made.load(final), io.inputs, io.outputs, batch, (1, 2, 5, len(samples)), [batch]
        )
        if quantize is None and found.max_abs > parity:
            raise RefusedError(f"differs by {found.max_abs:.3g}", file=target, expected=f"at most {parity:g}")
        shares = weight_share(final, fp32)
        with storing(target):
            final.replace(target)
    return Exported(target, target.stat().st_size, found.max_abs, found.top1_agreement, shares, log)
