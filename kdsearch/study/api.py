"""A study built in Python, with live objects where a file would name capabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import is_lazy

from kdsearch.errors import DataError, StudyError
from kdsearch.hooks import KINDS
from kdsearch.host.host import base_class
from kdsearch.kinds import Capability, Model, SearchSpace
from kdsearch.study import study as checked
from kdsearch.study.load import Source
from kdsearch.study.names import LIVE
from kdsearch.study.reading import make_study

if TYPE_CHECKING:
    from kdsearch.host import Host


def make(
    teacher: Any = None,
    train: Any = None,
    val: Any = None,
    test: Any = None,
    student: Any = None,
    recipe: Any = None,
    data: str | Mapping[str, Any] | None = None,
    host: Host | None = None,
    seed: int | None = None,
    **sections: Any,
) -> checked.Study:
    """A checked Study; every argument may be what the file would say (a name, or a section as a dict) or a live object.

    Args:
        teacher: a name, a module, a `kinds.Model`, or a section with one of them as `use`.
        train, val, test: samples with `len()` and `[i]`, or arrays; what is left out is held out of `train`.
        student: a search space's name, class or object, a section; or a module or `kinds.Model`, the one architecture, which
            starts from the weights that it has now.
        recipe: a section, or a list of distillers (names, classes, sections); default: `kd` where there is one teacher.
        data: further keys of the section, such as `{"labeled": 0.1}`; or all of it or a name, without `train`.
        host: what is installed; None = `Host.load()`.
        sections: the file's other sections; a capability's class may stand wherever its name would.

    Raises:
        StudyError, PluginError: naming the key path.
    """
    from kdsearch.host import Host as Installed

    live: dict[str, Any] = {}
    raw: dict[str, Any] = {
        "data": _data(train, val, test, {"use": data} if isinstance(data, str) else dict(data or {}), live)
    }
    if teacher is not None:
        raw["teacher"] = _teacher(teacher, "teacher", live)
    if "teachers" in sections:
        raw["teachers"] = {
            name: _teacher(each, f"teacher.{name}", live) for name, each in sections.pop("teachers").items()
        }
    if student is not None:
        raw["student"] = _student(student, "space", live)
    if "students" in sections:
        raw["students"] = {
            role: _student(each, f"space.{role}", live) for role, each in sections.pop("students").items()
        }
    if recipe is None and "teachers" in raw:
        expected = "distillers, each with its `teacher`; or {}, where students learn from the labels alone"
        raise StudyError("several teachers, and nobody learns from them", path="recipe", expected=expected)
    raw["recipe"] = _recipe(recipe, teacher is not None)
    plain = _named({**raw, **sections}, live)
    return make_study(Source(plain, {}), host or Installed.load(), seed=seed, live=live)


def _data(train: Any, val: Any, test: Any, section: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    given = {name: each for name, each in (("train", train), ("val", val), ("test", test)) if each is not None}
    if not given and "use" not in section:
        raise StudyError("no data are given", path="train", expected="train=..., or data={'use': NAME, ...}")
    if not given:
        return section
    if "use" in section:
        raise StudyError("both live samples and a data set are given", path="data.use", expected="one of them")
    if train is None:
        raise StudyError("val or test without train", path="data", expected="train=...")
    live["data"] = given
    return {"use": LIVE, **section}


def _teacher(teacher: Any, key: str, live: dict[str, Any]) -> Any:
    if isinstance(teacher, str):
        return {"use": teacher}
    if isinstance(teacher, Mapping):
        return {**teacher, **(_teacher(teacher["use"], key, live) if "use" in teacher else {})}
    if isinstance(teacher, type) and issubclass(teacher, Capability):
        return {"use": teacher}
    if not isinstance(teacher, nn.Module | Model):
        raise StudyError(f"got {teacher!r}"[:200], path=key, expected="a module, a kinds.Model, a name or a section")
    _check_network(teacher, key.replace("teacher.", "teachers."))
    live[key] = teacher
    return {"use": LIVE}


def _student(student: Any, key: str, live: dict[str, Any]) -> Any:
    if isinstance(student, nn.Module | Model):
        from kdsearch.study.live_student import LiveNetwork

        path = "student" if key == "space" else key.replace("space.", "students.")
        _check_network(student, path)
        try:
            student = LiveNetwork(student)
        except DataError as error:
            raise error.at(path=path) from error.__cause__
    if isinstance(student, SearchSpace):
        live[key] = student
        return {"space": LIVE}
    return student if isinstance(student, Mapping) else {"space": student}


def _check_network(network: nn.Module | Model, path: str) -> None:
    module = network.module if isinstance(network, Model) else network
    if name := next((name for name, each in module.named_parameters() if is_lazy(each)), ""):
        raise StudyError(f"weight '{name}' has no shape yet", path=path, fix="Run the network once on a sample.")


def _recipe(recipe: Any, has_teacher: bool) -> Any:
    if recipe is None:
        return {"distillers": [{"use": "kd"}]} if has_teacher else {}
    if isinstance(recipe, Mapping):
        return recipe
    if isinstance(recipe, Sequence) and not isinstance(recipe, str):
        return {"distillers": [each if isinstance(each, Mapping) else {"use": each} for each in recipe]}
    raise StudyError(f"got {recipe!r}", path="recipe", expected="a section or a list of distillers")


def _named(value: Any, live: dict[str, Any], path: str = "") -> Any:
    """JSON values, every capability class replaced by a name under which `live` has it."""
    if isinstance(value, Mapping):
        named = {
            str(_named(name, live, path) if isinstance(name, type) else name): each for name, each in value.items()
        }
        return {name: _named(each, live, f"{path}.{name}" if path else name) for name, each in named.items()}
    if isinstance(value, list | tuple):
        return [_named(each, live, f"{path}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, type) and issubclass(value, Capability):
        kinds = [kind for kind in KINDS if issubclass(value, base_class(kind))]
        for kind in kinds:
            if live.setdefault(f"{kind}:{value.__name__}", value) is not value:
                raise StudyError(f"two classes are called '{value.__name__}'", path=path, fix="Rename one of them.")
        return value.__name__
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise StudyError(f"got {value!r}", path=path, expected="a JSON value or a capability's class")


Study = make  # `kdsearch.Study(teacher=..., train=..., ...)` reads as what it gives
