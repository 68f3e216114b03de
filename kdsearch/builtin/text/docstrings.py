"""Data set `docstrings`: English texts that every Python has, the documentation of its standard library.

The files are parsed, never imported. What is there differs a little between versions of Python, so its version is in the facts.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
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
SHARES = {"test": 0.2, "val": 0.1}  # of what is documented; pairs that match or not are of one split
Function = ast.FunctionDef | ast.AsyncFunctionDef


class DocstringsOptions(TokenizerOptions):
    pairs: Literal["none", "signature", "match"] = Option(
        "none",
        description="none = a docstring, and which part of the library it is from; signature = the first sentence of a docstring, "
        "and the signature that it should find; match = a first sentence with its own signature or another one of its part, and "
        "whether they belong together",
    )


class Docstrings(Dataset[DocstringsOptions]):
    """Docstrings of functions and classes in 11 parts of the standard library; equal ones are there once."""

    def __init__(self, options: DocstringsOptions) -> None:
        super().__init__(options)
        self.task = "embedding" if options.pairs == "signature" else "classification"

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
        if self.options.pairs == "match":
            splits, facts["classes"] = matched(rows)
            return TextSource(splits, ("text", "signature"), self.options, facts)
        ids = tuple(digest(f"{each['name']}\n{each['text']}")[:16] for each in rows)
        if self.options.pairs == "signature":
            texts = {"text": [each["first"] for each in rows], "signature": [each["signature"] for each in rows]}
            return TextSource({"train": Rows(ids, texts)}, ("text",), self.options, facts, "signature")
        facts["classes"], labels = classes_of({"train": [each["part"] for each in rows]})
        made = Rows(ids, {"text": [each["text"] for each in rows]}, labels["train"])
        return TextSource({"train": made}, ("text",), self.options, facts)


def matched(rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, Rows], list[str]]:
    """Pairs of a first sentence and a signature by split, and the classes `no` and `yes`.

    Each sentence and each signature is in one split, once with its own and once with another of its part: neither alone tells
    the answer. Which split, and which other, their digests say.
    """
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    seen: set[str] = set()
    for row in rows:
        if not seen & {row["first"], row["signature"]}:
            seen |= {row["first"], row["signature"]}
            groups.setdefault((_split(row["name"]), row["part"]), []).append(row)
    pairs: dict[str, list[tuple[str, str, str]]] = {name: [] for name in ("train", "val", "test")}
    for (split, _), group in sorted(groups.items()):
        group.sort(key=lambda row: digest(row["name"]))
        if len(group) > 1:  # one alone has no other
            for row, other in zip(group, [*group[1:], group[0]], strict=True):
                pairs[split] += [(row["first"], row["signature"], "yes"), (row["first"], other["signature"], "no")]
    classes, labels = classes_of({name: [said for *_, said in each] for name, each in pairs.items()})
    made = {
        name: Rows(
            tuple(digest("\n".join(pair))[:16] for pair in each),
            {"text": [text for text, *_ in each], "signature": [signature for _, signature, _ in each]},
            labels[name],
        )
        for name, each in pairs.items()
        if each
    }
    return made, classes


def _split(name: str) -> str:
    at = int(digest(f"split {name}")[:12], 16) / 16**12
    return "test" if at < SHARES["test"] else "val" if at < SHARES["test"] + SHARES["val"] else "train"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
