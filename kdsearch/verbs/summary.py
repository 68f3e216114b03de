"""A study's result in a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SAID = ("Data:", "Teacher", "Made by", "Plugin", "export.", "export/")  # how notes begin that no other line holds


def speed(row: Mapping[str, Any]) -> str:
    """The median in a plain session, and what the card's session options make of it."""
    text = f"{row['latency_ms']['median']:.3f} ms"
    return text + (f" ({row['latency_tuned_ms']['median']:.3f} ms tuned)" if row["latency_tuned_ms"] else "")


def _recipe(row: Mapping[str, Any]) -> str:
    """What a data recipe made, and what it cost."""
    spent = "".join(f", {cost['calls']:,} calls of {name}" for name, cost in row["cost"].items())
    return f"recipe      {row['use']}: {row['kept']:,} of {row['records']:,} records kept{spent}"


def summary_of(result: Mapping[str, Any], folder: Path) -> str:
    """The result in a few lines for people."""
    from kdsearch.report.summary import controls
    from kdsearch.report.words import architecture
    from kdsearch.stages.quality import file_label, shown

    width = max([11, *(len(file_label(row)) for row in result["exports"])])

    def line(name: str, row: Mapping[str, Any], rest: str) -> str:
        return f"{name:{width}} {shown(row['quality']):>8}  {rest}"

    student, teacher = result["student"], result["teacher"]
    quality = student["quality"]
    better = "higher" if quality["direction"] == "max" else "lower"
    lines = [f"WARNING  {text}" for text in result["warnings"]]
    lines += (
        []
        if quality["metric"] == "accuracy"
        else [f"objective   {quality['title'] or quality['metric']}, {better} is better"]
    )
    lines += [_recipe(each) for each in result["data"]["recipes"]]
    for name, each in ((teacher or {}).get("all") or {"": teacher}).items():
        if each and (each["quality"] or each["params"]):
            lines.append(line(f"teacher {name}", each, f"{each['params']:>10,} params" if each["params"] else ""))
    for name, each in student.get("roles", {"student": student}).items():
        lines.append(line(name, each, f"{each['params']:>10,} params  {architecture(each['architecture'])}"))
    labels = {"baseline": "no teacher", "all_labels": "all labels", "no_search": "no search"}
    for key, row in controls(result).items():
        said = "the same student, equal steps"
        if key == "no_search":
            said = f"{row['params']:>10,} params  the largest feasible candidate, plain recipe, {row['epochs']} epochs"
        lines.append(line(labels[key], row, said))
    pruned = result["pruned"] or {}
    for name, each in pruned.get("roles", {"": pruned} if pruned else {}).items():
        lines.append(line(f"{name} pruned".strip(), each, f"{each['params']:>10,} params"))
    for row in result["exports"]:
        said = "  slower than fp32 here" if row["slower_than_fp32"] else ""
        whose = "the limit, all students together" if row.get("role") else "its limit"
        said += "".join(f"  {name} {over:+.1%} above {whose}" for name, over in row["over"].items())
        lines.append(line(file_label(row), row, f"{row['bytes']:>10,} bytes   {speed(row)}{said}"))
    lines += [f"note        {text}" for text in result["notes"] if text.startswith(SAID)]
    if chosen := result["recommended"]:
        lines += [
            f"recommended {file_label(each)}: {each['why']}" for each in chosen.get("roles", {"": chosen}).values()
        ]
    lines.append(f"report      {folder / result['report']}")
    return "\n".join(lines)
