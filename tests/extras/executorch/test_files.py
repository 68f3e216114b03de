"""ExecuTorch programs: the contract of exporters, answers against torch, a digits study to its end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("executorch")

from kdsearch_plugins.executorch_exporter.exporter import ExecuTorchExporter, ExecuTorchOptions

from kdsearch.cli import main
from kdsearch.deploy.probe import drawn
from kdsearch.errors import ArtifactError, RefusedError
from kdsearch.kinds import Field, Graph
from kdsearch.store.files import read_json
from kdsearch.testing.exporter import ExporterContract

STUDY = """\
name: tiny
data: {use: digits, options: {resize: 8}}
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 8, 8]}}
recipe: {train: {lr: 0.01}}
objectives: {accuracy: max}
distill: {epochs: 3}
export: {exporter: {use: executorch}, formats: [executorch-fp32]}
"""


class TestExecuTorch(ExporterContract):
    exporter = ExecuTorchExporter


def written(net, file, shape=(16,), **options):
    graph = Graph(net.eval(), (Field("vector", "vector", shape),), (Field("logits", "logits", (3,)),))
    exporter = ExecuTorchExporter(ExecuTorchOptions(**options))
    exporter.write(graph, TestExecuTorch().batch(graph, 2), file)
    return exporter


def test_more_samples_than_a_program_takes_are_asked_in_turns(tmp_path):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(11, 16)
    call = written(net, tmp_path / "net.pte", batch=4).load(tmp_path / "net.pte")
    first, kept = call(x)["logits"], call(x[:1])["logits"].clone()
    with torch.no_grad():
        expected = net.double()(x.double()).float()
    assert torch.allclose(first, expected, atol=1e-6)  # what a later call answers does not change it
    assert torch.allclose(kept, expected[:1], atol=1e-6)


class Sum(nn.Module):
    def forward(self, *inputs):
        return sum(each.float().sum(1, keepdim=True) for each in inputs)


def test_the_card_s_code_feeds_every_type(tmp_path):
    dtypes = ["uint8", "int8", "int32", "int64", "float32", "float64", "bool"]
    fields = tuple(Field(f"of_{each}", "vector", (4,), each, n_values=2) for each in dtypes)
    graph = Graph(Sum().eval(), fields, (Field("y", "vector", (1,)),))
    exporter = ExecuTorchExporter(ExecuTorchOptions())
    exporter.write(graph, TestExecuTorch().batch(graph, 2), tmp_path / "net.pte")
    found: dict = {}
    exec("\n".join(exporter.usage(str(tmp_path / "net.pte"))), found)
    assert [each.dtype for each in found["feeds"]] == [getattr(torch, each) for each in dtypes]
    assert found["outputs"]["y"].tolist() == [[0.0]]


def test_what_it_cannot_take_is_refused(tmp_path):
    class Branching(nn.Module):
        def forward(self, vector):
            return vector[:, :3] if vector.sum() > 0 else vector[:, 3:6]

    with pytest.raises(RefusedError, match="ExecuTorch cannot take the network"):
        written(Branching(), tmp_path / "net.pte")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(STUDY)
    assert main(["run", str(folder / "tiny.yaml"), "--dir", str(folder / "out"), "--json"]) == 0
    return folder / "out"


def test_a_study_ends_with_a_program_that_is_the_network(made, tmp_path, capsys):
    (row,) = read_json(made / "result.json")["exports"]
    assert (row["format"], row["path"]) == ("executorch-fp32", "export/tiny-fp32.pte")
    assert row["parity"]["relative"] < 1e-4
    assert row["latency_ms"]["median"] > 0
    capsys.readouterr()
    assert main(["verify", str(made / row["path"]), "--data", str(made), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    assert {"ExecuTorch opens it", "answers as torch's", "quality"} <= {each["check"] for each in found["checks"]}
    folder = Path(shutil.copytree(made / "export", tmp_path / "export"))
    file = folder / "tiny-fp32.pte"
    data = bytearray(file.read_bytes())
    weights = data.rfind(np.float32(0).tobytes() * 2) // 2
    data[weights] ^= 64
    file.write_bytes(data)
    assert main(["verify", str(file)]) == 3
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match="is no whole program"):
        ExecuTorchExporter(ExecuTorchOptions()).load(file)


def test_a_limit_that_names_threads(tmp_path):
    """A process of its own, since ExecuTorch has one number of threads for each."""
    limited = STUDY.replace("objectives:", "constraints: {latency_ms: {max: 1000, threads: 2}}\nobjectives:")
    (tmp_path / "tiny.yaml").write_text(limited)
    command = [sys.executable, "-m", "kdsearch", "run", str(tmp_path / "tiny.yaml"), "--dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "export" / "tiny-fp32.pte").exists()


def test_the_cards_code_runs_alone_and_answers_as_torch_does(made, tmp_path):
    folder = Path(shutil.copytree(made / "export", tmp_path / "export"))
    card = read_json(folder / "tiny-fp32.json")
    kept = card["check"]
    np.savez(folder / "asked.npz", **drawn(kept["inputs"], kept["seed"]))
    (folder / "as_is.py").write_text("\n".join(card["use"]["run"]) + "\n")
    more = (
        "import runpy, sys, numpy as np, torch; scope = runpy.run_path('as_is.py'); "
        "assert list(scope['outputs']) == ['logits'] and scope['outputs']['logits'].shape == (1, 10); "
        "x = torch.from_numpy(np.load('asked.npz')['image']); "
        "np.save('answer.npy', scope['method'].execute([x])[0].numpy()); assert 'kdsearch' not in sys.modules"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", more], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (answers,) = kept["outputs"]
    found = np.load(folder / "answer.npy").flat[answers["at"]]
    assert np.abs(found - np.asarray(answers["torch"])).max() <= 1e-4 * answers["scale"]
