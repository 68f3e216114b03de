"""What a saved network answers to two seeded samples: code that has changed since, and fits its weights, is told by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from kdsearch.kinds import IO, Field, Model, named
from kdsearch.ops.seeding import seed_generators
from kdsearch.store.hashing import derive

SAMPLES, KEPT = 2, 32  # KEPT: numbers of each output, evenly spaced
NEAR = 1e-3  # of the answers' range: another processor rounds by 1e-5 of it, other code is off by a tenth
NUDGE = 4  # units in the last place of each weight
MARGIN = 16  # times what a nudge moves the answers by is rounding


def answered(model: Model, fields: Sequence[Field], seed: int = 0) -> dict[str, Tensor]:
    """Its answers by name, in eval mode on the CPU, to samples of the fields that it reads. `seed`: of what it draws itself."""
    rng = torch.Generator().manual_seed(derive(0, "saved"))
    inputs = [each.noise(SAMPLES, rng) for each in fields]
    module = model.module.cpu().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", enabled=False):
        seed_generators(seed)
        return named(module(*inputs), model.outputs)


def remembered(model: Model, answers: Mapping[str, Tensor], io: IO) -> dict[str, Any]:
    """Some of the answers as JSON, and how near they have to be again; the model's weights are changed.

    What the network draws, and where rounding decides, moves its answers here too: so far they may move. What follows from other
    answers by a choice (classes, detections) is left out.
    """
    fields = [io.input(name) for name in model.inputs]
    _nudge(model.module)
    again = answered(model, fields, seed=1)
    chosen = {each.name for each in io.outputs if each.is_class or each.is_set}
    kept = [name for name, each in answers.items() if each.is_floating_point() and name not in chosen]
    return {
        "inputs": [asdict(replace(each, padding=None)) for each in fields],  # which noise does not have, and may be NaN
        "outputs": {name: _facts(answers[name], again[name]) for name in kept},
    }


def moved(kept: Mapping[str, Any], model: Model) -> str:
    """The first output that the model answers otherwise than it is remembered; "" where none is."""
    answers = answered(model, TypeAdapter(tuple[Field, ...]).validate_python(kept["inputs"]))
    return next((name for name, facts in kept["outputs"].items() if not _is_near(answers.get(name), facts)), "")


def _nudge(module: nn.Module) -> None:
    """Change each weight by some units in its last place, as another order of sums would."""
    rng = torch.Generator().manual_seed(derive(0, "nudged"))
    with torch.no_grad():
        for each in module.parameters():
            if each.is_floating_point() and each.dtype.itemsize > 1:
                off = NUDGE * torch.finfo(each.dtype).eps * torch.randn(each.shape, generator=rng)
                each.copy_(each * (1 + off))


def _facts(answer: Tensor, nudged: Tensor) -> dict[str, Any]:
    """`numbers`: None where there is none. `within`: how far each of them may be off."""
    some, again = _some(answer), _some(nudged)
    numbers = [_short(each) if ok else None for each, ok in zip(some.tolist(), some.isfinite().tolist(), strict=True)]
    finite = some[some.isfinite()]
    if not len(finite):
        return {"numbers": numbers, "within": 0.0}
    largest = float(finite.abs().max())
    range_of = float(finite.max() - finite.min()) or largest or 1.0
    off = float((some - again).abs().nan_to_num(largest, largest, largest)[some.isfinite()].max())
    within = NEAR * range_of + MARGIN * (off + torch.finfo(answer.dtype).eps * largest)
    return {"numbers": numbers, "within": _short(within)}


def _is_near(answer: Tensor | None, facts: Mapping[str, Any]) -> bool:
    some = [] if answer is None else _some(answer).tolist()
    numbers, within = facts["numbers"], facts["within"]
    return len(some) == len(numbers) and all(
        number is None or abs(each - number) <= within for each, number in zip(some, numbers, strict=True)
    )


def _some(answer: Tensor) -> Tensor:
    """KEPT of its numbers, evenly spaced, or all of fewer."""
    flat = answer.detach().flatten()
    n = min(KEPT, len(flat))
    return flat[[i * len(flat) // n for i in range(n)]].double()


def _short(number: float) -> float:
    """With the digits that a float32 has."""
    return float(f"{number:.9g}")
