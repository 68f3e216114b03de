import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet18

from kdsearch.kinds import Model
from kdsearch.kinds.found_taps import classifier_path, found_taps
from kdsearch.testing.space import check_taps


def taps_of(net, size, inside=""):
    torch.manual_seed(0)
    found = found_taps(net, [torch.zeros(1, 3, size, size)], inside)
    check_taps(Model(net, ("image",), found), [torch.randn(2, 3, size, size)])
    return {tap.name: tap for tap in found}


@pytest.mark.parametrize(
    ("name", "size", "stages", "penultimate"),
    [
        ("resnet18", 32, [(64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1)], 512),
        ("mobilenetv3_small_050", 64, [(8, 16, 16), (16, 8, 8), (24, 4, 4), (288, 2, 2)], 1024),
        ("regnetx_002", 32, [(24, 8, 8), (56, 4, 4), (152, 2, 2), (368, 1, 1)], 368),
        ("convnext_atto", 64, [(40, 16, 16), (80, 8, 8), (160, 4, 4), (320, 2, 2)], 320),
        ("tf_efficientnet_lite0", 64, [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)], 1280),
    ],
)
def test_timm_stages_are_those_it_describes(name, size, stages, penultimate):
    net = timm.create_model(name, num_classes=3)
    taps = taps_of(net, size)
    assert [tap.shape for each, tap in taps.items() if each.startswith("stage")] == stages
    assert [tap.stride for each, tap in taps.items() if each.startswith("stage")] == [size // s[1] for s in stages]
    assert taps["penultimate"].shape == (penultimate,)
    assert taps["logits"].path == classifier_path(net)


def test_tokens_are_maps_of_their_grid_and_maps_stored_last_are_left_out():
    taps = taps_of(timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64), 64)
    stage, tokens = taps["stage[11]"], taps["tokens[11]"]
    assert (stage.kind, stage.shape, stage.grid, stage.stride) == ("map", (192, 4, 4), (4, 4), 16)
    assert (tokens.kind, tokens.shape, tokens.grid, tokens.path) == ("tokens", (17, 192), (4, 4), stage.path)
    assert list(taps)[:12] == [f"stage[{i}]" for i in range(12)]
    assert list(taps)[-2:] == ["penultimate", "logits"]
    swin = taps_of(timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=56, window_size=7), 56)
    assert set(swin) == {"penultimate", "logits"}


def test_a_plain_network_has_the_last_map_of_each_resolution():
    taps = taps_of(resnet18(num_classes=4), 64)
    stages = [(tap.path, tap.shape) for name, tap in taps.items() if name.startswith("stage")]
    assert stages == [
        ("relu", (64, 32, 32)),
        ("layer1", (64, 16, 16)),
        ("layer2", (128, 8, 8)),
        ("layer3", (256, 4, 4)),
        ("layer4", (512, 2, 2)),
    ]
    assert (taps["penultimate"].shape, taps["logits"].shape) == ((512,), (4,))


def test_a_wrapped_network_has_its_paths_inside():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model("resnet18", num_classes=3)

        def forward(self, x):
            return self.net(x)

    taps = taps_of(Wrapped(), 32, inside="net")
    assert taps["stage[0]"].path == "net.layer1"
    assert taps["logits"].path == "net.fc"


def test_looking_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [part.training for part in net.modules()]
    taps = {tap.name for tap in found_taps(net, [torch.randn(2, 3, 9, 9)])}
    assert taps == {"stage[0]", "penultimate", "logits"}
    assert modes == [part.training for part in net.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
