"""Data set `docstrings`: English texts that every Python has, the documentation of its standard library.

The files are parsed, never imported. What is there differs a little between versions of Python, so its version is in the facts.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Option

from kdsearch.builtin.text.source import Rows, TextSource, classes_of
from kdsearch.builtin.text.tokenizer import TokenizerOptions
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, Services

PACKAGES = {  # class -> files or folders of the standard library
    "asyncio": ("asyncio",),
    "decimal": ("_pydecimal.py", "fractions.py", "numbers.py", "statistics.py"),
    "email": ("email",),
    "http": ("http", "urllib", "wsgiref"),
    "importlib": ("importlib",),
    "logging": ("logging",),
    "mailbox": ("mailbox.py", "imaplib.py", "smtplib.py"),
    "multiprocessing": ("multiprocessing", "concurrent", "threading.py"),
    "tarfile": ("tarfile.py", "zipfile", "zipfile.py", "shutil.py", "pathlib", "pathlib.py"),
    "unittest": ("unittest", "doctest.py"),
    "xml": ("xml", "xmlrpc"),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class DocstringsOptions(TokenizerOptions):
    pairs: Literal["none", "signature"] = Option(
        "none",
        description="none = a docstring, and which part of the library it is from; signature = the first sentence of a docstring, "
        "and the signature that it should find",
    )


class Docstrings(Dataset[DocstringsOptions]):
    """Docstrings of functions and classes in 11 parts of the standard library; equal ones are there once."""

    def __init__(self, options: DocstringsOptions) -> None:
        super().__init__(options)
        self.task = "classification" if options.pairs == "none" else "embedding"

    def open(self, services: Services) -> TextSource:
        """Raise DataError where Python came without its sources."""
        rows = documented(Path(sysconfig.get_path("stdlib")))
        if not rows:
            fix = "Use a Python that has its standard library as files, or the data set `texts`."
            raise DataError("this Python has no sources of its standard library", expected="files to read", fix=fix)
        facts: dict[str, Any] = {
            "source": f"docstrings of the standard library of Python {platform.python_version()}",
            "licence": "PSF-2.0",
        }
        ids = tuple(hashlib.sha256(f"{each['name']}\n{each['text']}".encode()).hexdigest()[:16] for each in rows)
        if self.options.pairs != "none":
            texts = {"text": [each["first"] for each in rows], "signature": [each["signature"] for each in rows]}
            return TextSource({"train": Rows(ids, texts)}, ("text",), self.options, facts, "signature")
        facts["classes"], labels = classes_of({"train": [each["part"] for each in rows]})
        made = Rows(ids, {"text": [each["text"] for each in rows]}, labels["train"])
        return TextSource({"train": made}, ("text",), self.options, facts)


@lru_cache(maxsize=1)
def documented(root: Path) -> list[dict[str, str]]:
    """`part`, `name`, `signature`, `text` and `first` sentence of everything documented below `root`, by name; a text once."""
    found: dict[str, dict[str, str]] = {}
    for part, places in PACKAGES.items():
        for file in sorted(each for place in places for each in _files(root, place)):
            module = ".".join(file.relative_to(root).with_suffix("").parts)
            try:
                tree = ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, ValueError, OSError):  # a file that is none of Python's own
                continue
            for node, name in _nodes(tree, module):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text.split()) < 4 or text in found:
                    continue
                first = text.split(". ")[0]
                found[text] = {
                    "part": part,
                    "name": name,
                    "signature": _signature(node, name),
                    "text": text,
                    "first": first,
                }
    return sorted(found.values(), key=lambda each: (each["name"], each["text"]))


def _files(root: Path, name: str) -> list[Path]:
    place = root / name
    if place.is_file():
        return [place]
    files = place.rglob("*.py") if place.is_dir() and not name.endswith(".py") else ()
    return [file for file in files if not {"test", "tests"} & {*file.relative_to(root).parts}]


def _nodes(node: ast.AST, name: str) -> Iterator[tuple[Function | ast.ClassDef, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            inner = f"{name}.{child.name}"
            yield child, inner
            yield from _nodes(child, inner)


def _signature(node: Function | ast.ClassDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    arguments = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return f"{name}({', '.join(arguments)})"
