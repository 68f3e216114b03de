"""Cutting tensors: what a plan stores is which indices of which tensor go and which attributes of modules follow, nothing else.

So a plan replays on any weights of its architecture, without a trace, a data set or a library that might change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch.builtin.channels.axes import Axis, kept
from kdsearch.builtin.channels.copies import copied
from kdsearch.builtin.channels.heads import HeadAttention, open_heads
from kdsearch.builtin.channels.tracing import Traced

Gone = np.ndarray[Any, np.dtype[np.bool_]]
Guess = tuple[type[nn.Module], str]


@dataclass(frozen=True)
class Cut:
    """What goes in one step.

    Args:
        slices: indices that go, by tensor's name and dimension.
        attributes: new values, by module's path and attribute.
        opened: paths of torch's attention modules whose heads no longer fill their stream.
    """

    slices: Mapping[tuple[str, int], list[int]]
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    opened: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """`remove`: the same indices of several tensors stand once."""
        places: dict[tuple[int, ...], list[list[Any]]] = defaultdict(list)
        for (name, dim), gone in self.slices.items():
            places[tuple(gone)].append([name, dim])
        remove = [{"index": list(gone), "of": of} for gone, of in places.items()]
        attributes = {path: dict(each) for path, each in self.attributes.items()}
        return {"remove": remove, "attributes": attributes, "opened": list(self.opened)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cut:
        slices = {(name, dim): list(each["index"]) for each in value["remove"] for name, dim in each["of"]}
        return cls(slices, value["attributes"], tuple(value["opened"]))


def slices_of(trace: Traced, gone: Gone) -> dict[tuple[str, int], list[int]]:
    found = {}
    for name, axes in trace.tensors.items():
        for dim, axis in enumerate(axes):
            if axis.columns and (lost := np.flatnonzero(~kept(axis, gone))).size:
                found[name, dim] = lost.tolist()
    return found


def cut_copy(
    module: nn.Module, cut: Cut, change: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor
) -> nn.Module:
    """A copy without what goes. Raise KeyError or IndexError for a module of another architecture."""
    of = _by_tensor(cut)

    def sliced(name: str, tensor: Tensor) -> Tensor:
        tensor = change(name, tensor)
        for dim, gone in of.get(name, ()):
            stay = np.delete(np.arange(tensor.shape[dim]), gone)
            tensor = tensor.index_select(dim, torch.from_numpy(stay).to(tensor.device))
        return tensor.clone() if name not in of else tensor.contiguous()

    made = open_heads(copied(module, sliced), cut.opened)
    for path, attributes in cut.attributes.items():
        part = made.get_submodule(path)
        for name, value in attributes.items():
            setattr(part, name, type(getattr(part, name))(value))
    return made


def masked_copy(
    module: nn.Module, cut: Cut, change: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor
) -> nn.Module:
    """A copy of the full size that has zeros where `cut_copy` has nothing: every weight, bias and statistic of what goes."""
    of = _by_tensor(cut)

    def zeroed(name: str, tensor: Tensor) -> Tensor:
        tensor = change(name, tensor).clone()
        for dim, gone in of.get(name, ()):
            tensor.index_fill_(dim, torch.tensor(gone, device=tensor.device), 0)
        return tensor

    return copied(module, zeroed)


def _by_tensor(cut: Cut) -> dict[str, list[tuple[int, list[int]]]]:
    found: dict[str, list[tuple[int, list[int]]]] = defaultdict(list)
    for (name, dim), gone in cut.slices.items():
        found[name].append((dim, gone))
    return found


def cut_of(module: nn.Module, trace: Traced, gone: Gone, guessed: Container[Guess] = ()) -> Cut:
    """Args:
    module: with every attention opened that can be, as it was traced.
    guessed: attributes of those in `guesses_of` that follow, too.
    """
    slices = slices_of(trace, gone)
    cut = {name.rpartition(".")[0] for name, _ in slices}
    opened = [
        path
        for path, part in module.named_modules()
        if isinstance(part, HeadAttention) and cut & {path, f"{path}.out_proj"}
    ]
    attributes: dict[str, dict[str, Any]] = {}
    for path, part, known, followed in _attributes(module, trace, slices, gone):
        found = {name: value for name, value in followed.items() if (type(part), name) in guessed} | known
        changed = {name: value for name, value in found.items() if _differs(getattr(part, name), value)}
        if changed:
            attributes[path] = changed
    return Cut(slices, attributes, tuple(opened))


def guesses_of(module: nn.Module, trace: Traced, gone: Gone) -> list[Guess]:
    """Attributes that may be the size of an axis that has become smaller, or only equal to it: a class and a name."""
    found: dict[Guess, None] = {}
    for _, part, known, followed in _attributes(module, trace, slices_of(trace, gone), gone):
        for name, value in followed.items():
            if name not in known and _differs(getattr(part, name), value):
                found[type(part), name] = None
    return list(found)


# attributes of torch's own layers: (attribute, tensor, its dimension)
_SIZES: tuple[tuple[type[nn.Module], tuple[tuple[str, str, int], ...]], ...] = (
    (nn.Linear, (("in_features", "weight", 1), ("out_features", "weight", 0))),
    (nn.modules.batchnorm._NormBase, (("num_features", "running_mean", 0), ("num_features", "weight", 0))),
    (nn.GroupNorm, (("num_channels", "weight", 0),)),
    (nn.Embedding, (("embedding_dim", "weight", 1),)),
    (nn.PReLU, (("num_parameters", "weight", 0),)),
    (nn.RNNBase, (("input_size", "weight_ih_l0", 1),)),
    (nn.RNNCellBase, (("input_size", "weight_ih", 1), ("hidden_size", "weight_hh", 1))),
)
# what torch calls the tensor of which it computes one of this name: by a parametrization, and under a mask of `nn.utils.prune`
_COMPUTED = ("parametrizations.{}.original", "{}_orig")
# how a module's numbers begin that are a width
_WIDTHS = ("in", "out", "groups", "dim")


def _attributes(
    module: nn.Module, trace: Traced, slices: Mapping[tuple[str, int], list[int]], gone: Gone
) -> Iterator[tuple[str, nn.Module, dict[str, Any], dict[str, Any]]]:
    """(path, module, its attributes of which the new value is known, those that are guessed)."""
    asked: dict[str, list[Axis]] = defaultdict(list)
    for path, axis in trace.sized:
        asked[path].append(axis)
    given: dict[str, dict[tuple[str, int | None], set[int]]] = defaultdict(lambda: defaultdict(set))
    for path, name, at, axis in trace.noted:
        given[path][name, at].add(int(kept(axis, gone).sum()))
    own: dict[str, dict[str, Any]] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""

        def size(name: str, dim: int, prefix: str = prefix, part: nn.Module = part) -> int:
            tensor: Tensor = getattr(part, name)
            held = (f"{prefix}{name}", *(prefix + each.format(name) for each in _COMPUTED))
            return int(tensor.shape[dim]) - max(len(slices.get((each, dim), ())) for each in held)

        found: dict[str, Any] = {}
        for kind, sizes in _SIZES:
            if isinstance(part, kind):
                found |= {
                    attribute: size(name, dim)
                    for attribute, name, dim in sizes
                    if isinstance(getattr(part, name, None), Tensor)
                }
        if isinstance(part, nn.RNNBase):
            gates = {"LSTM": 4, "GRU": 3}.get(part.mode, 1)
            found["hidden_size"] = size("weight_ih_l0", 0) // gates  # not of weight_hh, which reads a projected state
        if isinstance(part, nn.LayerNorm | nn.RMSNorm) and part.weight is not None:
            found["normalized_shape"] = [size("weight", dim) for dim in range(part.weight.dim())]
        if isinstance(part, nn.modules.conv._ConvNd):
            grouped = trace.groups.get(path)
            groups = part.groups if grouped is None else int(kept(grouped, gone).sum())
            first, second = size("weight", 0), size("weight", 1)
            into, out = (first, second * groups) if part.transposed else (second * groups, first)
            found |= {"groups": groups, "in_channels": into, "out_channels": out}
        own[path] = found
    layers = dict(module.named_modules())
    inner: dict[str, list[tuple[nn.Module, Mapping[str, Any]]]] = defaultdict(list)  # of each path
    for path, numbers in own.items():
        names = path.split(".")
        for above in ("", *(".".join(names[:n]) for n in range(1, len(names)))) if numbers else ():
            inner[above].append((layers[path], numbers))
    for path, part in layers.items():
        known = _noted(part, inner[path]) | _given(part, given[path]) | own[path]
        yield path, part, known, _followed(part, asked[path], gone)


def _noted(part: nn.Module, inner: Sequence[tuple[nn.Module, Mapping[str, Any]]]) -> dict[str, int]:
    """Numbers that a module keeps of its layers for later, such as to fold them: `in_chs` is what its layers read, and so on.

    Where no layer calls that size so, and for `dim`, any size of a layer counts; a number follows where all have one size now.
    """
    now: dict[tuple[str, int], set[int]] = defaultdict(set)
    for layer, sizes in inner:
        for name, value in sizes.items():
            was = getattr(layer, name)
            if type(was) is int:
                now[name.partition("_")[0], was].add(value)
                now["", was].add(value)
    found = {}
    for name, value in vars(part).items():
        kind = name.partition("_")[0]
        if type(value) is int:
            after = now.get((kind, value)) or (now.get(("", value)) if kind in _WIDTHS else None) or set[int]()
            if len(after) == 1:
                found[name] = next(iter(after))
    return found


def _given(part: nn.Module, sizes: Mapping[tuple[str, int | None], set[int]]) -> dict[str, Any]:
    """Numbers that stood in a call themselves: what they are the size of is known."""
    found: dict[str, Any] = {}
    for (name, at), now in sizes.items():
        if len(now) == 1 and at is None:
            found[name] = next(iter(now))
        elif len(now) == 1:
            found.setdefault(name, list(getattr(part, name)))[at] = next(iter(now))
    return found


def _differs(was: Any, now: Any) -> bool:
    return list(was) != now if isinstance(now, list) else was != now


def _followed(part: nn.Module, axes: Sequence[Axis], gone: Gone) -> dict[str, Any]:
    """Numbers that a module's own code reshapes by: those that equal the size of an axis there that has become smaller.

    Where a number equals several axes of which only some change, it follows if it is called a number of heads. Guesses count where
    a cut is not exact without them.
    """
    now: dict[int, set[int]] = defaultdict(set)
    for axis in axes:
        now[axis.size].add(int(kept(axis, gone).sum()))

    def follow(name: str, value: int) -> int:
        sizes = now.get(value, {value})
        if "head" in name and "dim" not in name:
            sizes = sizes - {value} or sizes
        return next(iter(sizes)) if len(sizes) == 1 else value

    found: dict[str, Any] = {}
    for name, value in vars(part).items():
        if type(value) is int and value in now:
            found[name] = follow(name, value)
        elif isinstance(value, tuple | list) and value and all(type(each) is int for each in value):
            found[name] = [follow(name, each) for each in value]
    return found
