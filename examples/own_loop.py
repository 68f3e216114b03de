"""A training loop of your own: kdsearch asks and is told, you train. Run it again after an interruption; it goes on.

python examples/own_loop.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import kdsearch

STEPS = 120


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 8, 8) in [0, 1] and labels."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def trained_teacher(images: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(8):
        for index in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[index]), labels[index]).backward()
            optimizer.step()
    return net.eval()


def trained(candidate: kdsearch.Candidate, teacher: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    """Soft targets in plain PyTorch. Whatever you do here: kdsearch asks for the result alone."""
    student, recipe = candidate.model.module.train(), candidate.recipe
    temperature = recipe.distillers[0].options.temperature
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.train.lr)
    shuffled = torch.Generator().manual_seed(candidate.number)
    for _ in range(STEPS):
        index = torch.randint(len(images), (recipe.train.batch_size,), generator=shuffled)
        z_s = student(images[index])
        with torch.no_grad():
            z_t = teacher(images[index])
        soft = F.kl_div(F.log_softmax(z_s / temperature, 1), F.softmax(z_t / temperature, 1), reduction="batchmean")
        loss = recipe.weights["task"] * F.cross_entropy(z_s, labels[index])
        loss = loss + recipe.weights["kd"] * temperature**2 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval()


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (net(images).argmax(1) == labels).float().mean().item()


def main(folder: Path) -> dict:
    images, labels = digits()
    train, val = (images[:1200], labels[:1200]), (images[1200:1500], labels[1200:1500])
    teacher = trained_teacher(*train)
    study = kdsearch.Study(
        teacher=teacher,
        train=train,
        val=val,
        test=(images[1500:], labels[1500:]),
        student={"space": "cifar_resnet", "spec": {"depths": [1, 1, 1], "widths": {"choices": [8, 12, 16, 24]}}},
        recipe={
            "distillers": [{"use": "kd", "weight": "search", "options": {"temperature": "search"}}],
            "train": {"lr": "search", "batch_size": 64},
            "normalize": False,  # weights are factors of this loop's own terms
        },
        objectives={"accuracy": "max", "params": "min"},
        constraints={"params": 30_000},
        search={"candidates": 30, "keep": 4},
        refine={"trials": 6, "generation": 2},
    )
    with kdsearch.Session(study, folder) as session:
        while (candidate := session.ask()) is not None:
            found = accuracy(trained(candidate, teacher, *train), *val)
            session.tell(candidate, {"accuracy": found})  # params are known
            print(f"trial {candidate.number}: {found:.3f} with {candidate.costs['params']:,.0f} params")
        best = session.best()
    print(f"best of {len(session.trials)}: trial {best['number']}, {best['objectives']}, {best['specs']['student']}")
    return best


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own_loop"))
