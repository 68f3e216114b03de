"""What a student knows of each group of classes, after every phase that taught it some, and what it forgot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.kinds.figure import Figure, Table
from kdsearch.report.charts import axis, chart, label, tips, upright
from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.values import items, mapping, number, plain, rows

Row = Mapping[str, Any]
GROUPS = ("new", "old", "all")


def classes_figure(result: Row, evidence: Row) -> Figure | None:
    """One panel and a table of the student; None where no phase of its named classes."""
    curve = rows(mapping(evidence.get("curves")).get("student"))
    taught = [(plain(row.get("phase")), mapping(row.get("classes"))) for row in curve if row.get("classes")]
    if not taught:
        return None
    quality = quality_of(result.get("student"))
    found: list[dict[str, Any]] = [
        {"phase": label(phase), "group": group, "y": value}
        for phase, each in taught
        for group in GROUPS
        if (value := number(each.get(group))) is not None
    ]
    y = upright(axis("y", quality.metric, [row["y"] for row in found], share=quality.share))
    order = list(dict.fromkeys(label(phase) for phase, _ in taught))
    spec = chart(
        quality.label,
        f"{quality.metric} of new, old and all classes after {', '.join(order)}.",
        found,
        [
            {"mark": {"type": "line", "aria": False}},
            {
                "mark": {"type": "point", "size": 46},
                "encoding": {
                    "tooltip": tips(
                        ("phase", "after"),
                        ("group", "classes"),
                        ("y", quality.metric, ".2%" if quality.share else ".4~g"),
                    )
                },
            },
        ],
        encoding={
            "x": {
                "field": "phase",
                "type": "ordinal",
                "title": "after phase",
                "sort": order,
                "axis": {"labelAngle": 0},
            },
            "y": y,
            "color": {"field": "group", "type": "nominal", "title": None, "scale": {"domain": list(GROUPS)}},
        },
    )
    of = mapping(taught[-1][1].get("of"))
    return Figure(
        "learnt",
        "Classes learnt and forgotten",
        "On the validation split, after each phase: the classes that it taught, those of the phases before, and all so far. "
        "Forgotten is how much the groups before have lost since each was at its best, their mean.",
        [spec] if found else [],
        [groups_table(taught, mapping(mapping(result.get("student")).get("classes")), quality)],
        [
            f"{plain(phase)}: {listed(classes, mapping(result.get('data')).get('classes'))}."
            for phase, classes in of.items()
        ],
    )


def groups_table(taught: list[tuple[str, Row]], on_test: Row, quality: Quality) -> Table:
    phases = list(dict.fromkeys(plain(name) for _, each in taught for name in mapping(each.get("phases"))))
    lines = [(phase, each) for phase, each in taught]
    lines += [("the file's network, on test", on_test)] if on_test else []
    body = [
        [
            name,
            *(quality.write(each.get(group)) for group in GROUPS),
            quality.write(each.get("forgotten")),
            *(quality.write(mapping(each.get("phases")).get(phase)) for phase in phases),
        ]
        for name, each in lines
    ]
    return Table(
        f"{quality.label} by group of classes",
        ["after", *GROUPS, "forgotten", *(f"of {each}" for each in phases)],
        body,
    )


def listed(classes: object, names: object) -> str:
    """Classes by the data set's names for them, where it has some."""
    known = items(names)
    found = [plain(known[k]) if isinstance(k, int) and 0 <= k < len(known) else plain(k) for k in items(classes)]
    return f"{'class' if len(found) == 1 else 'classes'} {', '.join(found)}"
