"""OpenVINO IR: the contracts of exporters and quantizers, answers against torch, 8-bit weights against their own rounding."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from kdsearch_plugins.openvino_exporter.exporter import OpenVinoExporter, OpenVinoOptions
from kdsearch_plugins.openvino_exporter.quantizer import NncfInt8, NncfOptions
from kdsearch_plugins.openvino_exporter.runtime import read_ir

from kdsearch.errors import ArtifactError, RefusedError
from kdsearch.kinds import Field, Graph, Plan, named
from kdsearch.testing.compressor import CompressorContract
from kdsearch.testing.exporter import ExporterContract

TOKENS = (Field("token", "tokens", (None,), dtype="int64", n_values=10), Field("mask", "mask", (None,)))
LOGITS = (Field("logits", "logits", (3,)),)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 6), nn.Linear(16, 3)
        self.cell = nn.LSTM(6, 8, batch_first=True, bidirectional=True)

    def forward(self, token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x, _ = self.cell(self.embed(token))
        return self.out((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 8), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(self.block(self.embed(token), src_key_padding_mask=mask == 0).mean(1))


class Echo(nn.Module):
    """Answers an input as it is, under that input's name, and reads a second one not at all."""

    def forward(self, vector: torch.Tensor, unread: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"vector": vector, "logits": vector[:, :3] * 2.0}


class TestOpenVino(ExporterContract):
    exporter = OpenVinoExporter

    def graphs(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            others = {"recurrent": Recurrent(), "attending": Attending()}
        vector, unread = Field("vector", "vector", (6,)), Field("unread", "vector", (4,))
        return {
            **super().graphs(),
            **{name: Graph(net, TOKENS, LOGITS) for name, net in others.items()},
            "echo": Graph(Echo(), (vector, unread), (*LOGITS, Field("vector", "vector", (6,)))),
        }


class TestNncf(CompressorContract):
    compressor = NncfInt8
    options: ClassVar = {"samples": 48}


def written(net, tmp_path, inputs=None, outputs=LOGITS, **options):
    inputs = inputs or (Field("vector", "vector", (16,)),)
    graph, file = Graph(net.eval(), inputs, outputs), tmp_path / "net.xml"
    exporter = OpenVinoExporter(OpenVinoOptions(**options))
    exporter.write(graph, TestOpenVino().batch(graph, 2), file)
    return graph, exporter, file


def test_lengths_are_open(tmp_path):
    torch.manual_seed(0)
    for net in (Recurrent(), Attending()):
        graph, exporter, file = written(net, tmp_path, TOKENS)
        call = exporter.load(file)
        for n, length in ((1, 3), (4, 9)):
            tokens, mask = torch.randint(0, 10, (n, length)), torch.ones(n, length)
            mask[0, -1] = 0
            with torch.no_grad():
                expected = named(graph.module(tokens, mask), ["logits"])["logits"]
            assert torch.allclose(call(tokens, mask)["logits"], expected, atol=1e-5)


def test_answers_are_fp32s_where_the_processor_could_round_to_bfloat16(tmp_path):
    """Of sums of 4096 products bfloat16 keeps two or three digits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4096, 64), nn.ReLU(), nn.Linear(64, 3))
    _, exporter, file = written(net, tmp_path, (Field("vector", "vector", (4096,)),))
    x = torch.randn(16, 4096)
    with torch.no_grad():
        exact = net.double()(x.double())
    far = (exporter.load(file)(x)["logits"].double() - exact).abs().max() / exact.std()
    assert float(far) < 1e-5


def test_what_cannot_be_converted_is_refused(tmp_path):
    class Branching(nn.Module):
        def forward(self, vector):
            return torch.linalg.eigvals(vector.reshape(-1, 4, 4)).real[:, :3]

    with pytest.raises(RefusedError, match="OpenVINO cannot convert the network"):
        written(Branching(), tmp_path, engine="export")
    assert list(tmp_path.iterdir()) == []


def test_labels_come_back_and_the_weights_digest_holds(tmp_path):
    _, exporter, file = written(nn.Linear(16, 3), tmp_path)
    exporter.label(file, {"labels": '["ä", "<b>"]', "study_hash": "00012"})
    assert dict(exporter.labels(file)) == {"labels": '["ä", "<b>"]', "study_hash": "00012"}
    digest = hashlib.sha256(file.with_suffix(".bin").read_bytes()).hexdigest()
    assert f'weights_sha256 value="{digest}"' in file.read_text("utf-8")
    other = tmp_path / "other.xml"
    torch.manual_seed(1)
    _, _, second = written(nn.Linear(16, 3), tmp_path)
    other.write_bytes(file.read_bytes())
    other.with_suffix(".bin").write_bytes(second.with_suffix(".bin").read_bytes()[::-1])
    with pytest.raises(ArtifactError, match=r"does not hold the weights that other\.xml was written with"):
        exporter.load(other)


def quantised(net, tmp_path, samples):
    _, exporter, file = written(net, tmp_path)
    made = NncfInt8(NncfOptions(samples=len(samples)))
    made.rewrite(file, Plan(NncfOptions(samples=len(samples)).model_dump()), [{"vector": samples.numpy()}])
    return exporter, file, made


def test_weights_are_in_8_bits_and_each_is_the_nearest_of_its_rows_levels(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    x = torch.randn(64, 16)
    exporter, file, made = quantised(net, tmp_path, x)
    stored = [node for node in read_ir(file).get_ops() if node.get_type_name() == "Constant" and len(node.shape) == 2]
    bytes_ = {tuple(node.shape): node for node in stored if node.get_element_type().get_type_name() in ("i8", "u8")}
    for layer in (net[0], net[2]):
        weight = layer.weight.detach().numpy()
        levels = bytes_[weight.shape].get_data().astype(np.float64)
        scale = np.abs(weight).max(1, keepdims=True) / 127
        assert np.abs(weight / scale - levels).max() <= 0.5 + 1e-3
        assert len(np.unique(levels)) > 8
    assert "places rounded" in made.notes[0]
    with torch.no_grad():
        expected = net(x)
    far = float((exporter.load(file)(x)["logits"] - expected).norm() / (expected - expected.mean(0)).norm())
    assert far < 0.1


def test_it_is_heard_how_far_it_is_and_stopped_by_who_listens(tmp_path):
    _, _, file = written(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), tmp_path)
    before = file.read_bytes()
    made, seen = NncfInt8(NncfOptions()), []

    def watch(share, what):
        seen.append((share, what))
        if len(seen) == 3:
            raise KeyboardInterrupt

    made.watch = watch
    with pytest.raises(KeyboardInterrupt):
        made.rewrite(file, Plan(NncfOptions(samples=9).model_dump()), [{"vector": np.zeros((9, 16), np.float32)}])
    assert seen[1][1] == "nncf_int8: sample 2 of 9"
    assert file.read_bytes() == before


def test_without_samples_it_is_refused(tmp_path):
    _, _, file = written(nn.Linear(16, 3), tmp_path)
    with pytest.raises(RefusedError, match="takes ranges from samples"):
        NncfInt8(NncfOptions()).rewrite(file, Plan(NncfOptions().model_dump()), [])


SIGNALLED = """
import signal, sys
from pathlib import Path
import numpy as np
from kdsearch_plugins.openvino_exporter.quantizer import NncfInt8, NncfOptions
from kdsearch_plugins.openvino_exporter.runtime import compiled, read_ir
from kdsearch.kinds import Plan

file = Path(sys.argv[1])
signal.signal(signal.SIGINT, lambda *_: print("handled"))
one, two = compiled(read_ir(file), 1), compiled(read_ir(file), 1)
del one  # before the one that came after it
del two
signal.raise_signal(signal.SIGINT)
made = NncfInt8(NncfOptions(samples=4))
three = compiled(read_ir(file), 1)
made.rewrite(file, Plan(made.options.model_dump()), [{"vector": np.zeros((4, 16), np.float32)}])
del three
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_heard_after_files_were_run(tmp_path):
    _, _, file = written(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), tmp_path)
    ended = subprocess.run([sys.executable, "-c", SIGNALLED, file], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout.split()) == (0, ["handled", "handled"]), ended.stderr
