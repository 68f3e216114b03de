"""Every error a user can meet, and the one place where its text is made.

KdsearchError (exit 1)
├── UserError (exit 2)          the user's input is wrong: no traceback
│   ├── StudyError              study file: unknown key, wrong type, impossible combination
│   ├── DataError               a data set: missing file, wrong shape, label out of range
│   ├── ArtifactError           a checkpoint, artifact or weights file that is corrupt, foreign or newer
│   ├── TapError                a tap that a model lacks or whose shape does not fit
│   ├── PluginError             a capability that is unknown, ambiguous or broken
│   └── UnsafeCodeError         code named in a study without --allow-code
├── RefusedError (exit 3)       a gate refused a file, or nothing is feasible
├── BusyError                   another process holds the study's folder
├── StorageError                the disk is full or not writable
├── UnreachableError            a teacher, or the trials' database, does not answer; run again, the study goes on
├── TrialError                  a trial failed (NaN, a plugin raised); the study goes on
│   └── RankLostError           another process of the same training ended
└── UndeclaredReadError         a stage reads a section of the study that its key does not hold: a fault of its code

InterruptedRun (exit 130)       Ctrl-C or SIGTERM, after a checkpoint: no Exception, as KeyboardInterrupt is none

This file imports the standard library only: it is on the path of `kdsearch --help`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 1200  # characters of one part of a message
_BREAKS = re.compile(r"[\t\n\r\u200b-\u200f\u2028\u2029]")


def printable(text: str) -> str:
    """The text without what would steer a terminal: control characters but line breaks, and lone surrogates, as escapes."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


FIELDS = ("problem", "file", "line", "path", "expected", "nearest", "fix")


class KdsearchError(Exception):
    """Where, value, what was expected, nearest name, what to do.

    Args:
        problem: what is wrong, with the value in quotes.
        file, line, path: where: a file, a 1-based line, a key path such as ``recipe.distillers[0].use``.
        expected: what would have been right.
        nearest: the nearest valid name, or "".
        fix: the command or edit that mends it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        line: int | None = None,
        path: str = "",
        expected: str = "",
        nearest: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(problem)
        self.problem, self.file, self.line, self.path = problem, file, line, path
        self.expected, self.nearest, self.fix = expected, nearest, fix

    def at(self, *, file: object = None, line: int | None = None, path: str = "") -> KdsearchError:
        """This error with its place filled in where it had none. Returns itself, to be raised."""
        if file is None or self.file in (None, file):  # else the line is of another file
            self.line = self.line or line
        self.file, self.path = self.file or file, self.path or path
        return self

    def facts(self) -> dict[str, Any]:
        """The error as JSON values: `type`, and every field."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return {"type": type(self).__name__, **fields, "file": None if self.file is None else str(self.file)}

    def __str__(self) -> str:
        where = str(self.file) if self.file is not None else ""
        if where and self.line:
            where += f":{self.line}"
        parts = [part for part in (where, self.path, self.problem) if part]
        head = ": ".join(map(_cut, parts) if isinstance(self, UserError) else parts)
        tail = ""
        if self.nearest:
            tail += f"; did you mean '{self.nearest}'?"
        if self.expected and self.expected != self.nearest:
            tail += ("" if tail else ".") + f" Expected {self.expected}."
        if self.fix:
            tail += ("" if tail else ".") + f" {self.fix}"
        return printable(head + tail)


def _cut(text: str) -> str:
    """A part of a message about the user's input: one line, shortened where the input's text would bury the rest."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}... ({len(text):,} characters)"
    return _BREAKS.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(KdsearchError):
    exit_code = 2


class StudyError(UserError):
    pass


class DataError(UserError):
    pass


class ArtifactError(UserError):
    pass


class TapError(UserError):
    pass


class TapShapeError(TapError):
    pass


class PluginError(UserError):
    pass


class UnsafeCodeError(UserError):
    pass


class RefusedError(KdsearchError):
    exit_code = 3


class BusyError(KdsearchError):
    pass


class StorageError(KdsearchError):
    pass


class UnreachableError(KdsearchError):
    """A teacher behind a network, or the trials' database, does not answer. What came is kept, so the same command goes on."""


class TrialError(KdsearchError):
    """A trial that failed; `refine` records it and goes on."""


class TooLargeError(TrialError):
    """A network that does not fit into memory."""


class RankLostError(TrialError):
    pass


class UndeclaredReadError(KdsearchError):
    """A fault of a stage's code: see study/view.py."""


class InterruptedRun(BaseException):
    """Whoever's code it goes through, an `except Exception` there does not take it for a failure."""

    exit_code = 130

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def facts(self) -> dict[str, Any]:
        """As JSON values: `type` and `problem`."""
        return {"type": type(self).__name__, "problem": self.problem}


FOREIGN = (Exception, SystemExit)  # what somebody else's code may raise that is that code's fault alone
INTERRUPTS = (KeyboardInterrupt, InterruptedRun)  # what goes through even where whatever else is raised is caught


def exited(who: str, error: SystemExit) -> TrialError:
    """Somebody else's code asked for the end of the program: `who` is what it was called as, such as `proxy 'x'`."""
    return TrialError(f"{who} called sys.exit({'' if error.code is None else repr(error.code)})")


SAID = 500  # characters of a foreign message: some print whole tensors


def told(error: BaseException) -> str:
    """What anybody's code raised, as one line: ours say all themselves, others `Type: message (in function, file.py:12)`.

    The place is the innermost; that of an import is the file that imports.
    """
    if isinstance(error, KdsearchError | InterruptedRun):
        return str(error)
    try:
        said = " ".join(str(error).split())
    except Exception:  # its own __str__ fails
        said = ""
    said = said if len(said) <= SAID else said[: SAID - 3] + "..."
    head = type(error).__name__ + (f": {said}" if said else "")
    frame, where = error.__traceback__, ""
    while frame is not None:
        code = frame.tb_frame.f_code
        if not code.co_filename.startswith("<frozen"):
            file = code.co_filename.replace("\\", "/").rpartition("/")[2]
            where = f" (in {code.co_name}, {file}:{frame.tb_lineno})"
        frame = frame.tb_next
    return head + where


def nearest(name: str, names: Iterable[str]) -> str:
    """The valid name that `name` was most likely meant to be, or "" when none is close."""
    if len(name) > 100:  # takes a second for a megabyte, and no name is that long
        return ""
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


_TYPES = {  # pydantic's names of complaints about a value's type
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
}


def wanted(kind: str, message: str) -> str:
    """What pydantic expected, by its complaint's type and message, for the `expected` part of ours."""
    if kind == "string_pattern_mismatch":
        return "text that matches " + message.partition("pattern ")[2]
    message = re.sub(r"^(Value error, |Assertion failed, |\w+ should (be |have |match )?)", "", message)
    return _TYPES.get(kind, re.sub(r" after validation, not \d+$", "", message))


def is_of_type(kind: str) -> bool:
    """Whether pydantic's complaint is about a value's type, and not about its size or content."""
    return kind in _TYPES


_UNITS = {
    "": 1,
    "%": 1e-2,
    "k": 1e3,
    "m": 1e6,
    "g": 1e9,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "kib": 2**10,
    "mib": 2**20,
    "ms": 1,
}
_WITH_UNIT = re.compile(r"([0-9][0-9.]*(?:e[+-]?[0-9]+)?)\s*([a-z%]*)")


def plain_number(got: object, kinds: Iterable[str]) -> str:
    """`Write 20000.` of `20k`, 2e4 and "20000", where pydantic's complaints `kinds` say that a number was expected; else ""."""
    whole, real = {"int_type", "int_from_float", "int_parsing"}, {"float_type", "float_parsing"}
    of_number = (whole | real) & {*kinds}
    found = _WITH_UNIT.fullmatch(str(got).strip().lower()) if isinstance(got, str | float) else None
    if not of_number or found is None or found[2] not in _UNITS:
        return ""
    try:
        value = round(float(found[1]) * _UNITS[found[2]], 12)
    except (ValueError, OverflowError):
        return ""
    if value.is_integer() and abs(value) < 2**53:
        return f"Write {int(value)}."
    return f"Write {value:g}." if of_number & real else ""


def no_share(unit: str, value: float) -> str:
    """What to write in place of a value that is per cent of a metric whose `unit` is a share of 1; else ""."""
    if unit != "share" or value <= 1:
        return ""
    return f"It is a share of 0 to 1: write {value / 100:g}." if value <= 100 else "It is a share of 0 to 1."


def nearest_literal(got: object, complaint: Mapping[str, Any]) -> str:
    """The nearest of the literals that pydantic's complaint lists, or ""."""
    listed = re.findall(r"'([^']*)'", str(complaint.get("ctx", {}).get("expected", "")))
    return nearest(got, listed) if isinstance(got, str) else ""


def key_path(loc: Sequence[str | int], raw: Any, path: str = "", missing: bool = False) -> str:
    """A pydantic location as a key path below `path`: names of a union's branches, which the file does not have, left out.

    missing: the complaint is that the last key is not there.
    """
    here = raw
    loc = loc[:-1] if loc and loc[-1] == "[key]" else loc  # a key that is no name
    for i, part in enumerate(loc):
        if isinstance(part, int) and isinstance(here, list | tuple):
            path += f"[{part}]"
            here = here[part] if part < len(here) else None
        elif isinstance(here, Mapping) and (part in here or (missing and i == len(loc) - 1)):
            path += f".{part}" if path else str(part)
            here = here.get(part)
    return path


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`, for the `expected` part of a message."""
    every = sorted(names)
    if len(every) <= 1:
        return "".join(every) or "nothing (none is installed)"
    return ", ".join(every[:-1]) + " or " + every[-1]


def without_password(text: str) -> str:
    """As it may be printed and written: `user:***@` and `password=***` in every URL of it."""
    text = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)
    return re.sub(r"([?&][^=&]*password=)[^&]*", r"\1***", text)
