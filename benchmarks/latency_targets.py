"""How close does pruning come to a latency that is asked for? Ten targets on three networks, error beside noise; JSON with --out.

A target is a share of the uncut network's latency. What was cut to it is measured again, apart from the measurements that it was
planned by: in 15 rounds, in each of which the uncut file, the cut file and a copy of the cut file run in turns, each in a session
of its own. `error`: the median ratio of cut to uncut file over the target, less one. `spread`: by how much the copy differs from
the file that it is a copy of. Times are those of one thread on a processor, so that waiting for one counts nothing. A result is
near where its error is within 5 % plus the spread. Networks have random weights: what a channel is worth decides nothing here.

    python benchmarks/latency_targets.py [--nets resnet18,mobilenetv2_100] [--size 224] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.files import open_session
from kdsearch.deploy.latency import measure
from kdsearch.kinds import Batch, Graph, Model
from kdsearch.python.networks import io_without_data
from kdsearch.python.own_data import PlanSubject
from kdsearch.python.pieces import as_model

TARGETS = {
    "resnet18": (0.8, 0.6, 0.4, 0.25),
    "mobilenetv2_100": (0.85, 0.7, 0.5),
    "vit_tiny_patch16_224": (0.8, 0.6, 0.45),
}
ROUNDS, TURN_S, GOAL = 15, 0.15, 0.05


@dataclass(frozen=True)
class Whole:
    """An uncut network, with its file and what it needs alone."""

    model: Model
    site: PlanSubject
    file: Path
    sample: torch.Tensor
    ms: float


def opened(name: str, size: int, folder: Path) -> Whole:
    import timm

    torch.manual_seed(0)
    given = {"img_size": size} if "vit" in name else {}
    net = timm.create_model(name, pretrained=False, **given).eval()
    io = io_without_data(net, (3, size, size))
    model = as_model(net, io, name)
    sample = torch.zeros(2, 3, size, size)
    file = folder / f"{name}.onnx"
    write(model.module, io, sample, file)
    site = PlanSubject(seed=0, base=Path(), model=model, io=io, opened=None, budget={})
    return Whole(model, site, file, sample, measure(file, [sample]).median_ms)


def write(module: nn.Module, io: Any, sample: torch.Tensor, file: Path) -> None:
    batch = Batch(("a", "b"), {io.inputs[0].name: sample})
    OnnxExporter(OnnxOptions()).write(Graph(module, io.inputs, io.outputs), batch, file)


def call(file: Path, sample: torch.Tensor) -> Callable[[], Any]:
    session = open_session(file, 1)
    return partial(session.run, None, {session.get_inputs()[0].name: sample[:1].numpy()})


def turn(call: Callable[[], Any]) -> float:
    taken = []
    begun = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - begun < TURN_S:
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return statistics.median(taken)


def ratios(files: list[Path], sample: torch.Tensor) -> np.ndarray[Any, Any]:
    """Medians over rounds of what each file needs, as shares of the first one."""
    calls = [call(file, sample) for file in files]
    for each in calls:
        turn(each)
    rounds = []
    for nth in range(ROUNDS):
        order = [(nth + at) % len(calls) for at in range(len(calls))]
        taken = {at: turn(calls[at]) for at in order}
        rounds.append([taken[at] / taken[0] for at in range(len(calls))])
    found: np.ndarray[Any, Any] = np.median(rounds, axis=0)
    return found


def row(name: str, whole: Whole, share: float, folder: Path) -> dict[str, Any]:
    pruner = Channels(ChannelsOptions(latency_ms=share * whole.ms))
    began, cpu = time.perf_counter(), time.process_time()
    plan = pruner.plan(whole.site)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    small = pruner.apply(whole.model, plan)
    file = folder / f"{name}-{share}.onnx"
    write(small.module, whole.site.io, whole.sample, file)
    copy = Path(shutil.copy(file, file.with_suffix(".copy.onnx")))
    _, ratio, again = ratios([whole.file, file, copy], whole.sample)
    error, spread = ratio / share - 1, abs(again / ratio - 1)
    cost, before = whole.site.cost(small), whole.site.cost(whole.model)
    return {
        "net": name, "target": share, "target_ms": share * whole.ms, "reached": ratio, "error": error, "spread": spread,
        "near": bool(abs(error) <= GOAL + spread), "macs": cost.macs / before.macs, "params": cost.params / before.params,
        "seconds": seconds, "cpu_seconds": cpu, "log": [line for line in plan.log if line.startswith("latency")],
    }  # fmt: skip


def told(row: dict[str, Any]) -> str:
    first = f"{row['net']:22} target {row['target']:.2f}, {row['target_ms']:.2f} ms: reached {row['reached']:.3f}"
    first += f"  error {row['error']:+.1%}  spread {row['spread']:.1%}  {'near' if row['near'] else 'FAR'}"
    first += f"  MACs {row['macs']:.3f}  planned in {row['seconds']:.0f} s, {row['cpu_seconds']:.0f} of CPU"
    return "\n    ".join([first, *row["log"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(TARGETS))
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["KDSEARCH_CACHE"] = str(folder / "cache")  # nothing that was measured before decides
        for name in asked.nets.split(","):
            whole = opened(name, asked.size, folder)
            for share in TARGETS[name]:
                found = row(name, whole, share, folder)
                rows.append(found)
                print(told(found), flush=True)
    print(f"{sum(each['near'] for each in rows)} of {len(rows)} near; mean absolute error "
          f"{statistics.mean(abs(each['error']) for each in rows):.1%}")  # fmt: skip
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
