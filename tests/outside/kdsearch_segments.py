"""Segmentation from outside: a task, its metric, a data set, a space of small U-Nets, and a procedure that ships two graphs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field as Option
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import DataError, PluginError
from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import (
    HIDDEN,
    IO,
    Batch,
    Call,
    Clock,
    Compressor,
    Dataset,
    DataSource,
    Distiller,
    Field,
    Figure,
    Graph,
    Measurement,
    Metric,
    Model,
    NoOptions,
    Options,
    Outputs,
    Phase,
    Picture,
    Plan,
    Predict,
    Procedure,
    Product,
    SearchSpace,
    Services,
    Setup,
    Split,
    Step,
    Subject,
    TapShapes,
    Task,
    Update,
    searched,
    traced_taps,
)

StepFunction = Callable[[Step], Iterator[Update]]


class Segmentation(Task[NoOptions]):
    """A class for each pixel: reads one image, answers `logits` (K, H, W); the target is `mask` (H, W)."""

    objective: ClassVar[str] = "overlap"
    metrics: ClassVar[tuple[str, ...]] = ("overlap",)

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        images = tuple(each for each in fields if each.kind == "image")
        masks = [each for each in fields if each.name == "mask"]
        if len(images) != 1 or not masks:
            raise DataError("outlines: the data set has no image or no mask", expected="a field of each")
        _, height, width = images[0].shape
        return IO(images, (Field("logits", "logits", (len(facts["classes"]), height, width), classes_at=0),))

    def hide(self, batch: Batch, hidden: Tensor, targets: Sequence[Field]) -> Batch:
        """The boxes of a hidden mask go with it."""
        boxes = [each[:0] if gone else each for each, gone in zip(batch.lists["boxes"], hidden.tolist(), strict=True)]
        return replace(super().hide(batch, hidden, targets), lists={"boxes": boxes})

    def strata(self, batch: Batch, targets: Sequence[Field]) -> Tensor:
        """Whether the disc lies over the square."""
        over = (batch["mask"] == 1).sum((1, 2)) > (batch["mask"] == 2).sum((1, 2))
        known = super().strata(batch, targets)
        return torch.where(known == HIDDEN, known, over.to(torch.int64))

    def truth(self, batch: Batch) -> Tensor | None:
        return batch.tensors.get("mask")

    def call(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        (image,) = (batch[name] for name in model.inputs)
        return {"logits": model.module(image)}

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        known = (batch["mask"] != HIDDEN).sum().clamp(min=1)
        return F.cross_entropy(out["logits"], batch["mask"], ignore_index=HIDDEN, reduction="sum") / known

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """Some images with their masks, and what teacher and student make of them."""
        batch = data.split(split).load(range(min(4, len(data.split(split).ids))))
        answers = {"student": predict(batch)["logits"].argmax(1).cpu()}
        with contextlib.suppress(PluginError):  # the study has no teacher
            answers = {"teacher": services.predict("teacher", batch)["logits"].argmax(1).cpu(), **answers}
        pictures = [
            [
                Picture.of("input", batch["image"][i], says=batch.ids[i]),
                Picture.of_classes("truth", batch["mask"][i]),
                *(
                    Picture.of_classes(
                        who, found[i], says=f"{float((found[i] == batch['mask'][i]).float().mean()):.1%} right"
                    )
                    for who, found in answers.items()
                ),
            ]
            for i in range(len(batch))
        ]
        return [Figure("masks", "Masks", "The first images of the split: ground, disc and square.", pictures=pictures)]

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        noise = super().dummy(io, n, rng)
        k, height, width = io.output("logits").sizes
        return noise.having(mask=torch.randint(k, (n, height, width), generator=rng))


def mean_iou(sums: Tensor) -> float:
    """(K, 2) intersections and unions -> mean over the classes that occur."""
    return float((sums[:, 0] / sums[:, 1]).nanmean())  # 0 / 0 is none


class MeanIou(Metric[NoOptions]):
    """Mean over the classes of intersection over union, in [0, 1]; images whose mask is hidden are left out."""

    unit = "share"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        samples, rows = data.split(split), []
        for start in range(0, len(samples.ids), 64):
            batch = samples.load(range(start, min(start + 64, len(samples.ids))))
            logits, mask = predict(batch)["logits"].detach().cpu(), batch["mask"].cpu()
            found, k = logits.argmax(1), logits.shape[1]
            known = mask != HIDDEN
            for answer, truth, seen in zip(found, mask, known, strict=True):
                if seen.any():
                    a = F.one_hot(answer[seen], k)
                    b = F.one_hot(truth[seen], k)
                    rows.append(torch.stack([(a & b).sum(0), (a | b).sum(0)], -1).double())
        if not rows:
            raise DataError(f"split '{split}' has no mask", expected="at least one")
        every = torch.stack(rows)
        return Measurement({"overlap": mean_iou(every.mean(0)), "n": float(len(every))}, every, mean_iou)


class ShapesOptions(Options):
    n: int = Option(160, gt=0, description="images")


class ShapesSplit:
    """Discs and squares in noise, 16 x 16."""

    def __init__(self, n: int) -> None:
        self.ids = tuple(f"shape-{i:04d}" for i in range(n))
        rng = torch.Generator().manual_seed(0)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        masks = torch.zeros(n, 16, 16, dtype=torch.int64)
        self.boxes = []
        for i in range(n):
            boxes = []
            for kind in (1, 2):
                cy, cx = torch.randint(3, 13, (2,), generator=rng).tolist()
                far = (
                    torch.maximum((y - cy).abs(), (x - cx).abs())
                    if kind == 2
                    else ((y - cy) ** 2 + (x - cx) ** 2).sqrt()
                )
                masks[i][far <= 3] = kind
                boxes.append([cy - 3, cx - 3, cy + 4, cx + 4])
            self.boxes.append(torch.tensor(boxes[: 1 + i % 2]))  # one is noted, or both
        light = torch.tensor([0.0, 1.0, -1.0])[masks]
        self.images = (light + 0.3 * torch.randn(n, 16, 16, generator=rng)).unsqueeze(1)
        self.masks = masks

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at = torch.as_tensor(list(index), dtype=torch.long)
        tensors = {"image": self.images[at], "mask": self.masks[at]}
        return Batch(tuple(self.ids[i] for i in index), tensors, {"boxes": [self.boxes[i] for i in index]})


class ShapesSource:
    fields = (Field("image", "image", (1, 16, 16)), Field("mask", "map", (16, 16), "int64", "target", 3))
    facts: Mapping[str, object] = {"classes": ["ground", "disc", "square"], "source": "drawn", "licence": "none"}
    splits = ("train",)

    def __init__(self, n: int) -> None:
        self._train = ShapesSplit(n)

    def split(self, name: str) -> Split:
        if name != "train":
            raise DataError(f"no split '{name}'", expected="train")
        return self._train


class Shapes(Dataset[ShapesOptions]):
    """Images of two shapes with their masks, and boxes around some of them."""

    task: ClassVar[str] = "outlines"

    def open(self, services: Services) -> DataSource:
        return ShapesSource(self.options.n)


class UnetSpec(Options):
    width: Annotated[Literal[4, 6, 8, 16], searched(4, 6, 8, 16)] = 8
    deep: Annotated[Literal[1, 2], searched(1, 2)] = 1


def block(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


class Encoder(nn.Module):
    """(B, C, H, W) -> fine (B, w, H, W) and coarse (B, 2w, H/2, W/2)."""

    def __init__(self, channels: int, width: int, deep: int) -> None:
        super().__init__()
        self.fine = block(channels, width)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2), *(block(width if i == 0 else 2 * width, 2 * width) for i in range(deep))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(image)
        return fine, self.coarse(fine)


class Head(nn.Module):
    """Fine and coarse maps -> logits (B, K, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = block(3 * width, width)
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        logits: Tensor = self.out(self.join(torch.cat([fine, self.up(coarse)], 1)))
        return logits


class Net(nn.Module):
    """A U-Net of two scales."""

    def __init__(self, channels: int, width: int, deep: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(channels, width, deep), Head(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(*self.encoder(image))
        return logits


class Unet(SearchSpace[UnetSpec]):
    """U-Nets of two scales; width and depth searched."""

    def build(self, spec: UnetSpec, io: IO) -> Model:
        image, logits = io.inputs[0], io.outputs[0]
        net = Net(image.sizes[0], spec.width, spec.deep, logits.sizes[0])
        paths = {"stage[0]": "encoder.fine", "stage[1]": "encoder.coarse", "logits": "head.out"}
        taps = traced_taps(net, [torch.zeros(1, *image.sizes)], paths)
        blocks = ("encoder.fine", "encoder.coarse", "head.join")
        return Model(net, (image.name,), taps, (logits.name,), blocks, f"unet{spec.width}x{spec.deep}")


class Chained(Procedure[NoOptions]):
    """Trains on task and teacher; ships encoder and head as two files, with the names of the classes beside them."""

    needs_teacher = True

    def phases(self, setup: Setup) -> Iterator[Phase]:
        student = {"student": setup.models["student"].module}

        def step(s: Step) -> Iterator[Update]:
            match = (s.student["logits"] - s.teacher["logits"]).square().mean()
            yield Update({"task": s.task(), "match": match})

        feeds, optims = {"train": setup.feed("train")}, [setup.optim(student)]
        yield Phase("both", step, feeds, optims, setup.epochs, weights={"match": 0.05}, score="student")

    def product(self, setup: Setup) -> Product:
        model, image = setup.models["student"], setup.io.inputs[0]
        net = model.module
        height = image.sizes[1]
        with torch.no_grad():
            fine, coarse = net.encoder.cpu().eval()(torch.zeros(1, *image.sizes))  # type: ignore[operator,union-attr]
        middle = (
            Field("fine", "map", tuple(fine.shape[1:])),
            Field("coarse", "map", tuple(coarse.shape[1:])),
        )
        graphs = {
            "encoder": Graph(net.encoder, (image,), middle),  # type: ignore[arg-type]
            "head": Graph(net.head, middle, setup.io.outputs),  # type: ignore[arg-type]
        }

        def call(calls: Mapping[str, Call], batch: Batch) -> Mapping[str, Tensor]:
            seen = calls["encoder"](batch[image.name])
            return calls["head"](seen["fine"], seen["coarse"])

        names = json.dumps(setup.data.facts["classes"]).encode()
        return Product(graphs, call, {"classes.json": names}, {"stride": height // coarse.shape[2]})


class Mutual(Procedure[NoOptions]):
    """Two students that learn from labels and from each other; both ship.

    Then both go on with their norms as they are, the left one near to what it was, unless that was perfect.
    """

    roles: ClassVar[tuple[str, ...]] = ("left", "right")
    ships: ClassVar[tuple[str, ...]] = ("left", "right")

    def phases(self, setup: Setup) -> Iterator[Phase]:
        left, right = setup.models["left"], setup.models["right"]
        modules = {"left": left.module, "right": right.module}
        self.young = setup.fresh("right").module  # a beginner that learns along: what it finds hard counts more
        classifier = left.part("logits")
        widths = right.part("stage[0]")[0].out_channels, classifier.in_channels  # type: ignore[index]
        self.bridge = nn.Conv2d(*widths, 1)  # type: ignore[arg-type]
        feeds = {"train": setup.feed("labeled"), "more": setup.feed("train")}
        learn = setup.optim({**modules, "young": self.young, "bridge": self.bridge})
        first = max(setup.epochs // 2, 1)
        yield Phase(
            "pair",
            self.learn(classifier),
            feeds,
            [learn],
            first,
            weights={"near": near_later, "task": setup.weights["task"], "steady": 0.01},
            taps={"right": ["stage[0]"]},
            score=("left", "right"),
        )
        setup.note(f"a beginner of {sum(p.numel() for p in self.young.parameters()):,} weights learned along")
        if setup.once("left", lambda: setup.score("overlap", "left", split="labeled")) < 1:
            setup.freeze("before", left.copy())
            norms = [part for each in modules.values() for part in each.modules() if isinstance(part, nn.BatchNorm2d)]
            rest = max(setup.epochs - first, 1)
            stay = self.stay(setup.task, norms)
            yield Phase("stay", stay, feeds, [setup.optim(modules)], rest, keep_eval=norms, score="left")

    def learn(self, classifier: nn.Module) -> StepFunction:
        def losses(logits: Tensor, s: Step) -> Tensor:
            return F.cross_entropy(s.rows(logits, field="logits"), s.rows(s.batch["mask"]), reduction="none")

        def step(s: Step) -> Iterator[Update]:
            left, right = s.run("left"), s.run("right")
            mirrored = s.pair("left", "right").on(s.batch.having(image=s.batch["image"].flip(-1)))
            kept = torch.rand(len(s.batch), 1, 8, 8, generator=s.rng) > 0.3 * s.clock.progress
            hidden = s.run("left", writes={"stage[1]": lambda coarse: coarse * kept.to(coarse.device)})
            beginner = self.young(s.batch["image"])
            noise = [torch.randn(s.batch["image"].shape[1:], generator=s.rng_of(sample)) for sample in s.batch.ids]
            noisy = s.batch.having(image=s.batch["image"] + 0.01 * torch.stack(noise).to(s.batch["image"].device))
            steady = s.run("right", noisy, frozen_stats=True)  # the noise is in no statistics
            common = s.gather(left["logits"].softmax(1).mean((2, 3))).mean(0)  # (K,), over all devices
            counts = 2 + losses(beginner, s).detach() + within(s.batch).flatten() - common[s.rows(s.batch["mask"])]
            s.log("commonest", common.max())
            near = [
                (s.run(a, batch=batch)["logits"] - s.run(b, batch=batch)["logits"].detach()).square().mean()
                for batch in s.batches.values()
                for a, b in (("left", "right"), ("right", "left"))
            ]
            yield Update(
                {
                    "task": (counts * (losses(left["logits"], s) + losses(right["logits"], s))).mean(),
                    "near": torch.stack(near).sum(),
                    "flip": (mirrored.student["logits"].flip(-1) - left["logits"].detach()).square().mean(),
                    "hidden": losses(hidden["logits"], s).mean(),
                    "crossed": losses(classifier(self.bridge(right["stage[0]"])), s).mean(),
                    "young": losses(beginner, s).mean(),
                    "steady": (steady["logits"] - right["logits"].detach()).square().mean(),
                }
            )

        return step

    def stay(self, task: Task[Any], norms: Sequence[nn.Module]) -> StepFunction:
        def step(s: Step) -> Iterator[Update]:
            if any(each.training for each in norms):
                raise RuntimeError("a norm that is to stay as it is takes statistics")
            now, before = s.run("left"), s.run("before")
            terms = {role: task.loss(s.run(role), s.batch) for role in self.roles}
            yield Update({**terms, "drift": (now["logits"] - before["logits"]).square().mean()})

        return step


def near_later(clock: Clock) -> float:
    """Weight of the other's word: none in the first two steps, then more with each epoch."""
    return 0.05 * (clock.epoch + 1) / clock.epochs if clock.step >= 2 else 0.0


def within(batch: Batch) -> Tensor:
    """(B, H, W): 1 inside of any of a sample's boxes, else 0."""
    found = torch.zeros_like(batch["mask"], dtype=torch.float32)
    for row, boxes in zip(found, batch.lists["boxes"], strict=True):
        for top, left, bottom, right in boxes.tolist():
            row[top:bottom, left:right] = 1
    return found


class Prototypes(Distiller[NoOptions]):
    """Terms `task`, in place of the task's own: rare classes count more, as seen so far; `prototypes`: the teacher's mean answer
    where it sees a class, over the steps before."""

    owns_task_loss: ClassVar[bool] = True
    term_names: ClassVar[tuple[str, ...]] = ("task", "prototypes")

    def build(self, shapes: TapShapes) -> None:
        k = shapes.student.of("logits")[0]
        assert k is not None
        self.register_buffer("means", torch.full((k, k), 1 / k))
        self.register_buffer("seen", torch.zeros(k))
        self.register_buffer("rarity", torch.ones(k))

    def prepare(self, setup: Setup) -> None:
        """The first rarity is that of the masks that are known."""
        split = setup.data.split("labeled")
        mask = split.load(range(len(split.ids)))["mask"]
        self.seen += F.one_hot(mask[mask != HIDDEN], len(self.seen)).sum(0).to(self.seen)
        self.forget()

    def forget(self) -> None:
        self.rarity.copy_(((self.seen.mean() + 1) / (self.seen + 1)).sqrt().clamp(max=2))
        self.seen.zero_()

    def terms(self, step: Step) -> dict[str, Tensor]:
        logits, mask = step.rows(step.student["logits"]), step.rows(step.batch["mask"])
        loss = F.cross_entropy(logits, mask, self.rarity, ignore_index=HIDDEN, reduction="sum")
        wanted = self.means[step.rows(step.teacher["logits"]).argmax(1)]
        far = F.kl_div(logits.log_softmax(1), wanted, reduction="batchmean")
        return {"task": loss / (mask != HIDDEN).sum().clamp(min=1), "prototypes": far}

    def on_step_end(self, step: Step) -> None:
        answers = step.gather(step.rows(step.teacher["logits"]).softmax(1))
        for k, mine in enumerate(answers[answers.argmax(1) == kind] for kind in range(len(self.means))):
            if len(mine):
                self.means[k] = 0.9 * self.means[k] + 0.1 * mine.mean(0)
                self.seen[k] += len(mine)

    def on_epoch_end(self, clock: Clock) -> None:
        self.forget()


class Shallow(Compressor[NoOptions]):
    """Leaves the second coarse block out where the score can do without it, or the study's limit asks for it."""

    SPARE = "encoder.coarse.2"

    def plan(self, subject: Subject) -> Plan:
        model = subject.model
        cut = self.apply(model.copy(), Plan({"drop": [self.SPARE]}))
        lost = subject.score(model) - subject.score(cut)
        before, after = subject.cost(model).params, subject.cost(cut).params
        is_dropped = lost < 0.9 or before > subject.budget.get("params", before)
        log = (f"{self.SPARE}: {before - after} params, {lost:.3f} of the score",)
        return Plan({"drop": [self.SPARE] if is_dropped else []}, {"encoder.fine.*": 0.0}, log)

    def apply(self, model: Model, plan: Plan) -> Model:
        for path in plan.edits["drop"]:
            parent, _, name = path.rpartition(".")
            setattr(model.module.get_submodule(parent), name, nn.Identity())
        return model


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.task("outlines", f"{__name__}:Segmentation")
    register.metric("overlap", f"{__name__}:MeanIou")
    register.dataset("shapes", f"{__name__}:Shapes")
    register.search_space("unet", f"{__name__}:Unet")
    register.procedure("chained", f"{__name__}:Chained")
    register.procedure("mutual", f"{__name__}:Mutual")
    register.pruner("shallow", f"{__name__}:Shallow")
    register.distiller("prototypes", f"{__name__}:Prototypes")
