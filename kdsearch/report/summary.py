"""The top of the page: the verdict in one sentence, the key figures, the notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.report.values import (
    MISSING,
    count,
    esc,
    items,
    mapping,
    milliseconds,
    number,
    percent,
    plain,
    points,
    rows,
    short,
    si,
)

Row = Mapping[str, Any]


def recommended(result: Row) -> Row:
    """The export that is recommended, or an empty mapping."""
    name = mapping(result.get("recommended")).get("format")
    return next((each for each in rows(result.get("exports")) if name is not None and each.get("format") == name), {})


def fp32(result: Row) -> Row:
    """The export whose format ends in fp32, or an empty mapping."""
    return next((each for each in rows(result.get("exports")) if str(each.get("format")).endswith("fp32")), {})


def against(accuracy: float, other: object, name: str) -> str:
    """`1.20 points below the teacher`."""
    found = number(other)
    if found is None:
        return ""
    difference = accuracy - found
    if abs(difference) < 5e-5:
        return f"level with {name}"
    return f"{points(difference)} {'above' if difference > 0 else 'below'} {name}"


def times(large: object, little: object) -> str:
    """`12.3 times smaller`, or "" where either is unknown."""
    a, b = number(large), number(little)
    if a is None or b is None or a <= 0 or b <= 0:
        return ""
    return f"{a / b:.3g} times smaller than" if a >= b else f"{b / a:.3g} times larger than"


def verdict(result: Row) -> str:
    """One or two plain sentences; what was not measured is said. Not escaped."""
    student, teacher = mapping(result.get("student")), mapping(result.get("teacher"))
    who = f"The student {short(student.get('architecture'), 60)}" if student.get("architecture") else "The student"
    params = number(student.get("params"))
    said = (
        f"{who} has {count(params)} parameters" if params is not None else f"{who} has an unknown number of parameters"
    )
    ratio = times(teacher.get("params"), params)
    said += f", {ratio} its teacher" if ratio else ""
    accuracy = number(student.get("accuracy"))
    if accuracy is None:
        said += "; this study measured no accuracy."
    else:
        places = [
            against(accuracy, teacher.get("accuracy"), "the teacher"),
            against(
                accuracy, mapping(result.get("baseline")).get("accuracy"), "the same network trained without a teacher"
            ),
            against(
                accuracy, mapping(result.get("all_labels")).get("accuracy"), "the same network trained on every label"
            ),
        ]
        said += f", and reaches {percent(accuracy)} test accuracy"
        known = [place for place in places if place]
        listed = ", ".join(known[:-1]) + " and " + known[-1] if len(known) > 1 else "".join(known)
        said += f": {listed}." if known else "; there is nothing to compare it with."
    choice = mapping(result.get("recommended"))
    if choice.get("format"):
        size = si(recommended(result).get("bytes"), "B")
        why = plain(choice.get("why")).rstrip(".") if choice.get("why") else ""
        said += f" Recommended file: {short(choice['format'], 40)}" + (f" ({size})" if recommended(result) else "")
        said += f", because {why[0].lower() + why[1:]}." if why else "."
    else:
        said += " No file is recommended."
    return said


def tile(name: str, value: str, small: str = "") -> str:
    return f"<div><dt>{esc(name)}</dt><dd>{esc(value)}<small>{esc(small) if small else '&nbsp;'}</small></dd></div>"


def tiles(result: Row) -> str:
    """The five key figures."""
    student, teacher = mapping(result.get("student")), mapping(result.get("teacher"))
    base, best = mapping(result.get("baseline")), recommended(result)
    median = number(mapping(best.get("latency_ms")).get("median"))
    teacher_is = f"teacher {percent(teacher.get('accuracy'))}"
    return (
        '<dl class="tiles">'
        + tile("Student accuracy", percent(student.get("accuracy")), teacher_is)
        + tile("Without a teacher", percent(base.get("accuracy")), "same network and steps")
        + tile("Parameters", si(student.get("params")), f"teacher {si(teacher.get('params'))}")
        + tile(
            "MACs a sample", si(student.get("macs")), f"teacher {si(teacher.get('macs'))}" if "macs" in teacher else ""
        )
        + tile("Recommended file", si(best.get("bytes"), "B"), short(best.get("format"), 40) if best else "none")
        + tile("Its latency, median", f"{milliseconds(median)} ms" if median is not None else MISSING, "one sample")
        + "</dl>"
    )


def header(result: Row) -> str:
    """Title, verdict, notes and key figures."""
    notes = "".join(f'<p class="note">{esc(note)}</p>' for note in items(result.get("notes")))
    sub = f"kdsearch report · seed {plain(result.get('seed'))} · folder {plain(result.get('dir'))}"
    return (
        f'<header><h1>{esc(result.get("study"))}</h1><p class="sub">{esc(sub)}</p>'
        f'<p class="verdict">{esc(verdict(result))}</p>{notes}{tiles(result)}</header>'
    )
