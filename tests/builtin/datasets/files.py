"""Tiny files in the formats that the data sets read, written without the readers' code."""

import gzip
import io
import pickle
import struct

import numpy as np


def idx_bytes(array, magic=None, shape=None):
    """The bytes of an IDX file of unsigned bytes."""
    shape = array.shape if shape is None else shape
    head = struct.pack(">I", 0x0800 + array.ndim if magic is None else magic)
    return head + b"".join(struct.pack(">I", n) for n in shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder, n_train=40, n_test=10, gz=True, side=28, seed=0):
    """Four IDX files; returns what is in them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for stem, n in (("train", n_train), ("t10k", n_test)):
        images, labels = rng.integers(0, 256, (n, side, side), dtype=np.uint8), np.arange(n) % 10
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            (folder / (name + ".gz" if gz else name)).write_bytes(gzip.compress(data) if gz else data)
        written[stem] = images, labels
    return written


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its `str`, which is what CIFAR's own files hold."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def pickled(entry, protocol=2):
    """With protocol 2 as Python 2 would; else as Python 3 does."""
    stream = io.BytesIO()
    (Python2 if protocol == 2 else pickle.Pickler)(stream, protocol=protocol).dump(entry)
    return stream.getvalue()


def write_cifar10_python(root, n=12, seed=0, protocol=2):
    """cifar-10-batches-py with n records a file; keys and text are bytes, as Python 2 wrote them."""
    rng = np.random.default_rng(seed)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    written = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data, labels = rng.integers(0, 256, (n, 3072), dtype=np.uint8), [i % 10 for i in range(n)]
        entry = {b"batch_label": name.encode(), b"labels": labels, b"data": data, b"filenames": [b"x.png"] * n}
        (folder / name).write_bytes(pickled(entry, protocol))
        written[name] = data, labels
    names = [f"class {i}".encode() for i in range(10)]
    (folder / "batches.meta").write_bytes(pickled({b"label_names": names}, protocol))
    return written


def write_cifar10_binary(root, n=12, seed=0):
    """The same records as `write_cifar10_python` in the binary layout."""
    rng = np.random.default_rng(seed)
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = (np.arange(n, dtype=np.uint8) % 10)[:, None]
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels, data], axis=1).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class {i}\n" for i in range(10)) + "\n")


def write_cifar100(root, n=100, seed=0):
    """cifar-100-python and cifar-100-binary with the same records."""
    rng = np.random.default_rng(seed)
    python, binary = root / "cifar-100-python", root / "cifar-100-binary"
    python.mkdir(parents=True), binary.mkdir(parents=True)
    for name in ("train", "test"):
        data, fine = rng.integers(0, 256, (n, 3072), dtype=np.uint8), np.arange(n, dtype=np.uint8)
        entry = {b"fine_labels": fine.tolist(), b"coarse_labels": (fine // 5).tolist(), b"data": data}
        (python / name).write_bytes(pickled(entry))
        (binary / f"{name}.bin").write_bytes(np.concatenate([(fine // 5)[:, None], fine[:, None], data], 1).tobytes())
    names = [f"fine {i}" for i in range(100)]
    (python / "meta").write_bytes(pickled({b"fine_label_names": [name.encode() for name in names]}))
    (binary / "fine_label_names.txt").write_text("\n".join(names) + "\n")
