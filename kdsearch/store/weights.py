"""Weights on disk: safetensors, and torch's own files as far as they hold nothing but tensors. Nothing is unpickled."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdsearch.errors import ArtifactError, UnsafeCodeError, nearest
from kdsearch.limits import WEIGHTS_BYTES
from kdsearch.store.files import parsed_json, write_bytes
from kdsearch.store.inputs import regular

METADATA = "kdsearch"  # one key holding JSON: safetensors writes several in random order
INSIDE = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "params_ema",
    "weights",
)  # where trainers put the weights
SHOWN = 4  # names in a message
SOUND = "dense tensors of finite real floats, variances of at least 0"
PICKLES = (".pkl", ".pickle", ".joblib")


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from `.safetensors`, or `.pt`, `.pth`, `.bin`, `.ckpt` through torch's weights-only loader.

    Raises:
        ArtifactError: missing, empty, truncated (with sizes) or foreign file.
        UnsafeCodeError: a file that could run code when loaded.
    """
    regular(path, "a .safetensors, .pt or .pth file", most=WEIGHTS_BYTES, error=ArtifactError)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pt2":
        raise UnsafeCodeError(
            "a torch.export program may run code when it is loaded",
            file=path,
            fix=f"Use the teacher 'exported' and pass --allow-code {path.name}, exactly as the study writes it.",
        )
    if path.suffix in PICKLES:
        raise _pickled(path)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _read_torch(path)
    raise ArtifactError(
        f"unknown kind of weights file '{path.suffix}'", file=path, expected=".safetensors, .pt or .pth"
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """What `write` was given, or the plain text entries of a foreign file."""
    _check_length(path)
    with _opened(path) as file:
        entries: dict[str, str] = file.metadata() or {}
    if set(entries) == {METADATA}:
        try:
            return dict(parsed_json(entries[METADATA].encode()))
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"its metadata are no JSON object ({error})", file=path) from None
    return dict(entries)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """A safetensors file, whole or not at all; equal tensors and metadata (JSON values) give equal bytes."""
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata or {}), sort_keys=True, allow_nan=False)
    write_bytes(path, save(held, {METADATA: text}))


def alone(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of a network by its own names, without the prefix `module.` of parallel training."""
    if not tensors or not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], file: object) -> None:
    """Copy `tensors` into the module. Raise ArtifactError naming the first missing, unexpected or misshapen ones.

    The prefix `module.` of parallel training is dropped, unless it is the module's own, and counters of batch norms may be missing.
    """
    own = module.state_dict()
    tensors = tensors if own.keys() & tensors.keys() else alone(tensors)
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    if missing or unexpected or misshapen:
        complaints = [
            _listed("missing", [f"{name} ({_shape(own[name])})" for name in missing]),
            _listed("unexpected", [f"{name} ({_shape(tensors[name])})" for name in unexpected]),
            _listed(
                "other shape", [f"{name} ({_shape(tensors[name])}, not {_shape(own[name])})" for name in misshapen]
            ),
        ]
        raise ArtifactError(
            "the weights are of another network: " + "; ".join(each for each in complaints if each),
            file=file,
            nearest=nearest(missing[0], unexpected) if missing else "",
            expected=f"{len(own)} tensors of {type(module).__name__}; the file has {len(tensors)}",
        )
    check_tensors(tensors, file, own)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def check_module(module: nn.Module, who: str) -> None:
    """Raise ArtifactError naming the first parameter or buffer of a finished network that no answer can be made with."""
    floats = {name: tensor for name, tensor in module.named_parameters() if not tensor.dtype.is_floating_point}
    if floats:
        name, tensor = next(iter(floats.items()))
        raise ArtifactError(f"{who}: parameter '{name}' is {_fault(name, tensor, True)}", expected=SOUND)
    tensors = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor | int | float | str | bytes) and "packed_params" in name:
            raise ArtifactError(f"{who}: '{name}' is quantised", expected=SOUND)
        if isinstance(tensor, Tensor):
            tensors[name] = tensor
    try:
        check_tensors(tensors, None, {})
    except ArtifactError as error:
        raise ArtifactError(f"{who}: {error.problem}", expected=SOUND) from None


def check_tensors(tensors: Mapping[str, Tensor], file: object, own: Mapping[str, Tensor]) -> None:
    """Raise ArtifactError naming the first tensor that no network can answer with: not finite, no plain floats where `own`
    has floats, a negative variance."""
    for name, tensor in tensors.items():
        fault = _fault(name, tensor, name in own and own[name].is_floating_point())
        if fault:
            raise ArtifactError(f"tensor '{name}' is {fault}", file=file, expected=SOUND)


def _fault(name: str, tensor: Tensor, to_be_float: bool) -> str:
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_complex():
        return "complex"
    if not tensor.is_floating_point():
        return f"of {str(tensor.dtype).removeprefix('torch.')}" if to_be_float else ""
    values = tensor if tensor.element_size() > 1 else tensor.float()  # few operations know floats of eight bits
    if not bool(torch.isfinite(values).all()):
        return "not finite (NaN or infinity)"
    return "negative, and a variance" if name.endswith("running_var") and bool((values < 0).any()) else ""


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _check_length(path)
    with _opened(path) as file:
        # copies, so that a file replaced later cannot change what was read
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"not a valid safetensors file ({error})", file=path) from None


def _check_length(path: Path) -> None:
    """The header says how long the file is: tell a truncated file from a foreign one."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = int.from_bytes(stream.read(8), "little")
        if size < 8 or head > min(size - 8, 100_000_000):
            told = f"its header claims {head:,} of {size:,} bytes" if size >= 8 else f"{size} bytes"
            raise ArtifactError(f"not a safetensors file: {told}", file=path, expected="a complete safetensors file")
        try:
            header = json.loads(stream.read(head))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + head + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise ArtifactError("not a safetensors file: its header is no table of tensors", file=path) from None
    if size != expected:
        raise ArtifactError(f"{size:,} of {expected:,} bytes", file=path, expected="a complete safetensors file")


def _read_torch(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise _pickled(path) from None
        raise ArtifactError(f"{size:,} bytes, not a torch file ({_first_line(error)})", file=path) from None
    except Exception as error:  # a hostile or torn file fails anywhere in the reader
        raise ArtifactError(f"{size:,} bytes, not a whole torch file ({_first_line(error)})", file=path) from None
    return _tensors(loaded, path)


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        inside = next((name for name in INSIDE if isinstance(loaded.get(name), Mapping)), None)
        loaded = loaded[inside] if inside else loaded
    if not isinstance(loaded, Mapping) or not loaded:
        raise ArtifactError(f"holds {_kind(loaded)}", file=path, expected="a state dict: tensors by name")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ArtifactError(
                f"entry '{name}' is {_kind(value)}", file=path, expected="a state dict: tensors by name"
            )
    return {name: value.detach() for name, value in loaded.items()}


def _kind(value: Any) -> str:
    return (
        f"an empty {type(value).__name__}" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"
    )


def _first_line(error: BaseException) -> str:
    lines: Iterable[str] = str(error).splitlines()
    return next(iter(lines), type(error).__name__)[:120]


def _pickled(path: Path) -> UnsafeCodeError:
    return UnsafeCodeError(
        "holds pickled Python objects, which may run code when they are loaded; it was not loaded",
        file=path,
        expected="tensors only",
        fix="Save its state dict as .safetensors, or load it in a function of your own: teacher 'python' with "
        "--allow-code NAME.",
    )
