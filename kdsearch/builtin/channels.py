"""Structured channel pruning over Torch-Pruning's dependency graph of coupled channels (Fang et al., CVPR 2023, arXiv 2301.12900).

Ours: the level is searched until the counted cost meets the target, not set as a share of channels.
"""

from __future__ import annotations

import fnmatch
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field as Option
from torch import Generator, Tensor, nn

from kdsearch.errors import RefusedError, UserError
from kdsearch.kinds import Compressor, Cost, Field, Model, Options, Plan, Subject, Tap, searched
from kdsearch.kinds.forward import recorded
from kdsearch.kit.costs import count_module
from kdsearch.ops.undisturbed import undisturbed

BISECTIONS = 10  # the level is found to 1/1024, finer than one channel of the usual layer
ROOTS = (nn.modules.conv._ConvNd, nn.Linear)

Edit = list[Any]  # Torch-Pruning's record: [path of the layer, whether output channels, channels that go]
Inputs = tuple[Tensor, ...]


class ChannelsOptions(Options):
    macs: Annotated[float | None, searched(low=0.3, high=0.95)] = Option(
        0.7, gt=0, le=1, description="share of the multiply-accumulates that may stay; null = only `params` counts"
    )
    params: Annotated[float | None, searched(low=0.3, high=0.95)] = Option(
        None, gt=0, le=1, description="share of the weights that may stay"
    )
    importance: Literal["l1", "l2", "random"] = Option(
        "l2", description="norm of a channel's weights over all layers that it couples; random is the control"
    )
    scope: Literal["global", "layer"] = Option(
        "global", description="global: the least important channels anywhere go; layer: the same share of every layer"
    )
    round_to: int = Option(4, ge=1, description="kept channels are a multiple of this")
    steps: int = Option(1, ge=1, description="rounds, each with fresh importances, on the way to the target")
    keep: tuple[str, ...] = Option((), strict=False, description="globs on paths of layers that keep their channels")


@dataclass(frozen=True)
class _Group:
    """Channels that must go together, by the first layer that makes them.

    Args:
        path: of that layer.
        importance: (n,), one a channel; where a layer works in `repeat` separate parts, one a channel of each part.
        repeat: channel i of the group is i, i + n, ... of the layer.
    """

    path: str
    importance: Tensor
    repeat: int


class Channels(Compressor[ChannelsOptions]):
    """Removes the least important channels until the target holds, at least `round_to` of each group staying.

    Layers whose channels are the outputs stay; so do attention modules (anything with `num_heads`) and the stream they write
    to: their widths are wired into reshapes.
    """

    def plan(self, subject: Subject) -> Plan:
        """Torch-Pruning's pruning history, a list a step. Raise RefusedError, saying what can be reached, where it falls short."""
        options = self.options
        if options.macs is None and options.params is None:
            raise UserError("neither macs nor params is set", path="compress.prune.options", expected="a target")
        model, inputs = subject.model, _inputs(_described([subject.io.input(name) for name in subject.model.inputs]))
        before = count_module(model.module, inputs)
        rng = subject.rng("channels")
        module, steps, after = model.copy().module, list[list[Edit]](), before
        for step in range(1, options.steps + 1):
            limit = _Limit.of(options, before, step / options.steps)
            edits, module = _meet(module, inputs, limit, options, rng)
            after = count_module(module, inputs)
            steps.append(edits)
        log = (
            f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / max(1, before.macs):.3f})",
            f"weights {before.params:,} -> {after.params:,} ({after.params / max(1, before.params):.3f})",
            *(f"{path}: {len(gone)} channels fewer" for edits in steps for path, _, gone in edits),
        )
        fields = _described([subject.io.input(name) for name in model.inputs])
        return Plan({"inputs": fields, "steps": steps}, log=log)

    def apply(self, model: Model, plan: Plan) -> Model:
        """A pruned copy: equal shapes for equal architectures, equal values for equal weights."""
        pruned = model.copy()
        inputs = _inputs(plan.edits["inputs"])
        for edits in plan.edits["steps"]:
            _replay(pruned.module, inputs, edits)
        cost = count_module(pruned.module, inputs)
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


def _meet(
    module: nn.Module, inputs: Inputs, limit: _Limit, options: ChannelsOptions, rng: Generator
) -> tuple[list[Edit], nn.Module]:
    """The gentlest edits after which the limit holds, and the module after them."""
    groups = _groups(module, inputs, options, rng)

    def cut(edits: list[Edit]) -> tuple[nn.Module, Cost]:
        pruned = _copy(module)
        _replay(pruned, inputs, edits)
        return pruned, count_module(pruned, inputs)

    whole = count_module(module, inputs)
    if limit.holds(whole):
        return [], module
    best, gentler = _edits(groups, 1.0, options), list[Edit]()
    pruned, least = cut(best)
    if not limit.holds(least):
        raise RefusedError(
            f"pruning reaches {least.macs / whole.macs:.3f} of the MACs and {least.params / whole.params:.3f} of the weights "
            f"with {options.round_to} channels left in each of {len(groups)} groups",
            path="compress.prune.options",
            expected="a target above that",
            fix="Raise macs or params, lower round_to, or choose a smaller architecture.",
        )
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        edits = _edits(groups, middle, options)
        tried, cost = cut(edits)
        if limit.holds(cost):
            best, pruned, high = edits, tried, middle
        else:
            gentler, low = edits, middle
    # Many groups may shrink by `round_to` at one level: give back what need not go (0.30 -> 0.40 at a target of 0.5).
    kept = {edit[0]: edit for edit in gentler}
    for path in [edit[0] for edit in best]:
        edits = [each for each in (kept.get(path) if edit[0] == path else edit for edit in best) if each]
        if edits != best:
            tried, cost = cut(edits)
            if limit.holds(cost):
                best, pruned = edits, tried
    return best, pruned


def _edits(groups: Sequence[_Group], level: float, options: ChannelsOptions) -> list[Edit]:
    """What goes at `level`, 0 = nothing, 1 = everything but `round_to` channels a group; lower levels' channels go at higher."""
    every = torch.cat([each.importance for each in groups]) if groups else torch.empty(0)
    bar = every.sort().values[max(0, math.ceil(level * len(every)) - 1)] if len(every) else 0.0
    edits: list[Edit] = []
    for group in groups:
        n = len(group.importance)
        kept = int((group.importance > bar).sum()) if options.scope == "global" else round(n * (1 - level))
        kept = min(n, max(1, math.ceil(kept / options.round_to)) * options.round_to)
        gone = group.importance.argsort(stable=True)[: n - kept].tolist()
        if gone:
            edits.append([group.path, True, sorted(at + part * n for part in range(group.repeat) for at in gone)])
    return edits


def _groups(module: nn.Module, inputs: Inputs, options: ChannelsOptions, rng: Generator) -> list[_Group]:
    """Every group that may be pruned; one without which the network cannot run (its width is wired in) is left out."""
    groups = list(_found(module, inputs, options, rng))
    if _runs(module, inputs, [edit for group in groups for edit in _trial([group])]):
        return groups
    return [group for group in groups if _runs(module, inputs, _trial([group]))]


def _trial(groups: Sequence[_Group]) -> list[Edit]:
    return [
        [each.path, True, [part * len(each.importance) for part in range(each.repeat)]]
        for each in groups
        if len(each.importance) > 1
    ]


def _runs(module: nn.Module, inputs: Inputs, edits: list[Edit]) -> bool:
    """Whether the network, so pruned, still answers in the same shapes."""
    pruned = _copy(module)
    try:
        _replay(pruned, inputs, edits)
        return _shapes(pruned, inputs) == _shapes(module, inputs)
    except Exception:  # a network may fail in any way when its widths no longer fit
        return False


def _shapes(module: nn.Module, inputs: Inputs) -> list[torch.Size]:
    with undisturbed(module, train=False):
        out = module(*inputs)
    values = out.values() if isinstance(out, dict) else [out] if isinstance(out, Tensor) else out
    return [each.shape for each in values]


def _found(module: nn.Module, inputs: Inputs, options: ChannelsOptions, rng: Generator) -> Iterator[_Group]:
    import torch_pruning as tp

    score = _importance(options.importance, rng)
    traced = _copy(module)
    with _traced(traced, inputs) as graph:
        paths = {each: path for path, each in traced.named_modules()}
        for group in graph.get_all_groups(ignored_layers=_fixed(graph, traced, options.keep), root_module_types=ROOTS):
            root = group[0].dep.target.module
            importance = score(group)
            if importance is None or len(importance) == 0:
                continue
            repeat = 1
            for dep, _ in group:
                layer, pruner = dep.target.module, graph.get_pruner_of_module(dep.target.module)
                depthwise = isinstance(layer, tp.ops.TORCH_CONV) and layer.groups == layer.out_channels
                if isinstance(layer, nn.Module) and pruner is not None and not depthwise:
                    out = graph.is_out_channel_pruning_fn(dep.handler)
                    found = pruner.get_out_channel_groups(layer) if out else pruner.get_in_channel_groups(layer)
                    repeat = max(repeat, found)
            yield _Group(paths[root], importance.detach().float().view(repeat, -1).mean(0), repeat)


def _importance(name: str, rng: Generator) -> Callable[[Any], Any]:
    import torch_pruning as tp

    if name == "random":
        return lambda group: torch.rand(len(group[0].idxs), generator=rng)
    norm = tp.importance.GroupMagnitudeImportance(p=1 if name == "l1" else 2)
    return lambda group: norm(group)


def _fixed(graph: Any, module: nn.Module, keep: Sequence[str]) -> list[nn.Module]:
    """Layers whose channels stay: those that make the outputs, attention's, and the user's."""
    fixed = [
        each
        for path, part in module.named_modules()
        if hasattr(part, "num_heads") or any(fnmatch.fnmatchcase(path, glob) for glob in keep)
        for each in part.modules()
    ]
    open_nodes = [node for node in graph.module2node.values() if not node.outputs]
    seen = set()
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        makes_channels = isinstance(node.module, ROOTS) and getattr(node.module, "groups", 1) == 1
        if isinstance(node.module, ROOTS):
            fixed.append(node.module)
        if not makes_channels:
            open_nodes += node.inputs
    return fixed


def _replay(module: nn.Module, inputs: Inputs, edits: Sequence[Edit]) -> None:
    """Remove channels in place; modes and frozen weights stay as they were."""
    if not edits:
        return
    was_training = {path: each.training for path, each in module.named_modules()}
    was_trained = {name: each.requires_grad for name, each in module.named_parameters()}
    with _traced(module, inputs) as graph:
        graph.load_pruning_history([list(edit) for edit in edits])
    for path, each in module.named_modules():
        each.training = was_training[path]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(was_trained[name])
        parameter.grad = None


@contextmanager
def _traced(module: nn.Module, inputs: Inputs) -> Iterator[Any]:
    """The dependency graph of `module`, in eval mode and with every weight trainable: it is read off autograd."""
    import torch_pruning as tp

    module.eval().requires_grad_(True)
    device = next(module.parameters()).device
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        yield tp.DependencyGraph().build_dependency(module, tuple(each.to(device) for each in inputs), verbose=False)


def _copy(module: nn.Module) -> nn.Module:
    return Model(module, ()).copy().module


def _described(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Inputs as JSON, so that a plan replays without the study's io; a dynamic size is 8."""
    return [{"shape": list(each.sizes), "dtype": each.dtype} for each in fields]


def _inputs(described: Sequence[dict[str, Any]]) -> Inputs:
    return tuple(torch.zeros((1, *each["shape"]), dtype=getattr(torch, each["dtype"])) for each in described)


def _taps(model: Model, inputs: Inputs) -> tuple[Tap, ...]:
    """The model's taps with the shapes they have now; sizes that were dynamic stay so."""
    with undisturbed(model.module, train=False), recorded(model, model.taps) as now:
        model.module(*inputs)

    def shape(tap: Tap) -> tuple[int | None, ...]:
        has = now[tap.name].shape[1:] if tap.name in now else tap.shape
        return tuple(None if had is None else size for had, size in zip(tap.shape, has, strict=True))

    return tuple(replace(each, shape=shape(each)) for each in model.taps)
