"""Data of the user's own: tables, texts, sequences, masks and graphs that cannot be meant as they stand.

Each is told with file, line and column, before anything is trained. `test_refused` goes the whole way of a command;
`test_told` opens the data alone, which takes a tenth of the time.
"""

# ruff: noqa: E501 (a table: a case a line)

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.hostile.rows import Row, check

Files = Mapping[str, str | bytes | np.ndarray]
NETWORKS = {
    "mlp": "{depth: 1, widths: [8]}",
    "text_encoder": "{kind: bag, layers: 0, width: 8, embedding: 8}",
    "decoder": "{kind: gru, layers: 1, width: 8}",
    "seq2seq": "{kind: gru, encoder_layers: 1, decoder_layers: 1, width: 8, heads: 2}",
    "seg": "{widths: [4, 4, 4], depth: 1, dec: 4}",
    "gnn": "{kind: gcn, layers: 1, width: 8}",
}
STUDY = """\
data: {{use: {use}, options: {{{options}}}}}
teacher: {{use: trained, options: {{space: {space}, spec: {spec}, epochs: 1}}}}
student: {{space: {space}, spec: {spec}}}
recipe: {{distillers: [{{use: {distiller}}}]}}
search: {{candidates: 1, keep: 1, proxy: params}}
refine: {{trials: 1, epochs: 1}}
distill: {{epochs: 1, controls: []}}
export: {{formats: [onnx-fp32]}}
run: {{executor: {{use: inprocess}}}}
"""


@dataclass(frozen=True)
class Case:
    """One study of own data.

    Args:
        message: what the error must hold, as a regular expression.
        files: path -> content; an array is written as a grey PNG.
    """

    name: str
    message: str
    use: str
    options: str
    files: Files
    space: str
    distiller: str = "kd"

    def __str__(self) -> str:
        return self.name

    def write(self, folder: Path) -> None:
        for path, content in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, np.ndarray):
                Image.fromarray(content).save(file)
            else:
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
        text = STUDY.format(
            use=self.use, options=self.options, space=self.space, spec=NETWORKS[self.space], distiller=self.distiller
        )
        (folder / "study.yaml").write_text(text, encoding="utf-8")


def cars(n: int = 40, line: int | None = None, row: str = "", head: str = "size,city,price") -> str:
    """A CSV of n cars, one of its lines exchanged."""
    lines = [head, *(f"{1.5 * i + 1},{'abc'[i % 3]},{i * 37 % 100 + 0.5}" for i in range(n))]
    if line is not None:
        lines[line - 1] = row
    return "\n".join(lines) + "\n"


def number(name: str, message: str, files: str | bytes | Files, options: str = "target: price, kind: number") -> Case:
    made = files if isinstance(files, Mapping) else {"t.csv": files}
    path = next(iter(made))
    return Case(name, message, "table", f"path: {path}, {options}", made, "mlp", "match")


def classes(name: str, message: str, text: str, options: str = "target: city", **more: str) -> Case:
    return Case(name, message, "table", f"path: t.csv, {options}", {"t.csv": text, **more}, "mlp")


def labels(name: str, message: str, rows: list[str], options: str = "target: [x, y]") -> Case:
    text = "size,x,y,tags\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows))
    return Case(name, message, "table", f"path: t.csv, kind: labels, {options}", {"t.csv": text}, "mlp", "match")


TAGGED = [f"{i % 2},{i // 2 % 2},{'a;b' if i % 2 else 'b;c'}" for i in range(40)]
WORDS = ["good", "bad", "red", "blue", "fast", "slow", "tree", "house", "run", "walk"]
REVIEWS = [
    (f"{WORDS[i % 10]} {WORDS[i * 3 % 10]} {i}", ("pos", "neg")[i % 2], f"{WORDS[i % 7]} answer {i}") for i in range(40)
]
READ = "path: t.csv, text: text, label: label"
FOUND = "path: t.csv, text: text, document: answer"
WRITTEN = "path: t.csv, text: text, target: answer"


def reviews(change: Callable[[list[list[str]]], object] = lambda rows: None) -> str:
    rows = [list(each) for each in REVIEWS]
    change(rows)
    return "text,label,answer\n" + "".join(",".join(each) + "\n" for each in rows)


def put(row: int, column: int, value: str) -> Callable[[list[list[str]]], object]:
    return lambda rows: rows[row].__setitem__(column, value)


def every(column: int, value: str) -> Callable[[list[list[str]]], object]:
    return lambda rows: [row.__setitem__(column, value) for row in rows]


def texts(name: str, message: str, text: str, options: str = READ, distiller: str = "kd", **more: str) -> Case:
    return Case(name, message, "texts", options, {"t.csv": text, **more}, "text_encoder", distiller)


def json_lines(name: str, message: str, row: str) -> Case:
    lines = [json.dumps({"size": i + 0.5, "city": "abc"[i % 3], "price": i * 37 % 100}) for i in range(40)]
    return number(name, rf"t.jsonl:4: .*(?:{message})", {"t.jsonl": "\n".join([*lines[:3], row, *lines[4:]])})


rng = np.random.default_rng(0)
IMAGES = {f"d/images/{i:02d}.png": rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for i in range(12)}
MASKS = {f"d/masks/{i:02d}.png": rng.integers(0, 3, (16, 16), dtype=np.uint8) for i in range(12)}


def masks(name: str, message: str, classes: str = "bg\ncat\ndog\n", gone: str = "", **changes: np.ndarray) -> Case:
    """`changes`: of masks by number, or `every`."""
    files: dict[str, str | bytes | np.ndarray] = {**IMAGES, **MASKS, "d/classes.txt": classes}
    for which, mask in changes.items():
        for path in MASKS:
            if which == "every" or path.endswith(f"{which.removeprefix('m')}.png"):
                files[path] = mask
    files.pop(gone, None)
    return Case(name, message, "mask_folder", "path: d, resize: 16", files, "seg", "cwd")


NODES = "name,x,field\n" + "".join(f"n{i},{1.25 * i},{'pq'[i % 2]}\n" for i in range(40))
EDGES = "a,b\n" + "".join(f"n{i},n{(i + 1) % 40}\nn{i},n{(i + 5) % 40}\n" for i in range(40))


def graph(
    name: str, message: str, nodes: str = NODES, edges: str = EDGES, ends: str = "a, end: b", **more: str
) -> Case:
    extra = "".join(f", {Path(file).stem}: {file}" for file in more)
    options = f"path: n.csv, id: name, target: field, edges: e.csv, source: {ends}, size: 8{extra}"
    return Case(name, message, "graph", options, {"n.csv": nodes, "e.csv": edges, **more}, "gnn")


CASES = [
    # numbers
    number("a word among numbers", r"t.csv:4: column 'size': got '\?'. Expected a number, as in 39 of 40 rows. List it in `missing`", cars(line=4, row="?,c,75")),
    number("NaN among numbers", r"t.csv:4: column 'size': got 'NaN'. .*`missing`.*`categories`", cars(line=4, row="NaN,c,75")),
    number("a percentage among numbers", "t.csv:4: column 'size': got '12%'", cars(line=4, row="12%,c,75")),
    number("a decimal comma among numbers", "t.csv:4: column 'size': got '1,5'.* Write a point before the decimals", cars(line=4, row='"1,5",c,75')),
    number("an infinite target", "t.csv:4: column 'price': got 'inf'. Expected a finite number", cars(line=4, row="4.0,c,inf")),
    number("a target of words", "t.csv:4: column 'price': got 'cheap'", cars(line=4, row="4.0,c,cheap")),
    number("a target with a thousands mark", "t.csv:4: column 'price': got '1,000'.* nothing between thousands", cars(line=4, row='4.0,c,"1,000"')),
    number("a target that is always the same", "t.csv: column 'price': every value is 5. Expected numbers that differ", "size,city,price\n" + "".join(f"{i},a,5\n" for i in range(40))),
    number("no target at all", "t.csv: column 'price': no row has a value", "size,city,price\n" + "".join(f"{i},a,\n" for i in range(40))),
    number("another column's name", "t.csv: no column 'prize'; did you mean 'price'", cars(), "target: prize, kind: number"),
    number("a column without a name", "t.csv:1: column 2 of 3 has no name. .*data.options.ignore", cars(head="size,,price")),
    number("a column twice", "t.csv:1: two columns are named 'size'", cars(head="size,size,price")),
    number("no byte", "t.csv: is empty", ""),
    number("a header alone", "t.csv: has no row", "size,city,price\n"),
    number("one row", "split 'val' is empty", cars(1)),
    number("a row too short", "t.csv:6: 2 cells. Expected 3", cars(line=6, row="4.0,a")),
    number("a row too long", "t.csv:6: 4 cells. Expected 3", cars(line=6, row="4.0,a,7,9")),
    number("a quote without an end", "t.csv:6: is no CSV", cars(line=6, row='4.0,"a,7')),
    number("semicolons", 'no column \'price\'. Expected size;city;price. Set `delimiter: ";"`', cars().replace(",", ";")),
    number("UTF-16", "t.csv:1: .* Set `encoding: utf-16`", cars().encode("utf-16")),
    number("Latin-1", "t.csv:4: byte 0xe9 .* latin-1", cars(line=4, row="4.0,é,7").encode("latin-1")),
    number("a number beyond float32", "t.csv:4: column 'size': got 1e\\+300", cars(line=4, row="1e300,a,7")),
    number("names instead of categories", "column 'city' has 300 different values in 300 rows", "size,city,price\n" + "".join(f"{i},n{i},{i}\n" for i in range(300))),
    number("the same row in training and validation", "t.csv:2: this row of 'train' is in 'val' too", {"t.csv": cars(), "v.csv": cars(8)}, "target: price, kind: number, val: v.csv"),
    number("validation without a column", "v.csv: no column 'city'", {"t.csv": cars(), "v.csv": "size,price\n1.2,3\n"}, "target: price, kind: number, val: v.csv"),
    number("a word in validation", "v.csv:2: column 'size': got 'big'", {"t.csv": cars(), "v.csv": "size,city,price\nbig,a,3\n"}, "target: price, kind: number, val: v.csv"),
    number("ids that come back", "t.csv:5: column 'city': id 'a' occurs twice", cars(), "target: price, kind: number, id: city"),
    number("another split", "t.csv:2: column 'city': got 'a'. Expected test, train", cars(), "target: price, kind: number, split: city"),
    number("a table of Excel", "t.xlsx: is a '.xlsx' file", {"t.xlsx": b"PK\3\4"}),
    json_lines("JSON: a key twice", "key 'size' is there twice", '{"size": 1, "size": 2, "city": "a", "price": 3}'),
    json_lines("JSON: NaN", "NaN is no number", '{"size": NaN, "city": "a", "price": 3}'),
    json_lines("JSON: a list", r"got \[1, 2\]", "[1, 2]"),
    json_lines("JSON: two objects", "Extra data", '{"size": 1} {"size": 2}'),
    json_lines("JSON: an object in a cell", 'column \'city\': got {"x": 1}', '{"size": 1, "city": {"x": 1}, "price": 3}'),
    json_lines("JSON: true among numbers", "column 'size': got true. Expected a number", '{"size": true, "city": "a", "price": 3}'),
    json_lines("JSON: 400 digits", "column 'size': got 9999.* Expected a number", f'{{"size": {"9" * 400}, "city": "a", "price": 3}}'),
    # classes
    classes("one class", r"the data set's classes are \['a'\]", cars().replace(",b,", ",a,").replace(",c,", ",a,")),
    classes("a number for a class", "column 'price': 40 different values in 40 rows. Expected classes, which come back.* `kind: number`", cars(), "target: price"),
    classes("a class that training lacks", r"v.csv:2: column 'city': got 'z'. Expected a class of the training rows \(a, b, c\)", cars(), "target: city, val: v.csv", **{"v.csv": "size,city,price\n9.75,z,1\n"}),
    classes("a class that is not named", "column 'city': got 'c'. Expected a or b", cars(), "target: city, names: [a, b]"),
    Case("one training row", "data: split 'train' has 1 sample. Expected at least two", "table", "path: t.csv, target: price, kind: number, val: v.csv, test: w.csv", {"t.csv": "size,price\n1.5,7\n", "v.csv": "size,price\n2.5,9\n3.5,8\n", "w.csv": "size,price\n4.5,9\n5.5,8\n"}, "mlp", "relevance"),
    # labels
    labels("a label of 2", "t.csv:4: column 'x': got '2'. Expected 0 or 1", [*TAGGED[:2], "2,1,a", *TAGGED[3:]]),
    labels("one column of 0 and 1", r"column 'x': holds 0 and 1 alone.* \[x, ...\]", TAGGED, "target: [x]"),
    labels("lists without a separator", "t.csv:2: column 'tags': got 'b;c'. Expected a list of names. Set `separator`", TAGGED, "target: tags"),
    labels("a label twice in a row", "t.csv:4: column 'tags': .* has a name twice", [*TAGGED[:2], "0,1,a;a", *TAGGED[3:]], "target: tags, separator: ;"),
    labels("no label at all", "t.csv: columns x, y: no row has a value", [",,a"] * 40),
    # texts
    texts("an empty text", "t.csv:5: column 'text': is missing. Expected text", reviews(put(3, 0, ""))),
    texts("text and label exchanged", "column 'text': 40 different values in 40 rows. Expected classes", reviews(), "path: t.csv, text: label, label: text"),
    texts("a label that training lacks", r"v.csv:2: column 'label': got 'so'. Expected a class of the training rows \(neg, pos\)", reviews(), f"{READ}, val: v.csv", **{"v.csv": "text,label\nhello,so\n"}),
    texts("half a pair", "t.csv:5: column 'answer': is missing", reviews(put(3, 2, "")), "path: t.csv, text: [text, answer], label: label"),
    texts("a pair of one column twice", "the columns are text, text, label. Expected each once", reviews(), "path: t.csv, text: [text, text], label: label"),
    texts("label and document", "both are given", reviews(), f"{READ}, document: answer"),
    texts("documents that are all the same", "t.csv: column 'answer': every text is the same", reviews(every(2, "same")), FOUND, "relevance"),
    texts("an empty document", "t.csv:5: column 'answer': is missing", reviews(put(3, 2, "")), FOUND, "relevance"),
    Case("lines that are blank", "t.txt: has no row", "sequences", "path: t.txt", {"t.txt": "\n\n  \n"}, "decoder"),
    Case("bytes for lines", "t.txt:2: byte 0x80", "sequences", "path: t.txt", {"t.txt": bytes(range(256))}, "decoder"),
    Case("an empty text of a pair", "t.csv:5: column 'text': is missing", "sequences", WRITTEN, {"t.csv": reviews(put(3, 0, ""))}, "seq2seq"),
    Case("a target too long", "t.csv:2: column 'text': .* tokens. Expected fewer than 8. Set `max_length`", "sequences", f"{WRITTEN}, max_length: 8", {"t.csv": reviews()}, "seq2seq"),
    Case("a text as its target", "column 'text' is text and target", "sequences", "path: t.csv, text: text, target: text", {"t.csv": reviews()}, "seq2seq"),
    # masks
    masks("a mask of another size", "03.png: is 8x8 pixels, its image is 16x16", m03=np.ones((8, 8), np.uint8)),
    masks("a mask of colours", "03.png: pixel mode 'RGB'. .*palette PNG", m03=np.ones((16, 16, 3), np.uint8)),
    masks("a mask of 16 bits", "03.png: pixel mode 'I;16'", m03=np.ones((16, 16), np.uint16)),
    masks("a class above", "03.png: value 7 at 256 of 256 pixels. Expected 0..2 for 3 classes", m03=np.full((16, 16), 7, np.uint8)),
    masks("masks of 0 and 255", r"d/masks: all \d+ training masks hold class 0 \(bg\) alone.* write 1 in its place", every=(MASKS["d/masks/00.png"] > 1).astype(np.uint8) * 255),
    masks("masks that say nothing", r"d/masks: all \d+ training masks hold no class", every=np.full((16, 16), 255, np.uint8)),
    masks("an image without its mask", "03.png: has no mask", gone="d/masks/03.png"),
    masks("a mask without its image", "03.png: has no image", gone="d/images/03.png"),
    masks("a class twice", "classes.txt: 'cat' is there twice", "bg\ncat\ncat\n"),
    masks("one class for pixels", "classes.txt: 1 classes", "bg\n"),
    # graphs
    graph("an edge to nobody", "e.csv:82: column 'b': no node 'm7'. Expected a name of column 'name' in n.csv", edges=EDGES + "n1,m7\n"),
    graph("an edge with one end", "e.csv:82: column 'b': is missing", edges=EDGES + "n1,\n"),
    graph("no edge", "e.csv: has no row", edges="a,b\n"),
    graph("edges from a column to itself", "an edge begins and ends in column 'a'", ends="a, end: a"),
    graph("a node twice", "n.csv:42: column 'name': id 'n3' occurs twice", NODES + "n3,7,p\n"),
    graph("a node without a name", "n.csv:42: column 'name': is missing", NODES + ",7,p\n"),
    graph("NaN among a node's numbers", "n.csv:5: column 'x': got 'NaN'. Expected a number", NODES.replace("n3,3.75", "n3,NaN")),
    graph("nodes that look like nothing", "no column is left to read", "name,field\n" + "".join(f"n{i},{'pq'[i % 2]}\n" for i in range(40))),
    graph("nodes of one class", r"the data set's classes are \['p'\]", NODES.replace(",q", ",p")),
    graph("a node's class that training lacks", r"val.csv:2: column 'field': got 'z'", **{"val.csv": "name,x,field\nv0,1,z\n"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(case, tmp_path, host):
    case.write(tmp_path)
    with pytest.raises(DataError, match=case.message):
        open_materials(load_study(tmp_path / "study.yaml", host), host)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case, capsys, place):
    row = Row(case.name, case.message, ("run", "study.yaml"), case.write)
    row.arrange(place)
    check(row, capsys, place, own=place / "nowhere")


@pytest.fixture(scope="module")
def host():
    return Host.load()
