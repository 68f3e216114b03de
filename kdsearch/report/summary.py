"""The top of the page: the verdict on the file that ships, its key figures, the notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.values import (
    MISSING,
    count,
    esc,
    items,
    mapping,
    milliseconds,
    number,
    plain,
    prose,
    rows,
    short,
    si,
)
from kdsearch.report.words import architecture

Row = Mapping[str, Any]


def is_same(choice: Row, export: Row) -> bool:
    """Whether a recommendation is of this file: of its format, and its role where several students ship by themselves."""
    return choice.get("format") is not None and all(choice.get(key) == export.get(key) for key in ("format", "role"))


def is_recommended(result: Row, export: Row) -> bool:
    """Whether it is the file of the study, or of its own role, that is recommended."""
    choice = mapping(result.get("recommended"))
    each = [choice, *(mapping(role) for role in mapping(choice.get("roles")).values())]
    return any(is_same(one, export) for one in each)


def recommended(result: Row) -> Row:
    """The export that is recommended, or an empty mapping."""
    choice = mapping(result.get("recommended"))
    return next((each for each in rows(result.get("exports")) if is_same(choice, each)), {})


def label_of(export: Row) -> str:
    """A file's format, with its role where several students ship by themselves."""
    role = export.get("role")
    return f"{plain(role)} {plain(export.get('format'))}" if role else plain(export.get("format"))


def fp32(result: Row, role: object = None) -> Row:
    """The export whose format ends in fp32, of a role where several students ship by themselves; or an empty mapping."""
    files = [each for each in rows(result.get("exports")) if each.get("role") == role]
    return next((each for each in files if str(each.get("format")).endswith("fp32")), {})


def of_format(result: Row, form: object, role: object = None) -> Row:
    """The export of this format, of a role where several students ship by themselves; or an empty mapping."""
    files = [each for each in rows(result.get("exports")) if each.get("role") == role]
    return next((each for each in files if each.get("format") == form), {})


def shipped_with(exports: Sequence[Row], form: object) -> list[Row]:
    """What ships with a file of this format: of each role the file of the format, else (it was refused) its first one."""
    found: dict[object, Row] = {}
    for each in exports:
        if each.get("role") not in found or each.get("format") == form:
            found[each.get("role")] = each
    return list(found.values())


def file_costs(files: Sequence[Row]) -> dict[str, float | None]:
    """Constraint of a file -> what these cost together: bytes, median latency, memory of a call. None = not measured."""
    each = {
        "onnx_bytes": [number(file.get("bytes")) for file in files],
        "latency_ms": [number(mapping(file.get("latency_ms")).get("median")) for file in files],
        "peak_bytes": [number(file.get("peak_bytes")) for file in files],
    }
    known = {name: [value for value in values if value is not None] for name, values in each.items()}
    return {name: sum(values) if values and len(values) == len(files) else None for name, values in known.items()}


def of_role(network: object, role: object) -> Row:
    """What a network's row says of one role; all of it where it names no roles, or none is asked for."""
    whole = mapping(network)
    return mapping(mapping(whole["roles"]).get(str(role))) if role and whole.get("roles") else whole


def student_of(result: Row, role: object = None) -> Row:
    """The network in a role's files as it was distilled, with what pruning left of it."""
    return {**of_role(result.get("student"), role), **of_role(result.get("pruned"), role)}


def controls(result: Row) -> dict[str, Row]:
    """Key -> what was trained beside the student, each training once: `all_labels` is `baseline` where no label is hidden."""
    found = {key: mapping(result.get(key)) for key in ("baseline", "all_labels", "no_search")}
    return {key: row for key, row in found.items() if row and not row.get("same_as")}


def shipped_quality(result: Row) -> Quality:
    """Of the recommended file; where there is none, of the network."""
    return quality_of(recommended(result) or student_of(result))


def median(row: Row) -> float | None:
    """Median latency of one sample, in ms."""
    found = number(mapping(row.get("latency_ms")).get("median"))
    return found if found is not None and found > 0 else None


def ratio(large: object, little: object, more: str, less: str, least: float = 1.005) -> str:
    """`12.3 times smaller`, in the words for large > little and the other way; "" where either is unknown, or below `least`."""
    a, b = number(large), number(little)
    if a is None or b is None or a <= 0 or b <= 0:
        return ""
    factor = max(a / b, b / a)
    return f"{factor:.3g} times {more if a >= b else less}" if factor >= least else ""


def the_teacher(teacher: Row) -> str:
    """What it is called: of several by its name, the first one, which all that is compared with a teacher is compared with."""
    own = {key: value for key, value in teacher.items() if key != "all"}
    name = next((name for name, each in mapping(teacher.get("all")).items() if each == own), None)
    return "the teacher" if name is None else f"teacher {short(name, 40)}"


def in_torch(teacher: Row) -> str:
    """Said of the latency of a teacher that could be no file: its framework's time stands beside a runtime's."""
    return " in torch" if teacher.get("latency_in") == "torch" else ""


def speed(slow: Row, fast: Row) -> str:
    """`1.37 times faster`; "" where one latency is unknown, or they differ by less than 5 % or than their sessions do."""
    a, b = median(slow), median(fast)
    spread = sum(number(mapping(each.get("latency_ms")).get("spread")) or 0.0 for each in (slow, fast))
    return "" if a is None or b is None or abs(a - b) <= spread else ratio(a, b, "faster", "slower", 1.05)


def against(result: Row) -> str:
    """Where the quality stands: `1.31 points below the teacher and 5.72 points above ...`."""
    own = shipped_quality(result)
    others = {
        "teacher": the_teacher(mapping(result.get("teacher"))),
        "baseline": "the same network trained without a teacher",
        "all_labels": "the same network trained on every label",
        "no_search": "the largest feasible candidate trained for as many epochs as search and student",
    }
    compared = {"teacher": mapping(result.get("teacher")), **controls(result)}
    said = [own.against(quality_of(row), others[key]) for key, row in compared.items()]
    known = [each for each in said if each]
    return ", ".join(known[:-1]) + " and " + known[-1] if len(known) > 1 else "".join(known)


def _to_ship(result: Row, best: Row) -> str:
    """The file that the figures are of; of several students that ship by themselves after all of theirs."""
    label = short(label_of(best), 60)
    each = [short(label_of(one), 60) for one in mapping(mapping(result.get("recommended")).get("roles")).values()]
    if len(each) < 2:
        return f"The file to ship is {label}"
    return f"The files to ship are {', '.join(each[:-1])} and {each[-1]}. {label}"


def verdict(result: Row) -> str:
    """A few plain sentences on the file that ships; what was not measured is said. Not escaped."""
    best, quality, teacher = recommended(result), shipped_quality(result), mapping(result.get("teacher"))
    latency = median(best)
    facts = [f"{quality.name} {quality.text}" if quality.value is not None else ""]
    if best:
        facts += [si(best.get("bytes"), "B"), f"{milliseconds(latency)} ms a sample" if latency is not None else ""]
    listed = ", ".join(each for each in facts if each and each != MISSING)
    who = _to_ship(result, best) if best else "The student"
    said = f"{who}: {listed}." if listed else f"{who}: nothing was measured."
    if quality.value is None:
        said += " This study measured no quality of it."
    elif places := against(result):
        said += f" That is {places}."
    else:
        said += " There is nothing to compare it with."
    network = student_of(result, best.get("role"))
    params = number(network.get("params"))
    smaller = ratio(teacher.get("params"), params, "fewer", "more")
    faster = speed(teacher, best)
    made = architecture(network.get("architecture"))
    pruned = ", pruned," if mapping(result.get("pruned")) else ""
    has = f"{count(params)} parameters" if params is not None else "an unknown number of parameters"
    said += f" Its network{f' ({short(made, 120)})' if made != MISSING else ''}{pruned} has {has}"
    said += f", {smaller} than {the_teacher(teacher)}" if smaller else ""
    said += f", and answers {faster}" if faster else ""
    where = in_torch(teacher)
    said += f" than {the_teacher(teacher)}{where}." if faster and (where or not smaller) else "."
    choice = mapping(result.get("recommended"))
    if not choice.get("format"):
        said += " No file is recommended."
    return said


def tile(name: str, value: str, small: str = "") -> str:
    return f"<div><dt>{esc(name)}</dt><dd>{esc(value)}<small>{esc(small) if small else '&nbsp;'}</small></dd></div>"


def tiles(result: Row) -> str:
    """The key figures of the file that ships."""
    teacher, base, best = mapping(result.get("teacher")), quality_of(result.get("baseline")), recommended(result)
    quality, network = shipped_quality(result), student_of(result, best.get("role"))
    name = quality.name
    word = name.partition(" ")[0]
    name = name[:1].upper() + name[1:] if word.isalpha() and word.islower() else name  # not of nDCG, of any_subset
    latency, slow = median(best), median(teacher)
    taught = quality_of(teacher)
    than = f"teacher {taught.text}" if taught.value is not None else ""
    size = ratio(
        fp32(result, best.get("role")).get("bytes"), best.get("bytes"), "smaller than fp32", "larger than fp32"
    )
    return (
        '<dl class="tiles">'
        + tile(name, quality.text, than)
        + tile("Without a teacher", base.text, "same network and steps" if base.value is not None else "")
        + tile("File", si(best.get("bytes"), "B"), size or (label_of(best) if best else "none recommended"))
        + tile(
            "Latency",
            f"{milliseconds(latency)} ms" if latency is not None else MISSING,
            f"teacher {milliseconds(slow)} ms{in_torch(teacher)}" if slow is not None else "one sample, median",
        )
        + tile("Parameters", si(network.get("params")), f"teacher {si(teacher.get('params'))}" if teacher else "")
        + tile(
            "MACs a sample", si(network.get("macs")), f"teacher {si(teacher['macs'])}" if teacher.get("macs") else ""
        )
        + "</dl>"
    )


def notes(result: Row) -> str:
    """Why this file, then whatever the run noted, each once."""
    choice = mapping(result.get("recommended"))
    each = rows([*mapping(choice.get("roles")).values()]) or [choice]
    said = [f"Why {label_of(one)}: {plain(one.get('why')).rstrip('.')}." for one in each if one.get("why")]
    said += [plain(note) for note in items(result.get("notes"))]
    lines = "".join(f"<li>{prose(note)}</li>" for note in dict.fromkeys(said))
    return f'<ul class="notes" aria-label="Notes">{lines}</ul>' if lines else ""


def warnings(result: Row) -> str:
    """What makes the whole result doubtful."""
    return "".join(f'<p class="warning" role="alert">{prose(text)}</p>' for text in items(result.get("warnings")))


def header(result: Row) -> str:
    """Title, warnings, verdict, key figures and notes."""
    known = shipped_quality(result).known
    sub = f"kdsearch report · seed {plain(result.get('seed'))} · folder {plain(result.get('dir'))}"
    basis = (
        f'<p class="sub">Measured on the test split{f" ({prose(known)})" if known else ""}; latency of one sample.</p>'
    )
    return (
        f'<header><h1>{esc(result.get("study"))}</h1><p class="sub">{esc(sub)}</p>{warnings(result)}'
        f'<p class="verdict">{prose(verdict(result))}</p>{tiles(result)}{basis}{notes(result)}</header>'
    )
