"""What a stage reads is what its key holds: every key of the schema, every capability's code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from kdsearch.errors import UndeclaredReadError
from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from kdsearch.host.sources import recorded_digest, source_digest
from kdsearch.kinds import DataRecipe, DataSource, NoOptions, Record, Services
from kdsearch.stages import distill, prepare, refine, search
from kdsearch.stages.run import STAGES
from kdsearch.store import hashing
from kdsearch.study.load import parse
from kdsearch.study.reading import make_study
from kdsearch.training import teachers
from kdsearch.training.job import open_job
from kdsearch.training.keys import part_of, seen_by
from kdsearch.training.materials import GUARDED, Materials, open_materials
from kdsearch.training.tools import Address
from tests.stages.every_key import CHANGES, FIXED, HOST, TEXT, keys
from tests.stages.tiny import events, run_tiny


def materials(*sets: str, host: Host = HOST) -> Materials:
    return open_materials(make_study(parse(TEXT.encode()), host, sets=sets), host)


@cache
def parts(*sets: str) -> dict[str, str]:
    """Stage -> all that its key holds beside its inputs."""
    return parts_of(materials(*sets))


def parts_of(found: Materials) -> dict[str, str]:
    return {stage.NAME: json.dumps(part_of(stage, found), sort_keys=True) for stage in STAGES}


def first_changed(before: dict[str, str], after: dict[str, str]) -> str:
    return next((name for name in before if before[name] != after[name]), "")


def test_every_key_of_the_schema_has_a_change():
    assert set(keys()) == {*CHANGES, *FIXED}


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_redoes_from_the_first_stage_that_reads_it(key):
    change = CHANGES[key]
    assert first_changed(parts(*change.before), parts(*change.before, *change.sets)) == change.stage


BINS = "metrics=[{use: ece, options: {bins: 5}}]"


@pytest.mark.parametrize(
    ("before", "sets", "stage"),
    [
        ((), "objectives={f1: max}", "prepare"),
        ((), "objectives={accuracy: max, f1: max}", "refine"),
        (("objectives={accuracy: max, params: min}",), "objectives={accuracy: max, params: min, f1: max}", "refine"),
        (("objectives={accuracy: max, ece: min}",), BINS, "refine"),
        (("objectives={ece: min}",), BINS, "prepare"),
    ],
)
def test_objectives_and_their_options_redo_from_what_reads_them(before, sets, stage):
    """The first one that is a metric judges teachers, all of them trainings, and costs the search."""
    assert first_changed(parts(*before), parts(*before, sets)) == stage


@pytest.mark.parametrize(
    ("sets", "stage"),
    [
        ((), "export"),
        (("constraints={latency_ms: 5}",), "search"),
        (("objectives={accuracy: max, latency_ms: min}",), "search"),
    ],
)
def test_another_machine_redoes_from_what_decides_by_its_latencies(sets, stage, monkeypatch):
    here = parts_of(materials(*sets))
    monkeypatch.setattr("kdsearch.deploy.latency._cpu", lambda: "a faster one")
    assert first_changed(here, parts_of(materials(*sets))) == stage


@pytest.mark.parametrize(
    ("setting", "is_another"),
    [
        ("task.options.label_smoothing=0.5", True),
        ("teacher.options.lr=0.003", True),
        ("data.options.augment=shift", True),
        ("seed=4", True),
        ("run.threads_per_trial=2", True),
        ("teacher.cache=off", False),
        ("objectives={accuracy: max, params: min}", False),
        ("search.keep=1", False),
        ("run.executor=null", False),
    ],
)
def test_a_trained_teacher_is_shared_by_studies_that_train_it_alike(setting, is_another):
    before, after = (teachers.part_of(seen_by(prepare, materials(*sets)), "main") for sets in ((), (setting,)))
    assert (before != after) is is_another


def test_a_teacher_of_another_name_has_other_random_numbers():
    two = "teachers={main: {use: trained, options: {epochs: 1}}, other: {use: trained, options: {epochs: 1}}}"
    found = materials("teacher=null", two)
    assert teachers.part_of(found, "main") != teachers.part_of(found, "other")


class Package:
    """A plugin's distribution that runs from its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "own_kd").mkdir()
        (folder / "own_kd" / "__init__.py").write_text(
            "from kdsearch.hooks import hookimpl\n\n\n@hookimpl\ndef kdsearch_register(register):\n"
            + "".join(
                f"    register.{kind}('own_{kind}', 'own_kd.{kind}:Own')\n"
                for kind in ("distiller", "proxy", "controller", "task")
            )
        )
        for kind, base in (
            ("distiller", "kdsearch_plugins.classics.kd:Kd"),
            ("proxy", "kdsearch_plugins.zero_cost.size:Params"),
            ("controller", "kdsearch.builtin.controllers.random:Random"),
            ("task", "kdsearch.builtin.classification:Classification"),
        ):
            module, _, name = base.partition(":")
            text = f"from {module} import {name}\n\n\nclass Own({name}):\n    pass\n"
            (folder / "own_kd" / f"{kind}.py").write_text(text)
        (folder / "own_kd" / "formulas.py").write_text("FACTOR = 1.0\n")
        self.release("1.0")

    def release(self, version: str) -> None:
        info = self.folder / "own_kd.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: own-kd\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("[kdsearch.v1]\nown = own_kd\n")

    def parts(self, *sets: str) -> dict[str, str]:
        """As a new process sees it."""
        source_digest.cache_clear()
        return parts_of(materials(*sets, host=Host.load()))


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Package(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_kd"]:
        del sys.modules[name]


USES = {
    "distiller": ("refine", "recipe.distillers[0].use=own_distiller"),
    "proxy": ("search", "search.proxy=own_proxy"),
    "family": ("search", "search.proxy=kd.own_distiller"),
    "controller": ("refine", "refine.controller.use=own_controller"),
    "task": ("prepare", "task.use=own_task"),
}


@pytest.mark.parametrize("use", USES)
def test_an_upgraded_plugin_redoes_what_it_took_part_in(use, package):
    stage, setting = USES[use]
    before, without = package.parts(setting), package.parts()
    package.release("2.0")
    assert first_changed(before, package.parts(setting)) == stage
    assert package.parts() == without, "a study that does not use it"


def test_edited_source_counts_where_the_package_is_no_installed_one(package, monkeypatch):
    setting = USES["distiller"][1]
    before = package.parts(setting)
    (package.folder / "own_kd" / "formulas.py").write_text("FACTOR = 2.0\n")
    after = package.parts(setting)
    assert first_changed(before, after) == "refine", "the distiller imports it, so the whole package counts"
    (package.folder / "own_kd" / "notes.txt").write_text("no code")
    (package.folder / "beside.py").write_text("of another package")
    assert package.parts(setting) == after
    monkeypatch.setattr(hashing, "_ROOTS", (*hashing._ROOTS, str(package.folder)))
    installed = package.parts(setting)
    (package.folder / "own_kd" / "formulas.py").write_text("FACTOR = 3.0\n")
    assert package.parts(setting) == installed, "in site-packages its installer says what is there"


def test_an_installed_package_counts_by_what_its_installer_recorded(package, monkeypatch):
    monkeypatch.setattr(hashing, "_ROOTS", (*hashing._ROOTS, str(package.folder)))
    setting, record = USES["distiller"][1], package.folder / "own_kd.dist-info" / "RECORD"

    def installed(digest: str, readme: str = "") -> dict[str, str]:
        record.write_text(
            f"own_kd/formulas.py,sha256={digest},14\nown_kd/README.md,sha256={readme},3\nown_kd/x.pyc,,\n"
        )
        recorded_digest.cache_clear()
        return package.parts(setting)

    before = installed("aa")
    assert installed("aa", "other words") == before
    assert first_changed(before, installed("bb")) == "refine", "the same version again, with other code in it"


def test_a_module_without_package_counts_with_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lone_plugin.py").write_text("import lone_helper\n")
    (tmp_path / "lone_helper.py").write_text("A = 1\n")

    def digest() -> str:
        source_digest.cache_clear()
        return source_digest("lone_plugin", whole=True)

    before = digest()
    (tmp_path / "lone_helper.py").write_text("A = 2\n")
    assert digest() != before
    assert digest() == digest() != ""
    assert source_digest("json", whole=True) == "" == source_digest("no_such_module", whole=True)


def test_distributions_that_share_a_namespace_count_each_by_itself(tmp_path, monkeypatch):
    for part in ("one", "two"):
        monkeypatch.syspath_prepend(str(tmp_path / f"of_{part}"))
        (tmp_path / f"of_{part}" / "shared_kd" / part).mkdir(parents=True)
        (tmp_path / f"of_{part}" / "shared_kd" / part / "__init__.py").write_text("")
        (tmp_path / f"of_{part}" / "shared_kd" / part / "loss.py").write_text("FACTOR = 1.0\n")
        (tmp_path / f"of_{part}" / "shared_kd" / f"lone_{part}.py").write_text("FACTOR = 1.0\n")

    def digests() -> list[str]:
        source_digest.cache_clear()
        names = ("one.loss", "lone_one", "two.loss", "lone_two")
        return [source_digest(f"shared_kd.{name}", whole=True) for name in names]

    before = digests()
    for part in ("one", "two"):
        (tmp_path / f"of_{part}" / "shared_kd" / part / "loss.py").write_text("FACTOR = 2.0\n")
        after = digests()
        changed = [a != b for a, b in zip(after, before, strict=True)]
        assert changed == [part == "one", False, part == "two", False]
        before = after
    (tmp_path / "of_two" / "shared_kd" / "lone_two.py").write_text("FACTOR = 2.0\n")
    assert [a != b for a, b in zip(digests(), before, strict=True)] == [False, False, False, True]


def test_what_is_made_of_undeclared_sections_is_closed():
    found = materials()
    view = found.seen_by("it", ("data", "objective"))
    assert view.data is found.data
    assert view.objective == "accuracy"
    assert view.scoring is found.scoring
    for name in GUARDED.keys() - {"given", "made", "augments", "objective", "scoring"}:
        with pytest.raises(UndeclaredReadError, match="stage 'it' reads"):
            len(getattr(view, name))
    with pytest.raises(UndeclaredReadError, match="stage 'it' reads 'seed'"):
        _ = view.seed
    with pytest.raises(UndeclaredReadError, match="stage 'it' reads 'students'"):
        view.build_student("student", {}, 0)


def test_an_undeclared_read_ends_the_study_and_fails_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "READS", tuple(each for each in distill.READS if each != "objectives"))
    less = ("distill.controls=[]", "refine.trials=1")
    with pytest.raises(UndeclaredReadError, match="stage 'distill' reads 'objectives', which it does not declare"):
        run_tiny(tmp_path, *less, text=TEXT)
    assert [each["stage"] for each in events(tmp_path) if each.get("state") == "stopped"] == ["distill"]


def test_a_job_sees_what_its_stage_sees(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    seen = seen_by(search, materials())
    address = Address(str(tmp_path), str(tmp_path))
    opened = open_job(replace(address, stage=seen.stage, reads=seen.reads))
    assert opened.stage == "search"
    assert opened.study.config.search.keep == 2
    with pytest.raises(UndeclaredReadError, match="stage 'search' reads 'refine'"):
        _ = opened.study.config.refine
    assert part_of(refine, open_job(address))


def test_the_exporter_is_read_by_a_search_that_measures_files_only():
    with pytest.raises(UndeclaredReadError, match="reads 'export'"):
        _ = seen_by(search, materials()).study.config.export.exporter
    limited = "constraints.onnx_bytes=1000000"
    engine = "export.exporter.options.engine=dynamo"
    assert seen_by(search, materials(limited)).study.config.export.exporter.use == "onnx"
    assert first_changed(parts(limited), parts(limited, engine)) == "search"
    assert first_changed(parts(), parts(engine)) == "export"


def test_the_order_of_writing_is_no_change_but_of_objectives():
    assert parts("student.spec={widths: {choices: [4, 8]}, depths: {choices: [1, 2]}}") == parts()
    two = parts("objectives={accuracy: max, params: min}"), parts("objectives={params: min, accuracy: max}")
    assert first_changed(*two) == "refine"


class Same(DataRecipe[NoOptions]):
    """Every sample with the label that it has."""

    def keys(self, source: DataSource) -> list[str]:
        return list(source.split("labeled").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        return (Record(key, {}) for key in keys)


class Recipes:
    @hookimpl
    def kdsearch_register(self, register: Register) -> None:
        register.data_recipe("same", f"{__name__}:Same")


def test_a_teacher_is_not_trained_anew_for_recipes_that_it_does_not_see():
    host = Host.load(extra=[("recipes", Recipes())])

    def trained_on(*sets: str) -> str:
        return json.dumps(teachers.part_of(materials(*sets, host=host), "main"), sort_keys=True)

    plain, recipe = trained_on(), "data.recipes=[same]"
    assert trained_on(recipe) == plain
    assert "same" not in plain
    assert trained_on(recipe, "data.labeled=0.9") != plain
    found = parts_of(materials(recipe, host=host))
    assert first_changed(parts_of(materials(host=host)), found) == "prepare", "students see them"
