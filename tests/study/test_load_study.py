"""From text to values and lines, and from there to a Study."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml_strings
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.errors import StudyError, UnsafeCodeError, UserError
from kdsearch.search.ranks import Weight
from kdsearch.study import load_study
from kdsearch.study.check import student_space
from kdsearch.study.code import load_code
from kdsearch.study.load import parse, place
from kdsearch.study.names import proxies, proxy_weights
from kdsearch.study.view import values as sections

GOOD = Path(__file__).parent / "good.yaml"

names = st.text("abcxyz", min_size=1, max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc -:#é", max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(names, values, min_size=1, max_size=4))
def test_json_is_read_as_json_reads_it(data):
    assert parse(json.dumps(data, indent=1).encode()).raw == data
    assert parse(json.dumps(data, ensure_ascii=False).encode()).raw == data


def test_every_key_and_item_has_its_line():
    source = parse(b"a:\n  b: 1\n  c:\n    - x\n    - {d: 2,\n       e: 3}\nf: {g: 1}\n")
    assert source.lines == {
        "a": 1,
        "a.b": 2,
        "a.c": 3,
        "a.c[0]": 4,
        "a.c[1]": 5,
        "a.c[1].d": 5,
        "a.c[1].e": 6,
        "f": 7,
        "f.g": 7,
    }
    assert source.line("a.c[1].unknown") == 5
    assert source.line("a.c[9].d") == 3
    assert source.line("nothing") is None


def test_anchors_fill_in_and_merges_yield_to_own_keys():
    source = parse(b"base: &b {x: 1, y: 2}\nother: &o {z: 3, x: 9}\nuse: *b\nmix:\n  <<: [*b, *o]\n  y: 5\n")
    assert source.raw["use"] == {"x": 1, "y": 2}
    assert source.raw["mix"] == {"x": 1, "y": 5, "z": 3}
    assert source.line("mix.y") == 6


@pytest.mark.parametrize(("text", "value"), yaml_strings.SCALARS)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = parse(f"a: {text}".encode()).raw["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_byte_order_mark_and_windows_line_ends_are_read():
    assert parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n").raw == {"a": 1, "b": 2}


def test_place_copies_and_makes_what_is_missing():
    before = {"a": [{"b": 1}]}
    assert place(before, "a[0].b", 2) == {"a": [{"b": 2}]}
    assert place(before, "c.d.e", [1]) == {"a": [{"b": 1}], "c": {"d": {"e": [1]}}}
    assert before == {"a": [{"b": 1}]}


def test_a_study_has_its_sections_and_defaults(host):
    study = load_study(GOOD, host)
    assert study.config.data.labeled == 0.1
    assert list(study.teachers) == ["main"]
    assert list(study.students) == ["student"]
    assert study.path_of_teacher("main") == "teacher"
    assert study.folder == GOOD.parent
    assert study.config.refine.generation == 4


def test_limits_are_said_with_the_file_that_has_to_keep_them(host):
    limits = (
        "constraints={params: 9000, onnx_bytes: {max: 40000, format: onnx-int8}, latency_ms: {max: 1.5, threads: 2}}"
    )
    study = load_study(GOOD, host, sets=(limits, "compress.quantize=[int8]", "export.formats=[onnx-fp32, onnx-int8]"))
    assert "limits   params <= 9,000, onnx_bytes <= 40,000 (onnx-int8), latency_ms <= 1.5\n" in f"{study}\n"


def test_auto_stands_for_the_default_proxies(host):
    default = load_study(GOOD, host, sets=["search={}"])
    auto = load_study(GOOD, host, sets=["search.proxy=auto"])
    assert (
        [use.use for use, _ in proxies(auto)]
        == [use.use for use, _ in proxies(default)]
        == ["relation", "params", "synflow"]
    )


def test_a_proxy_may_be_a_section(host):
    study = load_study(GOOD, host, sets=["search.proxy={use: nwot, options: {}}"])
    assert [(use.use, path) for use, path in proxies(study)] == [("nwot", "search.proxy")]


def test_a_composite_in_a_list_adds_its_terms_each_once(host):
    asked = "search.proxy=[nwot, auto, {use: synflow, options: {}}, params]"
    study = load_study(GOOD, host, sets=[asked])
    assert [(use.use, path) for use, path in proxies(study)] == [
        ("nwot", "search.proxy[0]"),
        ("relation", "search.proxy[1]"),
        ("params", "search.proxy[3]"),
        ("synflow", "search.proxy[2]"),
    ]
    assert proxy_weights(study) == {
        "nwot": Weight(),
        "relation": Weight(),
        "params": Weight(2.0, own=1.0),
        "synflow": Weight(1.125),
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("autoo", "search.proxy: unknown proxy 'autoo'; did you mean 'auto'? Expected auto, diswot"),
        (
            "[nwot, nwot]",
            "search.proxy[1]: 'nwot' is there twice: search.proxy[0] names it too. Expected each proxy once",
        ),
        ("[{use: diswot, options: {}}, diswot]", "search.proxy[1]: 'diswot' is there twice"),
        ("{use: nwto}", "unknown proxy 'nwto'; did you mean 'nwot'?"),
        ("[nwot, autoo]", "search.proxy[1]: unknown proxy 'autoo'; did you mean 'auto'?"),
        (
            "[{use: auto, options: {x: 1}}]",
            "search.proxy[0].options: 'auto' has no options. Expected options of its terms: params, relation or synflow",
        ),
    ],
)
def test_wrong_composites_are_named(host, asked, message):
    with pytest.raises(UserError) as caught:
        load_study(GOOD, host, sets=[f"search.proxy={asked}"])
    assert message in str(caught.value)


def test_settings_and_seed_are_as_if_written(host, tmp_path):
    changed = load_study(GOOD, host, sets=["search.keep=2", "recipe.distillers[0].weight={low: 1, high: 2}"], seed=7)
    text = GOOD.read_text().replace("keep: 4", "keep: 2").replace("weight: search", "weight: {low: 1, high: 2}")
    file = tmp_path / GOOD.name
    file.write_text(f"seed: 7\n{text}")
    assert changed.config == load_study(file, host).config


@pytest.mark.parametrize(
    ("file", "name"),
    [("My tiles.yaml", "My-tiles"), ("a.b.yml", "a.b"), ("_.yaml", "study"), (f"{'x' * 80}.yaml", "x" * 64)],
)
def test_a_study_without_a_name_has_its_files(file, name, host, tmp_path):
    (tmp_path / file).write_text(GOOD.read_text())
    study = load_study(tmp_path / file, host)
    assert study.config.name == name
    assert f"name: {name}\n" in study.resolved_yaml()
    assert load_study(tmp_path / file, host, sets=["name=other"]).config.name == "other"


def test_the_resolved_study_is_the_same_study(host, tmp_path):
    text = GOOD.read_text().replace("weight: search,", "weights: {kd: search},")
    (tmp_path / "a.yaml").write_text(text)
    first = load_study(tmp_path / "a.yaml", host)
    (tmp_path / "b.yaml").write_text(first.resolved_yaml())
    second = load_study(tmp_path / "b.yaml", host)
    assert second.config == first.config
    assert second.resolved_yaml() == first.resolved_yaml()


def test_one_teacher_is_the_teacher_called_main(host, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(GOOD.read_text().replace("teacher: {use: trained", "teachers:\n  main: {use: trained"))
    other = load_study(file, host)
    assert other.path_of_teacher("main") == "teachers.main"
    assert sections(other, ["teachers"]) == sections(load_study(GOOD, host), ["teachers"])


def test_what_a_student_leaves_out_is_searched(host):
    space = student_space(load_study(GOOD, host), host)
    assert [dim.path for dim in space.dims] == [*(f"student.spec.depths[{i}]" for i in range(3)), "student.spec.width"]
    assert space.size() == 3**3 * 2
    fixed = student_space(load_study(GOOD, host, sets=["student.spec={width: 8, depths: [1, 2, 3]}"]), host)
    assert fixed.size() == 1
    assert fixed.at({}).depths == [1, 2, 3]


@pytest.mark.parametrize("allowed", [[], ["mine.py:Mine"]])
@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("recipe.distillers=[{use: 'mine.py:Mine'}]", r"recipe\.distillers\[0\]\.use: .* a distiller goes by its name"),
        ("recipe.distillers=['mine.py:Mine']", r"recipe\.distillers\[0\].*: .* a distiller goes by its name"),
        ("search.proxy=['mine.py:Mine', params]", r"search\.proxy\[0\]: .* a proxy goes by its name"),
    ],
)
def test_code_in_the_place_of_a_name_is_never_said_to_be_allowed(host, sets, words, allowed):
    with pytest.raises(StudyError, match=words) as caught:
        load_study(GOOD, host, allow_code=allowed, sets=[sets])
    assert "plugin" in caught.value.fix
    assert "--allow-code" not in str(caught.value)


def test_a_teacher_by_path_runs_only_when_allowed(host, tmp_path):
    (tmp_path / "spaces.py").write_text(
        "from tests.small_plugin import Space\n(open(__file__ + '.ran', 'w')).close()\nclass Mine(Space):\n    pass\nother = 3\n"
    )
    file = tmp_path / "study.yaml"
    file.write_text(GOOD.read_text().replace("  space: cifar_resnet", "  space: spaces.py:Mine"))
    for allowed in ([], ["spaces.py"], ["./spaces.py:Mine"]):
        with pytest.raises(UnsafeCodeError, match=r"student\.space: 'spaces\.py:Mine' would run code"):
            load_study(file, host, allow_code=allowed)
    assert not (tmp_path / "spaces.py.ran").exists()
    study = load_study(file, host, allow_code=["spaces.py:Mine"])
    assert type(student_space(study, host)).__name__ == "Mine"
    assert study.allow_code == ("spaces.py:Mine",)
    file.write_text(file.read_text().replace("spaces.py:Mine", "spaces.py:other"))
    with pytest.raises(StudyError, match=r"study\.yaml:4: student\.space: 'spaces\.py:other' is 3"):
        load_study(file, host, allow_code=["spaces.py:other"])


def test_allowed_code_that_fails_says_so(tmp_path):
    (tmp_path / "bad.py").write_text("raise SystemExit('no')")
    with pytest.raises(StudyError, match=r"'bad\.py:x' raised SystemExit: no"):
        load_code("bad.py:x", ["bad.py:x"], tmp_path)
    with pytest.raises(StudyError, match="'json' has no 'nothing'"):
        load_code("json:nothing", ["json:nothing"], tmp_path)
    assert load_code("json:dumps", ["json:dumps"], tmp_path) is json.dumps


def test_code_is_what_the_file_holds_now(tmp_path, monkeypatch):
    """Python tells newer source from its bytecode by size and whole seconds; nothing is left beside the user's file either."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "own.py"
    for value in (1, 2):
        file.write_text(f"x = {value}")
        os.utime(file, (1, 1))
        monkeypatch.setattr(
            sys, "modules", {k: v for k, v in sys.modules.items() if not k.startswith("kdsearch_allowed_")}
        )
        assert load_code("own.py:x", ["own.py:x"], tmp_path) == value
    assert list(tmp_path.iterdir()) == [file]


def test_without_a_host_the_schema_alone_is_checked():
    study = load_study(GOOD, sets=["data.use=elsewhere"])
    assert study.config.data.use == "elsewhere"


def test_a_section_that_the_file_does_not_have_is_where_a_setting_wrote_it(host):
    study = load_study(GOOD, host, sets=("constraints.macs=9", "distill.epochs=3", "distill.winners=2"))
    line = next(i for i, text in enumerate(GOOD.read_text().splitlines(), 1) if text.startswith("constraints:"))
    found = [
        study.place(StudyError("x", path=path))
        for path in ("distill", "constraints", "constraints.macs", "export.parity")
    ]
    assert [(str(each.file), each.line) for each in found[:3]] == [
        ("--set distill.winners=2", None),
        (str(GOOD), line),
        ("--set constraints.macs=9", None),
    ]
    assert str(found[3].file) == str(GOOD)


def test_a_distiller_whose_name_weights_cannot_call_is_told_the_way_out(host):
    setting = "recipe.distillers=[{use: kd}, {use: own.v2}]"
    with pytest.raises(StudyError, match=r"the name 'own\.v2'.*Give it a `name:`") as caught:
        load_study(GOOD, host, sets=[setting])
    assert caught.value.path == "recipe.distillers[1]"
    with pytest.raises(UserError, match=r"unknown distiller 'own\.v2'"):
        load_study(GOOD, host, sets=[setting.replace("own.v2", "own.v2, name: second")])
