"""Tables of the user's own: what is read, what rows are called, and the one message that each fault gets."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdsearch import limits
from kdsearch.engine.setup import Site
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds.options import validate
from kdsearch.kit.tables import Table, TableFiles, read_table, read_tables
from kdsearch.store import table_rows

CSV = 'name,age,city\nann,31,Oslo\nbob,,"Aix, France"\n\neve,7.5,\n'


def written(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def read(folder: Path, text: str | bytes, name: str = "t.csv", **options: object) -> Table:
    return read_table(written(folder, name, text), TableFiles(path=name, **options))  # type: ignore[arg-type]


def refused(folder: Path, text: str | bytes, name: str = "t.csv", **options: object) -> str:
    with pytest.raises(DataError) as found:
        read(folder, text, name, **options)
    return str(found.value).replace(str(folder) + os.sep, "")


def test_a_csv_has_its_columns_with_missing_cells_and_each_row_its_line(tmp_path):
    table = read(tmp_path, CSV)
    assert table.columns == ("name", "age", "city")
    assert table.texts("name") == ["ann", "bob", "eve"]
    assert table.categories("city") == ["Oslo", "Aix, France", None]
    np.testing.assert_array_equal(table.numbers("age"), [31.0, np.nan, 7.5])
    assert list(table.lines) == [2, 3, 5]  # the empty line is none


def test_json_lines_are_the_same_table(tmp_path):
    lines = [{"name": "ann", "age": 31}, {"age": None, "name": "bob", "tags": ["a"]}]
    table = read(tmp_path, "\n".join(map(json.dumps, lines)) + "\n", "t.jsonl")
    assert table.columns == ("name", "age", "tags")
    np.testing.assert_array_equal(table.numbers("age"), [31.0, np.nan])
    assert table.lists("tags") == [None, ["a"]]


def test_a_row_in_quotes_that_spans_lines_is_named_by_its_first(tmp_path):
    table = read(tmp_path, 'a,b\n"one\ntwo",1\nx,oops\n')
    assert list(table.lines) == [2, 4]
    with pytest.raises(DataError, match=r"t\.csv:4: column 'b': got 'oops'\. Expected a finite number"):
        table.numbers("b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_encodings(tmp_path, encoding):
    raw = "städte\nKöln\n".encode(encoding)
    assert read(tmp_path, raw, encoding=encoding).texts("städte") == ["Köln"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert read(tmp_path, "a\nb\n".encode("utf-8-sig")).columns == ("a",)


def test_another_encoding_is_told_with_the_line(tmp_path):
    said = refused(tmp_path, "a\nb\nKöln\n".encode("latin-1"))
    assert said.startswith("t.csv:3: byte 0xf6 is no utf-8 here")
    assert "latin-1" in said


@pytest.mark.parametrize(
    ("text", "name", "options", "said"),
    [
        ("", "t.csv", {}, "t.csv: is empty. Expected a header and rows"),
        ("a,b\n", "t.csv", {}, "t.csv: has no row"),
        ("a,b\n1\n", "t.csv", {}, "t.csv:2: 1 cells. Expected 2: a, b"),
        ("a;b\n1;2,5\n", "t.csv", {}, 't.csv:2: 2 cells. Expected 1: a;b. Set `delimiter: ";"` if it stands'),
        ("a,b\n1,2,3\n", "t.csv", {}, "t.csv:2: 3 cells. Expected 2: a, b."),
        ("a,a\n1,2\n", "t.csv", {}, "t.csv:1: two columns are named 'a'"),
        ('a\n"b"c\n', "t.csv", {}, "t.csv:2: is no CSV"),
        ('a\n"b', "t.csv", {}, "t.csv:2: is no CSV"),
        ("{}\n[1]\n", "t.jsonl", {}, "t.jsonl:2: got [1]. Expected an object"),
        ('{"a": 1}\n{"a": NaN}\n', "t.jsonl", {}, "t.jsonl:2: is no JSON (NaN is no number)"),
        ('{"a": "\\ud800"}\n', "t.jsonl", {}, "t.jsonl:1: holds half of a surrogate pair"),
        ("a\nb\n", "t.xlsx", {}, "t.xlsx: is a '.xlsx' file. Expected a table"),
        ("a\nb\n", "t", {}, "t: its name has no ending"),
        ("id,x\nu,1\nu,2\n", "t.csv", {"id": "id"}, "t.csv:3: column 'id': id 'u' occurs twice, in line 2 too"),
        ("id,x\n,1\n", "t.csv", {"id": "id"}, "t.csv:2: column 'id': is missing. Expected an id"),
        ("index,x\na,1\n", "t.csv", {"id": "indx"}, "t.csv: no column 'indx'; did you mean 'index'? Expected index, x"),
    ],
)
def test_faults_of_a_file(tmp_path, text, name, options, said):
    assert refused(tmp_path, text, name, **options).startswith(said)


def test_faults_of_values_name_line_and_column(tmp_path):
    rows = [{"a": "x"}, {"a": 1.5, "t": "", "l": ["u", "u"]}, {"t": 3, "l": "u;v"}]
    table = read(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl")
    for call, said in [
        (lambda: table.categories("a"), "t.jsonl:2: column 'a': got 1.5. Expected a name or a whole number"),
        (lambda: table.texts("t"), "t.jsonl:1: column 't': is missing. Expected text"),
        (lambda: table.lists("l"), 't.jsonl:2: column \'l\': got ["u", "u"] has a name twice'),
        (lambda: table.numbers("a"), "t.jsonl:1: column 'a': got 'x'. Expected a finite number"),
        (lambda: table.column("tt"), "t.jsonl: no column 'tt'; did you mean 't'?"),
    ]:
        with pytest.raises(DataError) as found:
            call()
        assert str(found.value).replace(str(tmp_path) + os.sep, "").startswith(said)


@pytest.mark.parametrize("text", ["1e999", "inf", "1_000", "0x10", "true"])
def test_what_is_no_finite_number(tmp_path, text):
    with pytest.raises(DataError, match=rf"got '{text}'"):
        read(tmp_path, f"a\n{text}\n").numbers("a")


def test_a_mark_is_a_whole_number_in_either_form(tmp_path):
    """pandas writes -999.0 for -999; codes keep their zeros."""
    found = read(tmp_path, "x\n-999\n-999.0\n-99\n09\n9\n").without(["-999", "9.0"])
    assert found.column("x") == [None, None, "-99", "09", None]


def test_a_whole_number_of_json_is_a_name_in_either_form(tmp_path):
    found = read(tmp_path, '{"a": 1.0}\n{"a": 1}\n{"a": null}\n{"a": -0.0}\n', "t.jsonl")
    assert found.categories("a") == ["1", "1", None, "0"]
    with pytest.raises(DataError, match=r"got 1\.5\. Expected a name or a whole number"):
        read(tmp_path, '{"a": 1.5}\n', "t.jsonl").categories("a")


def test_marks_of_the_unknown_are_missing_where_they_are_named(tmp_path):
    table = read(tmp_path, "a,b\n?,NA\n1,x\n")
    with pytest.raises(DataError, match="List it in `missing`"):
        table.numbers("a")
    np.testing.assert_array_equal(table.without(["?"]).numbers("a"), [np.nan, 1.0])
    assert table.without(["?"]).categories("b") == ["NA", "x"]  # a country's code, as long as nobody says otherwise


def test_an_empty_text_is_missing_in_json_lines_as_in_a_csv(tmp_path):
    rows = [{"a": " ", "b": ""}, {"a": "2", "b": "x"}]
    for table in (read(tmp_path, 'a,b\n" ",""\n2,x\n'), read(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl")):
        np.testing.assert_array_equal(table.numbers("a"), [np.nan, 2.0])
        assert table.categories("b") == [None, "x"]


@pytest.mark.parametrize(
    ("row", "separator", "said"),
    [
        ({"l": 3}, None, "got 3. Expected a list of names"),
        ({"l": "u;v"}, None, "got 'u;v'. Expected a list of names"),
        ({"l": ["u", 1]}, ";", "got .*. Expected names, with ';' between them"),
    ],
)
def test_what_is_no_list_of_names(row, separator, said, tmp_path):
    table = read(tmp_path, json.dumps({"l": ["u"]}) + "\n" + json.dumps(row), "t.jsonl")
    with pytest.raises(DataError, match=rf"t.jsonl:2: column 'l': {said}"):
        table.lists("l", separator)


def test_names_of_columns_differ():
    assert TableFiles(path="t.csv", header=("a", "b")).header == ("a", "b")
    with pytest.raises(ValidationError, match="names that differ"):
        TableFiles(path="t.csv", header=("a", "a"))


def test_a_wide_table_names_thirty_of_its_columns(tmp_path):
    names = [f"c{i}" for i in range(33)]
    table = read(tmp_path, ",".join(names) + "\n" + ",".join("1" * 33) + "\n")
    with pytest.raises(DataError) as found:
        table.column("x")
    assert found.value.expected == f"{', '.join(names[:30])} and 3 more"


def test_lists_are_parted_where_a_separator_is_given(tmp_path):
    assert read(tmp_path, 'a\nu;v\n;\n""\n').lists("a", ";") == [["u", "v"], [], None]


VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8), st.randoms())
def test_ids_do_not_depend_on_the_order_of_rows_or_columns(tmp_path_factory, rows, random):
    folder = tmp_path_factory.mktemp("t")

    def ids(names: list[str], order: list[int]) -> list[str]:
        with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
            out = csv.DictWriter(stream, names)
            out.writeheader()
            for i in order:
                out.writerow({"a": rows[i][0], "b": rows[i][1], "c": "always"})
        return list(read_table(folder / "t.csv", TableFiles(path="t.csv")).ids)

    order = list(range(len(rows)))
    first = ids(["a", "b", "c"], order)
    assert len(set(first)) == len(first)
    random.shuffle(order)
    assert sorted(ids(["c", "b", "a"], order)) == sorted(first)


def test_ids_of_different_rows_differ_and_survive_a_further_row(tmp_path):
    before = read(tmp_path, "a,b\n1,2\n12,\n").ids
    assert len(set(before)) == 2
    assert read(tmp_path, "a,b\n0,0\n1,2\n12,\n").ids[1:] == before


def test_equal_rows_are_a_group_unless_they_are_said_to_differ(tmp_path):
    text = "k,a,b\n1,u,v\n2,u,w\n3,u,v\n4,u,v\n"
    assert read(tmp_path, text).groups == read(tmp_path, text, id="k").groups == ()
    equal = "a,b\nu,v\nu,w\nu,v\nu,v\n"
    found = read(tmp_path, equal)
    assert found.groups == (found.ids[0], found.ids[1], found.ids[0], found.ids[0])
    assert found.at([1, 2]).without(["u"]).groups == (found.ids[1], found.ids[0])
    assert read(tmp_path, equal, copies="keep").groups == ()


def test_what_is_not_read_tells_no_rows_apart(tmp_path):
    written(tmp_path, "t.csv", "n,a,b\n1,u,v\n2,u,w\n3,u,v\n")
    written(tmp_path, "u.csv", "n,a,b\n9,u,w\n")
    apart = read_tables(TableFiles(path="t.csv", test="u.csv"), Site(0, tmp_path))
    assert apart["train"].groups == ()
    with pytest.raises(DataError, match=r"t\.csv:3: this row of 'train' is in 'test' too \(u\.csv:2\)"):
        read_tables(TableFiles(path="t.csv", test="u.csv"), Site(0, tmp_path), "ab".__contains__)
    found = read_tables(TableFiles(path="t.csv"), Site(0, tmp_path), "ab".__contains__)["train"]
    assert found.groups == (found.ids[0], found.ids[1], found.ids[0])
    assert found.column("n") == ["1", "2", "3"]


def test_splits_by_column(tmp_path):
    written(tmp_path, "t.csv", "x,part\n1,train\n2,test\n3,Validation\n4,train\n")
    found = read_tables(TableFiles(path="t.csv", split="part"), Site(0, tmp_path))
    assert {name: each.numbers("x").tolist() for name, each in found.items()} == {
        "train": [1.0, 4.0],
        "val": [3.0],
        "test": [2.0],
    }
    written(tmp_path, "t.csv", "x,part\n1,train\n2,tests\n")
    with pytest.raises(DataError, match=r"t\.csv:3: column 'part': got 'tests'; did you mean 'test'\?"):
        read_tables(TableFiles(path="t.csv", split="part"), Site(0, tmp_path))


def test_splits_by_file_and_both_at_once_are_refused(tmp_path):
    for name in ("a", "b"):
        written(tmp_path, f"{name}.csv", f"x,part\n{name},train\n")
    found = read_tables(TableFiles(path="a.csv", test="b.csv"), Site(0, tmp_path))
    assert {name: each.texts("x") for name, each in found.items()} == {"train": ["a"], "test": ["b"]}
    with pytest.raises(DataError, match="`split` and `test` both say"):
        read_tables(TableFiles(path="a.csv", test="b.csv", split="part"), Site(0, tmp_path))


@pytest.mark.parametrize("by", ["column", "file"])
def test_a_row_in_two_splits_is_refused_dropped_from_training_or_kept(tmp_path, by):
    if by == "column":
        written(tmp_path, "t.csv", "x,part\n1,train\n2,train\n3,test\n2,test\n2,train\n")
        files = {"path": "t.csv", "split": "part"}
    else:
        written(tmp_path, "t.csv", "x\n1\n2\n2\n")
        written(tmp_path, "u.csv", "x\n3\n2\n")
        files = {"path": "t.csv", "test": "u.csv"}

    def parts(copies: str) -> dict[str, list[float]]:
        found = read_tables(TableFiles(**files, copies=copies), Site(0, tmp_path))
        ids = [each for table in found.values() for each in table.ids]
        assert len(set(ids)) == len(ids)
        return {name: each.numbers("x").tolist() for name, each in found.items()}

    where = r"t\.csv:3: this row of 'train' is in 'test' too \([tu]\.csv:[35]\)"
    with pytest.raises(DataError, match=where):
        parts("refuse")
    assert parts("keep") == {"train": [1.0, 2.0, 2.0], "test": [3.0, 2.0]}
    assert parts("drop")["test"] == [3.0, 2.0]
    assert parts("drop")["train"] == [1.0]


def test_a_copy_is_one_in_whatever_form_its_whole_numbers_are_written(tmp_path):
    """pandas writes 3.0 for 3 in the one file where the column lacks a value."""
    written(tmp_path, "t.csv", "x,c\n3,u\n4.5,v\n5,v\n")
    written(tmp_path, "u.csv", "x,c\n3.0,u\n,v\n")
    with pytest.raises(DataError, match=r"t\.csv:2: this row of 'train' is in 'test' too \(u\.csv:2\), as 1 are"):
        read_tables(TableFiles(path="t.csv", test="u.csv"), Site(0, tmp_path))
    found = read(tmp_path, "x,c\n3.0,u\n4,u\n3,u\n")
    assert len(set(found.ids)) == 3
    assert found.groups == (min(found.ids[0], found.ids[2]), found.ids[1], min(found.ids[0], found.ids[2]))


def test_a_row_without_a_target_is_a_copy_of_a_held_out_one_that_has_it(tmp_path):
    written(tmp_path, "t.csv", "x,y,part\na,1,test\nb,0,train\na,,unlabeled\nb,,unlabeled\na,0,train\n")

    def parts(copies: str, targets: tuple[str, ...] = ("y",)) -> dict[str, list[str]]:
        options = TableFiles(path="t.csv", split="part", copies=copies)  # type: ignore[arg-type]
        found = read_tables(options, Site(0, tmp_path), targets=targets)
        return {name: each.texts("x") for name, each in found.items()}

    where = r"t\.csv:4: this row of 'unlabeled' is in 'test' too \(t\.csv:2\), as 1 are"
    with pytest.raises(DataError, match=where):
        parts("refuse")
    assert parts("drop") == {"train": ["b", "a"], "unlabeled": ["b"], "test": ["a"]}  # another answer is another row
    assert parts("keep") == parts("refuse", ()) == {"train": ["b", "a"], "unlabeled": ["a", "b"], "test": ["a"]}


def test_a_row_without_a_target_is_in_one_group_with_those_that_have_it(tmp_path):
    written(tmp_path, "t.csv", "x,y\na,1\na,\nb,1\nb,0\na,0\n")
    found = read_tables(TableFiles(path="t.csv"), Site(0, tmp_path), targets=("y",))["train"]
    first = min(found.ids[0], found.ids[1], found.ids[4])
    assert found.groups == (first, first, found.ids[2], found.ids[3], first)
    assert read_tables(TableFiles(path="t.csv"), Site(0, tmp_path))["train"].groups == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no FIFOs")
def test_a_fifo_is_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"t\.csv: is a FIFO"):
        read_tables(TableFiles(path="t.csv"), Site(0, tmp_path))


def test_limits(tmp_path, monkeypatch):
    for name, value, file, text, said in [
        ("TABLE_BYTES", 4, "t.csv", "a\n1234\n", "7 bytes"),
        ("TABLE_CELL", 4, "t.csv", "a\n12345\n", "field larger"),
        ("TABLE_COLUMNS", 1, "t.csv", "a,b\n1,2\n", "2 columns"),
        ("TABLE_COLUMNS", 1, "t.jsonl", '{"a": 1, "b": 2}', "t.jsonl:1: 2 keys. Expected at most 1"),
        ("TABLE_CELL", 7, "t.jsonl", '{}\n{"a": 1}', "t.jsonl:2: 8 characters. Expected at most 7"),
        ("TABLE_CELL", 4, "t.txt", "1234\n12345", "t.txt:2: 5 characters. Expected at most 4"),
    ]:
        with monkeypatch.context() as patched:
            patched.setattr(table_rows, name, value)
            assert said in refused(tmp_path, text, file)
    was = csv.field_size_limit()
    long = "x" * (was + 1)
    assert read(tmp_path, f"a\n{long}\n").texts("a") == [long]
    assert csv.field_size_limit() == was
    assert was < limits.TABLE_CELL


def test_an_encoding_that_nobody_knows():
    assert validate(TableFiles, {"path": "t.csv", "encoding": "latin"}).encoding == "iso8859-1"
    with pytest.raises(StudyError, match="an encoding of text, such as utf-8"):
        validate(TableFiles, {"path": "t.csv", "encoding": "utf-9"})
