"""Latency, throughput and memory of files beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.deploy.bench import Timed, bench
from kdsearch.deploy.latency import machine
from kdsearch.training.tools import Progress


def bench_onnx(
    *,
    files: Sequence[Path],
    batch: int = 1,
    threads: int = 1,
    rounds: int = 15,
    sizes: Mapping[str, Sequence[int]] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """A row a file, in the order given."""
    files = list(dict.fromkeys(files))
    shown = Progress(progress)
    shown.begin("bench", rounds)
    rows = bench(files, batch, threads, rounds, sizes, said=lambda share, what: shown.at(share * rounds, what))
    shown.end(is_done=True)
    about = {"batch": batch, "threads": threads, "rounds": rounds, "machine": machine()}
    return {**about, "rows": [each.as_json() for each in rows], "text": _text(rows, about)}


def _text(rows: Sequence[Timed], about: Mapping[str, Any]) -> str:
    its = about["machine"]
    head = f"{its['cpu']}, onnxruntime {its['onnxruntime']}, batch {about['batch']}, {about['threads']} thread(s)"
    width = max(len(each.file) for each in rows)
    heads = ("bytes", 12), ("min", 9), ("median", 9), ("p95", 9), ("spread", 8), ("samples/s", 10), ("memory MB", 10)
    columns = " ".join([f"{'file':{width}}", *(f"{name:>{size}}" for name, size in heads)])
    lines = [head, columns]
    for each in rows:
        memory = "-" if each.memory_bytes is None else f"{each.memory_bytes / 1e6:.1f}"
        lines.append(
            f"{each.file:{width}} {each.bytes:>12,} {each.min_ms:>9.3f} {each.median_ms:>9.3f} {each.p95_ms:>9.3f} "
            f"{each.spread_ms:>8.3f} {each.samples_per_s:>10.1f} {memory:>10}"
        )
    return "\n".join(lines)
