"""Texts as the token ids that a network was trained with. It needs numpy alone: this file lies beside exported students.

inputs(text, files) gives the network's inputs for one text, where `files` has the path of tokenizer.json.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PADDING, UNKNOWN, SEPARATOR = 0, 1, 2  # the first ids; those of the vocabulary follow
PIECES = {"word": re.compile(r"[^\W_]+|[^\w\s]|_"), "char": re.compile(r"\s+|\S")}  # a run of spaces is one of them


def pieces(text: str, about: Mapping[str, Any]) -> list[str]:
    """Words and marks, or characters, in order. `about`: what tokenizer.json says."""
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
    """`tokens` and `mask`, (1, N) each. Where a sample is several texts, `sample` is a JSON object of them by column."""
    about = json.loads(Path(files["tokenizer.json"]).read_text(encoding="utf-8"))
    columns = about["columns"]
    texts = [sample]
    if len(columns) > 1:
        try:
            row = json.loads(sample)
            texts = [row[column] for column in columns]
        except (ValueError, KeyError, TypeError):
            raise SystemExit(f"{sample!r}: expected a JSON object with {', '.join(columns)}") from None
    tokens = np.asarray([encoded(texts, about, numbered(about))], np.int64)
    return {"tokens": tokens, "mask": np.ones_like(tokens)}
