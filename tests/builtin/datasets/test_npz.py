"""Arrays of the user's own, right and wrong."""

import numpy as np
import pytest
from pydantic import ValidationError

from kdsearch.builtin.datasets.npz import Npz, NpzOptions
from kdsearch.engine.live_data import from_torch
from kdsearch.errors import DataError
from kdsearch.testing.dataset import DatasetContract, FileServices

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)
LABELS = np.arange(12) % 4


def opened(folder, arrays, **options):
    np.savez(folder / "d.npz", **arrays)
    return Npz(NpzOptions(path="d.npz", **options)).open(FileServices(folder))


class TestNpz(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        labels = LABELS.copy()
        labels[3] = -100
        np.savez(tmp_path / "d.npz", image=IMAGES, label=labels, test_image=IMAGES[:4], test_label=LABELS[:4])
        return Npz(NpzOptions(path="d.npz"))


class TestFloatNpz(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        images = RNG.normal(size=(10, 3, 16, 16))
        np.savez_compressed(tmp_path / "d.npz", image=images, label=np.arange(10)[:, None] % 2)
        return Npz(NpzOptions(path="d.npz", augment="shift"))


@pytest.mark.parametrize("layout", ["auto", "hwc", "chw"])
def test_axes(tmp_path, layout):
    colour = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    given = colour.transpose(0, 3, 1, 2) if layout == "chw" else colour
    source = opened(tmp_path, {"image": given, "label": LABELS}, layout=layout)
    assert source.fields[0].shape == (3, 6, 5)
    told = source.facts["preprocessing"]
    image = source.split("train").load([7])["image"][0, 2].double().numpy()
    assert (np.rint((image * told["std"][2] + told["mean"][2]) * 255) == colour[7, :, :, 2]).all()


def test_more_channels_where_the_layout_is_said(tmp_path):
    images = RNG.random((12, 4, 6, 5)).astype(np.float32)
    source = opened(tmp_path, {"image": images, "label": LABELS}, layout="chw")
    assert source.fields[0].shape == (4, 6, 5)
    assert source.facts["preprocessing"]["color"] is None, "nobody says what the four are"
    assert from_torch((images, LABELS)).facts["preprocessing"]["color"] is None


def test_other_names_and_own_splits(tmp_path):
    arrays = {f"{split}_{name}": values[:n] for split, n in (("train", 12), ("val", 5), ("test", 4))
              for name, values in (("images", IMAGES), ("labels", LABELS))}  # fmt: skip
    source = opened(tmp_path, arrays, image="images", label="labels")
    assert source.facts["samples"] == {"train": 12, "val": 5, "test": 4}
    assert source.split("val").ids[4] == "val-000004"


def test_splits_are_all_of_bytes_or_all_of_floats(tmp_path):
    """The same pictures in 0..255 and in 0..1: standardised alike, one of them is nearly black."""
    other = (IMAGES / 255).astype(np.float32)
    arrays = {"train_image": IMAGES, "train_label": LABELS, "test_image": other, "test_label": LABELS}
    with pytest.raises(DataError, match=r"array 'test_image' is float32, 'train_image' is uint8\. Expected uint8 in 0"):
        opened(tmp_path, arrays)


def test_classes(tmp_path):
    arrays = {"image": IMAGES, "label": LABELS}
    assert opened(tmp_path, arrays).facts["classes"] == ["0", "1", "2", "3"]
    assert len(opened(tmp_path, arrays, classes=6).facts["classes"]) == 6
    assert opened(tmp_path, arrays, classes=["a", "b", "c", "d"]).facts["classes"][3] == "d"


def with_pixel(value):
    images = IMAGES.astype(np.float64) / 255
    images[5, 2, 1] = value
    return images


def with_label(value, dtype=np.int64):
    labels = LABELS.astype(dtype)
    labels[3] = value
    return labels


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"image": with_pixel(np.nan), "label": LABELS}, {}, ["'image' holds nan in image 5 (row 2, column 1)"]),
        ({"image": with_pixel(np.inf), "label": LABELS}, {}, ["holds inf"]),
        ({"image": IMAGES.astype(np.int32), "label": LABELS}, {}, ["'image' is int32", "uint8"]),
        ({"image": IMAGES[0], "label": LABELS}, {}, ["shape 6x5", "(N, H, W)"]),
        ({"image": IMAGES, "label": LABELS}, {"layout": "hwc"}, ["shape 12x6x5", "(N, H, W, C)"]),
        ({"image": IMAGES[..., None], "label": LABELS}, {"layout": "hw"}, ["shape 12x6x5x1", "(N, H, W)"]),
        ({"image": np.zeros((12, 3, 5, 3), np.uint8), "label": LABELS}, {}, ["not evident", "hwc or chw", "layout"]),
        ({"image": np.zeros((12, 4, 5, 4), np.uint8), "label": LABELS}, {}, ["not evident"]),
        ({"image": IMAGES[:, :0], "label": LABELS}, {}, ["shape 12x0x5"]),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, {}, ["'train' has no samples"]),
        ({"image": IMAGES, "label": LABELS[:11]}, {}, ["'label' has 11 rows, 'image' has 12"]),
        ({"image": IMAGES, "label": LABELS * 1.0}, {}, ["'label' is float64", "integers"]),
        ({"image": IMAGES, "label": np.eye(12, dtype=int)}, {}, ["shape (12, 12)", "(N,)"]),
        ({"image": IMAGES, "label": with_label(-1)}, {}, ["'label' holds -1 at 3"]),
        ({"image": IMAGES, "label": with_label(10)}, {"classes": 10}, ["label 10 of sample 3", "0..9", "d.npz"]),
        ({"image": IMAGES, "label": with_label(2**63, np.uint64)}, {}, ["9223372036854775808"]),
        (
            {"image": IMAGES, "labels": LABELS},
            {},
            [
                "no array 'label'; the file has image, labels",
                "'image' and 'label'",
                "Set data.options: {label: labels}, or with",
            ],
        ),
        (
            {"image": IMAGES, "label": with_label(10**7)},
            {},
            ["greatest label is 10,000,000", "only 12 labels are known"],
        ),
        ({"image": IMAGES, "label": LABELS * 0 - 100}, {}, ["every label is -100 (unknown)"]),
        (
            {"images": IMAGES, "labels": LABELS},
            {},
            [
                "no array 'image'; the file has images, labels",
                "Set data.options: {image: images, label: labels}",
                ",image=images,label=labels.",
            ],
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS},
            {},
            ["the file has train_images, train_labels", "Set data.options: {image: images, label: labels}"],
        ),
        ({"x": IMAGES, "y": LABELS}, {}, ["Set data.options: {image: ITS ARRAY, label: ITS ARRAY}"]),
        ({f"{i:02}": LABELS for i in range(20)}, {}, [" 10, 11, ..."]),
        ({"image": IMAGES, "label": LABELS, "val_image": IMAGES}, {}, ["no array 'val_label'", "'S_label'"]),
        ({"image": np.array([{}] * 12, dtype=object), "label": LABELS}, {}, ["array 'image'", "no objects"]),
        ({"image": np.array(["x"] * 12), "label": LABELS}, {}, ["'image' is <U1"]),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, options, words):
    with pytest.raises(DataError) as error:
        opened(tmp_path, arrays, **options)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("classes", [0, 1, [], ["a"], ["a", "b", "a"]])
def test_classes_are_two_or_more_that_differ(classes):
    with pytest.raises(ValidationError, match="classes"):
        NpzOptions(path="d.npz", classes=classes)


def test_more_classes_than_labels_where_the_study_says_so(tmp_path):
    source = opened(tmp_path, {"image": IMAGES, "label": with_label(40)}, classes=50)
    assert len(source.facts["classes"]) == 50


def test_a_folder_is_no_npz(tmp_path):
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(DataError, match=r"d\.npz.*is a folder"):
        Npz(NpzOptions(path="d.npz")).open(FileServices(tmp_path))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "npy"])
def test_damaged_files_are_named(tmp_path, damage):
    file = tmp_path / "d.npz"
    np.savez_compressed(file, image=IMAGES, label=LABELS)
    data = file.read_bytes()
    if damage == "npy":
        np.save(tmp_path / "d.npy", IMAGES)
        data = (tmp_path / "d.npy").read_bytes()
    middle = len(data) // 3
    file.write_bytes(
        {
            "empty": b"",
            "text": b"image,label",
            "cut": data[:-30],
            "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
            "npy": data,
        }[damage]
    )
    with pytest.raises(DataError, match=r"d\.npz.*not readable"):
        Npz(NpzOptions(path="d.npz")).open(FileServices(tmp_path))
