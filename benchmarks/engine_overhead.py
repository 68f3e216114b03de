"""What does the training engine cost over a bare PyTorch loop? JSON: CPU seconds of both and their ratio, a seed a row.

The same small ResNet, batches of 128 x 1 x 28 x 28 from memory, AdamW with a cosine, channels-last, in one process and one
thread. Both loops take turns in short rounds, so that a busy machine slows both; CPU time, so that waiting counts nothing.

    python benchmarks/engine_overhead.py [--steps 16] [--rounds 6] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.feeds import order_of
from kdsearch.kinds import Feed
from kdsearch.store.hashing import derive
from kdsearch.testing.models import small_resnet
from kdsearch.testing.training import TensorSource, training

BATCH, IMAGE, CLASSES = 128, (1, 28, 28), 10


def student(widths: tuple[int, ...], seed: int):
    return small_resnet(widths, 1, CLASSES, IMAGE, seed)


def data(n: int, seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(n, *IMAGE, generator=rng),
        "label": torch.randint(0, CLASSES, (n,), generator=rng),
    }


def by_engine(widths: tuple[int, ...], columns: dict[str, torch.Tensor], seed: int) -> tuple[float, torch.nn.Module]:
    with tempfile.TemporaryDirectory() as folder:
        model = student(widths, seed)
        run = training(
            Distill(DistillOptions()), {"student": model}, TensorSource({"train": columns}, n_classes=CLASSES), Path(folder),
            batch_size=BATCH, seed=seed, optim={"lr": 2e-3, "weight_decay": 0.05},
        )  # fmt: skip
        start = time.process_time()
        run.run()
        return time.process_time() - start, model.module


def bare(widths: tuple[int, ...], columns: dict[str, torch.Tensor], seed: int) -> tuple[float, torch.nn.Module]:
    net = student(widths, seed).module.to(memory_format=torch.channels_last).train()
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=2e-3)
    ids = [f"train-{i:05d}" for i in range(len(columns["label"]))]
    start = time.process_time()
    orders = order_of(Feed("train", BATCH), "train", ids, 0, derive(seed, "distill"))
    for step, index in enumerate(orders):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / len(orders)))
        image = columns["image"][index].contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(image), columns["label"][index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
    return time.process_time() - start, net


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=16, help="of a round, one pass over the data")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--profile", action="store_true", help="of one round of the engine, to stderr")
    args = parser.parse_args()
    torch.set_num_threads(1)
    widths = tuple(args.widths)
    if args.profile:
        columns = data(args.steps * BATCH, 0)
        by_engine(widths, columns, 0)
        profile = cProfile.Profile()
        profile.runcall(by_engine, widths, columns, 0)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    rows = []
    for seed in range(3):
        columns = data(args.steps * BATCH, seed)
        by_engine(widths, columns, seed)  # warm up: imports, allocator
        bare(widths, columns, seed)
        engine, plain, same = [], [], True
        for _ in range(args.rounds):
            (a, trained), (b, net) = by_engine(widths, columns, seed), bare(widths, columns, seed)
            engine.append(a)
            plain.append(b)
            same &= all(
                torch.allclose(trained.state_dict()[name].float(), value.float(), atol=1e-5)
                for name, value in net.state_dict().items()
            )
        ratio = statistics.median(x / y for x, y in zip(engine, plain, strict=True))
        rows.append(
            {
                "seed": seed,
                "engine_s": round(statistics.median(engine), 4),
                "bare_s": round(statistics.median(plain), 4),
                "ratio": round(ratio, 4),
                "overhead_ms_per_step": round(1e3 * statistics.median(
                    x - y for x, y in zip(engine, plain, strict=True)) / args.steps, 3),
                "same_weights": same,
            }
        )  # fmt: skip
    shown = {"batch": [BATCH, *IMAGE], "widths": widths, "steps": args.steps, "rounds": args.rounds, "seeds": rows}
    print(json.dumps({**shown, "ratio": statistics.median(row["ratio"] for row in rows)}, indent=1))


if __name__ == "__main__":
    main()
