"""What a teacher read, as one number a sample."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.engine.seen import Seen
from kdsearch.kinds import Batch


def batch(n, **tensors):
    return Batch(tuple(str(i) for i in range(n)), tensors)


def test_a_sample_is_the_same_in_every_batch_and_memory_format():
    image = torch.randn(6, 3, 5, 7)
    seen = Seen({"image": None})
    whole = seen.of(batch(6, image=image))
    assert len(set(whole.tolist())) == 6
    for chosen in ([3], [5, 0], [1, 1, 2]):
        assert torch.equal(seen.of(batch(len(chosen), image=image[chosen])), whole[chosen])
    assert torch.equal(seen.of(batch(6, image=image.to(memory_format=torch.channels_last))), whole)
    assert torch.equal(seen.of(batch(6, image=image, other=torch.zeros(6))), whole), "nothing reads it"


def test_a_part_of_a_larger_tensor_is_as_a_copy_of_it():
    whole = torch.randn(1, 9)
    for part in (whole[:, 1:], whole[:, :8], torch.randn(3, 9)[1:, :8]):
        check(part)


def check(part):
    n = len(part)
    assert torch.equal(Seen({"x": None}).of(batch(n, x=part)), Seen({"x": None}).of(batch(n, x=part.clone())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("padding", [None, 0])
def test_any_value_that_changes_is_seen(dtype, padding):
    rng = torch.Generator().manual_seed(0)
    values = torch.randint(0, 2, (40, 3, 5), generator=rng).to(dtype)
    seen = Seen({"x": padding})
    before = seen.of(batch(40, x=values))
    for place in ((0, 0), (1, 3), (2, 4)):
        changed = values.clone()
        changed[:, place[0], place[1]] = (
            ~changed[:, place[0], place[1]] if dtype == torch.bool else 1 - changed[:, place[0], place[1]]
        )
        assert not bool((seen.of(batch(40, x=changed)) == before).any())
    moved = values.roll(1, 2)
    differs = (moved != values).flatten(1).any(1)
    assert torch.equal(seen.of(batch(40, x=moved)) != before, differs)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 5), st.sampled_from([0, -100]))
def test_padding_does_not_matter(values, more, padding):
    tokens = torch.tensor([values])
    longer = torch.cat([tokens, torch.full((1, more), padding)], 1)
    seen = Seen({"tokens": padding})
    assert torch.equal(seen.of(batch(1, tokens=tokens)), seen.of(batch(1, tokens=longer)))
    other = torch.cat([tokens, torch.full((1, more + 1), 3)], 1)
    assert not torch.equal(seen.of(batch(1, tokens=tokens)), seen.of(batch(1, tokens=other)))


def test_texts_and_ragged_tensors_count_and_a_missing_field_is_none():
    first = Batch(("a", "b"), {}, {"boxes": [torch.ones(2, 4), torch.ones(0, 4)]}, {"text": ["x", "y"]})
    other = Batch(("a", "b"), {}, {"boxes": [torch.ones(2, 4), torch.ones(1, 4)]}, {"text": ["x", "z"]})
    for name in ("boxes", "text"):
        same = Seen({name: None}).of(first) == Seen({name: None}).of(other)
        assert same.tolist() == [True, False]
    assert Seen({"boxes": None, "image": None}).of(first) is None
    swapped = Seen({"p": None, "q": None})
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    assert swapped.of(batch(1, p=one, q=two)) != swapped.of(batch(1, p=two, q=one))
