"""A file of rows after a kill, a change of study and a full disk."""

import errno
import os
from pathlib import Path

import pytest

from kdsearch.errors import ArtifactError, StorageError
from kdsearch.search.rows import Rows
from kdsearch.store.files import read_lines


def test_rows_are_there_again(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "new" / "c.jsonl", "k")
    rows.append([{"a": 1}, {"a": 0.1}])
    rows.append([])
    rows.append([{"a": None}])
    assert Rows(rows.path, "k").rows == [{"a": 1}, {"a": 0.1}, {"a": None}] == rows.rows


def test_a_file_cut_anywhere_opens_with_the_whole_rows_and_goes_on(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "c.jsonl", "k")
    rows.append([{"a": 1}, {"b": "ü"}])
    raw = rows.path.read_bytes()
    for cut in range(len(raw) + 1):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(raw[:cut])
        n_whole = max(raw[:cut].count(b"\n") - 1, 0)
        again = Rows(path, "k")
        assert again.rows == [{"a": 1}, {"b": "ü"}][:n_whole]
        again.append([{"c": 3}])
        assert Rows(path, "k").rows == [*[{"a": 1}, {"b": "ü"}][:n_whole], {"c": 3}]


def test_a_file_may_be_larger_than_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of more candidates than a limit of the whole file would let be read again; one line is as large as allowed, one larger."""
    rows, plain = Rows(tmp_path / "c.jsonl", "k"), tmp_path / "plain.jsonl"
    rows.append([{"a": each} for each in range(40)])
    plain.write_text("".join(f'{{"a": "{"x" * 91}"}}\n' for _ in range(40)))
    monkeypatch.setattr("kdsearch.search.rows.JSON_BYTES", max(map(len, rows.path.read_bytes().splitlines(True))))
    monkeypatch.setattr("kdsearch.store.files.JSON_BYTES", 101)
    assert Rows(rows.path, "k").rows == [{"a": each} for each in range(40)]
    assert len(read_lines(plain)) == 40
    rows.append([{"a": "x" * 99}])
    with plain.open("a") as file:
        file.write("1" * 102)
    for place, read in ((rows.path, lambda path: Rows(path, "k")), (plain, read_lines)):
        with pytest.raises(ArtifactError, match=r"more than \d+ bytes") as caught:
            read(place)
        assert caught.value.file == place
        assert caught.value.line == (42 if place == rows.path else 41)


def test_another_studys_rows_are_put_aside(tmp_path: Path) -> None:
    Rows(tmp_path / "c.jsonl", "0123456789").append([{"a": 1}])
    assert Rows(tmp_path / "c.jsonl", "other").rows == []
    assert Rows(tmp_path / "c.jsonl.01234567", "0123456789").rows == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"format":1,"key":"k"}\n{"a":\n{"b":1}\n', 2, "no JSON object"),
        ('{"format":2,"key":"k"}\n', 1, "format 2"),
        ("[1]\n", 1, "no JSON object"),
        ("\x00\x01\n", 1, "no JSON object"),
    ],
)
def test_a_foreign_file_is_named_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        Rows(path, "k")
    assert (caught.value.file, caught.value.line) == (path, line)
    assert path.read_text() == text


@pytest.mark.parametrize("change", [('"score":0.5', '"score":0.9'), ('"n":1', '"n":2'), ('"n":1,', "")])
def test_a_row_changed_by_hand_is_not_believed(tmp_path: Path, change: tuple[str, str]) -> None:
    rows = Rows(tmp_path / "c.jsonl", "k")
    rows.append([{"score": 0.25}, {"n": 1, "score": 0.5}])
    text = rows.path.read_text()
    rows.path.write_text(text.replace(*change))
    assert rows.path.read_text() != text
    with pytest.raises(ArtifactError, match=r"c.jsonl:3: has changed since it was written.* Delete the file"):
        Rows(rows.path, "k")


def test_a_full_disk_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(tmp_path / "c.jsonl", "k")
    rows.append([{"a": 1}])
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    with pytest.raises(StorageError, match="disk is full"):
        rows.append([{"b": 2}])

    def refuse(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StorageError, match="No space left"):
        rows.append([{"b": 2}])
    monkeypatch.undo()
    assert rows.rows == [{"a": 1}]
    assert Rows(rows.path, "k").rows == [{"a": 1}]
