"""In which normalisation a trained network gets images where nobody says it: as timm says, or what validation shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.deploy.parity import module_call
from kdsearch.kinds import COMMON, IO, Call, Model, Normalizable, Normalization, stated
from kdsearch.python.own_data import Data, graph_of, predicting
from kdsearch.stages.quality import goodness

TRIED = 1000  # validation samples that normalisations are tried on at most


def in_its_own(opened: Data, model: Model, io: IO) -> tuple[Data, str]:
    """The data as the network was most likely trained on them, and what is to be said of that; "" where there is no choice.

    Tried are the data's own normalisation, timm's of the network, and common ones. Another than timm's (or else the data's) is
    taken only where it is better by more than both 95 % intervals, as for a study's teachers.
    """
    given, source = stated(opened.arranged.facts), opened.arranged.source
    images = [each for each in io.inputs if each.kind == "image"]
    if given is None or not images or not isinstance(source, Normalizable):
        return opened, ""
    channels, own = images[0].sizes[0], of_timm(model.module)
    different: dict[str, Normalization] = {}
    for name, each in {"the data's own": given, **({"timm's": own} if own else {}), **COMMON}.items():
        if each.of(channels) not in [other.of(channels) for other in different.values()]:
            different[name] = each
    first = next((name for name, each in different.items() if each == own), "the data's own")
    call = module_call(graph_of(model, io))
    tried = {
        name: opened.quality(predicting(opened, _fed(call, io, given, each), io), "val", TRIED)
        for name, each in different.items()
    }
    best = max(tried, key=lambda name: (goodness(tried[name]), name == first))
    why = "which validation chose"
    if best == first or not _is_better(tried[best], tried[first]):
        best, why = first, "as none of the others is clearly better"
    values = ", ".join(f"{name} {_shown(each)}" for name, each in tried.items())
    said = (
        f"images are fed by {json.dumps(different[best].as_json())} ({best}), {why}; {tried[best]['metric']} on validation: "
        f"{values}. --normalize imagenet or none says it without a trial"
    )
    return (opened if best == "the data's own" else opened.normalized(different[best])), said


def of_timm(net: nn.Module) -> Normalization | None:
    """What timm says that its network's weights were trained on."""
    config = getattr(net, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("mean") or not config.get("std"):
        return None
    return Normalization(tuple(config["mean"]), tuple(config["std"]))


def _fed(call: Call, io: IO, given: Normalization, wanted: Normalization) -> Call:
    """A call that gets images in `given`, of a network that gets them in `wanted`."""

    def answer(*inputs: Tensor) -> Mapping[str, Tensor]:
        return call(
            *(
                _changed(x, given, wanted) if field.kind == "image" else x
                for x, field in zip(inputs, io.inputs, strict=True)
            )
        )

    return answer


def _changed(images: Tensor, given: Normalization, wanted: Normalization) -> Tensor:
    scale, shift = wanted.of(images.shape[1]).from_other(given.of(images.shape[1]))
    return torch.addcmul(shift.to(images), images, scale.to(images))


def _is_better(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """By more than both intervals."""
    if one["interval"] is None or other["interval"] is None:
        return False
    up = one["direction"] == "max"
    return bool(one["interval"][0] > other["interval"][1] if up else one["interval"][1] < other["interval"][0])


def _shown(quality: Mapping[str, Any]) -> str:
    return "unknown" if quality["value"] is None else f"{quality['value']:.4g}"
