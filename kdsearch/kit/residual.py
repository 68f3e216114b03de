"""Residual blocks of any network, found while it runs once: submodules that add what their parts make to what they were handed.

Adds are seen as torch functions, so nothing is traced and no network is too dynamic for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdsearch.errors import PluginError
from kdsearch.kit.blocks import Block, Structured, is_norm
from kdsearch.ops.undisturbed import undisturbed

__all__ = ["blocks_of", "found_blocks"]

ADDS = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, torch.Tensor.__add__}
)


@dataclass
class _Call:
    """One run of a submodule.

    Args:
        stream: ids of the tensors that are the residual stream in it: what it was handed, and what residual additions gave.
        branches: children called before each residual addition since the one before, by path.
        normed: of what a norm made of the stream, by id: the norm's path. Where something is added to it, it is the stream: such a
            network's norms stand between its branches.
    """

    path: str
    shape: tuple[int, ...] | None
    stream: set[int]
    children: list[str] = field(default_factory=list)
    branches: list[list[str]] = field(default_factory=list)
    normed: dict[int, str] = field(default_factory=dict)


def blocks_of(module: nn.Module, inputs: Sequence[Tensor], within: Sequence[str] = ()) -> list[Block]:
    """As the network declares them (`Structured`), else as one forward pass of `inputs` shows them; `within`: paths to look at.

    Raises:
        PluginError: there is none.
    """
    found = list(module.block_list()) if isinstance(module, Structured) else found_blocks(module, inputs, within)
    if not found:
        raise PluginError(
            f"'{type(module).__name__}' has no residual block", expected="submodules that add to what they are handed"
        )
    return found


def found_blocks(module: nn.Module, inputs: Sequence[Tensor], within: Sequence[str] = ()) -> list[Block]:
    """Residual blocks in the order in which they run: the innermost submodules with an addition of their own to what they are
    handed, whose answer has its shape, and that run once.

    Args:
        inputs: one or more samples. within: only these paths; none = any.
    """
    seen = _Seen(module)
    with undisturbed(module, train=False), seen.watching(), torch.enable_grad():  # with a graph: no fused fast paths
        module(*inputs)
    found: list[Block] = []
    for path in seen.done:
        runs = seen.done[path]
        call, answer = runs[0]
        if not path or len(runs) > 1 or not call.branches or call.shape != answer or (within and path not in within):
            continue
        components = _components(module, call.branches)
        if components:
            found.append(Block(len(found), path, components))
    return found


class _Seen(TorchFunctionMode):
    """What runs, and which additions are residual ones."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.stack: list[_Call] = []
        self.done: dict[str, list[tuple[_Call, tuple[int, ...] | None]]] = {}  # by path, in the order of their begin
        self.alive: list[Tensor] = []  # while they live their ids are theirs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_add = func in ADDS and len(args) == 2 and all(isinstance(each, Tensor) for each in args)
        before = [id(each) for each in args] if is_add else []
        out = func(*args, **(kwargs or {}))
        if not is_add and self.stack and args and isinstance(out, Tensor) and id(args[0]) in self.stack[-1].stream:
            is_view = out.numel() == args[0].numel() and out.data_ptr() == args[0].data_ptr()
            self.alive += [out] if is_view else []
            self.stack[-1].stream |= {id(out)} if is_view else set()
        if is_add and self.stack:
            call = self.stack[-1]
            added, branch = [each in call.stream for each in before], call.children
            if not any(added):
                added = [each in call.normed for each in before]
                branch = [path for path in branch if path not in [call.normed.get(each) for each in before]]
            if any(added) and not all(added) and branch and args[0].shape == args[1].shape == out.shape:
                call.branches.append(branch)
                call.children = []
                self.alive.append(out)
                call.stream.add(id(out))
        return out

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles: list[Any] = []
        for path, part in self.module.named_modules():
            handles.append(part.register_forward_pre_hook(self._begins(path), with_kwargs=True))
            handles.append(part.register_forward_hook(self._ends(path)))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _begins(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            self.alive += given
            shape = tuple(given[0].shape) if given else None
            call = _Call(path, shape, {id(given[0])} if given else set())
            self.done.setdefault(path, []).append((call, None))
            self.stack.append(call)

        return hook

    def _ends(self, path: str) -> Any:
        def hook(part: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            call = self.stack.pop()
            first = out[0] if isinstance(out, tuple | list) and out else out
            answer = tuple(first.shape) if isinstance(first, Tensor) else None
            self.done[path][-1] = (call, answer)
            if isinstance(first, Tensor):
                self.alive.append(first)
            if self.stack:
                above = self.stack[-1]
                is_stream = isinstance(first, Tensor) and id(first) in above.stream
                if not is_stream:  # an identity on the shortcut is no part of a branch
                    above.children.append(path)
                    if args and id(args[0]) in above.stream and is_norm(part):
                        above.normed[id(first)] = path

        return hook


def _components(module: nn.Module, branches: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Of each branch its norm and the one part that has the other weights, by their names; else the branch as a whole."""
    found: dict[str, tuple[str, ...]] = {}
    for nth, branch in enumerate(branches):
        weighty = [path for path in branch if _weighs(module.get_submodule(path))]
        norms = [path for path in weighty if is_norm(module.get_submodule(path))]
        mains = [path for path in weighty if path not in norms]
        if len(mains) == 1 and len(norms) <= 1 and branch.index(mains[0]) >= branch.index((norms or mains)[0]):
            for path in (*norms, *mains):
                found[path.rpartition(".")[2]] = (path, *branch[branch.index(path) + 1 :])
        elif weighty:
            found["branch" if len(branches) == 1 else f"branch{nth + 1}"] = tuple(branch)
    return found


def _weighs(part: nn.Module) -> bool:
    """Whether it has weights beyond a factor a channel."""
    return any(each.ndim > 1 for each in part.parameters()) or is_norm(part)
