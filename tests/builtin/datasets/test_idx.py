"""MNIST's files: plain, gzipped, in torchvision's layout; broken in every way."""

import functools
import gzip

import numpy as np
import pytest
from files import idx_bytes, write_mnist

from kdsearch.builtin.datasets import idx as module
from kdsearch.builtin.datasets.idx import FashionMnist, IdxOptions, Mnist, read_idx
from kdsearch.builtin.packages import PACKAGES
from kdsearch.errors import DataError
from kdsearch.kit.packages import is_installed
from kdsearch.testing.dataset import DatasetContract, FileServices

FASHION = PACKAGES["fashion_mnist"]


class TestMnistFiles(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_mnist(tmp_path / "data")
        return Mnist(IdxOptions(path="data"))


class TestAugmentedMnistFiles(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_mnist(tmp_path / "data", gz=False)
        return Mnist(IdxOptions(path="data", augment="crop_flip", resize=16))


@functools.cache
def fashion():
    return FashionMnist(IdxOptions()).open(None)


@pytest.mark.skipif(not is_installed(FASHION), reason="needs " + FASHION.install)
class TestFashionMnist(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return FashionMnist(IdxOptions())

    @pytest.fixture
    def source(self):
        return fashion()

    def test_is_the_known_set(self, source):
        assert {name: len(source.split(name).ids) for name in source.splits} == {"train": 60000, "test": 10000}
        assert np.bincount(source.split("test").labels.numpy()).tolist() == [1000] * 10
        # its mean and std are published as 0.2860 and 0.3530
        assert abs(source.facts["preprocessing"]["mean"][0] - 0.2860) < 1e-4
        assert abs(source.facts["preprocessing"]["std"][0] - 0.3530) < 1e-4


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_pixels_and_labels_are_those_written(tmp_path, gz, below):
    written = write_mnist(tmp_path / "root" / below, gz=gz)
    source = Mnist(IdxOptions(path="root")).open(FileServices(tmp_path))
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = written[stem]
        batch = source.split(split).load(range(len(labels)))
        told = source.facts["preprocessing"]
        got = np.rint((batch["image"][:, 0].double().numpy() * told["std"][0] + told["mean"][0]) * 255)
        assert (got == images).all()
        assert batch["label"].tolist() == labels.tolist()


LABELS = np.arange(40) % 10
IMAGES = np.zeros((40, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(IMAGES), mtime=0)[:-20], ["not readable", "gzipped"]),
        ("train-images-idx3-ubyte.gz", idx_bytes(IMAGES), ["not readable", "gzipped"]),
        ("train-images-idx3-ubyte", gzip.compress(idx_bytes(IMAGES), mtime=0), ["starts with 1f 8b", "00 00 08 03"]),
        ("train-images-idx3-ubyte", b"", ["starts with nothing"]),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES, magic=0x0D03), ["00 00 0d 03", "00 00 08 03"]),
        ("train-images-idx3-ubyte", idx_bytes(LABELS), ["00 00 08 01", "00 00 08 03"]),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:-5], ["holds 31,355 bytes", "31,360"]),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES) + b"x", ["more than 31,360"]),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES, shape=(2**32 - 1,) * 3), ["4294967295", "at most"]),
        ("train-labels-idx1-ubyte", idx_bytes(LABELS[:39]), ["39 labels", "40 images"]),
        ("train-labels-idx1-ubyte", idx_bytes(np.where(LABELS == 3, 10, LABELS)), ["label 10 of sample 3", "0..9"]),
        ("t10k-images-idx3-ubyte", idx_bytes(np.zeros((10, 27, 28))), ["1x27x28", "1x28x28"]),
        ("t10k-labels-idx1-ubyte", None, ["no t10k-labels-idx1-ubyte"]),
    ],
)
def test_broken_files_are_named(tmp_path, name, data, words):
    write_mnist(tmp_path, gz=False)
    (tmp_path / name.removesuffix(".gz")).unlink()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        Mnist(IdxOptions(path=".")).open(FileServices(tmp_path))
    for word in [*words, *([name] if "27" not in words[0] else ["t10k"])]:
        assert word in str(error.value)


def test_absent_files_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(FashionMnist, "locations", (str(tmp_path / "nowhere"),))
    with pytest.raises(DataError) as error:
        FashionMnist(IdxOptions()).open(FileServices(tmp_path))
    assert "apt-get install dataset-fashion-mnist" in str(error.value)
    assert "FashionMNIST/raw (torchvision's layout)" in str(error.value)
    assert "nowhere" in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        Mnist(IdxOptions(path="gone")).open(FileServices(tmp_path))


def test_downloads_only_when_asked(monkeypatch, tmp_path):
    import torchvision

    asked = []

    def fake(root, download):
        asked.append((root, download))
        write_mnist(tmp_path / "cache" / "MNIST" / "raw")

    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    with pytest.raises(DataError, match="download: true"):
        Mnist(IdxOptions()).open(FileServices(tmp_path))
    assert asked == []
    assert len(Mnist(IdxOptions(download=True)).open(FileServices(tmp_path)).split("train").ids) == 40
    assert asked == [(str(tmp_path / "cache"), True)]


def test_a_failed_download_says_so(monkeypatch, tmp_path):
    import torchvision

    def offline(root, download):
        raise OSError("no route to host")

    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(DataError, match="no route to host"):
        Mnist(IdxOptions(download=True)).open(FileServices(tmp_path))


def test_agrees_with_torchvisions_reader(tmp_path):
    from torchvision.datasets.mnist import read_image_file

    file = tmp_path / "images"
    file.write_bytes(idx_bytes(np.random.default_rng(0).integers(0, 256, (3, 5, 4))))
    assert (read_idx(file, 3) == read_image_file(str(file)).numpy()).all()


def test_module_reads_its_locations_from_the_table():
    assert module.FashionMnist.locations == FASHION.folders
