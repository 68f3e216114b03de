"""Teacher `onnx`: an ONNX file run by onnxruntime; its outputs only, no taps and no gradient."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kdsearch.builtin.teachers.onnx_cost import cost_of_file
from kdsearch.errors import ArtifactError, DataError
from kdsearch.kinds import IO, Access, Model, Options, Services, Teacher
from kdsearch.kit.files import content, regular
from kdsearch.kit.files import opened as open_file
from kdsearch.kit.networks import described, modelled, shown
from kdsearch.kit.onnx import external_files
from kdsearch.limits import ONNX_BYTES

FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
INTEGERS = {"tensor(int64)": torch.int64, "tensor(int32)": torch.int32}
DROPPED = "Exporters drop inputs that the network does not use: as `use: python` it may ignore them."


class OnnxOptions(Options):
    path: str = Field(
        description="an .onnx file that answers logits, relative to the study; weights in further files lie beside it"
    )
    output: str | None = Field(None, description="name of the output with the logits; left out: the first")


class Onnx(Teacher[OnnxOptions]):
    access = Access.LOGITS

    def preflight(self, services: Services) -> None:
        opened(services.file(self.options.path))

    def model(self, io: IO, services: Services) -> Model:
        """Raise ArtifactError for a file that onnxruntime cannot open, DataError when inputs or classes do not fit."""
        o = self.options
        module = OnnxModule(services.file(o.path), o.output)
        module.check(io)
        made = modelled(module, io, Path(o.path).name, taps=False)
        return replace(made, cost_of=lambda: cost_of_file(module.file))

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name}


class OnnxModule(nn.Module):
    """Tensors in, tensor out. `digest`, the SHA-256 of the file and of those that hold its weights, stands for the weights where
    modules are compared by state.

    The session is opened again after copying or on another process; a file with a fixed batch size is fed in such batches,
    the last one filled up.
    """

    digest: Tensor

    def __init__(self, file: Path, output: str | None = None) -> None:
        super().__init__()
        self.file, self.output = file, output
        found = hashlib.sha256(content(file, "an ONNX file", most=ONNX_BYTES, error=ArtifactError))
        for each in external_files(file):
            with open_file(each, "weights of an ONNX file", error=ArtifactError) as stream:
                hashlib.file_digest(stream, lambda: found)  # goes on with it
        self.register_buffer("digest", torch.tensor(list(found.digest()), dtype=torch.uint8))
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    @property
    def session(self) -> Any:
        if self._session is None:
            self._session = opened(self.file)
        return self._session

    def check(self, io: IO) -> None:
        """Raise DataError unless the file reads the study's inputs, in order, and has the output asked for, a tensor."""
        check_initializers(self.file)
        entries = self.session.get_inputs()
        outputs = {each.name: each.type for each in self.session.get_outputs()}
        expected = described(io.inputs)
        if len(entries) != len(io.inputs):
            got = ", ".join(f"{each.name} {shown(each.shape)}" for each in entries)
            raise DataError(
                f"reads {got}",
                file=self.file,
                expected=f"{len(io.inputs)} inputs: {expected}",
                fix=DROPPED if len(entries) < len(io.inputs) else "",
            )
        for entry, field in zip(entries, io.inputs, strict=True):
            sizes = tuple(entry.shape[1:])
            is_same = len(sizes) == len(field.shape) and all(
                not isinstance(size, int) or wanted in (None, size)
                for size, wanted in zip(sizes, field.shape, strict=True)
            )
            if not is_same:
                raise DataError(
                    f"input '{entry.name}' is {shown(sizes)} a sample",
                    file=self.file,
                    expected=f"{shown(field.shape)}, the data set's '{field.name}'",
                )
            kinds = FLOATS if field.torch_dtype.is_floating_point else INTEGERS | FLOATS
            if entry.type not in kinds:
                expected = f"{next(iter(kinds))}, the data set's '{field.name}'"
                raise DataError(f"input '{entry.name}' is {entry.type}", file=self.file, expected=expected)
        answer = next(iter(outputs)) if self.output is None else self.output
        if answer not in outputs:
            raise DataError(f"no output '{answer}'", file=self.file, expected=", ".join(outputs))
        if not outputs[answer].startswith("tensor("):  # such as the maps of class to probability that skl2onnx writes
            raise DataError(f"output '{answer}' is {outputs[answer]}", file=self.file, expected="a tensor of logits")

    def forward(self, *inputs: Tensor) -> Tensor:
        entries = self.session.get_inputs()
        kinds = [(FLOATS | INTEGERS)[entry.type] for entry in entries]
        cast = [tensor.detach().cpu().to(kind) for tensor, kind in zip(inputs, kinds, strict=True)]
        arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in cast]
        n, fixed = len(inputs[0]), entries[0].shape[0] if entries[0].shape else None
        step = fixed if isinstance(fixed, int) else max(n, 1)
        wanted = [self.output or self.session.get_outputs()[0].name]
        rows = []
        for start in range(0, n, step):
            parts = [_filled(each[start : start + step], step) for each in arrays]
            feeds = {entry.name: part for entry, part in zip(entries, parts, strict=True)}
            rows.append(self.session.run(wanted, feeds)[0][: n - start])
        return torch.from_numpy(np.concatenate(rows)).float().to(inputs[0].device)


def _filled(part: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    return part if len(part) == n else np.concatenate([part, np.repeat(part[-1:], n - len(part), axis=0)])


def check_initializers(file: Path) -> None:
    """Raise ArtifactError naming a tensor in the file that is not finite, or a negative variance."""
    import onnx

    try:
        graph = onnx.load(str(file), load_external_data=False).graph
        variances = {
            node.input[4] for node in graph.node if node.op_type == "BatchNormalization" and len(node.input) > 4
        }
    except Exception:  # what is no model onnxruntime says better
        return
    for each in graph.initializer:
        try:
            name, array = each.name, onnx.numpy_helper.to_array(each, str(file.parent))
        except Exception:  # as above
            return
        if not np.issubdtype(array.dtype, np.floating):
            continue
        if not np.isfinite(array).all():
            raise ArtifactError(
                f"tensor '{name}' is not finite (NaN or infinity)", file=file, expected="finite weights"
            )
        if name in variances and (array < 0).any():
            raise ArtifactError(f"tensor '{name}' is negative, and a variance", file=file, expected="0 or more")


def opened(file: Path) -> Any:
    """An onnxruntime session on the CPU with torch's number of threads.

    Raise ArtifactError for a file that is none, or whose weights lie elsewhere than in its folder.
    """
    import onnxruntime as ort

    regular(file, "an ONNX file", most=ONNX_BYTES, error=ArtifactError)
    for each in external_files(file):
        regular(each, "weights of an ONNX file", error=ArtifactError)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], enable_fallback=False)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtifactError(
            f"{file.stat().st_size:,} bytes, not a model that onnxruntime opens: {first[:160]}",
            file=file,
            expected="a complete ONNX file",
        ) from error
