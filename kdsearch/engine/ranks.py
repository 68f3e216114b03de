"""Ranks: the processes that share one training. Each runs some micro-batches of every optimiser step; then all are equal again.

Nothing is wrapped, so a phase may run many models and updates: gradients are summed before an optimiser moves. What goes
between processes is bytes of tensors and JSON, never a pickle. Every method is called by all ranks, in the same order.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor, nn

from kdsearch.engine.optim import Bound
from kdsearch.errors import PluginError, RankLostError
from kdsearch.store.hashing import tensor_digest

V = TypeVar("V")

PATIENCE = timedelta(
    hours=1
)  # the longest wait for another rank: the first one may be measuring a large validation split


@dataclass(frozen=True)
class Ranks:
    """Which of `world` processes this is. Alone (the default) nothing is sent.

    Raises RankLostError where another process ended.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """The first rank writes checkpoints, measures and reports."""
        return self.rank == 0

    def told(self, value: Any) -> list[Any]:
        """Each rank's value, in order of rank. JSON."""
        if self.world == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(part.tolist())) for part in self._parts(own)]

    def first(self, make: Callable[[], V]) -> V:
        """What the first rank makes, on all. JSON."""
        return self.told(make() if self.is_first else None)[0]  # type: ignore[no-any-return]

    def gather(self, rows: Tensor, ranks: int) -> Tensor:
        """(N, ...) rows of the first so many ranks one after another, each rank's (n, ...); constant."""
        return torch.cat(self._parts(rows.detach())[:ranks])

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each by its sum over ranks, with one all-reduce a data type."""
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for group in by_type.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            with _heard():
                torch.distributed.all_reduce(flat)
            for tensor, part in zip(group, torch.split(flat, [each.numel() for each in group]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def add_gradients(self, bounds: Sequence[Bound]) -> None:
        """Sum over ranks what these optimisers are to move by; a parameter that no rank has a gradient of keeps none."""
        parameters = [parameter for bound in bounds for parameter in bound.parameters.values()]
        if self.world == 1 or not parameters:
            return
        have = torch.tensor([float(each.grad is not None) for each in parameters], device=parameters[0].device)
        self.add([have])
        found = [each for each, ranks in zip(parameters, have.tolist(), strict=True) if ranks]
        for parameter in found:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            self.add([each.grad for each in found if each.grad is not None])

    def check_equal(self, modules: Mapping[str, nn.Module]) -> None:
        """Raise PluginError naming the first weight or buffer that differs between ranks."""
        if self.world == 1:
            return
        own = {
            f"'{key}' of {owner}": tensor_digest(t) for owner, m in modules.items() for key, t in m.state_dict().items()
        }
        theirs = self.told(own)
        for name, digest in own.items():
            if any(each.get(name) != digest for each in theirs):
                raise PluginError(
                    f"{name} differs between the devices of one training",
                    fix="Change it by step.gather(rows), so that every device sees the rows of all.",
                )

    def _parts(self, rows: Tensor) -> list[Tensor]:
        """Each rank's rows (n, ...), n of its own, bit for bit in any data type."""
        width = rows[:1].numel() * rows.element_size() if len(rows) else 0
        lengths = [torch.zeros(2, dtype=torch.int64, device=rows.device) for _ in range(self.world)]
        with _heard():
            torch.distributed.all_gather(lengths, torch.tensor([len(rows), width], device=rows.device))
        counts, width = [int(each[0]) for each in lengths], max(int(each[1]) for each in lengths)
        sent = torch.zeros(max(counts) * width, dtype=torch.uint8, device=rows.device)
        if len(rows):
            sent[: len(rows) * width] = rows.contiguous().reshape(-1).view(torch.uint8)
        found = [torch.empty_like(sent) for _ in counts]
        with _heard():
            torch.distributed.all_gather(found, sent)
        return [
            part[: count * width].view(rows.dtype).reshape(count, *rows.shape[1:])
            for part, count in zip(found, counts, strict=True)
        ]


ALONE = Ranks()


class SharedBuffers:
    """The models' floating-point buffers, such as BatchNorm's running statistics: each rank moves them by what it saw, and
    after the step each stands where it stood before plus the mean of the ranks' moves. Alone: as they are."""

    def __init__(self, ranks: Ranks, modules: Iterable[nn.Module]) -> None:
        self.ranks = ranks
        shared = {id(b): b for module in modules for b in module.buffers() if b.dtype.is_floating_point}
        self.buffers = list(shared.values()) if ranks.world > 1 else []
        self.before = [buffer.clone() for buffer in self.buffers]

    def settle(self) -> None:
        if not self.buffers:
            return
        with torch.no_grad():
            moves = [buffer - before for buffer, before in zip(self.buffers, self.before, strict=True)]
            self.ranks.add(moves)
            for buffer, before, move in zip(self.buffers, self.before, moves, strict=True):
                before += move / self.ranks.world
                buffer.copy_(before)


@contextmanager
def joined(meeting: Path, rank: int, world: int, accelerator: str) -> Iterator[Ranks]:
    """Meet the other ranks at a file that they all see; gloo between CPUs, NCCL between GPUs, one a rank.

    Raises:
        PluginError: this process has joined a process group of its own already.
    """
    if torch.distributed.is_initialized():
        problem = "this process is a member of a torch.distributed group already"
        raise PluginError(problem, path="run.devices", expected="1 in a program that has joined a process group")
    _stay_on_this_machine()
    on_gpu = accelerator == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    with _heard():
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world,
            timeout=PATIENCE,
        )
    try:
        yield Ranks(rank, world)
    finally:
        torch.distributed.destroy_process_group()


def _stay_on_this_machine() -> None:
    """All ranks are here: connect by loopback, as a host's own name may resolve to nothing, or to the outside."""
    loopback = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.family == socket.AF_INET and each.address.startswith("127.") for each in addresses)
    ]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback[0])


@contextmanager
def _heard() -> Iterator[None]:
    """torch's errors of a connection that broke, as ours."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(f"another process of this training ended: {str(error).splitlines()[0]}") from error
