"""What a study would do before it does it: counts from its text, time from a few measured steps on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator

from kdsearch.host import Host
from kdsearch.kinds import Model, SearchSpace
from kdsearch.report.values import about
from kdsearch.search.scoring import by_formula
from kdsearch.stages.costs import violations
from kdsearch.stages.distill import controls_of
from kdsearch.stages.prepare import CACHE_BYTES, has_tap, is_cached
from kdsearch.stages.products import has_own_product
from kdsearch.stages.recipes import counted
from kdsearch.store.hashing import stream
from kdsearch.study.rules import bare
from kdsearch.study.study import Study
from kdsearch.study.summary import different, summary, trainings
from kdsearch.training.materials import Materials
from kdsearch.training.opened import live_teacher
from kdsearch.training.text_teachers import has_network
from kdsearch.verbs.preflight import doubts, looked_at, notes_of
from kdsearch.verbs.timing import seconds_of

DRAWN = 200  # candidates that the middling one is chosen from
NOUNS = {
    "trials": ("trial", "trials"),
    "finalists": ("other finalist", "other finalists"),
    "winners": ("winner", "winners"),
    "compare": ("student to compare with", "students to compare with"),
    "recovery": ("recovery", "recoveries"),
}
TRAINED = 2  # copies of its weights that a training leaves: of its last phase, and of the end
RECOVERED = 4  # of a step of compression: what it started from and what came of it, in its own artifact and the stage's
PAGE_BYTES = 900_000  # mostly what draws the figures; the artifact's and `report/`


def plan_of(study: Study, host: Host) -> dict[str, Any]:
    """The summary with `seconds` per stage and `disk_bytes`; the text says how they were measured."""
    materials = looked_at(study, host)
    rng = stream(materials.seed, "plan")
    specs = {role: _middling(materials, space, rng) for role, space in materials.spaces.items()}
    students = {role: materials.build_student(role, each.model_dump(mode="json"), 0) for role, each in specs.items()}
    samples = _samples(materials)
    found = {
        **summary(study, host, controls_of(materials)),
        "samples": samples,
        "warnings": doubts(materials),
        "notes": notes_of(materials),
    }
    disk = _disk(materials, students)
    workers, graphs = study.config.run.workers, _written(materials, students)
    seconds = seconds_of(materials, specs, students, _trainings(materials), graphs, workers)
    total = sum(seconds.values())
    lines = [
        f"{study.config.name}: {found['candidates']:,} candidates scored, {sum(t['count'] for t in found['trainings'])} trainings"
    ]
    lines += [f"WARNING  {text}" for text in found["warnings"]]
    lines += [f"NOTE  {text}" for text in found["notes"]]
    lines += _in_words(materials, samples)
    recipes = counted(materials)
    lines += [f"  {'recipe':8} {each['use']}: {_records(each['records'])}" for each in recipes]
    lines += [f"  {each['stage']:8} {in_words(each)}" for each in found["trainings"]]
    lines += [f"  {name:8} {about(value)}" for name, value in seconds.items()]
    space = f"{disk / 1e6:,.0f} MB" if disk >= 1e6 else "less than 1 MB"
    lines.append(f"in all {about(total)} with {workers} worker{'s' if workers > 1 else ''}, {space} on disk")
    lines.append("(a few steps of a middling candidate and of the teachers, timed here and now)")
    return {
        **found,
        "recipes": recipes,
        "seconds": seconds,
        "total_seconds": total,
        "disk_bytes": disk,
        "text": "\n".join(lines),
    }


def _trainings(materials: Materials) -> list[dict[str, Any]]:
    most = different(materials.study, materials.spaces, materials.recipe)
    return trainings(materials.study, controls_of(materials), most)


def in_words(row: Mapping[str, Any]) -> str:
    """`12 trials, 40 epochs each`, `1 winner, 30 to 45 epochs`.

    The name of a control stands as the study has it, and what else there is as it says itself.
    """
    n, what = row["count"], row["what"]
    itself = f"control '{what}'" if row["stage"] == "distill" else f"training {what}"
    one, many = NOUNS.get(what, (itself, itself))
    least, most = row["epochs"], row.get("up_to", row["epochs"])
    epochs = f"{least:,}{f' to {most:,}' if most > least else ''} epoch{'s' if most != 1 else ''}"
    return f"{n:,} {one if n == 1 else many}, {epochs}" + (" each" if n > 1 else "")


def _records(n: int | None) -> str:
    return (
        "as many records as the one before it leaves to make" if n is None else f"{n:,} records, their time not counted"
    )


def _samples(materials: Materials) -> dict[str, dict[str, int]]:
    """Split -> its samples, and how many of them have a label that the study sees."""
    counts = materials.data.counts()
    found = {}
    for name in ("train", "val", "test"):
        by_class = counts[name]
        n, unlabeled = sum(by_class.values()), by_class.get("unlabeled", 0)
        found[name] = {
            "samples": n,
            **({"labeled": n - unlabeled, "unlabeled": unlabeled} if len(by_class) > 1 else {}),
        }
    return found


def _in_words(materials: Materials, samples: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What the data are, and their splits."""
    data, described = materials.data, []
    for each in data.fields:
        size = "x".join("any" if side is None else str(side) for side in each.shape)
        if each.use == "input" and each.kind != "mask":  # which says no more than what it is of
            described.append(f"{each.name} {'of any length' if size == 'any' else size}".strip())
    classes = data.facts.get("classes") or ()
    total = sum(each["samples"] for each in samples.values())
    head = f"  data     {total:,} samples ({', '.join(described)})" + (f" of {len(classes)} classes" if classes else "")
    rows = [
        f"    {name:6} {each['samples']:>9,}"
        + (f"  {each['labeled']:,} labelled, {each['unlabeled']:,} unlabelled" if "labeled" in each else "")
        for name, each in samples.items()
    ]
    return [head, *rows]


def _written(materials: Materials, students: Mapping[str, Model]) -> int:
    """Graphs that the export stage writes: of each student that ships in fp32 and each format, of each teacher for its latency."""
    section = materials.study.config.export
    graphs = len(materials.ships)  # where the procedure makes the product, a graph of each
    if not has_own_product(materials):
        graphs = sum(len(materials.task.product(students[role], materials.io).graphs) for role in materials.ships)
    teachers = sum(has_network(materials, name) for name in materials.study.teachers)
    return graphs * len({f"{bare(section.exporter.use)}-fp32", *section.formats}) + teachers


def _middling(materials: Materials, space: SearchSpace[Any], rng: Generator) -> Any:
    """Of candidates drawn at random that keep the limits on params and MACs (or of all, if none does), the median in MACs."""
    drawn = [space.sample(rng) for _ in range(DRAWN)]
    costed = [(cost, i) for i, spec in enumerate(drawn) if (cost := by_formula(space, spec, materials.io)) is not None]
    feasible = [
        (cost.macs, i)
        for cost, i in costed
        if all(over <= 0 for over in violations(materials, {"params": cost.params, "macs": cost.macs}).values())
    ]
    ordered = sorted(feasible) or sorted((cost.macs, i) for cost, i in costed) or [(0, 0)]
    return drawn[ordered[len(ordered) // 2][1]]


def _disk(materials: Materials, students: Mapping[str, Model]) -> int:
    """Bytes of all that is kept in the end, and of what the stage that takes most works on."""
    weights = sum(_bytes(each) for each in students.values())
    rows = _trainings(materials)
    stages = ("refine", "distill", "compress")
    n = {stage: sum(int(each["count"]) for each in rows if each["stage"] == stage) for stage in stages}
    dropped = sum(int(each["count"]) for each in rows if each["what"] == "finalists")
    files = 2 * len(materials.study.config.export.formats)  # the artifact's and `export/`
    kept = n["distill"] - dropped + RECOVERED * n["compress"] + files
    return (
        sum(_of_teacher(materials, name) for name in materials.study.teachers)
        + weights * (kept + TRAINED * max(n.values()))
        + 2 * PAGE_BYTES
    )


def _bytes(model: Model) -> int:
    return sum(int(each.numel() * each.element_size()) for each in model.module.state_dict().values())


def _of_teacher(materials: Materials, name: str) -> int:
    """Bytes of a teacher's weights, where the study trains it, and of its rows: as `prepare` stores them."""
    if not has_network(materials, name):
        return 0
    path, use = materials.study.path_of_teacher(name), materials.study.teachers[name]
    live = live_teacher(materials, name)
    capability = None if materials.study.live_object(path) is not None else materials.make("teacher", use, path)
    is_trained = capability is not None and capability.training is not None
    total = 2 * _bytes(live.model) if is_trained else 0
    if not is_cached(materials, name):
        return total
    batch = materials.data.split("train").load([0]).to(materials.torch_device)
    live.model.module.to(materials.torch_device)
    taps = [tap for tap in materials.taps[name] if has_tap(live.model, tap)]
    row = live.outputs(batch, live.names(taps), materials.torch_device, cached=False)
    sizes: dict[str, int] = {tap: row[tap].numel() * row[tap].element_size() for tap in row}
    for splits in (("train", "val"), ("test",)) if use.cache == "all" else (("train", "val"),):
        n = sum(len(materials.data.split(each).ids) for each in splits if each in materials.data.splits)
        total += sum(n * size for tap, size in sizes.items() if tap in live.model.outputs or n * size <= CACHE_BYTES)
    return total
