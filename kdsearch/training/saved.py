"""Networks as files without code: an architecture by name, what was cut off it, and safetensors. Nothing is unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from kdsearch.errors import ArtifactError, StudyError, told
from kdsearch.host import Host
from kdsearch.kinds import IO, Compressor, Field, Model, Plan, SearchSpace
from kdsearch.kinds.units import member_of
from kdsearch.ops.seeding import seed_generators
from kdsearch.store.artifacts import sealed, unsealed
from kdsearch.store.files import read_json, storing, write_json
from kdsearch.store.hashing import derive
from kdsearch.store.weights import load_into, read, write
from kdsearch.study.code import load_code
from kdsearch.study.live_student import LiveNetwork, LiveNetworkSpec, name_of
from kdsearch.training.answers import answered, moved, remembered

FORMAT = 1
ABOUT, WEIGHTS = "model.json", "weights.safetensors"
FIX = "Save the model again."
Given = nn.Module | Model | SearchSpace[Any] | type[SearchSpace[Any]]
NEAR = 1e-4  # of answers, over the largest one: two networks of equal weights that compute the same


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
    network: Given | None = None,
) -> Path:
    """Write `model.json` and `weights.safetensors` to a folder, from which `load_model` builds the same network in any process.

    It is built again here and compared before anything is written.

    Args:
        space, spec, io: a member of a search space, built for these inputs and outputs; spec: the model's own where it has one.
        network: a module, or a search space that has no name, in place of `space`: whoever loads the model gives it again.
        code, arguments: else a callable `package.module:name` that answers with the network, and JSON that it is called with.
        history: what was done to the network since, in order: (name of a pruner, its plan).
        allow_code: names of code that may be run.

    Raises:
        StudyError: no Model, neither a space nor code, or what they and the history build has other weights than the model or,
            where `io` says what it reads, answers otherwise.
        UnsafeCodeError: `code` is not allowed.
    """
    if not isinstance(model, Model):
        expected = "a kdsearch.kinds.Model, such as Model(net, ('image',), ())"
        raise StudyError(f"got {type(model).__name__}", path="model", expected=expected)
    about: dict[str, Any] = {
        "format": FORMAT,
        "architecture": _architecture(model, space, spec, io, code, arguments, network),
        "history": [{"pruner": name, "plan": asdict(plan)} for name, plan in history],
        "model": {"inputs": list(model.inputs), "outputs": list(model.outputs), "name": model.name},
    }
    folder, weights = Path(dir), {name: value.detach().cpu() for name, value in model.module.state_dict().items()}
    built = _built(about, allow_code, folder / ABOUT, network)
    differs = _misshapen(model, built)
    if not differs and io is not None:
        load_into(built.module, weights, "save_model")
        differs, about["answers"] = _compared(model, built, io)
    if differs:
        raise StudyError(
            f"architecture and history make another network: {differs}",
            path="save_model",
            expected="what the model was built from, and every plan that was applied since",
        )
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write(folder / WEIGHTS, weights)
    about["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    write_json(folder / ABOUT, sealed(about))
    return folder


def load_model(dir: Path | str, *, allow_code: Sequence[str] = (), network: Given | None = None) -> Model:
    """The network of a folder that `save_model` wrote, in eval mode.

    Args:
        network: what it was built of, where that was an object of a program: the module, whose weights do not count, or the
            search space.

    Raises:
        StudyError: `network` is asked for, and not given.
        ArtifactError: a file is missing, damaged or of another format, the weights are not of this network, or its code has
            changed since.
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
    model = _built(about, allow_code, file, network)
    load_into(model.module, read(weights), weights)
    model.module.eval()
    if kept := about.get("answers"):  # a folder of before has none
        _check_answers(kept, model, about, file)
    return model


def _check_answers(kept: Mapping[str, Any], model: Model, about: Mapping[str, Any], file: Path) -> None:
    """Raise ArtifactError where the network answers otherwise than the saved one did. A copy does: a pass may change it."""
    try:
        name = moved(kept, model.copy())
        otherwise = f"answers '{name}' otherwise than it did" if name else ""
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        otherwise = f"fails: {told(error)}"
    if otherwise:
        of = next(about["architecture"][key] for key in ("code", "space", "network") if key in about["architecture"])
        raise ArtifactError(
            f"the code of '{of}' has changed since it was saved: with its weights it {otherwise}",
            file=file,
            expected="the code, and the objects, that it was saved with",
        )


def _misshapen(model: Model, built: Model) -> str:
    """Names of weights that one alone of the two has, or in another shape; "" where there are none."""
    own, again = ({name: tuple(x.shape) for name, x in each.module.state_dict().items()} for each in (model, built))
    return ", ".join(sorted(name for name in own.keys() | again.keys() if own.get(name) != again.get(name))[:3])


def _compared(model: Model, built: Model, io: IO) -> tuple[str, dict[str, Any]]:
    """The answers that tell the two apart, of equal weights, "" where none does; and what is remembered of them."""
    fields = [io.input(name) for name in model.inputs]
    one, other = (answered(each, fields) for each in (model.copy(), built))
    differs = ", ".join(name for name in one if not _are_near(one[name], other[name]))
    return differs, {} if differs else remembered(built, other, io)


def _are_near(x: Tensor, y: Tensor) -> bool:
    scale = float(x.detach().nan_to_num().abs().max()) if x.numel() else 0.0
    return x.shape == y.shape and torch.allclose(x, y, rtol=NEAR, atol=NEAR * scale, equal_nan=True)


def _architecture(
    model: Model,
    space: str | None,
    spec: Mapping[str, Any] | None,
    io: IO | None,
    code: str | None,
    arguments: Mapping[str, Any] | None,
    network: Given | None,
) -> dict[str, Any]:
    if code is not None:
        return {"code": code, "arguments": dict(arguments or {})}
    spec = model.spec if spec is None else spec
    if (space is None and network is None) or spec is None or io is None:
        raise StudyError(
            "nobody knows how to build the network", path="save_model", expected="space, spec and io, or code"
        )
    fields = {side: [asdict(each) for each in getattr(io, side)] for side in ("inputs", "outputs")}
    named = {"space": space} if network is None else {"network": name_of(network)}
    return {**named, "spec": dict(spec), "io": fields}


def _member(architecture: Mapping[str, Any], io: IO, host: Host, network: Given | None) -> Model:
    """Raise StudyError where it is of an object of a program, which is not given."""
    if "network" not in architecture:
        cls = host.load_class("search_space", architecture["space"])
        made: SearchSpace[Any] = cls()
    elif network is None:
        raise StudyError(
            f"it is made of '{architecture['network']}', an object of the program that saved it",
            path="network",
            expected="load_model(dir, network=...): a module of the same structure, or the search space",
        )
    elif isinstance(network, nn.Module | Model):
        made = LiveNetwork(network)
        return member_of(made, LiveNetworkSpec(network=""), io)
    else:
        made = network() if isinstance(network, type) else network
    return member_of(made, made.parse(architecture["spec"]), io)


def _built(about: Mapping[str, Any], allow_code: Sequence[str], file: Path, given: Given | None) -> Model:
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
        io = IO(fields["inputs"], fields["outputs"])
        with torch.random.fork_rng(devices=[]):
            seed_generators(derive(0, "saved"))
            model = _member(architecture, io, host, given)
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
