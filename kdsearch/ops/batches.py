"""A pass cut into batches."""

from __future__ import annotations


def in_batches(index: list[int], size: int) -> list[list[int]]:
    """Batches of `size`, the last one with what is left.

    One sample that would be alone joins the batch before it: of one value a channel a norm knows no spread.
    """
    found = [index[at : at + size] for at in range(0, len(index), size)]
    if size > 1 and len(found) > 1 and len(found[-1]) == 1:
        last = found.pop()
        found[-1] += last
    return found
