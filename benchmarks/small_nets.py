"""Small networks of many kinds, trained here on small images, for benchmarks of compression: the same for every tool.

nets = ["resnet18", "lstm"]
data = images("fashion_mnist", 64, samples=6000, seed=0)
net = trained("resnet18", data, seed=0, folder=Path("nets"))
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.host import Host
from kdsearch.kinds import Field
from kdsearch.python.own_data import Data, open_data

BATCH, WARM_UP, SHIFT = 64, 0.1, 0.06  # samples a step; share of the steps; of an image's side, at random either way
TEST_AT_MOST = 2000


class Rows(nn.Module):
    """Reads an image (B, C, H, W) row by row with a bidirectional LSTM of two layers, and answers from the mean of its outputs."""

    def __init__(self, channels: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels * width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, image: Tensor) -> Tensor:
        rows = image.transpose(1, 2).flatten(2)  # (B, H, C W)
        found: Tensor = self.head(self.lstm(rows)[0].mean(1))
        return found


@dataclass(frozen=True)
class Small:
    """How a network is made and trained. make: channels of an image, classes -> network. size: pixels of a side."""

    make: Callable[[int, int], nn.Module]
    size: int
    lr: float = 2e-3
    epochs: int = 8


def _timm(name: str, **given: Any) -> Callable[[int, int], nn.Module]:
    def make(channels: int, classes: int) -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes, **given)

    return make


NETS: dict[str, Small] = {
    "resnet18": Small(_timm("resnet18", channels=(32, 64, 128, 256)), 48),
    "mobilenet_v2": Small(_timm("mobilenetv2_100"), 48),
    "efficientnet_lite0": Small(_timm("efficientnet_lite0"), 48),
    "edgenext": Small(_timm("edgenext_xx_small"), 64),
    "vit_tiny": Small(_timm("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=4), 32),
    "lstm": Small(lambda channels, classes: Rows(channels, 32, 96, classes), 32),
}


@dataclass(frozen=True)
class Images:
    """Pixels (N, C, H, W) of mean 0 and spread 1, and classes (N,), by split: train, val, test."""

    name: str
    splits: dict[str, tuple[Tensor, Tensor]]
    classes: int

    @property
    def channels(self) -> int:
        return self.splits["train"][0].shape[1]

    @property
    def size(self) -> int:
        return self.splits["train"][0].shape[2]

    def as_npz(self, file: Path) -> Path:
        """A file that `kdsearch compress --data` reads, with the same splits."""
        import numpy as np

        arrays = {}
        for split, (pixels, labels) in self.splits.items():
            arrays |= {f"{split}_image": pixels.numpy(), f"{split}_label": labels.numpy()}
        if not file.exists():
            np.savez(file, **arrays)
        return file

    def opened(self, file: Path, seed: int = 0) -> Data:
        """As `kdsearch.compress` opens `as_npz(file)`."""
        return open_data(str(self.as_npz(file)), "auto", seed, Host.load())


def images(name: str, size: int, samples: int, seed: int) -> Images:
    """A data set of kdsearch, `mnist5k` or `fashion_mnist`, resized: at most `samples` to train with, in a study's own splits."""
    opened = open_data(name, "auto", seed, Host.load())
    found = {}
    for split in ("train", "val", "test"):
        part = opened.arranged.split(split)
        n = min(len(part.ids), {"train": samples, "val": max(500, samples // 5), "test": TEST_AT_MOST}[split])
        order = torch.randperm(len(part.ids), generator=torch.Generator().manual_seed(seed))[:n].tolist()
        batch = part.load(sorted(order))
        pixels = F.interpolate(batch["image"], (size, size), mode="bilinear", antialias=True)
        found[split] = (pixels, batch["label"])
    mean, std = found["train"][0].mean(), found["train"][0].std()
    classes = opened.io.outputs[0].shape[0]
    assert classes is not None
    return Images(name, {split: ((x - mean) / std, y) for split, (x, y) in found.items()}, classes)


def built(name: str, channels: int, classes: int, seed: int) -> nn.Module:
    """Freshly initialised by the seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETS[name].make(channels, classes).eval()


def trained(
    name: str, data: Images, seed: int, folder: Path, epochs: int | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    """The network after `epochs` (its own number, if None) on labels, or with a teacher; kept in `folder`."""
    small = NETS[name]
    epochs = small.epochs if epochs is None else epochs
    module = built(name, data.channels, data.classes, seed)
    about = [name, data.name, data.size, len(data.splits["train"][0]), seed, epochs, small.lr, repr(module)]
    about.append(None if teacher is None else _hash(teacher))
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    file = folder / f"{name}-{seed}-{key}.safetensors"
    if file.exists():
        module.load_state_dict(safetensors.torch.load_file(file))
        return module.eval()
    fit(module, data, epochs, small.lr, seed, teacher)
    folder.mkdir(parents=True, exist_ok=True)
    state = {each: value.contiguous().clone() for each, value in module.state_dict().items()}
    safetensors.torch.save_file(state, file)
    return module


def _hash(module: nn.Module) -> str:
    found = hashlib.sha256()
    for value in module.state_dict().values():
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def fit(module: nn.Module, data: Images, epochs: int, lr: float, seed: int, teacher: nn.Module | None = None) -> None:
    """Train in place: AdamW, warm-up, cosine, images shifted at random; with a teacher half of the loss is KL at temperature 4."""
    pixels, labels = data.splits["train"]
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr, weight_decay=0.02)
    batches = len(pixels) // BATCH
    total = epochs * batches

    def factor(step: int) -> float:
        share = step / total
        return share / WARM_UP if share < WARM_UP else (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    most = max(1, round(SHIFT * data.size))
    module.train().to(memory_format=torch.channels_last)  # twice as fast for depthwise convolutions
    for _ in range(epochs):
        order = torch.randperm(len(pixels), generator=rng)
        for at in range(batches):
            index = order[at * BATCH : (at + 1) * BATCH]
            down, right = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
            x, y = (
                pixels[index].roll((down, right), (2, 3)).contiguous(memory_format=torch.channels_last),
                labels[index],
            )
            z = module(x)
            loss = F.cross_entropy(z, y)
            if teacher is not None:
                with torch.no_grad():
                    told = (teacher(x) / 4).log_softmax(1)
                loss = 0.5 * loss + 8 * F.kl_div((z / 4).log_softmax(1), told, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    module.eval().to(memory_format=torch.contiguous_format)


def accuracy(answer: Callable[[Tensor], Any], data: Images, split: str = "test") -> float:
    """Share of right answers."""
    pixels, labels = data.splits[split]
    with torch.no_grad():
        found = torch.cat([torch.as_tensor(answer(each)) for each in pixels.split(250)])
    return float((found.argmax(1) == labels).float().mean())


def fields(data: Images) -> tuple[Field, Field]:
    """What a network reads and answers."""
    return (
        Field("image", "image", (data.channels, data.size, data.size), "float32"),
        Field("logits", "logits", (data.classes,)),
    )
