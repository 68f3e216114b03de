"""Standardising, resizing and augmenting images: against plain NumPy, and by properties."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdsearch.builtin.datasets import images as module
from kdsearch.builtin.datasets.augment import augmented
from kdsearch.builtin.datasets.images import ImageOptions, Part, image_source, measured
from kdsearch.builtin.datasets.pixels import Stored, as_images, fitted
from kdsearch.errors import DataError
from kdsearch.kinds import IMAGENET, Normalization

IDS = tuple(f"s{i}" for i in range(12))


def part(images, labels=None, ids=IDS):
    n = len(images)
    return Part(ids[:n], Stored(images), torch.arange(n) % 3 if labels is None else labels)


def pixels(n=12, c=3, h=8, w=8, seed=0):
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("floats", [False, True])
def test_standardised_by_the_training_split_in_float64(floats):
    train, test = pixels(12), pixels(5, seed=1)
    if floats:
        train, test = train.float() * 3 - 7, test.float() * 3 - 7
    source = image_source(
        {"train": part(train), "test": part(test, ids=tuple("abcde"))}, ["x", "y", "z"], ImageOptions(), {}
    )
    plain = train.numpy().astype(np.float64) / (1 if floats else 255)
    mean, std = plain.mean((0, 2, 3)), plain.std((0, 2, 3))
    told = source.facts["preprocessing"]
    np.testing.assert_allclose(told["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(told["std"], std, rtol=1e-9)
    wanted = (test.numpy() / (1 if floats else 255) - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(source.split("test").load([0, 1, 2, 3, 4])["image"].numpy(), wanted, atol=2e-6)


def test_many_images_are_measured_exactly():
    train = pixels(5000, c=1, h=3, w=3)
    standard = measured(part(train, ids=tuple(str(i) for i in range(5000))))
    np.testing.assert_allclose(standard.mean, train.numpy().mean() / 255, rtol=1e-12)
    assert standard.counted == 5000


class Watched:
    """Images in memory that say how many bytes were copied of them at once."""

    def __init__(self, images):
        self.images, self.copied, self.shape = images, [], images.shape

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        found = self.images[index]
        self.copied.append(found.numel() * found.element_size())
        return found


@pytest.mark.parametrize("floats", [False, True])
def test_some_images_are_measured_without_a_copy_of_them_all(floats, monkeypatch):
    train = pixels(400).float() if floats else pixels(400)
    ids = tuple(f"s{i}" for i in range(400))
    images, chosen = Watched(train), ids[7:390:2]
    monkeypatch.setattr(module, "COPIED", 10 * train[0].numel() * train.element_size())
    standard = measured(part(images, torch.zeros(400), ids), chosen)
    rows = train[7:390:2].double() / 255
    np.testing.assert_allclose(standard.mean, rows.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(standard.std, rows.std((0, 2, 3), correction=0), rtol=1e-9)
    assert standard.counted == len(chosen)
    assert max(images.copied) == module.COPIED
    assert sum(images.copied[1:]) == len(chosen) * module.COPIED // 10


def test_a_constant_channel_stays_finite():
    source = image_source(
        {"train": part(torch.full((12, 1, 8, 8), 7, dtype=torch.uint8))}, ["x", "y", "z"], ImageOptions(), {}
    )
    assert bool((source.split("train").load([0, 5])["image"].abs() < 1e-5).all())


def test_resize_is_pillows_antialiased_bilinear_within_a_level():
    image = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 100)
    got = fitted(torch.from_numpy(np.array(image))[None, None], 20, None)[0, 0].numpy().astype(int)
    wanted = np.array(image.resize((20, 20), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(got - wanted).max() <= 1


def test_resize_keeps_proportions_and_crops_the_middle():
    wide = torch.zeros(1, 1, 10, 30, dtype=torch.uint8)
    wide[..., 10:20] = 200  # the middle square
    assert torch.equal(fitted(wide, 10, None), torch.full((1, 1, 10, 10), 200, dtype=torch.uint8))


def test_channels():
    rgb = pixels(4)
    grey = fitted(rgb, None, 1)
    wanted = (rgb.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)).sum(1)
    assert (
        float((grey[:, 0].double() - wanted).abs().max()) <= 1.05
    )  # torchvision's weights have four digits, and it truncates
    assert torch.equal(fitted(grey, None, 3), grey.repeat(1, 3, 1, 1))
    with pytest.raises(DataError, match="4 channels"):
        fitted(pixels(2, c=4), None, 3)


@pytest.mark.parametrize(("kind", "most"), [("shift", 2), ("crop", 4), ("crop_flip", 4)])
def test_augmented_images_are_moved_or_mirrored_originals(kind, most):
    images = pixels(64, c=2, h=32, w=32)
    ids = tuple(f"i{i}" for i in range(64))
    out = augmented(images, ids, 5, kind)
    padded = torch.nn.functional.pad(images, [most] * 4)
    seen = set()
    for i in range(64):
        moves = {
            (dy, dx, flip)
            for dy in range(2 * most + 1)
            for dx in range(2 * most + 1)
            for flip in (False, True)
            if torch.equal(
                out[i],
                padded[i, :, dy : dy + 32, dx : dx + 32].flip(-1) if flip else padded[i, :, dy : dy + 32, dx : dx + 32],
            )
        }
        assert len(moves) == 1
        seen |= moves
    assert {flip for _, _, flip in seen} == ({True, False} if kind == "crop_flip" else {False})
    assert {dy for dy, _, _ in seen} >= {0, 2 * most} or len({dy for dy, _, _ in seen}) > most


def test_augmentation_is_a_function_of_seed_and_id():
    images = pixels(12, h=32, w=32)
    whole = augmented(images, IDS, 1, "crop_flip")
    assert torch.equal(augmented(images.flip(0), IDS[::-1], 1, "crop_flip").flip(0), whole)
    assert torch.equal(augmented(images[3:4], IDS[3:4], 1, "crop_flip"), whole[3:4])
    assert not torch.equal(augmented(images, IDS, 2, "crop_flip"), whole)


def test_grey_array_axes():
    array = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    assert torch.equal(as_images(array)[1, 2], torch.from_numpy(array[1, :, :, 2].copy()))
    assert as_images(array[..., 0]).shape == (2, 1, 3, 4)


def test_content_follows_pixels_labels_and_ids():
    images = pixels()
    base = {"train": part(images)}
    other_pixel = images.clone()
    other_pixel[11, 0, 0, 0] ^= 1
    variants = [
        base,
        {"train": part(other_pixel)},
        {"train": part(images, labels=torch.zeros(12, dtype=torch.long))},
        {"train": part(images, ids=tuple(f"t{i}" for i in range(12)))},
    ]
    digests = [image_source(each, ["x", "y", "z"], ImageOptions(), {}).facts["content"] for each in variants]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"train": part(pixels(12), labels=torch.full((12,), 3))}, ["label 3 of sample 0", "'train'", "0..2"]),
        ({"train": part(pixels(0))}, ["'train' has no samples"]),
        ({"train": part(pixels(12)), "test": part(pixels(2, h=9))}, ["3x9x8", "3x8x8", "`resize`"]),
    ],
)
def test_faults(parts, words):
    with pytest.raises(DataError) as error:
        image_source(parts, ["x", "y", "z"], ImageOptions(), {})
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("divided_by", [1, 255])
def test_a_given_normalisation_is_of_pixels_in_0_to_1_and_stays(divided_by):
    whole = pixels(12)
    images = whole if divided_by == 1 else whole.float() / 255
    source = image_source({"train": part(images)}, ["x", "y", "z"], ImageOptions(), {}).normalized(IMAGENET)
    for each in (source, source.measured_on(["0", "1"], ["0"])):
        mean, std = (np.array(each.facts["preprocessing"][name])[:, None, None] for name in ("mean", "std"))
        np.testing.assert_allclose(mean.ravel(), IMAGENET.mean)
        wanted = (whole.numpy() / 255 - mean) / std
        np.testing.assert_allclose(each.split("train").load(range(12))["image"].numpy(), wanted, atol=2e-5)
    assert source.facts["preprocessing"]["range"] == [0, 255 if divided_by == 1 else 1]


def test_floats_of_0_to_255_are_pixels_and_others_are_not_imagenets():
    floats = pixels(12).float()
    source = image_source({"train": part(floats)}, ["x", "y", "z"], ImageOptions(), {})
    told = source.facts["preprocessing"]
    np.testing.assert_allclose(told["mean"], floats.double().numpy().mean((0, 2, 3)) / 255, rtol=1e-9)
    assert (told["scale"], told["range"]) == (255, [0, 255])
    other = image_source({"train": part(floats / 40 - 2)}, ["x", "y", "z"], ImageOptions(), {})
    with pytest.raises(DataError, match=r"ImageNet.s mean and std are of pixels in"):
        other.normalized(IMAGENET)
    with pytest.raises(DataError, match=r"mean 123\.7.*of pixels in 0\.\.1"):
        source.normalized(Normalization((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)))
