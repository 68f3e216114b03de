"""Teacher `safetensors`: a member of a search space, or a timm network, with trained weights from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from kdsearch.builtin.teachers.fitted import n_classes
from kdsearch.builtin.teachers.timm_network import check_fits, create, fitted, normalization_of
from kdsearch.kinds import IO, Model, Normalization, Options, Services, Teacher
from kdsearch.kit import weights
from kdsearch.limits import RESIZE


class WeightsFileOptions(Options):
    path: str = Field(description="a .safetensors file (or .pt, .pth with tensors only), relative to the study")
    space: str | None = Field(None, description="search space that the network is a member of")
    spec: dict[str, Any] = Field(default_factory=dict, description="its fields; those left out have their defaults")
    timm: str | None = Field(None, description="or a network of timm, by name")
    size: int | None = Field(None, ge=8, le=RESIZE, description="of timm: pixels a side that images are resized to")

    @model_validator(mode="after")
    def _one_architecture(self) -> WeightsFileOptions:
        if (self.space is None) == (self.timm is None):
            raise ValueError("either space (with spec) or timm: weights alone do not say what network they are of")
        return self


class WeightsFile(Teacher[WeightsFileOptions]):
    """Used as it is, without training."""

    @property
    def normalization(self) -> Normalization | None:
        """timm's `pretrained_cfg`; of a search space's member nothing is known."""
        return normalization_of(self.options.timm) if self.options.timm else None

    def preflight(self, services: Services) -> None:
        file = services.file(self.options.path)
        tensors = weights.read(file)
        if self.options.timm is not None:
            check_fits(self.options.timm, tensors, file)

    def model(self, io: IO, services: Services) -> Model:
        """Raise ArtifactError naming missing, unexpected and misshapen tensors."""
        o = self.options
        file = services.file(o.path)
        tensors = weights.read(file)
        if o.space is not None:
            model = services.build(o.space, o.spec)
            weights.load_into(model.module, tensors, file)
            return model
        assert o.timm is not None
        net = create(o.timm, n_classes(io, o.timm), services, size=o.size)
        weights.load_into(net, tensors, file)
        return fitted(net, io, o.timm, o.size)

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name, "network": self.options.space or f"timm {self.options.timm}"}
