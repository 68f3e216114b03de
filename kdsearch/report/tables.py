"""The page's tables: files, constraints, comparison, data, recipe, time, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.report.summary import fp32
from kdsearch.report.values import (
    MISSING,
    count,
    esc,
    flat,
    general,
    items,
    mapping,
    metric,
    milliseconds,
    number,
    percent,
    plain,
    rows,
    scalar,
    seconds,
    si,
    table,
)

Row = Mapping[str, Any]
MANY_CLASSES = 24  # beyond it the counts fold away


def none(text: str) -> str:
    return f'<p class="none">{esc(text)}</p>'


def columns(*blocks: str) -> str:
    """Blocks side by side where there is room."""
    return '<div class="cols">' + "".join(f"<div>{block}</div>" for block in blocks) + "</div>"


def files(result: Row) -> str:
    """Exported files, the recommended one marked, and a plain sentence for each that is slower than fp32."""
    exports = rows(result.get("exports"))
    if not exports:
        return none("No file was exported.")
    best = mapping(result.get("recommended")).get("format")
    head = ["format", "size", "accuracy", "top-1 agreement with torch", "largest difference to torch"]
    head += ["latency, median (ms)", "latency, least (ms)", "file"]
    body = [
        [
            esc(each.get("format"))
            + ("<small>recommended</small>" if best is not None and each.get("format") == best else ""),
            f"{si(each.get('bytes'), 'B')}<small>{count(each.get('bytes'))} bytes</small>",
            percent(each.get("accuracy")),
            percent(each.get("top1_agreement")),
            general(each.get("parity_max_abs")),
            milliseconds(mapping(each.get("latency_ms")).get("median")),
            milliseconds(mapping(each.get("latency_ms")).get("min")),
            f"<code>{esc(each.get('path'))}</code>",
        ]
        for each in exports
    ]
    slow = [plain(each.get("format")) for each in exports if each.get("slower_than_fp32") is True]
    said = "".join(f'<p class="note">{esc(each)} is slower than fp32 on this machine.</p>' for each in slow)
    for each in exports:
        for name, over in mapping(each.get("over")).items():
            said += f'<p class="note">{esc(each.get("format"))} is {percent(over)} above the study\'s limit of {esc(name)}.</p>'
    chosen = next((at for at, each in enumerate(exports) if best is not None and each.get("format") == best), None)
    return table(head, body, numeric=range(1, 7), strong=chosen) + said


def refused(result: Row) -> str:
    body = [[esc(each.get("format")), esc(each.get("reason"))] for each in rows(result.get("refused"))]
    return table(["refused", "reason"], body) if body else "<p>No file was refused by a gate.</p>"


def limit_of(value: object) -> float | None:
    """A constraint's number, whether written plainly or as {max: ...}."""
    return number(mapping(value).get("max")) if isinstance(value, Mapping) else number(value)


def constraints(result: Row) -> str:
    """Limit, what was reached, and whether it holds."""
    student, file = mapping(result.get("student")), fp32(result)
    reached = {
        "params": ("parameters", student.get("params")),
        "macs": ("MACs a sample", student.get("macs")),
        "onnx_bytes": ("bytes of the fp32 file", file.get("bytes")),
        "latency_ms": ("latency of the fp32 file, median (ms)", mapping(file.get("latency_ms")).get("median")),
    }
    body = []
    for name, raw in mapping(result.get("constraints")).items():
        limit = limit_of(raw)
        if limit is None:
            continue
        label, value = reached.get(name, (plain(name), mapping(result.get("metrics")).get(name)))
        found = number(value)
        met = "not measured" if found is None else "met" if found <= limit else "broken"
        style = {"met": "yes", "broken": "no"}.get(met, "none")
        body.append([esc(label), general(limit), general(found), f'<span class="{style}">{met}</span>'])
    if not body:
        return none("The study sets no constraints.")
    return table(["constraint", "limit", "reached", "held"], body, numeric=(1, 2))


def comparison(result: Row) -> str:
    """Other students distilled alike, best first, with the winner's place among them."""
    others = rows(result.get("compare"))
    if not others:
        return ""
    others = sorted(others, key=lambda each: -(number(each.get("accuracy")) or 0.0))
    body = [[esc(each.get("name")), count(each.get("params")), percent(each.get("accuracy"))] for each in others]
    said = "<p>Other students, distilled alike, so that the choice can be judged.</p>"
    return "<h3>Was the choice good?</h3>" + said + table(["student", "parameters", "accuracy"], body, numeric=(1, 2))


def metrics(result: Row) -> str:
    body = [
        [esc(path), esc(metric(path, value) if number(value) is not None else scalar(value))]
        for path, value in flat(mapping(result.get("metrics")))
    ]
    return "<h3>Further metrics</h3>" + table(["metric", "value"], body, numeric=(1,)) if body else ""


def data(result: Row) -> str:
    """Source, labels, and how many samples of each class are in each split."""
    facts = mapping(result.get("data"))
    if not facts:
        return none("The run recorded no facts about its data.")
    counts = {plain(split): mapping(each) for split, each in mapping(facts.get("counts")).items()}
    plainly = [
        [label, esc(count(facts[key]) if number(facts[key]) is not None else scalar(facts[key]))]
        for key, label in (("source", "source"), ("labeled", "labelled samples"), ("unlabeled", "unlabelled samples"))
        if key in facts
    ]
    known = {"source", "labeled", "unlabeled", "counts", "classes"}
    rest = {key: value for key, value in facts.items() if key not in known}
    plainly += [[esc(path), esc(scalar(value))] for path, value in flat(rest)]
    made = table(["fact", "value"], plainly) if plainly else ""
    if not counts:
        return made + none("Counts by class were not recorded.")
    declared = [plain(name) for name in items(facts.get("classes"))]
    seen = [plain(name) for each in counts.values() for name in each]
    classes = list(dict.fromkeys([*declared, *seen]))
    texts = {split: {plain(name): value for name, value in each.items()} for split, each in counts.items()}
    body = [[esc(name), *(count(texts[split].get(name, 0)) for split in texts)] for name in classes]
    total = [
        "<b>all</b>",
        *(f"<b>{count(sum(number(v) or 0.0 for v in texts[split].values()))}</b>" for split in texts),
    ]
    grid = table(["class", *texts], [*body, total], "Samples by class and split", range(1, 1 + len(texts)))
    if len(classes) > MANY_CLASSES:
        grid = f"<details><summary>Samples of each of the {len(classes)} classes</summary>{grid}</details>"
    return columns(made, grid) if made else grid


def listing(value: object, head: str, missing: str) -> str:
    """Nested JSON as a table of dotted paths."""
    body = [[f"<code>{esc(path)}</code>", esc(scalar(leaf))] for path, leaf in flat(value)]
    return table([head, "value"], body) if body else none(missing)


def recipe(result: Row) -> str:
    return listing(mapping(result.get("student")).get("recipe"), "recipe", "The student's recipe was not recorded.")


def time(result: Row) -> str:
    """Seconds by stage with a bar each."""
    spent = [(plain(name), number(value)) for name, value in mapping(result.get("seconds")).items()]
    known = [value for _, value in spent if value is not None and value > 0]
    if not known:
        return none("No times were recorded.")
    whole = sum(known)
    body = [
        [
            esc(name),
            seconds(value),
            f'<span class="bar" style="width:{max(value or 0.0, 0.0) / max(known) * 100:.1f}%"></span>',
        ]
        for name, value in spent
    ]
    return table(["stage", "time", "share"], [*body, ["<b>all</b>", f"<b>{seconds(whole)}</b>", ""]], numeric=(1,))


def provenance(result: Row) -> str:
    return listing(result.get("provenance"), "made with", "Versions and hardware were not recorded.")


def networks(result: Row) -> str:
    """Teacher, controls and student in one small table."""
    student, teacher = mapping(result.get("student")), mapping(result.get("teacher"))
    lines = [
        ("teacher", teacher.get("architecture"), teacher.get("params"), teacher.get("accuracy")),
        ("student", student.get("architecture"), student.get("params"), student.get("accuracy")),
    ]
    for key, label in (("baseline", "without a teacher"), ("all_labels", "with every label")):
        if mapping(result.get(key)):
            lines.append(
                (label, student.get("architecture"), student.get("params"), mapping(result[key]).get("accuracy"))
            )
    body = [[label, esc(name or MISSING), count(params), percent(accuracy)] for label, name, params, accuracy in lines]
    return table(["network", "architecture", "parameters", "test accuracy"], body, numeric=(2, 3))


def outcome(result: Row) -> str:
    """The networks side by side, then how good the choice was and what else was measured."""
    further = [block for block in (comparison(result), metrics(result)) if block]
    return networks(result) + (columns(*further) if further else "")
