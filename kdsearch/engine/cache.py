"""The teacher runs once: its outputs and requested taps by sample id, each sample as long as it is, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from kdsearch.engine.feeds import in_order
from kdsearch.engine.modes import evaluating
from kdsearch.engine.rows import Rows, RowWriter, as_batch
from kdsearch.engine.seen import Seen
from kdsearch.errors import ArtifactError, DataError, PluginError
from kdsearch.kinds import Batch, DataSource, Field, Model, Outputs, Task
from kdsearch.kinds.forward import run_model, tap_name
from kdsearch.ops.padding import resized
from kdsearch.store.files import read_json, write_json

FORMAT = 3

Tie = tuple[int, str, int]  # (axis of a row, field, axis of the field): these two are equally long in every batch


class TeacherCache:
    """Rows of one teacher: `names` are canonical (output fields and taps), rows are found by sample id and by what was read."""

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / "cache.json")
        if about.get("format") != FORMAT:
            problem = f"format {about.get('format')!r} of the teacher's cache"
            fix = f"Delete the folder {folder.parent.name}; `kdsearch run` makes it again."
            raise ArtifactError(problem, file=folder / "cache.json", expected=f"format {FORMAT}", fix=fix)
        n = len(about["ids"])
        self.names: tuple[str, ...] = tuple(about["arrays"])
        self.seen = Seen({name: None if fill is None else float(fill) for name, fill in about["seen"].items()})
        self._at = {id: row for row, id in enumerate(about["ids"])}
        self._checks = as_batch(Rows(folder, about["checks"], n).get(np.arange(n)))
        self._rows = {name: Rows(folder, each, n) for name, each in about["arrays"].items()}
        self._ties = {name: [(axis, field, at) for axis, field, at in each] for name, each in about["ties"].items()}

    def get(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor] | None:
        """Constants (B, ...) by name, on the CPU, as long as the batch is padded.

        None where one is not stored, or is of other values of what the teacher reads than this batch holds.
        """
        names = list(names)
        if not set(names) <= set(self.names) or any(id not in self._at for id in batch.ids):
            return None
        at = np.fromiter((self._at[id] for id in batch.ids), dtype=np.int64, count=len(batch))
        checks = self.seen.of(batch)
        if checks is None or not torch.equal(checks, self._checks[torch.from_numpy(at)]):
            return None
        return {name: self._long(as_batch(self._rows[name].get(at)), name, batch) for name in names}

    def _long(self, rows: Tensor, name: str, batch: Batch) -> Tensor:
        sizes = list(rows.shape[1:])
        for axis, field, at in self._ties.get(name, ()):
            sizes[axis] = batch[field].shape[at] if field in batch else sizes[axis]
        return resized(rows, sizes)


def write_cache(
    folder: Path,
    live: Live,
    data: DataSource,
    splits: Sequence[str],
    taps: Sequence[str],
    device: torch.device,
    limit_bytes: int,
    moved: Callable[[float], None] = lambda share: None,
) -> Mapping[str, Any]:
    """Run the teacher over the splits once. Left out, and named in the facts, are taps that would exceed `limit_bytes`, and those
    that are not always equally long and never as long as a field (`untied`): nobody could tell how much of one is of a sample.

    Nothing is written, and `draws` is true, where what the teacher is fed is drawn anew each time: rows would not be of it.
    A row is as long as its sample is, by the batch's mask.

    Args:
        moved: called after each batch with the share of the samples that have their rows.

    Raises:
        DataError: answers are NaN.
    """
    model = live.model
    if live.draws(data.split(splits[0]).load([0])):
        return {"cached": [], "too_large": [], "untied": [], "samples": 0, "draws": True}
    folder.mkdir(parents=True, exist_ok=True)
    ids = [id for name in splits for id in data.split(name).ids]
    seen = Seen(live.reads(data.split(splits[0]).load([0]), data.fields))
    writers: dict[str, RowWriter] = {}
    long = _Lengths(live, data)
    ties: dict[str, list[Tie]] = {}
    dropped: list[str] = []
    checks: list[Tensor] = []
    unknown: list[str] = []
    answers = live.task.answers(live.task.io(data.fields, data.facts))
    model.module.to(device).eval()
    n_done = 0
    for name in splits:
        for batch in in_order(data.split(name)):
            placed = batch.to(device)
            with torch.no_grad():
                out = run_model(model, live.task, live.fed(placed), taps)
            unknown += nan_in(live.task, answers, placed, out)
            found = seen.of(placed)
            assert found is not None
            if _open_axes(batch, data.fields):
                long.see(batch, out)
                if not checks:  # one batch may be all there is
                    alone = data.split(name).load([_shortest(batch, data.fields)]).to(device)
                    with torch.no_grad():
                        long.see(alone, run_model(model, live.task, live.fed(alone), taps))
                ties = long.ties()
            checks.append(found)
            for tap in out:
                if tap in dropped:
                    continue
                rows = _trimmed(out[tap], ties.get(tap, ()), placed, data.fields)
                writer = writers.setdefault(tap, RowWriter(folder / f"{len(writers)}.rows", len(ids)))
                if tap not in model.outputs and writer.projected(rows) > limit_bytes:
                    writers.pop(tap).drop()
                    dropped.append(tap)
                    continue
                writer.add(rows)
            n_done += len(batch)
            moved(n_done / len(ids))
    refuse_nan(model.name, unknown, len(ids))
    untied = [tap for tap in long.untied() if tap in writers and tap not in model.outputs]
    for tap in untied:
        writers.pop(tap).drop()
    kept = RowWriter(folder / "checks.rows", len(ids))
    kept.add(torch.cat(checks))
    about = {
        "format": FORMAT,
        "ids": ids,
        "seen": {name: None if fill is None else str(fill) for name, fill in seen.fields.items()},
        "checks": kept.close(),
        "arrays": {tap: writer.close() for tap, writer in writers.items()},
        "ties": {tap: ties[tap] for tap in writers if ties.get(tap)},
    }
    write_json(folder / "cache.json", about)
    return {"cached": sorted(writers), "too_large": dropped, "untied": untied, "samples": len(ids), "draws": False}


def nan_in(task: Task[Any], answers: Sequence[Field], batch: Batch, out: Mapping[str, Tensor]) -> list[str]:
    """Ids of the samples that some of the task's answers are NaN for, padding aside."""
    counted = task.counted(batch)
    unknown = torch.zeros(len(batch), dtype=torch.bool)
    for field in (each for each in answers if each.name in out and out[each.name].ndim == len(each.shape) + 1):
        nan = out[field.name].isnan()
        if field.shape:
            nan = nan.any(field.class_axis)  # positions (B, ...)
        if counted is not None and counted.shape == nan.shape[: counted.ndim]:
            nan = nan & counted.bool().reshape(*counted.shape, *[1] * (nan.ndim - counted.ndim)).to(nan.device)
        unknown |= nan.reshape(len(batch), -1).any(1).cpu()
    return [sample for sample, is_unknown in zip(batch.ids, unknown.tolist(), strict=True) if is_unknown]


def refuse_nan(who: str, ids: Sequence[str], n: int) -> None:
    """Raise DataError for samples, of n, whose answers are NaN."""
    if ids:
        raise DataError(
            f"'{who}' answers NaN to {len(ids):,} of {n:,} samples, the first '{ids[0]}'",
            expected="numbers, in eval mode and of these samples as they are fed",
        )


def _open_axes(batch: Batch, fields: Sequence[Field]) -> list[tuple[Field, int]]:
    """(field, axis with B) of open size, masks first: those say how long a sample is."""
    found = [
        (each, at + 1) for each in fields if each.name in batch for at, size in enumerate(each.shape) if size is None
    ]
    return sorted(found, key=lambda pair: pair[0].kind != "mask")


class _Lengths:
    """Which axes of what a teacher gives are as long as its batch is: in every batch that was seen, and not always equally long.

    Of several fields that are as long, the mask that the task says an output has.
    """

    def __init__(self, live: Live, data: DataSource) -> None:
        self.fields = data.fields
        self.masks = {each.name: each.mask for each in live.task.io(data.fields, data.facts).outputs}
        self.seen: list[tuple[dict[tuple[str, int], int], dict[str, tuple[int, ...]]]] = []

    def see(self, batch: Batch, out: Outputs) -> None:
        sizes = {(field.name, at): batch[field.name].shape[at] for field, at in _open_axes(batch, self.fields)}
        self.seen.append((sizes, {name: tuple(out[name].shape[1:]) for name in out}))

    def ties(self) -> dict[str, list[Tie]]:
        found: dict[str, list[Tie]] = {}
        for name, axis, long in self._moving():
            places = sorted(self.seen[0][0], key=lambda place: place[0] != self.masks.get(name))
            as_long = (place for place in places if [sizes[place] for sizes, _ in self.seen] == long)
            found.setdefault(name, []).extend((axis, *place) for place in list(as_long)[:1])
        return {name: each for name, each in found.items() if each}

    def untied(self) -> list[str]:
        """Names with an axis that is not always equally long, and as long as no field."""
        tied = {(name, axis) for name, each in self.ties().items() for axis, _, _ in each} if self.seen else set()
        return list(dict.fromkeys(name for name, axis, _ in self._moving() if (name, axis) not in tied))

    def _moving(self) -> Iterator[tuple[str, int, list[int]]]:
        """(name, axis of a row, its length in each batch that was seen) where that is not always the same."""
        for name, shape in self.seen[0][1].items() if self.seen else ():
            for axis in range(len(shape)):
                long = [given[name][axis] for _, given in self.seen]
                if len(set(long)) > 1:
                    yield name, axis, long


def _shortest(batch: Batch, fields: Sequence[Field]) -> int:
    lengths = [_lengths(batch, field, at) for field, at in _open_axes(batch, fields)]
    return int(torch.stack(lengths).sum(0).argmin())


def _lengths(batch: Batch, field: Field, at: int) -> Tensor:
    """(B,) int64: how long each sample is by a mask, its last counted place; by another field, as long as the batch is."""
    value = batch[field.name]
    size = value.shape[at]
    if field.kind != "mask" or value.ndim != 2:
        return torch.full((len(batch),), size, dtype=torch.int64)
    places = torch.arange(1, size + 1, device=value.device)
    longest = (places * (value != 0)).amax(1) if size else value.new_zeros(len(batch))
    return longest.to(torch.int64).cpu()


def _trimmed(value: Tensor, ties: Sequence[Tie], batch: Batch, fields: Sequence[Field]) -> Sequence[Tensor] | Tensor:
    """(B, ...) as it is, or a row each without the padding."""
    if not ties:
        return value
    named = {each.name: each for each in fields}
    lengths = [(axis, _lengths(batch, named[field], at).tolist()) for axis, field, at in ties]
    rows = []
    for i, row in enumerate(value):
        for axis, sizes in lengths:
            row = row.narrow(axis, 0, min(sizes[i], row.shape[axis]))
        rows.append(row)
    return rows


View = Callable[[Batch, Generator], Batch]


class Live:
    """A teacher as the engine asks for it: from the cache where the batch's rows are there, else by a forward pass.

    view: what it is fed of a batch (`Teacher.view`); None = the batch.
    """

    def __init__(self, model: Model, task: Task[Any], cache: TeacherCache | None, view: View | None = None) -> None:
        self.model, self.task, self.cache, self.view = model, task, cache, view
        self.held_out: TeacherCache | None = None  # the test split's rows

    def names(self, taps: Iterable[str]) -> list[str]:
        """Canonical: its output fields, and these taps. Raise TapError, listing what there is, for one that it lacks."""
        return list(dict.fromkeys([*self.model.outputs, *(tap_name(self.model, tap) for tap in taps)]))

    def outputs(
        self, batch: Batch, names: Sequence[str], device: torch.device, cached: bool = True, seed: int = 0
    ) -> Outputs:
        """Constants. `cached=False`: the batch is changed, so that looking for its rows is in vain. `seed`: of the view's draws."""
        rows = self._stored(batch, names) if cached else None
        if rows is not None:
            placed = {name: tensor.to(device) for name, tensor in rows.items()}
            return Outputs(placed, lambda name: tap_name(self.model, name), self.model.name)
        with evaluating(self.model.module), torch.no_grad():
            return run_model(self.model, self.task, self.fed(batch, seed), names).detach()

    def _stored(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor] | None:
        found = (cache.get(batch, names) for cache in (self.cache, self.held_out) if cache is not None)
        return next((rows for rows in found if rows is not None), None)

    def fed(self, batch: Batch, seed: int = 0) -> Batch:
        """What the teacher is fed of a batch. Raise PluginError where its view has other samples."""
        return self._fed(batch, Generator().manual_seed(seed))

    def draws(self, batch: Batch) -> bool:
        """Whether what it is fed is a matter of chance."""
        rng = Generator().manual_seed(0)
        before = rng.get_state()
        self._fed(batch, rng)
        return not torch.equal(rng.get_state(), before)

    def reads(self, batch: Batch, fields: Sequence[Field]) -> dict[str, float | None]:
        """What of a batch its answers depend on, with what pads it where its length is open.

        Its inputs; where the task calls models in its own way, all that is no target; where it has a view, all.
        """
        held = [*batch.tensors, *batch.lists, *batch.texts]
        known = {each.name: each for each in fields}
        if self.view is not None:
            read = held
        elif type(self.task).call is not Task.call:
            targets = {each.name for each in fields if each.use == "target"}
            read = [name for name in held if name not in targets]
        else:
            read = [name for name in self.model.inputs if name in held]
        return {name: known[name].fill if name in known and None in known[name].shape else None for name in read}

    def _fed(self, batch: Batch, rng: Generator) -> Batch:
        if self.view is None:
            return batch
        found: object = self.view(batch, rng)
        if not isinstance(found, Batch):
            problem = f"`view` of teacher '{self.model.name}' gives a {type(found).__name__}"
            raise PluginError(problem, expected="a kdsearch.kinds.Batch")
        if found.ids != batch.ids:
            problem = f"the view of teacher '{self.model.name}' has other samples than the batch"
            raise PluginError(problem, expected="the same ids in the same order")
        return found
