"""Each piece without a study: distillers in your own loop, proxies on architectures, verified files of any network.

python examples/pieces.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import kdsearch


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 8, 8) in [0, 1] and labels."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def network(width: int) -> nn.Module:
    def block(c_in: int, c_out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(block(1, width), block(width, 2 * width), nn.Flatten(), nn.Linear(8 * width, 10))


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (net.eval()(images).argmax(1) == labels).float().mean().item()


def distillers(teacher: nn.Module, student: nn.Module, images: Tensor, labels: Tensor, epochs: int = 8) -> dict:
    """`kd` and `fitnet` in a plain loop; fitnet's regressor is trained with the student."""
    hint = {"use": "fitnet", "options": {"teacher_tap": "stage[-1]", "student_tap": "stage[-1]"}}
    distillation = kdsearch.Distillation(student, teacher, ["kd", hint], images)
    optimizer = torch.optim.AdamW([*student.parameters(), *distillation.parameters()], lr=4e-3)
    student.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            logits, terms = distillation(images[index], labels[index])
            loss = F.cross_entropy(logits, labels[index], ignore_index=-100) + terms["kd.kl"] + terms["fitnet.hint"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: value.item() for name, value in terms.items()}


def proxies(teacher: nn.Module, n: int = 8) -> list:
    """Architectures of a search space, drawn and scored untrained, against this teacher; higher is better."""
    scorer = kdsearch.scorer("cifar_resnet", ["auto", "nwot", "params"], shape=(1, 8, 8), teacher=teacher)
    rng = torch.Generator().manual_seed(0)
    rows = scorer.score_all([scorer.space.sample(rng) for _ in range(n)])
    for row in sorted(rows, key=lambda each: -each.scores["auto"]):
        print("  ".join(f"{name} {score:10.4g}" for name, score in row.scores.items()), row.key)
    return rows


def files(net: nn.Module, images: Tensor, folder: Path) -> list:
    """fp32, INT8 and INT4, each opened in onnxruntime and compared with the network; a card beside each, and `predict.py`."""
    asked = {"fp32": None, "int8": "int8", "int4": {"use": "int4", "options": {"block": 16}}}
    found = []
    for name, quantize in asked.items():
        labels = [str(digit) for digit in range(10)]
        made = kdsearch.export(net, images[:256], folder / f"student-{name}.onnx", quantize=quantize, labels=labels)
        print(f"{made.file}: {made.bytes:,} bytes, {made.top1_agreement:.3f} of the answers agree, {made.weight_share}")
        found.append(made)
    return found


def main(folder: Path) -> dict:
    torch.manual_seed(0)
    images, labels = digits()
    train, test = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    teacher, student = network(32), network(6)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    for _ in range(8):
        for index in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            F.cross_entropy(teacher.train()(train[0][index]), train[1][index]).backward()
            optimizer.step()
    terms = distillers(teacher, student, *train)
    scores = {"teacher": accuracy(teacher, *test), "student": accuracy(student, *test)}
    print(scores, terms)
    return {"scores": scores, "terms": terms, "rows": proxies(teacher), "files": files(student, test[0], folder)}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "pieces"))
