"""Exporter: a graph to a file, and the file back to something callable."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

from torch import Tensor

from kdsearch.kinds.data import Batch
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.task import Call, Graph


@dataclass(frozen=True)
class Ends:
    """What a file does before and after its network.

    Args:
        graph: the whole in torch, from what the file reads to what it answers: what the file is compared with.
        raw: what the network reads (a tensor each) -> what the file reads in its place, as near as that can say it.
        own: what the file answers, by name -> the network's own outputs, as far as it tells them; None = it does not.
        about: for whoever feeds the file, JSON.
    """

    graph: Graph
    raw: Callable[..., tuple[Tensor, ...]]
    own: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None
    about: Mapping[str, Any]

    def within(self, call: Call) -> Call:
        """A call of the whole, as one of the network alone. Raise ValueError where its answers do not tell the network's."""
        own = self.own
        if own is None:
            raise ValueError("the file does not tell what its network answers")

        def answer(*inputs: Tensor) -> Mapping[str, Tensor]:
            return own(call(*self.raw(*inputs)))

        return answer


class Exporter(Capability, Generic[O]):
    """Not its work: parity, size, latency; `deploy` measures what `load` returns.

    A file of suffix `.onnx` is an ONNX file: onnxruntime times it, and the widths of its weights are counted. Any other is
    compared, judged, verified and timed by what `load` gives. Quantizers rewrite files of the suffix that they name.

    `companions`: suffixes of what is written beside the file, each under the file's own stem; only together they are whole. The
    host copies, counts, digests and renames them together. `runtime`: what opens the files, as pages and cards call it.
    """

    suffix: ClassVar[str] = ".onnx"
    companions: ClassVar[tuple[str, ...]] = ()
    runtime: ClassVar[str] = "onnxruntime"

    def __init__(self, options: O) -> None:
        self.options = options

    @property
    def is_onnx(self) -> bool:
        return self.suffix == ".onnx"

    def parts(self, file: Path) -> tuple[Path, ...]:
        """The file, and its companions in their order."""
        return (file, *(file.with_suffix(each) for each in self.companions))

    @abstractmethod
    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """One file, whole with its companions alone, byte-equal for equal weights, without paths of this machine."""

    def ends(self, graph: Graph, preprocessing: Mapping[str, Any]) -> Ends | None:
        """What the options put into the file before and after the network; None: nothing.

        Args:
            preprocessing: how the data set's images become what networks read; see `facts` of the data set.

        Raises:
            StudyError: what is asked does not fit the graph or the data.
        """
        return None

    def finish(self, file: Path, ends: Ends) -> None:
        """Put these ends into a file of the network alone, in place. Asked after quantizers, where `ends` gave any."""

    def label(self, file: Path, about: Mapping[str, str]) -> None:
        """Write into the file what whoever finds it alone has to know: labels, preprocessing, origin. Default: nothing."""

    def labels(self, file: Path) -> Mapping[str, str] | None:
        """What `label` wrote, read from the file again. None: its files keep none of it."""
        return None

    @abstractmethod
    def load(self, file: Path, threads: int = 1) -> Call:
        """A call with the graph's inputs in order -> outputs by name. Raise ArtifactError for what is no such file."""

    def usage(self, file: str) -> Sequence[str]:
        """Lines of Python without kdsearch that run the file of this name, for its card. Of ONNX files the host has its own."""
        return ()
