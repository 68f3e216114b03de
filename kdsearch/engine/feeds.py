"""Feeds: the order of a pass is a function of the position, so a plain DataLoader over it is the resumable loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import Batch, Feed, Pass, Split
from kdsearch.ops.batches import in_batches
from kdsearch.store.hashing import derive, stream


def order_of(feed: Feed, name: str, ids: Sequence[str], epoch: int, seed: int) -> list[list[int]]:
    """Index lists of one pass, one a batch (`in_batches`). Raise DataError when the split is empty."""
    if not ids:
        raise DataError(f"split '{feed.split}' is empty", expected="at least one sample")
    rng = stream(seed, "order", name, epoch)
    if feed.order is not None:
        return [list(batch) for batch in feed.order(Pass(epoch, ids, feed.batch_size, rng))]
    shuffled = torch.randperm(len(ids), generator=rng).tolist()
    return in_batches(shuffled, feed.batch_size)


def lengths_of(feed: Feed, name: str, ids: Sequence[str], epochs: int, seed: int) -> list[int]:
    """Batches of each pass. Raise DataError or PluginError when a pass has none."""
    if feed.order is None:
        return [len(order_of(feed, name, ids, 0, seed))] * epochs
    lengths = [len(order_of(feed, name, ids, epoch, seed)) for epoch in range(epochs)]
    if 0 in lengths:
        raise PluginError(f"feed '{name}': its order gives no batch in pass {lengths.index(0)}")
    return lengths


class _Batches(TorchDataset[Batch]):
    """A split whose items are whole batches, addressed by index lists."""

    def __init__(self, split: Split, augment: bool, seed: int) -> None:
        self.split, self.augment, self.seed = split, augment, seed

    def __getitem__(self, index: list[int]) -> Batch:
        return self.split.load(index, augment=self.augment, seed=self.seed)


def _as_is(batch: Any) -> Any:
    return batch


def loaded(split: Split, orders: Sequence[list[int]], augment: bool, seed: int, workers: int = 0) -> Iterator[Batch]:
    """Batches of `orders`. A sample's augmentation is a function of (seed, its id)."""
    batches = _Batches(split, augment, seed)
    if not workers:
        return (batches[index] for index in orders)
    return iter(DataLoader(batches, batch_size=None, sampler=list(orders), num_workers=workers, collate_fn=_as_is))


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro-batch that a rank runs: `index` in the pass; it is one of `group` from `begin` on in its optimiser step.

    `round` of `rounds` that every rank runs in this step, so that all of them gather rows together. Where a rank has none
    left, it runs the step's last one once more, and `counts` is False. In this round the first `counting` ranks count.
    """

    index: int
    begin: int
    group: int
    round: int
    rounds: int
    counts: bool
    counting: int

    @property
    def first(self) -> bool:
        return self.round == 0

    @property
    def last(self) -> bool:
        return self.round == self.rounds - 1


def micro_batches(start: int, total: int, accumulate: int, rank: int = 0, world: int = 1) -> list[Micro]:
    """What a rank runs of a pass of `total` micro-batches, from an optimiser step's first one on."""
    found = []
    for begin in range(start, total, accumulate):
        group = min(accumulate, total - begin)
        rounds = -(-group // world)
        for nth in range(rounds):
            at, counting = nth * world + rank, min(world, group - nth * world)
            found.append(Micro(begin + min(at, group - 1), begin, group, nth, rounds, at < group, counting))
    return found


class Endless:
    """A feed that cycles: batch g of the phase is batch g mod n of pass g div n."""

    def __init__(self, feed: Feed, name: str, split: Split, seed: int) -> None:
        self.feed, self.name, self.split, self.seed = feed, name, split, seed
        self._epoch, self._orders = -1, list[list[int]]()
        self.length = len(order_of(feed, name, split.ids, 0, seed))

    def at(self, position: int) -> Batch:
        epoch, index = divmod(position, self.length)
        if epoch != self._epoch:
            self._epoch, self._orders = epoch, order_of(self.feed, self.name, self.split.ids, epoch, self.seed)
        augment_seed = derive(self.seed, "augment", self.name, epoch)
        return self.split.load(self._orders[index % len(self._orders)], augment=self.feed.augment, seed=augment_seed)


def in_order(split: Split, batch_size: int = 256) -> Iterator[Batch]:
    """The split once, unaugmented, in its own order: for evaluation and caches."""
    for start in range(0, len(split.ids), batch_size):
        yield split.load(range(start, min(start + batch_size, len(split.ids))))
