"""Every capability that a study names, and whether it is installed: no capability is imported, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kdsearch.errors import KdsearchError, UnsafeCodeError, nearest, one_of
from kdsearch.search.ranks import Weight
from kdsearch.study.code import allow, code_in, is_code
from kdsearch.study.rules import COSTS, bare, formats_of
from kdsearch.study.schema import Use

if TYPE_CHECKING:
    from kdsearch.host import Host
    from kdsearch.study.study import Study

# composite -> the proxies whose ranks it is a mean of (search/ranks.py), with their weights. `auto`: see docs/scores.md
COMPOSITES: Mapping[str, Mapping[str, Weight]] = {
    "auto": {"relation": Weight(), "params": Weight(own=1.0), "synflow": Weight(0.125)}
}
SEARCHED = ("distiller", "procedure")  # kinds whose options may be ranges; a student's spec is the third place
LIVE = "live"  # `use: live`: an object handed over from Python


def uses(study: Study) -> Iterator[tuple[str, Use, str]]:
    """(kind, use, key path) of every capability with options, search spaces excepted."""
    config = study.config
    yield "dataset", config.data, "data"
    for i, recipe in enumerate(config.data.recipes):
        yield "data_recipe", recipe, f"data.recipes[{i}]"
    if config.task:
        yield "task", config.task, "task"
    for name, teacher in study.teachers.items():
        yield "teacher", teacher, study.path_of_teacher(name)
    for i, metric in enumerate(config.metrics):
        yield "metric", metric, f"metrics[{i}]"
    yield "procedure", config.recipe.procedure, "recipe.procedure"
    for i, distiller in enumerate(config.recipe.distillers):
        yield "distiller", distiller, f"recipe.distillers[{i}]"
    for use, path in proxies(study):
        yield "proxy", use, path
    yield "controller", config.search.strategy, "search.strategy"
    yield "controller", config.refine.controller, "refine.controller"
    yield "stopper", config.refine.stopper, "refine.stopper"
    for path, step in config.compress.chain:
        yield step.kind, step.use, path
    for i, quantizer in enumerate(config.compress.quantize):
        yield "quantizer", quantizer, f"compress.quantize[{i}]"
    yield "exporter", config.export.exporter, "export.exporter"
    yield "executor", study.executor, "run.executor"
    for i, logger in enumerate(config.run.log):
        yield "logger", logger, f"run.log[{i}]"


def proxies(study: Study) -> list[tuple[Use, str]]:
    """The proxies of the study, with the key path of each: a composite stands for its terms, and each is there once.

    A term that the study also gives by itself has the options given there.
    """
    found: dict[str, tuple[Use, str]] = {}
    for use, path in _asked(study):
        for name in COMPOSITES.get(use.use, (use.use,)):
            if name == use.use or name not in found:
                found[name] = (use if name == use.use else Use(use=name), path)
    return list(found.values())


def proxy_weights(study: Study) -> dict[str, Weight]:
    """Proxy -> the weight of its rank in the combined score: 1 each, for a composite's terms theirs."""
    weights: dict[str, Weight] = {}
    for use, _ in _asked(study):
        for name, weight in COMPOSITES.get(use.use, {use.use: Weight()}).items():
            weights[name] = weights[name] + weight if name in weights else weight
    return weights


def score_name(study: Study) -> str:
    """What the score is called that a search chooses by: `auto`, or of several `relation + params`."""
    return " + ".join(use.use for use, _ in _asked(study))


def _asked(study: Study) -> list[tuple[Use, str]]:
    """As `search.proxy` has them: composites by their own names."""
    asked = study.config.search.proxy
    if isinstance(asked, str | Use):
        return [(Use(use=asked) if isinstance(asked, str) else asked, "search.proxy")]
    return [(Use(use=each) if isinstance(each, str) else each, f"search.proxy[{i}]") for i, each in enumerate(asked)]


def check_code(study: Study) -> None:
    """Raise StudyError for code in the place of a capability's name, where allowing it would not help; UnsafeCodeError for what is
    code and not allowed.
    """
    for kind, use, path in uses(study):
        if is_code(use.use):
            raise study.error(
                f"'{use.use}' is code, and a {kind.replace('_', ' ')} goes by its name",
                _name_path(study, path),
                fix="Put it into an installed plugin (docs/plugins.md), or hand it over from Python.",
            )
    for path, text in code_in(study.source.raw, ""):
        try:
            allow(text, study.allow_code, path)
        except UnsafeCodeError as error:
            raise study.place(error) from None


def check_names(study: Study, host: Host) -> None:
    """Raise PluginError or StudyError for the first name that is not installed, in the study's order."""
    for kind, use, path in uses(study):
        if use.use == LIVE and kind in ("dataset", "teacher") and study.live_object(path) is not None:
            continue
        if use.use == LIVE and kind in ("dataset", "teacher"):
            raise study.error(
                f"'{LIVE}' stands for an object handed over from Python",
                path,
                expected="a name",
                fix="A study with live objects is run by the program that has them: kdsearch.run(study, folder).",
            )
        also = tuple(COMPOSITES) if kind == "proxy" else ()
        _find(study, host, kind, use.use, _name_path(study, path), also)
    seen: dict[str, str] = {}
    for use, path in _asked(study):
        if use.use in seen:
            raise study.error(
                f"'{use.use}' is there twice: {seen[use.use]} names it too", path, expected="each proxy once"
            )
        seen[use.use] = path
        if use.use in COMPOSITES and use.options:
            terms = one_of(COMPOSITES[use.use])
            raise study.error(
                f"'{use.use}' has no options", f"{path}.options", expected=f"options of its terms: {terms}"
            )
    for role, student in study.students.items():
        path = study.path_of_student(role)
        if student.space == LIVE and study.live_object(path) is not None:
            continue
        if not is_code(student.space):
            _find(study, host, "search_space", student.space, f"{path}.space")
    _metrics(study)
    _objectives(study, host)
    _formats(study, host)


def _name_path(study: Study, path: str) -> str:
    return path if f"{path}.use" not in study.lines and path.startswith("search.proxy") else f"{path}.use"


def _find(study: Study, host: Host, kind: str, name: str, path: str, also: Sequence[str] = ()) -> None:
    if (kind, name) in host.live:
        return
    try:
        host.find(kind, name, also)
    except KdsearchError as error:
        error.path = error.path or path
        raise study.place(error) from None


def _metrics(study: Study) -> None:
    seen: dict[str, str] = {}
    for i, use in enumerate(study.config.metrics):
        name = bare(use.use)
        if name in seen:
            problem = f"'{name}' is there twice: {seen[name]} names it too"
            raise study.error(problem, f"metrics[{i}]", expected="each metric once")
        seen[name] = f"metrics[{i}]"


def metric_uses(study: Study) -> dict[str, tuple[Use, str]]:
    """The metrics that the study names, by the names of their values: how it names each, and where.

    A full name and options that `metrics` has hold for an objective of that name, too.
    """
    found = {bare(use.use): (use, f"metrics[{i}]") for i, use in enumerate(study.config.metrics)}
    for name in study.config.objectives:
        if name not in COSTS:
            found.setdefault(bare(name), (Use(use=name, options={}), f"objectives.{name}"))
    return found


def _objectives(study: Study, host: Host) -> None:
    known, uses, seen = [*host.names("metric"), *COSTS], metric_uses(study), dict[str, str]()
    for name in study.config.objectives:
        path, own = f"objectives.{name}", bare(name)
        if name == own and name not in known:
            raise study.error(
                f"unknown objective '{name}'",
                path,
                nearest=nearest(name, known),
                expected=f"a metric or a cost: {one_of(known)}",
            )
        if name in COSTS:
            continue
        use, place = uses[own]
        if name != own or place == path:
            _find(study, host, "metric", name, path)
        is_another = name != own and host.find("metric", name) != host.find("metric", use.use)
        if own in seen or is_another:
            problem = f"'{own}' is there twice: {seen.get(own, place)} names it too"
            raise study.error(problem, path, expected="each metric once")
        seen[own] = path


def _formats(study: Study, host: Host) -> None:
    known, exporter = formats_of(study), bare(study.config.export.exporter.use)
    for i, name in enumerate(study.config.export.formats):
        if name in known:
            continue
        path = f"export.formats[{i}]"
        quantizer = name.removeprefix(f"{exporter}-")
        if quantizer != name and quantizer in host.names("quantizer"):
            raise study.error(
                f"'{name}' needs the quantizer '{quantizer}'",
                path,
                fix=f"Add {{use: {quantizer}}} to compress.quantize.",
            )
        is_exporter = name in host.names("exporter")
        fix = (
            f"'{name}' is an exporter: set export.exporter to {{use: {name}}}, and write {name}-fp32."
            if is_exporter
            else ""
        )
        problem = f"unknown format '{name}'"
        raise study.error(problem, path, nearest=nearest(name, known), expected=one_of(known), fix=fix)
