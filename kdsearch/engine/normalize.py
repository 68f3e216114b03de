"""A model fed images in a normalisation of its own, whatever the data's is: an affine function ahead of its first layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdsearch.kinds import IO, Model, Normalization
from kdsearch.ops.place import device_of


class Renormalized:
    """A forward pre-hook: scale * image + shift, for the arguments at `places`.

    A hook and no layer, so that paths of taps and names of weights stay what they are; it is copied with the module.
    """

    def __init__(self, places: Sequence[int], scale: Tensor, shift: Tensor) -> None:
        self.places, self.scale, self.shift = tuple(places), scale, shift

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.scale, self.shift = self.scale.to(args[0].device), self.shift.to(args[0].device)
        return tuple(
            each * self.scale.to(each.dtype) + self.shift.to(each.dtype) if i in self.places else each
            for i, each in enumerate(args)
        )


def feed_in(model: Model, io: IO, given: Normalization, wanted: Normalization) -> RemovableHandle | None:
    """Let the model, which gets images in `given`, read them in `wanted`. None where there is nothing to change.

    A model that repeats a grey image to three channels by itself gets three, each in its own channel's normalisation.
    """
    fields = [io.input(name) for name in model.inputs]
    places = [i for i, each in enumerate(fields) if each.kind == "image"]
    if not places:
        return None
    channels = fields[places[0]].sizes[0]
    own = wanted if channels == 1 and _reads_three(model, io, wanted) else wanted.of(channels)
    scale, shift = own.from_other(given.of(channels))
    if bool((scale == 1).all()) and bool((shift == 0).all()):
        return None
    return model.module.register_forward_pre_hook(Renormalized(places, scale, shift))


def _reads_three(model: Model, io: IO, wanted: Normalization) -> bool:
    """Whether three channels in place of one grey one make a difference, and can be read."""
    if len(set(wanted.mean)) == 1 and len(set(wanted.std)) == 1:
        return False
    fields = [io.input(name) for name in model.inputs]
    shapes = [(2, 3, *each.sizes[1:]) if each.kind == "image" else (2, *each.sizes) for each in fields]
    device = device_of(model.module)
    inputs = [torch.zeros(s, dtype=each.torch_dtype, device=device) for s, each in zip(shapes, fields, strict=True)]
    was = {part: part.training for part in model.module.modules()}
    try:
        with torch.no_grad():
            model.module.eval()(*inputs)
    except Exception:  # a network says in any way that it reads one channel
        return False
    finally:
        for part, mode in was.items():
            part.training = mode
    return True
