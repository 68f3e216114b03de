"""Data set `prose`: English paragraphs that every Python has, the reference of the language (`pydoc_data.topics`)."""

from __future__ import annotations

import hashlib
import platform

from pydantic import Field as Option

from kdsearch.builtin.text.sequence_options import SequenceOptions, pieces_of
from kdsearch.builtin.text.sequence_source import SequenceSource, windows
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, Services


class ProseOptions(SequenceOptions):
    texts: int = Option(
        1000, ge=10, description="paragraphs, evenly spaced over the reference, which has some 600: at most so many"
    )


class Prose(Dataset[ProseOptions]):
    """Paragraphs of prose, code and tables left out, each once. What is there differs a little between versions of Python."""

    task = "causal_lm"

    def open(self, services: Services) -> SequenceSource:
        """Raise DataError where Python came without its reference."""
        try:
            from pydoc_data.topics import topics
        except ImportError:
            fix = "Use a Python that has it, or the data set `sequences` with texts of your own."
            raise DataError(
                "this Python has no pydoc_data.topics", expected="the language's reference", fix=fix
            ) from None
        found = sorted({text for topic in topics.values() for text in paragraphs(topic)})
        n = min(self.options.texts, len(found))
        chosen = [found[i * len(found) // n] for i in range(n)]
        texts = {hashlib.blake2b(each.encode(), digest_size=8).hexdigest(): each for each in chosen}
        pieces = {sample: pieces_of(self.options, text) for sample, text in texts.items()}
        source = f"reference of the language in Python {platform.python_version()}"
        rows = windows(pieces, self.options.max_length, self.options.packed)
        return SequenceSource({"train": rows}, self.options, {"source": source, "licence": "PSF-2.0"})


def paragraphs(topic: str) -> list[str]:
    """Those of eight words or more that are not indented, on one line each."""
    blocks = (block for block in topic.split("\n\n") if block and not block[0].isspace())
    found = (
        " ".join(block.split()) for block in blocks if "::=" not in block and "|" not in block and "**" not in block
    )
    return [text for text in found if len(text.split()) >= 8 and text.isascii()]
