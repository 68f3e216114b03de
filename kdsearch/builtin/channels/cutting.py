"""One cut: groups that can go, the gentlest level at which a limit holds, and the proof that it is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import nn

from kdsearch.builtin.channels.copies import copied
from kdsearch.builtin.channels.exact import exact_cut, precision
from kdsearch.builtin.channels.groups import Group, chosen, exact_groups, groups_of, layer_of, no_labels
from kdsearch.builtin.channels.heads import open_heads, openable
from kdsearch.builtin.channels.importance import Scores
from kdsearch.builtin.channels.levels import Counts, counts_at, gentlest, least_of
from kdsearch.builtin.channels.surgery import Cut, Gone, cut_copy
from kdsearch.builtin.channels.tracing import Inputs, Traced, computed, macs, traced, weights
from kdsearch.errors import RefusedError
from kdsearch.kit.costs import count_module

TRIES = 8  # cuts, where one is not exact, or the count of operators differs from the count of a pass
SHOWN = 12  # layers named in a line of the log
FOLLOWED, TRIED, SCORED = (
    0.2,
    0.6,
    0.8,
)  # of the planning that is done once channels are followed, cuts tried, groups scored

Scorer = Callable[[nn.Module, Sequence[Group]], tuple[list[Scores], list[str]]]
Told = Callable[[float, str], None]


def silent(share: float, what: str) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Rules:
    """How channels are chosen. See `ChannelsOptions`."""

    scope: Literal["global", "layer"]
    round_to: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True)
class Counted:
    """Cost of a network for one sample.

    Args:
        matrices: weights of tensors with two dimensions or more, among `params`.
        computed: numbers of softmax, norms over features and smooth activations; 0 where nobody followed the network.
    """

    params: int
    macs: int
    matrices: int
    computed: int = 0

    @classmethod
    def of(cls, module: nn.Module, one: Inputs) -> Counted:
        cost = count_module(module, one)
        return cls(cost.params, cost.macs, sum(each.numel() for each in module.parameters() if each.dim() > 1))


@dataclass(frozen=True)
class Found:
    """A cut and what it leaves."""

    cut: Cut
    module: nn.Module
    counted: Counted
    log: tuple[str, ...] = ()


@dataclass
class Cutter:
    """A network whose channels are known, ready to be cut to any limit.

    Args:
        opened: the same network with attention whose heads can go.
        probes: inputs that a cut network must answer as the masked one does, of one size or two; the first are followed.
        one: a sample, for counting.
        groups: those that are cut exactly. left_out: the others, each with its reason.
        told: is told the share of the planning that is done, and what comes next.
    """

    module: nn.Module
    opened: nn.Module
    probes: Sequence[Inputs]
    one: Inputs
    rules: Rules
    trace: Traced
    groups: list[Group]
    left_out: list[tuple[Group, str]]
    scores: dict[int, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ratio: float = 1.0  # of MACs counted in a pass, over those of the operators that were followed
    told: Told = silent

    @classmethod
    def of(
        cls, module: nn.Module, probes: Sequence[Inputs], one: Inputs, rules: Rules, score: Scorer, told: Told = silent
    ) -> Cutter:
        told(0.0, "following channels")
        opened = open_heads(copied(module, lambda _, tensor: tensor), openable(module))
        opened.eval()  # in training a weight that is computed may change buffers when it is looked at, and they are the module's
        trace = traced(opened, probes[0])
        asked = chosen(groups_of(trace, opened), rules.include, rules.exclude)

        def trying(tried: int) -> None:
            told(
                FOLLOWED + (TRIED - FOLLOWED) * min(tried / max(len(asked), 1), 1),
                f"trying cuts of {len(asked)} groups",
            )

        groups, left_out = exact_groups(module, opened, trace, asked, probes, told=trying)
        told(TRIED, f"importances of {len(groups)} groups")
        scores, notes = score(opened, groups)
        made = cls(module, opened, probes, one, rules, trace, groups, left_out, notes=notes, told=told)
        made.scores = {id(group): each for group, each in zip(groups, scores, strict=True)}
        made.ratio = made.counted.macs / max(macs(trace, no_labels(trace)), 1)
        return made

    def again(self, score: Scorer | None = None) -> Cutter:
        """The same network, ready to be cut anew; with `score`, its channels judged otherwise."""
        made = replace(self, groups=[*self.groups], left_out=[*self.left_out])
        if score is not None:
            scores, made.notes = score(self.opened, self.groups)
            made.scores = {id(group): each for group, each in zip(self.groups, scores, strict=True)}
        return made

    @cached_property
    def precision(self) -> torch.dtype:
        return precision(self.module, self.probes)

    @cached_property
    def counted(self) -> Counted:
        return replace(Counted.of(self.module, self.one), computed=self._computed(no_labels(self.trace)))

    def _computed(self, gone: Gone) -> int:
        return computed(self.trace, gone) // len(self.probes[0][0])

    def gone(self, stay: dict[int, int], groups: Sequence[Group]) -> Gone:
        """Labels that go of these groups."""
        found = no_labels(self.trace)
        for each in groups:
            found[least_of(each, self.scores[id(each)], stay[id(each)])] = True
        return found

    def _counted(self, counts: Counts) -> Counted:
        """What the network is taken to cost when so many channels of each group stay."""
        gone = self.gone(self._stay(counts), self.groups)
        own = list(self.module.named_parameters())
        params, matrices = (
            weights(self.trace, [name for name, each in own if each.dim() > least], gone) for least in (-1, 1)
        )
        return Counted(params, round(macs(self.trace, gone) * self.ratio), matrices, self._computed(gone))

    def _stay(self, counts: Counts) -> dict[int, int]:
        return {id(each): n for each, n in zip(self.groups, counts, strict=True)}

    def reach(self, holds: Callable[[Counted], bool], round_to: int) -> Counted | None:
        """What the gentlest cut in these steps is taken to cost; None where there is none. Nothing is cut."""
        counts = self._gentlest(holds, round_to)
        return None if counts is None else self._counted(counts)

    def _gentlest(self, holds: Callable[[Counted], bool], round_to: int) -> Counts | None:
        scores = [self.scores[id(each)] for each in self.groups]
        return gentlest(self.groups, scores, self.rules.scope, round_to, lambda counts: holds(self._counted(counts)))

    def meet(self, holds: Callable[[Counted], bool], round_to: int | None = None) -> Found:
        """The gentlest exact cut whose counted cost `holds`. Raise RefusedError where there is none, with what can be reached.

        round_to: of this cut; None = that of the rules.
        """
        round_to = round_to or self.rules.round_to
        for nth in range(TRIES):
            self.told(SCORED + (1 - SCORED) * nth / TRIES, f"cut {nth + 1}")
            counts = self._gentlest(holds, round_to)
            if counts is None:
                raise self._short(round_to)
            stay = self._stay(counts)
            lost = self.gone(stay, self.groups)
            cut, wrong = exact_cut(
                self.module, self.opened, self.trace, lost, self.probes, self.precision, is_final=True
            )
            if wrong:  # what was exact for some channels is not for these
                gone = partial(self.gone, stay)
                self.groups, left = exact_groups(self.module, self.opened, self.trace, self.groups, self.probes, gone)
                self.left_out += left
                continue
            small = cut_copy(self.module, cut)
            cost = replace(Counted.of(small, self.one), computed=self._computed(lost))
            found = Found(cut, small, cost, self._log(counts))
            if holds(found.counted):
                return found
            self.ratio *= found.counted.macs / max(self._counted(counts).macs, 1) * 1.002
        raise RefusedError(
            f"no cut was found in {TRIES} tries that answers as the network with zeros in its place",
            path="compress.prune.options",
            expected="an exact cut",
            fix="Leave layers out with exclude, or raise the target.",
        )

    def _short(self, round_to: int) -> RefusedError:
        scores = [self.scores[id(each)] for each in self.groups]
        whole, least = self.counted, self._counted(counts_at(self.groups, scores, 1.0, self.rules.scope, round_to))
        others = f"; left out: {self.left_out[0][0]}: {self.left_out[0][1]}" if self.left_out else ""
        others += f" and {len(self.left_out) - 1} more" if len(self.left_out) > 1 else ""
        others += "".join(f"; {each}" for each in staying(self.opened, self.trace, shown=2))
        return RefusedError(
            f"pruning reaches {least.macs / whole.macs:.3f} of the MACs and {least.params / whole.params:.3f} of the weights "
            f"with {round_to} channels left in each of {len(self.groups)} groups{others}",
            path="compress.prune.options",
            expected="a target above that",
            fix=f"Ask for less{f', set round_to below {round_to}' if round_to > 1 else ''}, or prune a wider network.",
        )

    def _log(self, counts: Counts) -> tuple[str, ...]:
        return (
            *(f"{each}: {len(each) - n} fewer" for each, n in zip(self.groups, counts, strict=True) if n < len(each)),
            *self.notes,
            *(f"left out: {group}: {reason}" for group, reason in self.left_out),
            *staying(self.opened, self.trace),
        )


def staying(module: nn.Module, trace: Traced, shown: int = SHOWN) -> list[str]:
    """Layers that keep their channels, by reason, the first ones by name."""
    by_reason: dict[str, dict[str, None]] = {}
    for name, parameter in module.named_parameters():
        dim = int(isinstance(module.get_submodule(layer_of(name)), nn.Embedding))
        if parameter.dim() > 1 and (name, dim) in trace.reasons and not trace.tensors[name][dim].columns:
            by_reason.setdefault(trace.reasons[name, dim], {})[layer_of(name) or name] = None
    return [
        f"stays: {', '.join(list(layers)[:shown])}{f' and {len(layers) - shown} more' if len(layers) > shown else ''}: {reason}"
        for reason, layers in by_reason.items()
    ]
