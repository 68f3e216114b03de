"""The contract of compressors, as tests: of pruners (side "model"), sparsifiers ("weights") and quantizers ("file").

# tests/test_my_pruner.py in your package; needs pytest
from kdsearch.testing.compressor import CompressorContract
from my_package.pruner import MyPruner


class TestMyPruner(CompressorContract):
    compressor = MyPruner
    options = {"macs": 0.6}  # as in a study's `options:`
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.deploy.cost import count
from kdsearch.engine.setup import Site
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Compressor, Cost, Exporter, Field, Graph, Model, Plan, named
from kdsearch.kinds.options import validate
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.testing.contract import changed, require, trace
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.space import check_taps

CLASSES = 5
CHUNK = 32  # samples a batch of feeds


@dataclass
class HandSubject(Site):
    """A `kinds.Subject` made by hand: a compressor used, or tested, without a study.

    `batch` stands for training and validation data alike; its `label` (N,) is what `score` judges the first output by.
    """

    model: Model = field(kw_only=True)
    io: IO = field(kw_only=True)
    batch: Batch = field(kw_only=True)
    budget: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def score(self, model: Model, samples: int | None = None) -> float:
        rows = slice(None, samples)
        with undisturbed(model.module, train=False):
            out = named(model.module(*[self.batch[name][rows] for name in model.inputs]), model.outputs)
        return -float(F.cross_entropy(out[model.outputs[0]], self.batch["label"][rows]))

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)

    def batches(self, n: int, size: int = CHUNK) -> list[Batch]:
        n = min(n, len(self.batch))
        rows = [torch.arange(at, min(at + size, n)) for at in range(0, n, size)]
        return [
            Batch(tuple(self.batch.ids[i] for i in at.tolist()), {k: v[at] for k, v in self.batch.tensors.items()})
            for at in rows
        ]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        out = named(model.module(*[batch[name] for name in model.inputs]), model.outputs)
        return F.cross_entropy(out[model.outputs[0]], batch["label"])

    def feeds(self, n: int, graph: str = "") -> list[dict[str, Any]]:
        rows = [
            torch.arange(at, min(at + CHUNK, n, len(self.batch))) for at in range(0, min(n, len(self.batch)), CHUNK)
        ]
        return [{name: self.batch[name][at].numpy() for name in self.model.inputs} for at in rows]


class CompressorContract:
    """Inherit it as `TestX` and name the compressor; override `model` where it is for other networks."""

    compressor: ClassVar[type[Compressor[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}
    near: ClassVar[float] = 0.5  # a quantizer's error of answers, over how much samples differ from their mean

    def model(self) -> Model:
        """Freshly made: equal ones at every call."""
        return small_resnet((8, 16), classes=CLASSES)

    def io(self) -> IO:
        return IO((Field("image", "image", (3, 8, 8)),), (Field("logits", "logits", (CLASSES,)),))

    def batch(self) -> Batch:
        """At least two samples, with a `label` each."""
        noise = noise_batch(48, CLASSES)
        return Batch(tuple(f"s{i}" for i in range(48)), noise)

    def subject(self, model: Model | None = None) -> HandSubject:
        return HandSubject(0, Path(), model=model or self.model(), io=self.io(), batch=self.batch())

    def made(self) -> Compressor[Any]:
        return self.compressor(validate(self.compressor.options_class, self.options))

    def plan(self) -> Plan:
        """As a study hands it on: through JSON."""
        return Plan(**json.loads(json.dumps(asdict(self.made().plan(self.subject())), allow_nan=False)))

    def inputs(self, model: Model, n: int = 6) -> list[Tensor]:
        batch = self.batch()
        return [batch[name][:n] for name in model.inputs]

    def answer(self, model: Model) -> Tensor:
        with torch.no_grad():
            return named(model.module.eval()(*self.inputs(model)), model.outputs)[model.outputs[0]]

    @contextmanager
    def exported(self) -> Iterator[tuple[Path, Model]]:
        """A file of the model, with its companions alone in its folder; written once, which takes seconds."""
        made, model = self.exporter(), self.model()
        key = (type(made), type(self).model, type(self).io)
        model.module.eval()
        with tempfile.TemporaryDirectory(prefix="kdsearch-contract-") as folder:
            file = Path(folder) / f"net{made.suffix}"
            if key not in _EXPORTED:
                graph = Graph(model.module, tuple(self.io().input(name) for name in model.inputs), self.io().outputs)
                made.write(graph, self.batch(), file)
                _EXPORTED[key] = [each.read_bytes() for each in made.parts(file)]
            for each, data in zip(made.parts(file), _EXPORTED[key], strict=True):
                each.write_bytes(data)
            yield file, model

    def exporter(self) -> Exporter[Any]:
        """The first installed one whose files the quantizer rewrites; kdsearch's own of ONNX files."""
        host, suffix = Host.load(), self.compressor.rewrites
        usable = [each.name for each in host.entries("exporter") if not host.lacks(each)]
        for name in ("onnx",) if suffix == ".onnx" else usable:
            cls: type[Exporter[Any]] = host.load_class("exporter", name)
            if cls.suffix == suffix:
                return cls(cls.options_class())
        raise AssertionError(f"it rewrites '{suffix}' files, and no installed exporter writes such")

    def loaded(self, file: Path, model: Model) -> Tensor:
        return self.exporter().load(file)(*self.inputs(model))[self.io().outputs[0].name]

    def test_it_does_what_its_side_says(self) -> None:
        cls = self.compressor
        methods = {"model": "apply", "weights": "enforce", "file": "rewrite"}
        require(cls.side in methods, f"side is '{cls.side}', expected one of {', '.join(methods)}")
        method = methods[cls.side]
        require(
            getattr(cls, method) is not getattr(Compressor, method), f"side is '{cls.side}', but there is no {method}()"
        )

    def test_a_plan_is_json_and_repeats(self) -> None:
        torch.manual_seed(1)
        plan = self.made().plan(self.subject())
        torch.manual_seed(2)
        again = self.made().plan(self.subject())
        read = json.loads(json.dumps(asdict(plan), allow_nan=False))
        require(read["edits"] == json.loads(json.dumps(again.edits)), "equal subjects have different plans")
        require(all(isinstance(line, str) and line for line in plan.log), "a line of the log is no text")
        require(bool(plan.log), "the log says nothing of what is done")

    def test_planning_leaves_the_model_as_it_was(self) -> None:
        model = self.model()
        before = trace(model.module)
        self.made().plan(self.subject(model))
        differing = changed(before, trace(model.module))
        require(not differing, f"planning changes {', '.join(differing[:3])}")

    def test_a_pruner_leaves_a_smaller_network_that_answers(self) -> None:
        if self.compressor.side != "model":
            return
        model, subject = self.model(), self.subject()
        before = trace(model.module)
        cut = self.made().apply(model, self.plan())
        differing = changed(before, trace(model.module))
        require(not differing, f"it changes {', '.join(differing[:3])} of what it is handed; apply to a copy")
        was, now = subject.cost(model), subject.cost(cut)
        require(
            now.params < was.params or now.macs < was.macs,
            f"nothing is gained: {was.params:,} params and {was.macs:,} MACs, then {now.params:,} and {now.macs:,}",
        )
        require(cut.cost() in (None, now), f"the model says that it costs {cut.cost()}; counted are {now}")
        answer = self.answer(cut)
        require(answer.shape == self.answer(model).shape, f"the answer's shape is {tuple(answer.shape)}")
        require(bool(torch.isfinite(answer).all()), "an answer is not finite")
        names = {tap.name for tap in model.taps} - {tap.name for tap in cut.taps}
        require(not names, f"taps are lost: {', '.join(sorted(names))}")
        check_taps(cut, self.inputs(cut, 2))

    def test_a_pruned_network_can_recover(self) -> None:
        """Every weight that is left gets a gradient."""
        if self.compressor.side != "model":
            return
        cut = self.made().apply(self.model(), self.plan())
        out = named(cut.module.train()(*self.inputs(cut)), cut.outputs)[cut.outputs[0]]
        loss = F.cross_entropy(out, self.batch()["label"][: len(out)])
        weights = {name: weight for name, weight in cut.module.named_parameters() if weight.requires_grad}
        require(bool(weights), "no weight can be trained")
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        idle = [name for name, gradient in zip(weights, gradients, strict=True) if gradient is None]
        require(not idle, f"no gradient reaches {', '.join(idle[:3])}")

    def test_a_plan_replays(self) -> None:
        """On fresh weights equal shapes; on equal weights equal ones."""
        if self.compressor.side != "model":
            return
        plan, other = self.plan(), self.model()
        with torch.no_grad():
            for weight in other.module.parameters():
                weight.mul_(torch.linspace(0.5, 1.5, weight.numel()).reshape(weight.shape))
        first, again = (self.made().apply(self.model(), plan).module.state_dict() for _ in range(2))
        require(
            all(torch.equal(first[name], again[name]) for name in first), "replayed on equal weights, it gives others"
        )
        fresh = {name: value.shape for name, value in self.made().apply(other, plan).module.state_dict().items()}
        require(
            fresh == {name: value.shape for name, value in first.items()},
            "replayed on other weights, shapes are others",
        )

    def test_a_sparsifier_leaves_zeros_that_stay(self) -> None:
        """Shapes stay, other weights too; asked again, nothing changes; more progress, no fewer zeros."""
        if self.compressor.side != "weights":
            return
        model, plan, made = self.model(), self.plan(), self.made()
        before = {name: value.clone() for name, value in model.module.state_dict().items()}
        cut = made.apply(model, plan)
        zeros = [sum(int((each == 0).sum()) for each in cut.module.parameters())]
        for progress in (0.1, 0.5, 1.0):
            made.enforce(cut, plan, progress)
            zeros.append(sum(int((each == 0).sum()) for each in cut.module.parameters()))
        now = cut.module.state_dict()
        require({k: v.shape for k, v in now.items()} == {k: v.shape for k, v in before.items()}, "shapes are others")
        moved = [k for k, v in now.items() if not torch.equal(v[v != 0], before[k][v != 0])]
        require(not moved, f"weights that are not zero change: {', '.join(moved[:3])}")
        rises = zeros == sorted(zeros) and zeros[-1] > zeros[0]
        require(rises, f"zeros before and at three times of the recovery: {zeros}")
        held = {k: v.clone() for k, v in now.items()}
        made.enforce(cut, plan, 1.0)
        require(all(torch.equal(v, held[k]) for k, v in cut.module.state_dict().items()), "enforced twice, it differs")

    def test_a_quantizer_leaves_a_smaller_file_that_answers(self) -> None:
        if self.compressor.side != "file":
            return
        with self.exported() as (file, model):
            parts, expected = self.exporter().parts(file), self.answer(model)
            sizes = [each.stat().st_size for each in parts]
            self.made().rewrite(file, self.plan(), iter(self.subject().feeds(48)))
            require(all(each.is_file() for each in parts), "the file is gone")
            now = [each.stat().st_size for each in parts]  # a graph beside its weights may grow
            require(any(a < b for a, b in zip(now, sizes, strict=True)), f"{sum(sizes):,} bytes, then {sum(now):,}")
            beside = sorted(each.name for each in file.parent.iterdir() if each not in parts)
            require(not beside, f"it leaves {', '.join(beside)} beside the file")
            answer = self.loaded(file, model)
            require(answer.shape == expected.shape, f"the answer's shape is {tuple(answer.shape)}")
            require(bool(torch.isfinite(answer).all()), "an answer is not finite")
            far = float((answer - expected).norm() / (expected - expected.mean(0)).norm())
            require(far <= self.near, f"answers are {far:.3g} of how samples differ off; allowed {self.near:g}")

    def test_a_rewrite_repeats(self) -> None:
        if self.compressor.side != "file":
            return
        plan, feeds = self.plan(), self.subject().feeds(48)
        with self.exported() as (file, _), tempfile.TemporaryDirectory() as other:
            parts = self.exporter().parts
            copy = Path(other) / f"other{file.suffix}"
            for source, target in zip(parts(file), parts(copy), strict=True):
                shutil.copyfile(source, target)
            self.made().rewrite(file, plan, feeds)
            torch.manual_seed(5)
            self.made().rewrite(copy, plan, feeds)
            same = all(a.read_bytes() == b.read_bytes() for a, b in zip(parts(file), parts(copy), strict=True))
            require(same, "the same file and feeds give different files")


_EXPORTED: dict[Any, list[bytes]] = {}
