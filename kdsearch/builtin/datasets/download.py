"""Downloads through torchvision, and only where a study says `download: true`. Nothing fetched is unpickled here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsearch.errors import DataError
from kdsearch.kinds import Services
from kdsearch.kit.files import cache_folder


def root_of(services: Services, path: str | None, download: bool) -> Path:
    """The folder a study's `path` means; without a path, the cache folder, made where a download will fill it."""
    if path is not None:
        return services.file(path)
    root = cache_folder()
    if download:
        root.mkdir(parents=True, exist_ok=True)
    return root


def download_idx(name: str, root: Path) -> None:
    """torchvision's files of MNIST or FashionMNIST into root/name/raw. Raise DataError when that fails."""
    import torchvision

    _fetch(lambda: getattr(torchvision.datasets, name)(str(root), download=True), name)


def download_archive(name: str, root: Path) -> None:
    """CIFAR10's or CIFAR100's archive, unpacked below root and not opened (torchvision's class would unpickle it)."""
    import torchvision

    known = getattr(torchvision.datasets, name)
    fetch = torchvision.datasets.utils.download_and_extract_archive
    _fetch(lambda: fetch(known.url, str(root), filename=known.filename, md5=known.tgz_md5), name)


def _fetch(fetch: Any, name: str) -> None:
    try:
        fetch()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"torchvision could not download {name} ({str(error)[:120]})",
            path="data.options.download",
            expected="a network that reaches torchvision's source",
            fix="Copy the files yourself and set `path`.",
        ) from error
