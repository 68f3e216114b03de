"""The teacher runs once: its outputs and requested taps by sample id, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from kdsearch.engine.feeds import in_order
from kdsearch.engine.modes import evaluating
from kdsearch.errors import ArtifactError, PluginError
from kdsearch.kinds import Batch, DataSource, Model, Outputs, Task
from kdsearch.kinds.forward import run_model, tap_name
from kdsearch.store.files import read_json, reserve, write_json

FORMAT = 1


class TeacherCache:
    """Rows of one teacher: `names` are canonical (output fields and taps), rows are found by sample id."""

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / "cache.json")
        if about.get("format") != FORMAT:
            problem = f"format {about.get('format')!r} of the teacher's cache"
            fix = f"Delete the folder {folder.parent.name}; `kdsearch run` makes it again."
            raise ArtifactError(problem, file=folder / "cache.json", expected=f"format {FORMAT}", fix=fix)
        self.names: tuple[str, ...] = tuple(about["arrays"])
        self._rows = {id: row for row, id in enumerate(about["ids"])}
        self._arrays = {
            name: np.load(folder / file, mmap_mode="r", allow_pickle=False) for name, file in about["arrays"].items()
        }

    def has(self, ids: Iterable[str], names: Iterable[str]) -> bool:
        return set(names) <= set(self.names) and all(id in self._rows for id in ids)

    def get(self, ids: Sequence[str], names: Iterable[str]) -> dict[str, Tensor]:
        """Constants (B, ...) by name, in the order of `ids`."""
        rows = np.fromiter((self._rows[id] for id in ids), dtype=np.int64, count=len(ids))
        return {name: torch.from_numpy(np.asarray(self._arrays[name][rows])) for name in names}


def write_cache(
    folder: Path,
    live: Live,
    data: DataSource,
    splits: Sequence[str],
    taps: Sequence[str],
    device: torch.device,
    limit_bytes: int,
) -> Mapping[str, Any]:
    """Run the teacher over the splits once. Taps that would exceed `limit_bytes` are left out, and named in the facts.

    Nothing is written, and `draws` is true, where what the teacher is fed is drawn anew each time: rows would not be of it.
    """
    model = live.model
    if live.draws(data.split(splits[0]).load([0])):
        return {"cached": [], "too_large": [], "samples": 0, "draws": True}
    folder.mkdir(parents=True, exist_ok=True)
    ids = [id for name in splits for id in data.split(name).ids]
    arrays: dict[str, np.memmap[Any, Any]] = {}
    files: dict[str, str] = {}
    dropped: list[str] = []
    row = 0
    model.module.to(device).eval()
    for name in splits:
        for batch in in_order(data.split(name)):
            with torch.no_grad():
                out = run_model(model, live.task, live.fed(batch.to(device)), taps)
            if not arrays:
                sizes = {tap: 4 * len(ids) * out[tap][0].numel() for tap in out}
                for tap in out:
                    if tap not in model.outputs and sizes[tap] > limit_bytes:
                        dropped.append(tap)
                        continue
                    files[tap] = f"{len(files)}.npy"
                    shape = (len(ids), *out[tap].shape[1:])
                    arrays[tap] = np.lib.format.open_memmap(
                        folder / files[tap], mode="w+", dtype=np.float32, shape=shape
                    )
                    reserve(folder / files[tap])
            for tap, array in arrays.items():
                array[row : row + len(batch)] = out[tap].float().cpu().numpy()
            row += len(batch)
    for array in arrays.values():
        array.flush()
    write_json(folder / "cache.json", {"format": FORMAT, "ids": ids, "arrays": files})
    return {"cached": sorted(files), "too_large": dropped, "samples": len(ids), "draws": False}


View = Callable[[Batch, Generator], Batch]


class Live:
    """A teacher as the engine asks for it: from the cache where rows are there, else by a forward pass.

    view: what it is fed of a batch (`Teacher.view`); None = the batch.
    """

    def __init__(self, model: Model, task: Task[Any], cache: TeacherCache | None, view: View | None = None) -> None:
        self.model, self.task, self.cache, self.view = model, task, cache, view

    def outputs(
        self, batch: Batch, names: Sequence[str], device: torch.device, cached: bool = True, seed: int = 0
    ) -> Outputs:
        """Constants. `cached=False`: the batch is augmented, so stored rows would be stale. `seed`: of the view's draws."""
        if cached and self.cache is not None and self.cache.has(batch.ids, names):
            rows = {name: tensor.to(device) for name, tensor in self.cache.get(batch.ids, names).items()}
            return Outputs(rows, lambda name: tap_name(self.model, name), self.model.name)
        with evaluating(self.model.module), torch.no_grad():
            return run_model(self.model, self.task, self.fed(batch, seed), names).detach()

    def fed(self, batch: Batch, seed: int = 0) -> Batch:
        """What the teacher is fed of a batch. Raise PluginError where its view has other samples."""
        return self._fed(batch, Generator().manual_seed(seed))

    def draws(self, batch: Batch) -> bool:
        """Whether what it is fed is a matter of chance."""
        rng = Generator().manual_seed(0)
        before = rng.get_state()
        self._fed(batch, rng)
        return not torch.equal(rng.get_state(), before)

    def _fed(self, batch: Batch, rng: Generator) -> Batch:
        if self.view is None:
            return batch
        found = self.view(batch, rng)
        if found.ids != batch.ids:
            problem = f"the view of teacher '{self.model.name}' has other samples than the batch"
            raise PluginError(problem, expected="the same ids in the same order")
        return found
