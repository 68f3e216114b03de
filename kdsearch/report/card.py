"""The model card that lies beside each exported file: what it is, how good, how to run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from kdsearch.report.page import jsonable
from kdsearch.report.quality import quality_of
from kdsearch.report.stats import wilson
from kdsearch.report.summary import is_recommended, label_of, student_of
from kdsearch.report.values import items, mapping, number, plain, rows

FORMAT = 1
KIND = "kdsearch-model-card"
DTYPES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
)


def measured(value: object, n: object) -> dict[str, Any] | None:
    """A proportion with its 95 % score interval (Wilson) where the number of samples is known; None if not measured."""
    share, samples = number(value), number(n)
    if share is None:
        return None
    if samples is None or samples < 1 or not 0 <= share <= 1:
        return {"value": share, "n": None, "interval_95": None}
    return {"value": share, "n": int(samples), "interval_95": [round(end, 6) for end in wilson(share, int(samples))]}


def judged(row: object) -> dict[str, Any] | None:
    """A network's or file's `quality`, and its `accuracy` with an interval where that is what it is; None = there is none."""
    given = mapping(row)
    quality = quality_of(given)
    if not given:
        return None
    accuracy = {"accuracy": measured(quality.value, quality.n)} if quality.metric == "accuracy" else {}
    return {"quality": given.get("quality"), **accuracy}


def field(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An input or output: the shape with the batch in front, "any" for a dynamic size; other facts as they are."""
    shape = ["batch", *(size if isinstance(size, int) else "any" for size in items(raw.get("shape")))]
    known = {"name": plain(raw.get("name")), "shape": shape, "dtype": plain(raw.get("dtype") or "float32")}
    return {**known, **{plain(key): value for key, value in raw.items() if key not in ("name", "shape", "dtype")}}


def example(
    file: str,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    options: Mapping[str, str] | None = None,
    why: str = "",
) -> list[str]:
    """Lines of Python that run the file on one sample of zeros, from the folder it lies in, with its session options."""
    feeds = []
    for each in inputs:
        shape = (1, *(size if isinstance(size, int) else 1 for size in each["shape"][1:]))
        dtype = each["dtype"] if each["dtype"] in DTYPES else "float32"
        feeds.append(f"{json.dumps(each['name'])}: np.zeros({shape}, dtype={dtype!r})")
    reads_pixels = any(each.get("kind") == "pixels" for each in inputs)
    sample = "an image, 0..255, which the file prepares" if reads_pixels else "a prepared sample"
    names = json.dumps([each["name"] for each in outputs]) if outputs else "None"
    settings = ["options = ort.SessionOptions()"] if options else []
    for name, value in (options or {}).items():
        settings.append(f"options.add_session_config_entry({json.dumps(name)}, {json.dumps(value)}){why}")
    given = ", options" if options else ""
    return [
        "import os",
        "os.environ['ORT_DISABLE_TELEMETRY'] = '1'  # onnxruntime would report to its maker",
        "import numpy as np",
        "import onnxruntime as ort",
        *settings,
        f"session = ort.InferenceSession({json.dumps(file)}{given}, providers=['CPUExecutionProvider'])",
        f"feeds = {{{', '.join(feeds)}}}  # replace the zeros by {sample}",
        f"outputs = session.run({names}, feeds)",
    ]


def card(result: Mapping[str, Any], export: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The card of one export, ready for JSON.

    Args:
        result: the final JSON of a run.
        export: one of its `exports`.
        facts: `inputs`, `outputs` of this graph (name, shape without B, dtype, kind, ...), `product` (the files that go together),
            `preprocessing`, `labels`, `sha256`, `licence`, `study_hash` (of what the network was made from), `usage` (lines that
            run what is no ONNX file) and `exporter` (who opens it), `companions` (what is a part of it), `inside` (what the file
            does before and after its network), `check` (see deploy/probe.py); further keys go into `facts` as they are.
    """
    role, teacher = export.get("role"), mapping(result.get("teacher"))
    network = student_of(result, role)
    metrics = mapping(result.get("metrics"))
    file = PurePosixPath(str(export.get("path") or "model.onnx")).name
    inputs, outputs = ([field(each) for each in rows(facts.get(side))] for side in ("inputs", "outputs"))
    usage = facts.get("usage")
    own = {
        "inputs",
        "outputs",
        "preprocessing",
        "labels",
        "sha256",
        "licence",
        "study_hash",
        "usage",
        "exporter",
        "companions",
        "inside",
        "check",
    }
    made_from = {"study_hash": facts["study_hash"]} if facts.get("study_hash") else {}
    options = {plain(key): plain(value) for key, value in mapping(export.get("session_options")).items()}
    plainly, tuned = (number(mapping(export.get(key)).get("median")) for key in ("latency_ms", "latency_tuned_ms"))
    why = f"  # {tuned:.3g} ms a sample instead of {plainly:.3g}" if plainly is not None and tuned is not None else ""
    made = {
        "format": FORMAT,
        "kind": KIND,
        "name": f"{plain(result.get('study'))} {label_of(export)}",
        "file": file,
        "sha256": facts.get("sha256"),
        **({"companions": facts["companions"]} if facts.get("companions") else {}),
        "export": export.get("format"),
        **({"exporter": facts["exporter"]} if facts.get("exporter") else {}),
        **({"role": role} if role else {}),
        "recommended": is_recommended(result, export),
        "licence": facts.get("licence"),
        "model": {
            **{key: network.get(key) for key in ("architecture", "params", "macs")},
            "recipe": mapping(result.get("student")).get("recipe"),
        },
        "teacher": {key: teacher.get(key) for key in ("architecture", "params", "macs", "quality")},
        "metrics": {
            "split": "test",
            **(judged(export) or {}),
            "top1_agreement_with_torch": measured(export.get("top1_agreement"), export.get("agreement_n")),
            "student_in_torch": {
                **{plain(key): value for key, value in (mapping(metrics.get(str(role))) or metrics).items()},
                **(judged(network) or {}),
            },
            "same_network_without_teacher": judged(result.get("baseline")),
        },
        "parity": {
            "max_abs_difference_to_torch": export.get("parity_max_abs"),
            **mapping(export.get("parity")),
        },
        "bounds": export.get("bounds"),
        "latency_ms": export.get("latency_ms"),
        "latency_tuned_ms": export.get("latency_tuned_ms"),
        "session_options": options,
        "slower_than_fp32": export.get("slower_than_fp32"),
        "costs_at": mapping(result.get("costs_at")),
        "size_bytes": export.get("bytes"),
        "peak_bytes": export.get("peak_bytes"),
        "weight_share": export.get("weight_share"),
        "quantization": [plain(line) for line in items(export.get("quantization"))],
        "use": {
            "inputs": inputs,
            "outputs": outputs,
            "preprocessing": facts.get("preprocessing"),
            "labels": facts.get("labels"),
            **({"inside": facts["inside"]} if facts.get("inside") else {}),
            "run": example(file, inputs, outputs, options, why)
            if usage is None
            else [plain(line) for line in items(usage)],
        },
        "check": facts.get("check"),
        "facts": {key: value for key, value in facts.items() if key not in own},
        "data": result.get("data"),
        "warnings": items(result.get("warnings")),
        "notes": items(result.get("notes")),
        "provenance": {
            "study": result.get("study"),
            **made_from,
            "seed": result.get("seed"),
            **mapping(result.get("provenance")),
        },
    }
    clean = jsonable(made)
    assert isinstance(clean, dict)
    return clean
