"""How far the quickstart's student is above the same student without a teacher, and below the one with every label.

    python benchmarks/quickstart.py [--seeds 0,1,2,3,4] [--data digits] > quickstart.json

JSON on stdout: a row a seed, and mean and standard deviation of each accuracy and of the two paired differences.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kdsearch.errors import RefusedError
from kdsearch.verbs import commands


def row(seed: int, data: str) -> dict[str, Any]:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = commands.quickstart(dir=Path(folder) / "study", seed=seed, data=data, progress=False)
        except RefusedError as error:
            result = error.result  # type: ignore[attr-defined]
    files = {each["format"]: each["accuracy"] for each in result["exports"]}
    return {
        "seed": seed,
        "teacher": result["teacher"]["accuracy"],
        "student": result["student"]["accuracy"],
        "params": result["student"]["params"],
        "baseline": result["baseline"]["accuracy"],
        "all_labels": result["all_labels"]["accuracy"],
        **files,
        "refused": [each["format"] for each in result["refused"]],
        "seconds": round(time.perf_counter() - began, 1),
    }


def spread(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 4), "std": round(deviation, 4), "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--data", default="digits")
    asked = parser.parse_args()
    rows = []
    for seed in map(int, asked.seeds.split(",")):
        rows.append(row(seed, asked.data))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    names = ("teacher", "student", "baseline", "all_labels", "onnx-fp32", "onnx-int8", "onnx-int4")
    summary = {name: spread([each[name] for each in rows if each.get(name) is not None]) for name in names}
    summary["student - baseline"] = spread([each["student"] - each["baseline"] for each in rows])
    summary["student - all_labels"] = spread([each["student"] - each["all_labels"] for each in rows])
    print(json.dumps({"data": asked.data, "rows": rows, "summary": summary}, indent=1))


if __name__ == "__main__":
    main()
