"""What a search space's networks read and answer: numbers in their own units, and nothing of a field that a sample lacks.

A field's numbers are standardised, answers are in the units of their targets, and where `present_<field>` is 0 the field reads 0,
whatever stands there. All of it is part of the network, as hooks on its module: it goes into every file that is exported, so that
whoever uses it hands in what was measured and gets what is asked for. Paths of taps, names of weights and parameters stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.errors import PluginError
from kdsearch.kinds.data import Field
from kdsearch.kinds.model import Model
from kdsearch.kinds.space import SearchSpace
from kdsearch.kinds.task import IO


@dataclass(frozen=True)
class Scale:
    """(D,) float32 mean and standard deviation along a tensor's last axis."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, field: Field) -> Scale:
        return cls(torch.tensor(field.mean, dtype=torch.float32), torch.tensor(field.std, dtype=torch.float32))

    def standardized(self, x: Tensor) -> Tensor:
        """(x - mean) / std; the mean, which is 0 then, in place of NaN.

        As a subtraction and a division: INT8 leaves both in fp32, and with them numbers of any size.
        """
        z = (x - self.mean.to(x)) / self.std.to(x)
        return torch.where(z.isnan(), torch.zeros_like(z), z)

    def restored(self, z: Tensor) -> Tensor:
        """z std + mean, as a division and a subtraction; in float32 at least, of which bfloat16 would keep three digits."""
        z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
        return z / self.std.reciprocal().to(z) - (-self.mean).to(z)


class Standardized:
    """A forward pre-hook: the arguments at the places of `scales`, standardised; then 0 where their sample lacks them.

    `gates`: place of a field -> place of what says that it is present.
    """

    def __init__(self, scales: Mapping[int, Scale], gates: Mapping[int, int]) -> None:
        self.scales, self.gates = dict(scales), dict(gates)

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        read = [self.scales[i].standardized(each) if i in self.scales else each for i, each in enumerate(args)]
        for i, gate in self.gates.items():
            is_there = (args[gate] != 0).reshape(-1, *[1] * (read[i].ndim - 1))
            read[i] = torch.where(is_there, read[i], torch.zeros_like(read[i]))
        return tuple(read)


class Restored:
    """A forward hook: the outputs of `scales`, by name and place, in their own units."""

    def __init__(self, names: tuple[str, ...], scales: Mapping[str, Scale]) -> None:
        self.names, self.scales = names, dict(scales)

    def __call__(self, _: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if isinstance(out, Tensor):
            return self._restored(self.names[0], out)
        if isinstance(out, Mapping):
            return {name: self._restored(name, each) for name, each in out.items()}
        return tuple(self._restored(name, each) for name, each in zip(self.names, out, strict=False))

    def _restored(self, name: str, z: Tensor) -> Tensor:
        return self.scales[name].restored(z) if name in self.scales else z


def member_of(space: SearchSpace[Any], spec: Any, io: IO) -> Model:
    """What the space builds, in units: see `in_units`. Raise PluginError where that is no Model."""
    return in_units(a_model(space, space.build(spec, io)), io)


def a_model(space: SearchSpace[Any], found: object) -> Model:
    """What the space's `build` gave. Raise PluginError where that is no Model."""
    if not isinstance(found, Model):
        problem = f"`build` of search space {type(space).__name__} gives a {type(found).__name__}"
        raise PluginError(problem, expected="a kdsearch.kinds.Model")
    return found


def in_units(model: Model, io: IO) -> Model:
    """The model, which computes in standard deviations, reading and answering fields that have a mean in their own units.

    Of a field beside a field `present_<name>` it reads nothing in samples that lack it, nor of its mask `<name>_mask`.
    """
    reads = {i: Scale.of(field) for i, name in enumerate(model.inputs) if (field := io.input(name)).mean}
    answers = {each.name: Scale.of(each) for each in io.outputs if each.mean and each.name in model.outputs}
    places = {name: i for i, name in enumerate(model.inputs)}
    gates = {
        places[name]: places[gate]
        for of in places
        if (gate := f"present_{of}") in places
        for name in (of, f"{of}_mask")
        if name in places
    }
    if reads or gates:
        model.module.register_forward_pre_hook(Standardized(reads, gates))
    if answers:
        model.module.register_forward_hook(Restored(model.outputs, answers))
    return model
