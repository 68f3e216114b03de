"""What an ONNX file says of itself in its metadata, as kdsearch writes it: classes, preprocessing, what it does beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field as Limits
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from kdsearch.errors import StudyError
from kdsearch.kinds import Normalization, stated

PLAIN = {"input": "prepared", "output": "raw"}  # of the network alone: nothing stands before and after it
Positive = Annotated[FiniteFloat, Limits(gt=0)]
Side = Annotated[int, Limits(gt=0, le=2**14)]


class _Preprocessing(TypedDict):
    """What is read of it; the rest is kept."""

    size: tuple[Side, Side]
    channels: int
    range: tuple[FiniteFloat, FiniteFloat]
    scale: Positive
    mean: list[FiniteFloat] | None
    std: list[Positive] | None


class _Inside(TypedDict, total=False):
    """Of it, too."""

    input: str
    layout: str
    output: str
    boxes: str
    scores: str
    iou: FiniteFloat
    least: FiniteFloat
    most: int
    places: str
    objectness: bool


@dataclass(frozen=True)
class Given:
    """Empty of a file that says nothing, or says it otherwise.

    Args:
        labels: names of classes, labels or numbers. preprocessing, inside: as in a card's `use`.
        is_exported: whether a study wrote the file, so that its outputs have the names of the task's fields.
    """

    labels: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    inside: Mapping[str, Any] = field(default_factory=dict)
    is_exported: bool = False

    @property
    def reads_pixels(self) -> bool:
        return bool(self.inside.get("input", PLAIN["input"]) != PLAIN["input"])

    @property
    def about(self) -> dict[str, Any]:
        return {"preprocessing": dict(self.preprocessing)}

    @property
    def normalization(self) -> Normalization | None:
        return stated(self.about)

    def with_ends(self, added: Mapping[str, Any]) -> dict[str, Any]:
        """What the file does beside its network once it does what is `added`, too.

        Raises:
            StudyError: it does something of its own at that end already.
        """
        new = {name: value for name, value in added.items() if value != PLAIN.get(name)}
        for name in PLAIN.keys() & new.keys():
            own = self.inside.get(name, PLAIN[name])
            if own != PLAIN[name]:
                does = "reads" if name == "input" else "answers"
                raise StudyError(f"the file {does} {own} already", path=f"--{name}", expected=PLAIN[name])
        return {**PLAIN, **self.inside, **new} if self.inside or new else {}


def given_by(metadata: Mapping[str, str]) -> Given:
    """Of `session.get_modelmeta().custom_metadata_map`; anybody may have written it."""
    preprocessing = _read(metadata.get("preprocessing"), _Preprocessing)
    channels = preprocessing.get("channels")
    if any(preprocessing.get(name) and len(preprocessing[name]) != channels for name in ("mean", "std")):
        preprocessing = {}
    return Given(
        tuple(_read(metadata.get("labels"), list[str])),
        preprocessing,
        _read(metadata.get("inside"), _Inside),
        "study_hash" in metadata,
    )


def _read(text: str | None, shape: Any) -> Any:
    """The JSON value, or an empty one where there is none of this shape."""
    try:
        found = json.loads(text or "{}")
        TypeAdapter(shape).validate_python(found)
    except (ValueError, ValidationError, RecursionError):
        return {}
    return found
