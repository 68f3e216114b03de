"""What the conformance classes share: requirements with reasons, and running them without pytest."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.errors import KdsearchError
from kdsearch.kinds import Call, Options, Range
from kdsearch.kinds.options import declared_range, validate


def require(holds: bool, what: str) -> None:
    """Raise AssertionError saying what does not hold; unlike `assert`, also under `python -O`."""
    if not holds:
        raise AssertionError(what)


def failures(contract: type, *tests: str) -> dict[str, str]:
    """Run every `test_*` of a conformance class, or those named: name -> why it failed; empty = it conforms. Without pytest."""
    found: dict[str, str] = {}
    for name in tests or dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract(), name)()
            except Exception as error:
                found[name] = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return found


def option_ends(cls: type[Options], fixed: Mapping[str, Any]) -> list[Options]:
    """Options at both ends, or every choice, of each declared search range, one option at a time.

    Those that a validator of the whole refuses are left out: in a search they cost that point.

    Raises:
        AssertionError: naming the option whose declared range holds a value that is not valid.
    """
    made: list[Options] = []
    for name in cls.model_fields:
        ranged = declared_range(cls, name)
        if ranged is None:
            continue
        for end in ranged.ends:
            try:
                made.append(validate(cls, {**fixed, name: example(ranged, end)}))
            except KdsearchError as error:
                if error.path:
                    raise AssertionError(f"option '{name}': its declared range is not valid: {error}") from error
    return made


def noted(name: str, call: Call, called: list[str]) -> Call:
    """The call, which writes down its name each time."""

    def noting(*inputs: Tensor) -> Mapping[str, Tensor]:
        called.append(name)
        return call(*inputs)

    return noting


def example(ranged: Range, end: Any) -> Any:
    value = list(end) if isinstance(end, tuple) else end
    return [value] * ranged.each if ranged.each else value


def trace(module: nn.Module) -> dict[str, Any]:
    """All that looking at a module must not change: tensors, gradients, mode and requires_grad flags, hooks."""
    kept: dict[str, Any] = {}
    for path, part in module.named_modules():
        hooks = sum(
            len(value) for key, value in vars(part).items() if key.endswith("hooks") and hasattr(value, "__len__")
        )
        kept[f"{path}: training"], kept[f"{path}: hooks"] = part.training, hooks
        kept[f"{path}: type"] = type(part).__name__
    for name, weight in module.named_parameters():
        kept[f"{name}: grad"] = None if weight.grad is None else weight.grad.clone()
        kept[f"{name}: requires_grad"] = weight.requires_grad
    for name, tensor in module.state_dict().items():
        kept[f"{name}: value"] = tensor.detach().clone()
    kept["torch's global random state"], kept["Python's global random state"] = torch.get_rng_state(), random.getstate()
    return kept


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys of two traces whose values differ."""
    return [key for key in {**before, **after} if not same(before.get(key), after.get(key))]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b) or (a.isnan() & b.isnan() | (a == b)).all())
    return type(a) is type(b) and a == b
