"""How much each channel of a group matters: from its weights alone, from gradients of the task's loss, or from what it is fed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from kdsearch.builtin.channels.copies import copied
from kdsearch.builtin.channels.groups import Group, Place, layer_of
from kdsearch.errors import KdsearchError, PluginError, told
from kdsearch.ops.record import See, Side, hooked

Importance = Literal["auto", "l1", "l2", "bn_scale", "taylor", "hessian", "activation", "random"]
Scores = NDArray[np.float64]
FROM_DATA = ("taylor", "hessian", "activation")
TRIED: tuple[Importance, ...] = ("l2", "taylor")  # by `auto`


def magnitudes(module: nn.Module, groups: Sequence[Group], order: int) -> list[Scores]:
    """Mean over layers of the channels' norms there, over the group's mean: l1 = sum of |w|, l2 = sum of w^2."""
    own = {name: each.detach().abs().pow(order).double() for name, each in module.named_parameters() if each.dim() > 1}
    return [_relative(_mean([_along(own[p.name], p, len(g)) for p in g.places if p.name in own])) for g in groups]


def norm_scales(module: nn.Module, groups: Sequence[Group]) -> list[Scores | None]:
    """Mean of |gamma| over the batch norms that the channels pass (Liu et al., ICCV 2017, arXiv 1708.06519); None: no such norm."""
    norms = {path for path, each in module.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)}
    own = dict(module.named_parameters())
    found: list[Scores | None] = []
    for group in groups:
        scales = [
            _along(own[each.name].detach().abs().double(), each, len(group))
            for each in group.places
            if each.name in own and layer_of(each.name) in norms and each.name.endswith("weight")
        ]
        found.append(_relative(_mean(scales)) if scales else None)
    return found


def gradient_scores(
    module: nn.Module, groups: Sequence[Group], losses: Sequence[Callable[[nn.Module], Tensor]], kind: str
) -> list[Scores]:
    """From the gradients g of each loss, averaged over losses.

    taylor: (sum of g w over all of the channel's weights)^2, the squared change of the loss to first order when all become zero
    (Molchanov et al., CVPR 2019, arXiv 1906.10771, over groups). hessian: sum of (g w)^2, the change of second order with g^2 in
    the Hessian's place (optimal brain damage with Fisher information; one sample a loss).
    """
    own = dict(module.named_parameters())
    total = [np.zeros(len(each)) for each in groups]
    for loss in losses:
        gradients = _gradients(module, loss, list(own.values()))
        moved = {
            name: (weight.detach() * g).double()
            for (name, weight), g in zip(own.items(), gradients, strict=True)
            if g is not None
        }
        for at, group in enumerate(groups):
            found = np.zeros(len(group))
            for name in dict.fromkeys(each.name for each in group.places if each.name in moved):
                each = moved[name] if kind == "taylor" else moved[name] ** 2
                found += _once(each, [place for place in group.places if place.name == name], len(group))
            total[at] += found**2 if kind == "taylor" else found
    return [each / max(len(losses), 1) for each in total]


def _gradients(
    module: nn.Module, loss: Callable[[nn.Module], Tensor], weights: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Raise PluginError for a loss that is no number, and for a network whose code cannot be differentiated."""
    try:
        with torch.enable_grad():
            value = loss(module)
            if torch.isfinite(value):
                return torch.autograd.grad(value, list(weights), allow_unused=True)
    except KdsearchError:
        raise
    except Exception as error:  # the network's own code
        raise PluginError(f"the task's loss has no gradients here: {told(error)}") from error
    raise PluginError(f"the task's loss on training samples is {value.item()}", expected="a finite number")


def with_own_statistics(module: nn.Module, runs: Sequence[Callable[[nn.Module], object]]) -> nn.Module:
    """A copy whose batch norms have mean and variance of what they see in these runs, each run alike; their own without runs.

    No run may be of a single sample, which has no variance.
    """
    made = copied(module).eval()
    norms = [each for each in made.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    kept = [each for each in norms if each.track_running_stats and runs]
    momenta = [each.momentum for each in kept]
    for each in kept:
        each.reset_running_stats()
        each.momentum = None  # a plain mean
        each.train()
    with torch.no_grad():
        for run in runs if kept else ():
            run(made)
    for each, momentum in zip(kept, momenta, strict=True):
        each.momentum = momentum
    return made.eval()


def activity(
    module: nn.Module, groups: Sequence[Group], runs: Sequence[Callable[[nn.Module], object]]
) -> list[Scores | None]:
    """Root mean square of what a layer is fed by the channel, times the norm of the weights that read it, summed over those layers.

    As Wanda scores single weights (Sun et al., ICLR 2024, arXiv 2306.11695), over groups. None: no linear layer or convolution
    reads it.
    """
    squares: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def seen(path: str, at: int) -> See:
        def see(given: Tensor, _: tuple[Tensor, ...]) -> None:
            x = given.detach().double().movedim(at, -1).flatten(0, -2)
            squares[path] = squares.get(path, 0) + x.square().sum(0)
            rows[path] = rows.get(path, 0) + len(x)

        return see

    places: list[tuple[nn.Module, Side, See]] = []
    for path, part in module.named_modules():
        if isinstance(part, nn.Linear):
            places.append((part, "input", seen(path, -1)))
        elif isinstance(part, nn.modules.conv._ConvNd) and part.groups == 1 and not part.transposed:
            places.append((part, "input", seen(path, 1)))
    with hooked(places), torch.no_grad():
        for run in runs:
            run(module)
    own = dict(module.named_parameters())
    found: list[Scores | None] = []
    for group in groups:
        parts = []
        for place in group.places:
            path = layer_of(place.name)
            if place.dim == 1 and path in squares and place.name.endswith("weight"):
                fed = (squares[path] / max(rows[path], 1)).sqrt()
                read = own[place.name].detach().double().square().movedim(1, 0).flatten(1).sum(1).sqrt()
                parts.append(_along(fed * read, Place(place.name, 0, place.owner), len(group)))
        found.append(np.sum(parts, axis=0) if parts else None)
    return found


def chances(groups: Sequence[Group], rng: Generator) -> list[Scores]:
    return [torch.rand(len(each), generator=rng).double().numpy() for each in groups]


def scores_of(
    kind: Importance,
    module: nn.Module,
    groups: Sequence[Group],
    rng: Generator,
    losses: Sequence[Callable[[nn.Module], Tensor]],
) -> tuple[list[Scores], list[str]]:
    """Scores of every group's channels, and what is to be said of them. `losses`: on training samples, for `FROM_DATA`."""
    if kind == "random":
        return chances(groups, rng), []
    if kind in FROM_DATA:
        module = copied(module).eval().requires_grad_(True)
    if kind in ("taylor", "hessian"):
        return gradient_scores(module, groups, losses, kind), []
    plain = magnitudes(module, groups, 1 if kind == "l1" else 2)
    if kind in ("l1", "l2"):
        return plain, []
    found = norm_scales(module, groups) if kind == "bn_scale" else activity(module, groups, losses)
    without = [group.path for group, each in zip(groups, found, strict=True) if each is None]
    notes = [f"by their weights, since {kind} says nothing of them: {', '.join(without)}"] if without else []
    told = [each for each in found if each is not None]
    level = float(np.mean(np.concatenate(told))) if told else 1.0  # of the others, so that groups compare
    return [each if each is not None else other * level for each, other in zip(found, plain, strict=True)], notes


def _along(values: Tensor, place: Place, n: int) -> Scores:
    """(n,) sum of the values that belong to each channel."""
    rows = values.movedim(place.dim, 0).flatten(1).sum(1) if values.dim() > 1 else values
    found = np.zeros(n)
    owned = place.owner >= 0
    np.add.at(found, place.owner[owned], rows.cpu().numpy()[owned])
    return found


def _once(values: Tensor, places: Sequence[Place], n: int) -> Scores:
    """(n,) sum of the values that belong to each channel in any of these places of one tensor, each value once."""
    if len(places) == 1:
        return _along(values, places[0], n)
    found = np.zeros(n)
    if len(places) == 2 and places[0].dim != places[1].dim:  # rows and columns, less where they meet
        one, other = places
        grid = values.movedim((one.dim, other.dim), (0, 1)).flatten(2).sum(2) if values.dim() > 2 else values
        grid = grid.T if values.dim() == 2 and one.dim > other.dim else grid
        i, j = np.nonzero((one.owner[:, None] == other.owner) & (one.owner[:, None] >= 0))
        np.add.at(found, one.owner[i], grid.cpu().numpy()[i, j])
        return _along(values, one, n) + _along(values, other, n) - found
    for channel in range(n):
        own = torch.zeros_like(values, dtype=torch.bool)
        for place in places:
            own.index_fill_(place.dim, torch.from_numpy(np.flatnonzero(place.owner == channel)).to(values.device), True)
        found[channel] = float(values[own].sum())
    return found


def _mean(parts: Sequence[Scores]) -> Scores:
    return np.mean(parts, axis=0)  # type: ignore[no-any-return]


def _relative(scores: Scores) -> Scores:
    mean = float(scores.mean())
    return scores / mean if mean > 0 else scores
