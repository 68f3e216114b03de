"""Teachers that come from files and functions: each answers as the network that was saved, and says what does not fit."""

import re
from typing import ClassVar

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from teacher_doors import FIELDS, SPEC, linear_onnx, site, student
from torch import nn

from kdsearch.builtin.teachers.exported_file import Exported, ExportedOptions
from kdsearch.builtin.teachers.onnx_file import Onnx, OnnxOptions
from kdsearch.builtin.teachers.python_path import Python, PythonOptions
from kdsearch.builtin.teachers.weights_file import WeightsFile, WeightsFileOptions
from kdsearch.errors import ArtifactError, DataError, PluginError, StudyError, UnsafeCodeError
from kdsearch.kinds import IO, Field, Model
from kdsearch.kinds.options import validate
from kdsearch.store import weights
from kdsearch.testing.teacher import TeacherContract

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(8))


def answers(model):
    with torch.no_grad():
        return model.module.eval()(IMAGES)


@pytest.fixture
def folder(tmp_path):
    weights.write(tmp_path / "net.safetensors", student().state_dict())
    linear_onnx(tmp_path / "net.onnx")
    return tmp_path


class InFolder(TeacherContract):
    """The contract with the files of this module."""

    folder = None

    @pytest.fixture(autouse=True)
    def _folder(self, folder):
        type(self).folder = folder

    def services(self):
        return site(self.folder, {"make.py:net": student, "net.pt2": self.folder / "net.pt2"})


class TestWeightsFile(InFolder):
    teacher = WeightsFile
    options: ClassVar = {"path": "net.safetensors", "space": "cifar_resnet", "spec": SPEC}


class TestOnnx(InFolder):
    teacher = Onnx
    options: ClassVar = {"path": "net.onnx"}


class TestPython(InFolder):
    teacher = Python
    options: ClassVar = {"target": "make.py:net", "arguments": {"seed": 4}}


class TestExported(InFolder):
    teacher = Exported
    options: ClassVar = {"path": "net.pt2"}

    @pytest.fixture(autouse=True)
    def _program(self, folder, exported):
        (folder / "net.pt2").write_bytes(exported)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(student(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path.read_bytes()


def weights_teacher(folder, **options):
    return WeightsFile(validate(WeightsFileOptions, options)).model(FIELDS, site(folder))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_space_s_member_are_loaded(folder, suffix):
    torch.save(student().state_dict(), folder / "net.pth")
    model = weights_teacher(folder, path=f"net{suffix}", space="cifar_resnet", spec=SPEC)
    assert torch.equal(answers(model), student()(IMAGES).detach())
    assert model.tap("stage[-1]").shape == (8, 4, 4)


def test_weights_of_a_timm_network_are_loaded(folder):
    net = timm.create_model("resnet10t", num_classes=5).eval()
    weights.write(folder / "timm.safetensors", net.state_dict())
    model = weights_teacher(folder, path="timm.safetensors", timm="resnet10t", size=40)
    seen = nn.functional.interpolate(IMAGES, (40, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(answers(model), net(seen).detach(), atol=1e-5, rtol=1e-5)
    assert [tap.shape for tap in model.taps if tap.name == "stage[0]"] == [(64, 10, 10)]


def test_weights_of_another_spec_are_named(folder):
    with pytest.raises(ArtifactError, match=r"net\.safetensors.*stages\.1\.0\.conv1\.weight \(6x4x3x3, not 7x4x3x3\)"):
        weights_teacher(folder, path="net.safetensors", space="cifar_resnet", spec={**SPEC, "widths": [4, 7, 8]})


@pytest.mark.parametrize("options", [{}, {"space": "cifar_resnet", "timm": "resnet18"}])
def test_weights_alone_do_not_say_their_network(folder, options):
    with pytest.raises(StudyError, match="either space"):
        weights_teacher(folder, path="net.safetensors", **options)


def test_a_missing_file_is_named_with_its_neighbour(folder):
    with pytest.raises(DataError, match=r"did you mean 'net\.safetensors'"):
        weights_teacher(folder, path="nett.safetensors", space="cifar_resnet", spec=SPEC)


def onnx_teacher(folder, io=FIELDS, **options):
    return Onnx(validate(OnnxOptions, {"path": "net.onnx", **options})).model(io, site(folder))


@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_an_onnx_file_answers_whatever_its_batch_size(folder, batch):
    matrix = linear_onnx(folder / "net.onnx", batch=batch)
    expected = IMAGES.flatten(1).double().numpy() @ matrix.astype("f8")
    np.testing.assert_allclose(answers(onnx_teacher(folder)).numpy(), expected, atol=1e-4)


def test_an_onnx_file_has_a_size(folder):
    """Its one matrix: from 3 x 16 x 16 pixels to 5 logits."""
    linear_onnx(folder / "net.onnx")
    cost = onnx_teacher(folder).cost()
    assert (cost.params, cost.macs) == (3 * 16 * 16 * 5, 3 * 16 * 16 * 5)


def test_another_output_of_an_onnx_file(folder):
    matrix = linear_onnx(folder / "net.onnx")
    expected = -IMAGES.flatten(1).double().numpy() @ matrix.astype("f8")
    np.testing.assert_allclose(answers(onnx_teacher(folder, output="less")).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"k": 4}, "answers 4 a sample. Expected 5"),
        ({"channels": 1}, r"input 'x0' is 1x16x16 a sample. Expected 3x16x16, the data set's 'image'"),
        ({"inputs": 2}, "Expected 1 inputs: image 3x16x16"),
        ({"dtype": TensorProto.UINT8}, r"'x0' is tensor\(uint8\)"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_named(folder, made, expected):
    linear_onnx(folder / "net.onnx", **made)
    with pytest.raises(DataError, match=expected):
        onnx_teacher(folder)


def test_inputs_that_an_exporter_dropped_are_spoken_of(folder):
    linear_onnx(folder / "net.onnx")
    more = IO((*FIELDS.inputs, Field("extra", "vector", (2,))), FIELDS.outputs)
    said = r"reads x0 .*Expected 2 inputs: image 3x16x16, extra 2. Exporters drop inputs that the network does not use"
    with pytest.raises(DataError, match=said):
        onnx_teacher(folder, more)
    linear_onnx(folder / "net.onnx", inputs=3)
    with pytest.raises(DataError, match=r"Expected 2 inputs: image 3x16x16, extra 2\.?$"):
        onnx_teacher(folder, more)


def test_an_unknown_output_is_named(folder):
    with pytest.raises(DataError, match=r"no output 'probs'\. Expected logits, less"):
        onnx_teacher(folder, output="probs")


def test_an_output_that_is_no_tensor_is_named(folder):
    """As scikit-learn's converter writes probabilities, unless it is told not to."""
    linear_onnx(folder / "net.onnx")
    model = onnx.load(folder / "net.onnx")
    of_one = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output.append(helper.make_value_info("probabilities", helper.make_sequence_type_proto(of_one)))
    classes = {"domain": "ai.onnx.ml", "classlabels_int64s": range(5)}
    model.graph.node.append(helper.make_node("ZipMap", [model.graph.output[0].name], ["probabilities"], **classes))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    onnx.save(model, folder / "net.onnx")
    with pytest.raises(DataError, match=r"output 'probabilities' is seq\(map.*Expected a tensor of logits"):
        onnx_teacher(folder, output="probabilities")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"{}" * 99])
def test_a_file_that_is_no_onnx_is_named_with_its_size(folder, damage):
    data = damage((folder / "net.onnx").read_bytes())
    (folder / "net.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"net\.onnx: {len(data):,} bytes"):
        onnx_teacher(folder)


def test_another_onnx_file_has_another_state(folder):
    first = onnx_teacher(folder).module.state_dict()["digest"]
    linear_onnx(folder / "net.onnx", batch=3)
    assert not torch.equal(first, onnx_teacher(folder).module.state_dict()["digest"])


def keep_outside(folder, location="net.bin"):
    """The file's weights in another one, wherever the file says that is."""
    linear_onnx(folder / "net.onnx")
    model = onnx.load(str(folder / "net.onnx"))
    onnx.save(model, str(folder / "net.onnx"), save_as_external_data=True, location="net.bin", size_threshold=0)
    raw = (folder / "net.onnx").read_bytes()
    model = onnx.load_model_from_string(raw)
    for entry in (each for tensor in model.graph.initializer for each in tensor.external_data):
        entry.value = location if entry.key == "location" else entry.value
    (folder / "net.onnx").write_bytes(model.SerializeToString())


def test_weights_beside_the_file_are_part_of_its_state(folder):
    keep_outside(folder)
    before = (folder / "net.onnx").read_bytes()
    first = onnx_teacher(folder)
    weights = np.fromfile(folder / "net.bin", np.float32)
    (2 * weights).tofile(folder / "net.bin")
    second = onnx_teacher(folder)
    assert (folder / "net.onnx").read_bytes() == before
    assert not torch.equal(first.module.state_dict()["digest"], second.module.state_dict()["digest"])
    weights[7] = np.nan
    weights.tofile(folder / "net.bin")
    with pytest.raises(ArtifactError, match="tensor 'w' is not finite"):
        onnx_teacher(folder)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../net.bin", "keeps the weight 'w' in '../net.bin'. Expected a file in the same folder or below it"),
        ("a/../../net.bin", "keeps the weight 'w'"),
        ("/tmp/net.bin", "keeps the weight 'w'"),
        ("none.bin", "none.bin: no such file; did you mean 'net.bin'?"),
    ],
)
def test_weights_that_lie_elsewhere_are_refused(folder, location, said):
    keep_outside(folder, location)
    with pytest.raises(ArtifactError, match=re.escape(said)):
        Onnx(OnnxOptions(path="net.onnx")).preflight(site(folder))


def test_several_inputs_are_read_in_order(folder):
    linear_onnx(folder / "net.onnx", inputs=2)
    fields = IO((*FIELDS.inputs, Field("relief", "image", (3, 16, 16))), FIELDS.outputs)
    assert onnx_teacher(folder, fields).inputs == ("image", "relief")


def of_table(path, kind=TensorProto.INT64, numbers=TensorProto.FLOAT):
    """Logits = numbers times a matrix, and a row of a table for each category; returns both."""
    rng = np.random.default_rng(1)
    matrix, rows = (rng.normal(size=size).astype("f4") for size in ((3, 5), (7, 5)))
    entries = [
        helper.make_tensor_value_info("n", numbers, ["N", 3]),
        helper.make_tensor_value_info("c", kind, ["N", 2]),
    ]
    nodes = [
        helper.make_node("Cast", ["n"], ["n32"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["c"], ["c64"], to=TensorProto.INT64),
        helper.make_node("MatMul", ["n32", "matrix"], ["a"]),
        helper.make_node("Gather", ["rows", "c64"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axis"], ["b"], keepdims=0),
        helper.make_node("Add", ["a", "b"], ["logits"]),
    ]
    given = [("matrix", matrix), ("rows", rows), ("axis", np.array([1]))]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])]
    graph = helper.make_graph(nodes, "g", entries, outputs, [numpy_helper.from_array(a, n) for n, a in given])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return matrix, rows


OF_TABLE = IO(
    (Field("numbers", "vector", (3,)), Field("categories", "categories", (2,), "int64", n_values=7)), FIELDS.outputs
)


@pytest.mark.parametrize("kind", ["INT64", "INT32", "FLOAT"])
@pytest.mark.parametrize("numbers", ["FLOAT", "DOUBLE", "FLOAT16"])
def test_categories_are_read_as_the_file_has_them(folder, kind, numbers):
    matrix, rows = of_table(folder / "net.onnx", *(TensorProto.DataType.Value(each) for each in (kind, numbers)))
    module = onnx_teacher(folder, OF_TABLE).module
    n, c = torch.tensor([[1.0, 2.0, -0.5], [0.25, 0.0, 3.0]]), torch.tensor([[0, 6], [3, 3]])
    expected = n.numpy() @ matrix + rows[c.numpy()].sum(1)
    np.testing.assert_allclose(module(n, c).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {"numbers": TensorProto.INT64},
            r"'n' is tensor\(int64\)\. Expected tensor\(float\), the data set's 'numbers'",
        ),
        (
            {"kind": TensorProto.STRING},
            r"'c' is tensor\(string\)\. Expected tensor\(int64\), the data set's 'categories'",
        ),
    ],
)
def test_an_input_of_another_type_is_named(folder, made, said):
    of_table(folder / "net.onnx", **made)
    with pytest.raises(DataError, match=said):
        onnx_teacher(folder, OF_TABLE)


def test_a_batch_that_is_fixed_behind_a_dynamic_input_is_found_at_once(folder):
    """A graph traced with a batch of two: its input says any size, a reshape inside does not."""
    kinds = TensorProto
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kinds.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(np.array([2, 768]), "shape"),
            numpy_helper.from_array(np.zeros((768, 5), np.float32), "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=r"net.onnx cannot read image 3x16x16 in a batch of 3: .*batches of any size"):
        onnx_teacher(folder)


def python_teacher(folder, function, **arguments):
    options = validate(PythonOptions, {"target": "make.py:net", "arguments": arguments})
    return Python(options).model(FIELDS, site(folder, {"make.py:net": function} if function else {}))


def test_a_function_s_module_has_found_taps(folder):
    model = python_teacher(folder, student, seed=4)
    assert torch.equal(answers(model), student(4)(IMAGES).detach())
    assert [tap.path for tap in model.taps] == ["stages.0", "stages.1", "stages", "classifier", "classifier"]
    assert model.part("module:stages.1.0.conv2").out_channels == 6


def test_a_function_s_model_is_taken_as_it_is(folder):
    own = Model(student(), ("image",), name="mine")
    assert python_teacher(folder, lambda: own) is own


@pytest.mark.parametrize(
    ("function", "error", "expected"),
    [
        (lambda: 3, PluginError, "returned an object of <class 'int'>"),
        (
            lambda: [][1],
            PluginError,
            r"raised IndexError: list index out of range \(in <lambda>, test_file_teachers.py:\d+\)",
        ),
        (3, PluginError, "is a int. Expected a function"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), DataError, "answers 4 a sample. Expected 5"),
        (lambda: nn.Linear(3, 5), DataError, "cannot read image 3x16x16"),
        (lambda: Model(nn.Flatten(), ("image",)), DataError, "answers 768 a sample"),
        (None, UnsafeCodeError, "--allow-code 'make.py:net'"),
    ],
)
def test_what_does_not_fit_is_named(folder, function, error, expected):
    with pytest.raises(error, match=expected):
        python_teacher(folder, function)


def exported_teacher(folder, allowed=True):
    code = {"net.pt2": folder / "net.pt2"} if allowed else {}
    return Exported(ExportedOptions(path="net.pt2")).model(FIELDS, site(folder, code))


def test_an_exported_program_answers_as_its_source(folder, exported):
    (folder / "net.pt2").write_bytes(exported)
    model = exported_teacher(folder)
    torch.testing.assert_close(answers(model), student()(IMAGES).detach(), atol=1e-5, rtol=1e-5)
    assert not model.module.train().eval().training


def test_an_exported_program_is_not_opened_unless_allowed(folder, exported):
    (folder / "net.pt2").write_bytes(exported)
    with pytest.raises(UnsafeCodeError, match="--allow-code"):
        exported_teacher(folder, allowed=False)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 torn"])
def test_a_torn_program_is_named(folder, data, caplog):
    (folder / "net.pt2").write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"net\.pt2: {len(data)} bytes"):
        exported_teacher(folder)
    assert not caplog.records  # torch logs a traceback of its own
