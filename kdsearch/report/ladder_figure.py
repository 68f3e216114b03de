"""What compression costs and saves, and how many bits the weights of each file take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.kinds.figure import Figure, Table
from kdsearch.report.charts import PALETTE, SCHEMA, Spec, axis, chart, label, tips, upright, zoom
from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.summary import in_torch, label_of
from kdsearch.report.values import count, items, mapping, milliseconds, number, percent, plain, rows, short

Row = Mapping[str, Any]
BITS = ("32", "16", "8", "4")
ROW = 30  # pixels a row
LETTER = 3.2  # half of the pixels that a letter of a mark's name takes
WIDE = 50  # half of the pixels that a name may take


def steps(evidence: Row) -> list[dict[str, Any]]:
    """Every rung: name, quality, interval, bytes, latency; what was not measured is left out."""
    found = []
    for rung in rows(evidence.get("ladder")):
        quality = quality_of(rung)
        pair = quality.interval or quality_of({"quality": {"interval": items(rung.get("interval"))}}).interval
        row: dict[str, Any] = {"name": short(rung.get("name"), 40), "written": quality.text, "y": quality.value}
        row["control"], row["weights"] = rung.get("control") is True, rung.get("weights") is True
        if pair and quality.value is not None:
            row |= {"low": pair[0], "high": pair[1], "range": Quality("", 0, share=quality.share, interval=pair).range}
        row |= {
            key: value for key in ("bytes", "latency_ms") if (value := number(rung.get(key))) is not None and value > 0
        }
        found.append(row)
    return found


def quality_panel(found: Sequence[dict[str, Any]], quality: Quality) -> Spec:
    """Dots with their intervals, one row a step."""
    ends = [row[key] for row in found for key in ("y", "low", "high") if row.get(key) is not None]
    names = list(dict.fromkeys(row["name"] for row in found))
    x = axis("y", quality.label, ends, share=quality.share)
    y = {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": {"labelLimit": 110}}
    tooltip = tips(("name", " "), ("written", quality.name), ("range", "95 % interval"))
    return chart(
        "test split" + (", with 95 % intervals" if any("low" in row for row in found) else ""),
        f"{quality.name} of each step: " + "; ".join(f"{row['name']} {row['written']}" for row in found),
        found,
        [
            {
                "transform": [{"filter": {"field": "low", "valid": True}}],
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.4, "color": PALETTE["blue"], "aria": False},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 80},
                "encoding": {
                    "x": x,
                    "tooltip": tooltip,
                    "color": {
                        "condition": {"test": {"field": "control", "equal": True}, "value": PALETTE["grey"]},
                        "value": PALETTE["blue"],
                    },
                },
            },
        ],
        ROW * max(len(names), 1),
        encoding={"y": y},
    )


def cost_panel(found: Sequence[dict[str, Any]], quality: Quality, key: str, title: str, form: str) -> Spec | None:
    """Quality against a cost, every step with its name; None where fewer than two have both."""
    both = [{**row, "x": row[key]} for row in found if key in row and row["y"] is not None]
    if len(both) < 2:
        return None
    both.sort(key=lambda row: row["x"])
    for at, row in enumerate(both):
        row["above"] = at % 2 == 0  # neighbours' names would else run into one another
    x = axis("x", title, [row["x"] for row in both], log=True)
    x["scale"]["padding"] = max([34, *(min(WIDE, LETTER * len(row["name"])) for row in both)])
    x["axis"] = {"format": form}
    y = upright(axis("y", quality.name, [row["y"] for row in both], share=quality.share))
    y["scale"]["padding"] = 20
    tooltip = tips(("name", " "), ("written", quality.name), ("x", title, ",.4~g"))
    return chart(
        quality.label,
        f"{quality.name} against {title}: " + "; ".join(f"{row['name']} {row['written']}" for row in both),
        both,
        [
            {
                "params": [zoom(key)],
                "mark": {"type": "point", "size": 80, "color": PALETTE["blue"]},
                "encoding": {"tooltip": tooltip},
            },
            *(
                {
                    "transform": [{"filter": {"field": "above", "equal": above}}],
                    "mark": {"type": "text", "dy": -11 if above else 13, "aria": False, "limit": 2 * WIDE},
                    "encoding": {"text": {"field": "name", "type": "nominal"}},
                }
                for above in (True, False)
            ),
        ],
        220,
        encoding={"x": x, "y": y},
    )


def ladder_figure(result: Row, evidence: Row) -> Figure:
    """Quality of every step, then of what can be run against bytes and against latency."""
    rungs, found = rows(evidence.get("ladder")), steps(evidence)
    quality = next((each for each in map(quality_of, rungs) if each.value is not None), quality_of({}))
    files = [row for row in found if "latency_ms" in row] or found
    fileless = ", or of weights in fp32" if any(row["weights"] for row in files) else ""
    panels = [quality_panel(found, quality)] if any(row["y"] is not None for row in found) else []
    panels += [
        each
        for each in (
            cost_panel(files, quality, "bytes", f"bytes of the file{fileless}", ".3~s"),
            cost_panel(files, quality, "latency_ms", "latency, one sample (ms)", ".3~g"),
        )
        if each
    ]
    body = [
        [
            plain(rung.get("name")),
            row["written"],
            row.get("range"),
            count(rung.get("bytes")),
            count(rung.get("params")),
            count(rung.get("macs")),
            milliseconds(rung.get("latency_ms")),
        ]
        for rung, row in zip(rungs, found, strict=True)
    ]
    said = (
        " What has no file stands with the bytes of its weights in fp32."
        if any(row["weights"] for row in found)
        else ""
    )
    said += " The teacher ran in torch." if in_torch(mapping(result.get("teacher"))) else ""
    grey = ", in grey what was trained to compare with" if any(row["control"] for row in found) else ""
    head = ["step", quality.name, "95 % interval", "bytes", "parameters", "MACs", "latency (ms)"]
    return Figure(
        "ladder",
        "From the teacher to the smallest file",
        f"Top to bottom, one step of compression a row{grey}; then {quality.name} against size and against latency of what was "
        f"run.{said} No axis starts at zero.",
        panels,
        [Table("Every step of compression", head, body)] if rungs else (),
        missing="The steps of compression were not recorded.",
    )


def weights_figure(result: Row, evidence: Row) -> Figure:
    """Share of weight elements stored at each width, one stacked bar a file."""
    exports = [export for export in rows(result.get("exports")) if mapping(export.get("weight_share"))]
    found = [
        {"file": label(label_of(export)), "bits": f"{bits} bit", "order": at, "share": share}
        for export in exports
        for at, bits in enumerate(BITS)
        if (share := number(mapping(export.get("weight_share")).get(bits))) is not None and 0 < share <= 1
    ]
    files = list(dict.fromkeys(row["file"] for row in found))
    spec: Spec = {
        "$schema": SCHEMA,
        "title": "share of the weights",
        "description": f"Bits a weight takes in {len(files)} files.",
        "data": {"values": found},
        "width": "container",
        "height": ROW * max(len(files), 1),
        "mark": {"type": "bar", "height": {"band": 0.75}},
        "encoding": {
            "y": {"field": "file", "type": "nominal", "sort": files, "title": None},
            "x": {"field": "share", "type": "quantitative", "title": None, "axis": {"format": "%"}, "stack": True}
            | {"scale": {"domain": [0, 1]}},
            "color": {
                "field": "bits",
                "type": "nominal",
                "title": None,
                "scale": {"domain": [f"{bits} bit" for bits in BITS], "range": [PALETTE[f"b{bits}"] for bits in BITS]},
                "legend": {"columns": 4},
            },
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": tips(("file", " "), ("bits", "width"), ("share", "share", ".2%")),
        },
    }
    body = [
        [
            label_of(export),
            *(percent(mapping(export.get("weight_share")).get(bits)) for bits in BITS),
            count(export.get("bytes")),
        ]
        for export in exports
    ]
    return Figure(
        "weights",
        "Bits a weight takes",
        "Share of the fp32 graph's weight elements that each file really stores at a width; "
        "scales and zero points count in the file's size.",
        [spec] if found else (),
        [Table("Weights by width", ["file", *(f"{bits} bit" for bits in BITS), "bytes"], body)] if exports else (),
        missing="No exported file says how its weights are stored.",
    )
