"""The README's table of other tasks: the studies of `examples/` that are not of images, as they stand, over seeds.

    python benchmarks/tasks.py [--studies tabular,nodes] [--seeds 0,1,2] [--workers 2] [--dir runs] > tasks.json

JSON on stdout: a row a study and seed (quality of teacher, student, student without a teacher, INT8 file and, where the study
trains it, student with every label and no teacher, on the test split, as its objective measures it), and mean and standard
deviation of each; the table's lines on stderr. With `--dir` the folders are kept, and the same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quickstart import spread

from kdsearch.errors import RefusedError
from kdsearch.verbs import commands

EXAMPLES = Path(__file__).parents[1] / "examples"
STUDIES = (
    *("segmentation", "tabular", "multilabel", "nodes", "regression"),
    *("text_classification", "text_pair", "seq2seq", "embedding", "causal_lm"),
)
COLUMNS = ("teacher", "student", "no teacher", "INT8", "all labels")


def row(study: str, seed: int, folder: Path, workers: int) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        result = commands.run(
            file=EXAMPLES / f"{study}.yaml", dir=folder, seed=seed, workers=workers, sets=(), progress=False
        )
    except RefusedError as error:
        if not hasattr(error, "result"):  # nothing fits: there is no row
            raise
        result = error.result
    int8 = next((each for each in result["exports"] if each["format"].startswith("onnx-int8")), None)
    found = (result["teacher"], result["student"], result["baseline"], int8, result["all_labels"])
    qualities = [each and each["quality"] for each in found]
    return {
        "study": study,
        "seed": seed,
        "metric": qualities[1]["metric"],
        **{name: quality and quality["value"] for name, quality in zip(COLUMNS, qualities, strict=True)},
        "params": result["student"]["params"],
        "int8_facts": int8 and int8["facts"],
        "refused": [each["format"] for each in result["refused"]],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", default=",".join(STUDIES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path)
    asked = parser.parse_args()
    rows, summary = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for study in asked.studies.split(","):
            own = []
            for seed in asked.seeds.split(","):
                folder = (asked.dir or Path(scratch)) / f"{study}-{seed}"
                own.append(row(study, int(seed), folder, asked.workers))
                print(json.dumps(own[-1]), file=sys.stderr, flush=True)
            known = {name: [each[name] for each in own if each[name] is not None] for name in COLUMNS}
            summary[study] = {name: spread(values) for name, values in known.items() if values}
            cells = (f"{each['mean']:.4g} +- {each['std']:.2g}" for each in summary[study].values())
            print(f"| `{study}` | {own[0]['metric']} | {' | '.join(cells)} |", file=sys.stderr, flush=True)
            rows += own
    print(json.dumps({"rows": rows, "summary": summary}, indent=1))


if __name__ == "__main__":
    main()
