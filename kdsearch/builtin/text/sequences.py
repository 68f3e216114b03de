"""Data set `sequences`: texts of the user's own, each for the next token, or with a target that is written for it."""

from __future__ import annotations

from pydantic import Field as Option

from kdsearch.builtin.text.sequence_options import SequenceOptions, pieces_of
from kdsearch.builtin.text.sequence_source import SequenceSource, Written, bounded, windows
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
        splits = read_tables(options, services)
        facts = {"source": options.path, "licence": "the user's"}
        return SequenceSource({name: self._written(name, table) for name, table in splits.items()}, options, facts)

    def _written(self, name: str, table: Table) -> Written:
        options = self.options
        texts = table.texts(options.text)
        if options.target is None:
            pieces = {sample: pieces_of(options, text) for sample, text in zip(table.ids, texts, strict=True)}
            return windows(pieces, options.max_length, options.packed, name)
        pairs: dict[str, list[list[str]]] = {}
        for column, values in ((options.text, texts), (options.target, table.texts(options.target))):
            pairs[column] = [pieces_of(options, value) for value in values]
            for row, each in enumerate(pairs[column]):
                if len(each) >= options.max_length:
                    expected = f"fewer than {options.max_length}"
                    raise table.fault(row, column, f"{len(each)} tokens", expected, "Set `max_length` to more.")
        read = [tuple(each) for each in pairs[options.text]]
        return Written(table.ids, [bounded(each) for each in pairs[options.target]], read)
