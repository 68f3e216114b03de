"""Data set: what opens named splits of stable samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic

from kdsearch.kinds.data import DataSource
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services


class Dataset(Capability, Generic[O]):
    """Opens named splits of stable samples. Not its work: shuffling, batches, workers, hiding labels, making splits."""

    task: str = "classification"  # what a study without `task:` gets, under these options
    augments: bool = False  # True when load(augment=True) changes samples under these options

    def __init__(self, options: O) -> None:
        self.options = options

    def preflight(self, services: Services) -> None:
        """Raise at once, before anything is decoded, for files that are not there."""

    @abstractmethod
    def open(self, services: Services) -> DataSource:
        """Raise DataError naming file, value and what was expected. Deterministic given the options."""
