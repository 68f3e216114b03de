"""Checkpoints: one safetensors file with what a phase has changed, the position as JSON in its header."""

from __future__ import annotations

import hashlib
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
from kdsearch.store.hashing import digest, tensor_digest, unsaved_buffers

FORMAT = 1
_ANEW = "Delete it; the stage starts anew."
UNSAVED = "buffer:"  # before the owner's name: of buffers that are not in its `state_dict`


@dataclass
class Position:
    """Where a phase stands, between two optimiser steps.

    `sums`: running sums of the epoch's loss and terms, so that a resumed epoch reports the same means; `prepared`: what
    precedes the first step is done; `notes`: of the training so far; `scaler`: fp16's loss scale; `rest`: digest of what is as
    it was before the phase, and therefore not in the checkpoint ("" = nothing).
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
    prepared: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    rest: str = ""
    notes: list[str] = field(default_factory=list)


def start_of(modules: Mapping[str, nn.Module], moved: set[int]) -> dict[str, str]:
    """Name -> digest of every tensor that no optimiser moves, before a phase begins. Replaying a training gives them again."""
    return {
        f"{owner}/{key}": tensor_digest(tensor)
        for owner, state in _states(modules, keep_vars=True).items()
        for key, tensor in state.items()
        if id(tensor) not in moved
    }


def _states(modules: Mapping[str, nn.Module], keep_vars: bool = False) -> dict[str, dict[str, Tensor]]:
    """Owner -> its tensors by key; those that its `state_dict` lacks are of an owner of their own."""
    found = {name: module.state_dict(keep_vars=keep_vars) for name, module in modules.items()}
    return found | {f"{UNSAVED}{name}": unsaved_buffers(module) for name, module in modules.items()}


def collect(
    modules: Mapping[str, nn.Module], optims: Mapping[str, Bound], start: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Tensors by name: `<module>/<key>`, `buffer:<module>/<key>` of what its `state_dict` lacks, and
    `optim:<name>/<parameter>/<key>`; without those that are as at the `start`.
    """
    tensors, known = {}, start or {}
    for owner, state in _states(modules).items():
        for key, tensor in state.items():
            full = f"{owner}/{key}"
            if full not in known or known[full] != tensor_digest(tensor):
                tensors[full] = _plain(tensor)
    for name, bound in optims.items():
        for key, parameter in bound.parameters.items():
            for field_name, value in bound.torch.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optim:{name}/{key}/{field_name}"] = _plain(torch.as_tensor(value))
    return tensors


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)


def rest_of(tensors: Mapping[str, Tensor], start: Mapping[str, str]) -> str:
    """What `Position.rest` is beside these tensors. Buffers in no `state_dict` are not of it: some are tables that grow by use."""
    left = {name: each for name, each in start.items() if name not in tensors and not name.startswith(UNSAVED)}
    return digest(left) if left else ""


def restore(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optims: Mapping[str, Bound],
    file: Path,
    start: Mapping[str, str] | None = None,
) -> None:
    """Load strictly: what is missing is known from the `start`, at which the modules are.

    Buffers of distillers and procedures, and those in no `state_dict`, become as large as they were; the latter may be missing.

    Raise ArtifactError naming the first key that is missing, extra or of another shape.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/") if name.startswith("optim:") else name.partition("/")
        parts.setdefault(owner, {})[key] = tensor
    owners = {
        f"optim:{name}/{key}": (bound, each) for name, bound in optims.items() for key, each in bound.parameters.items()
    }
    for owner in parts:
        if owner.removeprefix(UNSAVED) not in modules and owner not in owners:
            raise ArtifactError(f"has the state of '{owner}', which is not trained here", file=file, fix=_ANEW)
    for name, module in modules.items():
        _set_buffers(module, parts.get(UNSAVED + name, {}))
        if name == "procedure" or name.startswith("distiller:"):
            _set_buffers(module, parts.get(name, {}))
        try:
            rest = {key: t for key, t in module.state_dict().items() if f"{name}/{key}" in (start or {})}
            module.load_state_dict({**rest, **parts.get(name, {})}, strict=True)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(f"does not fit '{name}': {first}", file=file, fix=_ANEW) from None
    for name, (bound, parameter) in owners.items():
        if name in parts:
            bound.torch.state[parameter] = {key: _like(parameter, key, each) for key, each in parts[name].items()}


@torch.no_grad()
def _set_buffers(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Those among its buffers that are stored, whatever their shape and type; other names are left."""
    parts = dict(module.named_modules(remove_duplicate=False)) if stored else {}
    for key, tensor in stored.items():
        path, _, name = key.rpartition(".")
        part = parts.get(path)
        if part is None or name not in part._buffers:
            continue
        now = part._buffers[name]
        if now is not None and now.shape == tensor.shape and now.dtype == tensor.dtype:
            now.copy_(tensor)
        else:
            device = next((each.device for each in (now, *module.parameters()) if each is not None), tensor.device)
            part._buffers[name] = tensor.clone().to(device)


def _like(parameter: Tensor, name: str, tensor: Tensor) -> Tensor:
    """A stored state in its parameter's device and memory layout; the step counter stays on the CPU."""
    if name == "step" or tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def write_checkpoint(file: Path, tensors: Mapping[str, Tensor], position: Position) -> None:
    header = {"format": str(FORMAT), "position": json.dumps(asdict(position))}
    header["digest"] = digest_of(header["position"], tensors)
    file.parent.mkdir(parents=True, exist_ok=True)
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
        raise ArtifactError(problem, file=file, fix=_ANEW) from None
    if "position" not in header:
        raise ArtifactError("no checkpoint of kdsearch: its header has no position", file=file)
    found = header.get("format", "")
    if found != str(FORMAT):
        problem = (
            f"format '{found}' is newer" if found.isdigit() and int(found) > FORMAT else f"unknown format '{found}'"
        )
        raise ArtifactError(problem, file=file, expected=f"format {FORMAT}")
    if header.get("digest") != digest_of(header["position"], tensors):
        raise ArtifactError("its bytes have changed since it was written", file=file, fix=_ANEW)
    try:
        return tensors, Position(**json.loads(header["position"]))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"its position is damaged ({error})", file=file, fix=_ANEW) from None


def owner_in(file: Path) -> str:
    """The training that a checkpoint says it belongs to, by its header alone; "" where it says none."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            return str(json.loads((opened.metadata() or {})["position"])["owner"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return ""


def digest_of(position: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds: a flipped bit would else be trained on."""
    found = hashlib.sha256(position.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
