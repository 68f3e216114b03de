"""Data set `functions`: the standard library's own, read from its files. Parts that a function lacks are missing in earnest."""

from __future__ import annotations

import ast
import json
import platform
import sysconfig
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import Batch, Dataset, Field, Options, Services, Split, split_of
from kdsearch.kit.modalities import present_field
from kdsearch.ops.padding import stacked
from kdsearch_origins import prepare

PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")
PARTS = ("doc", "args", "shape")  # what a student reads; the body's words are for teachers


class FunctionsOptions(Options):
    each: int = Option(150, ge=20, description="functions of a package, at most")


class FunctionsSplit:
    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.ids = tuple(row["id"] for row in rows)
        self.labels = torch.tensor([row["label"] for row in rows])
        self._rows = rows

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        rows = [self._rows[i] for i in index]
        tensors: dict[str, Tensor] = {"label": self.labels[torch.as_tensor(list(index), dtype=torch.long)]}
        for part in (*PARTS, "body"):
            tensors[f"present_{part}"] = torch.tensor([float(bool(row[part])) for row in rows])
        for part in prepare.LENGTHS:
            found = [torch.tensor(row[part], dtype=torch.int64) for row in rows]
            tensors[part] = stacked(found) if rows else torch.zeros(0, 1, dtype=torch.int64)
            tensors[f"{part}_mask"] = (tensors[part] > 0).long()
        shapes = [row["shape"] or [0.0] * len(prepare.KINDS) for row in rows]
        tensors["shape"] = torch.tensor(shapes).reshape(len(rows), len(prepare.KINDS))
        return Batch(tuple(self.ids[i] for i in index), tensors)


class FunctionsSource:
    splits = ("train",)

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._parts = {"train": FunctionsSplit(rows)}
        shapes = torch.tensor([row["shape"] for row in rows if row["shape"]])
        mean, std = (tuple(each.tolist()) for each in (shapes.mean(0), shapes.std(0).clamp(min=1e-3)))
        fields = []
        for part, use in (("doc", "input"), ("args", "input"), ("body", "extra")):
            lengths = sorted(len(row[part]) for row in rows if row[part])
            open_size = lengths[len(lengths) // 2]
            n = prepare.VALUES[part]
            fields.append(Field(part, "tokens", (None,), "int64", use, n, open_size=open_size))
            fields.append(Field(f"{part}_mask", "mask", (None,), "int64", use, open_size=open_size))
        fields.append(Field("shape", "vector", (len(prepare.KINDS),), mean=mean, std=std))
        gates = [present_field(each) for each in fields if each.name in (*PARTS, "body")]
        self.fields = (*fields, *gates, Field("label", "label", (), "int64", "target"))
        self.facts: Mapping[str, Any] = {
            "classes": list(PACKAGES),
            "source": f"functions of the standard library of Python {platform.python_version()}",
            "licence": "PSF-2.0",
        }

    def split(self, name: str) -> Split:
        return split_of(self._parts, name)

    def files(self) -> Mapping[str, bytes]:
        return {
            "prepare.py": Path(prepare.__file__).read_bytes(),
            "inputs.json": json.dumps({"parts": PARTS}).encode(),
        }


class Functions(Dataset[FunctionsOptions]):
    """Which package a function is from, by its documentation, its parameters and how its body is built, where it has them."""

    task = "origins"

    def open(self, services: Services) -> FunctionsSource:
        root = Path(sysconfig.get_path("stdlib"))
        rows = [row for found, _ in read(root) for row in found[: self.options.each]]
        if len({row["label"] for row in rows}) < len(PACKAGES):
            expected = f"the files of {', '.join(PACKAGES)}"
            raise DataError("this Python has no sources of its standard library", file=root, expected=expected)
        return FunctionsSource(rows)


@lru_cache(maxsize=1)
def read(root: Path) -> list[tuple[list[dict[str, Any]], dict[str, str]]]:
    """Of each package its functions, in an order that is that of no file, and what its modules say of themselves, by name."""
    found = []
    for label, package in enumerate(PACKAGES):
        rows: list[dict[str, Any]] = []
        docs = {}
        for file in sorted((root / package).rglob("*.py")):
            module, tree = ".".join(file.relative_to(root).with_suffix("").parts), ast.parse(file.read_text("utf-8"))
            if doc := ast.get_docstring(tree):
                docs[module] = doc
            for name, node in _functions(tree, module):
                row: dict[str, Any] = {"id": f"{name}:{node.lineno}", "label": label, **prepare.parts(node)}
                row |= {part: prepare.ids(part, row[part]) for part in prepare.LENGTHS}
                if any(row[part] for part in PARTS):
                    rows.append(row)
        found.append((sorted(rows, key=lambda row: (zlib.crc32(row["id"].encode()), row["id"])), docs))
    return found


def _functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        inner = f"{name}.{getattr(child, 'name', '')}"
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, inner)


def module_docs() -> dict[str, tuple[str, int]]:
    """Name -> what a module of these packages says of itself, and its package."""
    packages = enumerate(read(Path(sysconfig.get_path("stdlib"))))
    return {name: (text, label) for label, (_, docs) in packages for name, text in docs.items()}
