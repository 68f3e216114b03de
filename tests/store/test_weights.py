import json
import pickle
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from kdsearch.errors import ArtifactError, UnsafeCodeError
from kdsearch.store import weights


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_what_is_written_is_read_again_by_us_and_by_safetensors(tmp_path):
    tensors = small().state_dict()
    path = tmp_path / "net.safetensors"
    weights.write(path, tensors, {"accuracy": 0.5, "classes": ["a", "b"]})
    for found in (weights.read(path), load_file(path)):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert weights.read_metadata(path) == {"accuracy": 0.5, "classes": ["a", "b"]}
    assert [each.name for each in tmp_path.iterdir()] == ["net.safetensors"]


def test_views_and_shared_tensors_are_written(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    weights.write(tmp_path / "a.safetensors", {"t": base.T, "row": base[1], "same": base})
    found = weights.read(tmp_path / "a.safetensors")
    assert torch.equal(found["t"], base.T)
    assert torch.equal(found["row"], base[1])
    assert torch.equal(found["same"], base)


def test_equal_contents_give_equal_bytes_in_every_process(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from kdsearch.store import weights;"
        "weights.write(Path(sys.argv[1]), {n: torch.ones(3) for n in sys.argv[2]}, {k: 1 for k in sys.argv[2]})"
    )
    for name, order in (("one", "abcdefgh"), ("two", "hgfedcba")):
        subprocess.run([sys.executable, "-c", code, tmp_path / name, order], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"epoch": 3, "state_dict": d}, lambda d: {"model": d}])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_files_of_tensors_are_read(tmp_path, wrap, suffix):
    net = small()
    path = tmp_path / f"net{suffix}"
    torch.save(wrap(net.state_dict()), path)
    found = weights.read(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())


def test_a_truncated_file_tells_its_sizes(tmp_path):
    path = tmp_path / "net.safetensors"
    weights.write(path, {"w": torch.zeros(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[:1500])
    with pytest.raises(ArtifactError, match=rf"net.safetensors: 1,500 of {len(whole):,} bytes"):
        weights.read(path)
    path.write_bytes(whole + b"tail")
    with pytest.raises(ArtifactError, match=rf"{len(whole) + 4:,} of {len(whole):,} bytes"):
        weights.read(path)


HEADERS = [
    b"",
    b"short",
    b"PK\x03\x04" + b"x" * 100,
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 4) + b"[[[[",
    struct.pack("<Q", 2) + b"[]",
    struct.pack("<Q", 13) + b'{"w":{"a":1}}',
]


def made(header, body=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HEADERS += [
    made({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, b"x" * 8),  # 4 floats in 8 bytes
    made({"w": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"x" * 4),
    made({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"x" * 4),
    made({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"x" * 8),  # a hole
    made({"w": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}, b"x" * 4),
]


@pytest.mark.parametrize("data", HEADERS, ids=range(len(HEADERS)))
def test_foreign_safetensors_are_artifact_errors(tmp_path, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"bad\.safetensors"):
        weights.read(path)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), flip=st.integers(0, 399), suffix=st.sampled_from([".safetensors", ".pt"]))
def test_damaged_files_are_read_or_refused_by_name(tmp_path_factory, cut, flip, suffix):
    path = tmp_path_factory.mktemp("damaged") / f"net{suffix}"
    tensors = {"weight": torch.arange(30.0), "bias": torch.ones(2)}
    weights.write(path, tensors) if suffix == ".safetensors" else torch.save(tensors, path)
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 0xFF
    path.write_bytes(bytes(data[: len(data) - cut]))
    found, told = {}, str(path)
    try:
        found = weights.read(path)
    except (ArtifactError, UnsafeCodeError) as error:
        told = str(error)
    assert str(path) in told
    assert all(isinstance(each, torch.Tensor) for each in found.values())


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("name", ["bomb.pt", "bomb.pth", "bomb.ckpt", "bomb.pkl", "bomb.pt2", "old.pt"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, name):
    path, target = tmp_path / name, tmp_path / "ran"
    bomb = {"w": torch.zeros(1), "x": Bomb(target)}
    if name == "old.pt":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(bomb, path)
    with pytest.raises((UnsafeCodeError, ArtifactError), match=name) as caught:
        weights.read(path)
    assert not target.exists()
    if name != "old.pt":
        assert isinstance(caught.value, UnsafeCodeError)
        assert "--allow-code" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, 2], "holds a list"), ({}, "an empty dict"), ({"w": 3}, "'w' is a int"), (torch.ones(2), "holds a Tensor")],
)
def test_torch_files_without_a_state_dict_are_named(tmp_path, value, expected):
    torch.save(value, tmp_path / "odd.pt")
    with pytest.raises(ArtifactError, match=expected):
        weights.read(tmp_path / "odd.pt")


def test_other_files_are_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"none\.safetensors: no such file"):
        weights.read(tmp_path / "none.safetensors")
    (tmp_path / "net.h5").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"'\.h5'"):
        weights.read(tmp_path / "net.h5")


def test_loading_copies_every_tensor_and_casts():
    torch.manual_seed(0)
    source, target = small(), small()
    tensors = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    tensors.pop("module.1.num_batches_tracked")
    tensors["module.3.weight"] = tensors["module.3.weight"].double()
    weights.load_into(target, tensors, "net.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert target[3].weight.dtype == torch.float32


def test_other_networks_are_named_with_shapes():
    target = small()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    tensors = dict(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)).state_dict())
    tensors["3.weigth"] = torch.zeros(2, 16)
    with pytest.raises(ArtifactError) as caught:
        weights.load_into(target, tensors, "net.pt")
    message = str(caught.value)
    for part in (
        "net.pt",
        "missing: 3.weight (2x16), 3.bias (2)",
        "unexpected: 3.weigth (2x16)",
        "0.weight (4x1x3x3, not 4x3x3x3)",
        "did you mean '3.weigth'",
    ):
        assert part in message
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("stored", ["own", "parallel"])
def test_a_network_whose_parts_all_lie_under_module_has_its_own_names(stored):
    """Of torch's DataParallel, or a wrapper of one's own; trained in parallel it has the prefix twice."""
    source, target = (nn.DataParallel(small()) for _ in range(2))
    tensors = {("module." if stored == "parallel" else "") + name: each for name, each in source.state_dict().items()}
    weights.load_into(target, tensors, "net.pt")
    assert all(torch.equal(each, target.state_dict()[name]) for name, each in source.state_dict().items())


def test_a_shape_alone_is_enough_to_refuse():
    tensors = {**small().state_dict(), "3.bias": torch.zeros(1)}  # torch would spread it over both outputs
    with pytest.raises(ArtifactError, match=r"other shape: 3\.bias \(1, not 2\)"):
        weights.load_into(small(), tensors, "net.pt")


def test_long_lists_are_cut():
    with pytest.raises(ArtifactError, match="and 3 more"):
        weights.load_into(small(), {}, "net.pt")


def test_foreign_metadata_is_plain_text(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    assert weights.read_metadata(tmp_path / "a.safetensors") == {"format": "pt"}
