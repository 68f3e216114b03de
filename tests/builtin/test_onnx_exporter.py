"""The written file answers as the network does, everywhere, and says nothing of the machine."""

import getpass
import logging
import re
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.jit import TracerWarning

from kdsearch.builtin import onnx_exporter
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.parity import compare, module_call
from kdsearch.errors import ArtifactError, RefusedError, UserError
from kdsearch.kinds import Field, Graph
from kdsearch.kit.onnx import edited, save_onnx
from tests.deploy.nets import DIGITS, LOGITS, NETS, Lstm, Tokens, batch_of, digits, graph_of, trained

EXPORTER = OnnxExporter(OnnxOptions())
TOKENS = Graph(
    Tokens(),
    (Field("ids", "tokens", (None,), "int64"), Field("mask", "vector", (None,))),
    (Field("logits", "logits", (None, 20)), Field("pooled", "vector", (16,))),
)
SEQUENCE = (Field("x", "sequence", (None, 8)),)


def padded(n: int, length: int):
    ids = torch.randint(0, 20, (n, length), generator=torch.Generator().manual_seed(0))
    return batch_of(ids=ids, mask=(torch.arange(length) < length - 2).float().repeat(n, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("name", list(NETS))
def test_parity_at_every_batch_size(name, folder):
    graph, x = graph_of(trained(name)), digits()[2]
    file = folder / f"{name}.onnx"
    EXPORTER.write(graph, batch_of(image=x[:1]), file)
    call = EXPORTER.load(file)
    found = compare(module_call(graph), call, graph.inputs, graph.outputs, batch_of(image=x[:7]), (1, 2, 3, 7))
    assert found.max_abs < 1e-4
    assert found.top1_agreement == 1.0
    model = onnx.load_model_from_string(file.read_bytes())
    assert [each.version for each in model.opset_import if each.domain == ""] == [21]
    assert [each.name for each in model.graph.input] == ["image"]
    assert [each.name for each in model.graph.output] == ["logits"]


def test_masks_and_lengths_through_dynamo_in_the_order_of_the_graph(folder):
    file = folder / "tokens.onnx"
    EXPORTER.write(TOKENS, padded(3, 7), file)
    call = EXPORTER.load(file)
    found = compare(module_call(TOKENS), call, TOKENS.inputs, TOKENS.outputs, padded(4, 12))
    assert found.max_abs < 1e-5
    out = call(*padded(2, 5).tensors.values())
    assert list(out) == ["logits", "pooled"]  # the network's dict has them the other way round
    assert tuple(out["logits"].shape) == (2, 5, 20)


class Masked(nn.Module):
    """torch's own transformer, whose kernel for a whole layer takes its mask, and has no form in a file."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 20)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.layers(x, mask=mask).mean(1))


def test_a_transformer_of_torch_with_a_mask(folder):
    """dynamo stops at the layer's question whether the mask is causal."""
    torch.manual_seed(0)
    graph = Graph(Masked(), (Field("x", "sequence", (6, 8)),), (Field("logits", "logits", (20,)),))
    sample, file = batch_of(x=torch.randn(4, 6, 8)), folder / "masked.onnx"
    OnnxExporter(OnnxOptions(engine="torchscript")).write(graph, sample, file)
    found = compare(module_call(graph), EXPORTER.load(file), graph.inputs, graph.outputs, sample)
    assert found.max_abs < 1e-5
    assert torch.backends.mha.get_fastpath_enabled(), "as it was"


def test_what_a_network_warns_of_while_dynamo_writes_it_is_heard(folder):
    class Telling(nn.Linear):
        def forward(self, x):
            warnings.warn("three numbers are few", stacklevel=1)
            return super().forward(x)

    graph = Graph(Telling(3, 2).eval(), (Field("x", "vector", (3,)),), (Field("y", "vector", (2,)),))
    with pytest.warns(UserWarning, match="three numbers are few"):
        OnnxExporter(OnnxOptions(engine="dynamo")).write(graph, batch_of(x=torch.rand(2, 3)), folder / "warning.onnx")


@pytest.mark.parametrize("attempt", [1, 2])  # dynamo was right the first time only
def test_recurrent_networks_keep_batch_and_length_dynamic(attempt, folder):
    graph, rng = Graph(Lstm(), SEQUENCE, (LOGITS,)), torch.Generator().manual_seed(attempt)
    file = folder / f"lstm{attempt}.onnx"
    EXPORTER.write(graph, batch_of(x=torch.randn(2, 6, 8, generator=rng)), file)
    sample = batch_of(x=torch.randn(5, 9, 8, generator=rng))
    assert compare(module_call(graph), EXPORTER.load(file), graph.inputs, graph.outputs, sample).max_abs < 1e-5


def test_the_torchscript_engine_agrees_with_dynamo(folder):
    graph, x = graph_of(trained("residual")), digits()[2][:4]
    file = folder / "script.onnx"
    OnnxExporter(OnnxOptions(engine="torchscript")).write(graph, batch_of(image=x), file)
    assert (EXPORTER.load(file)(x)["logits"] - module_call(graph)(x)["logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("graph", ["residual", "tokens", "lstm"])
def test_equal_bytes_twice_and_no_trace_of_the_machine(graph, folder):
    example = {
        "residual": batch_of(image=digits()[0][:2]),
        "tokens": padded(2, 6),
        "lstm": batch_of(x=torch.ones(2, 4, 8)),
    }[graph]
    made = {
        "residual": lambda: graph_of(trained("residual")),
        "tokens": lambda: TOKENS,
        "lstm": lambda: Graph(lstm, SEQUENCE, (LOGITS,)),
    }[graph]
    lstm = Lstm()
    files = [folder / f"{graph}-{i}.onnx" for i in range(2)]
    for file in files:
        EXPORTER.write(made(), example, file)
    first, second = (each.read_bytes() for each in files)
    assert first == second
    local = {str(Path(torch.__file__).parents[1]), sys.prefix, str(Path.cwd()), str(Path.home()), tempfile.gettempdir()}
    for text in {*local, __file__, f"/{getpass.getuser()}/", ".py", "site-packages", "Traceback"}:
        assert text.encode() not in first, text
    assert not re.search(rb"/[A-Za-z_.\-]{3,}/[A-Za-z0-9_.\-]+", first)


def test_modes_buffers_and_the_global_rng_are_as_before(folder):
    net = trained("residual").train()
    net.stem.eval()
    flags = [each.training for each in net.modules()]
    mean, state = net.stem[1].running_mean.clone(), torch.get_rng_state()
    EXPORTER.write(graph_of(net), batch_of(image=digits()[0][:2]), folder / "modes.onnx")
    assert [each.training for each in net.modules()] == flags
    assert torch.equal(net.stem[1].running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off_though_the_network_is_in_train_mode(folder):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10)).train()
    x = digits()[0][:3]
    EXPORTER.write(graph_of(net), batch_of(image=x), folder / "dropout.onnx")
    expected = nn.functional.linear(x.flatten(1), net[2].weight, net[2].bias)
    assert torch.allclose(EXPORTER.load(folder / "dropout.onnx")(x)["logits"], expected, atol=1e-5)


def test_an_input_that_the_network_does_not_read_stays_in_the_signature(folder):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, other, image):
            return self.head(image.flatten(1))

    other = Field("other", "vector", (3,))
    graph, x = Graph(Half(), (other, *DIGITS.inputs), DIGITS.outputs), digits()[0][:3]
    for engine in ("dynamo", "torchscript"):
        file = folder / f"unused-{engine}.onnx"
        OnnxExporter(OnnxOptions(engine=engine)).write(graph, batch_of(other=torch.zeros(3, 3), image=x), file)
        out = EXPORTER.load(file)(torch.ones(3, 3), x)["logits"]
        assert torch.allclose(out, module_call(graph)(torch.zeros(3, 3), x)["logits"], atol=1e-5)


def test_a_network_beyond_one_file_is_refused(folder, monkeypatch):
    monkeypatch.setattr(onnx_exporter, "LARGEST", 1000)
    with pytest.raises(UserError, match="bytes of weights"):
        EXPORTER.write(graph_of(trained("mlp")), batch_of(image=digits()[0][:2]), folder / "big.onnx")
    assert not (folder / "big.onnx").exists()


def test_a_failed_export_leaves_the_old_file(folder):
    file = folder / "old.onnx"
    file.write_bytes(b"old")

    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("broken")

    with pytest.raises(Exception, match="broken"):
        EXPORTER.write(graph_of(Broken()), batch_of(image=digits()[0][:2]), file)
    assert file.read_bytes() == b"old"
    assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == []


@pytest.fixture(scope="module")
def whole(folder):
    """A file's bytes."""
    file = folder / "whole.onnx"
    EXPORTER.write(graph_of(trained("mlp")), batch_of(image=digits()[0][:2]), file)
    return file.read_bytes()


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "flipped", "folder"])
def test_a_corrupt_or_foreign_file_is_named(kind, tmp_path, whole):
    file = tmp_path / "model.onnx"
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        bad = {"empty": b"", "text": b"not a model at all", "cut": whole[: len(whole) // 2]}
        file.write_bytes(bad.get(kind, whole.replace(b"Gemm", b"Germ")))
    with pytest.raises(ArtifactError) as caught:
        EXPORTER.load(file)
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2


def test_weights_kept_in_another_file_are_refused(tmp_path):
    tensor = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "../secret.bin")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(name, 1, ["b", 4]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", infos[:1], infos[1:], [tensor])
    save_onnx(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]), tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="another file"):
        EXPORTER.load(tmp_path / "m.onnx")


def test_the_exporters_say_nothing(capfd, caplog, folder):
    with caplog.at_level(logging.INFO):
        EXPORTER.write(graph_of(trained("mlp")), batch_of(image=digits()[0][:2]), folder / "quiet.onnx")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == []


class Caching(nn.Module):
    """Keeps a bias that it looks up, as EfficientFormer and LeViT of timm do while they evaluate."""

    def __init__(self):
        super().__init__()
        self.table, self.head, self.cache = nn.Parameter(torch.randn(5)), nn.Linear(64, 10), {}
        self.register_buffer("at", torch.tensor([4, 3, 2, 1, 0, 0, 1, 2, 3, 4]))

    def forward(self, image):
        key = str(image.device)
        if key not in self.cache:
            self.cache[key] = self.table[self.at]
        return self.head(image.flatten(1)) + self.cache[key]


@pytest.mark.filterwarnings("error")
def test_a_cache_that_export_fills_is_nothing_to_say(folder):
    torch.manual_seed(0)
    graph = Graph(Caching().eval(), (Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (10,)),))
    x = torch.randn(2, 1, 8, 8)
    OnnxExporter(OnnxOptions(engine="dynamo")).write(graph, batch_of(image=x), folder / "caching.onnx")
    call = OnnxExporter(OnnxOptions()).load(folder / "caching.onnx")
    assert torch.allclose(call(x)["logits"], graph.module(x), atol=1e-5)


class Layered(nn.Module):
    """Layers and operators whose names a task may give its outputs."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        found = self.embedding(tokens)
        return found.relu().mean(1), self.head(found.mean(1)).relu(), found


class Through(nn.Module):
    def forward(self, x):
        return x, 2 * x


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    "names",
    [
        ("embedding", "relu", "mean"),
        ("linear", "head.weight", "embedding.weight"),
        ("tokens", "node_relu", "val_0"),  # the first one is the input's own
        ("kdsearch_output_1", "kdsearch_output_0", "embedding_1"),
    ],
)
def test_an_output_may_have_the_name_of_anything(engine, names, folder):
    shapes = ((4,), (3,), (None, 4))
    outputs = tuple(Field(name, "vector", shape) for name, shape in zip(names, shapes, strict=True))
    graph = Graph(Layered().eval(), (Field("tokens", "tokens", (None,), "int64"),), outputs)
    tokens = torch.randint(0, 5, (3, 6), generator=torch.Generator().manual_seed(0))
    file = folder / f"{engine}-{names[0]}.onnx"
    exporter = OnnxExporter(OnnxOptions(engine=engine))
    exporter.write(graph, batch_of(tokens=tokens), file)
    found = compare(module_call(graph), exporter.load(file), graph.inputs, outputs, batch_of(tokens=tokens))
    assert found.max_abs < 1e-6
    model = onnx.load_model_from_string(file.read_bytes())
    assert tuple(each.name for each in model.graph.output) == graph.names_out
    assert [each.name for each in model.graph.input] == ["tokens"]


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_an_input_that_is_answered_as_it_is(engine, folder):
    graph = Graph(Through(), (Field("x", "vector", (4,)),), (Field("x", "vector", (4,)), Field("y", "vector", (4,))))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    file = folder / f"through-{engine}.onnx"
    exporter = OnnxExporter(OnnxOptions(engine=engine))
    exporter.write(graph, batch_of(x=x), file)
    answer = exporter.load(file)(x)
    assert torch.equal(answer["x"], x)
    assert torch.equal(answer["y"], 2 * x)
    assert graph.names_out == ("x_out", "y")


class Wrapping(nn.Module):
    """A part that is called as what an exporter wraps networks in, and two weights that a number tells apart."""

    def __init__(self):
        super().__init__()
        self.module, self.weight, self.weight_1 = nn.Linear(4, 4), *(nn.Parameter(torch.randn(4, 4)) for _ in "ab")

    def forward(self, x):
        return self.module(x) @ self.weight @ self.weight_1


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
@pytest.mark.parametrize("output", ["y", "weight"])
def test_weights_are_called_as_in_the_network(engine, output, folder):
    """An output of a weight's name goes before it, which gets a number that no other has."""
    graph = Graph(Wrapping().eval(), (Field("x", "vector", (4,)),), (Field(output, "vector", (4,)),))
    sample, file = batch_of(x=torch.randn(3, 4)), folder / f"wrapping-{engine}-{output}.onnx"
    exporter = OnnxExporter(OnnxOptions(engine=engine))
    exporter.write(graph, sample, file)
    assert compare(module_call(graph), exporter.load(file), graph.inputs, graph.outputs, sample).max_abs < 1e-5
    model = onnx.load_model_from_string(file.read_bytes())
    names = {each.name for each in model.graph.initializer}
    assert len(names) == len(model.graph.initializer) == 4
    assert names >= {"module.weight", "module.bias"}
    assert ({"weight", "weight_1"} <= names) == (output == "y")
    onnx.checker.check_model(model, full_check=True)


def looped():
    """3 times x + 4 (x + 1) * 2: each value here is called as another one wants to be."""

    def value(name, shape, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    numbers = {"module.module.w": 1, "module.w": 2, "module/x": 4, "trips": 3, "go": True}
    dtypes = {"trips": np.int64, "go": bool}
    weights = [
        numpy_helper.from_array(np.asarray(n, dtypes.get(name, np.float32)), name) for name, n in numbers.items()
    ]
    node = helper.make_node
    inside = [node("Identity", ["c"], ["d"], ""), node("Add", ["/a/b", "a.b"], ["x_1"], "one")]
    given = [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("/a/b", ["n"])]
    body = helper.make_graph(inside, "body", given, [value("d", [], TensorProto.BOOL), value("x_1", ["n"])])
    nodes = [
        node("Add", ["x", "module.module.w"], ["/module/a/b"], "/module/one"),
        node("Mul", ["/module/a/b", "module.w"], ["a.b"], "one"),
        node("Mul", ["a.b", "module/x"], ["y"], ""),
        node("Loop", ["trips", "go", "y"], ["made"], "two", body=body),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", ["n"])], [value("made", ["n"])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_names_are_unique_also_in_branches_and_nothing_reads_another_value():
    model = looped()
    with edited(model) as made:
        onnx_exporter._rename(made, ["y"])
    onnx.checker.check_model(model, full_check=True)
    graphs = [model.graph, next(each.attribute[0].g for each in model.graph.node if each.op_type == "Loop")]
    names = [each.name for graph in graphs for each in (*graph.input, *graph.initializer)]
    names += [name for graph in graphs for node in graph.node for name in node.output]
    assert sorted(names) == [
        *("a.b", "a.b_1", "a.b_2", "c", "d", "go", "i", "module.w", "trips", "w", "x", "x_1", "x_1_1", "y", "y_1")
    ]
    assert [node.name for graph in graphs for node in graph.node] == ["one", "one_1", "", "two", "", "one_2"]
    (got,) = ReferenceEvaluator(model).run(None, {"x": np.float32([0, 5])})
    assert np.array_equal(got, np.float32([2, 12]) * (4 + 3))


class Branches(nn.Module):
    """An `if` on a value."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_every_node_has_a_name_of_its_own(engine, folder):
    """What hooks do (units are hooks) torchscript calls `/Exp`, the same in the network `/module/Exp`."""

    class Exp(nn.Module):
        def forward(self, x):
            return x.exp()

    module = Exp()
    module.register_forward_pre_hook(lambda _, args: (args[0].exp(),))
    graph = Graph(module, (Field("x", "vector", (4,)),), (Field("y", "vector", (4,)),))
    sample, file, exporter = (
        batch_of(x=torch.rand(2, 4)),
        folder / f"exp-{engine}.onnx",
        OnnxExporter(OnnxOptions(engine=engine)),
    )
    exporter.write(graph, sample, file)
    assert compare(module_call(graph), exporter.load(file), graph.inputs, graph.outputs, sample).max_abs < 1e-5
    names = [each.name for each in onnx.load_model_from_string(file.read_bytes()).graph.node]
    assert len({*names}) == len(names) == 2


class Fixed(nn.Module):
    """Only two samples at once."""

    def forward(self, x):
        return x.reshape(2, 3) * torch.ones(2, 3)


@pytest.mark.parametrize(
    ("module", "said"), [(Branches, "depends on the values of its inputs"), (Fixed, "the sizes of the example only")]
)
def test_what_torch_cannot_export_is_said_with_what_to_do_and_nothing_else(module, said, tmp_path, capfd):
    graph = Graph(module(), (Field("x", "vector", (3,)),), (Field("y", "vector", (3,)),))
    with pytest.raises(RefusedError, match=f"torch's exporter dynamo cannot write the network: .*{said}") as caught:
        OnnxExporter(OnnxOptions(engine="dynamo")).write(graph, batch_of(x=torch.rand(2, 3)), tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert caught.value.fix
    assert not list(tmp_path.iterdir())


class Asserting(nn.Module):
    """Says which size it wants, as patch embeddings of timm do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, image):
        height = image.shape[2]
        torch._assert(height == 8, f"8 pixels, not {height}")
        return self.head(image.flatten(1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["asserting", "timm"])
def test_an_assertion_on_sizes_is_nothing_to_say(name, folder):
    torch.manual_seed(0)
    vit = partial(timm.create_model, "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=10)
    module = Asserting() if name == "asserting" else vit(depth=1, embed_dim=24)
    graph = Graph(module.eval(), (Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (10,)),))
    sample, file = batch_of(image=torch.randn(7, 1, 8, 8)), folder / f"{name}.onnx"
    OnnxExporter(OnnxOptions(engine="torchscript")).write(graph, sample, file)
    found = compare(module_call(graph), EXPORTER.load(file), graph.inputs, graph.outputs, sample, (1, 2, 3, 7))
    assert found.max_abs < 1e-5


def test_a_branch_on_a_value_is_said(folder):
    """torchscript writes the branch that the example takes."""
    graph = Graph(Branches(), (Field("x", "vector", (3,)),), (Field("y", "vector", (3,)),))
    with pytest.warns(TracerWarning, match="Python boolean"):
        OnnxExporter(OnnxOptions(engine="torchscript")).write(graph, batch_of(x=torch.rand(2, 3)), folder / "if.onnx")


class Unwritten(nn.Module):
    """An operator that torchscript's exporter does not know."""

    def forward(self, x):
        return x[:, None].mT.flatten(1)


def test_an_operator_that_onnx_lacks_is_named_and_nothing_else_is_printed(tmp_path, capfd):
    graph = Graph(Unwritten(), (Field("x", "vector", (3,)),), (Field("y", "vector", (3,)),))
    with pytest.raises(RefusedError, match="ONNX has no form of, aten::mT"):
        OnnxExporter(OnnxOptions(engine="torchscript")).write(graph, batch_of(x=torch.rand(2, 3)), tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")


def test_the_other_engine_is_tried_where_one_fails(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("Could not guard on data-dependent expression u0 > 0")

    graph = Graph(nn.Linear(3, 2).eval(), (Field("x", "vector", (3,)),), (Field("y", "vector", (2,)),))
    x = torch.rand(2, 3)
    monkeypatch.setattr(onnx_exporter, "_dynamo", fails)
    OnnxExporter(OnnxOptions()).write(graph, batch_of(x=x), tmp_path / "net.onnx")
    got = OnnxExporter(OnnxOptions()).load(tmp_path / "net.onnx")(x)["y"]
    assert torch.allclose(got, graph.module(x), atol=1e-6)
    monkeypatch.setattr(onnx_exporter, "_torchscript", fails)
    with pytest.raises(
        RefusedError, match=r"dynamo cannot write the network \(nor can torchscript\): what it computes"
    ):
        OnnxExporter(OnnxOptions()).write(graph, batch_of(x=x), tmp_path / "other.onnx")
