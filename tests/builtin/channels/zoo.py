"""Networks of torchvision and timm with random weights, small inputs: what pruning is tried on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdsearch.kinds import Field

ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[Field, ...]]] = {}


def _image(name: str, make: Callable[[], nn.Module], size: int = 64) -> None:
    ZOO[name] = (make, (Field("image", "image", (3, size, size)),))


def _torchvision(name: str, size: int = 64, **options: object) -> None:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=10, **options)  # type: ignore[no-any-return]

    _image(name, make, size)


def _timm(name: str, size: int = 64, **options: object) -> None:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **options)

    _image(name, make, size)


for _name in ("resnet18", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small"):
    _torchvision(_name)
for _name in ("efficientnet_b0", "convnext_tiny", "regnet_x_400mf", "vgg11_bn", "shufflenet_v2_x1_0"):
    _torchvision(_name)
_torchvision("googlenet", aux_logits=False, init_weights=False)
_timm("convnextv2_atto")
_timm("ghostnet_100")
_timm("mobileone_s0")
_timm("repvgg_a0")
_timm("edgenext_xx_small")
_timm("fastvit_t8")
_timm("levit_128s", 224)
_timm("vit_tiny_patch16_224", img_size=64)
_timm("deit_tiny_patch16_224", img_size=64)
_timm("swin_tiny_patch4_window7_224", 64, img_size=64, window_size=2)
_timm("maxvit_tiny_tf_224", 64, img_size=64)
_timm("coatnet_0_224", 64, img_size=64)
_timm("mixer_s16_224", 224)
_timm("resmlp_12_224", 224)


class TextLstm(nn.Module):
    """Token ids of any length -> logits, by two bidirectional LSTM layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.lstm = nn.LSTM(32, 48, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0].mean(1))  # type: ignore[no-any-return]


class Unet(nn.Module):
    """Two levels with skips, transposed convolutions: (B, 3, H, W) -> (B, 5, H, W)."""

    def __init__(self) -> None:
        super().__init__()

        def block(c: int, d: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(c, d, 3, 1, 1), nn.BatchNorm2d(d), nn.ReLU(), nn.Conv2d(d, d, 3, 1, 1), nn.ReLU()
            )

        self.one, self.two, self.three = block(3, 16), block(16, 32), block(32, 64)
        self.up_two, self.up_one = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.out_two, self.out_one = block(64, 32), block(32, 16)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(nn.functional.max_pool2d(one, 2))
        three = self.three(nn.functional.max_pool2d(two, 2))
        two = self.out_two(torch.cat([two, self.up_two(three)], 1))
        return self.head(self.out_one(torch.cat([one, self.up_one(two)], 1)))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token ids of any length -> logits, by two layers of torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 48)
        layer = nn.TransformerEncoderLayer(48, 4, 192, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens)).mean(1))  # type: ignore[no-any-return]


class Detector(nn.Module):
    """A pyramid of two levels and one head for both: classes and boxes of each place, (B, N, 4) and (B, N, 5)."""

    def __init__(self) -> None:
        super().__init__()

        def conv(c: int, d: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.BatchNorm2d(d), nn.SiLU())

        self.stem, self.three, self.four = conv(3, 16, 4), conv(16, 32, 2), conv(32, 64, 2)
        self.side_three, self.side_four = nn.Conv2d(32, 32, 1), nn.Conv2d(64, 32, 1)
        self.tower = nn.Sequential(conv(32, 32), conv(32, 32))
        self.classes, self.boxes = nn.Conv2d(32, 5, 3, 1, 1), nn.Conv2d(32, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        three = self.three(self.stem(x))
        four = self.side_four(self.four(three))
        three = self.side_three(three) + nn.functional.interpolate(four, scale_factor=2.0)
        towers = [self.tower(each) for each in (three, four)]
        found = [[made(each).flatten(2).transpose(1, 2) for each in towers] for made in (self.boxes, self.classes)]
        return torch.cat(found[0], 1), torch.cat(found[1], 1)


ZOO["text_encoder"] = (TextEncoder, (Field("tokens", "tokens", (None,), "int64", n_values=100),))
_image("detector", Detector)
ZOO["lstm"] = (TextLstm, (Field("tokens", "tokens", (None,), "int64", n_values=100),))
_image("unet", Unet)
