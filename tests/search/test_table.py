import gzip

import pytest
from kdsearch_spaces.cifar_resnet.resnet64 import ResNet64Space
from kdsearch_spaces.nb201.space import Nb201Space

from kdsearch.errors import DataError
from kdsearch.search.table import class_means, read_table

CELL = "|none~0|+|none~0|none~1|+|{}~0|none~1|none~2|"
TABLE = "arch,note,acc\n" + "".join(
    f"{CELL.format(op)},x,{acc}\n" for op, acc in [("skip_connect", 50), ("nor_conv_1x1", 60.5)]
)


def written(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_rows_are_read_by_their_columns(name, tmp_path):
    first, second = read_table(Nb201Space(), written(tmp_path, TABLE, name), "acc")
    assert (first.value, second.value) == (50.0, 60.5)
    assert first.spec.edges[3] == "skip_connect"
    assert second.key == Nb201Space().key(second.spec)


def test_depths_in_columns_of_their_own(tmp_path):
    text = "kd,d3,d1,params,d2\n1.5,3,7,9,1\n2,1,1,x,1\n"
    assert [each.spec.depths for each in read_table(ResNet64Space(), written(tmp_path, text), "kd")] == [
        (7, 1, 3),
        (1, 1, 1),
    ]


def test_a_class_of_isomorphic_rows_has_one_mean(tmp_path):
    dead = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    entries = read_table(Nb201Space(), written(tmp_path, TABLE + f"{dead},x,52\n"), "acc")
    assert len(entries) == 3
    assert sorted(class_means(entries).values()) == [51.0, 60.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("arch,acc\n", "0 rows. Expected at least two"),
        ("cell,acc\nx,1\n", "no column 'arch'"),
        (TABLE.replace("acc", "accuracy"), "no column 'acc'"),
        (TABLE + "nonsense,x,1\n", ":4: arch: 'nonsense' is no cell"),
        (TABLE + CELL.format("nor_conv_5x5") + ",x,1\n", "did you mean 'nor_conv"),
        (TABLE + CELL.format("none") + ",x,much\n", ":4: acc: 'much'. Expected a number"),
        (TABLE + CELL.format("none") + ",x,nan\n", ":4: acc: 'nan'"),
        (TABLE + CELL.format("none") + ",1\n", ":4: 2 fields. Expected 3"),
        (TABLE.replace("60.5", "50"), ": acc: every value is 50. Expected values that differ"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, message, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(DataError) as raised:
        read_table(Nb201Space(), path, "acc")
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_is_no_table(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(Nb201Space(), tmp_path / "none.csv", "acc")
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode())[:-9])
    with pytest.raises(DataError, match="not readable"):
        read_table(Nb201Space(), path, "acc")
    broken = bytearray(gzip.compress((TABLE * 50).encode()))
    broken[40:60] = b"\xff" * 20
    path.write_bytes(broken)
    with pytest.raises(DataError, match="not readable as a table"):
        read_table(Nb201Space(), path, "acc")
    with pytest.raises(DataError, match=r"t\.csv:2: field larger than field limit"):
        read_table(Nb201Space(), written(tmp_path, f"arch,acc\n{'x' * 200_000},1\n"), "acc")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not readable"):
        read_table(Nb201Space(), path, "acc")


def test_lines_are_counted_with_blank_ones_and_breaks_within_quotes(tmp_path):
    text = (
        TABLE.replace("x,50", '"two\nlines",50').replace("arch,note", "\narch,note")
        + f"\n\n{CELL.format('none')},x,?\n"
    )
    with pytest.raises(DataError, match=r"t\.csv:8: acc: '\?'. Expected a number"):
        read_table(Nb201Space(), written(tmp_path, text), "acc")


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("d1,d2,d3,acc\n1,1,1,5\n3,1,1,6\n", "d1", "t.csv:1: 'd1' is the architecture. Expected acc"),
        ("d1,d2,d3,acc,acc\n1,1,1,5,6\n3,1,1,6,7\n", "acc", "t.csv:1: 2 columns are 'acc'. Expected one"),
        ("d1,d1,d3,acc\n1,1,1,5\n3,1,1,6\n", "acc", "t.csv:1: 2 columns are 'd1'"),
    ],
)
def test_columns_that_do_not_say_what_they_are(text, column, message, tmp_path):
    with pytest.raises(DataError) as raised:
        read_table(ResNet64Space(), written(tmp_path, text), column)
    assert message in str(raised.value)
