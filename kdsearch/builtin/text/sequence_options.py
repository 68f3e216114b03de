"""Options of data sets of sequences: how texts become tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Option

from kdsearch.builtin.text.tokenizer import LONGEST, Tokenizer, TokenizerOptions


class SequenceOptions(TokenizerOptions):
    level: Literal["word", "char"] = Option("char", description="what a token is: a word or a mark, or a character")
    lowercase: bool = Option(False, description="capital letters are small ones")
    max_length: int = Option(
        128, ge=2, le=LONGEST, description="tokens that are read of a sample; longer texts are cut in several"
    )
    packed: bool = Option(
        False, description="texts one after the other, cut where a sample is full, instead of a sample or more each"
    )


def pieces_of(options: TokenizerOptions, text: str) -> list[str]:
    """Words or characters, before there is a vocabulary."""
    return Tokenizer(options.level, options.lowercase, options.max_length, (), (), form=options.form).pieces(text)
