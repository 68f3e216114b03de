"""Exporter: a graph to a file, and the file back to something callable."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic

from kdsearch.kinds.data import Batch
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.task import Call, Graph


class Exporter(Capability, Generic[O]):
    """Not its work: parity, size, latency; `deploy` measures what `load` returns.

    A file of suffix `.onnx` is an ONNX file: onnxruntime times it, the widths of its weights are counted, quantizers rewrite it.
    Any other is compared, judged and timed by what `load` gives, and comes in fp32 alone.
    """

    suffix: ClassVar[str] = ".onnx"

    def __init__(self, options: O) -> None:
        self.options = options

    @property
    def is_onnx(self) -> bool:
        return self.suffix == ".onnx"

    @abstractmethod
    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """One self-contained file, byte-equal for equal weights, without paths of this machine."""

    def label(self, file: Path, about: Mapping[str, str]) -> None:
        """Write into the file what whoever finds it alone has to know: labels, preprocessing, origin. Default: nothing."""

    @abstractmethod
    def load(self, file: Path, threads: int = 1) -> Call:
        """A call with the graph's inputs in order -> outputs by name."""

    def usage(self, file: str) -> Sequence[str]:
        """Lines of Python without kdsearch that run the file of this name, for its card. Of ONNX files the host has its own."""
        return ()
