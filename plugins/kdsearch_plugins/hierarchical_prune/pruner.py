"""HierarchicalPrune (Kwon et al., AAAI 2026, arXiv 2508.04663) of any residual network, as a step of compression.

Symbols: B the blocks; c a component of block i; P the study's objective on validation, DeltaP(i, c) its change when (i, c) alone
is removed; r the share of weights that is cut; r_thres the cut from which on SGDistill is used. The stages, a file each:
`contribution` (0: DeltaP), `scores` (1: HPP), `freezing`, `losses` and `recovery` (2: PWP, SGDistill); stage 3, INT4, is the
study's quantiser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import nn

from kdsearch.errors import RefusedError, UserError, nearest
from kdsearch.kinds import IO, Compressor, Cost, Model, Options, Plan, Procedure, Subject, searched
from kdsearch.kit.blocks import ALL, Block, Part, edits_of, removed, surgery, weights_of
from kdsearch.kit.residual import blocks_of
from kdsearch.ops.undisturbed import undisturbed
from kdsearch_plugins.hierarchical_prune.contribution import (
    FAILS,
    Evaluator,
    contributions,
    fingerprint,
    is_short_of_memory,
    why,
)
from kdsearch_plugins.hierarchical_prune.freezing import multipliers, preserved, sensitivity_of
from kdsearch_plugins.hierarchical_prune.nf4 import file_bytes
from kdsearch_plugins.hierarchical_prune.recovery import SelfRecovery
from kdsearch_plugins.hierarchical_prune.scores import Cut, cut_to, eligible, ordered

OPTIONS = "compress.prune.options"


class HierarchicalPruneOptions(Options):
    params: Annotated[float | None, searched(low=0.5, high=0.9)] = Field(
        0.8,
        gt=0,
        le=1,
        description="share of the weights below which the cut ends; null = all of `blocks`, and the default beside another target",
    )
    macs: float | None = Field(
        None, gt=0, le=1, description="the same of multiply-accumulates, beside or instead of `params`"
    )
    bytes: float | None = Field(None, gt=0, le=1, description="the same of bytes in `bytes_format`")
    bytes_format: Literal["fp32", "int8", "nf4"] = Field(
        "nf4", description="how `bytes` stores matrices; all else in fp32"
    )
    granularity: Annotated[Literal["block", "component", "hybrid"], searched("block", "component", "hybrid")] = Field(
        "component", description="what goes: whole blocks, components of blocks, or first blocks and then components"
    )
    removal: Literal["identity", "zero"] = Field(
        "identity",
        description="of a component: it answers with its input, as in the paper's code, or its branch adds nothing",
    )
    position: Annotated[Literal["intent", "literal", "none"], searched("intent", "literal", "none")] = Field(
        "intent",
        description="intent: of equal drops the later part goes; literal: the printed formula; none: drops alone",
    )
    temperature: Annotated[float, searched(low=0.5, high=3.0)] = Field(
        1.0, gt=0, description="of W_pos: divides its exponent"
    )
    exclude: tuple[str, ...] = Field(
        (), strict=False, description="names of components that stay, such as attn or norm1"
    )
    blocks: str = Field("", description='blocks that may go: "25-29,31", where 29 is not in it; "" = all')
    component_blocks: str = Field(
        "", description="of `hybrid`: blocks whose components may go, once the blocks are gone"
    )
    block_share: float = Field(0.5, gt=0, le=1, description="of `hybrid`: share of the cut that whole blocks make")
    samples: Annotated[int | None, searched(50, 200, 1000)] = Field(
        None, gt=0, description="validation samples that each part is measured on; null = all"
    )
    rounds: int = Field(1, ge=1, description="rounds on the way to the target, each measured anew: drops do not add up")
    pwp: bool = Field(True, description="recovery freezes what is defined before the first part that is gone")
    freeze_before: int | None = Field(
        None, ge=0, description="freeze what is defined before this block instead, without `pwp` too"
    )
    sgdistill: Annotated[Literal["binary", "inverse", "off"], searched("binary", "inverse")] = Field(
        "binary",
        description="learning rates by sensitivity: 0 or 1 (see `zero_above`), in inverse proportion, or all the same",
    )
    r_thres: Annotated[float, searched(low=0.15, high=0.4)] = Field(
        0.25, ge=0, le=1, description="share of weights cut from which on `sgdistill` is used"
    )
    tau_quantile: Annotated[float, searched(low=0.25, high=0.9)] = Field(
        0.5, ge=0, le=1, description="of the drops above 0 of trained parts: up to it the learning rate is whole"
    )
    zero_above: float | None = Field(None, ge=0, le=1, description="parts above this quantile of the drops are frozen")
    recovery: Literal["own", "recipe"] = Field(
        "own",
        description="own: from the network before the cut, by the constants below; recipe: as the winner was trained",
    )
    lambda_kd_out: float = Field(1.0, ge=0, description="of the squared difference of answers")
    lambda_kd_feat: Annotated[float, searched(low=1e-5, high=1e-1, log=True)] = Field(
        1e-4, ge=0, description="of that of block outputs"
    )
    lambda_task: Annotated[float, searched(low=0.0, high=1.0)] = Field(0.0, ge=0, description="of the task's own loss")
    features: tuple[str, ...] = Field(
        ("block",),
        strict=False,
        description="what is compared: block (LFImg and LFCond), and components by name (SA: attn)",
    )

    @model_validator(mode="before")
    @classmethod
    def _another_target(cls, given: Any) -> Any:
        """Of params only where nothing else is a target."""
        others = isinstance(given, Mapping) and any(given.get(name) is not None for name in ("macs", "bytes"))
        return {"params": None, **given} if others else given


@dataclass(frozen=True)
class _Costs:
    """Of the intact network, and what a network without some parts has of it."""

    options: HierarchicalPruneOptions
    module: nn.Module
    blocks: list[Block]
    subject: Subject
    whole: Cost

    def params(self, parts: list[Part]) -> float:
        with surgery(self.module, self.blocks, parts, self.options.removal):
            return count(self.module) / max(1, self.whole.params)

    def ratios(self, parts: list[Part]) -> dict[str, float]:
        options, subject = self.options, self.subject
        with surgery(self.module, self.blocks, parts, options.removal):
            found = {"params": count(self.module) / max(1, self.whole.params)}
            if options.macs is not None:
                cost = subject.cost(replace(subject.model, module=self.module, cost_of=None))
                found["macs"] = cost.macs / max(1, self.whole.macs)
            stored = file_bytes(self.module, options.bytes_format)
        return {**found, "bytes": stored / max(1, file_bytes(self.module, options.bytes_format))}

    def broken(self, parts: list[Part]) -> str | None:
        """Why the network does not run without all of these, as parts may that it runs without one at a time."""
        io, model = self.subject.io, self.subject.model
        with surgery(self.module, self.blocks, parts, self.options.removal):
            try:
                with undisturbed(self.module, train=False):
                    self.module(*(io.input(name).blank(1) for name in model.inputs))
            except FAILS as error:
                if is_short_of_memory(error):
                    raise
                return why(error)
        return None

    def worst(self, parts: list[Part]) -> float:
        """The ratio that is farthest above its target, in units where 1 is the target of it; infinite of what does not run."""
        if self.broken(parts) is not None:
            return math.inf
        found = self.ratios(parts)
        return max(found[name] / target for name, target in targets(self.options).items())


def targets(options: HierarchicalPruneOptions) -> dict[str, float]:
    given = {name: getattr(options, name) for name in ("params", "macs", "bytes")}
    return {name: float(value) for name, value in given.items() if value is not None}


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


class HierarchicalPrune(Compressor[HierarchicalPruneOptions]):
    """Depth pruning; widths stay. What it removes leaves no node in an exported file (with removal `identity`)."""

    def preflight(self, model: Model, io: IO) -> None:
        """Raise UserError where there are no blocks, or none of what the options name."""
        self._blocks(model, io)
        self.recovery({})

    def plan(self, subject: Subject) -> Plan:
        """Raise RefusedError, saying what can be reached, where the parts that may go are too few."""
        options, model = self.options, subject.model
        module, blocks = self._blocks(model, subject.io)
        costs = _Costs(options, module, blocks, subject, replace(subject.cost(model), params=count(module)))
        cut, delta, lost, log = Cut(), dict[Part, float](), dict[Part, str](), list[str]()
        if targets(options):
            for nth in range(1, options.rounds + 1):
                self._round(costs, cut, delta, lost, nth / options.rounds)
        else:
            cut.parts = [(index, ALL) for index in sorted(eligible(blocks, options.blocks, f"{OPTIONS}.blocks"))]
            if (problem := costs.broken(cut.parts)) is not None:
                gone = ", ".join(map(_shown, cut.parts))
                raise RefusedError(
                    f"without {gone} the network does not answer: {problem}",
                    path=f"{OPTIONS}.blocks",
                    expected="blocks that it runs without",
                )
        after = costs.ratios(cut.parts)
        missed = [name for name, target in targets(options).items() if after[name] >= target]
        if missed:
            needed = f"; without any one of {len(lost)} others it does not answer" if lost else ""
            raise RefusedError(
                f"without {len(cut.parts)} parts {after[missed[0]]:.3f} of the {missed[0]} are left{needed}",
                path=f"{OPTIONS}.{missed[0]}",
                expected="a share above that",
                fix="Raise it, allow more blocks, or exclude fewer components.",
            )
        r = 1 - after["params"]
        lr_scale, said = self._rates(module, blocks, cut.parts, delta, r)
        log += [f"{len(cut.parts)} parts of {len(blocks)} blocks: {', '.join(map(_shown, cut.parts))}"]
        log += [
            f"{name} {value:.3f} of the intact network's"
            for name, value in after.items()
            if name in {"params", *targets(options)}
        ]
        log += [
            f"Delta P without {_shown(part)}: {drop:+.4g}" + (f" ({lost[part]})" if part in lost else "")
            for part, drop in delta.items()
        ]
        edits = {
            "model": fingerprint(module),
            "ratios": [costs.params(cut.parts[: nth + 1]) for nth in range(len(cut.parts))],
            "features": self._features(module, blocks, cut.parts, lr_scale),
            **edits_of(blocks, cut.parts, options.removal),
        }
        return Plan(edits, lr_scale, (*log, *said))

    def _blocks(self, model: Model, io: IO) -> tuple[nn.Module, list[Block]]:
        """A copy of the network, which evaluates, and its blocks; raise UserError for options that name no part of it."""
        inputs = tuple(io.input(name).blank(1) for name in model.inputs)
        module = model.copy().module.eval()
        blocks = blocks_of(module, inputs, model.blocks)
        self._check(blocks)
        return module, blocks

    def _check(self, blocks: list[Block]) -> None:
        for key in ("blocks", "component_blocks"):
            eligible(blocks, getattr(self.options, key), f"{OPTIONS}.{key}")
        names = {name for block in blocks for name in block.components}
        for key in ("exclude", "features"):
            for name in getattr(self.options, key):
                if name not in names and not (key == "features" and name == "block"):
                    raise UserError(
                        f"no component '{name}'",
                        path=f"{OPTIONS}.{key}",
                        nearest=nearest(name, names),
                        expected=f"of this network: {', '.join(sorted(names))}",
                    )
        if (before := self.options.freeze_before) is not None and before >= len(blocks):
            raise UserError(f"block {before}", path=f"{OPTIONS}.freeze_before", expected=f"0 to {len(blocks) - 1}")

    def _round(self, costs: _Costs, cut: Cut, delta: dict[Part, float], lost: dict[Part, str], progress: float) -> None:
        """Measure what is left, and cut to the share of the way that this round goes."""
        options, blocks = self.options, costs.blocks
        start = costs.worst([])
        end = 1 + (start - 1) * (1 - progress)  # in units of the target, which is 1
        may = eligible(blocks, options.blocks, f"{OPTIONS}.blocks")
        components = [
            (block.index, name)
            for block in blocks
            for name in block.components
            if name not in options.exclude and weights_of(costs.module, block, name)
        ]
        goals: list[tuple[list[Part], float]] = []
        if options.granularity != "component":
            share = options.block_share if options.granularity == "hybrid" else 1.0
            goals.append(([(index, ALL) for index in sorted(may)], start - (start - end) * share))
        if options.granularity != "block":
            text, key = (
                (options.component_blocks, "component_blocks")
                if options.granularity == "hybrid"
                else (options.blocks, "blocks")
            )
            within = eligible(blocks, text, f"{OPTIONS}.{key}")
            goals.append(([part for part in components if part[0] in within], end))
        for parts, goal in goals:
            before = list(cut.parts)
            left = [part for part in parts if not any(at == part[0] and name in (ALL, part[1]) for at, name in before)]
            measured, broken = self._measured(costs.subject, costs, before, left)
            delta.update(measured)
            lost.update(broken)
            able = {part: drop for part, drop in measured.items() if math.isfinite(drop)}
            order = ordered(able, len(blocks), options.position, options.temperature)
            cut_to(order, blocks, costs.worst, goal, cut)

    def _measured(
        self, subject: Subject, costs: _Costs, before: list[Part], parts: list[Part]
    ) -> tuple[dict[Part, float], dict[Part, str]]:
        """DeltaP of each part, of the network without those before; why it is -inf. Raise RefusedError where none may go at all."""
        samples = self.options.samples

        def score(module: nn.Module) -> float:
            return subject.score(replace(subject.model, module=module, cost_of=None), samples=samples)

        evaluator = Evaluator(f"objective on {samples or 'all'} samples, without {sorted(before)}", score, subject.once)
        lost = dict[Part, str]()
        with surgery(costs.module, costs.blocks, before, self.options.removal):
            blocks = [block for block in costs.blocks if (block.index, ALL) not in before]
            found = contributions(
                costs.module, blocks, parts, self.options.removal, evaluator, self.progress, lost.__setitem__
            )
        if lost and len(lost) == len(parts) and not before:
            part, said = next(iter(lost.items()))
            raise RefusedError(
                f"without any one of {len(parts)} parts the network does not answer; without {_shown(part)}: {said}",
                path=OPTIONS,
                expected="blocks that it runs without",
            )
        return found, lost

    def _rates(
        self, module: nn.Module, blocks: list[Block], parts: list[Part], delta: Mapping[Part, float], r: float
    ) -> tuple[dict[str, float], list[str]]:
        """Factors on learning rates by weight name, and what is said of them."""
        options = self.options
        removed_names = _gone(module, blocks, parts, options)
        left = {name: each.numel() for name, each in module.named_parameters() if name not in removed_names}
        is_frozen = options.pwp or options.freeze_before is not None
        frozen = preserved(module, blocks, parts, options.removal, options.freeze_before) if is_frozen else set()
        scale = {name: 0.0 for name in left if name in frozen}
        by = "PWP" if options.freeze_before is None else f"before block {options.freeze_before}"
        n_frozen = sum(left[name] for name in scale)
        said = [f"{by}: {n_frozen:,} of {sum(left.values()):,} weights are frozen"] if is_frozen else []
        if options.sgdistill != "off" and r >= options.r_thres:
            trained = [name for name in left if name not in scale]
            factors = multipliers(
                trained, sensitivity_of(blocks, delta), options.sgdistill, options.tau_quantile, options.zero_above
            )
            scale |= factors
            slowed = f"{sum(left[name] for name in factors):,} weights slowed"
            if options.sgdistill == "binary" and options.zero_above is None:
                slowed = "nothing is slowed, as `zero_above` is null"
            said.append(f"SGDistill ({options.sgdistill}): r = {r:.3f} >= {options.r_thres}; {slowed}")
        elif options.sgdistill != "off":
            said.append(f"no SGDistill: r = {r:.3f} < {options.r_thres}")
        if left and all(scale.get(name) == 0.0 for name in left):
            raise RefusedError(
                "nothing would be left to train",
                path=f"{OPTIONS}.pwp",
                expected="weights after the first part that is gone",
            )
        return scale, said

    def _features(
        self, module: nn.Module, blocks: list[Block], parts: list[Part], lr_scale: Mapping[str, float]
    ) -> list[str]:
        """Paths of the kept blocks, or their components, that have something to train."""
        options, gone = self.options, set(parts)
        found = []
        for block in blocks:
            names = [each for each, _ in module.get_submodule(block.path).named_parameters(prefix=block.path)]
            own = {name for name in block.components if (block.index, name) in gone}
            if (block.index, ALL) in gone or own == set(block.components):
                continue
            if all(lr_scale.get(name, 1.0) == 0.0 for name in names):
                continue
            found += [block.path] if "block" in options.features else []
            found += [
                paths[0] for name, paths in block.components.items() if name in options.features and name not in own
            ]
        return found

    def apply(self, model: Model, plan: Plan) -> Model:
        """A copy without the plan's parts; taps inside of what is gone are gone too."""
        cut = model.copy()
        removed(cut.module, plan.edits)
        paths = {path for path, _ in cut.module.named_modules()}
        taps = tuple(tap for tap in model.taps if tap.path in paths)
        return replace(cut, taps=taps, blocks=tuple(path for path in model.blocks if path in paths), cost_of=None)

    def recovery(self, plans: Mapping[str, Plan]) -> Procedure[Any] | None:
        options = self.options
        if options.recovery == "recipe":
            return None
        weights = {name: getattr(options, f"lambda_{name}") for name in ("kd_out", "kd_feat", "task")}
        if not any(weights.values()):
            raise UserError("every lambda is 0", path=OPTIONS, expected="one above 0, or `recovery: recipe`")
        return SelfRecovery({role: list(plan.edits["features"]) for role, plan in plans.items()}, weights)


def _gone(module: nn.Module, blocks: list[Block], parts: list[Part], options: HierarchicalPruneOptions) -> set[str]:
    before = {name for name, _ in module.named_parameters()}
    with surgery(module, blocks, parts, options.removal):
        return before - {name for name, _ in module.named_parameters()}


def _shown(part: Part) -> str:
    return f"{part[0]}" if part[1] == ALL else f"{part[0]}.{part[1]}"
