"""Rows of the user's own: what becomes of columns, that only training rows are measured, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from kdsearch.builtin.tables import prepare
from kdsearch.builtin.tables.bundled import BundledOptions, BundledTable
from kdsearch.builtin.tables.columns import class_names, moments
from kdsearch.builtin.tables.data import TableData, TableOptions
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN
from kdsearch.stages.notes import noted
from kdsearch.testing.dataset import DatasetContract, FileServices

CARS = """make,weight,power,seats,mpg,kind
fiat,800,60,4,40,small
ford,1200,?,5,,large
fiat,900,65,4,38.5,small
seat,1000,80,5,30,
ford,1400,120,5,20,large
saab,1300,110,5,25,large
"""


def opened(folder, text=CARS, name="cars.csv", **options):
    (folder / name).write_text(text)
    return TableData(TableOptions(path=name, **{"missing": ("?",), **options})).open(FileServices(folder))


class TestClasses(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "cars.csv").write_text(CARS)
        return TableData(TableOptions(path="cars.csv", target="kind", missing=("?",), ignore=("mpg",)))


class WithoutClasses(DatasetContract):
    def test_labels_are_classes(self, source):
        assert all(field.kind != "label" for field in source.fields)
        assert "classes" not in source.facts


class TestLists(WithoutClasses):
    @pytest.fixture
    def dataset(self, tmp_path):
        rows = [{"x": i / 3, "city": "ab"[i % 2], "tags": ["u", "v"][: i % 3]} for i in range(12)]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return TableData(TableOptions(path="t.jsonl", target="tags", kind="labels"))


class TestCharacters(WithoutClasses):
    @pytest.fixture
    def dataset(self):
        return BundledTable(BundledOptions(kind="labels"))


class TestWine(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return BundledTable(BundledOptions(name="wine"))


def test_columns_become_numbers_with_marks_for_what_is_missing_and_ids_of_categories(tmp_path):
    source = opened(tmp_path, target="mpg", kind="number", categories=("seats",), ignore=("kind",))
    batch = source.split("train").load(range(6))
    power = [60, 87, 65, 80, 120, 110]  # 87 is the mean of the five that are there
    assert batch["numbers"].tolist() == [
        list(row) for row in zip([800, 1200, 900, 1000, 1400, 1300], power, strict=True)
    ]
    assert batch["missing"].tolist() == [[0], [1], [0], [0], [0], [0]]
    # make: 0 unknown, 1 fiat, 2 ford, 3 saab, 4 seat; seats: 5 unknown, 6 = "4", 7 = "5"
    assert batch["categories"].tolist() == [[1, 6], [2, 7], [1, 6], [4, 7], [2, 7], [3, 7]]
    assert batch["target"].isnan().tolist() == [[False], [True], [False], [False], [False], [False]]
    fields = {each.name: each for each in source.fields}
    assert fields["categories"].n_values == 8
    weights = np.array([800, 1200, 900, 1000, 1400, 1300])
    np.testing.assert_allclose(
        [fields["numbers"].mean, fields["numbers"].std],
        [[weights.mean(), 87], [weights.std(), np.std([60, 65, 80, 120, 110])]],
    )
    np.testing.assert_allclose(fields["target"].mean, [np.mean([40, 38.5, 30, 20, 25])])


def test_only_training_rows_are_measured(tmp_path):
    rows = "\n".join(f"{i},{'ab'[i % 2] if i else 'rare'},{i % 2}" for i in range(40))
    source = opened(tmp_path, f"x,c,y\n{rows}\n", target="y")
    data = arrange(source, labeled=1.0, validation=0.2, test=0.2, seed=3)
    numbers = next(each for each in data.fields if each.name == "numbers")
    train = [float(data.split("train").load([i])["numbers"]) for i in range(len(data.split("train").ids))]
    assert len(train) < 30
    np.testing.assert_allclose([numbers.mean, numbers.std], [[np.mean(train)], [np.std(train)]], rtol=1e-6)
    held = {name: data.split(name).load(range(len(data.split(name).ids))) for name in ("train", "val", "test")}
    where = [name for name, batch in held.items() if bool((batch["numbers"] == 0).any())]
    seen = where == ["train"]
    values = next(each for each in data.fields if each.name == "categories").n_values
    assert values == (4 if seen else 3)  # unknown, a, b and "rare" where it is a training row
    ids = torch.cat([batch["categories"][batch["numbers"][:, 0] == 0] for batch in held.values()])
    assert bool((ids == 0).all()) != seen


def test_equal_rows_are_not_carved_apart(tmp_path):
    rows = [f"{i % 20},{'ab'[i % 2]}" for i in range(60)]
    source = opened(tmp_path, "x,kind\n" + "\n".join(rows), target="kind")
    assert "copies" not in source.facts
    parts = arrange(source, labeled=1.0, validation=0.2, test=0.2, seed=1)
    x = {
        name: parts.split(name).load(range(len(parts.split(name).ids)))["numbers"] for name in ("train", "val", "test")
    }
    assert {name: len(each) for name, each in x.items()} == {"train": 36, "val": 12, "test": 12}
    held = [set(each[:, 0].tolist()) for each in x.values()]
    assert sum(map(len, held)) == 20


def test_targets_that_the_study_hides_are_not_measured(tmp_path):
    rows = "\n".join(f"{i},{i * i}" for i in range(60))
    source = opened(tmp_path, f"x,y\n{rows}\n", target="y", kind="number")
    data = arrange(source, labeled=0.2, validation=0.2, test=0.2, seed=3)
    shown, train = data.split("labeled"), data.split("train")
    assert len(shown.ids) < len(train.ids) / 2
    target, numbers = (next(each for each in data.fields if each.name == name) for name in ("target", "numbers"))
    seen = shown.load(range(len(shown.ids)))["target"].double()
    read = train.load(range(len(train.ids)))["numbers"].double()
    for field, each in ((target, seen), (numbers, read)):
        found = [field.mean[0], field.std[0]]
        np.testing.assert_allclose(found, [float(each.mean()), float(each.std(unbiased=False))], rtol=1e-6)


def test_categories_that_are_rare_are_read_as_unknown(tmp_path):
    source = opened(tmp_path, target="kind", rare=2, ignore=("mpg",))
    assert source.split("train").load(range(6))["categories"][:, 0].tolist() == [1, 2, 1, 0, 2, 0]


def test_a_row_without_a_class_is_a_sample_without_a_label(tmp_path):
    source = opened(tmp_path, target="kind", ignore=("mpg",))
    assert source.facts["classes"] == ["large", "small"]
    assert source.split("train").load(range(6))["label"].tolist() == [1, 0, 1, HIDDEN, 0, 0]


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    assert opened(tmp_path, "x,y\n1,10\n2,9\n3,10\n", target="y").facts["classes"] == ["9", "10"]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ({"10", "9", "-1", "-10"}, ["-10", "-1", "9", "10"]),
        ({"1", "01", "2", "001"}, ["001", "01", "1", "2"]),
        ({"--1", "2", "10"}, ["--1", "10", "2"]),
        ({"-", "2"}, ["-", "2"]),
        ({"\u00b2", "2"}, ["2", "\u00b2"]),
    ],
)
def test_names_are_ordered_as_numbers_where_all_are_whole_ones(names, order):
    assert class_names(names) == order


@pytest.mark.parametrize(
    ("values", "names", "classes", "labels"),
    [
        (("0", "1.0", "2", "0.0", "1", "2.0"), None, ["0", "1", "2"], [0, 1, 2, 0, 1, 2]),
        (("0.0", "1.0", "0.0", "1.0"), None, ["0.0", "1.0"], [0, 1, 0, 1]),
        (("0", "1.0", "1"), ("1.0", "0.0"), ["1.0", "0.0"], [1, 0, 0]),
        (("1.5", "1.50", "v1", "v1.0", "1.5"), None, ["1.5", "1.50", "v1", "v1.0"], [0, 1, 2, 3, 0]),
    ],
)
def test_a_whole_number_is_one_class_however_it_is_written(tmp_path, values, names, classes, labels):
    text = "x,y\n" + "".join(f"{i}.5,{value}\n" for i, value in enumerate(values))
    source = opened(tmp_path, text, target="y", names=names)
    assert source.facts["classes"] == classes
    assert source.split("train").labels.tolist() == labels


def test_a_whole_number_is_one_category_too_and_a_class_of_another_file(tmp_path):
    (tmp_path / "val.csv").write_text("x,y\n2,1\n3.0,0\n")
    text = "x,y\n2,0.0\n2.0,1.0\n3,0.0\n3.0,1.0\n"
    source = opened(tmp_path, text, target="y", categories=("x",), val="val.csv", copies="keep")
    assert json.loads(source.files()["table.json"])["categories"][0]["values"] == {"2": 1, "3": 2}
    assert source.split("train").load(range(4))["categories"].tolist() == [[1], [1], [2], [2]]
    assert source.split("val").load(range(2))["categories"].tolist() == [[1], [2]]
    assert source.facts["classes"] == ["0", "1"]
    assert source.split("val").labels.tolist() == [1, 0]


def test_labels_are_columns_of_yes_and_no_or_a_list(tmp_path):
    columns = opened(tmp_path, "x,a,b\n1,1,0\n2,,true\n3,0,no\n", target=("a", "b"), kind="labels")
    assert columns.split("train").load([0, 1, 2])["labels"].tolist() == [[1, 0], [HIDDEN, 1], [0, 0]]
    lists = opened(tmp_path, 'x,t\n1,b;a\n2,\n3,b\n4,";"\n', target="t", kind="labels", separator=";")
    assert lists.facts["labels"] == ["a", "b"]
    assert lists.split("train").load(range(4))["labels"].tolist() == [[1, 1], [HIDDEN, HIDDEN], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("column", "options", "said"),
    [
        (
            "1.5 NaN 2",
            {"kind": "number"},
            "'NaN'. Expected a finite number. List it in `missing` if it means that nobody",
        ),
        (
            "a nan b",
            {},
            "'nan'. Expected a class. List it in `missing` if it means that nobody knows. If one is called",
        ),
        ("0 -nan 1", {"names": ("0", "1")}, "'-nan'. Expected a class. List it in `missing`"),
        ("a;b nan b", {"kind": "labels", "separator": ";"}, "'nan'. Expected labels. List it in `missing`"),
    ],
)
def test_a_target_nan_is_refused_unless_it_is_said_what_it_means(tmp_path, column, options, said):
    rows = column.split()
    text = "x,y\n" + "".join(f"{i}.5,{each}\n" for i, each in enumerate([*rows, *rows[::2]]))
    with pytest.raises(DataError) as e:
        opened(tmp_path, text, target="y", **options)
    assert f"cars.csv:3: column 'y': got {said}" in str(e.value)
    source = opened(tmp_path, text, target="y", missing=(rows[1],), **options)
    target = source.split("train").load(range(5))[source.fields[-1].name].double().reshape(5, -1)
    assert (target.isnan() | (target == HIDDEN)).all(1).tolist() == [False, True, False, False, False]


def test_a_target_nan_is_refused_in_every_split_and_is_a_class_where_names_list_it(tmp_path):
    (tmp_path / "val.csv").write_text("x,y\n7,a\n8, nan\n")
    options = {"target": "y", "val": "val.csv"}
    with pytest.raises(DataError, match=r"val.csv:3: column 'y': got ' ?nan'. Expected a class"):
        opened(tmp_path, "x,y\n1,a\n2,b\n", **options)
    source = opened(tmp_path, "x,y\n1,a\n2,nan\n", names=("nan", "a"), **options)
    assert source.split("val").labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"'b': got 'nan'. Expected 0 or 1. List it in `missing`"):
        opened(tmp_path, "x,a,b\n1,1,0\n2,0,nan\n", target=("a", "b"), kind="labels")


LISTS = "x,t,part\n1,a;b,train\n2,b,train\n3,c;a,val\n4,b,test\n"


def test_a_label_that_no_training_row_has_is_refused_unless_it_is_named(tmp_path):
    options = {"target": "t", "kind": "labels", "separator": ";", "split": "part"}
    with pytest.raises(
        DataError, match=r"cars.csv:4: column 't': got 'c'. Expected a label of the training rows \(a, b\)"
    ) as e:
        opened(tmp_path, LISTS, **options)
    assert "`names`" in str(e.value)
    named = opened(tmp_path, LISTS, **options, names=("a", "b", "c"))
    assert named.split("val").load([0])["labels"].tolist() == [[1, 0, 1]]
    unlabeled = opened(tmp_path, LISTS.replace("c;a,val", "c;a,unlabeled"), **options)
    assert unlabeled.facts["labels"] == ["a", "b", "c"]
    silent = opened(tmp_path, LISTS.replace("a;b,train", ";,train").replace("b,train", ";,train"), **options)
    assert silent.facts["labels"] == ["a", "b", "c"], "no training row has any"


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (CARS, {"target": "price"}, "no column 'price'"),
        (CARS, {"target": "kind", "ignore": ("knd",)}, "no column 'knd'; did you mean 'kind'?"),
        (CARS, {"target": "kind", "numbers": ("make",)}, "cars.csv:2: column 'make': got 'fiat'. Expected a finite number"),
        (CARS, {"target": "kind", "missing": (), "numbers": ("power",)}, "cars.csv:3: column 'power': got '?'"),
        (CARS, {"target": "kind", "ignore": ("kind",)}, "column 'kind' is named twice"),
        (CARS, {"target": "kind", "names": ("small", "big")}, "column 'kind': got 'large'. Expected big or small"),
        (CARS, {"target": ("kind", "make")}, "2 columns of classes"),
        (CARS, {"target": "make", "kind": "number"}, "cars.csv:2: column 'make': got 'fiat'"),
        (CARS, {"target": ("kind", "mpg"), "kind": "labels"}, "cars.csv:2: column 'kind': got 'small'. Expected 0 or 1"),
        (CARS, {"target": "make", "kind": "labels"}, "cars.csv:2: column 'make': got 'fiat'. Expected a list of names"),
        ("x,y\n1e38,1\n2,2\n", {"target": "y"}, "cars.csv:2: column 'x': got 1e+38. Expected a number within 1e37"),
        ("y\n1\n2\n", {"target": "y"}, "no column is left to read"),
        (
            "name,y\n" + "".join(f"n{i},{i % 2}\n" for i in range(150)),
            {"target": "y"},
            "column 'name' has 150 different values in 150 rows",
        ),
        (
            "a;y\n" + "".join(f"0,{i};{i % 2}\n" for i in range(1000, 1150)),
            {"target": "y", "delimiter": ";"},
            "cars.csv:2: column 'a': got '0,1000', a number with a decimal comma. Expected a decimal point. Write a point before",
        ),
        (
            "a;y\n1.257,5;0\n3;1\n-0,5;0\n",
            {"target": "y", "delimiter": ";"},
            "cars.csv:2: column 'a': got '1.257,5', a number with a decimal comma.",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, text, options, said):
    with pytest.raises(DataError) as found:
        opened(tmp_path, text, **options)
    assert said in str(found.value)


def test_names_that_come_back_are_categories(tmp_path):
    """120 of them in 300 rows: two rows in five have one of their own."""
    rows = "".join(f"n{i if i < 119 else 0},{i % 2},{i}\n" for i in range(300))
    source = opened(tmp_path, "name,y,x\n" + rows, target="y")
    assert source.facts["columns"] == {"numbers": ["x"], "categories": ["name"]}
    with pytest.raises(DataError, match="column 'name' has 151 different values in 300 rows"):
        opened(tmp_path, "name,y\n" + "".join(f"n{min(i, 150)},{i % 2}\n" for i in range(300)), target="y")


def test_what_looks_like_numbers_with_a_comma_may_be_categories(tmp_path):
    rows = "a;b;y\n0,5;u,v;0\n0,7;1,2,3;1\n"
    told = {"target": "y", "delimiter": ";", "categories": ("a",)}
    assert opened(tmp_path, rows, **told).facts["columns"] == {"numbers": [], "categories": ["a", "b"]}


def test_small_numbers_keep_their_deviation_and_constants_have_none():
    raw = np.array([[1e-12, 5.0, 1e6, np.nan], [3e-12, 5.0, 1e6 + 1e-5, np.nan]])
    mean, std = moments(raw)
    assert mean == pytest.approx((2e-12, 5.0, 1e6, 0.0))
    assert std == pytest.approx((1e-12, 1.0, 1e3, 1.0))


def test_numbers_that_float32_cannot_tell_apart_are_refused(tmp_path):
    """Seconds of ten minutes since 1970: float32 has steps of 128 there. Of ten years, and of a day, they are far enough apart."""

    def table(span, start=1_760_000_000):
        return "t,y\n" + "".join(f"{start + span * i / 50:.3f},{i % 2}\n" for i in range(50))

    for span in (86_400, 3e8):
        assert (
            opened(tmp_path, table(span), target="y").split("train").load(range(50))["numbers"].unique().numel() == 50
        )
    said = r"column 't': its values differ by 173 around 1760000294.* steps of 128\..*such as 1760000000, "
    with pytest.raises(DataError, match=said + "or name it in `ignore`"):
        opened(tmp_path, table(600), target="y")
    with pytest.raises(DataError, match=said + "and add it to the answers"):
        opened(tmp_path, table(600), target="t", kind="number")
    assert opened(tmp_path, table(600, 0), target="y").fields[0].name == "numbers"
    constant = "t,x,y\n" + "".join(f"1760000000.1,{i},{i % 2}\n" for i in range(8))
    field = opened(tmp_path, constant, target="y").fields[0]
    mean, std = field.mean[0], field.std[0]
    assert np.float32(mean + std) - np.float32(mean) == pytest.approx(std, rel=1e-3), "which networks tell apart"
    ids = "t,x,y\n" + "".join(f"{1_780_000_130_120_400_000 + 16_000 * i},{i},{i % 2}\n" for i in range(50))
    with pytest.raises(DataError, match=r"column 't': its values differ by 2.31e\+05 around 1.7800001"):
        opened(tmp_path, ids, target="y")
    kept = table(600).replace("t,y", "t,x,y").replace(",", ",7,").replace("t,7,x,7,y", "t,x,y")
    assert opened(tmp_path, kept, target="y", ignore=("t",)).fields[0].shape == (1,)


def test_a_column_of_another_split_is_missed(tmp_path):
    (tmp_path / "u.csv").write_text("make,y\nfiat,1\n")
    with pytest.raises(DataError, match=r"u\.csv: no column 'x'"):
        opened(tmp_path, "x,y\n1,1\n2,2\n", target="y", test="u.csv")


def test_what_goes_along_reads_a_row_as_the_data_set_does(tmp_path):
    rows = [{"x": 1.5, "n": 3, "c": "Aix", "b": True, "y": 0}, {"x": None, "n": 7, "c": None, "b": False, "y": 1}]
    rows.append({"x": 2.25, "c": "Köln", "b": True, "y": 1})
    rows.append({"x": "nan", "n": 4, "c": "null", "b": True, "y": 0})  # no number, and a name that is no absence
    rows += [
        {"x": "?", "n": 1, "c": "?", "b": True, "y": 0},
        {"x": " ", "n": 1, "c": " ", "b": True, "y": 0},
    ]  # nobody knows
    told = {"target": "y", "numbers": ("x",), "missing": ("?",)}
    source = opened(tmp_path, "\n".join(map(json.dumps, rows)), "cars.jsonl", **told)
    files = source.files()
    paths = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        paths[name] = tmp_path / name
    own: dict[str, object] = {}
    exec(files["prepare.py"].decode(), own)
    expected = source.split("train").load(range(6))
    assert expected["missing"].tolist() == [[0, 0], [1, 0], [0, 1], [1, 0], [1, 0], [1, 0]]
    for read in (own["inputs"], prepare.inputs):
        for i, row in enumerate(rows):
            made = read(json.dumps({k: v for k, v in row.items() if k != "y"}), paths)
            assert set(made) == {"numbers", "missing", "categories"}
            for name, value in made.items():
                assert torch.equal(torch.from_numpy(value), expected[name][i : i + 1]), name
        assert read('{"x": " 1.5 ", "c": "nowhere"}', paths)["categories"].tolist()[0][0] == 0
        for wrong, said in [
            ("[]", "a row is"),
            ('{"z": 1}', "no column 'z'"),
            ('{"x": "a"}', "column 'x': 'a' is no number"),
        ]:
            with pytest.raises(ValueError, match=said):
                read(wrong, paths)


def test_a_column_without_a_value_is_told_and_may_be_in_a_row(tmp_path):
    source = opened(tmp_path, "a,none,b,y\n1,,u,0\n2,,v,1\n3,?,u,1\n", target="y")
    assert source.facts["notes"] == ["Column 'none' is not read: no training row has a value there."]
    assert noted(source.facts) == [f"Data: {each}" for each in source.facts["notes"]]
    for name, content in source.files().items():
        (tmp_path / name).write_bytes(content)
    place = {"table.json": tmp_path / "table.json"}
    with_it = prepare.inputs('{"a": 1, "none": "x", "b": "v"}', place)
    assert {name: value.tolist() for name, value in with_it.items()} == {
        name: value.tolist() for name, value in prepare.inputs('{"a": 1, "b": "v"}', place).items()
    }
    with pytest.raises(ValueError, match=r"no column 'nome': there are a, b"):
        prepare.inputs('{"nome": 1}', place)


def test_a_row_of_json_is_read_as_the_csv_that_another_program_wrote(tmp_path):
    """pandas writes True, and 4.0 for whole numbers beside empty cells; -999 is what its author wrote for nobody knows."""
    rows = [
        ("True", "31", "4.0", "01"),
        ("False", "-999", "2.0", "1"),
        ("True", "45", "", "2"),
        ("True", "28", "3.0", "01"),
    ]
    text = "member,age,grade,code,y\n" + "".join(f"{','.join(row)},{i % 2}\n" for i, row in enumerate(rows))
    source = opened(tmp_path, text, target="y", missing=("-999",), categories=("grade", "code"))
    for name, content in source.files().items():
        (tmp_path / name).write_bytes(content)
    place = {"table.json": tmp_path / "table.json"}
    batch = source.split("train").load(range(4))
    wanted = {name: batch[name] for name in ("numbers", "missing", "categories")}
    for i, (member, age, grade, code) in enumerate(rows):
        for given in (
            {"member": member, "age": age, "grade": grade, "code": code},
            {"member": member == "True", "age": int(age), "grade": float(grade) if grade else None, "code": code},
            {
                "member": member == "True",
                "age": float(age),
                "grade": int(float(grade)) if grade else None,
                "code": code,
            },
        ):
            made = prepare.inputs(json.dumps(given), place)
            for name, tensor in wanted.items():
                assert made[name].tolist() == tensor[i : i + 1].tolist(), (given, name)

    def ids(**row):
        return prepare.inputs(json.dumps(row), place)["categories"].tolist()[0]

    assert ids(grade=7, code=5, member="maybe") == ids(), "a number that training did not have, as text that it did not"
    for row, said in (
        ({"member": 1}, 'column \'member\': 1 is none of its values; write one as text, such as "False", "True"'),
        ({"grade": True}, "column 'grade': true is none of its values"),
        ({"grade": [4]}, "column 'grade'"),
        ({"age": "1_000"}, "column 'age': '1_000' is no number"),
        ({"age": "inf"}, "column 'age': 'inf' is no number within"),
        ({"age": True}, "column 'age': True is no number"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare.inputs(json.dumps(row), place)
    assert ids(code=1)[2] == ids(code="1")[2], "written as JSON would"
    (tmp_path / "table.json").write_text((tmp_path / "table.json").read_text().replace('"1":', '"001":'))
    with pytest.raises(ValueError, match=r'such as "01", "001"'):
        prepare.inputs('{"code": 1}', place)


def test_a_mark_is_a_number_of_json_lines_too(tmp_path):
    rows = [{"x": x, "y": i % 2} for i, x in enumerate([1, -999, -999.0, "-999", 2.5, 3])]
    source = opened(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl", target="y", missing=("-999",))
    assert source.split("train").load(range(6))["missing"][:, 0].tolist() == [0, 1, 1, 1, 0, 0]


def test_a_category_is_known_in_whatever_form_another_file_writes_it(tmp_path):
    """A column of whole numbers has 10.0 in the file in which it lacks a value; so may a row have it, and a mark -999.0."""
    text = "zip,n,y\n" + "".join(f"{10 + i % 4},{i},{i % 2}\n" for i in range(8))
    (tmp_path / "u.csv").write_text("zip,n,y\n10.0,-999.0,1\n13.0,1,0\n14.0,2,0\n,3,0\n")
    told = {"categories": ("zip",), "missing": ("-999",), "test": "u.csv"}
    source = opened(tmp_path, text.replace("10,0,0", "10,,0"), target="y", **told)
    batch = source.split("test").load(range(4))
    assert batch["categories"][:, 0].tolist() == [1, 4, 0, 0]
    assert batch["missing"][:, 0].tolist() == [1, 0, 0, 0]
    for name, content in source.files().items():
        (tmp_path / name).write_bytes(content)
    for i, row in enumerate(({"zip": "10.0", "n": "-999.0"}, {"zip": "13.0", "n": 1}, {"zip": "14.0", "n": 2})):
        fed = prepare.inputs(json.dumps(row), {"table.json": tmp_path / "table.json"})
        assert {name: fed[name].tolist() for name in fed} == {name: batch[name][i : i + 1].tolist() for name in fed}


def test_nan_in_a_row_is_missing_as_it_is_in_training(tmp_path):
    text = "a,b,kind\n" + "".join(f"{'NaN' if i == 3 else i},{i},{'xy'[i % 2]}\n" for i in range(8))
    source = opened(tmp_path, text, target="kind", numbers=("a", "b"))
    for name, content in source.files().items():
        (tmp_path / name).write_bytes(content)
    (row,) = (i for i, each in enumerate(source.split("train").load(range(8))["missing"].tolist()) if each == [1.0])
    fed = prepare.inputs('{"a": "NaN", "b": 3}', {"table.json": tmp_path / "table.json"})
    batch = source.split("train").load([row])
    assert fed["missing"].tolist() == batch["missing"].tolist() == [[1.0]]
    assert fed["numbers"].tolist() == batch["numbers"].tolist()
    for wrong in ("junk", "[1]"):
        with pytest.raises(ValueError, match=r"a row is a JSON object.* of a, b"):
            prepare.inputs(wrong, {"table.json": tmp_path / "table.json"})


def test_equal_rows_stay_together_whatever_an_ignored_column_counts(tmp_path):
    """A file of pandas: the first column has no name and counts the rows, of which each is there four times."""
    text = ",x,c,y\n" + "".join(f"{i},{i % 10},{'uv'[i % 2]},{i % 2}\n" for i in range(40))
    source = opened(tmp_path, text, target="y", ignore=("",))
    split = arrange(source, labeled=1.0, validation=0.2, test=0.2)
    held = {
        name: set(part.load(range(len(part.ids)))["numbers"][:, 0].tolist())
        for name in ("train", "val", "test")
        for part in [split.split(name)]
    }
    assert sum(map(len, held.values())) == 10
    (tmp_path / "test.csv").write_text(text.replace("\n0,", "\n99,"))
    with pytest.raises(DataError, match=r"cars\.csv:2: this row of 'train' is in 'test' too"):
        opened(tmp_path, text, target="y", ignore=("",), test="test.csv")
