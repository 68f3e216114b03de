"""What a distiller does in the dry step: what it raises, whoever calls it, is said with its name and option, and so are
weights of terms that it does not give.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any

from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.terms import check_scalars
from kdsearch.errors import (
    INTERRUPTS,
    KdsearchError,
    PluginError,
    StorageError,
    TrialError,
    UnreachableError,
    UserError,
    exited,
    nearest,
    one_of,
    told,
)
from kdsearch.kinds import Distiller
from kdsearch.kinds.distiller import check_roles, check_terms
from kdsearch.kinds.model import UnaskedTapError
from kdsearch.study.recipe import ResolvedDistiller
from kdsearch.training.few_samples import NotAskedError
from kdsearch.training.materials import Materials
from kdsearch.training.train import blamed

# A loss that is not finite, a program that is ended, a disk or endpoint that is away: a step alone cannot judge them.
PASSES = (TrialError, NotAskedError, UnreachableError, StorageError, MemoryError)


class BlamedError(KdsearchError):
    """What a distiller raised, and which one. One of ours, so that nobody on its way names it anew."""

    def __init__(self, each: ResolvedDistiller, error: BaseException) -> None:
        super().__init__(told(error))
        self.each, self.error = each, error


def blaming(each: ResolvedDistiller, distiller: Distiller[Any]) -> set[str]:
    """What the distiller raises from now on is known to be its own, whoever calls it. Returns the terms that it will give."""
    given: set[str] = set()

    def guarded(name: str) -> Callable[..., Any]:
        own = getattr(distiller, name)

        @wraps(own)
        def call(*arguments: Any) -> Any:
            try:
                kept = distiller.state_dict().keys()
                found = own(*arguments)
                _check_kept(each, distiller, name, kept)
                if name == "terms":
                    check_terms(found, each.name)
                    check_scalars(found, f"distiller '{each.name}'")
                    given.update(found)
                return found
            except (*PASSES, *INTERRUPTS, BlamedError):
                raise
            except SystemExit as error:
                raise exited(f"distiller '{each.name}'", error) from error
            except BaseException as error:
                raise BlamedError(each, error) from error

        return call

    for name in ("prepare", "terms", "on_step_end", "on_epoch_end"):
        setattr(distiller, name, guarded(name))
    return given


def _check_kept(each: ResolvedDistiller, distiller: Distiller[Any], method: str, before: Collection[str]) -> None:
    """Raise PluginError for a parameter or buffer that was not there before: a training that was stopped could not go on."""
    if late := next((name for name in distiller.state_dict() if name not in before), None):
        problem = f"`{method}` of distiller '{each.name}' registers '{late}'"
        raise PluginError(problem, expected="what it keeps registered in __init__ or build, be it empty")


def check_weighted(materials: Materials, terms: Mapping[str, Collection[str]]) -> None:
    """Raise StudyError for a weight of a term that its distiller did not give, where it gave some. terms: by distiller."""
    for each in materials.recipe.distillers:
        given = terms.get(each.name, ())
        for term in each.weights:
            if given and term not in given:
                raise materials.study.error(
                    f"distiller '{each.use.use}' has no term '{term}'",
                    f"{each.path}.weights.{term}",
                    nearest=nearest(term, given),
                    expected=one_of(given),
                )


def check_asked(materials: Materials, setup: LiveSetup, before: Collection[str]) -> None:
    """Raise PluginError for taps that a distiller asks of a role which no model has. before: the roles before the first phase.

    For after the phases: a procedure may have made roles of its own, such as a previous self.
    """
    known = {"student", "teacher", *before, *setup.models, *setup.teachers, *materials.study.teachers}
    for each in materials.recipe.distillers:
        if each.name in setup.distillers:
            try:
                check_roles(setup.distillers[each.name].taps(), known, f"distiller '{each.name}'")
            except PluginError as error:
                raise error.at(path=each.path) from None


def said_of(materials: Materials, each: ResolvedDistiller, error: BaseException) -> UserError:
    """What a distiller raised, with its name and the option at fault where that can be known."""
    if isinstance(error, UnaskedTapError):
        problem = f"distiller '{each.name}' reads '{error.name}' of '{error.owner}' without asking for it"
        expected = "an option of type StudentTap or TeacherTap: it asks for the tap that it names"
        found: UserError = PluginError(problem, path=each.place_of(f"'{error.name}'"), expected=expected)
    elif isinstance(error, UserError):
        found = blamed(each, error)
        if lacks := re.search(r"no model in the role '([^']+)'", error.problem):
            found.fix = _fix_of_role(materials, lacks[1])
    else:
        found = PluginError(f"distiller '{each.name}' fails at its first step: {told(error)}", path=each.path)
    found.__cause__ = error if found is not error else error.__cause__
    return found


def _fix_of_role(materials: Materials, role: str) -> str:
    host = materials.host
    found = []
    for name in host.names("procedure"):
        try:
            found += [name] if role in host.load_class("procedure", name).roles else []
        except PluginError:  # another plugin's, and broken
            continue
    return f"Set recipe.procedure.use: {one_of(found)}." if found else ""
