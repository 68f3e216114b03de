"""A stage sees what it declares: every other section raises, by whatever way it is asked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from kdsearch.errors import KdsearchError, UndeclaredReadError, UserError
from kdsearch.study import load_study
from kdsearch.study.view import NO_RESULT, Closed, is_within, seen, values

GOOD = Path(__file__).parent / "good.yaml"


@pytest.fixture
def study(host):
    return load_study(GOOD, host, sets=["constraints.latency_ms={max: 2.0}"])


def test_declared_sections_are_the_studys_own(study):
    view = seen(study, "refine", ("teachers", "refine", "export.exporter", "seed"))
    assert view.config.refine is study.config.refine
    assert view.config.export.exporter == study.config.export.exporter
    assert view.config.seed == study.config.seed
    assert view.teachers == study.teachers
    assert view.path_of_teacher("main") == "teacher"
    assert view.config.run.workers == study.config.run.workers, "it changes no result"
    assert view.lines == study.lines
    assert view.error("wrong", "refine.trials").path == "refine.trials"


@pytest.mark.parametrize(
    ("read", "section"),
    [
        (lambda view: view.config.search, "search"),
        (lambda view: view.config.export.formats, "export.formats"),
        (lambda view: view.students, "students"),
        (lambda view: view.path_of_student("student"), "students"),
        (lambda view: view.live_object("students.cnn"), "students"),
        (lambda view: view.live_object("data"), "data"),
        (lambda view: view.config.data.options, "data"),
        (lambda view: view.config.run.device, "run.device"),
        (lambda view: view.config.model_dump(), "the whole study"),
        (lambda view: view.config.export.model_dump(), "export"),
        (lambda view: dict(view.config.export), "export"),
        (lambda view: view.resolved_yaml(), "the whole study"),
    ],
)
def test_other_sections_raise_with_stage_and_section(read, section, study):
    view = seen(study, "refine", ("teachers", "refine", "export.exporter"))
    with pytest.raises(
        UndeclaredReadError, match=f"stage 'refine' reads '{section}', which it does not declare"
    ) as caught:
        read(view)
    assert not isinstance(caught.value, UserError | AttributeError), (
        "the user can do nothing about it, nor may getattr hide it"
    )
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda it: it.dims,
        lambda it: it["a"],
        lambda it: list(it),
        lambda it: len(it),
        lambda it: "a" in it,
        lambda it: bool(it),
        lambda it: {it: 1},
        lambda it: it == 1,
        lambda it: it(),
        lambda it: f"{it}",
        lambda it: hasattr(it, "dims"),
        lambda it: pickle.dumps(it),
    ],
)
def test_a_closed_object_can_be_passed_on_but_not_used(use):
    closed = Closed("prepare", "recipe")
    with pytest.raises(KdsearchError, match="stage 'prepare' reads 'recipe'"):
        use(closed)


def test_values_hold_what_changes_a_result(study):
    found = values(study, ("data", "run.threads_per_trial", "teachers", "constraints"))
    assert "workers" not in found["data"]
    assert found["data"]["validation"] == study.config.data.validation
    assert found["run.threads_per_trial"] == 1
    ((name, teacher),) = found["teachers"]
    assert name == "main"
    assert "cache" not in teacher
    assert found["constraints"]["latency_ms"] == {"max": 2.0, "threads": 1, "format": None}
    with pytest.raises(AttributeError):
        values(study, ("data.validaton",))
    assert all(path.partition(".")[0] in ("run", "data") for path in NO_RESULT)


def test_the_order_of_objectives_counts(host):
    first = load_study(GOOD, host, sets=["objectives={accuracy: max, params: min}"])
    other = load_study(GOOD, host, sets=["objectives={params: min, accuracy: max}"])
    assert values(first, ["objectives"]) != values(other, ["objectives"])


@pytest.mark.parametrize(
    ("path", "section", "expected"),
    [
        ("recipe.distillers[0]", "recipe", True),
        ("compress.quantize[1]", "compress.quantize", True),
        ("teacher", "teachers", True),
        ("teacher", "teacher", True),
        ("teachers.big", "teacher", False),
        ("teacher.options", "teacher", True),
        ("teacher.options", "teachers", True),
        ("search.proxy", "search", True),
        ("search", "search.proxy", False),
        ("searching", "search", False),
    ],
)
def test_is_within(path, section, expected):
    assert is_within(path, section) is expected
