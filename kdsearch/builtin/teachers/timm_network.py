"""Teacher `timm`: any network of the timm library, with weights from a file or its hub, fine-tuned where classes differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdsearch.builtin.teachers.fitted import Fitted, image_of, n_classes
from kdsearch.errors import ArtifactError, PluginError, StudyError, nearest
from kdsearch.kinds import IO, Model, Normalization, Options, Services, Teacher, Training
from kdsearch.kinds.found_taps import classifier_path
from kdsearch.kit import weights
from kdsearch.kit.networks import modelled
from kdsearch.limits import BATCH, EPOCHS, RESIZE, THREADS
from kdsearch.ops.seeding import seed_generators

LEAST = 32  # pixels: below, most networks have no resolution left


class FineTuning(Options):
    """Options of a teacher whose weights come from elsewhere.

    The defaults are mild, for networks that a large rate would wreck (transformers).
    """

    epochs: int = Field(
        0, ge=0, le=EPOCHS, description="of fine-tuning on the study's data; needed where classes differ"
    )
    labels: Literal["all", "given"] = Field(
        "all", description="all = also the labels that the study hides from the student; given = only what it may see"
    )
    lr: float = Field(2e-3, gt=0, description="peak learning rate of the classifier")
    backbone: float = Field(0.5, ge=0, le=1, description="factor on lr below the classifier; 0 = frozen")
    batch_size: int = Field(32, ge=1, le=BATCH, description="samples a micro-batch")
    accumulate: int = Field(1, ge=1, le=BATCH, description="micro-batches a step, shared out among run.devices")
    weight_decay: float = Field(0.01, ge=0, description="decoupled")
    threads: int | None = Field(
        None,
        ge=1,
        le=THREADS,
        description="CPU threads of its training; left out: run.threads_per_trial. It is alone, trials are not",
    )
    size: int | None = Field(
        None,
        ge=8,
        le=RESIZE,
        description="pixels a side that images are resized to; left out: theirs, 32 or more, or the network's own",
    )


class TimmOptions(FineTuning):
    name: str = Field(description="as in timm.list_models()")
    weights: str | None = Field(None, description="a .safetensors or .pth file with timm's parameter names")
    pretrained: bool = Field(False, description="fetch timm's own weights; needs a network or their cache")


class Timm(Teacher[TimmOptions]):
    """Taps: `stem`, `stage[i]` as timm describes them, `penultimate`, `logits`."""

    @property
    def training(self) -> Training | None:
        o = self.options
        if not o.epochs:
            return None
        return replace(fine_tuning(o, _classifier_of(o.name)), is_fresh=not (o.weights or o.pretrained))

    @property
    def normalization(self) -> Normalization | None:
        """timm's `pretrained_cfg`, where weights come from elsewhere."""
        return normalization_of(self.options.name) if self.options.weights or self.options.pretrained else None

    def preflight(self, services: Services) -> None:
        known(self.options.name)
        if self.options.weights:
            file = services.file(self.options.weights)
            check_fits(self.options.name, weights.read(file), file)

    def model(self, io: IO, services: Services) -> Model:
        """Raise PluginError without timm or for an unknown name, ArtifactError for weights that do not fit, StudyError when
        the classifier would stay untrained."""
        o, k = self.options, n_classes(io, f"timm '{self.options.name}'")
        net = create(o.name, k, services, pretrained=o.pretrained, size=o.size)
        known = k
        if o.weights:
            file = services.file(o.weights)
            known = load_all_but_other_classes(net, weights.read(file), file)
        elif o.pretrained:
            known = int(getattr(net, "pretrained_cfg", {}).get("num_classes", 0))
        elif not o.epochs:
            raise StudyError(
                f"teacher 'timm': '{o.name}' would be untrained", expected="weights, pretrained: true, or epochs"
            )
        check_trained(known, k, o.epochs, o.name)
        return fitted(net, io, o.name, o.size)

    def facts(self) -> Mapping[str, Any]:
        o = self.options
        source = (o.weights and Path(o.weights).name) or ("timm's hub" if o.pretrained else "trained by this study")
        return {"source": source, "network": f"timm {o.name}", "fine_tuned_epochs": o.epochs}


def fine_tuning(o: FineTuning, classifier: str) -> Training:
    """The classifier at lr, all else at `backbone` times lr."""
    scale = {f"*net.{classifier}.*": 1.0, "*": o.backbone}
    return Training(o.epochs, o.labels, o.lr, o.batch_size, "adamw", o.weight_decay, scale, o.threads, o.accumulate)


def check_trained(known: int, k: int, epochs: int, name: str) -> None:
    if known != k and not epochs:
        raise StudyError(
            f"teacher '{name}': its weights know {known} classes, the data set has {k}",
            expected="epochs of fine-tuning, for a new classifier",
        )


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise PluginError("timm is not installed", fix="Run: pip install 'kdsearch[timm]'") from error
    return timm


def known(name: str) -> None:
    """Raise PluginError for a name that is none of timm's."""
    timm = _timm()
    if not timm.is_model(name.split(".")[0]):
        raise PluginError(
            f"timm has no network '{name}'",
            nearest=nearest(name, timm.list_models()),
            expected="a name of timm.list_models()",
        )


def check_fits(name: str, tensors: Mapping[str, Tensor], file: object) -> None:
    """Raise ArtifactError for weights of another network, whatever their classes; no numbers are made."""
    with torch.device("meta"):
        told = weights.alone(tensors).get(f"{classifier_path(_made(name))}.weight")
        net = _made(name) if told is None else _made(name, num_classes=len(told))
    weights.load_into(net, tensors, file)


def _made(name: str, **arguments: Any) -> nn.Module:
    known(name)
    made: nn.Module = _timm().create_model(name, **arguments)
    return made


def normalization_of(name: str) -> Normalization | None:
    """What timm says that a network's weights were trained on."""
    config = _timm().get_pretrained_cfg(name)
    return Normalization(tuple(config.mean), tuple(config.std)) if config else None


def _classifier_of(name: str) -> str:
    with torch.device("meta"):
        return classifier_path(_made(name))


def create(name: str, k: int, services: Services, pretrained: bool = False, size: int | None = None) -> nn.Module:
    """A network of timm with K classes; new weights are a function of the study's seed.

    Raises:
        PluginError: no timm, or no such network.
        ArtifactError: its weights cannot be fetched.
    """
    arguments: dict[str, Any] = {"num_classes": k}
    if size is not None and _has_fixed_size(name):
        arguments["img_size"] = size
    seed = int(torch.randint(2**31, (1,), generator=services.rng("teacher/timm")).item())
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        if not pretrained:
            return _made(name, **arguments)
        try:
            return _made(name, pretrained=True, **arguments)
        except PluginError:
            raise
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ArtifactError(
                f"timm's weights of '{name}' cannot be fetched: {first[:160]}",
                fix="Give `weights:` a local file instead of `pretrained: true`.",
            ) from error


def _has_fixed_size(name: str) -> bool:
    with torch.device("meta"):
        return bool(getattr(_made(name), "pretrained_cfg", {}).get("fixed_input_size", False))


def load_all_but_other_classes(net: nn.Module, tensors: Mapping[str, Tensor], file: object) -> int:
    """Load weights; a classifier of another number of classes stays as it was made. Returns the weights' number of classes."""
    tensors, path = weights.alone(tensors), classifier_path(net)
    own = net.state_dict()
    told = tensors.get(f"{path}.weight")
    if told is None or told.shape[1:] != own[f"{path}.weight"].shape[1:] or len(told) == len(own[f"{path}.weight"]):
        weights.load_into(net, tensors, file)
        return len(own[f"{path}.weight"])
    kept = {name: tensor for name, tensor in own.items() if name.startswith(f"{path}.")}
    weights.load_into(net, {**tensors, **kept}, file)
    return len(told)


def fitted(net: nn.Module, io: IO, name: str, size: int | None = None) -> Model:
    """The network behind a `Fitted` that brings the data set's images to what it reads."""
    _, channels, height, width = image_of(io, name)
    config: Mapping[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    reads = int(getattr(net, "in_chans", None) or (config.get("input_size") or (3,))[0])
    if channels not in (1, reads):
        raise StudyError(
            f"teacher '{name}' reads {reads} channels, the data set has {channels}", expected=f"1 or {reads} channels"
        )
    sides: tuple[int, int] = (max(height, LEAST), max(width, LEAST))
    if size is not None:
        sides = (size, size)
    elif config.get("fixed_input_size"):
        sides = tuple(config["input_size"][-2:])
    return modelled(Fitted(net, reads, sides), io, name, inside="net")
