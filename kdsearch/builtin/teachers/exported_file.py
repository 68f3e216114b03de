"""Teacher `exported`: a torch.export program (.pt2). Loading one may run code, so the command line must allow it."""

from __future__ import annotations

import copy
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from kdsearch.errors import ArtifactError, PluginError
from kdsearch.kinds import IO, Access, Model, Options, Services, Teacher
from kdsearch.kit.files import regular
from kdsearch.kit.networks import modelled
from kdsearch.limits import WEIGHTS_BYTES


class ExportedOptions(Options):
    path: str = Field(description="a .pt2 file with a dynamic batch size, relative to the study")


class Exported(Teacher[ExportedOptions]):
    """torch.export.load falls back to unpickling, which runs whatever the file says: `services.code` guards it like any code."""

    access = Access.LOGITS

    def model(self, io: IO, services: Services) -> Model:
        """Raise UnsafeCodeError unless --allow-code names the file, ArtifactError for one that does not load."""
        file = services.code(self.options.path)  # the guard answers with the file, as there is no object to name
        if not isinstance(file, Path):
            raise PluginError(f"'{self.options.path}' is no file", expected="a .pt2 file")
        regular(file, "a .pt2 file", most=WEIGHTS_BYTES, error=ArtifactError)
        try:
            if not zipfile.is_zipfile(file):  # torch would log a traceback of its own first
                raise ValueError("it is no zip archive")
            program = torch.export.load(file).module()
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ArtifactError(
                f"{file.stat().st_size:,} bytes, not a torch.export program: {first[:160]}", file=file
            ) from error
        return modelled(ExportedModule(program), io, file.name, taps=False)

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name}


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
