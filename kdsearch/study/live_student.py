"""A network that a Python program holds, as a search space of one architecture."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field
from torch import nn

from kdsearch.kinds import IO, Model, Options, SearchSpace
from kdsearch.kinds.options import searchable
from kdsearch.kit.networks import modelled
from kdsearch.ops.copies import module_copy
from kdsearch.store.hashing import digest, module_digest


class LiveNetworkSpec(Options):
    network: str = Field(description="its class, or a Model's name")
    content: str = Field("", description="digest of its structure, weights, buffers and the source of its classes")


class LiveNetwork(SearchSpace[LiveNetworkSpec]):
    """Every student starts from the weights that the network has; the program's own object is never changed."""

    def __init__(self, network: nn.Module | Model) -> None:
        module = network.module if isinstance(network, Model) else network
        self._network = network
        self._name = network.name if isinstance(network, Model) else type(network).__name__
        content = digest([module_digest(module), *(repr(tap) for tap in getattr(network, "taps", ()))])
        super().__init__(searchable(LiveNetworkSpec, {"network": self._name, "content": content[:12]}, ""))

    def ignores(self, spec: LiveNetworkSpec) -> Collection[str]:
        """Its content is the program's; nobody reads a digest."""
        return ("content",)

    def build(self, spec: LiveNetworkSpec, io: IO) -> Model:
        """Raise DataError where it does not read the study's samples, or does not answer as the task asks."""
        if isinstance(self._network, Model):
            own = self._network.copy()
            modelled(own.module, io, self._name, taps=False, role="student ")
            return own
        return modelled(module_copy(self._network).cpu(), io, self._name, role="student ")
