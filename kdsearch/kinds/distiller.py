"""Distiller: named loss terms from one step; may own trained modules and buffers. Setup: what it, or a procedure, begins with."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, ClassVar, Generic, Protocol

from torch import Tensor, nn

from kdsearch.errors import PluginError, nearest, one_of
from kdsearch.kinds.data import DataSource
from kdsearch.kinds.model import Model, TapShapes
from kdsearch.kinds.options import Capability, O, Options, requested_taps
from kdsearch.kinds.phase import Factor, Feed, Optim
from kdsearch.kinds.services import Services
from kdsearch.kinds.step import Clock, Step
from kdsearch.kinds.task import IO, Task
from kdsearch.kinds.teacher import Access
from kdsearch.limits import TERM, TERM_IN_WORDS

ANSWERED = ("logits", "scores", "value", "embedding")  # outputs of the tasks there are: whoever answers gives them


class Distiller(nn.Module, Capability, Generic[O]):
    """Parameters it creates in `build` are trained with the student and checkpointed, buffers are checkpointed; neither is
    exported. Not its work: weights, the total loss, changes to the student.
    """

    access: ClassVar[Access] = Access.LOGITS  # least access to the teacher; a TeacherTap of no output implies TAPS
    needs_teacher: ClassVar[bool] = True
    owns_task_loss: ClassVar[bool] = False  # its term `task` replaces the task's own
    paper_weights: ClassVar[Mapping[str, float]] = {}  # the paper's own constants by term; see `constants`
    term_names: ClassVar[tuple[str, ...]] = ()  # every name that `terms` may give; see `named_terms`
    paper_recipe: ClassVar[
        Mapping[str, Any]
    ] = {}  # what a study's `recipe:` says to train as the paper does, beside its use

    def __init__(self, options: O) -> None:
        super().__init__()
        self.options = options

    def constants(self) -> Mapping[str, float]:
        """The paper's own constants by term, for `normalize: false`: `paper_weights`, unless these options say others."""
        return self.paper_weights

    def named_terms(self) -> tuple[str, ...]:
        """Every name that `terms` may give: `term_names`, else those of `constants`; () = it does not say."""
        return self.term_names or tuple(self.constants())

    def taps(self) -> dict[str, list[str]]:
        """Role ("student", "teacher") -> taps it reads. Default: the StudentTap and TeacherTap options."""
        return requested_taps(self.options)

    def lr_factors(self) -> Mapping[str, Factor]:
        """Glob on its own parameters' names -> factor on the learning rate, a number or a function of progress; 0 = frozen. Of any
        optimiser that moves them, unless its `scale` says another."""
        return {}

    def build(self, shapes: TapShapes) -> None:
        """Create own modules and buffers. Raise TapShapeError, naming tap and shape, when shapes do not fit."""

    def prepare(self, setup: Setup) -> None:
        """Once before the first step, into own buffers; not on resume."""

    @abstractmethod
    def terms(self, step: Step) -> dict[str, Tensor]:
        """Unweighted scalars, means over the micro-batch. The teacher's tensors are constants."""

    def on_step_end(self, step: Step) -> None:
        """After the optimiser's step: queues, memories. `step` is of the last micro-batch, `gather` of each device's last."""

    def on_epoch_end(self, clock: Clock) -> None:
        """After each epoch."""

    def forward(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is not called; the engine asks for terms(step)")


class Setup(Services, Protocol):
    """What a procedure builds its phases from."""

    @property
    def task(self) -> Task[Any]: ...
    @property
    def data(self) -> DataSource: ...
    @property
    def io(self) -> IO: ...
    @property
    def models(self) -> dict[str, Model]:
        """By role. A role that the procedure trains may be replaced or changed; teachers are constants."""
        ...

    @property
    def distillers(self) -> Mapping[str, Distiller[Any]]: ...
    @property
    def teacher_of(self) -> Mapping[str, str]:
        """Distiller -> the role of the teacher it learns from."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """The recipe's weights: `task`, `<distiller>`, `<distiller>.<term>`."""
        ...

    @property
    def normalize(self) -> bool: ...
    @property
    def epochs(self) -> int:
        """The recipe's whole length, in passes over the training split."""
        ...

    @property
    def study(self) -> Services:
        """The same services for what depends on teachers and data alone: `once` is kept for all trainings of the study, `rng` is
        the same in all of them, and `predict` answers for teachers."""
        ...

    def part(self, role: str, tap: str) -> nn.Module:
        """The submodule behind a tap of a role's model, a teacher's too: to call a stage, or read the classifier's weight."""

    def feed(self, split: str, **changes: Any) -> Feed:
        """The study's batch size and shuffling, changed."""

    def optim(self, modules: Mapping[str, nn.Module], **changes: Any) -> Optim:
        """The study's optimiser, changed."""

    def fresh(self, role: str) -> Model:
        """A freshly initialised model of a role's architecture, adapted as the role's own. Each call draws other weights."""

    def freeze(self, role: str, model: Model) -> None:
        """A constant model under a new name (a previous self). Raises for the name of a trained role."""

    def note(self, text: str) -> None:
        """A line that the result says of this training, in JSON and page: what was found, dropped or grown, and is no loss."""

    def score(self, metric: str, role: str, split: str = "val") -> float:
        """A metric of a role's model now. Never the test split."""


def check_said(made: Distiller[Any], name: str) -> None:
    """Raise PluginError where what a distiller says of itself, its taps and its terms, is none of that."""
    taps: object = made.taps()
    if not isinstance(taps, Mapping) or not all(map(_are_names, taps.values())):
        raise PluginError(f"`taps` of distiller '{name}' gives {taps!r}", expected="a list of names by role")
    constants: object = made.constants()
    if not isinstance(constants, Mapping) or not all(map(_is_number, constants.values())):
        raise PluginError(f"`constants` of distiller '{name}' gives {constants!r}", expected="a finite number by term")
    _check_names(constants, f"`constants` of distiller '{name}' has")
    terms: object = made.named_terms()
    if not _are_names(terms):
        raise PluginError(f"`named_terms` of distiller '{name}' gives {terms!r}", expected="a list of names")
    _check_names(terms, f"`named_terms` of distiller '{name}' gives")  # type: ignore[arg-type]


def check_roles(taps: Iterable[str], known: Collection[str], who: str) -> None:
    """Raise PluginError for taps of a role that nobody has. taps: by role. who: whose they are, such as `distiller 'x'`."""
    for role in taps:
        if role not in known:
            problem = f"`taps` of {who} gives taps of the role {role!r}"
            raise PluginError(problem, nearest=nearest(str(role), known), expected=one_of(known))


def check_terms(given: object, name: str) -> None:
    """Raise PluginError where `terms` of the distiller of this name gave no mapping, nothing, or a term that no weight can name."""
    if not isinstance(given, Mapping):
        problem = f"distiller '{name}' gave {type(given).__name__}"
        raise PluginError(problem, expected="a mapping of names to scalars")
    if not given:
        raise PluginError(f"distiller '{name}' gives no terms", expected="one or more named scalars")
    if other := [term for term in given if not isinstance(term, str)]:
        problem = f"distiller '{name}' gave a term named {other[0]!r}"
        raise PluginError(problem, expected="a mapping of names to scalars")
    _check_names(given, f"distiller '{name}' gave")


def check_factors(made: Distiller[Any]) -> None:
    """Raise PluginError where `lr_factors` of a built distiller gives no factors, or one of no parameter of its own."""
    given: object = made.lr_factors()
    if not isinstance(given, Mapping):
        expected = "a factor on the learning rate by glob on its own parameters' names"
        raise PluginError(f"`lr_factors` gives {given!r}", expected=expected)
    names = [name for name, _ in made.named_parameters()]
    for glob, factor in given.items():
        if not isinstance(glob, str) or not any(fnmatchcase(name, glob) for name in names):
            expected = f"a glob on {one_of(names)}" if names else "none: it has no parameters"
            raise PluginError(
                f"`lr_factors` gives a factor for {glob!r}, which matches no parameter", expected=expected
            )
        value = factor(0.0) if callable(factor) else factor
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < math.inf:
            expected = "a finite number of at least 0, or a function of progress that gives one"
            raise PluginError(f"`lr_factors` gives {value!r} for '{glob}'", expected=expected)


def _check_names(terms: Iterable[object], whose: str) -> None:
    for term in terms:
        if not isinstance(term, str) or not re.fullmatch(TERM, term):
            raise PluginError(f"{whose} a term named {term!r}", expected=f"a name of {TERM_IN_WORDS}")


def _are_names(given: object) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(each, str) for each in given)


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def access_needed(cls: type[Distiller[Any]], options: Options) -> Access:
    """The least access to the teacher that a distiller needs with these options. An output that it names as a tap is no tap."""
    looked_into = set(requested_taps(options).get("teacher", ())) - {*ANSWERED}
    return max(cls.access, Access.TAPS) if looked_into else cls.access
