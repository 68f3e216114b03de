"""Any network of timm by name, other arguments of its class put in: `depths`, `widths`, `depth`, `dim`, `heads`, `grid`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import timm
import torch
from torch import nn

from kdsearch.errors import StudyError, nearest

if TYPE_CHECKING:
    from kdsearch_spaces.timm_space.spec import TimmSpec

PER_STAGE = {  # what classes call blocks and channels of each of four stages
    "depths": ("depths", "layers", "block_config", "depth"),
    "widths": ("dims", "channels", "embed_dims", "embed_dim"),
}
SINGLE = {"depth": ("depth", "num_blocks"), "dim": ("embed_dim",), "heads": ("num_heads",)}


def named(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """The network `spec.name` with the spec's values; initialised, and its stem, as timm has them."""
    cls, given = _recipe(spec.name)
    values = {argument: getattr(spec, field) for field, argument in arguments(spec.name).items() if field != "grid"}
    if "grid" in arguments(spec.name):
        values["patch_size"] = max(1, min(size) // spec.grid)
    if "img_size" in inspect.signature(cls).parameters:
        values["img_size"] = size
    return cls(**{**given, **values, "in_chans": channels, "num_classes": n_outputs})


def exact(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """The network `spec.name` as timm has it, for these images and outputs."""
    cls, _ = _recipe(spec.name)
    sized: dict[str, Any] = {"img_size": size} if "img_size" in inspect.signature(cls).parameters else {}
    made: nn.Module = timm.create_model(spec.name, in_chans=channels, num_classes=n_outputs, **sized)
    return made


@lru_cache
def arguments(name: str) -> Mapping[str, str]:
    """Field of the spec -> the argument of the network's class that it sets. Raise StudyError where there is none."""
    cls, given = _recipe(name)
    takes = inspect.signature(cls).parameters
    values = {argument: given.get(argument, each.default) for argument, each in takes.items()}
    found = {}
    for fields, is_fitting in ((PER_STAGE, _is_per_stage), (SINGLE, _is_single)):
        for field, candidates in fields.items():
            at = next((each for each in candidates if each in values and is_fitting(values[each])), None)
            if at is not None:
                found[field] = at
    if "depth" in found and {"img_size", "patch_size"} <= takes.keys():
        found["grid"] = "patch_size"
    if not found:
        raise StudyError(
            f"search space 'timm': '{name}' is a {cls.__name__}, which has no depth or width among its arguments",
            expected="a network whose class takes depths, widths, depth, dim or heads",
        )
    return found


def known(name: str) -> None:
    """Raise StudyError for a name that is none of timm's."""
    if not timm.is_model(name):
        raise StudyError(
            f"search space 'timm': no network '{name}'",
            nearest=nearest(name, timm.list_models()),
            expected="a name of timm.list_models()",
        )


@lru_cache
def _recipe(name: str) -> tuple[type[nn.Module], Mapping[str, Any]]:
    """The network's class and the arguments that timm's entry point calls it with. Raise StudyError for an unknown name.

    Entry points keep them to themselves, and some refuse others in their place: the class is watched while one calls it.
    """
    known(name)
    with torch.device("meta"):
        cls = type(timm.create_model(name))
        calls: list[Mapping[str, Any]] = []
        original = cls.__init__

        def watched(self: nn.Module, *args: Any, **options: Any) -> None:
            calls.append(inspect.signature(original).bind(self, *args, **options).arguments)
            original(self, *args, **options)

        with patch.object(cls, "__init__", watched):
            timm.create_model(name)
    given = {argument: value for argument, value in calls[0].items() if argument != "self"}
    return cls, {**given, **given.pop("kwargs", {})}


def _is_per_stage(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 4 and all(isinstance(each, int) for each in value)


def _is_single(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
