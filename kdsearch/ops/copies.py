"""Copies of networks, whatever their last pass left in them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def module_copy(module: M) -> M:
    """An independent copy with equal weights."""
    return copy.deepcopy(module, computed(module))


def computed(module: nn.Module) -> dict[int, Any]:
    """What `copy.deepcopy` takes for tensors that the last pass computed, by their ids: the same values without a graph.

    torch's older weight norm keeps its weight so, recurrent layers a list of parametrised ones, and torch copies no tensor that has
    a graph. The next pass computes it anew.
    """
    values = [each for part in module.modules() for each in vars(part).values()]
    held = [*values, *(each for value in values if isinstance(value, list) for each in value)]
    return {id(each): each.detach().clone() for each in held if isinstance(each, Tensor) and not each.is_leaf}
