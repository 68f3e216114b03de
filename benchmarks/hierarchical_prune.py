"""What do the stages of HierarchicalPrune keep of a ViT? Params, bytes and test accuracy of each, a seed a row; JSON with --out.

A timm ViT is trained on Fashion-MNIST, cut to a share of its weights, and recovered: HPP alone (no recovery), + PWP,
+ SGDistill, and the INT4 file of the last. One study a seed: an arm redoes compression and export, and parts are measured once.

    python benchmarks/hierarchical_prune.py [--seeds 0,1,2] [--params 0.7] [--samples 4000] [--epochs 15] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from kdsearch.host import Host
from kdsearch.study import load_study
from kdsearch.verbs.run import run_study

STUDY = """\
name: vit
data: {{use: fashion_mnist, train_samples: {samples}}}
student: {{space: timm, spec: {{family: vit, depth: {depth}, dim: {dim}, heads: 4, grid: 4}}}}
recipe: {{train: {{lr: 0.002, batch_size: 64, schedule: {{kind: cosine, warmup: 0.1}}}}}}
objectives: {{accuracy: max}}
search: {{proxy: params, candidates: 1}}
refine: {{trials: 1, epochs: 1, stopper: none}}
distill: {{epochs: {epochs}, controls: []}}
compress:
  steps:
    - prune:
        use: hierarchical_prune
        options: {{params: {params}, granularity: {granularity}, samples: 500, sgdistill: "off"}}
        recover_epochs: 0
        recover_lr: 0.5
  quantize: [int4]
export:
  exporter: {{use: onnx, options: {{engine: torchscript}}}}
  formats: [onnx-fp32, onnx-int4]
  max_drop: {{onnx-int4: 1.0}}
  min_agreement: {{onnx-int4: 0.0, onnx-fp32: 0.0}}
run: {{device: cpu, executor: inprocess}}
"""
PRUNE = "compress.steps[0].prune"
ARMS = {
    "HPP": (),
    "+PWP": ("{prune}.recover_epochs={recover}",),
    "+SGDistill": (
        "{prune}.recover_epochs={recover}",
        "{prune}.options.sgdistill=inverse",
        "{prune}.options.r_thres=0.2",
    ),
}


def arms(seed: int, asked: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rows of one seed."""
    host, file = Host.load(), folder / "vit.yaml"
    file.write_text(STUDY.format(**vars(asked)), encoding="utf-8")
    rows: list[dict[str, Any]] = []
    for name, sets in ARMS.items():
        given = tuple(each.format(prune=PRUNE, recover=asked.recover) for each in sets)
        study = load_study(file, host, sets=given, seed=seed)
        result = run_study(study, host, folder / f"study-{seed}", workers=1, progress=asked.verbose)
        fp32, int4 = result["exports"]
        if not rows:
            whole = result["student"]
            rows.append(
                {"arm": "intact", "params": whole["params"], "bytes": None, "accuracy": whole["quality"]["value"]}
            )
        accuracy = result["pruned"]["quality"]["value"]
        row = {"arm": name, "params": result["pruned"]["params"], "bytes": fp32["bytes"], "accuracy": accuracy}
        rows.append({**row, "latency_ms": fp32["latency_ms"]["median"], "log": result["pruned"]["log"]})
    rows.append({**rows[-1], "arm": "+INT4", "bytes": int4["bytes"], "accuracy": int4["quality"]["value"], "log": []})
    rows[-1]["latency_ms"] = int4["latency_ms"]["median"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--params", type=float, default=0.7)
    parser.add_argument("--granularity", default="component", choices=["block", "component", "hybrid"])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--recover", type=int, default=5, help="epochs of recovery")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--dim", type=int, default=48)
    parser.add_argument("--folder", type=Path, default=None, help="kept: a benchmark that was killed goes on")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in (int(each) for each in asked.seeds.split(",")):
            found[seed] = arms(seed, asked, folder)
            for row in found[seed]:
                print(
                    f"seed {seed}  {row['arm']:11} {row['params']:>9,} params  {row['bytes'] or 0:>9,} bytes  {row['accuracy']:.4f}"
                )
    for nth, row in enumerate(next(iter(found.values()))):
        values = [rows[nth]["accuracy"] for rows in found.values()]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"mean    {row['arm']:11} {statistics.mean(values):.4f} +- {spread:.4f}, n = {len(values)}")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
