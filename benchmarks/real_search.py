"""Does the search pay on real data? A study against what one has without it, every rival for as many training epochs as the study.

    python benchmarks/real_search.py [--data fashion,tiles,docstrings] [--budgets params,latency] [--labels few,all]
                                     [--seeds 0,1,2] [--dir runs] [--workers 1] [--rows study,largest,single,random,staged]
                                     [--out benchmarks/real/rows.jsonl]

Each row is an ordinary study of `benchmarks/real/`, so that `kdsearch run` repeats it: its command stands in the JSON.

    study    as it stands there: defaults of search, refine and distill
    largest  the largest feasible network, kd with weight 1 and its own temperature, no search
    single   the largest network with one other method of the study's, weight 1: each of them
    random   five networks drawn from the feasible ones, the same recipe, which share the epochs: mean, and the best by validation
    staged   half the trials over networks with that recipe, half over recipes with the network that won

A rival trains for as many epochs as the study's trials, finalists and winner may take together. Few labels: a tenth, those for
selection included; docstrings three tenths. JSON on stdout: a row a data set, budget, labels and seed with accuracies on the test
split after the last epoch; of each setting the means, and the study's paired difference to each rival with its 95 % interval (t of
the seeds). With `--dir` the same command goes on where it was stopped, with `--out` on another machine: rows that the file has are
taken from it, others are added.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from quickstart import spread
from scipy import stats

from kdsearch.errors import RefusedError
from kdsearch.host import Host
from kdsearch.store.files import append_line
from kdsearch.store.hashing import stream
from kdsearch.study.reading import load_study
from kdsearch.study.schema import Refine
from kdsearch.study.summary import budget
from kdsearch.verbs import commands

STUDIES = Path(__file__).parent / "real"
PARAMS = {"fashion": 15_000, "tiles": 15_000, "docstrings": 80_000}
LATENCY_MS = {"fashion": 0.08, "tiles": 0.08, "docstrings": 0.15}
FEW = {"fashion": 0.1, "tiles": 0.1, "docstrings": 0.3}
RANDOM = 5
ROWS = ("study", "largest", "single", "random", "staged")
SINGLES = {"fashion": ("fitnet", "sp"), "tiles": ("fitnet", "sp"), "docstrings": ("dkd", "sp")}
NO_CONTROLS = "distill.controls=[]"


@dataclass(frozen=True)
class Cell:
    """A data set under a budget with few or all labels, and a seed."""

    data: str
    budget: str
    labels: str
    seed: int
    folder: Path
    workers: int

    @property
    def sets(self) -> list[str]:
        limit = f"params={PARAMS[self.data]}" if self.budget == "params" else f"latency_ms={LATENCY_MS[self.data]}"
        few = [f"data.labeled={FEW[self.data]}"] if self.labels == "few" else []
        return [f"constraints.{limit}", *few]

    def run(self, name: str, *sets: str) -> dict[str, Any]:
        """A study of this cell, in a folder of its own, and the command that repeats it."""
        file, folder = STUDIES / f"{self.data}.yaml", self.folder / name
        given = (*self.sets, *sets)
        # One teacher for all rows that have the same one; it changes no result, so that the command does without.
        shared = as_set("run.store", str(self.folder.parent / "store"))
        try:
            result = commands.run(
                file=file, dir=folder, seed=self.seed, workers=self.workers, sets=(*given, shared), progress=False
            )
        except RefusedError as error:
            if not hasattr(error, "result"):
                raise
            result = error.result  # a file of the student's was refused: its accuracy is known all the same
        words = ["kdsearch", "run", f"benchmarks/real/{self.data}.yaml", "--seed", str(self.seed)]
        again = shlex.join([*words, *(word for each in given for word in ("--set", each))])
        return {"result": result, "command": again, "folder": folder}


def accuracy(made: dict[str, Any]) -> float:
    return float(made["result"]["student"]["quality"]["value"])


def facts(made: dict[str, Any], stage: str) -> dict[str, Any]:
    """What a stage of a study says of itself."""
    folder = made["folder"]
    key = json.loads((folder / "last.json").read_text())[stage]["key"]
    found: dict[str, Any] = json.loads((folder / "artifacts" / f"{stage}-{key}" / "artifact.json").read_text())["facts"]
    return found


def as_set(path: str, value: Any) -> str:
    return f"{path}={yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()}"


def fixed(cell: Cell, name: str, spec: Any, distiller: str, epochs: int, *, is_feasible: bool = True) -> dict[str, Any]:
    """One network and one method of weight 1, trained for all epochs; the one trial that a study has is over after an epoch.

    Where it was found feasible before, a latency that another measurement finds above the limit by a hair is no reason to end.
    """
    return cell.run(
        name,
        *(["constraints={}"] if is_feasible else []),
        as_set("student.spec", spec),
        as_set("recipe.distillers", [distiller]),
        as_set("recipe.train", {"batch_size": batch_of(cell)}),
        *("search.candidates=1", "refine.trials=1", "refine.epochs=1"),
        f"distill.epochs={epochs}",
        NO_CONTROLS,
    )


def batch_of(cell: Cell) -> int:
    found: int = yaml.safe_load((STUDIES / f"{cell.data}.yaml").read_text())["recipe"]["train"]["batch_size"]
    return found


def row(cell: Cell, wanted: set[str]) -> dict[str, Any]:
    refine = Refine()
    epochs = budget(load_study(STUDIES / f"{cell.data}.yaml", Host.load()))
    study = cell.run("study", NO_CONTROLS)
    searched = facts(study, "search")["roles"]["student"]
    refined, distilled = facts(study, "refine"), facts(study, "distill")
    dropped = sum(each["epochs"] for each in distilled["rung"][1:])  # the other finalist
    found: dict[str, Any] = {
        "data": cell.data,
        "budget": cell.budget,
        "labels": cell.labels,
        "seed": cell.seed,
        "teacher": study["result"]["teacher"]["quality"]["value"],
        "epochs": epochs,
        "study_epochs": refined["epochs"] + distilled["epochs"] + dropped,
        "study": accuracy(study),
        "architecture": study["result"]["student"]["architecture"],
        "recipe": study["result"]["student"]["recipe"],
        "commands": {"study": study["command"]},
    }
    largest = searched["largest"]["params"]["spec"]

    def add(name: str, made: dict[str, Any]) -> None:
        found[name] = accuracy(made)
        found["commands"][name] = made["command"]

    if "largest" in wanted:
        add("largest", fixed(cell, "largest", largest, "kd", epochs))
    for method in SINGLES[cell.data] if "single" in wanted else ():
        add(method, fixed(cell, method, largest, method, epochs))
    if "random" in wanted:
        made = list(islice(drawn(cell, study, epochs // RANDOM), RANDOM))
        best = max(made, key=lambda each: facts(each, "distill")["runs"]["winner-0"]["score"])
        found |= {"random": [accuracy(each) for each in made], "random_best": accuracy(best)}
        found["commands"]["random"] = [each["command"] for each in made]
    if "staged" in wanted:
        half = f"refine.trials={refine.trials // 2}"
        plain = (as_set("recipe.distillers", ["kd"]), as_set("recipe.train", {"batch_size": batch_of(cell)}))
        first = cell.run("staged-networks", *plain, half, "distill.epochs=1", NO_CONTROLS)
        won = facts(first, "distill")["trial"]
        spec = next(each for each in facts(first, "refine")["ranked"] if each["number"] == won)["specs"]["student"]
        spent = facts(first, "refine")["epochs"]
        left = epochs - spent - (refine.trials // 2) * refine.epochs
        second = (
            "constraints={}",
            "search.candidates=1",
            half,
            "distill.finalists=1",
            f"distill.epochs={left}",
            NO_CONTROLS,
        )
        add("staged", cell.run("staged-recipes", as_set("student.spec", spec), *second))
    return found


def drawn(cell: Cell, study: dict[str, Any], epochs: int) -> Iterator[dict[str, Any]]:
    """Networks of those that the study scored, in an order of the seed's, trained if their files keep the limits, too."""
    import torch

    lines = (study["folder"] / "candidates.jsonl").read_text().splitlines()
    for i in torch.randperm(len(lines), generator=stream(cell.seed, "real_search")).tolist():
        with suppress(RefusedError):
            yield fixed(cell, f"random-{i}", json.loads(lines[i])["spec"], "kd", epochs, is_feasible=False)


def differences(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The study less each rival, paired by seed: mean and half of its 95 % interval."""
    found = {}
    for name in (*ROWS[1:], "random_best", *SINGLES[rows[0]["data"]]):
        if not all(name in each for each in rows):
            continue
        rival = [statistics.mean(each[name]) if isinstance(each[name], list) else each[name] for each in rows]
        gains = [each["study"] - value for each, value in zip(rows, rival, strict=True)]
        half = (
            stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
            if len(gains) > 1
            else math.nan
        )
        found[name] = {**spread(rival), "gain": round(statistics.mean(gains), 4), "half": round(float(half), 4)}
    return found


def known_rows(file: Path | None) -> dict[str, dict[str, Any]]:
    """Data set, budget, labels and seed, joined by dashes -> the row that a file has of them."""
    lines = file.read_text().splitlines() if file and file.exists() else []
    rows = map(json.loads, lines)
    return {"-".join(str(each[key]) for key in ("data", "budget", "labels", "seed")): each for each in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(PARAMS))
    parser.add_argument("--budgets", default="params,latency")
    parser.add_argument("--labels", default="few,all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows, summary, known = [], [], known_rows(asked.out)
    with tempfile.TemporaryDirectory() as scratch:
        root = asked.dir or Path(scratch)
        settings = [
            (data, budget, labels)
            for data in asked.data.split(",")
            for budget in asked.budgets.split(",")
            for labels in asked.labels.split(",")
        ]
        for data, budget, labels in settings:
            own = []
            for seed in map(int, asked.seeds.split(",")):
                name = f"{data}-{budget}-{labels}-{seed}"
                if name not in known:
                    cell = Cell(data, budget, labels, seed, root / name, asked.workers)
                    known[name] = row(cell, set(asked.rows.split(",")))
                    print(json.dumps(known[name]), file=sys.stderr, flush=True)
                    if asked.out:
                        append_line(asked.out, known[name])
                own.append(known[name])
            summary.append(
                {
                    "data": data,
                    "budget": budget,
                    "labels": labels,
                    "study": spread([each["study"] for each in own]),
                    "rivals": differences(own),
                }
            )
            print(json.dumps(summary[-1]), file=sys.stderr, flush=True)
            rows += own
    print(json.dumps({"rows": rows, "summary": summary}, indent=1))


if __name__ == "__main__":
    main()
