"""The pruning half of `compress.py`: kdsearch's `channels` beside Torch-Pruning, used by hand as its own examples use it.

Both take the same trained network to the same share of its multiply-accumulates, kept channels a multiple of 4; then both are
recovered alike: the same number of epochs, learning rate and order of samples, with the uncut network as teacher.
Multiply-accumulates of all are counted by kdsearch. kdsearch's importance is its default, which looks at training and validation
samples. Torch-Pruning's is squared weights over coupled layers, its examples' choice, compared among all layers (`global`) or
by the same share of each (`uniform`), or its Taylor importance by as many training samples (`taylor`); all else is its own default.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_nets import accuracy, fields, fit
from subjects import Subject, latencies
from torch import nn
from torch.nn import functional as F

from kdsearch.host import Host
from kdsearch.kinds import IO, Compressor
from kdsearch.kit.costs import count_module
from kdsearch.python.own_data import PlanSubject
from kdsearch.python.pieces import as_model
from kdsearch.study.schema import Use
from kdsearch.training.materials import make

BISECTIONS = 12
SAMPLES = 128  # that gradients are taken of, as kdsearch does
ROUND_TO = 4


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--macs", type=float, default=0.5, help="share that stays")
    parser.add_argument("--recover", type=int, default=4, help="epochs of recovery")
    parser.add_argument("--recover-lr", type=float, default=1e-3)
    parser.add_argument("--importances", default="auto", help="of kdsearch: an arm each")


def rows(subject: Subject, asked: argparse.Namespace) -> list[dict[str, Any]]:
    whole = row_of(subject, "uncut", subject.net, 0.0)
    target = asked.macs * whole["macs"]
    arms: dict[str, Callable[[], nn.Module]] = {}
    for importance in asked.importances.split(","):
        arms[f"kdsearch {importance}"] = lambda importance=importance: ours(subject, target / whole["macs"], importance)
    for way in ("global", "uniform", "taylor"):
        arms[f"torch-pruning {way}"] = lambda way=way: by_torch_pruning(subject, target, way)
    found = [whole]
    for name, cut in arms.items():
        began = time.process_time()
        try:
            net = cut()
            seconds = time.process_time() - began
            at_cut = accuracy(net, subject.data)
            fit(net, subject.data, asked.recover, asked.recover_lr, subject.seed, subject.net)
            found.append(row_of(subject, name, net, seconds) | {"accuracy_cut": at_cut})
        except Exception as error:  # whatever a tool raises is what this benchmark tells
            found.append({"arm": name, "failure": f"{type(error).__name__}: {str(error)[:200]}"})
    latencies(found)
    return found


def row_of(subject: Subject, arm: str, net: nn.Module, seconds: float) -> dict[str, Any]:
    cost = count_module(net, subject.one)
    file = subject.fp32(net, arm.replace(" ", "-"))
    return {
        "arm": arm,
        "accuracy": accuracy(net, subject.data),
        "macs": cost.macs,
        "params": cost.params,
        "seconds": seconds,
        "file": str(file),
        "failure": None,
    }


def ours(subject: Subject, share: float, importance: str) -> nn.Module:
    host = Host.load()
    options = {"macs": share, "importance": importance, "round_to": ROUND_TO}
    pruner: Compressor[Any] = make(host, "pruner", Use(use="channels", options=options), "prune")
    image, logits = fields(subject.data)
    io = IO((image,), (logits,))
    model = as_model(copy.deepcopy(subject.net), io, subject.name)
    opened = subject.data.opened(subject.folder / "data.npz", subject.seed)
    site = PlanSubject(seed=subject.seed, base=Path(), model=model, io=io, opened=opened, budget={})
    return pruner.apply(model, pruner.plan(site)).module


def by_torch_pruning(subject: Subject, macs: float, way: str) -> nn.Module:
    """The largest network that its pruner makes within `macs`, by bisection of its one ratio."""
    low, high, best, why = 0.0, 1.0, None, ""
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        try:
            net = _torch_pruned(subject, ratio, way)
        except Exception as error:  # so much was cut that nothing runs, or nothing can be cut at all
            high, why = ratio, f"{type(error).__name__}: {error}"
            continue
        if count_module(net, subject.one).macs <= macs:
            best, high = net, ratio
        else:
            low = ratio
    if best is None:
        raise RuntimeError(f"no ratio gives {macs:,.0f} MACs: {low:.3f} is above, and more does not run: {why}")
    return best


def _torch_pruned(subject: Subject, ratio: float, way: str) -> nn.Module:
    import torch_pruning as tp
    from timm.layers import Attention

    net = copy.deepcopy(subject.net)
    outputs = [
        each for each in net.modules() if isinstance(each, nn.Linear) and each.out_features == subject.data.classes
    ]
    heads = {}
    for module in net.modules():
        if isinstance(module, Attention):
            module.fused_attn = False
            heads[module.qkv] = module.num_heads
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    if way == "taylor":
        importance = tp.importance.GroupTaylorImportance()
        pixels, labels = subject.data.splits["train"]
        chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(subject.seed))[:SAMPLES]
        for at in chosen.split(32):
            F.cross_entropy(net(pixels[at]), labels[at]).backward()
    pruner = tp.pruner.MagnitudePruner(
        net,
        (torch.randn(1, *subject.one[0].shape[1:], generator=torch.Generator().manual_seed(0)),),
        importance=importance,
        global_pruning=way != "uniform",
        pruning_ratio=ratio,
        ignored_layers=outputs,
        round_to=ROUND_TO,
        num_heads=heads,
    )
    pruner.step()
    for module in net.modules():
        if isinstance(module, Attention):
            module.num_heads = pruner.num_heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            module.attn_dim = module.num_heads * module.head_dim
    with torch.no_grad():
        net(subject.one[0])
    return net
