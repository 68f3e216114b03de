"""What a teacher read, as one number a sample."""

import hashlib
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.engine.cache import FORMAT
from kdsearch.engine.seen import Seen
from kdsearch.kinds import Batch


def batch(n, **tensors):
    return Batch(tuple(str(i) for i in range(n)), tensors)


def signed(value):
    """As 64 bits hold it."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def mixed(value):
    value = signed((value ^ value >> 31) * -7046029254386353131)
    return signed((value ^ value >> 29) * -4417276706812531889)


def factor(*place):
    """Odd, of a position, from one of five odd numbers an axis."""
    odd = (-7046029254386353131, -4417276706812531889, -8796714831421723037, 6364136223846793005, 1442695040888963407)
    found = 1
    for axis, at in enumerate(place):
        found = mixed(signed(found + signed((at + 1) * odd[axis])))
    return found | 1


def named(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) | 1


def of_halves(words):
    return signed(sum(word * factor(i) for i, word in enumerate(words)))


def test_the_numbers_are_those_of_the_formula():
    """In whole numbers of Python: what is stored by other numbers would be made anew, which a new FORMAT has to say."""
    assert FORMAT == 3
    words = torch.tensor([[3, -5], [2**62, 7]])
    part = torch.tensor([[1, 2, 3]], dtype=torch.int32)
    odd = torch.tensor([[1, 2, 3, 4, 5]], dtype=torch.uint8)  # the last word is filled up
    cube = torch.arange(-12, 12).reshape(1, 2, 3, 2, 2)
    of_words = [of_halves(row.numpy().view("int32").tolist()) for row in words]
    of_part, of_odd = of_halves([1, 2, 3]), of_halves([1 + (2 << 8) + (3 << 16) + (4 << 24), 5])
    of_cube = signed(sum(int(cube[0][at]) * factor(*at) for at in itertools.product(*map(range, cube.shape[1:]))))
    expected = [signed(mixed(each) * named("x")) for each in of_words]
    assert Seen({"x": None}).of(batch(2, x=words)).tolist() == expected
    assert Seen({"x": None}).of(batch(1, x=part)).tolist() == [signed(mixed(of_part) * named("x"))]
    assert Seen({"x": None}).of(batch(1, x=odd)).tolist() == [signed(mixed(of_odd) * named("x"))]
    assert Seen({"c": 0}).of(batch(1, c=cube)).tolist() == [signed(mixed(of_cube) * named("c"))]
    both = batch(1, x=part, c=cube)
    total = signed(mixed(of_part) * named("x") + mixed(of_cube) * named("c"))
    assert Seen({"x": None, "c": 0}).of(both).tolist() == [total]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("padding", [None, 0.0])
def test_signs_that_change_together_are_seen(dtype, padding):
    """Each is the highest bit of a number; in words of 64 bits an even number of them would cancel."""
    values = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    every_other = torch.ones(8, dtype=dtype)
    every_other[1::2] = -1
    seen = Seen({"x": padding})
    before = seen.of(batch(5, x=values))
    for changed in (-values, values * every_other, values * every_other.flip(0), 2 * values):
        assert not bool((seen.of(batch(5, x=changed)) == before).any())


def test_the_highest_bits_of_bytes_are_seen():
    values = torch.arange(64, dtype=torch.uint8).reshape(1, 64)
    changed = values.clone()
    changed[:, 7::8] += 128
    assert Seen({"x": None}).of(batch(1, x=values)) != Seen({"x": None}).of(batch(1, x=changed))


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
