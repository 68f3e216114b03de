"""Folders of images and masks: the contract, palettes and grey, sizes and classes that do not fit, files that are none."""

from __future__ import annotations

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from kdsearch.builtin.vision.mask_folder import MaskFolder, MaskFolderOptions, read_mask
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN
from kdsearch.kinds.options import validate
from kdsearch.testing.dataset import DatasetContract, FileServices

PALETTE = [c for k in range(256) for c in (k * 7 % 256, k * 13 % 256, k)]


def write(root, n=6, splits=("",), mode="L", size=(20, 16), names=("ground", "cat", "dog"), void=True, seed=0):
    """root/images and root/masks; returns what is in the masks by id."""
    rng = np.random.default_rng(seed)
    written = {}
    for split in splits:
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            w, h = size
            pixels = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
            mask = np.repeat(rng.integers(0, len(names), (h // 2, w), dtype=np.uint8), 2, 0)
            if void:
                mask[0] = 255
            name = f"{split or 'only'}-{i}"
            Image.fromarray(pixels).save(root / split / "images" / f"{name}.png")
            save(mask, root / split / "masks" / f"{name}.png", mode)
            written[f"{split + '/' if split else ''}images/{name}.png"] = mask
    if names:
        (root / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return written


def save(mask, file, mode="L"):
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette(PALETTE)
    image.save(file)


def opened(folder, **options):
    made = MaskFolder(validate(MaskFolderOptions, {"path": "data", **options}))
    made.preflight(FileServices(folder))
    return made.open(FileServices(folder))


class TestMaskFolder(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write(tmp_path / "data", splits=("train", "val", "test"))
        return MaskFolder(MaskFolderOptions(path="data"))


class TestMaskFolderOnDemand(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write(tmp_path / "data", mode="P")
        return MaskFolder(MaskFolderOptions(path="data", memory_mb=0, augment="crop_flip", resize=12))


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("memory_mb", [0, 64])
def test_masks_are_read_as_they_are_drawn(tmp_path, mode, memory_mb):
    written = write(tmp_path / "data", mode=mode)
    source = opened(tmp_path, memory_mb=memory_mb)
    split = source.split("train")
    batch = split.load(range(6))
    for id, mask in zip(batch.ids, batch["mask"], strict=True):
        assert np.array_equal(mask, np.where(written[id] == 255, HIDDEN, written[id].astype(int)))
    assert batch["image"].shape == (6, 3, 16, 20)
    assert source.facts["classes"] == ["ground", "cat", "dog"]
    assert split.labels.tolist() == [1 + int((m == 2).sum() > (m == 1).sum()) for m in batch["mask"]]


@pytest.mark.parametrize(("bits", "colour"), [(2, 0), (4, 0), (2, 3), (4, 3), (8, 0)])
def test_a_pixel_of_few_bits_is_its_class(tmp_path, bits, colour):
    """Classes 0 to 3 in a PNG written by hand: grey (colour 0) and palette (3)."""

    def chunk(name, held):
        return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))

    each = 8 // bits
    rows = np.arange(8).reshape(1, 8).repeat(4, 0) % 4
    packed = sum(rows.reshape(4, -1, each)[:, :, i] << (8 - bits * (i + 1)) for i in range(each)).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    palette = chunk(b"PLTE", bytes(range(12))) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 4, bits, colour, 0, 0, 0))
    body = head + palette + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert np.array_equal(read_mask(tmp_path / "m.png")[0].numpy(), rows)


def test_another_value_may_be_the_unknown_one_or_none(tmp_path):
    write(tmp_path / "data", void=False)
    mask = opened(tmp_path, ignore_index=2).split("train").load(range(6))["mask"]
    assert set(mask.unique().tolist()) == {HIDDEN, 0, 1}
    mask = opened(tmp_path, ignore_index=None).split("train").load(range(6))["mask"]
    assert set(mask.unique().tolist()) == {0, 1, 2}


def test_what_usually_means_unknown_is_a_wrong_value_where_another_one_does(tmp_path):
    write(tmp_path / "data")  # with pixels of 255
    with pytest.raises(DataError, match=r"value 255 at .* 0\.\.2 for 3 classes, or 0 where"):
        opened(tmp_path, ignore_index=0).split("train").load(range(6))


def test_without_names_classes_are_numbers_up_to_the_largest(tmp_path):
    write(tmp_path / "data", names=("a",) * 5)
    (tmp_path / "data" / "classes.txt").unlink()
    assert opened(tmp_path).facts["classes"] == list("01234")


def test_masks_are_resized_with_their_images_and_hold_no_class_between(tmp_path):
    """An image that is a picture of its mask, both twice as wide as high: they go on agreeing."""
    folder = tmp_path / "data"
    write(folder, n=3, size=(40, 20), void=False)
    for file in sorted((folder / "images").iterdir()):
        mask = np.zeros((20, 40), np.uint8)
        mask[4:16, 12:28] = 2
        save(mask, folder / "masks" / file.name)
        Image.fromarray(mask * 100).save(file)
    batch = opened(tmp_path, resize=10).split("train").load(range(3))
    image, mask = batch["image"][:, 0], batch["mask"]
    assert mask.shape == (3, 10, 10)
    assert set(mask.unique().tolist()) == {0, 2}
    assert (mask == 2).float().mean().item() == pytest.approx(6 * 8 / 100)
    middle = (image.max() + image.min()) / 2
    assert torch.equal(mask == 2, image > middle)


def test_images_without_masks_are_unlabeled(tmp_path):
    write(tmp_path / "data", splits=("train", "val"))
    (tmp_path / "data" / "unlabeled").mkdir()
    for i in range(2):
        Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(tmp_path / "data" / "unlabeled" / f"u{i}.png")
    for memory_mb in (0, 64):
        source = opened(tmp_path, memory_mb=memory_mb)
        batch = source.split("unlabeled").load(range(2))
        assert bool((batch["mask"] == HIDDEN).all())
        assert source.split("unlabeled").labels.tolist() == [HIDDEN, HIDDEN]


def test_images_of_formats_that_are_not_read_are_counted_in_a_note(tmp_path):
    write(tmp_path / "data", splits=("train", "val"))
    (tmp_path / "data" / "unlabeled").mkdir()
    for name in ("val/images/a.tif", "unlabeled/b.gif", "unlabeled/.c.gif", "val/masks/d.txt"):
        (tmp_path / "data" / name).write_bytes(b"x")
    source = opened(tmp_path)
    assert source.facts["notes"] == ["Images that were left out: 2 of a format that is not read (.tif: 1, .gif: 1)."]
    assert source.splits == ("train", "val")


def test_an_image_that_its_exif_turns_has_a_mask_of_the_turned_size(tmp_path):
    folder = tmp_path / "data"
    write(folder, n=2, size=(20, 16))
    for file in sorted((folder / "images").iterdir()):
        with Image.open(file) as image:
            turned = image.convert("RGB").rotate(90, expand=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        turned.save(file, exif=exif)
    assert opened(tmp_path).split("train").load([0])["image"].shape[-2:] == (16, 20)


@pytest.mark.parametrize("memory_mb", [0, 64])
@pytest.mark.parametrize(("size", "said"), [((24, 16), "24x16 pixels, only-0"), ((16, 20), "16x20 pixels, only-")])
@pytest.mark.parametrize("n", [3, 66])  # more than are decoded at once
def test_images_of_several_sizes_are_named(tmp_path, memory_mb, size, said, n):
    """Of other sides by their header, before anything is decoded; of turned ones, which EXIF may turn back, as they are."""
    write(tmp_path / "data", n=n)
    w, h = size
    Image.fromarray(np.zeros((h, w, 3), np.uint8)).save(tmp_path / "data" / "images" / f"only-{n - 1}.png")
    save(np.zeros((h, w), np.uint8), tmp_path / "data" / "masks" / f"only-{n - 1}.png")
    with pytest.raises(DataError, match=rf"(?s){said}.*is 20x16.*`resize`") as error:
        opened(tmp_path, memory_mb=memory_mb).split("train").load(range(n))
    assert f"only-{n - 1}.png" in str(error.value)
    assert opened(tmp_path, memory_mb=memory_mb, resize=8).fields[0].shape == (3, 8, 8)


def test_splits_are_named_in_any_case(tmp_path):
    write(tmp_path / "data", splits=("Train", "TEST"))
    (tmp_path / "data" / "Unlabeled").mkdir()
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(tmp_path / "data" / "Unlabeled" / "u.png")
    assert set(opened(tmp_path).splits) == {"train", "test", "unlabeled"}


def spoil(folder, what):
    file = folder / "masks" / "only-3.png"
    mask = np.zeros((16, 20), np.uint8)
    if what == "size":
        save(mask[:8], file)
    elif what == "class":
        mask[2:4] = 7
        save(mask, file)
    elif what == "colour":
        Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(file)
    elif what == "torn":
        file.write_bytes(file.read_bytes()[:60])
    elif what == "lacking":
        file.unlink()
    elif what == "alone":
        (folder / "images" / "only-3.png").unlink()
    elif what == "fifo":
        file.unlink()
        os.mkfifo(file)
    elif what == "twice":
        (folder / "classes.txt").write_text("cat\ncat\n")
    elif what == "one":
        (folder / "classes.txt").write_text("cat\n")
    elif what == "latin":
        (folder / "classes.txt").write_bytes(b"k\xe4tzchen\nhund\n")
    elif what == "no masks":
        (folder / "masks").rename(folder / "labels")
    elif what == "empty":
        for each in (*(folder / "images").iterdir(), *(folder / "masks").iterdir()):
            each.unlink()
    elif what == "tif":
        for each in (folder / "images").iterdir():
            each.rename(each.with_suffix(".tif"))


@pytest.mark.parametrize(
    ("what", "names", "says"),
    [
        ("size", "only-3.png", "is 20x8 pixels, its image is 20x16"),
        ("class", "only-3.png", "value 7 at 40 of 320 pixels"),
        ("colour", "only-3.png", "pixel mode 'RGB'"),
        ("torn", "only-3.png", "not a readable image"),
        ("lacking", "only-3.png", "has no mask"),
        ("alone", "only-3.png", "has no image"),
        ("fifo", "only-3.png", "is a FIFO"),
        ("twice", "classes.txt", "'cat' is there twice"),
        ("one", "classes.txt", "1 classes"),
        ("latin", "classes.txt", "not UTF-8"),
        ("no masks", "data", "no folder 'masks'"),
        ("empty", "images", "no images"),
        ("tif", "images", "no images but 6 of a format that is not read (.tif: 6)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, what, names, says):
    folder = tmp_path / "data"
    write(folder)
    spoil(folder, what)
    with pytest.raises(DataError) as error:
        opened(tmp_path)
    assert says in str(error.value)
    assert names in str(error.value)


def test_a_mask_that_does_not_fit_is_refused_when_it_is_read(tmp_path):
    write(tmp_path / "data", void=False)
    source = opened(tmp_path, ignore_index=None, memory_mb=0)
    spoil(tmp_path / "data", "class")
    with pytest.raises(DataError, match="value 7"):
        source.split("train").load(range(6))


def test_copies_of_an_image_stay_together_and_are_warned_of_across_splits(tmp_path):
    data = tmp_path / "data"
    write(data, splits=("train", "test"))

    def copied(of, to):
        for folder in ("images", "masks"):
            held = (data / of.replace("*", folder)).read_bytes()
            (data / to.replace("*", folder)).write_bytes(held)

    copied("train/*/train-0.png", "train/*/train-3.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = opened(tmp_path).split("train").groups
    assert groups[3] == groups[0] == "train/images/train-0.png"
    assert len(set(groups)) == 5
    copied("train/*/train-1.png", "test/*/test-0.png")
    assert opened(tmp_path).facts["copies"] == {"test": 1}


def test_a_file_of_classes_that_is_asked_for_must_be_there(tmp_path):
    write(tmp_path / "data")
    with pytest.raises(DataError, match=r"clases\.txt"):
        opened(tmp_path, classes="clases.txt")
