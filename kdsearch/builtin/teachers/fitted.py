"""A foreign network on the study's data: images brought to the size and channels that it wants, its answers checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import DataError
from kdsearch.kinds import IO, Field, Model
from kdsearch.kinds.found_taps import found_taps

BATCHES = (2, 3)  # a network that was traced on a batch of one size may answer that one alone


class Fitted(nn.Module):
    """net(resize(repeat(image))); the network is `net`.

    Args:
        channels: what the network reads; one channel of the data set is repeated.
        size: (H, W) that images are resized to, bilinear; None = as they are.
    """

    def __init__(self, net: nn.Module, channels: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.channels, self.size = net, channels, size

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        if image.shape[1] != self.channels:
            image = image.expand(-1, self.channels, -1, -1)
        if self.size is not None and self.size != tuple(image.shape[-2:]):
            shrinks = self.size[0] < image.shape[-2] or self.size[1] < image.shape[-1]
            image = F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=shrinks)
        logits: Tensor = self.net(image)
        return logits


def image_of(io: IO, who: str) -> tuple[str, int, int, int]:
    """(name, C, H, W) of the one input. Raise DataError when it is no image of fixed size."""
    shape = io.inputs[0].shape if len(io.inputs) == 1 else ()
    if len(shape) != 3 or None in shape:
        raise DataError(f"teacher {who}: the inputs are {described(io.inputs)}", expected="one image (C, H, W)")
    channels, height, width = (size or 0 for size in shape)
    return io.inputs[0].name, channels, height, width


def n_classes(io: IO, who: str) -> int:
    shape = io.outputs[0].shape if len(io.outputs) == 1 else ()
    if len(shape) != 1 or shape[0] is None:
        raise DataError(f"teacher {who}: the outputs are {described(io.outputs)}", expected="one vector (K,)")
    return shape[0]


def described(fields: Sequence[Field]) -> str:
    return ", ".join(f"{each.name} {shown(each.shape)}" for each in fields) or "none"


def shown(shape: Sequence[object]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def examples(io: IO, n: int) -> list[Tensor]:
    """n samples of zeros for each input; a dynamic size is 8."""
    return [torch.zeros((n, *each.sizes), dtype=each.torch_dtype) for each in io.inputs]


def modelled(module: nn.Module, io: IO, who: str, inside: str = "", taps: bool = True, role: str = "teacher ") -> Model:
    """A Model of a foreign module, run once on zeros. `role` goes before its name in messages.

    Raises:
        DataError: it cannot read the study's samples, or does not answer as the task's outputs say; with what it does.
    """
    fed = described(io.inputs)
    for n in BATCHES:
        try:
            with torch.no_grad():
                out = module.eval()(*examples(io, n))
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(
                f"{role}{who} cannot read {fed}{f' in a batch of {n}' if n > BATCHES[0] else ''}: {first[:200]}",
                expected="a network for these inputs, in batches of any size",
            ) from error
        check_answer(out, io, who, role, n)
    found = found_taps(module, examples(io, 1), inside) if taps else ()
    outputs = tuple(each.name for each in io.outputs)
    return Model(module, tuple(each.name for each in io.inputs), found, outputs, name=who)


def check_answer(out: object, io: IO, who: str, role: str = "teacher ", n: int = 2) -> None:
    """Raise DataError unless `out`, of n samples, is what the task's outputs say: their number, and their shapes where fixed."""
    many = out if isinstance(out, Mapping | list | tuple) else [out]
    if (isinstance(out, Mapping) and any(each.name not in out for each in io.outputs)) or len(many) < len(io.outputs):
        given = ", ".join(map(str, out)) if isinstance(out, Mapping) else f"{len(many)} tensors"
        raise DataError(f"{role}{who} answers {given}", expected=described(io.outputs))
    values = [out[each.name] for each in io.outputs] if isinstance(out, Mapping) else list(many)
    for each, value in zip(io.outputs, values, strict=False):
        got = shown(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__
        if isinstance(value, Tensor) and value.shape[:1] == (n,) and _fits(value.shape[1:], each.shape):
            continue
        one = f": one {each.name} for each class of the data set" if len(each.shape) == 1 else f" as {each.name}"
        raise DataError(f"{role}{who} answers {got} a sample", expected=f"{shown(each.shape)}{one}")


def _fits(sizes: Sequence[int], asked: Sequence[int | None]) -> bool:
    return len(sizes) == len(asked) and all(want in (None, size) for size, want in zip(sizes, asked, strict=True))
