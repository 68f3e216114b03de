"""The source of a function as what a network reads. It needs numpy alone: this file lies beside exported students.

inputs(source, files) gives the inputs for one function; what it has no part of reads zeros, and `present_<part>` 0.
"""

import ast
import json
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

KINDS = ("Assign", "AugAssign", "Attribute", "Await", "BinOp", "Call", "Compare", "Constant", "For", "If", "Raise", "Return",
         "Subscript", "Try", "While", "With")  # fmt: skip
LENGTHS = {"doc": 24, "args": 8, "body": 48}  # words that are read
VALUES = {"doc": 1024, "args": 512, "body": 2048}  # ids of words, 0 for none


def parts(node):
    """Part -> its words, or counts of KINDS; None where the function has none."""
    statements = list(node.body)
    doc = ast.get_docstring(node)
    if doc is not None:
        statements = statements[1:]
    inside = [each for statement in statements for each in ast.walk(statement)]
    names = [getattr(each, "attr", getattr(each, "id", "")) for each in inside]
    counts = Counter(type(each).__name__ for each in inside)
    is_stub = not {"Call", "Assign", "Return", "Raise", "AugAssign"} & counts.keys()
    arguments = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return {
        "doc": words(doc or ""),
        "args": [each for each in arguments if each not in ("self", "cls")],
        "shape": None if is_stub else [float(np.log1p(counts[kind])) for kind in KINDS],
        "body": [] if is_stub else [each for each in names if each and each != "self"],
    }


def words(text):
    return re.findall(r"[a-z]+", text.lower())


def ids(part, found):
    """(N,) ids of words, a hash each."""
    return [1 + zlib.crc32(word.encode()) % (VALUES[part] - 1) for word in found[: LENGTHS[part]]]


def inputs(sample, files):
    """`sample`: the source of one function; `files["inputs.json"]`: what the network reads."""
    try:
        node = ast.parse(sample).body[0]
        found = parts(node)
    except (SyntaxError, IndexError, AttributeError):
        raise SystemExit(f"{sample[:40]!r}: expected the source of one function") from None
    fed = {}
    for part in json.loads(Path(files["inputs.json"]).read_text(encoding="utf-8"))["parts"]:
        if part == "shape":
            value = np.asarray([found[part] or [0.0] * len(KINDS)], np.float32)
        else:
            value = np.asarray([ids(part, found[part]) or [0]], np.int64)
            fed[f"{part}_mask"] = (value > 0).astype(np.int64)
        fed[part], fed[f"present_{part}"] = value, np.asarray([bool(found[part])], np.float32)
    return fed
