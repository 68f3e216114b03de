"""Of how many weights no file keeps a limit of bytes: never fewer than a file that keeps it has."""

from __future__ import annotations

import pytest

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Field, Graph, Task
from kdsearch.kinds.options import declared_range, searchable
from kdsearch.search.scoring import built
from kdsearch.stages import costs
from kdsearch.stages.costs import KEPT_BYTES, most_params
from kdsearch.store.hashing import stream
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.stages.tiny import write_study

IMAGES = IO((Field("image", "image", (3, 32, 32)),), (Field("logits", "logits", (5,)),))


def bytes_a_weight(name, folder, engine="torchscript"):
    """Of the file of the middle one of nine networks that are drawn from a space."""
    cls, rng = Host.load().load_class("search_space", name), stream(1)
    ranged = [each for each in cls.options_class.model_fields if declared_range(cls.options_class, each)]
    space = cls(searchable(cls.options_class, dict.fromkeys(ranged, "search"), "student.spec")).narrowed(IMAGES)
    drawn = [space.canonical(space.sample(rng)) for _ in range(9)]
    spec = sorted(drawn, key=lambda each: space.cost(each, IMAGES).params)[4]
    graph = Graph(built(space, spec, IMAGES, 0).module, IMAGES.inputs, IMAGES.outputs)
    batch, file = Batch(("a", "b"), {"image": IMAGES.inputs[0].noise(2, rng)}), folder / "x.onnx"
    OnnxExporter(OnnxOptions(engine=engine)).write(graph, batch, file)
    return file.stat().st_size / space.cost(spec, IMAGES).params


@pytest.mark.parametrize("name", ["cifar_resnet", "resnet64", "nb201", "masternet", "mobile", "vit", "mlp"])
def test_a_weight_takes_no_less_of_a_file(name, tmp_path):
    assert bytes_a_weight(name, tmp_path) >= KEPT_BYTES


def test_a_norm_that_is_folded_takes_less_than_its_weights(tmp_path):
    """Why the limit is no limit of four bytes a weight."""
    assert KEPT_BYTES <= bytes_a_weight("mobile", tmp_path) < 4


@pytest.fixture
def materials(tmp_path):
    return open_materials(
        load_study(write_study(tmp_path), Host.load(), sets=("constraints.onnx_bytes=90000",)), Host.load()
    )


def test_what_says_nothing_of_the_file_refuses_nobody(materials, monkeypatch):
    assert most_params(materials, "student") == 30000
    with monkeypatch.context() as patch:  # graphs of the task's own
        patch.setattr(type(materials.task), "product", lambda *given: Task.product(*given))
        assert most_params(materials, "student") is None
    with monkeypatch.context() as patch:  # of the procedure's
        patch.setattr(costs, "has_own_product", lambda _: True)
        assert most_params(materials, "student") is None
    with monkeypatch.context() as patch:  # another format
        patch.setattr(OnnxExporter, "suffix", ".pte")
        assert most_params(materials, "student") is None
    with monkeypatch.context() as patch:  # branches that are one layer in the file
        patch.setattr(type(materials.build_student("student", {}, 0).module), "fuse", lambda self: None, raising=False)
        assert most_params(materials, "student") is None
    assert most_params(materials, "student") == 30000
