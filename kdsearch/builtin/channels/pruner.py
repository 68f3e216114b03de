"""Structured channel pruning of any network that runs: channels that go together are found by following them through one pass.

After DepGraph (Fang et al., CVPR 2023, arXiv 2301.12900), whose groups couple layers. Ours: single channels are followed through
every operator, so that shuffles, halves, heads and token mixers need no rule of their own; the level is searched until the counted
cost meets the target; and no cut is handed on that was not seen to answer as the network with zeros does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from kdsearch.builtin.channels.cutting import Cutter, Rules
from kdsearch.builtin.channels.groups import Group
from kdsearch.builtin.channels.importance import Importance, Scores, scores_of
from kdsearch.builtin.channels.surgery import Cut, cut_copy
from kdsearch.builtin.channels.tracing import Inputs
from kdsearch.errors import UserError
from kdsearch.kinds import Compressor, Cost, Field, Model, Options, Plan, Subject, Tap, searched
from kdsearch.kinds.forward import recorded
from kdsearch.kit.costs import count_module
from kdsearch.kit.streams import stream
from kdsearch.ops.undisturbed import undisturbed

PROBES = 2  # samples of the probe batch


class ChannelsOptions(Options):
    macs: Annotated[float | None, searched(low=0.3, high=0.95)] = Option(
        0.7, gt=0, le=1, description="share of the multiply-accumulates that may stay; null = not asked"
    )
    params: Annotated[float | None, searched(low=0.3, high=0.95)] = Option(
        None, gt=0, le=1, description="share of the weights that may stay"
    )
    importance: Importance = Option(
        "l2",
        description="l1, l2: norm of a channel's weights over all layers that it couples; bn_scale: its batch norms' scale; "
        "random: the control",
    )
    scope: Literal["global", "layer"] = Option(
        "global", description="global: the least important channels anywhere go; layer: the same share of every layer"
    )
    round_to: int = Option(4, ge=1, description="kept channels are a multiple of this")
    steps: int = Option(1, ge=1, description="rounds, each with fresh importances, on the way to the target")
    include: tuple[str, ...] = Option(
        ("*",), strict=False, description="globs on paths of layers; channels of none of them stay"
    )
    exclude: tuple[str, ...] = Option((), strict=False, description="globs on paths of layers that keep their channels")


class Channels(Compressor[ChannelsOptions]):
    """Removes the least important channels until the target holds, at least `round_to` of each group staying.

    Channels are outputs of any layer, heads of attention, units of recurrent layers. What the network's answers consist of
    stays, and so does what a norm without weights, a mean or a softmax is taken over; the log says which layers stay and why.
    """

    def plan(self, subject: Subject) -> Plan:
        """What to slice, a cut a step. Raise RefusedError, saying what can be reached, where it falls short."""
        options, model = self.options, subject.model
        if options.macs is None and options.params is None:
            raise UserError("neither macs nor params is set", path="compress.prune.options", expected="a target")
        fields = [subject.io.input(name) for name in model.inputs]
        described = _described(fields)
        one, probes = _inputs(described), tuple(each.noise(PROBES, stream(0, "probe", each.name)) for each in fields)
        before = after = count_module(model.module, one)
        module, steps, log = model.module, list[Cut](), list[str]()
        rules = Rules(options.scope, options.round_to, options.include, options.exclude)

        def score(module: nn.Module, groups: Sequence[Group]) -> tuple[list[Scores], list[str]]:
            return scores_of(options.importance, module, groups, subject.rng("channels"), {})

        for step in range(1, options.steps + 1):
            limit = _Limit.of(options, before, step / options.steps)
            if limit.holds(after):
                steps.append(Cut({}))
                continue
            found = Cutter.of(module, probes, one, rules, score).meet(limit.holds)
            module, after = found.module, found.cost
            steps.append(found.cut)
            log += found.log
        log = [
            f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / max(1, before.macs):.3f})",
            f"weights {before.params:,} -> {after.params:,} ({after.params / max(1, before.params):.3f})",
            *log,
        ]
        return Plan({"inputs": described, "steps": [each.as_json() for each in steps]}, log=tuple(log))

    def apply(self, model: Model, plan: Plan) -> Model:
        """A pruned copy: equal shapes for equal architectures, equal values for equal weights."""
        module = model.copy().module
        for step in plan.edits["steps"]:
            module = cut_copy(module, Cut.from_json(step))
        inputs = _inputs(plan.edits["inputs"])
        cost = count_module(module, inputs)
        pruned = replace(model, module=module)
        return replace(pruned, taps=_taps(pruned, inputs), cost_of=lambda: cost)


@dataclass(frozen=True)
class _Limit:
    macs: float
    params: float

    @classmethod
    def of(cls, options: ChannelsOptions, full: Cost, progress: float) -> _Limit:
        def bound(share: float | None, whole: int) -> float:
            return math.inf if share is None else whole * (1 - (1 - share) * progress)

        return cls(bound(options.macs, full.macs), bound(options.params, full.params))

    def holds(self, cost: Cost) -> bool:
        return cost.macs <= self.macs and cost.params <= self.params


def _described(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Inputs as JSON, so that a plan replays without the study's io; a dynamic size is 8."""
    return [{"shape": list(each.sizes), "dtype": each.dtype} for each in fields]


def _inputs(described: Sequence[dict[str, Any]]) -> Inputs:
    return tuple(torch.zeros((1, *each["shape"]), dtype=getattr(torch, each["dtype"])) for each in described)


def _taps(model: Model, inputs: Inputs) -> tuple[Tap, ...]:
    """The model's taps with the shapes they have now; sizes that were dynamic stay so."""
    with undisturbed(model.module, train=False), recorded(model, model.taps) as now:
        model.module(*(each.to(_device(model.module)) for each in inputs))

    def shape(tap: Tap) -> tuple[int | None, ...]:
        has: Any = now[tap.name].shape[1:] if tap.name in now else tap.shape
        return tuple(None if had is None else size for had, size in zip(tap.shape, has, strict=True))

    return tuple(replace(each, shape=shape(each)) for each in model.taps)


def _device(module: nn.Module) -> torch.device:
    first: Tensor | None = next(module.parameters(), None)
    return first.device if first is not None else torch.device("cpu")
