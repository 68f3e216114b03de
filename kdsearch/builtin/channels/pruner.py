"""Structured channel pruning of any network that runs: channels that go together are found by following them through one pass.

After DepGraph (Fang et al., CVPR 2023, arXiv 2301.12900), whose groups couple layers. Ours: single channels are followed through
every operator, so that shuffles, halves, heads and token mixers need no rule of their own; the level is searched until the counted
cost meets the target; and no cut is handed on that was not seen to answer as the network with zeros does.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from kdsearch.builtin.channels.cutting import Counted, Cutter, Rules, Scorer
from kdsearch.builtin.channels.groups import Group
from kdsearch.builtin.channels.importance import (
    FROM_DATA,
    TRIED,
    Importance,
    Scores,
    scores_of,
    with_own_statistics,
)
from kdsearch.builtin.channels.surgery import Cut, cut_copy
from kdsearch.builtin.channels.targets import STEPS, Format, Limit, bytes_of, meet_latency
from kdsearch.builtin.channels.timing import timing
from kdsearch.builtin.channels.tracing import Inputs
from kdsearch.errors import PluginError, RefusedError, UserError, nearest, one_of
from kdsearch.kinds import IO, Batch, Compressor, Field, Model, Options, Plan, Subject, Tap, searched
from kdsearch.kinds.forward import recorded
from kdsearch.kit.costs import count_module
from kdsearch.kit.streams import stream
from kdsearch.ops.record import See, Side, hooked
from kdsearch.ops.undisturbed import undisturbed

DEFAULT_MACS, ROUND_TO = 0.7, 4
PROBES = 2  # samples of the probe batch
JUDGED = 1000  # validation samples that decide between importances


class ChannelsOptions(Options):
    macs: Annotated[float | None, searched(low=0.3, high=0.95)] = Option(
        None, gt=0, le=1, description="share of the multiply-accumulates that may stay; 0.7 where there is no target"
    )
    params: Annotated[float | None, searched(low=0.3, high=0.95)] = Option(
        None, gt=0, le=1, description="share of the weights that may stay"
    )
    bytes: int | None = Option(
        None, gt=0, description="bytes of the weights in `format`; the graph itself comes on top"
    )
    format: Format = Option("onnx-fp32", description="what `bytes` counts")
    latency_ms: float | None = Option(
        None, gt=0, description="milliseconds of the fp32 file in onnxruntime here, at batch 1, on one thread"
    )
    importance: Importance = Option(
        "auto",
        description="by weights: l1, l2, bn_scale; by gradients of the loss: taylor, hessian; by what layers are fed: activation; "
        "random: the control; auto: l2 or taylor, whichever cut network is better on validation",
    )
    samples: int = Option(
        128, ge=1, description="training samples that taylor (of auto, too), hessian and activation look at"
    )
    scope: Literal["global", "layer"] = Option(
        "global", description="global: the least important channels anywhere go; layer: the same share of every layer"
    )
    round_to: int | None = Option(
        None,
        ge=1,
        description="kept channels are a multiple of this; null: 4, or 16 where latency_ms asks and 16 comes near it",
    )
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

    def preflight(self, model: Model, io: IO) -> None:
        """Raise UserError for a glob that names no part of the network: what it was to keep would go."""
        paths = sorted({name.rpartition(".")[0] for name, _ in model.module.named_parameters()})
        if not paths:
            raise UserError("the network has no parameters: there is nothing to prune", path="compress.prune")
        for key in ("include", "exclude"):
            for nth, glob in enumerate(getattr(self.options, key)):
                if not any(fnmatch.fnmatchcase(path, glob) for path in paths):
                    raise UserError(
                        f"'{glob}' matches no layer of this network",
                        path=f"compress.prune.options.{key}[{nth}]",
                        nearest=nearest(glob, paths),
                        expected=f"a glob on paths such as {one_of(paths[:: max(1, len(paths) // 5)])}",
                    )

    @property
    def is_timed(self) -> bool:
        return self.options.latency_ms is not None

    def plan(self, subject: Subject) -> Plan:
        """What to slice, a cut a step. Raise RefusedError, saying what can be reached, where it falls short."""
        options, model = self.options, subject.model
        fields = [subject.io.input(name) for name in model.inputs]
        described = _described(fields)
        one, probes = _inputs(described), _probes(model.module, fields)
        before = after = Counted.of(model.module, one)
        module, steps, log = model.module, list[Cut](), list[str]()
        rules = Rules(options.scope, options.round_to or ROUND_TO, options.include, options.exclude)

        kind: Importance = TRIED[0] if options.importance == "auto" else options.importance
        is_open = options.importance == "auto"
        for step in range(1, options.steps + 1):
            limit = self._limit(before, step / options.steps)
            is_timed = options.latency_ms is not None and step == options.steps
            if limit.holds(after) and not is_timed:
                steps.append(Cut({}))
                continue

            def planned(share: float, what: str, done: int = step - 1) -> None:
                self.progress((done + share) / options.steps, what)

            cutter = Cutter.of(module, probes, one, rules, self._scorer(kind, subject), planned)
            if is_open:
                (kind, cutter), line = self._better(cutter, self._goal(before), subject)
                is_open, log = False, [*log, line]
            if is_timed:
                assert options.latency_ms is not None
                multiples = (options.round_to,) if options.round_to else STEPS
                with timing(model, subject.io) as timed:
                    found, told = meet_latency(cutter, options.latency_ms, limit, timed, multiples)
                log += told
            else:
                found = cutter.meet(limit.holds)
            module, after = found.module, found.counted
            steps.append(found.cut)
            log += found.log
        sizes = [f"{bytes_of(each, options.format):,.0f}" for each in (before, after)]
        log = [
            f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / max(1, before.macs):.3f})",
            f"weights {before.params:,} -> {after.params:,} ({after.params / max(1, before.params):.3f})",
            *([f"bytes of the weights as {options.format}: {' -> '.join(sizes)}"] if options.bytes else []),
            *log,
        ]
        return Plan({"inputs": described, "steps": [each.as_json() for each in steps]}, log=tuple(log))

    def _better(self, cutter: Cutter, limit: Limit, subject: Subject) -> tuple[tuple[Importance, Cutter], str]:
        """Of what `auto` tries, the one whose network, cut to the targets at once, is better on validation; and a line about it.

        Batch norms take their statistics anew first: with those of the uncut network a deep one answers at random, however it was
        cut (Li et al., EagleEye, ECCV 2020, arXiv 2007.02491).

        Gradients are far better of most networks, and say little of one that has learnt its training samples by heart.
        """
        found: dict[Importance, tuple[float, Cutter]] = {}
        for kind in TRIED:
            try:
                tried = cutter.again(None if kind == TRIED[0] else self._scorer(kind, subject))
                module = tried.again().meet(limit.holds).module
                settled = with_own_statistics(module, self._runs("taylor", subject, least=2))
                found[kind] = subject.score(replace(subject.model, module=settled), JUDGED), tried
            except (PluginError, RefusedError) as error:  # there are no data, or no such cut
                return (TRIED[0], cutter), f"importance {TRIED[0]}, since taylor cannot be tried: {error.problem}"
        best = max(TRIED, key=lambda kind: found[kind][0] if math.isfinite(found[kind][0]) else -math.inf)
        scores = ", ".join(f"{kind} {found[kind][0]:.4g}" for kind in TRIED)
        return (best, found[best][1]), f"importance {best}: on validation before recovery, higher is better: {scores}"

    def _goal(self, whole: Counted) -> Limit:
        """What networks are cut to where importances are compared: the targets; of a latency alone the usual share of MACs."""
        limit = self._limit(whole, 1.0)
        return replace(limit, macs=min(limit.macs, DEFAULT_MACS * whole.macs)) if self.is_timed else limit

    def _scorer(self, kind: Importance, subject: Subject) -> Scorer:
        def score(module: nn.Module, groups: Sequence[Group]) -> tuple[list[Scores], list[str]]:
            return scores_of(kind, module, groups, subject.rng("channels"), self._runs(kind, subject))

        return score

    def _runs(self, kind: Importance, subject: Subject, least: int = 1) -> list[Callable[[nn.Module], Tensor]]:
        """The task's loss on training samples, a function of the network; one sample each for second-order scores.

        least: samples of a run; fewer that are left over at the end are none.
        """
        if kind not in FROM_DATA:
            return []
        size = 1 if kind == "hessian" else 32

        def loss_on(batch: Batch) -> Callable[[nn.Module], Tensor]:
            return lambda module: subject.loss(replace(subject.model, module=module), batch)

        batches = subject.batches(self.options.samples, size=size)
        return [loss_on(batch) for batch in batches if len(batch) >= least]

    def _limit(self, whole: Counted, progress: float) -> Limit:
        """The targets, or what is on the way to them; a latency is met in the last step alone."""
        options = self.options
        is_open = options.params is options.bytes is options.latency_ms is None
        macs = DEFAULT_MACS if options.macs is None and is_open else options.macs

        def bound(target: float | None, full: float) -> float:
            return math.inf if target is None else full - (full - target) * progress

        return Limit(
            bound(macs and macs * whole.macs, whole.macs),
            bound(options.params and options.params * whole.params, whole.params),
            bound(options.bytes, max(bytes_of(whole, options.format), options.bytes or 0)),
            format=options.format,
        )

    def apply(self, model: Model, plan: Plan) -> Model:
        """A pruned copy: equal shapes for equal architectures, equal values for equal weights."""
        module = model.copy().module
        for step in plan.edits["steps"]:
            module = cut_copy(module, Cut.from_json(step))
        inputs = _inputs(plan.edits["inputs"])
        cost = count_module(module, inputs)
        pruned = replace(model, module=module)
        return replace(pruned, taps=_taps(pruned, inputs), cost_of=lambda: cost)


def _described(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Inputs as JSON, so that a plan replays without the study's io."""
    fills = [int(each.blank().bool().any()) for each in fields]
    return [
        {"shape": list(each.sizes), "dtype": each.dtype, "fill": fill} for each, fill in zip(fields, fills, strict=True)
    ]


def _probes(module: nn.Module, fields: Sequence[Field]) -> list[Inputs]:
    """Noise; where sizes are open, also of twice the size, unless the network does not take it; and what takes other branches."""

    def noise(times: int) -> Inputs:
        sized = [replace(each, open_size=times * each.open_size) for each in fields]
        return tuple(each.noise(PROBES, stream(0, "probe", each.name)) for each in sized)

    found = _branches(module, noise(1))
    if any(None in each.shape for each in fields):
        try:
            with undisturbed(module, train=False):
                module(*(each.to(_device(module)) for each in noise(2)))
        except Exception:  # it has positions for so many, say
            return found
        found.append(noise(2))
    return found


def _branches(module: nn.Module, noise: Inputs) -> list[Inputs]:
    """The noise; of a network with layers that it does not reach, by one sign alone, too, where that reaches others.

    A branch that depends on values is followed one way alone, and what both ways share has to fit the other one.
    """
    found, reached = [noise], _reached(module, noise)
    every = {path for path, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None}
    for sign in (1, -1) if every - reached else ():
        tried = tuple(sign * each.abs() if each.is_floating_point() else each for each in noise)
        if more := _reached(module, tried) - reached:
            found.append(tried)
            reached |= more
    return found


def _reached(module: nn.Module, inputs: Inputs) -> set[str]:
    """Paths of the parts that run at these inputs; none where it fails at them."""
    seen = set[str]()
    places: list[tuple[nn.Module, Side, See]] = [
        (part, "output", lambda *_, path=path: seen.add(path)) for path, part in module.named_modules()
    ]
    try:
        with undisturbed(module, train=False), hooked(places):
            module(*(each.to(_device(module)) for each in inputs))
    except Exception:  # values that it does not take
        return set()
    return seen


def _inputs(described: Sequence[dict[str, Any]]) -> Inputs:
    return tuple(
        torch.full((1, *each["shape"]), each["fill"], dtype=getattr(torch, each["dtype"])) for each in described
    )


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
