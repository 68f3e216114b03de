"""Stored answers by sample id: both formats, both layouts, and what is refused."""

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdsearch.builtin.teachers.table import Table, TableOptions
from kdsearch.engine.setup import Site
from kdsearch.errors import ArtifactError, DataError
from kdsearch.kinds import IO, Batch, Field
from kdsearch.testing.teacher import TeacherContract
from kdsearch.testing.training import TensorSource

IDS = ["a", "b", "c", "train-00000", "train-00001", "val-00000"]
LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
WORDS = torch.arange(12, dtype=torch.int64).reshape(6, 2)
FIELDS = IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (5,)),))
DATA = TensorSource(
    {
        "train": {"image": torch.zeros(2, 3, 16, 16), "label": torch.tensor([0, 4])},
        "val": {"image": torch.zeros(1, 3, 16, 16), "label": torch.tensor([0])},
        "test": {"image": torch.zeros(9, 3, 16, 16), "label": torch.zeros(9, dtype=torch.int64)},
    }
)


def npz(path):
    np.savez(path, ids=np.array(IDS), logits=LOGITS.numpy(), words=WORDS.numpy())


def by_sample(path):
    np.savez(path, **{sample: LOGITS[i].double().numpy() for i, sample in enumerate(IDS)})


def tensors(path):
    save_file({"logits": LOGITS, "words": WORDS}, path, {"ids": json.dumps(IDS)})


def tensors_by_sample(path):
    save_file({sample: LOGITS[i].clone() for i, sample in enumerate(IDS)}, path)


MADE = {"two.npz": npz, "each.npz": by_sample, "two.safetensors": tensors, "each.safetensors": tensors_by_sample}


def opened(folder, name, data=DATA):
    teacher = Table(TableOptions(path=name))
    site = Site(seed=0, base=folder, data=data)
    teacher.preflight(site)
    return teacher, teacher.model(FIELDS, site)


@pytest.mark.parametrize("name", MADE)
def test_the_answer_is_the_samples_own_in_any_batch(name, tmp_path):
    MADE[name](tmp_path / name)
    teacher, model = opened(tmp_path, name)
    batch = Batch(("val-00000", "a", "train-00001"), {"image": torch.zeros(3, 3, 16, 16)})
    seen = teacher.view(batch, None)
    found = dict(zip(model.outputs, model.module(*[seen[name] for name in model.inputs]), strict=True))
    assert torch.equal(found["logits"], LOGITS[[5, 0, 4]])
    if "two" in name:
        assert torch.equal(found["words"], WORDS[[5, 0, 4]])
        assert found["words"].dtype == torch.int64


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_floats_of_any_width_are_read_as_float32(kind, tmp_path):
    save_file({"logits": LOGITS.to(kind)}, tmp_path / "two.safetensors", {"ids": json.dumps(IDS)})
    teacher, model = opened(tmp_path, "two.safetensors")
    seen = teacher.view(Batch(("c", "a"), {"image": torch.zeros(2, 3, 16, 16)}), None)
    (found,) = model.module(seen["table_row"])
    assert found.dtype == torch.float32
    assert torch.equal(found, LOGITS.to(kind).float()[[2, 0]])


WRITTEN = IO(
    (Field("tokens", "tokens", (None,), "int64", n_values=2), Field("mask", "mask", (None,), "int64")),
    (Field("logits", "logits", (None, 2), mask="mask"),),
)


def written(lengths):
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, n in enumerate(lengths):
        mask[row, :n] = 1
    return {"tokens": mask, "mask": mask}


def of_open_length(folder, lengths=range(1, 7), ids=False):
    answers = [np.full((n, 2), 1.0 + i) for i, n in enumerate(lengths)]
    stored = {"ids": np.array(IDS), "logits": np.stack(answers)} if ids else dict(zip(IDS, answers, strict=True))
    np.savez(folder / "open.npz", **stored)
    texts = {"train": written([4, 5]), "val": written([6])}
    teacher = Table(TableOptions(path="open.npz"))
    return teacher, teacher.model(WRITTEN, Site(seed=0, base=folder, data=TensorSource(texts)))


def test_answers_of_open_length_are_as_long_as_their_batch(tmp_path):
    teacher, model = of_open_length(tmp_path)
    for ids, lengths in ((("b",), [2]), (("b", "train-00000"), [2, 4]), (("a", "b"), [1, 2])):
        seen = teacher.view(Batch(ids, written(lengths)), None)
        (found,) = model.module(*[seen[name] for name in model.inputs])
        assert found.shape == (len(ids), max(lengths), 2)
        for row, (sample, n) in enumerate(zip(ids, lengths, strict=True)):
            assert found[row].tolist() == [[1.0 + IDS.index(sample)] * 2] * n + [[0, 0]] * (max(lengths) - n)


@pytest.mark.parametrize("ids", [False, True])
def test_answers_to_fewer_places_than_a_sample_has_are_refused(ids, tmp_path):
    teacher, _ = of_open_length(tmp_path, [3] * 6, ids)
    teacher.view(Batch(("a", "b"), written([3, 1])), None)
    with pytest.raises(DataError, match=r"'open.npz' answers 3 places of sample 'b', which has 4"):
        teacher.view(Batch(("a", "b"), written([2, 4])), None)


@pytest.mark.parametrize("name", ["two.npz", "each.safetensors"])
def test_missing_ids_are_refused_with_names(name, tmp_path):
    MADE[name](tmp_path / name)
    images = {"image": torch.zeros(7, 3, 16, 16), "label": torch.zeros(7, dtype=torch.int64)}
    with pytest.raises(
        DataError,
        match=r"no answers to 5 samples of split 'train': 'train-00002', 'train-00003', 'train-00004' and 2 more",
    ) as caught:
        opened(tmp_path, name, TensorSource({"train": images}))
    assert caught.value.file == tmp_path / name
    assert caught.value.exit_code == 2
    teacher, _ = opened(tmp_path, name)
    with pytest.raises(DataError, match=rf"'{name}' has no answers to 1 samples: 'stranger'"):
        teacher.view(Batch(("a", "stranger"), {}), None)
    with pytest.raises(DataError, match=r"no answers to 3 samples: 'x', 'y', 'z'$"):
        teacher.view(Batch(("x", "y", "z"), {}), None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npz", {"ids": np.array(IDS), "logits": np.ones((5, 5))}, r"'logits' has 5 rows, there are 6 ids"),
        ("x.npz", {"ids": np.array(["a", "a"]), "logits": np.ones((2, 5))}, r"id 'a' occurs twice"),
        ("x.npz", {"ids": np.array(IDS)}, r"holds no answers"),
        ("x.npz", {"a": np.ones(3), "b": np.ones((3, 3))}, r"unlike numbers of axes"),
        ("x.npz", {"a": np.ones(5), "b": np.ones(4)}, r"shape \(5,\) of 'a' and \(4,\) of 'b'.*Expected equal shapes"),
        ("x.npz", {"a": np.array(["no"])}, r"array 'a' is <U2.*Expected numbers"),
        ("x.npz", {"a": np.array([1.0, np.nan])}, r"'a' holds values that are not finite"),
        ("x.npz", {"a": np.array([{}], dtype=object)}, r"not readable"),
    ],
)
def test_what_is_no_table_is_said(name, content, message, tmp_path):
    np.savez(tmp_path / name, **content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, name)


def test_files_of_other_kinds_are_said(tmp_path):
    (tmp_path / "x.csv").write_text("a,1\n")
    with pytest.raises(DataError, match=r"'.csv' is no table.*an .npz or .safetensors file"):
        opened(tmp_path, "x.csv")
    for ids in ("a, b", "[1, 2, 3, 4, 5, 6]", '{"a": 0}'):
        save_file({"logits": LOGITS}, tmp_path / "x.safetensors", {"ids": ids})
        with pytest.raises(DataError, match="no JSON list of texts"):
            opened(tmp_path, "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtifactError):
        opened(tmp_path, "y.safetensors")
    with pytest.raises(DataError, match=r"none.npz"):
        opened(tmp_path, "none.npz")


class TestTable(TeacherContract):
    teacher = Table
    options: ClassVar = {"path": "two.npz"}
    folder = None

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        np.savez(tmp_path / "two.npz", ids=np.array(IDS), logits=LOGITS.numpy())
        type(self).folder = tmp_path

    def io(self):
        return FIELDS

    def services(self):
        return Site(seed=0, base=self.folder, data=DATA)

    def inputs(self, model, n):
        return [torch.arange(n)]
