"""Texts as the token ids that a network was trained with. It needs numpy alone: this file lies beside exported students.

inputs(text, files) gives the network's inputs for one text, where `files` has the path of tokenizer.json.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PADDING, UNKNOWN, SEPARATOR = 0, 1, 2  # the first ids; those of the vocabulary follow
PIECES = {"word": re.compile(r"[^\W_]+|[^\w\s]|_"), "char": re.compile(r"\s+|\S")}  # a run of spaces is one of them


def pieces(text: str, about: Mapping[str, Any]) -> list[str]:
    """Words and marks, or characters, in order. `about`: what tokenizer.json says."""
    if about.get("form", "none") != "none":
        text = unicodedata.normalize(about["form"], text)
    text = text.lower() if about["lowercase"] else text
    return [" " if piece.isspace() else piece for piece in PIECES[about["level"]].findall(text)]


def encoded(texts: Sequence[str], about: Mapping[str, Any], ids: Mapping[str, int]) -> list[int]:
    """Ids of one sample, at least one and at most `max_length`; several texts share that evenly, with a separator between them."""
    most = max(1, (about["max_length"] - len(texts) + 1) // len(texts))
    found: list[int] = []
    for text in texts:
        found += [SEPARATOR] if found else []
        found += [ids.get(piece, UNKNOWN) for piece in pieces(text, about)[:most]] or [UNKNOWN]
    return found


def numbered(about: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> its id."""
    return {piece: i for i, piece in enumerate(about["vocabulary"], SEPARATOR + 1)}


def inputs(sample: str, files: Mapping[str, Path]) -> dict[str, "np.ndarray[Any, np.dtype[np.int64]]"]:
    """`tokens` and `mask`, (1, N) each. Where a sample is several texts, `sample` is a JSON object of them by column.

    A text that is written a token after another begins with a boundary; one that is written for another text is `prefix` and
    `prefix_mask` (1, M) beside that, as far as it is there. Raise ValueError for what is no such object.
    """
    about = json.loads(Path(files["tokenizer.json"]).read_text(encoding="utf-8"))
    columns, written = about["columns"], about["written"]
    texts = [sample]
    if len(columns) > 1:
        try:
            row = json.loads(sample)
            texts = [row.get(column, "") if column == written else row[column] for column in columns]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"expected a JSON object with {', '.join(columns)}, a text each") from None
    numbers = numbered(about)
    if not written:
        return fed("tokens", "mask", encoded(texts, about, numbers))
    begun = [SEPARATOR, *(numbers.get(piece, UNKNOWN) for piece in pieces(texts[-1], about))][: about["max_length"]]
    if len(texts) == 1:
        return fed("tokens", "mask", begun)
    return {**fed("tokens", "mask", encoded(texts[:1], about, numbers)), **fed("prefix", "prefix_mask", begun)}


def fed(name: str, mask: str, ids: Sequence[int]) -> dict[str, "np.ndarray[Any, np.dtype[np.int64]]"]:
    """Both (1, N)."""
    tokens = np.asarray([ids], np.int64)
    return {name: tokens, mask: np.ones_like(tokens)}
