"""Rows of open length side by side."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.ops.padding import joined, resized, stacked

SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=4)


@given(SIZES, st.sampled_from([0, -100, 7]))
def test_every_row_stays_and_the_rest_is_padding(sizes, padding):
    batches = [torch.arange(n * t * d).reshape(n, t, d) + 1 for n, t, d in sizes]
    whole = joined(batches, padding)
    assert whole.dtype == torch.int64
    assert whole.shape[1:] == (max(t for _, t, _ in sizes), max(d for *_, d in sizes))
    rows = [row for each in batches for row in each]
    assert len(whole) == len(rows)
    for row, found in zip(rows, whole, strict=True):
        t, d = row.shape
        assert torch.equal(found[:t, :d], row)
        assert int((found != padding).sum()) == int((row != padding).sum())


def test_rows_with_other_axes_are_no_rows_of_one_field():
    with pytest.raises(ValueError, match=r"rows of 2 and 2x3"):
        joined([torch.zeros(1, 2), torch.zeros(1, 2, 3)])


def test_a_batch_is_cut_or_filled():
    batch = stacked([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0])], float("nan"))
    assert resized(batch, [2]).tolist() == [[1.0, 2.0], [4.0, pytest.approx(float("nan"), nan_ok=True)]]
    assert resized(batch, [4], 9)[:, 3].tolist() == [9.0, 9.0]
    assert resized(batch, [3]) is not None
    assert resized(batch[:0], [5]).shape == (0, 5)
