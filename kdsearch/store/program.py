"""torch.export programs on disk. Loading one may run code, so whoever calls this has been allowed to."""

from __future__ import annotations

import copy
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsearch.errors import ArtifactError
from kdsearch.limits import WEIGHTS_BYTES
from kdsearch.store.inputs import regular


def read_program(file: Path) -> nn.Module:
    """A .pt2 file as a module. Raise ArtifactError for one that does not load.

    torch.export.load falls back to unpickling, which runs whatever the file says: ask first, by `--allow-code`.
    """
    regular(file, "a .pt2 file", most=WEIGHTS_BYTES, error=ArtifactError)
    try:
        if not zipfile.is_zipfile(file):  # torch would log a traceback of its own first
            raise ValueError("it is no zip archive")
        return ExportedModule(torch.export.load(file).module())
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtifactError(
            f"{file.stat().st_size:,} bytes, not a torch.export program: {first[:160]}", file=file
        ) from error


class ExportedModule(nn.Module):
    """An exported program has one mode, the one it was exported in, and refuses to be told another."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> ExportedModule:
        self.training = mode
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedModule:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own: its tree specs warn when they are copied
            return ExportedModule(copy.deepcopy(self.program, memo))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.program(*inputs)
