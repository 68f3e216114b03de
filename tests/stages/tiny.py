"""A whole study of a few seconds, and what two runs of it must have in common."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kdsearch.hooks import hookimpl
from kdsearch.host import Host
from kdsearch.stages.run import run_stages
from kdsearch.store.files import read_json, read_lines
from kdsearch.study import load_study
from kdsearch.verbs.run import at_work, run_study

TEXT = """\
name: tiny
seed: 3
data: {use: digits, options: {resize: 8}, labeled: 0.2, train_samples: 240, validation: 0.12, test: 0.1}
teacher:
  use: trained
  options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 8, 16]}, epochs: 2, batch_size: 128}
student:
  space: cifar_resnet
  spec: {depths: {choices: [1, 2]}, widths: {choices: [4, 8]}}
recipe:
  distillers:
    - {use: kd, weight: search, options: {temperature: search}}
  train: {lr: search}
objectives: {accuracy: max}
constraints: {params: 20000, macs: 2000000}
search: {proxy: [nwot, params], candidates: 12, keep: 4, probe: {batch_size: 8}}
refine: {trials: 3, epochs: 2, generation: 2}
distill: {epochs: 2, controls: [baseline, all_labels], compare: {largest: true, random: 1, epochs: 1}}
compress:
  prune: {use: channels, options: {macs: 0.8}, recover_epochs: 1}
  quantize: [{use: int8, options: {samples: 32}}, {use: int4, options: {block: 16}}]
export:
  exporter: {use: onnx, options: {engine: torchscript}}  # a tenth of dynamo's time, whose studies are in tests/outside
  formats: [onnx-fp32, onnx-int8, onnx-int4]
  max_drop: {onnx-int8: 1.0, onnx-int4: 1.0}
run: {device: cpu, executor: {use: inprocess}}
"""
LESS = (
    "distill.controls=[]",
    "distill.compare=null",
    "compress.prune=null",
    "compress.quantize=[]",
    "export.max_drop={}",
    "refine.weightings=false",
    "export.formats=[onnx-fp32]",
    "refine.trials=2",
    "refine.stopper={use: none}",
    "search.candidates=4",
    "search.keep=2",
    "search.proxy=params",
)  # a study without what most tests do not look at
STAGES = ("prepare", "search", "refine", "distill", "compress", "export", "report")


def write_study(folder: Path, text: str = TEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def run_tiny(
    folder: Path,
    *sets: str,
    seed: int | None = None,
    workers: int = 1,
    host: Host | None = None,
    checkpoint_s: float = 30.0,
    text: str = TEXT,
) -> dict[str, Any]:
    """Run the study in `folder`/study; the final JSON. With one worker in this process, unless `sets` say otherwise."""
    sets = ("run.executor={use: processes}", *sets) if workers > 1 else sets
    host = host or Host.load()
    study = load_study(write_study(folder, text), host, sets=sets, seed=seed)
    return run_study(study, host, folder / "study", workers=workers, progress=False, checkpoint_s=checkpoint_s)


def run_up_to(folder: Path, stage: str, *sets: str, host: Host | None = None, progress: bool = False) -> None:
    """The study in `folder`/study as far as a stage, in this process: what comes after it takes half of the time."""
    host = host or Host.load()
    study = load_study(write_study(folder), host, sets=sets)
    with at_work(study, host, folder / "study", progress=progress) as (materials, tools):
        run_stages(materials, tools, stage)


def settled(result: Mapping[str, Any]) -> dict[str, Any]:
    """What must repeat: all but the folder, the seconds, the latencies, and what is said because of a latency."""
    kept = copy.deepcopy(dict(result))
    del kept["dir"], kept["seconds"], kept["recommended"]
    for row in kept["exports"]:
        for name in ("latency_ms", "latency_tuned_ms", "session_options", "slower_than_fp32"):
            del row[name]
        row["quantization"] = [re.sub(r"[\d.e-]+ ms", "", each) for each in row["quantization"]]
    for teacher in [kept["teacher"], *(kept["teacher"] or {}).get("all", {}).values()]:
        if teacher:
            del teacher["latency_ms"]
    plugins = kept["provenance"]["plugins"]
    kept["provenance"]["plugins"] = {name: each for name, each in plugins.items() if not name.startswith("live:")}
    kept["notes"] = [note for note in kept["notes"] if " ms " not in note]
    return json.loads(json.dumps(kept))


class Watch:
    """A plugin that calls `do` with each event."""

    def __init__(self, do: Callable[[Mapping[str, Any]], None]) -> None:
        self.do = do

    @hookimpl
    def kdsearch_event(self, event: Mapping[str, Any]) -> None:
        self.do(event)


def watching(do: Callable[[Mapping[str, Any]], None]) -> Host:
    """What is installed, with a `Watch`."""
    return Host.load(extra=[("watch", Watch(do))])


def is_stage(event: Mapping[str, Any], name: str, state: str = "begun") -> bool:
    return event["event"] == "stage" and event["stage"] == name and event["state"] == state


def is_at_work(event: Mapping[str, Any], name: str) -> bool:
    """The stage has begun; in `refine`, which begins no trial where it was stopped before, its first trial is told."""
    return event["event"] == "trial" if name == "refine" else is_stage(event, name)


def events(folder: Path, name: str = "") -> list[dict[str, Any]]:
    """The events of `folder`/study, of one kind if named."""
    return [each for each in read_lines(folder / "study" / "events.jsonl") if name in ("", each["event"])]


def made(folder: Path, after: int = 0) -> list[str]:
    """Stages that were begun since so many events, in order."""
    rows: Iterable[dict[str, Any]] = events(folder)[after:]
    return [each["stage"] for each in rows if each["event"] == "stage" and each["state"] == "begun"]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below the folder by relative path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def facts_of(folder: Path) -> dict[str, Any]:
    """Of every artifact of a run in `folder`, by its name; the reports' and exports' hold times, so that they are `None`."""
    found = {}
    for each in (folder / "study" / "artifacts").iterdir():
        facts = read_json(each / "artifact.json")["facts"]
        found[each.name] = None if each.name.startswith(("report", "export")) else facts
    return found
