"""Teacher `python`: what a function of the user's own returns, where the command line allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import nn

from kdsearch.errors import INTERRUPTS, KdsearchError, PluginError, told
from kdsearch.kinds import IO, Model, Options, Services, Teacher
from kdsearch.kit.networks import modelled


class PythonOptions(Options):
    target: str = Field(description="`file.py:function` beside the study, or `package.module:function`")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function")


class Python(Teacher[PythonOptions]):
    """The function returns a trained nn.Module (called with the study's inputs in order, answering logits (B, K)), or a Model
    with taps of its own. Of a plain module the taps are found: `stage[i]`, `penultimate`, `logits`, `module:<glob>`."""

    def model(self, io: IO, services: Services) -> Model:
        """Raise UnsafeCodeError unless --allow-code names the target, PluginError or DataError for what it returns."""
        target = self.options.target
        function = services.code(target)
        if not callable(function):
            raise PluginError(
                f"'{target}' is a {type(function).__name__}", expected="a function that returns an nn.Module"
            )
        try:
            made = function(**self.options.arguments)
        except (*INTERRUPTS, KdsearchError):
            raise
        except BaseException as error:
            raise PluginError(f"'{target}' raised {told(error)}") from error
        if isinstance(made, Model):
            modelled(made.module, io, target, taps=False)
            return made
        if not isinstance(made, nn.Module):
            raise PluginError(
                f"'{target}' returned an object of {type(made)}", expected="an nn.Module or a kdsearch Model"
            )
        return modelled(made, io, target)

    def facts(self) -> Mapping[str, Any]:
        return {"source": self.options.target}
