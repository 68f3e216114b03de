"""Teacher `exported`: a torch.export program (.pt2). Loading one may run code, so the command line must allow it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from kdsearch.errors import PluginError
from kdsearch.kinds import IO, Access, Model, Options, Services, Teacher
from kdsearch.kit.networks import modelled, read_program


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
        return modelled(read_program(file), io, file.name, taps=False)

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name}
