"""Files of trained networks, which quantizers read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from tests.deploy.nets import NETS, batch_of, digits, graph_of, trained


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each network's file, not to be written to. One for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fp32"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            for name in NETS:
                example = batch_of(image=digits()[0][:2])
                OnnxExporter(OnnxOptions()).write(graph_of(trained(name)), example, folder / f"{name}.onnx")
    return folder
