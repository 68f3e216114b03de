"""The page's tables: networks, files, constraints, comparison, data, recipe, time, provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from kdsearch.report.compression_tables import as_quantised, steps
from kdsearch.report.html_table import Markup, simple
from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.summary import (
    controls,
    file_costs,
    fp32,
    in_torch,
    is_recommended,
    label_of,
    median,
    of_format,
    of_role,
    ratio,
    recommended,
    speed,
    student_of,
    the_teacher,
)
from kdsearch.report.values import (
    MISSING,
    count,
    esc,
    flat,
    general,
    is_share,
    items,
    level,
    mapping,
    metric,
    milliseconds,
    number,
    percent,
    plain,
    prose,
    rough,
    rows,
    scalar,
    seconds,
    si,
)
from kdsearch.report.words import architecture

Row = Mapping[str, Any]
MANY_CLASSES = 24  # beyond it the counts fold away
SPLITS = ("train", "labeled", "unlabeled", "val", "test")
KEPT = "No file was refused: each keeps its bounds on quality, on decisions, and on what differs from torch."
PLAIN = "samples"  # of which nothing else is counted: they have no labels
CUT = "the one as distilled, compressed"  # whose widths are no longer the spec's
LABELS = {"labeled": "with a label", "unlabeled": "without a label"}
ORDER = ("prepare", "search", "refine", "distill", "compress", "export", "report")


def none(text: str) -> str:
    return f'<p class="none">{esc(text)}</p>'


def columns(*blocks: str) -> str:
    """Blocks side by side where there is room."""
    return '<div class="cols">' + "".join(f"<div>{block}</div>" for block in blocks) + "</div>"


def with_small(main: object, small: str, style: str = "") -> Markup:
    return Markup(
        esc(main) + (f"<small{style}>{small if isinstance(small, Markup) else esc(small)}</small>" if small else "")
    )


def whole(name: str) -> Markup:
    """A name such as `session.disable_quant_qdq=1`, which breaks after its dots alone."""
    return Markup("<wbr>".join(f"<span class=nb>{esc(part)}</span>" for part in re.split(r"(?<=\.)(?=\D)", name)))


def links(export: Row) -> Markup:
    """Every file of an export."""
    return Markup("".join(link(path) for path in items(export.get("paths")) or [export.get("path")]))


def link(path: object) -> Markup:
    """A file of the study's folder, from the page in its `report`; the card lies beside it."""
    text = plain(path)
    where = PurePosixPath(text)
    if where.is_absolute() or ".." in where.parts or not where.suffix:
        return Markup(f"<code>{esc(text)}</code>")
    card = where.with_suffix(".json")
    return Markup(
        f'<a href="../{quote(str(where))}"><code>{esc(where.name)}</code></a>'
        f'<small><a href="../{quote(str(card))}">model card</a></small>'
    )


def latency_cell(row: Row) -> object:
    """Median ms of a session as anybody opens it, below it the one with the settings that make it faster."""
    tuned = mapping(row.get("latency_tuned_ms")).get("median")
    options = ", ".join(
        whole(f"{plain(key)}={plain(value)}") for key, value in mapping(row.get("session_options")).items()
    )
    latency = mapping(row.get("latency_ms"))
    said = f"least {milliseconds(latency.get('min'))}" if number(latency.get("min")) is not None else ""
    said += f"; {milliseconds(tuned)} with {options}" if number(tuned) is not None and options else ""
    return with_small(milliseconds(latency.get("median")), Markup(said), " class=wide")


def exactly(value: float, text: str) -> str:
    """HTML of a number in words, which a column is ordered by."""
    return f'<span data-v="{value!r}">{esc(text)}</span>'


def sized(size: object) -> object:
    found = number(size)
    return None if found is None else Markup(f"{exactly(found, si(size, 'B'))}<small>{count(size)} bytes</small>")


def files(result: Row) -> str:
    """Exported files with links to them and their cards, the recommended one marked."""
    exports = rows(result.get("exports"))
    if not exports:
        return none("No file was exported.")
    teacher = mapping(result.get("teacher"))
    slow, qualities = median(teacher), [quality_of(each) for each in exports]
    head = ["file", "size", "memory of a call", qualities[0].label, "latency, median (ms)"]
    head += [f"against {the_teacher(teacher)}{in_torch(teacher)}"] if slow is not None else []
    judged = any(number(each.get("top1_agreement")) is not None for each in exports)
    head += [*(["same decisions as torch"] if judged else []), "largest difference to torch", "written to"]
    body = [
        [
            with_small(label_of(each), "recommended" if is_recommended(result, each) else ""),
            sized(each.get("bytes")),
            sized(each.get("peak_bytes")),
            with_small(quality.text, quality.range),
            latency_cell(each),
            *([against(teacher, each)] if slow is not None else []),
            *([with_small(percent(each.get("top1_agreement")), _at_least(each))] if judged else []),
            rough(each.get("parity_max_abs")),
            links(each),
        ]
        for each, quality in zip(exports, qualities, strict=True)
    ]
    chosen = next((at for at, each in enumerate(exports) if each is recommended(result)), None)
    return simple(head, body, "Files, measured on this machine", chosen)


def against(teacher: Row, export: Row) -> Markup:
    """`1.37 times faster`, in two lines at most; nothing of the kind where sessions differ by more than the two."""
    slow, fast = median(teacher), median(export)
    apart = "no clear difference" if ratio(slow, fast, "", "", 1.05) else "as fast"
    said = speed(teacher, export) or (MISSING if fast is None else apart)
    factor, times, way = said.partition(" times ")
    return Markup(f"<span class=nb>{esc(factor)}{times.rstrip()}</span> {esc(way)}" if times else esc(said))


def _at_least(export: Row) -> str:
    found = number(mapping(export.get("bounds")).get("min_agreement"))
    return "" if found is None else f"bound {100 * found:.6g} %"


def refused(result: Row) -> str:
    body = [
        [
            plain(each.get("format")),
            with_small(plain(each.get("reason")), plain(each["fix"]) if each.get("fix") else ""),
        ]
        for each in rows(result.get("refused"))
    ]
    return simple(["refused", "reason"], body) if body else f"<p>{KEPT}</p>"


def limit_of(value: object) -> float | None:
    """A constraint's number, whether written plainly or as {max: ...}."""
    return number(mapping(value).get("max")) if isinstance(value, Mapping) else number(value)


def constraints(result: Row) -> str:
    """Limit, what was reached, and whether it holds; of several students what they reach together."""
    network, exports = student_of(result), rows(result.get("exports"))
    body = []
    for name, raw in mapping(result.get("constraints")).items():
        limit = limit_of(raw)
        if limit is None:
            continue
        form = mapping(raw).get("format") if isinstance(raw, Mapping) else None
        roles = dict.fromkeys(each.get("role") for each in exports)
        costs = file_costs([of_format(result, form, role) if form else fp32(result, role) for role in roles])
        shown = (
            f"of the {plain(form).rpartition('-')[2] if form else 'fp32'} file{'s together' if len(roles) > 1 else ''}"
        )
        reached = {
            "params": ("parameters", network.get("params")),
            "macs": ("MACs a sample", network.get("macs")),
            "onnx_bytes": (f"bytes {shown}", costs["onnx_bytes"]),
            "latency_ms": (f"latency {shown}, median (ms)", costs["latency_ms"]),
            "peak_bytes": (f"memory of one call {shown}, beside the weights (bytes)", costs["peak_bytes"]),
        }
        label, value = reached.get(name, (plain(name), mapping(result.get("metrics")).get(name)))
        found = number(value)
        met = "not measured" if found is None else "met" if found <= limit else "broken"
        style = {"met": "yes", "broken": "no"}.get(met, "none")
        body.append([label, general(limit), general(found), Markup(f'<span class="{style}">{met}</span>')])
    if not body:
        return none("The study sets no constraints.")
    return simple(["constraint", "limit", "reached", "held"], body)


def comparison(result: Row) -> str:
    """Other students distilled alike, best first, with the winner's place among them."""
    others = [(each, quality_of(each)) for each in rows(result.get("compare"))]
    if not others:
        return ""

    def order(pair: tuple[Row, Quality]) -> float:
        value = pair[1].value
        return float("inf") if value is None else -value if pair[1].up else value

    label = others[0][1].label
    body = [
        [plain(each.get("name")), count(each.get("params")), quality.text]
        for each, quality in sorted(others, key=order)
    ]
    said = "<p>Other students, distilled alike, so that the choice can be judged.</p>"
    return "<h3>Was the choice good?</h3>" + said + simple(["student", "parameters", label], body)


def metrics(result: Row) -> str:
    """What else was measured of the network in the files."""
    main = quality_of(mapping(result.get("pruned")) or mapping(result.get("student"))).metric
    measures = {plain(name): mapping(each) for name, each in mapping(result.get("measures")).items()}
    body = []
    for path, value in flat(mapping(result.get("metrics"))):
        role, _, name = path.rpartition(".")
        if name in (main, "n"):
            continue
        about = measures.get(name)
        found = quality_of({"quality": {**about, "metric": name, "value": value}}) if about else None
        label = f"{role}.{found.label}" if found and role else found.label if found else path
        body.append(
            [label, found.text if found else figure(path, value) if number(value) is not None else scalar(value)]
        )
    return "<h3>Further metrics</h3>" + simple(["metric", "value"], body) if body else ""


def figure(name: str, value: object) -> str:
    """A value of which no unit is known, a count among them."""
    given = number(value) or 0.0
    return metric(name, value) if is_share(name) or given == int(given) else level(value)


def data(result: Row) -> str:
    """Source, labels, and how many samples of each class are in each split."""
    facts = mapping(result.get("data"))
    if not facts:
        return none("The run recorded no facts about its data.")
    counts = {plain(split): mapping(each) for split, each in mapping(facts.get("counts")).items()}
    has_labels = any(name != PLAIN for each in counts.values() for name in each) or not counts
    plainly: list[Sequence[object]] = [
        [label, count(facts[key]) if number(facts[key]) is not None else scalar(facts[key])]
        for key, label in (
            ("source", "source"),
            *((("labeled", "labelled samples"), ("unlabeled", "unlabelled samples")) if has_labels else ()),
        )
        if key in facts
    ]
    known = {"source", "labeled", "unlabeled", "counts", "classes", "recipes"}
    rest = {key: value for key, value in facts.items() if key not in known}
    plainly += [[path, scalar(value)] for path, value in flat(rest)]
    made = simple(["fact", "value"], plainly) if plainly else ""
    made += recipes(facts)
    if not counts:
        return made + none("Counts by class were not recorded.")
    grid = samples(counts, [plain(name) for name in items(facts.get("classes"))])
    return columns(made, grid) if made else grid


def samples(counts: Mapping[str, Row], declared: Sequence[str]) -> str:
    """How many samples each split has: of each class where a sample is of one, else with and without a label."""
    texts = {split: {plain(name): number(n) or 0.0 for name, n in each.items()} for split, each in counts.items()}
    texts = {name: texts[name] for name in (*SPLITS, *texts) if name in texts}
    seen = dict.fromkeys(name for each in texts.values() for name in each)
    classes = [name for name in seen if name in declared or name not in (*LABELS, PLAIN)]
    kinds = classes or [name for name in (PLAIN, "labeled") if name in seen][:1]
    by_class = bool(classes)
    if by_class:
        kinds = list(dict.fromkeys([*declared, *kinds]))
    hidden = ["unlabeled"] if any(each.get("unlabeled") for each in texts.values()) else []
    shown = [*kinds, *hidden]
    said = {**LABELS, **({} if by_class else {PLAIN: "all"})}
    body: list[list[object]] = [
        [said.get(name, name), *(count(each.get(name, 0)) for each in texts.values())] for name in shown
    ]
    if len(shown) > 1 or not body:
        body.append([Markup("<b>all</b>"), *(Markup(f"<b>{count(sum(each.values()))}</b>") for each in texts.values())])
    head = ["class" if by_class else "samples", *texts]
    grid = simple(head, body, f"Samples by {'class and ' if by_class else ''}split", cards=False)
    if len(shown) > MANY_CLASSES:
        grid = f"<details><summary>Samples of each of the {len(kinds)} classes</summary>{grid}</details>"
    return grid


def recipes(data: Row) -> str:
    """What each data recipe made: records kept, why others were not, and what teachers were asked for them."""
    body = []
    for each in (mapping(row) for row in items(data.get("recipes"))):
        why = "; ".join(f"{count(n)} {plain(reason)}" for reason, n in mapping(each.get("rejected")).items())
        costs = {plain(name): mapping(cost) for name, cost in mapping(each.get("cost")).items()}
        spent = "; ".join(
            f"{name}: {count(cost.get('calls'))} calls, {count(cost.get('prompt_tokens'))} + {count(cost.get('tokens'))} tokens"
            for name, cost in costs.items()
        )
        body.append([plain(each.get("use")), count(each.get("records")), count(each.get("kept")), why, spent])
    head = ["data recipe", "records", "kept", "rejected", "asked (tokens read + written)"]
    return "<h3>Data recipes</h3>" + simple(head, body) if body else ""


def listing(value: object, head: str, missing: str) -> str:
    """Nested JSON as a table of dotted paths, in their order, without what is not set."""
    given = [(path, leaf) for path, leaf in flat(value) if leaf is not None and leaf != []]
    body = [
        [Markup(f"<code>{esc(path)}</code>"), scalar(leaf)] for path, leaf in sorted(given, key=lambda each: each[0])
    ]
    return simple([head, "value"], body) if body else none(missing)


def recipe(result: Row) -> str:
    return listing(mapping(result.get("student")).get("recipe"), "recipe", "The student's recipe was not recorded.")


def time(result: Row) -> str:
    """Seconds by stage, in the order in which they ran, with a bar each. A page is written before its own time is known."""
    given = {plain(name): number(value) for name, value in mapping(result.get("seconds")).items()}
    spent = {name: given[name] for name in (*ORDER, *given) if name in given}
    known = [value for value in spent.values() if value is not None and value > 0]
    if not known:
        return none("No times were recorded.")
    whole = sum(known)
    every = "all" if "report" in spent else "all before this page"
    body = [
        [
            name,
            None if value is None else Markup(exactly(value, seconds(value))),
            Markup(f'<span class="bar" style="width:{max(value or 0.0, 0.0) / max(known) * 100:.1f}%"></span>'),
        ]
        for name, value in spent.items()
    ]
    total = [Markup(f"<b>{every}</b>"), Markup(f"<b>{exactly(whole, seconds(whole))}</b>"), Markup()]
    return simple(["stage", "time", "share"], [*body, total])


def provenance(result: Row) -> str:
    """Versions and hardware; plugins a row for each distribution."""
    given = mapping(result.get("provenance"))
    by_distribution: dict[str, list[str]] = {}
    for name, version in mapping(given.get("plugins")).items():
        distribution, _, plugin = plain(name).partition(":")
        by_distribution.setdefault(f"{distribution} {plain(version)}", []).append(plugin or distribution)
    plugins = {key: ", ".join(names) for key, names in by_distribution.items()}
    whole = {**given, **({"plugins": plugins} if "plugins" in given else {})}
    return listing(whole, "made with", "Versions and hardware were not recorded.")


def teachers(result: Row) -> dict[str, Row]:
    """Name -> teacher; the one of a study that names none is called ""."""
    teacher = mapping(result.get("teacher"))
    several = {plain(name): mapping(each) for name, each in mapping(teacher.get("all")).items()}
    return several or ({"": teacher} if teacher else {})


def teacher_words(teacher: Row) -> str:
    """`cifar_resnet: basic block, depths 1-1-1`; the network's name alone where nothing else is known of it."""
    words, name = architecture(teacher.get("architecture")), teacher.get("network")
    return f"{plain(name)}: {words}" if name and words not in (MISSING, name) else words


def networks(result: Row) -> str:
    """Teachers, student, pruned student and controls in one table."""
    student, taught = mapping(result.get("student")), teachers(result)
    lines: list[tuple[str, Row, Row]] = [
        (f"teacher {name}".strip(), {**each, "architecture": teacher_words(each)}, each)
        for name, each in taught.items()
    ]
    for role in mapping(student.get("roles")) or (None,):
        own, pruned = of_role(student, role), of_role(result.get("pruned"), role)
        lines.append((f"{plain(role or 'student')}, as distilled", own, own))
        if pruned:
            cut = {"architecture": CUT, **pruned}
            lines.append((f"{plain(role or 'student')}, pruned and recovered", cut, pruned))
    labels = {"baseline": "same network without a teacher", "all_labels": "same network with every label"}
    labels["no_search"] = (
        f"largest feasible candidate, no search, {count(mapping(result.get('no_search')).get('epochs'))} epochs"
    )
    lines += [(labels[key], row if key == "no_search" else student, row) for key, row in controls(result).items()]
    head = ["network", quality_of(student).label, "95 % interval", "parameters", "MACs"]
    timed = any(median(each) is not None for each in taught.values())
    head += [*(["latency (ms)"] if timed else []), "architecture"]
    body = [
        [
            label,
            (quality := quality_of(measured)).text,
            Markup(f"<span class=nb>{esc(quality.range)}</span>" if quality.range else ""),
            count(network.get("params")),
            count(network.get("macs")),
            *([teacher_latency(network)] if timed else []),
            Markup(f"<span>{prose(architecture(network.get('architecture')))}</span>"),
        ]
        for label, network, measured in lines
    ]
    return simple(head, body, "Networks, measured on the test split")


def teacher_latency(network: Row) -> object:
    return with_small(milliseconds(median(network)), plain(network["latency_in"]) if network.get("latency_in") else "")


def outcome(result: Row) -> str:
    """The networks side by side, then how good the choice was and what else was measured."""
    further = [block for block in (comparison(result), metrics(result)) if block]
    return networks(result) + steps(result) + as_quantised(result) + (columns(*further) if further else "")
