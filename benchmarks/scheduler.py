"""How much faster is `refine` with several workers? JSON: seconds, speed-up over the first and idle share of each; equal results.

Trials of equal length (one architecture, no stopper) on digits; with `--unequal` networks whose largest has 30 times the MACs of
the smallest, stopped as a study does by default. A first short run says how many epochs take so long. The results of all executors
and numbers of workers are compared, losses bit by bit. A worker has one thread: give the machine as many quiet cores as workers.
They take turns for several rounds, since a virtual machine's cores are not equally fast at all times; the speed-up is of the
fastest round of each, over the first, and all rounds are there. The start of a Ray cluster counts as idle time.

    python benchmarks/scheduler.py [--trials 16] [--seconds 10] [--unequal] [--executors processes] [--workers 1,2] [--rounds 2]

`--equal` runs further numbers of workers (4) for the comparison alone, with trials of one epoch, beside the others anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdsearch.host import Host
from kdsearch.stages.run import run_stages
from kdsearch.store.files import read_json, read_lines, write_bytes
from kdsearch.store.folder import STUDY, Events, open_folder
from kdsearch.study.load import parse
from kdsearch.study.reading import make_study
from kdsearch.training.job import open_store
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Progress, Tools

TEXT = """\
name: scheduler
data: {use: digits, options: {resize: 16}}
teacher:
  use: trained
  options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 8, 8]}, epochs: 1, batch_size: 128}
recipe: {distillers: [{use: kd, weight: search, options: {temperature: search}}], train: {lr: search, batch_size: 64}}
run: {device: cpu}
"""
EQUAL = """\
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 16, 32]}}
search: {proxy: params, candidates: 1}
refine: {stopper: {use: none}}
"""
UNEQUAL = """\
student: {space: cifar_resnet, spec: {depths: {choices: [1, 2]}, widths: {choices: [8, 16, 32]}}}
"""
FIRST = 4  # epochs of the short run


def refined(
    folder: Path, text: str, trials: int, epochs: int, workers: int, executor: str
) -> tuple[dict[str, Any], Any]:
    """The event that says how busy the workers were, and the trials."""
    host = Host.load()
    sets = (f"refine.trials={trials}", f"refine.epochs={epochs}", f"run.executor={{use: {executor}}}")
    study = make_study(parse(text.encode()), host, sets=sets)
    materials = open_materials(study, host)
    open_folder(folder)
    write_bytes(folder / STUDY, study.resolved_yaml().encode())
    events = Events(folder / "events.jsonl")
    tools = Tools(open_store(study, folder), events, folder, Progress(False), workers=workers)
    made = run_stages(materials, tools, until="refine")
    (event,) = [each for each in read_lines(folder / "events.jsonl") if each["event"] == "workers"]
    return event, read_json(made["refine"].path / "trials.json")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a trial")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--executors", default="processes", help="of processes and ray")
    parser.add_argument("--unequal", action="store_true", help="trials of unequal cost")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--equal", default="4", help="further numbers of workers, for the comparison of results")
    asked = parser.parse_args()
    timed = [int(each) for each in asked.workers.split(",")]
    executors = asked.executors.split(",")
    ways = [(executor, workers) for executor in executors for workers in timed]
    further = [(executor, int(each)) for executor in executors for each in asked.equal.split(",") if each]
    text = TEXT + (UNEQUAL if asked.unequal else EQUAL)
    with tempfile.TemporaryDirectory(prefix="kdsearch-benchmark-") as root:

        def run(name: str, epochs: int, executor: str, workers: int, trials: int = asked.trials) -> Any:
            return refined(Path(root) / name, text, trials, epochs, workers, executor)

        several = asked.trials if asked.unequal else 1
        first, _ = run("first", FIRST, executors[0], 1, several)
        epochs = max(round(asked.seconds * FIRST * several / first["busy_s"]), 1)
        taken: dict[tuple[str, int], list[dict[str, Any]]] = {way: [] for way in ways}
        found = []
        for nth, way in ((nth, way) for nth in range(asked.rounds) for way in ways):
            executor, workers = way
            event, trials = run(f"{executor}-{workers}-{nth}", epochs, *way)
            found.append(trials)
            row = {"executor": executor, "workers": workers, "seconds": event["seconds"], "idle": event["idle"]}
            taken[way].append({**row, "seconds_a_trial": round(event["busy_s"] / asked.trials, 2)})
            print(json.dumps(taken[way][-1]), file=sys.stderr, flush=True)
        short = [run(f"short-{executor}-{each}", 1, executor, each)[1] for executor, each in [*ways, *further]]
    rows = []
    for each in taken.values():
        every = {"of_rounds": [row["seconds"] for row in each], "idle_of_rounds": [row["idle"] for row in each]}
        rows.append({**min(each, key=lambda row: row["seconds"]), **every})
    for row in rows:
        row["speed_up"] = round(rows[0]["seconds"] / row["seconds"], 3)
    equal = all(each == found[0] for each in found) and all(each == short[0] for each in short)
    compared = [f"{executor} {each}" for executor, each in [*ways, *further]]
    answer = {"trials": asked.trials, "epochs": epochs, "rows": rows, "equal": equal, "compared": compared}
    print(json.dumps(answer, indent=2))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
