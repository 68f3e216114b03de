"""What a pruner plans from where there are no data: a network, and what it reads and answers."""

from __future__ import annotations

import torch

from kdsearch.kinds import IO, Model
from kdsearch.python.own_data import PlanSubject


class Bare(PlanSubject):
    def rng(self, name):
        return torch.Generator().manual_seed(self.seed or len(name))


def bare(model: Model, io: IO, seed: int = 0) -> Bare:
    return Bare(seed=seed, base=None, model=model, io=io, opened=None, budget={})
