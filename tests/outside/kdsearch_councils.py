"""Several teachers that look at other sides of the same samples, a picture and its caption: as a package would add them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Option
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import (
    IO,
    Access,
    Batch,
    Dataset,
    Distiller,
    Field,
    Model,
    NoOptions,
    Options,
    Services,
    Setup,
    Split,
    Step,
    StudentTap,
    Tap,
    TapShapes,
    Teacher,
    TeacherNamed,
    TeacherTap,
    Training,
    split_of,
)
from kdsearch.ops.padding import stacked

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def told(what: str) -> None:
    """A line for the test, appended at once by whichever process writes it."""
    if path := os.environ.get("COUNCIL_LOG"):
        with Path(path).open("a") as stream:
            stream.write(f"{what} {os.getpid()}\n")


class CaptionedOptions(Options):
    n: int = Option(400, ge=50, le=1797, description="digits")


class CaptionedSplit:
    """Digits of 8x8 with a caption each: the number's name among letters that say nothing."""

    def __init__(self, n: int) -> None:
        from sklearn.datasets import load_digits  # two seconds, in every process that only looks at what is installed

        digits, rng = load_digits(), Generator().manual_seed(5)
        self.ids = tuple(f"digit-{i:04d}" for i in range(n))
        self.labels = torch.tensor(digits.target[:n])
        self.images = torch.tensor(digits.images[:n], dtype=torch.float32)[:, None] / 16
        self.captions = [self._caption(NAMES[label], rng) for label in self.labels.tolist()]

    def _caption(self, name: str, rng: Generator) -> str:
        before, after = torch.randint(4, (2,), generator=rng).tolist()
        return f"{'x' * before}{name}{'q' * after}"

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at = list(index)
        tensors = {"image": self.images[at], "label": self.labels[at]}
        return Batch(tuple(self.ids[i] for i in at), tensors, texts={"caption": [self.captions[i] for i in at]})


class CaptionedSource:
    fields = (Field("image", "image", (1, 8, 8)), Field("label", "label", (), "int64", "target"))
    facts: Mapping[str, Any] = {"classes": list(NAMES), "source": "scikit-learn's digits", "licence": "BSD"}
    splits = ("train",)

    def __init__(self, n: int) -> None:
        self._parts = {"train": CaptionedSplit(n)}

    def split(self, name: str) -> Split:
        return split_of(self._parts, name)


class Captioned(Dataset[CaptionedOptions]):
    """Two modalities: a picture, and a text that no student reads."""

    task = "classification"

    def open(self, services: Services) -> CaptionedSource:
        return CaptionedSource(self.options.n)


class Spelling(nn.Module):
    """Letters (B, T), 0 where there is none -> logits (B, 10), over the mean of embedded pairs of letters."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed, self.words, self.out = nn.Embedding(27, width), nn.Linear(2 * width, width), nn.Linear(width, 10)

    def forward(self, letters: Tensor) -> Tensor:
        pairs = torch.cat([self.embed(letters[:, :-1]), self.embed(letters[:, 1:])], -1).relu()
        known = (letters[:, 1:] > 0)[..., None]
        seen = self.words((pairs * known).sum(1) / known.sum(1).clamp(min=1))
        return self.out(seen.relu())


class Reader(Teacher[NoOptions]):
    """Reads the caption alone, with an alphabet of its own; the study trains it."""

    training = Training(epochs=12, lr=0.02, batch_size=64, is_fresh=True)

    def model(self, io: IO, services: Services) -> Model:
        return Model(Spelling(), ("letters",), (Tap("words", "words", "vector", (24,)),), name="reader")

    def view(self, batch: Batch, rng: Generator) -> Batch:
        rows = [torch.tensor([ord(letter) - 96 for letter in text]) for text in batch.texts["caption"]]
        return batch.having(letters=stacked(rows).to(batch["image"].device))


class Means(nn.Module):
    """Pictures -> (B, 10), how near each is to the mean of each class."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)

    def forward(self, image: Tensor) -> Tensor:
        return -torch.cdist(image.flatten(1), self.means)  # type: ignore[arg-type]


class Bank(Teacher[NoOptions]):
    """Made of the study's own labelled samples, once for all of its processes; its answer is no class."""

    access = Access.LOGITS

    def model(self, io: IO, services: Services) -> Model:
        made = services.once("means", lambda: self.means(services))
        return Model(Means(made["means"]), ("image",), outputs=("nearness",), name="bank")

    def means(self, services: Services) -> dict[str, Tensor]:
        told("bank")
        split = services.data.split("labeled")
        batch = split.load(range(len(split.ids)))
        rows = [batch["image"][batch["label"] == k].flatten(1).mean(0) for k in range(10)]
        return {"means": torch.stack(rows)}


class Wavering(nn.Module):
    def __init__(self, means: Tensor, noise: float) -> None:
        super().__init__()
        self.inner, self.noise = Means(means), noise

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.inner(image)
        return found + self.noise * torch.randn_like(found)


class WaveringOptions(Options):
    noise: float = Option(0.1, ge=0, description="standard deviation of what is added to an answer")


class Wavers(Teacher[WaveringOptions]):
    """Answers otherwise each time it is asked."""

    access = Access.LOGITS
    stochastic = True

    def model(self, io: IO, services: Services) -> Model:
        rng = services.rng("wavering")
        net = Wavering(torch.rand(10, 64, generator=rng), self.options.noise)
        return Model(net, ("image",), outputs=("hunch",), name="wavering")


class CouncilOptions(Options):
    reader: Annotated[str, TeacherNamed("taps")] = Option("reader", description="teacher of captions")
    words: str = Option("words", description="its tap")
    bank: Annotated[str, TeacherNamed("logits")] = Option("bank", description="teacher of nearness")
    teacher_tap: TeacherTap = Option("penultimate", description="of the teacher that it learns from")
    student_tap: StudentTap = Option("penultimate", description="vector that is to know all of it")


class Council(Distiller[CouncilOptions]):
    """Terms `words`, `means`, `near`: the student's vector, projected, is near what each teacher makes of the sample; `agree`: the
    teacher's own classifier says of it what it says of its own."""

    access = Access.TAPS
    term_names: ClassVar[tuple[str, ...]] = ("words", "means", "near", "agree")

    def taps(self) -> dict[str, list[str]]:
        return {**super().taps(), self.options.reader: [self.options.words]}

    def build(self, shapes: TapShapes) -> None:
        o = self.options
        d = shapes.student.vector(o.student_tap)
        widths = {
            "words": shapes.of(o.reader).vector(o.words),
            "means": shapes.teacher.vector(o.teacher_tap),
            "near": shapes.of(o.bank).vector("nearness"),
        }
        self.maps = nn.ModuleDict({name: nn.Linear(d, width) for name, width in widths.items()})
        self.register_buffer("means", torch.zeros(10, widths["means"]))
        self.register_buffer("classifier", torch.zeros(10, widths["means"]))

    def prepare(self, setup: Setup) -> None:
        """The teacher's mean vector of each class, and its classifier, by which the student's vector is judged."""
        self.means.copy_(setup.study.once("means", lambda: self.class_means(setup))["means"])
        self.classifier.copy_(setup.part("teacher", "logits").weight)  # type: ignore[arg-type]

    def class_means(self, setup: Setup) -> dict[str, Tensor]:
        split = setup.study.data.split("labeled")
        told(f"council-{len(split.ids)}")
        batch = split.load(range(len(split.ids)))
        rows = setup.study.predict("teacher", batch, taps=[self.options.teacher_tap])[self.options.teacher_tap].cpu()
        return {"means": torch.stack([rows[batch["label"] == k].mean(0) for k in range(10)])}

    def terms(self, step: Step) -> dict[str, Tensor]:
        o = self.options
        seen = step.student[o.student_tap]
        nearest = step.teacher["logits"].argmax(1)
        wanted = {
            "words": step.run(o.reader)[o.words],
            "means": self.means[nearest],
            "near": step.run(o.bank)["nearness"],
        }
        terms = {name: F.mse_loss(self.maps[name](seen), each) for name, each in wanted.items()}
        return {**terms, "agree": F.cross_entropy(self.maps["means"](seen) @ self.classifier.mT, nearest)}


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.dataset("captioned", f"{__name__}:Captioned")
    register.teacher("reader", f"{__name__}:Reader")
    register.teacher("bank", f"{__name__}:Bank")
    register.teacher("wavers", f"{__name__}:Wavers")
    register.distiller("council", f"{__name__}:Council")
