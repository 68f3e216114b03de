"""Images of one normalisation as another reads them."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdsearch.engine.live_data import from_torch
from kdsearch.engine.normalize import feed_in
from kdsearch.errors import DataError
from kdsearch.kinds import IMAGENET, IO, UNIT, Field, Model, Normalization, stated
from kdsearch.kinds.found_taps import found_taps

numbers = st.floats(-2, 2, width=32)
above = st.floats(0.0625, 3, width=32)
three = st.builds(Normalization, st.tuples(numbers, numbers, numbers), st.tuples(above, above, above))
RGB = IO((Field("image", "image", (3, 8, 8)),), (Field("logits", "logits", (5,)),))
GREY = IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (5,)),))


def plain(pixels: np.ndarray, how: Normalization) -> np.ndarray:
    mean, std = (np.array(each, dtype="f8")[:, None, None] for each in (how.mean, how.std))
    return (pixels - mean) / std


def net(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


@settings(max_examples=40, deadline=None)
@given(three, three)
def test_from_one_to_another_is_by_way_of_pixels(one, other):
    pixels = np.random.default_rng(0).random((2, 3, 4, 4))
    scale, shift = other.from_other(one)
    seen = torch.from_numpy(plain(pixels, one)) * scale.double() + shift.double()
    np.testing.assert_allclose(seen.numpy(), plain(pixels, other), rtol=1e-4, atol=1e-4)


def test_a_model_reads_its_own_and_keeps_taps_weights_and_mode():
    module = net()
    model = Model(module, ("image",), found_taps(module, [torch.zeros(1, 3, 8, 8)]))
    names, taps = list(module.state_dict()), model.describe_taps()
    pixels = torch.rand(4, 3, 8, 8)
    given = Normalization((0.2, 0.3, 0.4), (0.1, 0.2, 0.3))
    wanted = module(torch.from_numpy(plain(pixels.double().numpy(), IMAGENET)).float())
    images = torch.from_numpy(plain(pixels.double().numpy(), given)).float()
    handle = feed_in(model, RGB, given, IMAGENET)
    for each in (model, model.copy(), Model(copy.deepcopy(module), ("image",))):  # it goes along with copies
        torch.testing.assert_close(each.module(images), wanted, atol=1e-4, rtol=1e-4)
    assert (list(module.state_dict()), model.describe_taps()) == (names, taps)
    handle.remove()
    assert not torch.allclose(model.module(images), wanted, atol=1e-2)
    assert feed_in(model, RGB, IMAGENET, IMAGENET) is None


class Repeats(nn.Module):
    """As timm's networks behind `Fitted`: grey becomes RGB inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, image):
        return self.net(image if image.shape[1] == 3 else image.expand(-1, 3, -1, -1))


def test_a_grey_image_is_read_in_each_channels_own_normalisation_where_the_network_repeats_it():
    pixels, given = torch.rand(2, 1, 8, 8), Normalization((0.3,), (0.2,))
    images = (pixels - 0.3) / 0.2
    repeats, grey = Repeats().eval(), net(1)
    rgb = torch.from_numpy(plain(pixels.double().numpy().repeat(3, 1), IMAGENET)).float()
    feed_in(Model(repeats, ("image",)), GREY, given, IMAGENET)
    torch.testing.assert_close(repeats(images), repeats.net(rgb), atol=1e-4, rtol=1e-4)
    wanted = grey((pixels - 0.449) / 0.226)  # the means of ImageNet's three
    feed_in(Model(grey, ("image",)), GREY, given, IMAGENET)
    torch.testing.assert_close(grey(images), wanted, atol=1e-3, rtol=1e-3)


def test_what_a_grey_network_reads_does_not_depend_on_where_it_lies():
    """The meta device in place of a GPU: zeros of the CPU are no input there."""
    for device in ("cpu", "meta"):
        net = Repeats().to(device)
        feed_in(Model(net, ("image",)), GREY, Normalization((0.3,), (0.2,)), IMAGENET)
        (hook,) = net._forward_pre_hooks.values()
        assert hook.scale.numel() == 3


def test_numbers_that_are_not_one_a_channel_are_refused():
    with pytest.raises(DataError, match=r"2 numbers \[0.1, 0.2\] for images of 3 channels"):
        Normalization((0.1, 0.2), (1.0,)).of(3)


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255), ("float32", 1), ("bytes", 255)])
def test_live_pixels_can_be_had_in_any_normalisation(dtype, scale):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4)).astype("uint8")
    images = {"uint8": pixels, "float32": (pixels / 255).astype("f4"), "bytes": pixels.astype("f4")}[dtype]
    source = from_torch((images, np.arange(12) % 3))
    own = stated(source.facts)
    assert own is not None
    as_given = source.split("train").load(range(12))["image"].double().numpy()
    np.testing.assert_allclose(as_given, plain(pixels / 255, own), atol=1e-4)
    other = source.normalized(IMAGENET)
    np.testing.assert_allclose(
        other.split("train").load(range(12))["image"].numpy(), plain(pixels / 255, IMAGENET), atol=1e-4
    )
    assert stated(other.facts) == IMAGENET
    assert torch.equal(other.split("train").labels, torch.arange(12) % 3)


def test_of_transformed_live_samples_it_is_only_said_what_the_transform_did():
    pixels = np.random.default_rng(0).random((12, 3, 4, 4))
    source = from_torch((plain(pixels, IMAGENET).astype("f4"), np.arange(12) % 3))
    assert stated(source.facts) is None
    told = source.normalized(IMAGENET)
    assert stated(told.facts) == IMAGENET
    assert torch.equal(told.split("train").load([3])["image"], source.split("train").load([3])["image"])
    far = from_torch((plain(pixels, Normalization((0.5,) * 3, (0.01,) * 3)).astype("f4"), np.arange(12) % 3))
    with pytest.raises(DataError, match="would be pixels of"):
        far.normalized(UNIT)
