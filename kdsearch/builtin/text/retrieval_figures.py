"""Figures of a retrieval: how much is found among the first k, and queries with the document that stands first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from kdsearch.builtin.text.compared import compared, lines, of_each
from kdsearch.builtin.text.retrieval import CHUNK, Ranking, ranked
from kdsearch.builtin.text.source import DOCUMENT_ID, EMBEDDING, QUERY_ID
from kdsearch.kinds import DataSource, Figure, Predict, Services, Table
from kdsearch.kinds.figure import Cell

CUTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
QUERIES = 10  # that are shown, from the best answered to the worst
LONGEST = 160  # characters of a text in a table


def retrieval_figures(predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
    """`recall-at-k`, and `queries` where the data set says which of its texts are queries and documents."""
    who = compared(predict, services, data.split(split).load([0]), EMBEDDING)
    found = of_each(who, lambda each: ranked(each, data, split))
    texts = texts_of(data, split)
    return [recalls(found), *([examples(found, *texts)] if texts is not None else [])]


def recalls(found: Mapping[str, Ranking]) -> Figure:
    """By who answers, the share of a query's documents among the first k, as `retrieval_recall`."""
    first = next(iter(found.values()))
    n_queries, n_documents = len(first.queries), len(first.documents)
    cuts = [k for k in CUTS if k < n_documents] or [1]
    value = {(name, k): recall_at(each.places, each.n_right, k) for name, each in found.items() for k in cuts}
    rows = [{"who": name, "k": k, "found": share, "n": n_queries} for (name, k), share in value.items()]
    says = "; ".join(f"{name}: {_share(value[name, cuts[0]])} at 1" for name in found)
    chart = lines("share of the documents that are found", says, rows, ("k", "first k"), ("found", "found"), share=True)
    body: list[list[Cell]] = [[k, *(_share(value[name, k]) for name in found), _share(k / n_documents)] for k in cuts]
    return Figure(
        "recall-at-k",
        "What the first k hold",
        f"How much of what a query should find is among the k nearest documents; {n_queries} queries, {n_documents} documents.",
        [chart],
        [Table("Found among the first k", ["k", *found, "by chance"], body)],
    )


def recall_at(places: Tensor, n_right: Tensor, k: int) -> float:
    """Mean over queries of the share of their documents whose place, (Q, R) from 1 with 0 for none, is at most k."""
    return float((((places > 0) & (places <= k)).sum(1) / n_right).mean())


def examples(found: Mapping[str, Ranking], queries: Mapping[int, str], documents: Mapping[int, str]) -> Figure:
    """Queries from the best answered by the student to the worst: what they should find, and what stands first.

    queries, documents: number -> text.
    """
    student = found["student"]
    order = sorted(range(len(student.queries)), key=lambda i: (int(student.places[i, 0]), int(student.queries[i])))
    n = min(QUERIES, len(order))
    chosen = [order[i * (len(order) - 1) // max(n - 1, 1)] for i in range(n)]
    body: list[list[Cell]] = []
    for i in chosen:
        number = int(student.queries[i])
        row: list[Cell] = [_cut(queries[number]), _cut(documents[int(student.right[i])])]
        for each in found.values():
            row += [_cut(documents[int(each.first[i])]), int(each.places[i, 0])]
        body.append(row)
    heads = [head for name in found for head in (f"{name}: first", f"{name}: place of the truth")]
    return Figure(
        "queries",
        "Query by query",
        "From the query that is answered best to the worst: which document stands first, and where the right one (truth) does.",
        tables=[Table("Queries and what they find", ["query", "truth", *heads], body)],
    )


def texts_of(data: DataSource, split: str) -> tuple[dict[int, str], dict[int, str]] | None:
    """The texts of a split's queries and documents by their numbers; None where the data set's facts name no `columns`."""
    columns = data.facts.get("columns")
    if not isinstance(columns, Mapping) or not {"query", "document"} <= columns.keys():
        return None
    samples = data.split(split)
    found: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for start in range(0, len(samples.ids), CHUNK):
        batch = samples.load(range(start, min(start + CHUNK, len(samples.ids))))
        for texts, ids, part in zip(found, (QUERY_ID, DOCUMENT_ID), ("query", "document"), strict=True):
            for i, number in enumerate(batch[ids].tolist()):
                texts.setdefault(number, " | ".join(str(batch.texts[column][i]) for column in columns[part]))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
