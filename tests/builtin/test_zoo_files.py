"""Every graph of the zoo as fp32, INT8 and INT4: written, compared with torch, opened again, and verified from its card."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.verify import verified
from kdsearch.kinds import IO, Field, Model
from kdsearch.python.networks import kind_of
from kdsearch.python.recovery import noise
from kdsearch.python.verified import Source, verified_file
from kdsearch.store.files import copy_file, read_json
from tests.builtin.channels.zoo import ZOO


def graph(name):
    """A network of the zoo and what it reads and answers, the same at every call; its batch norms have seen something."""
    make, inputs = ZOO[name]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        net = make().eval()
    settle_norms(net, inputs)
    with torch.no_grad():
        out = net(*[field.blank(2) for field in inputs])
    answers = out if isinstance(out, tuple) else (out,)
    single = len(answers) == 1
    outputs = tuple(
        Field(
            "logits" if single else f"output_{i}",
            "logits" if single else kind_of(each.shape[1:]),
            tuple(each.shape[1:]),
        )
        for i, each in enumerate(answers)
    )
    return net, IO(tuple(inputs), outputs)


def settle_norms(net, inputs):
    """Statistics of noise: with fresh ones the values of deep networks grow without bound, or vanish; and no head of zeros."""
    rng = torch.Generator().manual_seed(0)
    norms = [each for each in net.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for each in net.parameters():
            if each.ndim > 1 and not bool(each.any()):
                each.normal_(0, 0.1, generator=rng)
        for each in norms:
            each.reset_running_stats()
            each.momentum = None  # the mean over all batches
            each.train()
        for _ in range(2 if norms else 0):
            net(*[field.noise(8, rng) for field in inputs])
    for each in norms:
        each.momentum = 0.1
        each.eval()


@pytest.mark.parametrize("name", list(ZOO))
def test_three_formats(name, tmp_path):
    net, io = graph(name)
    model = Model(
        net, tuple(each.name for each in io.inputs), outputs=tuple(each.name for each in io.outputs), name=name
    )
    seen, samples = noise(io, 16, 1), noise(io, 6, 2)
    feeds = [{key: value[at : at + 8].numpy() for key, value in seen.tensors.items()} for at in (0, 8)]
    source = Source(model, io, OnnxExporter(OnnxOptions()), samples, feeds, {})
    whole = None
    for quantize in (None, {"use": "int8"}, {"use": "int4", "options": {"rounding": "nearest"}}):
        kind = quantize["use"] if quantize else "fp32"
        file = tmp_path / f"{kind}.onnx"
        if whole is not None:
            source = Source(model, io, source.exporter, samples, feeds, {}, fp32=partial(copy_file, whole))
        found, row = verified_file(source, file, quantize, 1e-4, None, "onnx")
        checks = verified(file, read_json(file.with_suffix(".json"), dict))
        assert [each for each in checks if not each.ok] == []
        assert "answers as when the card was written" in {each.check for each in checks}
        whole = whole or file
        share = row["weight_share"]
        print(f"ZOO {name} {kind} {row['bytes']} {found.worst.relative:.3g} {share}")
        if quantize is not None:
            # How far answers move says nothing where weights are random; that they are numbers does.
            assert share["8"] + share["4"] * (kind == "int4") > 0.8
            assert math.isfinite(found.worst.relative)
