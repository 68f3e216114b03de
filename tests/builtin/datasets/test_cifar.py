"""CIFAR's files: python and binary version alike, torchvision as reference, and pickles that mean harm."""

import os
import pickle
import struct

import numpy as np
import pytest
from files import pickled, write_cifar10_binary, write_cifar10_python, write_cifar100

from kdsearch.builtin.datasets.cifar import Cifar10, Cifar100, CifarOptions
from kdsearch.builtin.datasets.plain_pickle import _allowed, read_plain_pickle
from kdsearch.errors import DataError
from kdsearch.testing.dataset import DatasetContract, FileServices


class TestCifar10Python(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_cifar10_python(tmp_path)
        return Cifar10(CifarOptions(path="."))


class TestCifar10BinaryAugmented(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_cifar10_binary(tmp_path)
        return Cifar10(CifarOptions(path="cifar-10-batches-bin", augment="crop_flip"))


class TestCifar100(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_cifar100(tmp_path)
        return Cifar100(CifarOptions(path="."))


def opened(dataset, folder, path="."):
    return dataset(CifarOptions(path=path)).open(FileServices(folder))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_python_files_hold_what_was_written(tmp_path, protocol):
    written = write_cifar10_python(tmp_path, protocol=protocol)
    source = opened(Cifar10, tmp_path)
    batch = source.split("train").load(range(60))
    told = source.facts["preprocessing"]
    mean, std = (np.array(told[name])[:, None, None] for name in ("mean", "std"))
    got = np.rint((batch["image"].double().numpy() * std + mean) * 255)
    data = np.concatenate([written[f"data_batch_{i}"][0] for i in range(1, 6)])
    assert (got == data.reshape(-1, 3, 32, 32)).all()
    assert batch["label"].tolist() == [y for i in range(1, 6) for y in written[f"data_batch_{i}"][1]]
    assert source.facts["classes"] == [f"class {i}" for i in range(10)]
    assert len(source.split("test").ids) == 12


def test_binary_and_python_version_are_the_same_data(tmp_path):
    write_cifar10_python(tmp_path / "a")
    write_cifar10_binary(tmp_path / "b")
    assert opened(Cifar10, tmp_path, "a").facts == opened(Cifar10, tmp_path, "b").facts
    write_cifar100(tmp_path / "c")
    os.rename(tmp_path / "c" / "cifar-100-binary", tmp_path / "moved")
    python, binary = opened(Cifar100, tmp_path, "c"), opened(Cifar100, tmp_path, "moved")
    assert python.facts == binary.facts
    assert python.split("train").labels.tolist() == list(range(100))


def test_agrees_with_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    write_cifar10_python(tmp_path)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    reference = CIFAR10(str(tmp_path), train=False)
    source = opened(Cifar10, tmp_path)
    split = source.split("test")
    assert split.labels.tolist() == reference.targets
    told = source.facts["preprocessing"]
    mean, std = (np.array(told[name])[:, None, None] for name in ("mean", "std"))
    got = np.rint((split.load(range(12))["image"].double().numpy() * std + mean) * 255)
    assert (got.transpose(0, 2, 3, 1) == reference.data).all()


class Harm:
    def __init__(self, call, *arguments):
        self.made_of = call, arguments

    def __reduce__(self):
        return self.made_of


def forged_array(dtype, state):
    """A pickled array whose dtype and state are the attacker's, written opcode by opcode."""
    out = b"\x80\x02}\x58\x04\x00\x00\x00data"
    out += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return out + b"(K\x01(" + state + b"cnumpy\ndtype\n(" + dtype + b"K\x00K\x01tR\x89U\x04aaaatbs."


HOSTILE = {
    "system": pickle.dumps({"data": Harm(os.system, "touch harmed")}, protocol=2),
    "eval": pickle.dumps({"data": Harm(eval, "open('harmed', 'w')")}, protocol=4),
    "getattr": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
    "builtins": pickle.dumps({"data": Harm(getattr, {}, "clear")}, protocol=2),
    "text protocol": b"cos\nsystem\n(S'touch harmed'\ntR.",
    "inst": b"(S'touch harmed'\nios\nsystem\n.",
    "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "object dtype": forged_array(b"U\x01O", b"K\x04t"),
    "foreign array": pickle.dumps({"data": np.array([{}, []], dtype=object)}, protocol=2),
    "record dtype": pickle.dumps({"data": np.zeros(2, dtype=[("a", "u1")])}, protocol=2),
    "wrong size": forged_array(b"U\x02u1", b"K\x09t"),
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02K\x01Q.",
    "huge memo": b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"X" + struct.pack("<I", 9) + b"a.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"a.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"a.",
    "a list": pickle.dumps([1, 2]),
    "empty": b"",
    "cut": pickle.dumps({"data": list(range(1000))})[:-10],
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data_batch_1"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(DataError) as error:
        read_plain_pickle(file)
    assert "data_batch_1" in str(error.value)
    assert os.listdir(tmp_path) == ["data_batch_1"]


def test_a_pickle_cannot_change_how_the_next_one_is_read(tmp_path):
    # BUILD with a slot state sets an attribute of the stand-in for numpy.ndarray
    file = tmp_path / "data_batch_1"
    file.write_bytes(b"\x80\x02}cnumpy\nndarray\nN}X\x06\x00\x00\x00harmedK\x01s\x86b0.")
    assert read_plain_pickle(file) == {}
    assert not hasattr(_allowed()["numpy", "ndarray"], "harmed")
    assert not hasattr(np.ndarray, "harmed")


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_come_back(tmp_path, dtype, order):
    array = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    (tmp_path / "x").write_bytes(pickle.dumps({"data": array, b"n": [1, b"two", "three"]}, protocol=2))
    found = read_plain_pickle(tmp_path / "x")
    assert (found["data"] == array).all()
    assert found["n"] == [1, b"two", "three"]


def edited(file, **changes):
    entry = pickle.loads(file.read_bytes(), encoding="bytes")
    entry.update({name.encode(): value for name, value in changes.items()})
    file.write_bytes(pickled(entry))


PY = "cifar-10-batches-py/"


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: edited(f / PY / "data_batch_2", labels=[10] * 12), ["data_batch_2", "label 10 of record 0", "0..9"]),
        (lambda f: edited(f / PY / "data_batch_2", labels=[0] * 11), ["'labels' is 11", "12 integers"]),
        (lambda f: edited(f / PY / "data_batch_2", labels=[2**70] * 12), ["label 1180591620717411303424"]),
        (
            lambda f: edited(f / PY / "test_batch", data=np.zeros((12, 3071), np.uint8)),
            ["uint8 (12, 3071)", "(N, 3072)"],
        ),
        (lambda f: edited(f / PY / "test_batch", data=None), ["'data' is NoneType"]),
        (lambda f: edited(f / PY / "batches.meta", label_names=[b"one"]), ["names 1 classes", "10"]),
        (lambda f: os.remove(f / PY / "data_batch_4"), ["no data_batch_4", "cifar-10-batches-py"]),
        (lambda f: os.remove(f / PY / "batches.meta"), ["no batches.meta"]),
        (lambda f: os.remove(f / PY / "data_batch_1"), ["neither", "download: true"]),
    ],
)
def test_broken_python_files_are_named(tmp_path, break_it, words):
    write_cifar10_python(tmp_path)
    break_it(tmp_path)
    with pytest.raises(DataError) as error:
        opened(Cifar10, tmp_path)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes([10]) + bytes(3072), ["data_batch_3.bin", "label 10", "0..9"]),
        (bytes(3072), ["3,072 bytes", "3,073"]),
        (b"", ["0 bytes"]),
    ],
)
def test_broken_binary_files_are_named(tmp_path, data, words):
    write_cifar10_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").write_bytes(data)
    with pytest.raises(DataError) as error:
        opened(Cifar10, tmp_path)
    for word in words:
        assert word in str(error.value)


def test_downloads_only_when_asked(monkeypatch, tmp_path):
    import torchvision

    asked = []

    def fake(url, root, filename, md5):
        asked.append((filename, md5))
        write_cifar10_python(tmp_path)

    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fake)
    with pytest.raises(DataError, match="download: true"):
        Cifar10(CifarOptions()).open(FileServices(tmp_path))
    assert asked == []
    assert len(Cifar10(CifarOptions(download=True)).open(FileServices(tmp_path)).split("train").ids) == 60
    assert asked == [("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")]
    Cifar10(CifarOptions(download=True)).open(FileServices(tmp_path))
    assert len(asked) == 1
