"""Search space `fusion`: a vector of each modality, their mean over those that are there, hidden layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from kdsearch.errors import DataError
from kdsearch.kinds import IO, Field, Model, Options, SearchSpace, Tap, searched, vector_output


class FusionSpec(Options):
    width: Annotated[Literal[8, 16, 32, 64], searched(16, 32, 64)] = 32
    embedding: Annotated[Literal[4, 8, 16, 32], searched(8, 16, 32)] = 16
    depth: Annotated[Literal[1, 2], searched(1, 2)] = 1


class Words(nn.Module):
    """Ids and their mask (B, N) -> (B, D): the mean of the words' vectors, projected; of none the bias."""

    def __init__(self, n_values: int, embedding: int, width: int) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(n_values, embedding), nn.Linear(embedding, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        counts = (mask != 0).float()[..., None]  # (B, N, 1)
        found: Tensor = self.out((self.embed(ids) * counts).sum(1) / counts.sum(1).clamp(min=1))
        return found


class Net(nn.Module):
    """The inputs in order -> logits (B, K).

    Args:
        places: modality -> where it, its mask (None = none) and what says that it is there are among the inputs.
    """

    def __init__(
        self, encoders: dict[str, nn.Module], places: dict[str, tuple[int, int | None, int]], sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.encoders, self.places = nn.ModuleDict(encoders), places
        self.fused = nn.ReLU()
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes[:-1]))
        self.classifier = nn.Linear(*sizes[-2:])

    def forward(self, *inputs: Tensor) -> Tensor:
        total, there = 0.0, 0.0
        for name, encode in self.encoders.items():
            at, mask, gate = self.places[name]
            is_there = (inputs[gate] != 0).float()[:, None]  # (B, 1)
            found = encode(inputs[at]) if mask is None else encode(inputs[at], inputs[mask])
            total, there = total + is_there * found, there + is_there
        x = self.fused(total / torch.clamp(there, min=1))
        for layer in self.hidden:
            x = layer(x)
        logits: Tensor = self.classifier(x)
        return logits


class Fusion(SearchSpace[FusionSpec]):
    """Reads vectors and sequences of tokens, each with what says which samples have it.

    Taps: the modalities' names (vectors), `stage[0]` (their mean), `stage[i]`, `penultimate`, `logits`.
    """

    def example_io(self) -> IO:
        doc = Field("doc", "tokens", (None,), "int64", n_values=256)
        shape = Field("shape", "vector", (16,))
        gates = (Field("present_doc", "present", ()), Field("present_shape", "present", ()))
        return IO((doc, Field("doc_mask", "mask", (None,), "int64"), shape, *gates), (Field("logits", "logits", (8,)),))

    def build(self, spec: FusionSpec, io: IO) -> Model:
        place = {each.name: i for i, each in enumerate(io.inputs)}
        encoders: dict[str, nn.Module] = {}
        places: dict[str, tuple[int, int | None, int]] = {}
        for each in io.inputs:
            if f"present_{each.name}" not in place:
                continue
            gate = place[f"present_{each.name}"]
            if each.kind == "tokens":
                encoders[each.name] = Words(each.n_values or 1, spec.embedding, spec.width)
                places[each.name] = (place[each.name], place[f"{each.name}_mask"], gate)
            else:
                encoders[each.name] = nn.Sequential(nn.Flatten(), nn.Linear(each.sizes[0], spec.width))
                places[each.name] = (place[each.name], None, gate)
        if not encoders:
            raise DataError("search space 'fusion': nothing among the inputs may be missing", expected="modalities")
        k = vector_output(io, "fusion")
        net = Net(encoders, places, [*[spec.width] * (spec.depth + 1), k])
        taps = [Tap(name, f"encoders.{name}", "vector", (spec.width,)) for name in encoders]
        taps.append(Tap("stage[0]", "fused", "vector", (spec.width,)))
        taps += [Tap(f"stage[{i + 1}]", f"hidden.{i}", "vector", (spec.width,)) for i in range(spec.depth)]
        taps.append(Tap("penultimate", "classifier", "vector", (spec.width,), side="input"))
        taps.append(Tap("logits", "classifier", "vector", (k,)))
        return Model(net, tuple(place), tuple(taps), (io.outputs[0].name,), name=f"fusion{spec.width}")
