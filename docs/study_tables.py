"""Writes the tables of docs/studies.md from the study's schema: `python docs/study_tables.py`. A test holds them equal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdsearch.study import schema as of
from kdsearch.study.describe import bounds, type_in_words
from kdsearch.study.schema import Section

PAGE = Path(__file__).with_name("studies.md")
SECTIONS: dict[str, type[Section]] = {
    "top": of.Config,
    "data": of.Data,
    "teacher": of.Teacher,
    "student": of.Student,
    "recipe": of.Recipe,
    "recipe.distillers[]": of.DistillerUse,
    "recipe.train": of.Train,
    "recipe.train.schedule": of.Schedule,
    "constraints": of.Constraints,
    "constraints.onnx_bytes": of.Bytes,
    "constraints.latency_ms": of.Latency,
    "search": of.Search,
    "search.probe": of.Probe,
    "refine": of.Refine,
    "distill": of.Distill,
    "distill.compare": of.Compare,
    "compress": of.Compress,
    "compress.prune": of.Prune,
    "compress.steps[]": of.CompressStep,
    "compress.quantize[]": of.Quantize,
    "export": of.Export,
    "run": of.Run,
}
SEARCHED = "fixed, `search` or a range"
# What the schema leaves to this page.
MEANING = {
    "top.format": "version of this file's format",
    "top.seed": "of everything random",
    "top.data": "what is learned from: see `data`",
    "top.teacher": "one teacher, called `main`: see `teacher`",
    "top.teachers": "several, by name, instead of `teacher`",
    "top.student": "one student: see `student`",
    "top.students": "several by role, for procedures that train more than one",
    "top.recipe": "how it is taught: see `recipe`",
    "top.constraints": "what must fit: see `constraints`",
    "top.search": "architectures without training: see `search`",
    "top.refine": "short trainings: see `refine`",
    "top.distill": "full-length trainings: see `distill`",
    "top.compress": "pruning and quantising: see `compress`",
    "top.export": "files: see `export`",
    "top.run": "where and how; changes no result, except for device, precision and threads: see `run`",
    "recipe.procedure": "a list of training phases; `distill` = one phase of task loss and distillers",
    "recipe.distillers": "see `recipe.distillers[]`",
    "recipe.train": "see `recipe.train`",
    "recipe.train.momentum": "of sgd, as Nesterov has it",
    "recipe.train.schedule": "of the learning rate: a kind, or see `recipe.train.schedule`",
    "constraints.onnx_bytes.max": "bytes of all its graphs",
    "constraints.latency_ms.threads": "threads of the runtime",
    "search.strategy": "a controller: which candidates to score",
    "search.probe": "see `search.probe`",
    "search.probe.batch_size": "samples that the proxies see",
    "refine.controller": "proposes architecture and recipe together",
    "refine.trials": "short trainings in all",
    "refine.epochs": "of each",
    "refine.stopper": "ends trainings that fall behind",
    "distill.winners": "how many of the best trials are trained at full length; the best of them ships",
    "distill.epochs": "full length",
    "distill.controls": "the same student, equal steps: `baseline` on the given labels alone, `all_labels` on every label; "
    "`no_search`: see below",
    "distill.compare": "other students, distilled alike: see `distill.compare`",
    "distill.compare.largest": "the largest feasible candidate",
    "distill.compare.random": "so many random feasible ones",
    "distill.compare.epochs": "of each, and of the winner beside them",
    "compress.quantize": "a format each: `{use: int8}` makes `onnx-int8` possible",
    "compress.prune.recover_epochs": "of training after the cut, by the winner's recipe",
    "export.exporter": "writes and opens files: `onnx`, or that of [another runtime](export.md#other-runtimes)",
    "export.formats": "the exporter and `fp32`, or the exporter and a quantizer of its files: `onnx-int8`, `openvino-nncf_int8`",
    "run.workers": "trainings at once",
    "run.threads_per_trial": "CPU threads of each",
    "run.device": "auto = a GPU where there is one",
    "run.precision": "of training; files are fp32, int8 or int4",
}


def table(path: str, cls: type[Section]) -> str:
    """Every key of a section: what may stand there, its default, what it means."""
    schema = cls.model_json_schema()
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, info in cls.model_fields.items():
        own = schema["properties"][name]
        meaning = info.description or MEANING[f"{path}.{name}"]
        lines.append(f"| `{name}` | {_value(info, own, schema)} | {_default(info)} | {meaning} |")
    return "\n".join(lines)


def _value(info: Any, own: dict[str, Any], schema: dict[str, Any]) -> str:
    if info.annotation is Any:
        return SEARCHED
    words, limits = type_in_words(own, schema.get("$defs", {})).replace(" | ", ", "), bounds(own)
    words = words.removesuffix(", none")  # the default says so
    return words + (f" {limits}" if limits and "like" not in limits else "")


def _default(info: Any) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, of.Use):
        return f"`{{use: {value.use}}}`"
    if isinstance(value, Section):
        return "its defaults"
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def page(text: str) -> str:
    """The page with every table as the schema has it now."""

    def filled(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n{table(found[1], SECTIONS[found[1]])}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", filled, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
