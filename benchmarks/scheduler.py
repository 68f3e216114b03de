"""How much faster is `refine` with several workers? JSON: seconds, speed-up over one worker and idle share of each; equal results.

Trials of equal length (one architecture, no stopper; a first short run says how many epochs take so long) on digits. The results
of all numbers of workers are compared, losses bit by bit. A worker has one thread: give the machine as many quiet cores as workers.
Numbers of workers take turns for several rounds, since a virtual machine's cores are not equally fast at all times; the speed-up is
of each number's fastest round, and the seconds of all rounds are there.

    python benchmarks/scheduler.py [--trials 16] [--seconds 10] [--workers 1,2] [--rounds 2] [--equal 4]

`--equal` runs further numbers of workers for the comparison alone, with trials of one epoch, beside the others anew.
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
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 16, 32]}}
recipe: {distillers: [{use: kd, weight: search, options: {temperature: search}}], train: {lr: search, batch_size: 64}}
search: {proxy: params, candidates: 1}
refine: {stopper: {use: none}}
run: {device: cpu}
"""
FIRST = 4  # epochs of the short run


def refined(folder: Path, trials: int, epochs: int, workers: int) -> tuple[dict[str, Any], Any]:
    """The event that says how busy the workers were, and the trials."""
    host = Host.load()
    study = make_study(parse(TEXT.encode()), host, sets=(f"refine.trials={trials}", f"refine.epochs={epochs}"))
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
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--equal", default="4", help="further numbers of workers, for the comparison of results")
    asked = parser.parse_args()
    timed = [int(each) for each in asked.workers.split(",")]
    further = [int(each) for each in asked.equal.split(",") if each]
    with tempfile.TemporaryDirectory(prefix="kdsearch-benchmark-") as root:
        first, _ = refined(Path(root) / "first", 1, FIRST, 1)
        epochs = max(round(asked.seconds * FIRST / first["busy_s"]), 1)
        taken: dict[int, list[dict[str, Any]]] = {workers: [] for workers in timed}
        found = []
        for nth, workers in ((nth, workers) for nth in range(asked.rounds) for workers in timed):
            event, trials = refined(Path(root) / f"of-{workers}-{nth}", asked.trials, epochs, workers)
            found.append(trials)
            row = {"workers": workers, "seconds": event["seconds"], "idle": event["idle"]}
            taken[workers].append({**row, "seconds_a_trial": round(event["busy_s"] / asked.trials, 2)})
            print(json.dumps(taken[workers][-1]), file=sys.stderr, flush=True)
        short = [refined(Path(root) / f"short-{each}", asked.trials, 1, each)[1] for each in [*timed, *further]]
    rows = []
    for each in taken.values():
        every = {"of_rounds": [row["seconds"] for row in each]}
        rows.append({**min(each, key=lambda row: row["seconds"]), **every})
    for row in rows:
        row["speed_up"] = round(rows[0]["seconds"] / row["seconds"], 3)
    equal = all(each == found[0] for each in found) and all(each == short[0] for each in short)
    answer = {"trials": asked.trials, "epochs": epochs, "rows": rows, "equal": equal, "compared": [*timed, *further]}
    print(json.dumps(answer, indent=2))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
