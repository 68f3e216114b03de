"""Is a teacher that was trained outside as good inside, whatever form it and the data come in? JSON: a combination a row.

The teacher: timm's EfficientNet-Lite0 with ImageNet weights, fine-tuned on earth_tiles by a loop of this script's own, at 64
pixels, in ImageNet's normalisation. Forms: its weights for `safetensors` and `timm`, an ONNX file, the Python object. Data: a
folder of PNGs, an npz, a Dataset of pixels and one whose transform normalises. Nothing in the studies says a
normalisation. `as data`: what a form would be in the data's own (`teacher.normalize: data`), on the folder.

    python benchmarks/outside_teacher.py [--epochs 10] [--per-class 500]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import kdsearch
from kdsearch.builtin.datasets.earth import EarthOptions, EarthTiles
from kdsearch.builtin.teachers.efficientnet_lite0 import NETWORK, EfficientNetLite0, EfficientNetLite0Options
from kdsearch.engine.setup import Site
from kdsearch.host import Host
from kdsearch.kinds import IMAGENET, IO, UNIT, Field
from kdsearch.stages.run import run_stages
from kdsearch.store import weights
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events, open_folder
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Progress, Tools

SIDE = 64
MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET.mean, IMAGENET.std))


class Enlarged(nn.Module):
    """What its owner deploys: 32 x 32 tiles, enlarged."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.net(F.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False))
        return answer


class Tiles(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: Tensor, labels: Tensor, is_normalised: bool) -> None:
        self.images, self.targets, self.is_normalised = images, labels, is_normalised

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels = self.images[i].float() / 255
        return (pixels - MEAN) / STD if self.is_normalised else pixels, int(self.targets[i])


def tiles(per_class: int, site: Site) -> dict[str, tuple[Tensor, Tensor]]:
    """Split -> images (N, 3, 32, 32) uint8, and labels."""
    source = EarthTiles(EarthOptions(per_class=per_class)).open(site).normalized(UNIT)  # type: ignore[attr-defined]
    found = {}
    for name in ("train", "val", "test"):
        batch = source.split(name).load(range(len(source.split(name).ids)))
        found[name] = ((batch["image"] * 255).round().byte(), batch["label"])
    return found


def trained(splits: dict[str, tuple[Tensor, Tensor]], epochs: int, site: Site) -> nn.Module:
    io = IO((Field("image", "image", (3, 32, 32)),), (Field("logits", "logits", (10,)),))
    net: nn.Module = EfficientNetLite0(EfficientNetLite0Options(size=SIDE)).model(io, site).module.net  # type: ignore[assignment]
    module = Enlarged(net)
    images, labels = splits["train"]
    ready = (images.float() / 255 - MEAN) / STD
    torch.manual_seed(0)
    rate, batch = 4e-3, 32
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    steps = epochs * -(-len(labels) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        module.train()
        for rows in torch.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(module(ready[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def accuracy(module: nn.Module, split: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        answers = torch.cat([module((part.float() / 255 - MEAN) / STD) for part in split[0].split(256)])
    return float((answers.argmax(1) == split[1]).double().mean())


def written(folder: Path, splits: dict[str, tuple[Tensor, Tensor]], module: Any) -> None:
    weights.write(folder / "teacher.safetensors", module.net.state_dict())
    sample = (splits["val"][0][:8].float() / 255 - MEAN) / STD
    kdsearch.export(module, sample, folder / "teacher.onnx", parity=1e-3)
    arrays = {}
    for name, (images, labels) in splits.items():
        plain = images.permute(0, 2, 3, 1).numpy()
        arrays |= {f"{name}_image": plain, f"{name}_label": labels.numpy()}
        for i, (image, label) in enumerate(zip(plain, labels.tolist(), strict=True)):
            place = folder / "tiles" / name / f"{label:02}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i:05}.png")
    np.savez(folder / "tiles.npz", **arrays)  # type: ignore[arg-type]


def inside(folder: Path, work: Path, teacher: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """What `prepare` says of the teacher."""
    study = kdsearch.Study(
        teacher=teacher,
        student={"space": "cifar_resnet", "spec": {"depths": [1, 1, 1], "widths": [4, 4, 4]}},
        recipe=["kd"],
        search={"proxy": "params", "candidates": 1, "keep": 1},
        **data,
    )
    materials = open_materials(study, Host.load())
    open_folder(work)
    tools = Tools(Store(work), Events(work / "events.jsonl", lambda event: None), work, Progress(False))
    facts: dict[str, Any] = run_stages(materials, tools, "prepare")["prepare"].facts["teachers"]["main"]
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--per-class", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = Site(0, folder)
        splits = tiles(asked.per_class, site)
        module = trained(splits, asked.epochs, site)
        written(folder, splits, module)
        file = str(folder / "teacher.safetensors")
        forms: dict[str, dict[str, Any]] = {
            "safetensors": {"use": "safetensors", "options": {"path": file, "timm": NETWORK, "size": SIDE}},
            "timm": {"use": "timm", "options": {"name": NETWORK, "weights": file, "size": SIDE}},
            "onnx": {"use": "onnx", "options": {"path": str(folder / "teacher.onnx")}},
            "python": {"use": module},
        }
        data: dict[str, dict[str, Any]] = {
            "folder": {"data": {"use": "image_folder", "options": {"path": str(folder / "tiles")}}},
            "npz": {"data": {"use": "npz", "options": {"path": str(folder / "tiles.npz")}}},
            "live, pixels": {name: Tiles(*each, False) for name, each in splits.items()},
            "live, normalised": {name: Tiles(*each, True) for name, each in splits.items()},
        }
        print(json.dumps({"outside": {name: accuracy(module, split) for name, split in splits.items()}}))
        for form, teacher in forms.items():
            for kind, given in data.items():
                work = folder / "studies" / f"{form}-{kind}"
                facts = inside(folder, work, teacher, given)
                found = facts["normalize"] or {}
                row = {"form": form, "data": kind, "val": facts["score"]}
                if kind == "folder":
                    row["as data"] = inside(folder, work / "as-data", {**teacher, "normalize": "data"}, given)["score"]
                print(json.dumps({**row, "fed": found.get("name"), "by": found.get("by")}), flush=True)


if __name__ == "__main__":
    main()
