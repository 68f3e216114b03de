"""A network that a Python program holds, as a search space of one architecture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import nn

from kdsearch.errors import DataError, told
from kdsearch.kinds import IO, Model, Options, SearchSpace
from kdsearch.kinds.options import searchable
from kdsearch.kit.networks import modelled
from kdsearch.ops.copies import module_copy
from kdsearch.store.hashing import digest, module_digest


class LiveNetworkSpec(Options):
    network: str = Field(description="its class, or a Model's name")
    content: str = Field("", description="digest of its structure, weights, buffers and the source of its classes")


class LiveNetwork(SearchSpace[LiveNetworkSpec]):
    """Every student starts from the weights that the network has now; the program's own object is never changed."""

    def __init__(self, network: nn.Module | Model) -> None:
        self._network = independent(network)
        module = self._network.module if isinstance(self._network, Model) else self._network
        self.name = name_of(network)
        content = digest([module_digest(module), *(repr(tap) for tap in getattr(network, "taps", ()))])
        super().__init__(searchable(LiveNetworkSpec, {"network": self.name, "content": content[:12]}, ""))

    def ignores(self, spec: LiveNetworkSpec) -> Collection[str]:
        """Its content is the program's; nobody reads a digest."""
        return ("content",)

    def build(self, spec: LiveNetworkSpec, io: IO) -> Model:
        """Raise DataError where it does not read the study's samples, or does not answer as the task asks."""
        if isinstance(self._network, Model):
            own = self._network.copy()
            modelled(own.module, io, self.name, taps=False, role="student ")
            return own
        return modelled(module_copy(self._network), io, self.name, role="student ")


def name_of(given: nn.Module | Model | SearchSpace[Any] | type[SearchSpace[Any]]) -> str:
    """A Model's name, or the class's."""
    if isinstance(given, LiveNetwork):
        return given.name
    return given.name if isinstance(given, Model) else (given if isinstance(given, type) else type(given)).__name__


def independent(network: nn.Module | Model) -> nn.Module | Model:
    """A copy on the CPU. Raise DataError for one that holds what cannot be copied."""
    module = network.module if isinstance(network, Model) else network
    try:
        made = module_copy(module).cpu()
    except Exception as error:  # a class of the user's
        fix = "Keep files, locks, generators and the like out of its attributes."
        raise DataError(f"{type(module).__name__} cannot be copied: {told(error)}", fix=fix) from error
    return replace(network, module=made) if isinstance(network, Model) else made
