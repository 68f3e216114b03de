"""Two students that teach each other where they are reliable (after the CNN-transformer pair of ICCV 2023, arXiv 2307.12574)."""

import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.kinds import HIDDEN, Model, Options, Phase, Procedure, Update, traced_taps
from kdsearch.testing.models import Residual
from kdsearch.testing.training import TensorSource, training

SIDE, CLASSES = 8, 3


class CollabOptions(Options):
    low: float = 0.1
    pixel: float = 1.0


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 3, padding=1)
        self.stages = nn.ModuleList([Residual(5, 5, 1), Residual(5, 7, 2)])
        self.head = nn.Conv2d(7, CLASSES, 1)

    def forward(self, image):
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        return F.interpolate(self.head(x), image.shape[-2:], mode="bilinear", align_corners=False)


class Attention(nn.Module):
    """A pre-norm transformer block on a map (B, D, H, W), with dropout."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x):
        tokens = x.flatten(2).mT
        y = self.norm(tokens)
        tokens = tokens + self.attention(y, y, y, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.mT.reshape(x.shape)


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 2, 2)
        self.stages = nn.ModuleList([Attention(6), Attention(6)])
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, image):
        x = self.embed(image)
        for stage in self.stages:
            x = stage(x)
        return F.interpolate(self.head(x), image.shape[-2:], mode="bilinear", align_corners=False)


def kl(z, z_peer):
    """(B, H, W): KL(peer || mine)."""
    return F.kl_div(z.log_softmax(1), z_peer.log_softmax(1), log_target=True, reduction="none").sum(1)


class Collab(Procedure[CollabOptions]):
    roles = ships = ("cnn", "vit")

    def phases(self, setup):
        m = setup.models
        c, v = (m[role].width("stage[0]") for role in self.roles)
        self.bridge = nn.ModuleDict({"vit": nn.Conv2d(c, v, 1), "cnn": nn.Conv2d(v, c, 1)})

        def side(s, me, peer):
            mine, theirs, y = s.run(me), s.run(peer).detach(), s.batch["label"]
            ce, ce_peer = (
                F.cross_entropy(o["logits"], y, reduction="none", ignore_index=HIDDEN) for o in (mine, theirs)
            )
            wins = (ce_peer < ce.detach()) & (theirs["logits"].argmax(1) == y)
            bridged = F.adaptive_avg_pool2d(self.bridge[peer](mine["stage[0]"]), SIDE if peer == "cnn" else SIDE // 2)
            crossed = m[peer].part("stage[1]")(bridged)
            self.flow[self.roles.index(me)] += wins.float().mean()
            return Update(
                {
                    f"{me}.task": ce.mean(),
                    f"{me}.low": 1 - F.cosine_similarity(crossed, theirs["stage[1]"]).mean(),
                    f"{me}.pixel": (kl(mine["logits"], theirs["logits"]) * wins).sum() / wins.sum().clamp(min=1),
                },
                train=me,
            )

        def step(s):
            yield side(s, "cnn", "vit"), side(s, "vit", "cnn")

        self.register_buffer("flow", torch.zeros(2))
        rates = {"cnn": {"kind": "sgd", "lr": 0.05}, "vit": {"kind": "adamw", "lr": 0.005}}
        train = [
            setup.optim({"net": m[me].module, "bridge": self.bridge[peer]}, name=me, **rates[me])
            for me, peer in [("cnn", "vit"), ("vit", "cnn")]
        ]
        weights = {f"{me}.{term}": value for me in self.roles for term, value in self.options.model_dump().items()}
        taps = {role: ["stage[0]", "stage[1]"] for role in self.roles}
        yield Phase("collab", step, {"train": setup.feed("train")}, train, setup.epochs, weights=weights, taps=taps)


def scenes(n, seed):
    """A rectangle of class 1 or 2 on background; some pixels unknown."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.zeros(n, SIDE, SIDE, dtype=torch.int64)
    for i in range(n):
        y, x, k = (int(torch.randint(0, high, (), generator=rng)) for high in (4, 4, 2))
        label[i, y : y + 4, x : x + 4] = k + 1
    image = label[:, None].float() + 0.3 * torch.randn(n, 1, SIDE, SIDE, generator=rng)
    label[torch.rand(label.shape, generator=rng) < 0.05] = HIDDEN
    return {"image": image, "label": label}


def models():
    made = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for role, module in (("cnn", Cnn()), ("vit", Vit())):
            paths = {f"stage[{i}]": f"stages.{i}" for i in range(2)}
            made[role] = Model(
                module, ("image",), traced_taps(module, [torch.zeros(1, 1, SIDE, SIDE)], paths), name=role
            )
    return made


def make(folder, **given):
    data = TensorSource({"train": scenes(36, 0)}, n_classes=CLASSES)
    return training(Collab(CollabOptions()), models(), data, folder, epochs=2, batch_size=8, seed=2, **given)


KILLS = {0: [("collab", 1), ("collab", 6), ("collab", 7)], 3: [("collab", 5), ("collab", 10)]}
