"""Networks as files without code: an architecture by name, what was cut off it, and safetensors. Nothing is unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from kdsearch.errors import ArtifactError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Compressor, Field, Model, Plan
from kdsearch.ops.seeding import seed_generators
from kdsearch.store.artifacts import sealed, unsealed
from kdsearch.store.files import read_json, storing, write_json
from kdsearch.store.hashing import derive
from kdsearch.store.weights import load_into, read, write
from kdsearch.study.code import load_code

FORMAT = 1
ABOUT, WEIGHTS = "model.json", "weights.safetensors"
FIX = "Save the model again."


def save_model(
    model: Model,
    dir: Path | str,
    *,
    space: str | None = None,
    spec: Mapping[str, Any] | None = None,
    io: IO | None = None,
    code: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    history: Sequence[tuple[str, Plan]] = (),
    allow_code: Sequence[str] = (),
) -> Path:
    """Write `model.json` and `weights.safetensors` to a folder, from which `load_model` builds the same network in any process.

    It is built again here and compared before anything is written.

    Args:
        space, spec, io: a member of a search space, built for these inputs and outputs; spec: the model's own where it has one.
        code, arguments: else a callable `package.module:name` that answers with the network, and JSON that it is called with.
        history: what was done to the network since, in order: (name of a pruner, its plan).
        allow_code: names of code that may be run.

    Raises:
        StudyError: neither a space nor code, or what they and the history build has other weights than the model.
        UnsafeCodeError: `code` is not allowed.
    """
    about: dict[str, Any] = {
        "format": FORMAT,
        "architecture": _architecture(model, space, spec, io, code, arguments),
        "history": [{"pruner": name, "plan": asdict(plan)} for name, plan in history],
        "model": {"inputs": list(model.inputs), "outputs": list(model.outputs), "name": model.name},
    }
    built = _built(about, allow_code, Path(dir) / ABOUT)
    own, again = (
        {name: tuple(value.shape) for name, value in each.module.state_dict().items()} for each in (model, built)
    )
    if own != again:
        differ = sorted(name for name in own.keys() | again.keys() if own.get(name) != again.get(name))
        raise StudyError(
            f"architecture and history make another network: {', '.join(differ[:3])}",
            path="save_model",
            expected="what the model was built from, and every plan that was applied since",
        )
    folder = Path(dir)
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write(folder / WEIGHTS, {name: value.detach().cpu() for name, value in model.module.state_dict().items()})
    about["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    write_json(folder / ABOUT, sealed(about))
    return folder


def load_model(dir: Path | str, *, allow_code: Sequence[str] = ()) -> Model:
    """The network of a folder that `save_model` wrote, in eval mode.

    Raises:
        ArtifactError: a file is missing, damaged or of another format, or the weights are not of this network.
        UnsafeCodeError: the network is built by code that `allow_code` does not name.
    """
    file = Path(dir) / ABOUT
    for each in (file, file.with_name(WEIGHTS)):
        if not each.is_file():
            raise ArtifactError("is not there", file=each, expected="a folder that save_model wrote")
    about = unsealed(read_json(file, fix=FIX), file, FIX)
    if about.get("format") != FORMAT:
        raise ArtifactError(f"format {about.get('format')}", file=file, expected=str(FORMAT), fix=FIX)
    weights = file.with_name(WEIGHTS)
    if hashlib.sha256(weights.read_bytes()).hexdigest() != about["sha256"]:
        raise ArtifactError("has changed since it was written", file=weights, fix=FIX)
    model = _built(about, allow_code, file)
    load_into(model.module, read(weights), weights)
    model.module.eval()
    return model


def _architecture(
    model: Model,
    space: str | None,
    spec: Mapping[str, Any] | None,
    io: IO | None,
    code: str | None,
    arguments: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if code is not None:
        return {"code": code, "arguments": dict(arguments or {})}
    spec = model.spec if spec is None else spec
    if space is None or spec is None or io is None:
        raise StudyError(
            "nobody knows how to build the network", path="save_model", expected="space, spec and io, or code"
        )
    fields = {side: [asdict(each) for each in getattr(io, side)] for side in ("inputs", "outputs")}
    return {"space": space, "spec": dict(spec), "io": fields}


def _built(about: Mapping[str, Any], allow_code: Sequence[str], file: Path) -> Model:
    """The architecture with its history, freshly initialised: weights are loaded over it."""
    host, architecture = Host.load(), about["architecture"]
    if "code" in architecture:
        make: Callable[..., Any] = load_code(architecture["code"], allow_code, Path(), "code")
        module = make(**architecture["arguments"])
        if not isinstance(module, nn.Module):
            raise StudyError(
                f"'{architecture['code']}' answers with {type(module).__name__}", path="code", expected="a module"
            )
        named = about["model"]
        model = Model(module, tuple(named["inputs"]), outputs=tuple(named["outputs"]), name=named["name"])
    else:
        try:
            fields = TypeAdapter(dict[str, tuple[Field, ...]]).validate_python(architecture["io"])
        except ValidationError as error:
            raise ArtifactError(f"fields: {error.errors()[0]['msg']}", file=file, fix=FIX) from None
        cls = host.load_class("search_space", architecture["space"])
        made = cls()
        with torch.random.fork_rng(devices=[]):
            seed_generators(derive(0, "saved"))
            model = made.build(made.parse(architecture["spec"]), IO(fields["inputs"], fields["outputs"]))
    for step in about["history"]:
        pruner: Compressor[Any] = _pruner(host, step["pruner"])
        plan = Plan(**{**step["plan"], "log": tuple(step["plan"]["log"])})
        try:
            model = pruner.apply(model, plan)
        except (KeyError, IndexError, AttributeError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"a plan of '{step['pruner']}' does not fit: {error}", file=file, fix=FIX) from error
    return model


def _pruner(host: Host, name: str) -> Compressor[Any]:
    cls: type[Compressor[Any]] = host.load_class("pruner", name)
    return cls(cls.options_class())
