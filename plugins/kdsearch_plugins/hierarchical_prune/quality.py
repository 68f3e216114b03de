"""How good generated digits are: Frechet distance in a small classifier's features, and the share of the class asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdsearch.ops.frechet import frechet_distance
from kdsearch.ops.sampling import sample

WIDTH = 32  # of the features
TOTAL_VARIANCE = (
    120.0  # of features over training digits: the unit of FD, in which real against real digits is about 0.6
)


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 digits of 8x8 in [-1, 1], split 1,197 / 600: only the first part trains anything."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor

    @classmethod
    def load(cls) -> Digits:
        from sklearn.datasets import load_digits

        found = load_digits()
        images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
        labels = torch.tensor(found.target)
        order = torch.randperm(len(images), generator=Generator().manual_seed(0))
        first, rest = order[:1197], order[1197:]
        return cls(images[first], labels[first], images[rest], labels[rest])


class Classifier(nn.Module):
    """(B, 1, 8, 8) -> logits (B, 10); `features` are (B, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(1024, WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Linear(WIDTH, 10)
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.scale * self.body(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def trained_classifier(data: Digits, seed: int = 0, steps: int = 600, batch: int = 64) -> Classifier:
    """By cross-entropy on the first part; AdamW 2e-3, one cycle."""
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of weights and dropout
        net = Classifier()
        optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=max(steps, 1), pct_start=0.1)
        for _ in range(steps):
            rows = torch.randint(len(data.train), (batch,), generator=generator)
            loss = F.cross_entropy(net(data.train[rows]), data.train_labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            cycle.step()
    net.eval()
    with torch.no_grad():
        variance = torch.cov(net.body(data.train).T.double()).trace()
        net.scale.copy_((TOTAL_VARIANCE / variance).sqrt())
    return net


@dataclass(frozen=True)
class Quality:
    """What a generator is judged by.

    Args:
        real: features (n, 32) that samples are compared with: training ones to prune by, held-out ones to report.
    """

    classifier: Classifier
    real: Tensor
    n_samples: int = 500
    steps: int = 10

    @classmethod
    @torch.no_grad()
    def against(cls, classifier: Classifier, images: Tensor) -> Quality:
        return cls(classifier, classifier.features(images))

    @torch.no_grad()
    def of(self, net: nn.Module, noise_seed: int) -> tuple[float, float]:
        """(FD, class accuracy) of samples, as many of each class; Euler, guidance 1."""
        asked = torch.arange(self.n_samples) % 10
        images = sample(net, asked, None, (1, 8, 8), noise_seed, self.steps)
        logits = self.classifier(images)
        accuracy = float((logits.argmax(1) == asked).float().mean())
        return frechet_distance(self.classifier.features(images), self.real), accuracy


def degradation(before: Sequence[float], after: Sequence[float]) -> float:
    """The paper's: the mean over metrics, all higher is better, of the relative drop."""
    return sum((a - b) / a for a, b in zip(before, after, strict=True)) / len(before)
