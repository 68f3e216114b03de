"""Whether it is a sample that makes a loss no number: before a training is blamed, what it reads is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kdsearch.engine.setup import Evaluator
from kdsearch.errors import DataError
from kdsearch.kinds import Batch, Field
from kdsearch.kinds.forward import run_model


def check_samples(setup: Evaluator, batches: Iterable[tuple[Batch, Batch]]) -> None:
    """Raise DataError, which names sample and field, where a target is infinite, or a network's answers are finite but for a number
    that the sample holds.

    batches: as they were loaded, and as the networks were given them.
    """
    fields = {each.name: each for each in setup.data.fields}
    for loaded, given in batches:
        for name, each in fields.items():
            if each.use == "target" and name in loaded and (at := _first_wrong(loaded, each)) is not None:
                raise _holds(loaded, name, at)
        for role, model in setup.models.items():
            for name in (each for each in model.inputs if each in fields and each in loaded):
                at = _first_wrong(loaded, fields[name])
                if at is not None and _spoils(setup, role, given, name):
                    raise _holds(loaded, name, at)


def _holds(batch: Batch, name: str, at: int) -> DataError:
    value = batch[name][at]
    infinite = value[value.isinf()]
    wrong = (infinite if len(infinite) else value[value.isnan()])[0].item()
    return DataError(f"'{name}' of sample '{batch.ids[at]}' holds {wrong}", path="data", expected="finite numbers")


def _first_wrong(batch: Batch, field: Field) -> int | None:
    """Where the field reads no number, of the samples that have it. NaN in a field that has a mean is the mean (`kinds.units`), and
    as a target it is one that nobody knows."""
    value = batch[field.name]
    if not value.is_floating_point():
        return None
    wrong = value.isinf() if field.mean or field.use == "target" else ~value.isfinite()
    found = wrong.reshape(len(batch), -1).any(1)
    if (gate := f"present_{field.name}") in batch:
        found &= batch[gate].reshape(len(batch)) != 0
    return int(found.nonzero()[0]) if bool(found.any()) else None


def _spoils(setup: Evaluator, role: str, batch: Batch, name: str) -> bool:
    """Whether the network answers numbers once the field is mended, and else none: some networks fill in what is missing.

    As it is trained, with the batch's own statistics: those that it keeps have met the sample.
    """
    mended = batch.having(**{name: batch[name].nan_to_num(0.0, 0.0, 0.0)})
    with torch.no_grad():
        one, other = (run_model(setup.models[role], setup.task, each) for each in (mended, batch))
    return _is_finite(one) and not _is_finite(other)


def _is_finite(answers: Mapping[str, Tensor]) -> bool:
    return all(bool(each.isfinite().all()) for each in answers.values())
