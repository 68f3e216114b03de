"""A study against what is installed: every option by its capability's own class, and what capabilities need of one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdsearch.errors import KdsearchError, nearest, one_of
from kdsearch.store.inputs import no_folder
from kdsearch.store.shared import check_kind, is_url, reached
from kdsearch.study.code import is_code, load_code
from kdsearch.study.names import LIVE, SEARCHED, check_names, metric_uses, uses
from kdsearch.study.rules import COSTS, bare, check_shared
from kdsearch.study.schema import Recipe

if TYPE_CHECKING:
    from kdsearch.host import Host
    from kdsearch.kinds import Access, Distiller, Options, Procedure, Teacher, Training
    from kdsearch.study.recipe import DistillerSpace, RecipeSpace
    from kdsearch.study.study import Study


def check(study: Study, host: Host) -> None:
    """Raise the first error: names before options (names need no torch), options before needs."""
    check_names(study, host)
    try:
        _check_options(study, host)
        _check_spaces(study, host)
        _check_recipe(study, host)
        _check_objectives(study, host)
        _check_exporter(study, host)
        check_executor(study, host, study.config.run.workers)
        _check_machine(study)
    except KdsearchError as error:
        raise study.place(error) from error.__cause__


def space_class(study: Study, host: Host, role: str = "student") -> type[Any]:
    """The search space's class of a student's role; a Python path is loaded where it is allowed."""
    from kdsearch.host.host import base_class

    name, path = study.students[role].space, f"{study.path_of_student(role)}.space"
    if not is_code(name):
        return host.load_class("search_space", name)
    cls = load_code(name, study.allow_code, study.folder, path)
    if not (isinstance(cls, type) and issubclass(cls, base_class("search_space"))):
        raise study.error(f"'{name}' is {cls!r}", path, expected="a subclass of kdsearch.kinds.SearchSpace")
    return cls


def student_space(study: Study, host: Host, role: str = "student") -> Any:
    """The SearchSpace of a student's role over the region that the study leaves open.

    Fields that the study does not write are searched where the space declares a range, else have their default.
    """
    from kdsearch.kinds.options import declared_range, searchable

    path = study.path_of_student(role)
    live = study.live_object(path)
    if live is not None:
        return live
    cls = space_class(study, host, role)
    options = cls.options_class
    open_fields = {name: "search" for name in options.model_fields if declared_range(options, name)}
    return cls(searchable(options, {**open_fields, **study.students[role].spec}, f"{path}.spec"))


def _check_options(study: Study, host: Host) -> None:
    from kdsearch.engine.live_data import LiveOptions
    from kdsearch.kinds import NoOptions
    from kdsearch.kinds.options import searchable, validate

    for kind, use, path in uses(study):
        if use.use == LIVE and study.live_object(path) is not None:
            validate(LiveOptions if kind == "dataset" else NoOptions, use.options, f"{path}.options")
            continue
        try:
            cls = host.load_class(kind, use.use)
        except KdsearchError as error:
            raise error.at(path=f"{path}.use") from error.__cause__
        where = f"{path}.options"
        if kind in SEARCHED:
            options: Options = _one(searchable(cls.options_class, use.options, where), where)
        else:
            _refuse_ranges(study, cls.options_class, use.options, where)
            options = validate(cls.options_class, use.options, where)
        _check_marks(study, host, options, where)
        if kind == "teacher":
            _check_member(host, options, where)
            if (training := cls(options).training) is not None and training.epochs:
                _check_own_procedure(study, host, training, where)
                if study.config.run.devices > 1:
                    check_shared(study, training.accumulate, f"{where}.accumulate")


def _one(found: Any, prefix: str) -> Any:
    """Options of one candidate."""
    return found.at({dim.path: dim.range.ends[0] for dim in found.dims}, prefix)


def _refuse_ranges(study: Study, cls: type[Options], options: Any, path: str) -> None:
    from kdsearch.kinds.options import validate

    for name, value in options.items():
        is_range = isinstance(value, dict) and bool({"low", "high", "choices"} & set(value))
        if name in cls.model_fields and (value == "search" or is_range):
            try:
                validate(cls, options, path)
            except KdsearchError as error:
                if error.path.startswith(f"{path}.{name}"):
                    raise study.error(
                        f"got {value!r}" if is_range else "got 'search'",
                        f"{path}.{name}",
                        expected="a fixed value: only the options of distillers, the procedure and the student are searched",
                    ) from None


def _check_marks(study: Study, host: Host, options: Options, path: str) -> None:
    """Options that name a teacher (`TeacherNamed`): it exists and lets itself be looked into far enough."""
    from kdsearch.kinds.options import named_teachers

    for name, access in named_teachers(options).items():
        value = getattr(options, name)
        if value not in study.teachers:
            names = list(study.teachers)
            raise study.error(
                f"unknown teacher '{value}'",
                f"{path}.{name}",
                nearest=nearest(str(value), names),
                expected=one_of(names) if names else "a study with a `teacher:`",
            )
        if lacks := _lacks(study, host, value, access):
            use = study.teachers[value].use
            fits = [each for each in study.teachers if not _lacks(study, host, each, access)]
            raise study.error(
                f"teacher '{value}' ('{use}') {lacks}",
                f"{path}.{name}",
                expected=one_of(fits) if fits else ASKED[access],
            )


ASKED = {
    "text": "a teacher that writes",
    "logprobs": "a teacher that writes, with log-probabilities",
    "embed": "a teacher that embeds texts",
}


def _lacks(study: Study, host: Host, name: str, access: str) -> str:
    """What a teacher cannot do of an access that `TeacherNamed` asks for; "" where it can."""
    from kdsearch.kinds.teacher import Access, Teacher

    path = study.path_of_teacher(name)
    live = study.live_object(path) is not None
    use = study.teachers[name]
    cls: type[Teacher[Any]] = Teacher if live else host.load_class("teacher", use.use)
    if access in ("text", "logprobs") and cls.writer is Teacher.writer:
        return "writes no text"
    if access == "embed":
        return "embeds no texts" if cls.embed is Teacher.embed else ""
    given = Access.TAPS if live else _access_of(study, host, name)
    needed = Access[access.upper()]
    return f"gives {given.name}, not {needed.name}" if given < needed else ""


def _access_of(study: Study, host: Host, name: str) -> Access:
    """What a teacher by name gives, by its options."""
    from kdsearch.kinds.options import validate

    use, path = study.teachers[name], study.path_of_teacher(name)
    cls: type[Teacher[Any]] = host.load_class("teacher", use.use)
    return cls(validate(cls.options_class, use.options, f"{path}.options")).access


def _check_member(host: Host, options: Options, path: str) -> None:
    """A teacher that is a member of a search space (options `space` and `spec`): its spec by the space's own class."""
    from kdsearch.kinds.options import validate

    space, spec = getattr(options, "space", None), getattr(options, "spec", None)
    if not isinstance(space, str) or not space or is_code(space):
        return
    try:
        cls = host.load_class("search_space", space)
    except KdsearchError as error:
        raise error.at(path=f"{path}.space") from error.__cause__
    if isinstance(spec, dict):
        validate(cls.options_class, spec, f"{path}.spec")


def _check_own_procedure(study: Study, host: Host, training: Training, path: str) -> None:
    """The procedure that a teacher is trained by: it is there, its options are its own, and it trains one network alone."""
    from kdsearch.kinds import Procedure
    from kdsearch.kinds.options import validate

    name = training.procedure
    if not name:
        return
    where = f"{path}.procedure"
    try:
        cls: type[Procedure[Any]] = host.load_class("procedure", name)
    except KdsearchError as error:
        raise error.at(path=f"{where}.use") from error.__cause__
    validate(cls.options_class, dict(training.procedure_options), f"{where}.options")
    changes = cls.adapt is not Procedure.adapt or cls.grown is not Procedure.grown
    reasons = (
        (cls.roles != ("student",), f"trains {', '.join(cls.roles)}"),
        (cls.needs_teacher, "needs a teacher"),
        (changes, "changes its student's network"),
    )
    if why := next((reason for holds, reason in reasons if holds), ""):
        expected = "one of a single role, `student`, that needs no teacher and has neither `adapt` nor `grown`"
        raise study.error(f"a teacher is trained by '{name}', which {why}", f"{where}.use", expected=expected)


def _check_spaces(study: Study, host: Host) -> None:
    for role in study.students:
        student_space(study, host, role)


def _check_recipe(study: Study, host: Host) -> None:
    from kdsearch.study.recipe import RecipeSpace

    recipe = study.config.recipe
    procedure: type[Procedure[Any]] = host.load_class("procedure", recipe.procedure.use)
    _check_roles(study, procedure)
    if procedure.needs_teacher and not study.teachers:
        raise study.error(
            f"procedure '{recipe.procedure.use}' needs a teacher", "recipe.procedure.use", fix="Add a `teacher:`."
        )
    owners = []
    for i, each in enumerate(recipe.distillers):
        cls: type[Distiller[Any]] = host.load_class("distiller", each.use)
        path = f"recipe.distillers[{i}]"
        owners += [path] if cls.owns_task_loss else []
        if len(owners) > 1:
            raise study.error(
                f"'{each.use}' and {owners[0]} both replace the task's loss", path, fix="Remove one of them."
            )
        _check_access(study, host, each, cls, path)
    space = RecipeSpace.from_study(study, host)
    for distiller in space.distillers:
        _check_said(distiller, host)
        _check_terms(study, distiller)
    _check_weights(study, space)


def _check_said(distiller: DistillerSpace, host: Host) -> None:
    from kdsearch.kinds.distiller import check_said

    name = distiller.use.use
    try:
        with host.naming("distiller", name):
            for made in distiller.made:
                check_said(made, name)
    except KdsearchError as error:
        raise error.at(path=distiller.path) from error.__cause__


def _check_terms(study: Study, distiller: DistillerSpace) -> None:
    """Weights are of terms that the distiller has, as far as it names them."""
    known = distiller.terms
    for term in distiller.use.weights:
        if known and term not in known:
            raise study.error(
                f"distiller '{distiller.use.use}' has no term '{term}'",
                f"{distiller.path}.weights.{term}",
                nearest=nearest(term, known),
                expected=one_of(known),
            )


def _check_weights(study: Study, space: RecipeSpace) -> None:
    """Something is learned: not every weight is 0."""
    recipe = study.config.recipe
    own = recipe.procedure.use == Recipe().procedure.use  # what another procedure sums is its own affair
    if not _is_zero(recipe.task_weight) or not (own or recipe.distillers):
        return
    for each in space.distillers:
        use = each.use
        weights = [use.weights.get(term, use.weight) for term in each.terms] or [use.weight, *use.weights.values()]
        if not all(map(_is_zero, weights)):
            return
    raise study.error("every weight is 0", "recipe.task_weight", expected="a weight above 0, here or of a distiller")


def _is_zero(weight: Any) -> bool:
    return isinstance(weight, int | float) and not isinstance(weight, bool) and weight == 0


def _check_roles(study: Study, procedure: type[Procedure[Any]]) -> None:
    name = study.config.recipe.procedure.use
    for role in study.students:
        if role not in procedure.roles:
            raise study.error(
                f"procedure '{name}' trains no '{role}'",
                study.path_of_student(role),
                nearest=nearest(role, procedure.roles),
                expected=one_of(procedure.roles),
            )
    for role in procedure.roles:
        if role not in study.students:
            raise study.error(
                f"procedure '{name}' trains '{role}', which has no search space",
                "recipe.procedure.use",
                fix=f"Add {role}: {{space: NAME}} to `students:`.",
            )


def _check_access(study: Study, host: Host, each: Any, cls: type[Distiller[Any]], path: str) -> None:
    from kdsearch.kinds.distiller import access_needed
    from kdsearch.kinds.options import searchable

    if not cls.needs_teacher:
        return
    if each.teacher not in study.teachers:
        names = list(study.teachers)
        raise study.error(
            f"distiller '{each.use}' needs the teacher '{each.teacher}'",
            path,
            nearest=nearest(each.teacher, names),
            expected=one_of(names) if names else "a study with a `teacher:`",
        )
    options = _one(searchable(cls.options_class, each.options, f"{path}.options"), f"{path}.options")
    needed = access_needed(cls, options)
    where = study.path_of_teacher(each.teacher)
    if study.live_object(where) is not None:
        return
    use = study.teachers[each.teacher].use
    given = _access_of(study, host, each.teacher)
    if given < needed:
        raise study.error(
            f"distiller '{each.use}' needs {needed.name} of the teacher; '{use}' ({where}) gives {given.name}",
            path,
            expected=f"a teacher with access {needed.name} or more",
        )


def _check_objectives(study: Study, host: Host) -> None:
    uses = metric_uses(study)
    for name, direction in study.config.objectives.items():
        if name in COSTS:
            continue
        if (better := host.load_class("metric", uses[bare(name)][0].use).direction) != direction:
            raise study.error(f"got '{direction}'", f"objectives.{name}", expected=f"'{better}'")


def _check_exporter(study: Study, host: Host) -> None:
    """Each quantizer rewrites such files as the exporter writes."""
    name = study.config.export.exporter.use
    suffix = host.load_class("exporter", name).suffix
    for i, use in enumerate(study.config.compress.quantize):
        rewrites = host.load_class("quantizer", use.use).rewrites
        if rewrites != suffix:
            problem = f"'{use.use}' rewrites '{rewrites}' files, and exporter '{name}' writes '{suffix}' files"
            raise study.error(
                problem, f"compress.quantize[{i}]", expected=f"a quantizer of '{suffix}' files, or another exporter"
            )


def check_executor(study: Study, host: Host, workers: int) -> None:
    """Whether the executor can do what the study, and so many workers, ask of it.

    Raises:
        StudyError: live objects would have to leave this process, or an executor in it would have to keep limits or run
            several trials at once.
    """
    run, use = study.config.run, study.executor
    live = f"live objects ({', '.join(sorted(study.live))}) exist in this process only"
    if host.load_class("executor", use.use).remote:
        if study.live:
            raise study.error(f"'{use.use}', but {live}", "run.executor.use", expected="'inprocess'")
        return
    reason = live if study.live else f"executor '{use.use}' runs trials in this process"
    fix = "" if study.live else "Leave run.executor out."
    if workers > 1:
        raise study.error(f"{workers} workers, but {reason}, one at a time", "run.workers", expected="1", fix=fix)
    for name in ("trial_timeout_s", "trial_memory_bytes"):
        if (limit := getattr(run, name)) is not None:
            problem = f"got {limit:,}, a limit that only a process of its own keeps, but {reason}"
            raise study.error(problem, f"run.{name}", expected="none", fix=fix)


def _check_machine(study: Study) -> None:
    """The shared store, device and precision against this machine."""
    run = study.config.run
    if run.store is not None:
        _check_store(study, run.store)
    if run.device == "auto" and run.precision != "fp16":
        return
    import torch

    if run.device == "cuda" and not torch.cuda.is_available():
        raise study.error("got 'cuda', but torch finds no GPU", "run.device", expected="auto or cpu")
    if run.precision == "fp16" and (run.device == "cpu" or not torch.cuda.is_available()):
        raise study.error("got 'fp16', which needs a GPU", "run.precision", expected="fp32 or bf16 on a CPU")


def _check_store(study: Study, store: str) -> None:
    """A folder (or one that can be made), or a URL whose kind is installed, of a server that answers where there is one to ask."""
    if not is_url(store):
        if problem := no_folder(study.folder / store):
            raise study.error(f"'{store}' {problem}", "run.store", expected="a folder or a URL")
        return
    try:
        check_kind(store)
        with reached(store):
            pass
    except KdsearchError as error:
        raise study.place(error.at(path="run.store")) from error.__cause__
