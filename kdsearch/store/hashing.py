"""Content hashes and named random streams: everything that must repeat is a function of these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, nn


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values. Raises TypeError for what is not JSON, ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Hexadecimal SHA-256 of a JSON value, shortened."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_digest(texts: Iterable[str]) -> str:
    """SHA-256 of many strings in order."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode() + b"\0")
    return found.hexdigest()[:16]


def module_digest(module: nn.Module) -> str:
    """SHA-256 of a module's class, parameters and buffers: the identity of a live teacher."""
    import torch

    found = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def derive(seed: int, *names: Any) -> int:
    """A seed in [0, 2**63) that is a function of the study's seed and the stream's names."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: Any) -> Generator:
    """The CPU generator of the stream with these names."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))
