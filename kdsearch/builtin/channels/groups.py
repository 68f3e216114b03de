"""Groups of channels that can be pruned: which labels are alike, where they stand in the weights, and which of them cut exactly."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from kdsearch.builtin.channels.exact import exact_cut, precision, redrawn
from kdsearch.builtin.channels.surgery import Gone
from kdsearch.builtin.channels.tracing import Inputs, Traced
from kdsearch.kit.streams import stream

TRIES = 200  # cuts that are tried to find out which groups do not cut exactly


@dataclass(frozen=True, eq=False)
class Place:
    """A dimension of a tensor that the channels of a group stand in. `owner`: (size,), the channel of each index, -1 = none."""

    name: str
    dim: int
    owner: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that stand in the same tensors, any of which may go: it goes from all of them.

    Args:
        labels: (n,), one a channel.
    """

    labels: np.ndarray[Any, np.dtype[np.int64]]
    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def path(self) -> str:
        """Of the first layer that makes them."""
        makers = [each for each in self.places if each.dim == 0 and ".weight" in f".{each.name}"] or list(self.places)
        return layer_of(makers[0].name)

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(layer_of(each.name) for each in self.places))

    def __str__(self) -> str:
        made = next(each for each in self.places if layer_of(each.name) == self.path)
        times = int((made.owner >= 0).sum()) // len(self)
        return f"{self.path} ({len(self)} of {times} each)" if times > 1 else f"{self.path} ({len(self)})"


def layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def groups_of(trace: Traced, module: nn.Module) -> list[Group]:
    """All groups with a matrix or kernel among their weights, in the module's order."""
    standing: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for name, axes in trace.tensors.items():
        for dim, axis in enumerate(axes):
            for at, column in enumerate(axis.columns):
                for label in np.unique(column):
                    if label:
                        standing[int(label)].append((name, dim, at))
    alike: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
    for label, at_places in standing.items():
        alike[tuple(at_places)].append(label)
    matrices = {name for name, parameter in module.named_parameters() if parameter.dim() > 1}
    found = []
    for places, labels in alike.items():
        if len(labels) < 2 or not any(name in matrices for name, _, _ in places):
            continue
        made = []
        order = sorted(labels)
        for name, dim, at in places:
            column = trace.tensors[name][dim].columns[at]
            spot = np.searchsorted(order, column).clip(max=len(order) - 1)
            made.append(Place(name, dim, np.where(np.array(order)[spot] == column, spot, -1)))
        by_place = made[0].owner  # channels in the order in which the first layer has them
        ranks = list(dict.fromkeys(int(each) for each in by_place if each >= 0))
        rank = np.empty(len(order), np.int64)
        rank[ranks] = np.arange(len(order))
        found.append(
            Group(
                np.array(order)[ranks],
                tuple(Place(each.name, each.dim, np.where(each.owner >= 0, rank[each.owner], -1)) for each in made),
            )
        )
    return found


def chosen(groups: Sequence[Group], include: Sequence[str], exclude: Sequence[str]) -> list[Group]:
    """Groups of which some layer is included and none is excluded."""

    def matches(path: str, globs: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(path, glob) for glob in globs)

    return [
        each
        for each in groups
        if any(matches(path, include) for path in each.layers)
        and not any(matches(path, exclude) for path in each.layers)
    ]


def some_of(groups: Sequence[Group], trace: Traced) -> Gone:
    """A quarter of the channels of each group, drawn, so that no order of theirs hides what is wrong."""
    gone = no_labels(trace)
    for each in groups:
        drawn = torch.randperm(len(each), generator=stream(0, "some", *each.layers)).numpy()
        gone[each.labels[drawn[: max(1, len(each) // 4)]]] = True
    return gone


def no_labels(trace: Traced) -> Gone:
    most = max(
        (int(column.max()) for axes in trace.tensors.values() for axis in axes for column in axis.columns), default=0
    )
    most = max([most, *(int(column.max()) for axes, _ in trace.products for axis in axes for column in axis.columns)])
    return np.zeros(most + 1, np.bool_)


def exact_groups(
    module: nn.Module,
    opened: nn.Module,
    trace: Traced,
    groups: Sequence[Group],
    probes: Sequence[Inputs],
    gone_of: Callable[[Sequence[Group]], Gone] | None = None,
    told: Callable[[int], None] = lambda tried: None,
) -> tuple[list[Group], list[tuple[Group, str]]]:
    """The groups that can be cut exactly, all at once, and the others, each with what happens when it is cut.

    Args:
        opened: the module as it was traced.
        gone_of: the labels that go of given groups; None = some, with weights drawn anew, so that no branch is hidden by zeros.
        told: is told before each cut how many were tried.
    """
    module = module if gone_of else redrawn(module)
    dtype = precision(module, probes)
    left_out: list[tuple[Group, str]] = []
    tried = 0

    def sound(beside: list[Group], part: list[Group]) -> list[Group]:
        nonlocal tried
        if not part:
            return []
        told(tried)
        tried += 1
        if tried > TRIES:
            left_out.extend((each, f"not looked at: {TRIES} cuts were tried") for each in part)
            return []
        these = [*beside, *part]
        gone = gone_of(these) if gone_of else some_of(these, trace)
        _, wrong = exact_cut(module, opened, trace, gone, probes, dtype)
        if not wrong:
            return part
        if len(part) == 1:
            left_out.append((part[0], wrong))
            return []
        half = len(part) // 2
        first = sound(beside, part[:half])
        return first + sound([*beside, *first], part[half:])

    return sound([], list(groups)), left_out
