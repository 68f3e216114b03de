"""Data set `sequences`: texts of the user's own, each for the next token, or with a target that is written for it."""

from __future__ import annotations

from pydantic import Field as Option

from kdsearch.builtin.text.sequence_options import SequenceOptions, pieces_of
from kdsearch.builtin.text.sequence_source import UNTOLD, Pieces, SequenceSource, Written, bounded, windows
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, Services
from kdsearch.kit.tables import Table, TableFiles, read_tables


class SequencesOptions(TableFiles, SequenceOptions):
    path: str = Option(
        description="CSV, TSV or JSON Lines with named columns, or plain text (.txt) with a text a line: the training samples"
    )
    text: str = Option("text", description="column of the texts; in plain text it is `text`")
    target: str | None = Option(
        None,
        description="column of what is to be written for each text, for the task `seq2seq`; null = the texts themselves",
    )


class Sequences(Dataset[SequencesOptions]):
    """Texts for `causal_lm`, or with `target` pairs for `seq2seq`. The vocabulary is that of the training samples."""

    def __init__(self, options: SequencesOptions) -> None:
        super().__init__(options)
        self.task = "causal_lm" if options.target is None else "seq2seq"

    def preflight(self, services: Services) -> None:
        self.options.check(services)

    def open(self, services: Services) -> SequenceSource:
        """Raise DataError for a file that cannot be read, a column that is not there, and a pair that is too long."""
        options = self.options
        if options.target is not None and (options.packed or options.target == options.text):
            problem = "packed" if options.packed else f"column '{options.text}' is text and target"
            raise DataError(
                f"pairs: {problem}", path="data.options.target", expected="a target of its own for each text"
            )
        targets = () if options.target is None else (options.target,)
        splits = read_tables(options, services, (options.text, *targets).__contains__, targets)
        facts = {"source": options.path, "licence": "the user's"}
        return SequenceSource({name: self._written(name, table) for name, table in splits.items()}, options, facts)

    def _written(self, name: str, table: Table) -> Written:
        options = self.options
        if options.target is None:
            texts = table.texts(options.text)
            pieces = {sample: pieces_of(options, text) for sample, text in zip(table.ids, texts, strict=True)}
            return windows(pieces, options.max_length, options.packed, name, table.groups)
        read = self._pieces(table, options.text)
        told = [i for i, value in enumerate(table.column(options.target)) if value is not None]
        target: list[Pieces] = [UNTOLD] * len(table)
        for i, each in zip(told, self._pieces(table.at(told), options.target), strict=True):
            target[i] = bounded(each)
        return Written(table.ids, target, read, table.groups)

    def _pieces(self, table: Table, column: str) -> list[tuple[str, ...]]:
        """Each text of a column in pieces. Raise DataError for a missing text, and for one that is too long."""
        found = [tuple(pieces_of(self.options, text)) for text in table.texts(column)]
        for row, each in enumerate(found):
            if len(each) >= self.options.max_length:
                expected = f"fewer than {self.options.max_length}"
                raise table.fault(row, column, f"{len(each)} tokens", expected, "Set `max_length` to more.")
        return found
