"""Files that a study names: what is no file, what cannot be read, damaged data, images of no shape, weights of no network."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.kinds import IO, Field
from tests.hostile.conftest import IMAGES, LABELS
from tests.hostile.permissions import obeyed
from tests.hostile.rows import LONGEST_S, STUDY, Row, check, within
from tests.hostile.test_folders import a_socket, void

RUN = ("run", "study.yaml")
MEMBER = "space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}"
Make = Callable[[Path], Any]
NO_FILES: dict[str, tuple[Make, str]] = {
    "nothing": (lambda file: None, "does not exist|no such file|no .* in|not an?|is no"),
    "a FIFO": (os.mkfifo, "is a FIFO"),
    "a folder": (os.mkdir, "is a folder"),
    "/dev/zero": (lambda file: file.symlink_to("/dev/zero"), "is a device"),
    "/dev/tty": (lambda file: file.symlink_to("/dev/null"), "is a device"),
    "a socket": (a_socket, "is a socket"),
    "a circle of links": (lambda file: file.symlink_to(file.name), "leads back to itself"),
    "a link to nothing": (lambda file: file.symlink_to("gone"), "does not exist|no such file"),
    "no permission": (lambda file: (file.write_bytes(b"x"), file.chmod(0)), "permission denied"),
    "no byte": (lambda file: void(file.write_bytes(b"")), "."),
    "one byte": (lambda file: void(file.write_bytes(b"\0")), "."),
    "random bytes": (lambda file: void(file.write_bytes(np.random.default_rng(0).bytes(4096))), "."),
}
USES = {  # what is read: the file's name, the study's data or teacher, or a whole command
    "npz": ("x.npz", "data: {use: npz, options: {path: x.npz}}"),
    "safetensors": ("x.safetensors", f"teacher: {{use: safetensors, options: {{path: x.safetensors, {MEMBER}}}}}"),
    "pth": ("x.pth", f"teacher: {{use: safetensors, options: {{path: x.pth, {MEMBER}}}}}"),
    "onnx": ("x.onnx", "teacher: {use: onnx, options: {path: x.onnx}}"),
    "pt2": ("x.pt2", "teacher: {use: exported, options: {path: x.pt2}}"),
    "timm": ("x.pth", "teacher: {use: timm, options: {name: resnet18, weights: x.pth}}"),
    "code": ("x.py", "student: {space: 'x.py:Space'}"),
}
LOOSE = {
    "study": ("x.yaml", ("validate", "x.yaml")),
    "table": (
        "x.csv",
        ("bench", "proxies", "--space", "nb201", "--table", "x.csv", "--column", "accuracy", "--proxies", "params"),
    ),
    "archs": ("x.txt", ("score", "--space", "nb201", "--proxies", "params", "--archs", "x.txt")),
}


def with_line(line: str) -> str:
    """The good study with one section exchanged."""
    key = line.partition(":")[0]
    kept = [each for each in STUDY.splitlines() if not each.startswith(f"{key}:")]
    return "\n".join([*kept, line, "run: {executor: {use: inprocess}}", ""])  # no process is waited for


def of(use: str, what: str) -> Row:
    make, message = NO_FILES[what]
    if use in LOOSE:
        name, arguments = LOOSE[use]
        return Row(f"{use}: {what}", message, arguments, lambda folder: make(folder / name))
    name, line = USES[use]
    more = ("--allow-code", name if use == "pt2" else "x.py:Space") if use in ("pt2", "code") else ()

    def arrange(folder: Path) -> None:
        make(folder / name)
        (folder / "study.yaml").write_text(with_line(line))

    return Row(f"{use}: {what}", message, (*RUN, *more), arrange)


def arrays(**changes: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"image": IMAGES, "label": LABELS, **changes})
    return file.getvalue()


def flagged(offset: int, value: int) -> bytes:
    """An archive with one byte of its first local and central header changed."""
    data = bytearray(arrays())
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        at = data.index(mark)
        data[at + offset + (2 if mark == b"PK\x01\x02" else 0)] = value
    return bytes(data)


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def npy(shape: str, descr: str = "|u1", body: bytes = b"") -> bytes:
    """A .npy whose header says what it likes."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


def bomb() -> bytes:
    """An archive of 1 kB that says it is 8 GB."""
    data = bytearray(archive(**{"image.npy": b"\0" * 1000, "label.npy": b"\0" * 1000}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset : at + offset + 4] = b"\xfe\xff\xff\xff"
    return bytes(data)


floats = IMAGES.astype(np.float32)
NPZ: dict[str, tuple[bytes, str]] = {
    "encrypted": (flagged(6, 1), "not readable"),
    "compressed by 99": (flagged(8, 99), "not readable"),
    "a shape of 10**12": (
        archive(**{"image.npy": npy("(1000000, 1000, 1000)"), "label.npy": npy("(3,)", "<i8")}),
        "not readable",
    ),
    "a negative shape": (archive(**{"image.npy": npy("(-1, 8, 8)")}), "not readable"),
    "a shape of text": (archive(**{"image.npy": npy("'x'")}), "not readable"),
    "a shape of code": (archive(**{"image.npy": npy('__import__("os").getcwd()')}), "not readable"),
    "objects": (archive(**{"image.npy": npy("(60, 8, 8)", "|O")}), "not readable"),
    "a dtype of nothing": (archive(**{"image.npy": npy("(60, 8, 8)", "<z9")}), "not readable"),
    "a member of no array": (archive(**{"image.npy": b"hello", "label.npy": b"x"}), "not an array|not readable"),
    "a member outside": (archive(**{"../../evil.npy": npy("(0,)")}), "no array 'image'"),
    "0x0 images": (arrays(image=np.zeros((60, 0, 0), np.uint8)), "shape 60x0x0"),
    "0 rows of images": (arrays(image=np.zeros((60, 8, 0), np.uint8)), "shape 60x8x0"),
    "no sample": (arrays(image=IMAGES[:0], label=LABELS[:0]), "no samples"),
    "complex pixels": (arrays(image=IMAGES.astype(np.complex64)), "complex64"),
    "pixels of text": (arrays(image=IMAGES.astype("U3")), "<U3"),
    "pixels of dates": (arrays(image=IMAGES.astype("M8[s]")), "datetime64"),
    "boolean pixels": (arrays(image=IMAGES > 9), "bool"),
    "pixels of 64 bits": (arrays(image=IMAGES.astype(np.int64)), "int64"),
    "NaN": (arrays(image=np.where(floats == floats[3, 2, 1], np.nan, floats)), "nan in image"),
    "infinity": (arrays(image=np.where(floats == floats[3, 2, 1], np.inf, floats)), "inf in image"),
    "pixels of 1e300": (arrays(image=IMAGES.astype(np.float64) * 1e300), "inf in image"),
    "pixels whose variance overflows": (arrays(image=floats * 1e36), r"beyond 1e\+18"),
    "negative pixels whose variance overflows": (arrays(image=-floats * 1e36), r"beyond 1e\+18"),
    "labels of floats": (arrays(label=LABELS.astype(np.float32)), "is float32"),
    "labels of text": (arrays(label=np.array(["a"] * 60)), "is <U1"),
    "labels of 2**63": (arrays(label=LABELS.astype(np.uint64) + np.uint64(2**63)), "a class index"),
    "labels of 2**62": (arrays(label=LABELS + 2**62), "a class index"),
    "labels below": (arrays(label=LABELS - 7), "holds -7"),
    "labels far beyond": (arrays(label=LABELS + 10**6), "the greatest label is 1,000,002"),
    "hidden labels alone": (arrays(label=LABELS * 0 - 100), "every label is -100"),
    "two axes of labels": (arrays(label=np.zeros((60, 2), np.int64)), r"shape \(60, 2\)"),
    "five axes": (arrays(image=np.zeros((60, 1, 8, 8, 1), np.uint8)), "60x1x8x8x1"),
    "a single number": (arrays(image=np.uint8(7)), "a single number"),
    "two axes of pixels": (arrays(image=np.zeros((60, 64), np.uint8)), "60x64"),
    "five channels": (arrays(image=np.zeros((60, 8, 8, 5), np.uint8)), "channels are not evident"),
    "fewer labels": (arrays(label=LABELS[:7]), "7 rows"),
    "8 GB in 1 kB": (bomb(), "GiB of memory|not readable|not an array"),
    "cut": (arrays()[:2000], "not readable"),
    "a tail cut": (arrays()[:-30], "not readable"),
    "zeros": (b"\0" * 4096, "not readable"),
    "a zip of nothing": (archive(), "no array 'image'"),
}


def npz(name: str) -> Row:
    data, message = NPZ[name]

    def arrange(folder: Path) -> None:
        (folder / "x.npz").write_bytes(data)
        (folder / "study.yaml").write_text(with_line(USES["npz"][1]))

    return Row(f"npz of {name}", rf"x.npz: .*(?:{message})", RUN, arrange)


def idx(dims: tuple[int, ...], data: bytes | None = None, code: int = 8) -> bytes:
    body = bytes(int(np.prod(dims))) if data is None else data
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, code, len(dims), *dims) + body


def idx_row(name: str, images: bytes, message: str, labels: bytes | None = None, ending: str = "") -> Row:
    def arrange(folder: Path) -> None:
        (folder / "idx").mkdir()
        good = {"t10k-images-idx3-ubyte": idx((60, 8, 8)), "t10k-labels-idx1-ubyte": idx((60,))}
        for file, content in {**good, "train-labels-idx1-ubyte": labels or idx((60,))}.items():
            (folder / "idx" / file).write_bytes(content)
        (folder / "idx" / f"train-images-idx3-ubyte{ending}").write_bytes(images)
        (folder / "study.yaml").write_text(with_line("data: {use: mnist, options: {path: idx}}"))

    return Row(f"idx of {name}", message, RUN, arrange)


IDX = [
    idx_row("no byte", b"", "starts with nothing"),
    idx_row("another code", idx((60, 8, 8), code=13), "starts with 00 00 0d 03"),
    idx_row("0x0 images", idx((60, 0, 0)), "a pixel or more"),
    idx_row("too little", idx((60, 8, 8), b"x"), "holds 1 bytes"),
    idx_row("too much", idx((60, 8, 8)) + b"x", "more than 3,840 bytes"),
    idx_row("2**32 images", idx((2**32 - 1, 2**16, 2**16), b""), "says its shape is"),
    idx_row("labels beyond", idx((60, 8, 8)), "label 77", idx((60,), b"M" * 60)),
    idx_row("other labels", idx((60, 8, 8)), "59 labels for the 60 images", idx((59,))),
    idx_row("gzip of no gzip", b"hello", "not readable", ending=".gz"),
    idx_row("gzip that is cut", gzip.compress(idx((60, 8, 8)))[:-9], "not readable", ending=".gz"),
]


def image(n: int = 8, m: int = 8, mode: str = "L") -> Image.Image:
    return Image.new(mode, (n, m))


def photos(name: str, spoil: Make, message: str, options: str = "") -> Row:
    def arrange(folder: Path) -> None:
        root = folder / "photos"
        for each in ("cat", "dog"):
            (root / each).mkdir(parents=True)
            for i in range(6):
                image().save(root / each / f"{i}.png")
        spoil(root)
        (folder / "study.yaml").write_text(
            with_line(f"data: {{use: image_folder, options: {{path: photos{options}}}}}")
        )

    return Row(f"photos: {name}", message, RUN, arrange)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and has no pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def put(name: str, data: bytes) -> Make:
    return lambda root: void((root / name).write_bytes(data))


PHOTOS = [
    photos("a FIFO", lambda root: os.mkfifo(root / "cat/x.png"), "cat/x.png: is a FIFO"),
    photos("a socket", lambda root: a_socket(root / "cat/x.png"), "cat/x.png: is a socket"),
    photos("a device", lambda root: (root / "cat/x.png").symlink_to("/dev/zero"), "cat/x.png: is a device"),
    photos(
        "a folder called x.png", lambda root: (root / "cat/x.png").symlink_to(root / "dog"), "cat/x.png: is a folder"
    ),
    photos("a link to itself", lambda root: (root / "cat/x.png").symlink_to("x.png"), "leads back to itself"),
    photos("a link to nothing", lambda root: (root / "cat/x.png").symlink_to("gone"), "cat/x.png: no such file"),
    photos("no permission", lambda root: (root / "cat/1.png").chmod(0), "cat/1.png: may not be read"),
    photos("a class without permission", lambda root: (root / "cat").chmod(0), "cat: may not be read"),
    photos(
        "a folder in a class without permission",
        lambda root: (root / "cat/more").mkdir(mode=0),
        "cat/more: may not be read",
    ),
    photos("a root without permission", lambda root: root.chmod(0), "photos: may not be read"),
    photos("a name of bytes", lambda root: void(open(os.fsencode(root) + b"/cat/\xff.png", "wb").close()), "in UTF-8"),
    photos("a class of bytes", lambda root: os.mkdir(os.fsencode(root) + b"/\xff"), "in UTF-8"),
    photos("1 x 60,000", put("cat/x.png", png_header(1, 60_000)), "1x60000 pixels. Expected sides", ", resize: 8"),
    photos(
        "60,000,000 x 1",
        put("cat/x.png", png_header(60_000_000, 1)),
        "60000000x1 pixels. Expected sides",
        ", resize: 8",
    ),
    photos("2**31 x 2**31", put("cat/x.png", png_header(2**31 - 1, 2**31 - 1)), "x.png: "),
    photos("0 x 0", put("cat/x.png", png_header(0, 0)), "x.png: "),
    photos("no byte", put("cat/x.png", b""), "cat/x.png: not a readable image"),
    photos("text", put("cat/x.png", b"hello"), "cat/x.png: not a readable image"),
    photos("a header alone", put("cat/x.png", png_header(8, 8)), "cat/x.png: not a readable image"),
    photos("a web page", put("cat/x.jpg", b"<html>"), "cat/x.jpg: not a readable image"),
    photos("16 bits", lambda root: image(mode="I;16").save(root / "cat/x.png"), "pixel mode 'I;16'"),
    photos("another size", lambda root: image(9, 8).save(root / "dog/x.png"), "is 9x8 pixels"),
    photos("an empty class", lambda root: (root / "fox").mkdir(), "fox: no images"),
]


def network() -> Any:
    from kdsearch.training.materials import seeded_build

    space = Host.load().load_class("search_space", "cifar_resnet")()
    io_ = IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (3,)),))
    spec = space.parse({"depths": [1, 1, 1], "widths": [4, 4, 4]})
    return seeded_build(space, spec, io_, 0)


def spoilt(change: Callable[[dict[str, Any]], Any]) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        tensors = {name: tensor.clone() for name, tensor in network().module.state_dict().items()}
        change(tensors)
        return tensors

    return make


def first(tensors: Mapping[str, Any], part: str = "weight", n_dims: int = 4) -> str:
    return next(name for name, tensor in tensors.items() if name.endswith(part) and tensor.ndim == n_dims)


def fill(part: str, value: float, n_dims: int) -> Callable[[dict[str, Any]], Any]:
    return lambda t: t[first(t, part, n_dims)].view(-1)[0].fill_(value)


def swap(change: Callable[[Any], Any], part: str = "weight", n_dims: int = 4) -> Callable[[dict[str, Any]], Any]:
    return lambda t: t.update({first(t, part, n_dims): change(t[first(t, part, n_dims)])})


WEIGHTS: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "NaN": (spoilt(fill("weight", float("nan"), 4)), "safetensors", r"tensor '\S+weight' is not finite"),
    "infinity": (spoilt(fill("weight", float("inf"), 2)), "safetensors", r"tensor '\S+weight' is not finite"),
    "-infinity in a bias": (spoilt(fill("bias", float("-inf"), 1)), "safetensors", r"tensor '\S+bias' is not finite"),
    "NaN in a mean": (spoilt(fill("running_mean", float("nan"), 1)), "safetensors", r"running_mean' is not finite"),
    "a negative variance": (
        spoilt(fill("running_var", -1.0, 1)),
        "safetensors",
        r"running_var' is negative, and a variance",
    ),
    "integers": (spoilt(swap(lambda t: t.to(torch.int64))), "safetensors", r"weight' is of int64"),
    "booleans": (spoilt(swap(lambda t: t > 0)), "safetensors", r"weight' is of bool"),
    "complex": (spoilt(swap(lambda t: t.to(torch.complex64))), "pth", r"weight' is complex"),
    "sparse": (spoilt(swap(lambda t: t.to_sparse(), n_dims=2)), "pth", r"weight' is sparse"),
    "quantised": (
        spoilt(swap(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), n_dims=2)),
        "pth",
        r"weight' is quantised|not a whole torch file",
    ),
    "meta": (spoilt(swap(lambda t: t.to("meta"))), "pth", r"weight' is on the meta device|not a whole torch file"),
    "NaN in bfloat16": (
        spoilt(lambda t: (fill("weight", float("nan"), 4)(t), swap(lambda x: x.bfloat16())(t))),
        "safetensors",
        r"weight' is not finite",
    ),
    "another network": (lambda: {"x": torch.zeros(3)}, "safetensors", "weights are of another network"),
    "no tensor": (dict, "safetensors", "weights are of another network"),
    "a list": (lambda: {"weights": [torch.zeros(3)]}, "pth", "entry 'weights' is a list"),
}


def weights(name: str) -> Row:
    make, ending, message = WEIGHTS[name]
    file, line = USES[ending]

    def arrange(folder: Path) -> None:
        (folder / "study.yaml").write_text(with_line(line))
        if ending == "pth":
            torch.save(make(), folder / file)
        else:
            (folder / file).write_bytes(save(make()))

    return Row(f"weights: {name}", rf"{file}: .*(?:{message})", RUN, arrange)


def header(text: str, size: int | None = None) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data) if size is None else size) + data


HEADERS = {
    "no table": header("[]"),
    "text": header('"x"'),
    "null": header("null"),
    "deep": header("[" * 100_000),
    "a tensor of text": header('{"a": "x"}'),
    "no offsets": header('{"a": {"dtype": "F32", "shape": [1]}}'),
    "offsets of text": header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}'),
    "offsets beyond": header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400000]}}'),
    "negative offsets": header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}'),
    "an unknown dtype": header('{"a": {"dtype": "Z9", "shape": [1], "data_offsets": [0, 4]}}') + b"1234",
    "a huge shape": header('{"a": {"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 4]}}') + b"1234",
    "a header of 2**63": header("{}", 2**63),
    "no JSON": header("{" * 50),
}


def safetensors(name: str) -> Row:
    def arrange(folder: Path) -> None:
        (folder / "x.safetensors").write_bytes(HEADERS[name])
        (folder / "study.yaml").write_text(with_line(USES["safetensors"][1]))

    return Row(f"safetensors header: {name}", r"x.safetensors: ", RUN, arrange)


def exported(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """A linear network of one layer as an ONNX file, changed."""
    make = onnx.helper
    weight = onnx.numpy_helper.from_array(np.zeros((64, 3), np.float32), "w")
    nodes = [make.make_node("Flatten", ["image"], ["flat"]), make.make_node("MatMul", ["flat", "w"], ["logits"])]
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])],
        [make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    change(model)
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    (folder / "study.yaml").write_text(with_line(USES["onnx"][1]))


def onnx_row(name: str, change: Callable[[onnx.ModelProto], Any], message: str) -> Row:
    return Row(f"onnx: {name}", message, RUN, lambda folder: exported(folder, change))


def values(value: float) -> Callable[[onnx.ModelProto], Any]:
    array = np.full((64, 3), value, np.float32)
    return lambda model: model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))


def sized(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9


def five(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((64, 5), np.float32), "w"))


def unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Evil"


def of_integers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


ONNX = [
    onnx_row("NaN", values(np.nan), "tensor 'w' is not finite"),
    onnx_row("infinity", values(np.inf), "tensor 'w' is not finite"),
    onnx_row("five classes", five, "x.onnx|answers 5"),
    onnx_row("other images", sized, "not a model|image"),
    onnx_row("no node", lambda model: model.graph.ClearField("node"), "not a model that onnxruntime opens|reads"),
    onnx_row("an unknown operator", unknown, "not a model that onnxruntime"),
    onnx_row("integers", of_integers, "not a model|int64"),
]

CACHES = [
    Row(
        "a store that is a file",
        "run.store: 'd.npz' is a file",
        ("validate", "study.yaml"),
        sets=("run.store=d.npz",),
    ),
    Row(
        "a store below a file",
        "run.store: 'd.npz/store' is below a file",
        ("validate", "study.yaml"),
        sets=("run.store=d.npz/store",),
    ),
    Row(
        "a store that is a FIFO",
        "run.store: ",
        ("validate", "study.yaml"),
        lambda f: os.mkfifo(f / "fifo"),
        sets=("run.store=fifo",),
    ),
    Row(
        "a store of an unknown kind", "unknown kind of store", ("validate", "study.yaml"), sets=("run.store=evil://x",)
    ),
    Row("a store of 300 letters", "run.store: ", ("validate", "study.yaml"), sets=(f"run.store={'n' * 300}",)),
    Row("a data path of 300 letters", "too long", RUN, sets=(f"data.options.path={'n' * 300}",)),
    Row("a data path of a user", "does not exist", RUN, sets=("data.options.path=~nobody-here/x.npz",)),
    Row("a data path of a device", "is a device", RUN, sets=("data.options.path=/dev/zero",)),
]
ROWS = [
    *(of(use, what) for use in (*USES, *LOOSE) for what in NO_FILES),
    *map(npz, NPZ),
    *IDX,
    *PHOTOS,
    *map(weights, WEIGHTS),
    *map(safetensors, HEADERS),
    *ONNX,
    *CACHES,
]


@pytest.mark.filterwarnings("ignore")  # torch warns of sparse and quantised tensors
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refused(row, capsys, place):
    row.arrange(place)
    with obeyed():
        check(row, capsys, place, own=place / "nowhere")
    for folder, folders, _ in os.walk(place):
        for each in folders:
            if not os.path.islink(os.path.join(folder, each)):
                os.chmod(os.path.join(folder, each), 0o700)


@pytest.mark.parametrize("data", ["{use: npz, options: {path: d.npz}}", "{use: digits, options: {resize: 1024}}"])
def test_what_does_not_fit_into_memory(data, capsys, place, monkeypatch):
    import psutil

    free = psutil.virtual_memory()._replace(available=2000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    (place / "study.yaml").write_text(with_line(f"data: {data}"))
    check(
        Row("memory", r"takes [\d.]+ GiB of memory, 0.0 are free. Expected less. Lower `resize`", RUN),
        capsys,
        place,
        place / "x",
    )


@pytest.mark.parametrize(
    ("free", "setting", "message"),
    [
        (300_000, "search.keep=1", r"recipe.train.batch_size: 'student': a batch of \d+ samples would need about"),
        (
            20_000_000,
            "teacher.options.spec={depths: [9, 9, 9], widths: [64, 64, 64]}",
            r"batch_size: teacher 'main': a batch of",
        ),
    ],
)
def test_a_training_that_does_not_fit_into_memory(free, setting, message, capsys, place, monkeypatch):
    import psutil

    told = psutil.virtual_memory()._replace(available=free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: told)
    with within(LONGEST_S):
        assert main([*RUN, "--set", setting]) == 2
    assert re.search(message + r".*Lower the batch size, or `resize`", capsys.readouterr().err)
    assert not list((place / "study").glob("artifacts/*"))


@pytest.mark.parametrize(
    ("variable", "value", "message", "code"),
    [
        ("KDSEARCH_STORE", "d.npz", "KDSEARCH_STORE: 'd.npz' is a file", 2),
        ("KDSEARCH_STORE", "d.npz/x", "'d.npz/x' is below a file", 2),
        ("KDSEARCH_STORE", "n" * 300, "has a name that is too long", 2),
        ("KDSEARCH_STORE", "flie://x", "KDSEARCH_STORE: unknown kind of store 'flie'; did you mean 'file'?", 2),
        ("KDSEARCH_CACHE", "d.npz", "latencies cannot be kept here", 1),
        ("KDSEARCH_CACHE", "d.npz/x", "latencies cannot be kept here", 1),
        ("KDSEARCH_CACHE", "n" * 300, "latencies cannot be kept here", 1),
    ],
)
def test_store_and_cache_that_are_no_folders(variable, value, message, code, capsys, place, monkeypatch):
    monkeypatch.setenv(variable, value)
    check(Row(variable, message, RUN, code=code), capsys, place, place / "nowhere")


@pytest.mark.parametrize(
    "entry",
    [b"{", b"[]", b'{"min_ms": 1e999, "median_ms": 1e999, "spread_ms": 0, "runs": 1, "format": 1}', b"[" * 100_000, b"\xff",
     b'{"min_ms": {}, "median_ms": "x", "spread_ms": null, "runs": 1e400}', b'{"runs": ' + b"9" * 9999 + b"}"],
)  # fmt: skip
def test_a_damaged_measurement_is_taken_anew(entry, tmp_path, monkeypatch):
    from kdsearch.deploy import latency

    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    (tmp_path / "latency").mkdir()
    (tmp_path / "latency" / "k.json").write_bytes(entry)
    assert latency.stored("k") is None
    (tmp_path / "latency" / "k.json").unlink()
    os.mkfifo(tmp_path / "latency" / "k.json")
    assert latency.stored("k") is None


def test_there_are_enough():
    from tests.hostile import test_folders, test_studies

    rows = [*ROWS, *test_folders.ROWS, *test_studies.ROWS]
    assert len(rows) >= 500
    assert len({row.name for row in rows}) >= len(rows) - 10
    assert json.dumps([row.name for row in rows])
