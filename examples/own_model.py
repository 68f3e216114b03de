"""A teacher and data of your own, as live objects, become a verified ONNX student: about 20 seconds on one core.

python examples/own_model.py [FOLDER]        (killed, the same command goes on; run again, it is done)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

import kdsearch


class Digits(Dataset):
    """Any map-style Dataset of (image, label) will do: 1,797 handwritten digits, here enlarged to 16x16."""

    def __init__(self, first: int, last: int) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images[first:last], dtype=torch.float32)[:, None] / 16
        self.images = nn.functional.interpolate(images, (16, 16), mode="bilinear")
        self.targets = digits.target[first:last]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], int(self.targets[i])


def trained_teacher(data: Digits) -> nn.Module:
    """Any nn.Module that answers images with logits. Yours is trained already; this one takes a few seconds."""
    torch.manual_seed(0)

    def block(c_in: int, c_out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2))

    net = nn.Sequential(block(1, 32), block(32, 64), block(64, 64), nn.Flatten(), nn.Linear(256, 10))
    images, labels = data.images, torch.tensor(data.targets)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(8):
        for index in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(net(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def main(folder: Path) -> dict:
    train, test = Digits(0, 1400), Digits(1400, 1797)
    study = kdsearch.Study(
        teacher=trained_teacher(train),
        train=train,
        test=test,
        data={"labeled": 0.1},  # labels for a tenth of the training images; the teacher speaks for the others
        student={"space": "cifar_resnet", "spec": {"depths": {"choices": [1, 2]}, "widths": {"choices": [8, 16, 24]}}},
        recipe={"distillers": [{"use": "kd", "weight": "search"}], "train": {"lr": 0.008, "batch_size": 64}},
        constraints={"params": 20_000},
        search={"candidates": 40, "keep": 3},
        refine={"trials": 3, "epochs": 2},
        distill={"epochs": 15, "controls": ["baseline"]},
        compress={"quantize": [{"use": "int8"}]},
        export={"formats": ["onnx-fp32", "onnx-int8"], "max_drop": {"onnx-int8": 0.02}},
    )
    result = kdsearch.run(study, folder)
    print(f"teacher   {result['teacher']['accuracy']:.3f}  {result['teacher']['params']:,} params")
    print(f"student   {result['student']['accuracy']:.3f}  {result['student']['params']:,} params")
    print(f"baseline  {result['baseline']['accuracy']:.3f}  the same student without the teacher")
    for each in result["exports"]:
        print(f"{each['format']:9} {each['accuracy']:.3f}  {folder / each['path']}  {each['bytes']:,} bytes")

    session = onnxruntime.InferenceSession(folder / result["exports"][0]["path"])
    images = np.stack([test[i][0].numpy() for i in range(8)])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    print("predicted", logits.argmax(1), "of", test.targets[:8])
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own_model"))
