"""A teacher that answers otherwise each time is never stored. A whole study with one is in tests/outside/test_councils.py."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from kdsearch.builtin.teachers.trained import Trained
from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.stages.prepare import is_cached
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.stages.tiny import write_study


class Moody(Trained):
    stochastic: ClassVar[bool] = True


HOST = Host.load().with_classes({("teacher", "moody"): Moody})


def opened(folder: Any, use: str, cache: str) -> Any:
    study = load_study(write_study(folder), HOST, sets=(f"teacher.use={use}", f"teacher.cache={cache}"))
    return open_materials(study, HOST)


@pytest.mark.parametrize(
    ("use", "cache", "is_kept"), [("trained", "auto", True), ("moody", "auto", False), ("moody", "off", False)]
)
def test_only_what_is_always_the_same_is_stored(use, cache, is_kept, tmp_path):
    assert is_cached(opened(tmp_path, use, cache), "main") is is_kept


@pytest.mark.parametrize("cache", ["on", "all"])
def test_a_study_that_insists_is_told_why_not(cache, tmp_path):
    with pytest.raises(
        StudyError, match="what it answers is drawn anew each time, so there are no rows to store"
    ) as caught:
        is_cached(opened(tmp_path, "moody", cache), "main")
    assert caught.value.path == "teacher.cache"
