"""What lies beside the exported files: a card each, and `predict.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.kinds import Carries
from kdsearch.report.card import card
from kdsearch.report.page import jsonable
from kdsearch.report.predict import predict_text, prepared_text
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import write_bytes, write_json
from kdsearch.store.hashing import file_digest
from kdsearch.training.materials import Materials

PREDICT = "predict.py"  # beside the files
# of a card: what is measured of all files of a product, which answer together
TOGETHER = (
    "metrics",
    "latency_ms",
    "latency_tuned_ms",
    "slower_than_fp32",
    "peak_bytes",
    "weight_share",
    "quantization",
)


def write_cards(materials: Materials, inputs: Mapping[str, Artifact], result: Mapping[str, Any], folder: Path) -> None:
    """`<name>.json` in `folder` for each exported file."""
    folder.mkdir()
    facts = inputs["prepare"].facts["data"]["facts"]
    about = {
        "preprocessing": facts.get("preprocessing", {}),
        "labels": places(facts) or [],
        "licence": facts.get("licence"),
        "study_hash": inputs["compress"].key,
        "artifacts": {name: artifact.key for name, artifact in inputs.items()},
    }
    for row in result["exports"]:
        for graph in row["graphs"]:
            name = Path(graph["path"]).name
            facts_of = {
                **about,
                "inputs": graph["inputs"],
                "outputs": graph["outputs"],
                "usage": graph.get("usage"),
                "exporter": graph.get("exporter"),
                "companions": [
                    about_part(inputs["export"].path / Path(each).name) for each in graph.get("companions", ())
                ],
                "inside": graph.get("inside"),
                "check": graph.get("check"),
                "sha256": file_digest(inputs["export"].path / name),
                "product": {
                    "graph": graph["name"],
                    "graphs": {each["name"]: Path(each["path"]).name for each in row["graphs"]},
                    "files": [Path(path).name for path in row["files"]],
                    "facts": row["facts"],
                    **({"together": list(TOGETHER)} if len(row["graphs"]) > 1 else {}),
                },
            }
            own = {name: graph.get(name, row[name]) for name in ("bytes", "path", "parity", "parity_max_abs")}
            write_json(
                folder / card_name(name),
                card(result, {**row, **own}, facts_of),
            )


def about_part(file: Path) -> dict[str, Any]:
    """What a card keeps of a companion: its name, size and digest."""
    return {"file": file.name, "size_bytes": file.stat().st_size, "sha256": file_digest(file)}


def texts(about: Mapping[str, Any]) -> dict[str, str]:
    """What is known of it as a file keeps it: JSON where it is more than a word."""
    return {
        name: value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
        for name, value in about.items()
        if value
    }


def places(facts: Mapping[str, Any]) -> Any:
    """What the places of an answer stand for: classes, labels or the numbers' columns; None where the data do not say."""
    return next((facts[name] for name in ("classes", "labels", "targets") if facts.get(name)), None)


def write_predict(materials: Materials, result: Mapping[str, Any], folder: Path) -> None:
    """`predict.py` where a file is one network from one image to one vector of classes, and knows how images are prepared.

    And where it is one network whose data carry a `prepare.py` and whose answers have a size.
    """
    facts = materials.data.facts
    told = facts.get("preprocessing") or {}
    is_plain = bool(facts.get("classes")) and bool(told.get("mean")) and bool(told.get("std"))
    single = [row["graphs"][0] for row in result["exports"] if len(row["graphs"]) == 1]
    kinds = {tuple(each["kind"] for side in ("inputs", "outputs") for each in graph[side]) for graph in single}
    pictures = {("image", "logits"), ("pixels", "logits"), ("pixels", "class"), ("image", "class")}
    one_each = {"logits": 1, "class": 0}  # axes of an answer that is one class
    is_one = all(len(each["shape"]) == one_each.get(each["kind"]) for graph in single for each in graph["outputs"])
    if not single or len(single) < len(result["exports"]) or any("role" in row for row in result["exports"]):
        return
    if any("usage" in graph for graph in single):  # no file that onnxruntime runs
        return
    model = Path((result["recommended"] or result["exports"][0])["path"]).name
    source = materials.data.source
    carried = source.files() if isinstance(source, Carries) else {}
    has_size = all(None not in each["shape"] for graph in single for each in graph["outputs"])
    if is_plain and len(kinds) == 1 and kinds <= pictures and is_one:
        write_bytes(folder / PREDICT, predict_text(model).encode())
    elif b"def inputs(" in carried.get("prepare.py", b"") and has_size:
        beside = {name: f"{materials.study.config.name}-{name}" for name in carried}
        write_bytes(folder / PREDICT, prepared_text(model, beside).encode())


def card_name(file: str) -> str:
    """Of the card that lies beside an exported file."""
    return str(Path(file).with_suffix(".json"))
