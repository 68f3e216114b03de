"""Taps of a network that was not built for us: from its own description where it has one, else from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdsearch.kinds.model import Tap, traced_taps
from kdsearch.ops.record import See, Side, hooked
from kdsearch.ops.undisturbed import undisturbed

STEMS = {"stem", "act1", "bn1", "norm0"}  # what timm calls the features before its first stage


def found_taps(module: nn.Module, inputs: Sequence[Tensor], inside: str = "") -> tuple[Tap, ...]:
    """`stage[i]` from input to output, `penultimate` (what the classifier reads) and `logits` (its part is the classifier).

    With timm's `feature_info` the stages are the ones it names (those before the first are `stem`); else, the last map of each
    resolution. Maps that are not (C, H, W) are left out. A stage of tokens on a grid is their map, and `tokens[i]` are the
    tokens themselves, those that are not on the grid first in N.

    Args:
        inputs: an example; the network runs once, in eval mode.
        inside: path of the network in `module`, where it is wrapped.
    """
    net = module.get_submodule(inside)
    prefix = f"{inside}." if inside else ""
    calls = _calls(module, inputs)
    described = _described(net)
    stages = {f"{prefix}{path}": width for path, width in described} if described else _by_resolution(calls)
    paths, sides, count = {}, {}, 0
    for path, width in stages.items():
        shape = calls.get(path)
        if shape is None or (width and shape[0 if len(shape) == 3 else -1] != width):
            continue  # not reached, or a map that is stored (H, W, C)
        if described and not count and path.rpartition(".")[2] in STEMS:
            paths["stem"] = path
        else:
            paths[f"stage[{count}]"] = path
            count += 1
    classifier = _classifier(net, calls, prefix)
    if classifier:
        paths["penultimate"], sides["penultimate"] = classifier, "input"
        paths["logits"] = classifier
    taps = traced_taps(module, inputs, paths, sides)
    maps = [_as_map(tap, net, inputs[0]) for tap in taps]
    tokens = [
        replace(tap, name=tap.name.replace("stage", "tokens"), grid=each.grid)
        for tap, each in zip(taps, maps, strict=True)
        if each.grid
    ]
    at = sum(tap.name.startswith("st") for tap in taps)  # stem and stages come first
    return (*maps[:at], *tokens, *maps[at:])


def classifier_path(net: nn.Module) -> str:
    """Where timm's `get_classifier()` sits in the network, or ""."""
    ask = getattr(net, "get_classifier", None)
    found = ask() if callable(ask) else None
    return next((path for path, part in net.named_modules() if part is found and path), "")


def _classifier(net: nn.Module, calls: Mapping[str, tuple[int, ...]], prefix: str) -> str:
    told = classifier_path(net)
    if told and len(calls.get(f"{prefix}{told}", ())) == 1:
        return f"{prefix}{told}"
    linear = [f"{prefix}{path}" for path, part in net.named_modules() if isinstance(part, nn.Linear) and path]
    reached = [path for path in calls if path in linear and len(calls[path]) == 1]
    return reached[-1] if reached else ""


def _calls(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """Path -> shape of its (last) output without B, in the order in which the calls end."""
    shapes: dict[str, tuple[int, ...]] = {}

    def kept(path: str) -> See:
        def see(out: Any, _: tuple[Any, ...]) -> None:
            if isinstance(out, Tensor):
                shapes.pop(path, None)
                shapes[path] = tuple(out.shape[1:])

        return see

    places: list[tuple[nn.Module, Side, See]] = [
        (part, "output", kept(path)) for path, part in module.named_modules() if path
    ]
    with undisturbed(module, train=False), hooked(places):
        module(*inputs)
    return shapes


def _described(net: nn.Module) -> list[tuple[str, int]]:
    info = getattr(net, "feature_info", None)
    entries = getattr(info, "info", info)
    if not isinstance(entries, list):
        return []
    return [(str(each["module"]), int(each["num_chs"])) for each in entries if "module" in each and "num_chs" in each]


def _by_resolution(calls: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The module that ends last at each resolution, as long as resolutions do not grow; pooled 1x1 maps are no stage."""
    last: dict[tuple[int, int], str] = {}
    for path, shape in calls.items():
        if len(shape) != 3 or shape[1] * shape[2] == 1:
            continue
        size = (shape[1], shape[2])
        if last and size not in last and size[0] * size[1] > min(h * w for h, w in last):
            continue
        last[size] = path
    return dict.fromkeys(last.values(), 0)


def _as_map(tap: Tap, net: nn.Module, image: Tensor) -> Tap:
    """Tokens on the grid of the network's patches as their map; any other tap as it is."""
    if tap.kind != "tokens":
        return tap
    patches = getattr(net, "patch_embed", getattr(net, "stem", None))
    grid = getattr(patches, "grid_size", None)
    n, d = tap.shape
    if grid is None or n is None or grid[0] * grid[1] > n:
        return tap
    height, width = int(grid[0]), int(grid[1])
    return replace(tap, kind="map", shape=(d, height, width), grid=(height, width), stride=image.shape[-1] // width)
