"""Networks that train as they will be quantised: the same levels as the files', and gradients that pass."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import parametrize

from kdsearch.builtin.int4.quantizer import Int4, Int4Options
from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.builtin.simulated import in_8_bits, in_blocks, to_limit
from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.kinds import Field, Graph, Model
from kdsearch.ops.copies import module_copy
from kdsearch.ops.settle import settle
from tests.deploy.nets import batch_of

X = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))
FIELDS = (Field("x", "image", (3, 6, 6)),), (Field("y", "logits", (4,)),)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()


@pytest.mark.parametrize(
    ("quantizer", "width"), [(Int8(Int8Options()), 127), (Int4(Int4Options(rounding="nearest")), 15)]
)
def test_levels_are_few_and_gradients_pass(quantizer, width):
    module = net()
    whole = {name: value.clone() for name, value in module.state_dict().items()}
    made = quantizer.apply(Model(module, ("x",)), quantizer.plan(None))
    assert all(torch.equal(value, whole[name]) for name, value in module.state_dict().items()), "the network stays"
    weight = made.module[0].weight
    assert not torch.equal(weight, whole["0.weight"])
    assert all(len(row.unique()) <= width for row in weight.flatten(1))
    made.module.train()(X).sum().backward()
    behind = made.module[0].parametrizations.weight.original
    assert bool(behind.grad.abs().sum() > 0)
    settle(made.module)
    assert torch.equal(made.module[0].weight, weight)
    assert dict(made.module.named_parameters()).keys() == dict(module.named_parameters()).keys()


def test_int8_files_store_what_was_trained(tmp_path):
    """The rounded weights are levels of the file: rounding them again changes nothing."""
    quantizer = Int8(Int8Options(samples=8))
    made = quantizer.apply(Model(net(), ("x",)), quantizer.plan(None))
    settle(made.module)
    exporter, file = OnnxExporter(OnnxOptions(engine="torchscript")), tmp_path / "net.onnx"
    exporter.write(Graph(made.module.eval(), *FIELDS), batch_of(x=X[:2]), file)
    whole = {each.name: numpy_helper.to_array(each) for each in read_onnx(file).graph.initializer}
    shutil.copy(file, tmp_path / "fp32.onnx")
    quantizer.rewrite(file, quantizer.plan(None), [{"x": X[:8].numpy()}])
    tensors = {each.name: numpy_helper.to_array(each) for each in read_onnx(file).graph.initializer}
    stored = next(value for value in tensors.values() if value.dtype == np.int8 and value.ndim == 4)
    (scale,) = (
        tensors[node.input[1]]
        for node in read_onnx(file).graph.node
        if node.op_type == "DequantizeLinear" and tensors.get(node.input[0]) is stored
    )
    weight = next(value for value in whole.values() if value.ndim == 4)
    assert np.allclose(stored * scale.reshape(-1, 1, 1, 1), weight, atol=1e-6)


def test_int4_files_store_what_was_trained(tmp_path):
    quantizer = Int4(Int4Options(rounding="nearest", min_elements=16))
    made = quantizer.apply(Model(net(), ("x",)), quantizer.plan(None))
    settle(made.module)
    exporter, file = OnnxExporter(OnnxOptions(engine="torchscript")), tmp_path / "net.onnx"
    exporter.write(Graph(made.module.eval(), *FIELDS), batch_of(x=X[:2]), file)
    before = open_session(file).run(None, {"x": X.numpy()})[0]
    quantizer.rewrite(file, quantizer.plan(None), [])
    after = open_session(file).run(None, {"x": X.numpy()})[0]
    assert np.allclose(before, after, atol=1e-4 * np.abs(before).max())


def image_net():
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(54, 4)).eval()


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.table.weight *= torch.linspace(0.2, 3.0, 16)  # columns of several ranges

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


IDS = torch.randint(0, 50, (32, 7), generator=torch.Generator().manual_seed(0))
TEXT = (Field("x", "tokens", (7,), "int64", n_values=50),), (Field("y", "logits", (4,)),)
NETS = {"image": (image_net, X, FIELDS), "text": (Bag, IDS, TEXT)}


def settled(quantizer, name, tmp_path):
    """The weights before and after training as quantised (of no step), and the rewritten file's answers before and after it."""
    make, x, fields = NETS[name]
    module, file = make().eval(), tmp_path / "net.onnx"
    whole = {key: value.clone() for key, value in module.state_dict().items()}
    made = quantizer.apply(Model(module, ("x",)), quantizer.plan(None))
    settle(made.module)
    exporter = OnnxExporter(OnnxOptions() if name == "attention" else OnnxOptions(engine="torchscript"))
    exporter.write(Graph(made.module.eval(), *fields), batch_of(x=x[:2]), file)
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x[:8].numpy()}])
    return whole, made.module.state_dict(), file


def stored(file):
    """What the file's integers mean, by shape; of a matrix (in, out) also as (out, in)."""
    model = read_onnx(file)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    found = {}

    def keep(q, scale, axis):
        places = [1] * q.ndim
        places[axis] = -1
        value = q * (scale.reshape(places) if scale.size > 1 else scale)
        found[value.shape] = value
        found.setdefault(value.T.shape, value.T)

    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            name = node.input[0] if node.input[0] in tensors else (made_by[node.input[0]].input or [""])[0]
            if name in tensors and tensors[name].dtype == np.int8:  # else an activation
                keep(
                    tensors[name],
                    tensors[node.input[1]],
                    next((each.i for each in node.attribute if each.name == "axis"), 1),
                )
        elif node.op_type == "MatMulInteger":
            keep(tensors[node.input[1]], tensors[node.input[1].replace("_quantized", "_scale")], 1)
    return found


@pytest.mark.parametrize(
    ("name", "options", "fp32"),
    [
        ("image", {}, ()),
        ("image", {"per_channel": False}, ()),
        ("image", {"reduce_range": False}, ()),
        ("image", {"keep_first": True}, ("0",)),
        ("image", {"keep_last": True}, ("5",)),
        ("image", {"mode": "dynamic"}, ("0", "2", "3")),
        ("text", {"mode": "static"}, ()),
        ("text", {"mode": "static", "per_channel": False}, ()),
        ("text", {"mode": "static", "keep_first": True}, ("table", "head")),
    ],
    ids=str,
)
def test_int8_trains_what_its_options_store(name, options, fp32, tmp_path):
    whole, made, file = settled(Int8(Int8Options(samples=8, **options)), name, tmp_path)
    integers = stored(file)
    for key, weight in made.items():
        layer = key.removesuffix(".weight")
        if not key.endswith("weight"):
            continue
        assert torch.equal(weight, whole[key]) == (layer in fp32), key
        if layer not in fp32:
            assert np.allclose(integers[tuple(weight.shape)], weight.numpy(), atol=1e-6), key
        else:
            assert tuple(weight.shape) not in integers


@pytest.mark.parametrize(
    ("name", "options", "bits"),
    [
        ("image", {}, {"0": 4, "2": 4, "3": 0, "5": 4}),
        ("image", {"symmetric": False}, {"0": 4, "2": 4, "3": 0, "5": 4}),
        ("image", {"edges": 8}, {"0": 8, "2": 4, "3": 0, "5": 8}),
        ("image", {"min_elements": 200}, {"0": 4, "2": 0, "3": 0, "5": 4}),
        ("image", {"min_elements": 200, "edges": 8, "skip": ("0.weight",)}, {"0": 0, "2": 0, "3": 0, "5": 8}),
        ("text", {"min_elements": 2}, {"table": 4, "head": 4}),
        ("text", {"min_elements": 2, "edges": 8, "symmetric": False}, {"table": 8, "head": 8}),
        ("text", {"min_elements": 2, "skip": ("ta*",)}, {"table": 0, "head": 4}),
    ],
    ids=str,
)
def test_int4_trains_what_its_options_store(name, options, bits, tmp_path):
    """The file answers as the network that trained: blocks of equal bits lie along the same axis."""
    quantizer = Int4(Int4Options(rounding="nearest", block=16, **options))
    whole, made, file = settled(quantizer, name, tmp_path)
    for layer, n in bits.items():
        weight, before = made[f"{layer}.weight"], whole[f"{layer}.weight"]
        assert torch.equal(weight, before) == (n == 0), layer
        moved = float((weight - before).abs().max() / before.abs().max())
        assert n == 0 or (moved <= 1 / 254 + 1e-6) == (n == 8), layer
    make, x, _ = NETS[name]
    plain = make().eval()
    plain.load_state_dict(made)
    with torch.no_grad():
        expected = plain(x).numpy()
    near = 0.01 if options.get("edges") == 8 else 2e-4  # the file's 8 bits reach from -128 to 127
    assert np.allclose(open_session(file).run(None, {"x": x.numpy()})[0], expected, atol=near * np.abs(expected).max())


class Attends(nn.Module):
    def __init__(self, kdim=None):
        super().__init__()
        torch.manual_seed(1)
        self.attention = nn.MultiheadAttention(16, 2, kdim=kdim, vdim=kdim, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        given = x if self.attention.in_proj_weight is not None else x[..., :12]
        return self.head(self.attention(x, given, given, need_weights=False)[0].mean(1))


STEPS = torch.randn(32, 6, 16, generator=torch.Generator().manual_seed(0))
SEQUENCE = (Field("x", "sequence", (6, 16)),), (Field("y", "logits", (4,)),)
NETS["attention"] = Attends, STEPS, SEQUENCE


@pytest.mark.parametrize(("kind", "near"), [("int4", 2e-4), ("int8", 0.05)])
def test_matrices_of_attention_are_rounded_as_their_file_s(kind, near, tmp_path):
    """A scale for each row, of INT4 for each 16 of it: so many levels and no more."""
    options = Int4Options(rounding="nearest", block=16, min_elements=16), Int8Options(mode="dynamic", samples=8)
    quantizer = Int4(options[0]) if kind == "int4" else Int8(options[1])
    whole, made, file = settled(quantizer, "attention", tmp_path)
    for name in ("attention.in_proj_weight", "attention.out_proj.weight", "head.weight"):
        moved = (made[name] - whole[name]).abs().amax(1) / whole[name].abs().amax(1)
        levels = 7 if kind == "int4" else 64
        assert 0 < float(moved.max()) <= 0.5 / levels + 1e-6, name
    plain = Attends().eval()
    plain.load_state_dict(made)
    with torch.no_grad():
        expected = plain(STEPS).numpy()
    assert np.allclose(
        open_session(file).run(None, {"x": STEPS.numpy()})[0], expected, atol=near * np.abs(expected).max()
    )


def test_matrices_of_attention_have_gradients_and_read_8_bits():
    quantizer = Int8(Int8Options())
    made = quantizer.apply(Model(Attends(kdim=12), ("x",)), quantizer.plan(None)).module
    seen = []
    made.attention.register_forward_pre_hook(lambda _, args: seen.append(args[:3]))
    made.train()(STEPS).sum().backward()
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    assert all(bool(made.attention.parametrizations[name].original.grad.abs().sum() > 0) for name in names)
    ((query, key, value),) = seen
    assert torch.equal(query, in_8_bits(STEPS))
    assert key is value


class Reads(nn.Module):
    """Two layers, in both directions."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        torch.manual_seed(1)
        self.recurrent = kind(16, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.recurrent(x)[0].mean(1))


NETS["lstm"] = Reads, STEPS, SEQUENCE
NETS["gru"] = lambda: Reads(nn.GRU), STEPS, SEQUENCE
OF_BOTH = ("weight_ih_l0", "weight_ih_l0_reverse", "weight_hh_l0", "weight_hh_l0_reverse")


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("options", "first", "near"),
    [({}, 7, 2e-4), ({"edges": 8}, 127, 0.01), ({"min_elements": 2 * 3 * 12 * 16}, 7, 2e-4)],
    ids=["4 bits", "ends in 8", "both directions count"],
)
def test_recurrent_weights_are_rounded_as_their_file_s(name, options, first, near, tmp_path):
    quantizer = Int4(Int4Options(rounding="nearest", **{"block": 16, "min_elements": 16} | options))
    whole, made, file = settled(quantizer, name, tmp_path)
    for at, key in enumerate(OF_BOTH):
        weight, before = made[f"recurrent.{key}"], whole[f"recurrent.{key}"]
        moved = (weight - before).abs().amax(1) / before.abs().amax(1)
        small = weight[0].numel() * len(weight) * 2 < options.get("min_elements", 0)
        levels = first if at < 2 else 7
        assert (0 if small else 0.2 / levels) <= float(moved.max()) <= (0 if small else 0.5 / levels + 1e-6), key
        assert torch.equal(made[f"recurrent.bias{key[6:]}"], whole[f"recurrent.bias{key[6:]}"])
    plain = NETS[name][0]().eval()
    plain.load_state_dict(made)
    with torch.no_grad():
        expected = plain(STEPS).numpy()
    answers = open_session(file).run(None, {"x": STEPS.numpy()})[0]
    assert np.allclose(answers, expected, atol=near * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_an_lstm_in_int8_trains_what_its_file_stores(mode, per_channel, tmp_path):
    quantizer = Int8(Int8Options(mode=mode, per_channel=per_channel, samples=8))
    whole, made, file = settled(quantizer, "lstm", tmp_path)
    model = read_onnx(file)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    assert len(nodes) == 2
    for layer, node in enumerate(nodes):
        for kind, at, scale in (("ih", 1, 8), ("hh", 2, 10)):
            for direction, suffix in enumerate(("", "_reverse")):
                own = tensors[node.input[at]][direction].T * tensors[node.input[scale]][direction].reshape(-1, 1)
                i, o, f, c = np.split(own, 4)  # ONNX's order; torch's is i, f, c, o
                key = f"recurrent.weight_{kind}_l{layer}{suffix}"
                assert np.allclose(np.concatenate([i, f, c, o]), made[key].numpy(), atol=1e-6), key
                assert not torch.equal(made[key], whole[key])


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_first_of_stacked_layers_may_stay(mode, tmp_path):
    whole, made, file = settled(Int8(Int8Options(mode=mode, samples=8, keep_first=True)), "lstm", tmp_path)
    kept = {key for key, value in whole.items() if "weight" in key and torch.equal(value, made[key])}
    assert kept == {f"recurrent.{key}" for key in OF_BOTH}
    assert [node.op_type for node in read_onnx(file).graph.node if "LSTM" in node.op_type] == [
        "LSTM",
        "DynamicQuantizeLSTM",
    ]


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_recurrent_layer_may_be_the_most_sensitive_one(mode, tmp_path):
    """Where the second of two moves the outputs most, it stays fp32 and the first does not."""
    torch.manual_seed(1)
    module, file = Reads().eval(), tmp_path / "net.onnx"
    with torch.no_grad():
        for name, weight in module.recurrent.named_parameters():
            weight *= 20.0 if name.startswith("weight_hh_l1") else 0.1
    OnnxExporter(OnnxOptions(engine="torchscript")).write(Graph(module, *SEQUENCE), batch_of(x=STEPS[:2]), file)
    quantizer = Int8(Int8Options(mode=mode, samples=8, keep_sensitive=1))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": STEPS[:8].numpy()}])
    kinds = [node.op_type for node in read_onnx(file).graph.node if "LSTM" in node.op_type]
    assert kinds == ["DynamicQuantizeLSTM", "LSTM"]
    assert any("LSTM" in note for note in quantizer.notes)


def test_a_gru_in_int8_stays(tmp_path):
    whole, made, file = settled(Int8(Int8Options(samples=8)), "gru", tmp_path)
    assert [key for key in whole if not torch.equal(whole[key], made[key])] == ["head.weight"]
    assert sum(node.op_type == "GRU" for node in read_onnx(file).graph.node) == 2


def test_recurrent_layers_learn_behind_their_rounding():
    """What is multiplied by is rounded, also after a step; the layer can be copied, moved and saved at any time."""
    quantizer = Int4(Int4Options(block=16, min_elements=16))
    made = quantizer.apply(Model(Reads(), ("x",)), quantizer.plan(None)).module.train()
    layer = made.recurrent
    optimizer = torch.optim.SGD(made.parameters(), 0.5)

    def by_hand():
        plain = Reads()
        plain.load_state_dict({key: getattr_of(made, key) for key in plain.state_dict()})
        return plain(STEPS)

    for _ in range(2):
        assert torch.allclose(made(STEPS), by_hand(), atol=1e-6)
        before = layer.parametrizations.weight_hh_l1_reverse.original.detach().clone()
        nn.functional.cross_entropy(made(STEPS), torch.arange(32) % 4).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(layer.parametrizations.weight_hh_l1_reverse.original, before)
    copied = module_copy(made)
    assert torch.equal(copied(STEPS), made(STEPS))
    with torch.no_grad():
        copied.recurrent.parametrizations.weight_ih_l0.original.zero_()
    assert not torch.allclose(copied(STEPS), made(STEPS))
    assert torch.allclose(made(STEPS), by_hand(), atol=1e-6)
    moved = module_copy(made.to(torch.float64))(STEPS.double())
    made.to(torch.float32)
    assert torch.allclose(moved.float(), by_hand(), atol=1e-5)
    expected = made.eval()(STEPS)
    settle(made)
    assert torch.allclose(made(STEPS), expected, atol=1e-6)
    assert made.state_dict().keys() == Reads().state_dict().keys()


def getattr_of(module, path):
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name).detach()


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_matrices(kind):
    cell = kind(16, 12)
    for quantizer in (Int8(Int8Options()), Int4(Int4Options(block=16, min_elements=16))):
        made = quantizer.apply(Model(cell, ("x",)), quantizer.plan(None)).module
        for name in ("weight_ih", "weight_hh"):
            assert parametrize.is_parametrized(made, name)
            assert len(getattr(made, name)[0].unique()) <= 17


def test_where_nothing_is_rounded_the_model_stays():
    model = Model(nn.GRU(3, 4), ("x",))
    for quantizer in (Int8(Int8Options()), Int4(Int4Options())):
        assert quantizer.apply(model, quantizer.plan(None)) is model


def test_rounding_is_its_formula():
    w = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    scale = w.flatten(1).abs().amax(1).view(3, 1, 1) / 64
    assert torch.allclose(to_limit(64, 0)(w), (w / scale).round() * scale)
    assert torch.allclose(to_limit(64, 1)(w), to_limit(64, 0)(w.movedim(1, 0)).movedim(0, 1))
    assert torch.allclose(to_limit(64, None)(w), (w / (w.abs().max() / 64)).round() * w.abs().max() / 64)
    blocks = in_blocks(4, 4)(w).flatten(1)
    for r, row in enumerate(w.flatten(1)):
        for start in range(0, 10, 4):
            part = row[start : start + 4]
            assert torch.allclose(
                blocks[r, start : start + 4], (part / (part.abs().max() / 7)).round() * part.abs().max() / 7
            )
    assert torch.equal(in_blocks(2, 4, axis=0)(w), in_blocks(2, 4)(w.flatten(1).T).T.reshape(w.shape))
    row = torch.tensor([[-1.0, 0.1, 2.0, 0.4]])  # 15 steps of .2, zero at 5
    assert torch.allclose(in_blocks(4, 4, symmetric=False)(row), torch.tensor([[-1.0, 0.0, 2.0, 0.4]]), atol=1e-6)
    x = torch.tensor([-1.0, 0.0, 0.3, 3.0], requires_grad=True)
    step = 4 / 255
    assert bool(((in_8_bits(x) - x).abs() <= step / 2 + 1e-6).all())
    assert in_8_bits(x)[1] == 0
    in_8_bits(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1]
