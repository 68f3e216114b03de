"""Networks small enough for pencil and paper, of several kinds of input."""

import torch
from torch import Tensor, nn

from kdsearch.kinds import IO, Batch, Field, Model
from kdsearch.testing.probe import HandProbe

LOGITS = Field("logits", "logits", (3,))


def vector_model(module: nn.Module) -> Model:
    return Model(module, ("x",))


def linear(weight: list[list[float]], bias: bool = False) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


class TokenNet(nn.Module):
    """Mean of token and position vectors, then a linear layer; the mask says which tokens count."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 6), nn.Embedding(4, 6)
        self.mix = nn.Linear(6, 6)
        self.classifier = nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = torch.relu(self.mix(x)) * mask[..., None]
        out: Tensor = self.classifier(x.sum(1) / mask.sum(1, keepdim=True))
        return out


def token_model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(TokenNet(), ("ids", "mask"), name="tokens")


def token_probe(n: int = 6) -> HandProbe:
    ids = Field("ids", "tokens", (4,), "int64", n_values=11)
    mask = Field("mask", "mask", (4,))
    io, rng = IO((ids, mask), (LOGITS,)), torch.Generator().manual_seed(3)
    tensors = {"ids": ids.noise(n, rng), "mask": mask.noise(n, rng), "label": torch.arange(n) % 3}
    return HandProbe(Batch(tuple(map(str, range(n))), tensors), io=io)


class TwoInputs(nn.Module):
    """A small image and a vector, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.lift = nn.Linear(5, 4)
        self.classifier = nn.Linear(8, 3)

    def forward(self, image: Tensor, sensors: Tensor) -> Tensor:
        seen, felt = torch.relu(self.conv(image)).mean((2, 3)), torch.relu(self.lift(sensors))
        out: Tensor = self.classifier(torch.cat([seen, felt], 1))
        return out


def two_input_model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(TwoInputs(), ("image", "sensors"), name="two")


def two_input_probe(n: int = 6) -> HandProbe:
    rng = torch.Generator().manual_seed(4)
    tensors = {
        "image": torch.randn(n, 1, 6, 6, generator=rng),
        "sensors": torch.randn(n, 5, generator=rng),
        "label": torch.arange(n) % 3,
    }
    return HandProbe(tensors, io=IO((Field("image", "image", (1, 6, 6)), Field("sensors", "vector", (5,))), (LOGITS,)))
