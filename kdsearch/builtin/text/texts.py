"""Data set `texts`: columns of a CSV or JSON Lines file, with a class each, or as pairs of a query and a document."""

from __future__ import annotations

from typing import Any

from pydantic import Field as Option

from kdsearch.builtin.tables.columns import classes_told
from kdsearch.builtin.text.source import Rows, TextSource, classes_of
from kdsearch.builtin.text.tokenizer import TokenizerOptions
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, Services
from kdsearch.kit.table_copies import in_one_form
from kdsearch.kit.tables import TableFiles, read_tables


class TextsOptions(TableFiles, TokenizerOptions):
    text: str | tuple[str, ...] = Option(
        "text", description="column of the texts, or several, which a sample joins with a separator (a text pair)"
    )
    label: str | None = Option(None, description="column of the classes; an empty cell is a sample without a label")
    document: str | None = Option(
        None, description="column of what each text should find, for the task `embedding`; instead of `label`"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text


class Texts(Dataset[TextsOptions]):
    """Texts of the user's own. Fields: `tokens` and `mask`, and `label`; or those of a document too."""

    def __init__(self, options: TextsOptions) -> None:
        super().__init__(options)
        self.task = "classification" if options.document is None else "embedding"

    def preflight(self, services: Services) -> None:
        self.options.check(services)

    def open(self, services: Services) -> TextSource:
        """Raise DataError for a table that cannot be read, a column that is not there, or one used twice."""
        options = self.options
        used = [*options.columns, *(name for name in (options.label, options.document) if name is not None)]
        if not options.columns or len(set(used)) < len(used):
            raise DataError(
                f"the columns are {', '.join(used) or 'none'}", path="data.options.text", expected="each once"
            )
        if (options.label is None) == (options.document is None):
            both = "both are given" if options.label is not None else "neither is given"
            raise DataError(
                f"`label` and `document`: {both}",
                path="data.options.label",
                expected="`label` to tell classes, or `document` to find texts by",
            )
        targets = () if options.label is None else (options.label,)
        tables = read_tables(options, services, used.__contains__, targets)
        texts = [*options.columns, *([options.document] if options.document is not None else [])]
        labels: dict[str, Any] = {}
        facts: dict[str, Any] = {"source": options.path, "licence": "the user's"}
        if options.label is not None:
            absent = {name: [None] * len(each) for name, each in tables.items()}
            written = {
                name: each.categories(options.label)
                if options.label in each.columns or name != "unlabeled"
                else absent[name]
                for name, each in tables.items()
            }
            names = in_one_form(written)
            classes_told(tables, names, options.label)
            facts["classes"], labels = classes_of(names)
        if options.document is not None and len(set(tables["train"].texts(options.document))) < 2:
            raise DataError(
                "every text is the same",
                file=tables["train"].file,
                path=f"column '{options.document}'",
                expected="documents that differ, of which a query finds its own",
            )
        rows = {
            name: Rows(each.ids, {column: each.texts(column) for column in texts}, labels.get(name), each.groups)
            for name, each in tables.items()
        }
        return TextSource(rows, options.columns, options, facts, options.document)
