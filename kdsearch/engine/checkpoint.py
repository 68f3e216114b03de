"""Checkpoints: one safetensors file with the state of everything that trains, the position as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdsearch.engine.optim import Bound
from kdsearch.errors import ArtifactError
from kdsearch.store.files import write_bytes

FORMAT = 1


@dataclass
class Position:
    """Where a phase stands, between two optimiser steps.

    `sums`: running sums of the epoch's loss and terms, so that a resumed epoch reports the same means.
    """

    owner: str = ""  # the training this belongs to: a hash of what it was made from
    epoch: int = 0
    index: int = 0
    step: int = 0
    done: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    best: float | None = None


def collect(modules: Mapping[str, nn.Module], optims: Mapping[str, Bound]) -> dict[str, Tensor]:
    """Tensors by name: `<module>/<key>` and `optim:<name>/<parameter>/<key>`."""
    tensors = {}
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            tensors[f"{name}/{key}"] = tensor.detach().cpu().contiguous().clone()
    for name, bound in optims.items():
        for key, parameter in bound.parameters.items():
            for field_name, value in bound.torch.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optim:{name}/{key}/{field_name}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    return tensors


def restore(
    tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optims: Mapping[str, Bound], file: Path
) -> None:
    """Load strictly. Raise ArtifactError naming the first key that is missing, extra or of another shape."""
    for name, module in modules.items():
        prefix = f"{name}/"
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(
                f"does not fit '{name}': {first}", file=file, fix="Delete it; the stage starts anew."
            ) from None
    for name, bound in optims.items():
        for key, parameter in bound.parameters.items():
            prefix = f"optim:{name}/{key}/"
            state = {each.removeprefix(prefix): tensor for each, tensor in tensors.items() if each.startswith(prefix)}
            if state:
                bound.torch.state[parameter] = {each: _like(parameter, each, tensor) for each, tensor in state.items()}


def _like(parameter: Tensor, name: str, tensor: Tensor) -> Tensor:
    """A stored state in its parameter's device and memory layout; the step counter stays on the CPU."""
    if name == "step" or tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def write_checkpoint(file: Path, tensors: Mapping[str, Tensor], position: Position) -> None:
    header = {"format": str(FORMAT), "position": json.dumps(asdict(position))}
    write_bytes(file, save(dict(tensors), metadata=header))


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], Position] | None:
    """None where there is none. Raise ArtifactError when it is damaged, foreign or newer."""
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        problem = f"{file.stat().st_size:,} bytes, not a whole checkpoint ({error})"
        raise ArtifactError(problem, file=file, fix="Delete it; the stage starts anew.") from None
    if "position" not in header:
        raise ArtifactError("no checkpoint of kdsearch: its header has no position", file=file)
    if int(header.get("format", "0")) > FORMAT:
        raise ArtifactError(f"format {header['format']} is newer", file=file, expected=f"format {FORMAT}")
    return tensors, Position(**json.loads(header["position"]))
