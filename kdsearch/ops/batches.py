"""Where the batches of a pass end."""

from __future__ import annotations


def batch_ends(n: int, size: int) -> list[int]:
    """Of n samples in batches of `size`: after which sample each ends, the last one with what is left.

    One sample that would be alone joins the batch before it: of one value a channel a norm knows no spread.
    """
    ends = [*range(size, n, size), n]
    if size > 1 and len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    return ends
