"""What every half of the benchmark of compression is given, and what it measures with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_nets import Images, accuracy, fields
from torch import Tensor, nn

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.bench import bench
from kdsearch.deploy.files import open_session
from kdsearch.kinds import Batch, Graph

ROUNDS = 9


@dataclass(frozen=True)
class Subject:
    """A trained network, its data, and a folder for files."""

    name: str
    net: nn.Module
    data: Images
    seed: int
    folder: Path

    @property
    def one(self) -> tuple[Tensor]:
        return (torch.zeros(1, self.data.channels, self.data.size, self.data.size),)

    def fp32(self, net: nn.Module, stem: str) -> Path:
        """The network's file, with an open number of samples."""
        image, logits = fields(self.data)
        file = self.folder / f"{stem}.onnx"
        graph = Graph(net, (image,), (logits,))
        blank = Batch(("a", "b"), {"image": self.data.splits["train"][0][:2]})
        OnnxExporter(OnnxOptions()).write(graph, blank, file)
        return file


def file_accuracy(file: Path, data: Images, split: str = "test") -> float:
    """Share of right answers of a file in onnxruntime."""
    session = open_session(file, 1)
    name = session.get_inputs()[0].name

    def answer(pixels: Tensor) -> Any:
        return np.asarray(session.run(None, {name: pixels.numpy()})[0])

    return accuracy(answer, data, split)


def latencies(rows: list[dict[str, Any]]) -> None:
    """Adds median and spread of latency, in ms, to every row that has a `file`: all of them in turns."""
    files = [Path(row["file"]) for row in rows if row.get("file")]
    if not files:
        return
    timed = {each.file: each for each in bench(files, rounds=ROUNDS)}
    for row in rows:
        if row.get("file"):
            found = timed[row["file"]]
            row |= {"bytes": found.bytes, "latency_ms": found.median_ms, "latency_spread_ms": found.spread_ms}
