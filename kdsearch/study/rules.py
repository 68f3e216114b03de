"""Combinations that a study cannot have, as far as its text alone tells: no capability is loaded, no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from kdsearch.errors import nearest, one_of

if TYPE_CHECKING:
    from kdsearch.study.schema import Config, Use
    from kdsearch.study.study import Study

COSTS = ("latency_ms", "params", "macs", "onnx_bytes", "peak_bytes")  # objectives that are no metric; less is better

OF_FILES = (
    "onnx_bytes",
    "latency_ms",
    "peak_bytes",
)  # those that an exported file has, each in its own way in every format


def check_rules(study: Study) -> None:
    """Raise StudyError for the first impossible combination."""
    _models(study)
    _search(study)
    _distillers(study)
    _schedule(study)
    _compress(study)
    _formats(study)
    _run(study)


def _models(study: Study) -> None:
    config = study.config
    if config.teacher and config.teachers:
        raise study.error("both `teacher` and `teachers` are given", "teacher", fix="Move it below `teachers:`.")
    if config.student and config.students:
        raise study.error("both `student` and `students` are given", "student", fix="Move it below `students:`.")
    if not study.students:
        raise study.error("is missing", "student", expected="`student: {space: NAME}`, or `students:` by role")
    data = config.data
    if data.validation + data.test >= 1:
        raise study.error(
            f"validation {data.validation} and test {data.test} leave nothing to train on",
            "data.validation",
            expected="a sum below 1",
        )


OF_SCHEDULE = {  # kind -> the keys that it reads
    "cosine": ("end",),
    "linear": ("end",),
    "polynomial": ("end", "power"),
    "step": ("at", "factor"),
    "cyclic": ("cycles", "low"),
}


def _schedule(study: Study) -> None:
    schedule, path = study.config.recipe.train.schedule, "recipe.train.schedule"
    given = [name for name, value in schedule if value is not None and name not in ("kind", "warmup", "start")]
    reads = OF_SCHEDULE.get(schedule.kind, ())
    for name in given:
        if name not in reads:
            raise study.error(
                f"'{schedule.kind}' reads no '{name}'", f"{path}.{name}", expected=one_of((*reads, "warmup", "start"))
            )
    if schedule.start is not None and not schedule.warmup:
        raise study.error("a start without a warm-up", f"{path}.start", expected="`warmup` above 0 beside it")


def _search(study: Study) -> None:
    search, refine, distill = study.config.search, study.config.refine, study.config.distill
    if search.keep is not None and search.keep > search.candidates:
        raise study.error(
            f"keep {search.keep} of {search.candidates} candidates",
            "search.keep",
            expected=f"at most {search.candidates}",
        )
    if not search.proxy:
        raise study.error("no proxy", "search.proxy", expected="auto, a name or a list of names")
    if distill.winners > refine.trials:
        raise study.error(
            f"{distill.winners} winners of {refine.trials} trials",
            "distill.winners",
            expected=f"at most {refine.trials}",
        )
    for i, control in enumerate(distill.controls):
        if control in distill.controls[:i]:
            raise study.error(f"'{control}' is there twice", f"distill.controls[{i}]", fix="Remove one of them.")
    for name, direction in study.config.objectives.items():
        if name in COSTS and direction == "max":
            raise study.error("got 'max'", f"objectives.{name}", expected="'min': it is a cost")


def _distillers(study: Study) -> None:
    seen: dict[str, int] = {}
    for i, each in enumerate(study.config.recipe.distillers):
        path = f"recipe.distillers[{i}]"
        name = each.name or bare(each.use)
        if name in seen:
            raise study.error(
                f"the name '{name}' is used twice, first by recipe.distillers[{seen[name]}]",
                path,
                fix="Give one of them a `name:`.",
            )
        if name == "task" or "." in name:  # weights call its terms `name.term`, and the task's own `task`
            raise study.error(
                f"the name '{name}'",
                path,
                expected="letters, digits, '_' and '-', and not 'task'",
                fix="Give it a `name:`, which weights and reports go by.",
            )
        seen[name] = i
        if each.weights and "weight" in each.model_fields_set:
            raise study.error("both `weight` and `weights` are given", f"{path}.weight", fix="Remove one of them.")
        for term in each.weights:
            if "." in term:
                raise study.error(f"the term '{term}'", f"{path}.weights", expected="a term's own name")
        if "teacher" in each.model_fields_set and each.teacher not in study.teachers:
            names = list(study.teachers)
            raise study.error(
                f"unknown teacher '{each.teacher}'",
                f"{path}.teacher",
                nearest=nearest(each.teacher, names),
                expected=one_of(names) if names else "a study with a `teacher:`",
            )


def formats_of(study: Study) -> list[str]:
    """The formats that the study could export: fp32, and one a quantizer."""
    config = study.config
    return [f"{bare(config.export.exporter.use)}-fp32", *(format_of(config, each) for each in config.compress.quantize)]


def format_of(config: Config, quantizer: Use) -> str:
    """Of the files that a quantizer of the study makes."""
    return f"{bare(config.export.exporter.use)}-{bare(quantizer.use)}"


def _formats(study: Study) -> None:
    export, known = study.config.export, formats_of(study)
    names = [bare(each.use) for each in study.config.compress.quantize]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise study.error(
                f"quantizer '{name}' is given twice", f"compress.quantize[{i}]", fix="Remove one of them."
            )
    if not export.formats:
        raise study.error("no format", "export.formats", expected=one_of(known))
    for i, name in enumerate(export.formats):
        if name in export.formats[:i]:
            raise study.error(f"'{name}' is given twice", f"export.formats[{i}]", fix="Remove one of them.")
    for name in export.max_drop:
        if name.endswith("-fp32"):
            problem = "a drop counts from the fp32 file's own quality"
            raise study.error(problem, f"export.max_drop.{name}", fix="Remove it; `export.parity` bounds fp32 files.")
    for name in OF_FILES:
        form = getattr(getattr(study.config.constraints, name), "format", None)
        path = f"constraints.{name}.format"
        if form is not None and form not in export.formats:
            raise study.error(f"'{form}'", path, nearest=nearest(form, export.formats), expected=one_of(export.formats))
        if form is not None and not form.endswith("-fp32") and len(study.students) > 1:
            raise study.error(f"a limit of '{form}', and {len(study.students)} students", path, expected="one student")
    for bound in ("max_drop", "min_agreement"):
        for name in getattr(export, bound):
            if name not in export.formats:
                raise study.error(
                    f"'{name}' is not exported",
                    f"export.{bound}.{name}",
                    expected=one_of(export.formats),
                )


def _compress(study: Study) -> None:
    compress = study.config.compress
    if compress.prune is not None and compress.steps:
        problem = "both `prune` and `steps` are given"
        raise study.error(problem, "compress.prune", fix="Move it into steps: `- {prune: ...}`.")
    for i, step in enumerate(compress.steps):
        if (step.prune is None) == (step.sparsify is None):
            given = "both keys" if step.prune else "no key"
            raise study.error(f"a step with {given}", f"compress.steps[{i}]", expected="either prune or sparsify")
    for (_, before), (path, step) in pairwise(compress.chain):
        if before.kind == "sparsifier" and step.kind == "pruner":
            raise study.error(
                "a pruner after a sparsifier, whose zeros its recovery would fill",
                path,
                expected="steps that prune first",
                fix="Move it above `sparsify`.",
            )


def _run(study: Study) -> None:
    run, here = study.config.run, f"live objects ({', '.join(sorted(study.live))}) exist in this process only"
    if run.devices > 1 and study.live:
        raise study.error(f"{run.devices} devices, but {here}", "run.devices", expected="1")
    check_shared(study, study.config.recipe.train.accumulate, "recipe.train.accumulate")


def check_shared(study: Study, accumulate: int, path: str) -> None:
    """Raise StudyError where a step's micro-batches cannot be shared out among the devices evenly."""
    devices = study.config.run.devices
    if accumulate % devices:
        raise study.error(
            f"{accumulate} micro-batches a step for {devices} devices (run.devices)",
            path,
            expected=f"a multiple of {devices}: each device takes as many",
        )


def bare(name: str) -> str:
    """The name within `distribution:kind:name`."""
    return name.rpartition(":")[2]
