"""How good are compressed networks beside what other tools make of the same ones? Accuracy, bytes, ms, seconds; JSON with --out.

Small networks of six kinds are trained here (`small_nets.py`), and each is given to every tool with the same data and seed.

    prune: to equal shares of the multiply-accumulates, with the same recovery (`compress_prune.py`)
    quantize: to 8 and 4 bits, with the same samples to calibrate with (`compress_quantize.py`)

    python benchmarks/compress.py [--halves prune,quantize] [--nets resnet18,lstm] [--seeds 0,1,2] [--out FILE.json]

What fails is a row with its `failure`. Rows are kept in --folder, and a benchmark that was killed goes on. Latencies are of files
in onnxruntime at batch 1 on one thread, measured in turns with each other: compare those of one network and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import compress_prune
import compress_quantize
from small_nets import NETS, images, trained
from subjects import Subject

HALVES: dict[str, Callable[[Subject, argparse.Namespace], list[dict[str, Any]]]] = {
    "prune": compress_prune.rows,
    "quantize": compress_quantize.rows,
}
FIGURES = ("accuracy", "drop", "share_4", "ratio", "accuracy_cut", "macs", "params", "bytes", "latency_ms", "seconds")


def rows_of(half: str, name: str, seed: int, asked: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Of one network and seed; read where they were made before with the same arguments."""
    about = {
        each: str(value)
        for each, value in vars(asked).items()
        if each not in ("nets", "seeds", "out", "folder", "halves")
    }
    file = folder / f"{half}-{name}-{seed}.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["about"] == about:
            found: list[dict[str, Any]] = kept["rows"]
            return found
    data = images(asked.data, NETS[name].size, asked.samples, seed)
    net = trained(name, data, seed, folder / "nets", asked.epochs)
    work = folder / "files" / f"{half}-{name}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    rows = [
        {"half": half, "net": name, "seed": seed, **row}
        for row in HALVES[half](Subject(name, net, data, seed, work), asked)
    ]
    file.write_text(json.dumps({"about": about, "rows": rows}, indent=1), encoding="utf-8")
    return rows


def told(row: dict[str, Any]) -> str:
    if row.get("failure"):
        return f"{row['net']:18} seed {row['seed']}  {row['arm']:22} FAILED: {row['failure']}"
    figures = [f"{each} {row[each]:,.4g}" for each in FIGURES if row.get(each) is not None]
    return f"{row['net']:18} seed {row['seed']}  {row['arm']:22} {'  '.join(figures)}"


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over seeds, of each network and arm."""
    found = defaultdict(list)
    for row in rows:
        found[row["half"], row["net"], row["arm"]].append(row)
    told = []
    for (half, net, arm), group in found.items():
        whole = [row for row in group if not row.get("failure")]
        mean: dict[str, Any] = {
            "half": half,
            "net": net,
            "arm": arm,
            "n": len(whole),
            "failures": len(group) - len(whole),
        }
        for each in FIGURES:
            values = [row[each] for row in whole if row.get(each) is not None]
            if values:
                mean[each] = statistics.mean(values)
                mean[f"{each}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        told.append(mean)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--halves", default=",".join(HALVES))
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", default="fashion_mnist", choices=["fashion_mnist", "mnist5k"])
    parser.add_argument("--samples", type=int, default=4000, help="to train with")
    parser.add_argument("--epochs", type=int, default=None, help="of training; default: each network's own")
    parser.add_argument("--folder", type=Path, default=None, help="kept: networks and rows that are there are read")
    parser.add_argument("--out", type=Path, default=None)
    compress_prune.arguments(parser)
    compress_quantize.arguments(parser)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        for half in asked.halves.split(","):
            for name in asked.nets.split(","):
                for seed in (int(each) for each in asked.seeds.split(",")):
                    new = rows_of(half, name, seed, asked, folder)
                    rows += new
                    print("\n".join(map(told, new)), flush=True)
    found = means(rows)
    for mean in found:
        figures = [f"{each} {mean[each]:,.4g}" for each in FIGURES if each in mean]
        print(f"mean  {mean['half']:8} {mean['net']:18} {mean['arm']:22} n {mean['n']}  {'  '.join(figures)}")
    if asked.out:
        asked.out.write_text(json.dumps({"rows": rows, "means": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
