"""Files appear whole or not at all; artifacts, lines, the folder's lock; seeds are functions of names."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.errors import ArtifactError, BusyError, StorageError
from kdsearch.store.artifacts import Store
from kdsearch.store.files import append_line, read_json, read_lines, storing, write_bytes, write_json
from kdsearch.store.folder import MARK, Events, held, holder_of, open_folder
from kdsearch.store.hashing import canonical, derive, digest, file_digest, stream

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_canonical_text_is_json_and_keeps_the_value(value):
    assert json.loads(canonical(value)) == value
    assert digest(value) == hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def test_canonical_text_does_not_depend_on_the_order_of_keys():
    assert canonical({"a": 1, "b": [2, {"d": 3, "c": 4}]}) == canonical({"b": [2, {"c": 4, "d": 3}], "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


@given(st.integers(0, 2**31), st.lists(st.text(max_size=5), max_size=3))
def test_derived_seed(seed, names):
    text = "/".join([str(seed), *names])
    expected = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) >> 1
    assert derive(seed, *names) == expected
    assert 0 <= expected < 2**63


def test_streams_are_independent_of_each_other():
    first = torch.rand(4, generator=stream(0, "a"))
    torch.rand(9, generator=stream(0, "b"))
    assert torch.equal(torch.rand(4, generator=stream(0, "a")), first)
    assert not torch.equal(torch.rand(4, generator=stream(1, "a")), first)


def test_artifact_is_what_was_put(tmp_path):
    store = Store(tmp_path)

    def make(out):
        (out / "inner").mkdir()
        write_bytes(out / "inner" / "a.bin", b"abc")
        return {"z": (1, 2), "a": {3: 4.5}}

    assert store.get("refine", "k") is None
    put = store.put("refine", "k", make, {"torch": "x"})
    got = store.get("refine", "k")
    assert got == put
    assert got.facts == {"a": {"3": 4.5}, "z": [1, 2]}
    about = read_json(put.path / "artifact.json")
    assert about["provenance"] == {"torch": "x"}
    assert about["files"] == {"inner/a.bin": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}}
    assert file_digest(put.path / "inner" / "a.bin") == hashlib.sha256(b"abc").hexdigest()


def test_key_follows_everything_that_an_artifact_is_made_from(tmp_path):
    store = Store(tmp_path)
    one, two = (store.put("prepare", key, lambda out: {}, {}) for key in ("1", "2"))
    keys = [
        store.key("search", {"n": 1}, {"prepare": one}),
        store.key("search", {"n": 2}, {"prepare": one}),
        store.key("search", {"n": 1}, {"prepare": two}),
        store.key("refine", {"n": 1}, {"prepare": one}),
    ]
    assert len(set(keys)) == 4
    assert store.key("search", {"n": 1}, {"prepare": one}) == keys[0]


def test_making_that_fails_leaves_nothing_but_its_work(tmp_path):
    store = Store(tmp_path)
    work = store.work("distill", "k")
    (work / "phase.safetensors").write_bytes(b"x")

    def make(out):
        (out / "half").write_text("h")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.put("distill", "k", make, {})
    assert list((tmp_path / "artifacts").iterdir()) == []
    assert (work / "phase.safetensors").exists()
    store.put("distill", "k", lambda out: {}, {})
    assert not work.exists()


def test_what_a_killed_run_left_is_cleared(tmp_path):
    store = Store(tmp_path)
    left = tmp_path / "artifacts" / ".distill-k.1.part"
    other = tmp_path / "artifacts" / ".distill-kk.1.part"
    unfinished = tmp_path / "artifacts" / "distill-k"
    for each in (left, other, unfinished):
        each.mkdir(parents=True)
        (each / "half").write_text("h")
    assert store.get("distill", "k") is None
    store.put("distill", "k", lambda out: {}, {})
    assert sorted(each.name for each in (tmp_path / "artifacts").iterdir()) == [other.name, "distill-k"]
    assert [each.name for each in unfinished.iterdir()] == ["artifact.json"]


def test_lines(tmp_path):
    file = tmp_path / "lines.jsonl"
    assert read_lines(file) == []
    append_line(file, {"a": 1})
    with file.open("a") as stream_:
        stream_.write('{"torn')
    append_line(file, {"a": 2})
    assert read_lines(file) == [{"a": 1}, {"a": 2}]
    assert file.read_bytes().count(b"\n") == 3


def test_json_that_is_none(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{")
    with pytest.raises(ArtifactError, match=r"a.json: not valid JSON .*Delete it") as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.exit_code == 2
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("inf"))
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_folder_that_cannot_be_written(tmp_path):
    with (
        pytest.raises(StorageError, match=r"x: not writable. Make it writable, or choose another folder"),
        storing(tmp_path / "x"),
    ):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))
    with pytest.raises(FileNotFoundError), storing(tmp_path):
        (tmp_path / "none").read_bytes()


def test_one_holder(tmp_path):
    open_folder(tmp_path / "study")
    with held(tmp_path / "study"):
        with pytest.raises(BusyError, match=r"in use by pid \d+ on .+ since .+ Wait for it"), held(tmp_path / "study"):
            raise AssertionError
        with pytest.raises(BusyError), held(tmp_path / "study"):
            raise AssertionError
    with held(tmp_path / "study"):
        pass
    with pytest.raises(KeyError), held(tmp_path / "study"):
        raise KeyError
    assert holder_of(tmp_path / "study") is None, "workers that joined see that the run is over"
    with held(tmp_path / "study"):
        pass


def test_folder_of_a_study_whose_mark_was_deleted(tmp_path):
    open_folder(tmp_path / "study")
    Events(tmp_path / "study" / "events.jsonl").write("stage", stage="search")
    (tmp_path / "study" / "artifacts").mkdir()
    (tmp_path / "study" / MARK).unlink()
    open_folder(tmp_path / "study")
    assert read_json(tmp_path / "study" / MARK) == {"format": 1}


def test_events_are_told_after_they_are_written(tmp_path):
    file, told = tmp_path / "events.jsonl", []
    events = Events(file, lambda event: told.append((dict(event), len(read_lines(file)))))
    events.write("trial", number=0)
    events.write("trial", number=1)
    assert [(each["event"], each["number"], lines) for each, lines in told] == [("trial", 0, 1), ("trial", 1, 2)]
    assert read_lines(file) == [each for each, _ in told]
