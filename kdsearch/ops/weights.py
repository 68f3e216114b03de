"""Weights of a module as the training-free scores of the field count them, and other tensors in their place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdsearch.ops.init import NORMS
from kdsearch.ops.undisturbed import undisturbed

LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)


def weight_matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights that products are taken with, by dotted path: convolutions, linear, attention and recurrent layers.

    Left out: what is looked up (embeddings), added (biases, positions) or scales a channel (norms). A matrix that an embedding
    shares with a linear layer counts, once.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, part in module.named_modules():
        if isinstance(part, (*NORMS, *LOOKED_UP)):
            continue
        for name, weight in part._parameters.items():
            if weight is not None and weight.dim() > 1 and "weight" in name and id(weight) not in seen:
                seen.add(id(weight))
                found[f"{path}.{name}" if path else name] = weight
    return found


@contextmanager
def substituted(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, the module computes with `tensors` (dotted path -> tensor) in place of its parameters; shared ones everywhere.

    Raises:
        KeyError: naming the path that is no parameter.
    """
    parts = list(module.named_modules())  # one walk: of small networks it is much of the cost
    known = {
        f"{path}.{name}" if path else name: weight
        for path, part in parts
        for name, weight in part._parameters.items()
        if weight is not None
    }
    given = {id(known[path]): tensor for path, tensor in tensors.items()}
    places = [
        (part, name, weight)
        for _, part in parts
        for name, weight in part._parameters.items()
        if weight is not None and id(weight) in given
    ]
    recurrent = [part for _, part in parts if isinstance(part, nn.RNNBase)]
    try:
        for part, name, weight in places:
            part._parameters[name] = given[id(weight)]  # any tensor computes
        _refresh(recurrent)
        yield
    finally:
        for part, name, weight in places:
            part._parameters[name] = weight
        _refresh(recurrent)


@contextmanager
def differentiable(module: nn.Module, train: bool = True) -> Iterator[dict[str, Tensor]]:
    """Within, graphs are recorded to the yielded leaves, which stand in for the `weight_matrices`; no copy is made.

    Afterwards gradients, flags, buffers and the global RNG are as they were. Take gradients with `torch.autograd.grad`.
    """
    leaves = {path: weight.detach().requires_grad_() for path, weight in weight_matrices(module).items()}
    with undisturbed(module, train), torch.enable_grad(), substituted(module, leaves):
        yield leaves


def gradients(of: Tensor, leaves: Mapping[str, Tensor], create_graph: bool = False) -> dict[str, Tensor]:
    """d of / d leaf, by path; zeros where `of` does not depend on a leaf."""
    if not of.requires_grad:
        return {path: torch.zeros_like(leaf) for path, leaf in leaves.items()}
    found = torch.autograd.grad(of, list(leaves.values()), create_graph=create_graph, allow_unused=True)
    return {
        path: torch.zeros_like(leaf) if each is None else each
        for (path, leaf), each in zip(leaves.items(), found, strict=True)
    }


def _refresh(recurrent: Sequence[nn.RNNBase]) -> None:
    """Recurrent layers keep a list of their parameters."""
    for part in recurrent:
        part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]
