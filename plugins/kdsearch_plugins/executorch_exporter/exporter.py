"""A .pte program: the network lowered to XNNPACK, and the names of what it reads and answers as a method of its own."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.errors import ArtifactError, RefusedError
from kdsearch.kinds import Batch, Call, Exporter, Field, Graph, Options
from kdsearch.kit.files import write_bytes
from kdsearch.kit.folding import folded
from kdsearch.kit.networks import Tupled
from kdsearch.ops.attention import plain_attention
from kdsearch.ops.undisturbed import undisturbed

if find_spec("executorch") is None:  # said where a study is read, by the host, with what to install
    raise ImportError("No module named 'executorch'", name="executorch")

NAMES = "kdsearch_names"  # a method that answers with JSON: a .pte has no names of its own


class ExecuTorchOptions(Options):
    batch: int = Option(
        8, ge=2, description="most samples of a call, which memory is planned for; whoever has more asks several times"
    )
    length: int = Option(512, ge=2, description="largest size of an axis that a field leaves open")


class ExecuTorchExporter(Exporter[ExecuTorchOptions]):
    """fp32, from torch.export; what XNNPACK does not compute ExecuTorch's own kernels do."""

    suffix = ".pte"
    runtime = "ExecuTorch"

    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """Raise RefusedError where torch cannot export the network, or ExecuTorch not lower it."""
        inputs = tuple(_two(example[each.name], each) for each in graph.inputs)
        names = {"inputs": [each.name for each in graph.inputs], "outputs": list(graph.names_out)}
        with undisturbed(graph.module, train=False), plain_attention(), _quiet(), torch.no_grad():
            try:
                data = self._program(graph, inputs, json.dumps({**names, "batch": self.options.batch}))
            except Exception as error:  # torch and ExecuTorch raise whatever their parts do
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                raise RefusedError(
                    f"ExecuTorch cannot take the network: {(lines or [type(error).__name__])[0][:200]}",
                    fix="Take sizes from the inputs' shapes, and write what it lacks with other operators.",
                ) from error
        write_bytes(file, data)

    def _program(self, graph: Graph, inputs: tuple[Tensor, ...], names: str) -> bytes:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        module = Tupled(folded(graph.module, inputs), [each.name for each in graph.outputs]).eval()
        batch = torch.export.Dim("batch", min=1, max=self.options.batch)
        sizes = tuple({0: batch, **self._open(each)} for each in graph.inputs)
        # NNPACK and oneDNN have rules on the size of a batch, which would become the program's own
        with torch.backends.nnpack.flags(enabled=False), torch.backends.mkldnn.flags(enabled=False):
            program = torch.export.export(module, inputs, dynamic_shapes=(sizes,))
        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods={NAMES: names}
        )
        return bytes(lowered.to_executorch().buffer)

    def _open(self, field: Field) -> dict[int, Any]:
        return {
            at: torch.export.Dim.DYNAMIC(min=1, max=self.options.length)
            for at, size in enumerate(field.shape, start=1)
            if size is None
        }

    def load(self, file: Path, threads: int = 1) -> Call:
        """Raise ArtifactError where there is no whole program, RefusedError for other threads than there are."""
        with _quiet():
            from executorch.runtime import Runtime, Verification

            _use(threads)
            try:
                data = file.read_bytes()
                program = Runtime.get().load_program(data, verification=Verification.InternalConsistency)
                told = json.loads(program.load_method(NAMES).execute([])[0])
                batch, outputs = int(told["batch"]), told["outputs"]
                program.load_method("forward")
            except OSError as error:
                raise _corrupt(file, f"cannot be read ({error.strerror})") from error
            except (RuntimeError, AttributeError, ValueError, KeyError, TypeError) as error:
                lines = str(error).splitlines() or [type(error).__name__]
                raise _corrupt(file, f"is no whole program: {lines[0][:200]}") from error
        renamed = {f"{name}_out": name for name in told["inputs"]}  # see Graph.names_out
        names = [renamed.get(name, name) for name in outputs]

        def call(*inputs: Tensor) -> Mapping[str, Tensor]:
            given = [each.detach().cpu().contiguous() for each in inputs]
            method = program.load_method(
                "forward"
            )  # the same at each call; alone it would not keep the program's bytes
            pieces = zip(*(torch.split(each, batch) for each in given), strict=True)
            found = [[each.clone() for each in method.execute(list(piece))] for piece in pieces]  # it reuses its memory
            return {name: torch.cat(each) for name, each in zip(names, zip(*found, strict=True), strict=True)}

        return call

    def usage(self, file: str) -> Sequence[str]:
        return (
            "import json",
            "import torch",
            "from executorch.runtime import Runtime",
            f"program = Runtime.get().load_program({file!r})",
            f"names = json.loads(program.load_method({NAMES!r}).execute([])[0])",
            "method = program.load_method('forward')",
            "asked = [method.metadata.input_tensor_meta(at) for at in range(len(names['inputs']))]",
            "dtypes = {0: torch.uint8, 1: torch.int8, 3: torch.int32, 4: torch.int64}",
            "dtypes |= {6: torch.float32, 7: torch.float64, 11: torch.bool}",
            "feeds = [torch.zeros(1, *each.sizes()[1:], dtype=dtypes[each.dtype()]) for each in asked]  # replace the zeros",
            "outputs = dict(zip(names['outputs'], method.execute(feeds)))",
        )


def _two(tensor: Tensor, field: Field) -> Tensor:
    """Two rows, and two places where a length is open: torch takes a size of 1 for a constant."""
    tensor = tensor[torch.arange(2) % len(tensor)]
    for axis, size in enumerate(field.shape, start=1):
        if size is None and tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], axis)
    return tensor.cpu()


def _use(threads: int) -> None:
    """One pool of threads serves all programs of a process, and may not change under those that were loaded."""
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    if not _POOL:
        _unsafe_reset_threadpool(threads)
        _POOL.append(threads)
    if [threads] != _POOL:
        raise RefusedError(f"ExecuTorch runs on {_POOL[0]} thread(s) in this process, not {threads}")


_POOL: list[int] = []


@contextmanager
def _quiet() -> Iterator[None]:
    """What ExecuTorch's imports and passes warn of, each time, is nothing that a user could act on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)


def _corrupt(file: Path, problem: str) -> ArtifactError:
    fix = "Where kdsearch wrote it: delete it, and `run` or `export` writes it again."
    return ArtifactError(problem, file=file, expected="a whole .pte file", fix=fix)
