"""The data's images in the normalisation that the study asks for."""

from __future__ import annotations

from collections.abc import Mapping

from kdsearch.kinds import IMAGENET, UNIT, DataSource, Normalizable, Normalization
from kdsearch.study.schema import MeanStd
from kdsearch.study.study import Study

NAMED: Mapping[str, Normalization] = {"imagenet": IMAGENET, "none": UNIT}


def asked(value: str | MeanStd) -> Normalization | None:
    """What a study's `normalize` says; None: auto, or as the data are."""
    if isinstance(value, str):
        return NAMED.get(value)
    return Normalization(_numbers(value.mean), _numbers(value.std))


def _numbers(value: float | list[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def normalized(source: DataSource, study: Study) -> DataSource:
    """The source as `data.normalize` asks. Raise StudyError for one that leaves no choice."""
    wanted = asked(study.config.data.normalize)
    if wanted is None:
        return source
    if not isinstance(source, Normalizable):
        raise study.error(
            f"data set '{study.config.data.use}' does not say how its images are normalised",
            "data.normalize",
            expected="auto",
        )
    return source.normalized(wanted)
