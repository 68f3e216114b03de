"""Study: what a study file or Python call asks for, checked, with the lines it was written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdsearch.errors import KdsearchError, StudyError
from kdsearch.study.load import Source
from kdsearch.study.schema import Config, Student, Teacher, Use
from kdsearch.study.words import study_words

if TYPE_CHECKING:
    from kdsearch.host import Host


class Override(NamedTuple):
    """What the command line says in place of the file: as a setting, `key.path=value`, and as it was typed."""

    setting: str
    typed: str

    @property
    def path(self) -> str:
        return self.setting.partition("=")[0].strip()


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        config: the whole file, every default filled in.
        source: as written, with lines.
        allow_code: strings that the command line allows to run as code.
        live: objects handed over from Python, standing where the config says `use: live`: `data`, `teacher` (or
            `teacher.NAME`), `space` (or `space.ROLE`), and classes as `KIND:NAME`.
    """

    config: Config
    source: Source
    allow_code: tuple[str, ...] = ()
    live: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()

    def __repr__(self) -> str:
        return study_words(self.config, self.teachers, self.students)

    @property
    def file(self) -> Path | None:
        return self.source.file

    @property
    def lines(self) -> Mapping[str, int]:
        return self.source.lines

    @property
    def folder(self) -> Path:
        """What the study's relative paths start from."""
        return self.source.base or (self.file.parent if self.file else Path())

    @property
    def teachers(self) -> dict[str, Teacher]:
        """By name; a study with one `teacher` calls it `main`."""
        main = {"main": self.config.teacher} if self.config.teacher else {}
        return {**main, **self.config.teachers}

    @property
    def students(self) -> dict[str, Student]:
        """By role; a study with one `student` calls it `student`."""
        one = {"student": self.config.student} if self.config.student else {}
        return {**one, **self.config.students}

    @property
    def executor(self) -> Use:
        """Where trials run: as stated, else in processes of their own, or here where live objects are handed over."""
        return self.config.run.executor or Use(use="inprocess" if self.live else "processes")

    def path_of_teacher(self, name: str) -> str:
        return "teacher" if name == "main" and self.config.teacher else f"teachers.{name}"

    def path_of_student(self, role: str) -> str:
        return "student" if role == "student" and self.config.student else f"students.{role}"

    def live_object(self, path: str) -> Any | None:
        """The live object that stands at `data`, `teacher`, `teachers.NAME`, `student` or `students.ROLE`, or None."""
        kind, _, name = path.partition(".")
        getattr(self.config, kind)  # an object is as closed to a stage as the section that it stands in
        kind = {"teachers": "teacher", "student": "space", "students": "space"}.get(kind, kind)
        return self.live.get(f"{kind}.{name}" if name else kind)

    def host(self, host: Host) -> Host:
        """The host with the capability classes that this study brings."""
        classes = {tuple(name.split(":", 1)): cls for name, cls in self.live.items() if ":" in name}
        return host.with_classes(classes) if classes else host  # type: ignore[arg-type]

    def resolved_yaml(self) -> str:
        """The whole study with every default, as a study file."""
        from ruamel.yaml import YAML

        whole = self.config.model_dump(mode="json", exclude_none=True)
        for each in whole["recipe"]["distillers"]:
            del each["weight" if each["weights"] else "weights"]  # one excludes the other
            if each["teacher"] not in self.teachers:
                del each["teacher"]
        yaml = YAML()
        yaml.width = 120
        text = StringIO()
        yaml.dump(whole, text)
        return text.getvalue()

    def error(self, problem: str, path: str, expected: str = "", nearest: str = "", fix: str = "") -> StudyError:
        """A StudyError at a key path, with file and line."""
        error = StudyError(problem, path=path, expected=expected, nearest=nearest, fix=fix)
        self.place(error)
        return error

    def place(self, error: KdsearchError) -> KdsearchError:
        """An error with file and line of its key path filled in. Returns it, to be raised."""
        return located(error, self.source, self.overrides)


def located(error: KdsearchError, source: Source, overrides: Iterable[Override]) -> KdsearchError:
    """The error with the place that its key path was written in: an option, or file and line."""
    for each in reversed([*overrides]):  # the last one of a key holds
        if _is_about(error.path, each.path):
            return error.at(file=each.typed)
    if error.path not in source.lines:  # a section of which the file has nothing: what is wrong was written below it
        for each in reversed([*overrides]):
            if each.path.startswith((f"{error.path}.", f"{error.path}[")):
                return error.at(file=each.typed)
    if source.file is None:
        return error
    return error.at(file=source.file, line=source.line(error.path) or 1)


def _is_about(path: str, setting: str) -> bool:
    """Whether an error at a key path is of what a `--set` wrote: that key, one below it, or the range it is a part of."""
    owner, _, last = setting.rpartition(".")
    inside = path.startswith((f"{setting}.", f"{setting}["))
    return path == setting or inside or (last in ("low", "high", "log", "choices") and path == owner)
