"""Teachers' stored rows: as long as their samples, found by what was read, never served for anything else."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.builtin.text.seq2seq import Seq2Seq
from kdsearch.engine.cache import Live, TeacherCache, nan_in, write_cache
from kdsearch.engine.recipe_site import RecipeSite
from kdsearch.engine.setup import Evaluator
from kdsearch.errors import ArtifactError, TapError
from kdsearch.kinds import Batch, Field, Model, NoOptions, Tap
from kdsearch.kinds.forward import run_model
from kdsearch.ops.padding import stacked
from tests.engine.little import resnet, source

CPU = torch.device("cpu")
TOKENS = Field("tokens", "tokens", (None,), "int64", n_values=9)
MASK = Field("mask", "mask", (None,), "int64")
LABEL = Field("label", "label", (), "int64", use="target", n_values=3)
TASK = Classification(ClassificationOptions())
LIMIT = 10**9


class Texts:
    """n samples of 1 to 7 tokens; a batch is padded to its longest."""

    splits = ("train",)
    fields = (TOKENS, MASK, LABEL)

    def __init__(self, lengths, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.rows = [torch.randint(1, 9, (n,), generator=rng) for n in lengths]
        self.ids, self.facts = [f"t-{i}" for i in range(len(lengths))], {"classes": ["a", "b", "c"]}

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        rows = [self.rows[i] for i in index]
        return Batch(
            tuple(self.ids[i] for i in index),
            {
                "tokens": stacked(rows),
                "mask": stacked([torch.ones_like(row) for row in rows]),
                "label": torch.tensor([int(row.sum()) % 3 for row in rows]),
            },
        )


class Tagger(nn.Module):
    """logits (B, 3), tags (B, T, 4), pairs (B, T, T); padded places change nothing elsewhere."""

    def __init__(self, n_boxes=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.tag, self.n_boxes = nn.Embedding(9, 5), nn.Linear(5, 3), nn.Linear(5, 4), n_boxes

    def forward(self, tokens, mask):
        found = self.embed(tokens) * mask[..., None]
        pooled = found.sum(1) / mask.sum(1, keepdim=True)
        boxes = found[:, : 1 + int(tokens.sum()) % 3]  # as many as the batch says: not tied to a length
        tags = self.tag(found)
        return self.out(pooled), tags, found @ found.mT, boxes.long() if self.n_boxes else boxes


def tagger():
    names = ("logits", "tags", "pairs", "boxes")
    taps = (Tap("embedding", "embed", "tokens", (None, 5)),)
    return Model(Tagger(), ("tokens", "mask"), taps, names, name="tagger")


def counted(model):
    calls = []
    model.module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def lengths(n=300, seed=0):
    return (np.random.default_rng(seed).integers(1, 8, n)).tolist()


def stored(folder, model, data, taps=(), task=TASK, view=None, limit=LIMIT):
    facts = write_cache(folder, Live(model, task, None, view), data, ["train"], taps, CPU, limit)
    return facts, Live(model, task, TeacherCache(folder), view)


def test_rows_are_as_long_as_their_samples_and_served_as_long_as_the_batch(tmp_path):
    """Batches of 256 and 44 had other longest samples: (256, 7, 4) did not fit into rows of (6, 4)."""
    data, model = Texts([*lengths(256), *[min(n, 5) for n in lengths(44, 1)]]), tagger()
    facts, held = stored(tmp_path, model, data, ["embedding"])
    assert facts["cached"] == ["boxes", "embedding", "logits", "pairs", "tags"]
    about = json.loads((tmp_path / "cache.json").read_text())
    n_tokens = sum(len(row) for row in data.rows)
    size = {name: (tmp_path / each["file"]).stat().st_size for name, each in about["arrays"].items()}
    assert size["tags"] == 4 * n_tokens * 4, "no padding is stored"
    assert size["pairs"] == 4 * sum(len(row) ** 2 for row in data.rows)
    assert size["logits"] == 4 * 300 * 3
    calls = counted(model)
    for chosen in ([0], [5, 299, 17], list(range(100, 164)), [260, 261]):
        given = data.load(chosen)
        out = held.outputs(given, ["logits", "tags", "pairs", "embedding"], CPU)
        assert calls == []
        with torch.no_grad():
            expected = run_model(model, TASK, given, ["embedding"])
        calls.clear()
        real = given["mask"].bool()
        assert torch.allclose(out["logits"], expected["logits"], atol=1e-6)
        for name in ("tags", "embedding"):
            assert out[name].shape == expected[name].shape
            assert torch.allclose(out[name][real], expected[name][real], atol=1e-6)
        assert out["pairs"].shape == expected["pairs"].shape
        assert torch.allclose(out["pairs"], expected["pairs"], atol=1e-5)
        assert out["embedding"][~real].abs().sum() == 0


@pytest.mark.parametrize(
    "each", [[6] * 256 + [5, 3] * 22, [4] * 256 + [7, 2] * 9], ids=["short ones last", "long ones after"]
)
def test_a_first_batch_of_equal_lengths_says_nothing_of_the_next(each, tmp_path):
    """As texts that are cut, or sorted by length: what is as long as a text is seen of a later batch."""
    data, model = Texts(each), tagger()
    _, held = stored(tmp_path, model, data, ["embedding"])
    for chosen in ([0, 1], [len(each) - 1], [0, len(each) - 1]):
        given = data.load(chosen)
        out = held.outputs(given, ["logits", "tags", "pairs", "embedding"], CPU)
        with torch.no_grad():
            expected = run_model(model, TASK, given, ["embedding"])
        for name in ("tags", "pairs", "embedding"):
            assert out[name].shape == expected[name].shape
        real = given["mask"].bool()
        assert torch.allclose(out["tags"][real], expected["tags"][real], atol=1e-6)


class Pairs(Texts):
    """Texts of n tokens, and what is written of them, m tokens; points (n, 2) beside; a field that no batch has."""

    fields = (
        TOKENS,
        MASK,
        Field("points", "vector", (None, 2)),
        Field("prefix", "tokens", (None,), "int64", n_values=9),
        Field("prefix_mask", "mask", (None,), "int64"),
        Field("next", "tokens", (None,), "int64", "target", 9),
        Field("absent", "tokens", (None,), "int64", "extra"),
    )

    def __init__(self, lengths):
        super().__init__([n for n, _ in lengths])
        self.written = [torch.arange(1, m + 1) % 9 for _, m in lengths]

    def load(self, index, augment=False, seed=0):
        batch, rows = super().load(index), [self.written[i] for i in index]
        points = stacked([row[:, None].float().expand(-1, 2) for row in (self.rows[i] for i in index)])
        real = {"prefix": stacked(rows), "prefix_mask": stacked([torch.ones_like(row) for row in rows])}
        return batch.having(points=points, next=stacked(rows, -100), **real)


class Writer(nn.Module):
    """logits (B, M, 9) and, of the text, points (B, N, 2)."""

    def forward(self, tokens, mask, points, prefix, prefix_mask):
        logits = nn.functional.one_hot(prefix, 9) + (tokens * mask).sum(1)[:, None, None]
        return logits.float(), points * mask[..., None]


def test_of_two_lengths_each_answer_has_its_own(tmp_path):
    """The batch's and the shortest text's lengths are (5, 5) and (1, 1): the output's mask says which it follows."""
    data = Pairs([(5, 2), (2, 5), (1, 1)])
    names = ("tokens", "mask", "points", "prefix", "prefix_mask")
    model = Model(Writer(), names, (), ("logits", "seen"))
    _, held = stored(tmp_path, model, data, task=Seq2Seq(Seq2Seq.options_class()))
    about = json.loads((tmp_path / "cache.json").read_text())
    assert about["ties"]["logits"] == [[0, "prefix_mask", 1]]
    assert (tmp_path / about["arrays"]["logits"]["file"]).stat().st_size == 4 * 9 * (2 + 5 + 1)
    assert (tmp_path / about["arrays"]["seen"]["file"]).stat().st_size == 4 * 2 * (5 + 2 + 1)
    for chosen in ([0], [1], [2, 0]):
        given = data.load(chosen)
        out = held.outputs(given, ["logits", "seen"], CPU)
        logits, seen = model.module(*[given[name] for name in names])
        assert out["logits"].shape == logits.shape
        assert torch.equal(out["logits"][given["prefix_mask"] > 0], logits[given["prefix_mask"] > 0])
        assert torch.equal(out["seen"], seen)


def test_rows_whose_number_no_length_says_are_padded_to_the_longest(tmp_path):
    """Boxes: each batch has its own number of them."""
    data, model = Texts(lengths(600)), tagger()
    with torch.no_grad():
        runs = [
            model.module(*[data.load(at)[name] for name in model.inputs])[3] for at in (range(256), range(256, 512))
        ]
    assert runs[0].shape[1] != runs[1].shape[1], "the test's own premise"
    _, held = stored(tmp_path, model, data)
    out = held.outputs(data.load([0, 300]), ["boxes"], CPU)["boxes"]
    most = max(each.shape[1] for each in runs)
    assert out.shape == (2, most, 5)
    for row, run in zip(out, runs, strict=True):
        i = 0 if run is runs[0] else 44
        assert torch.allclose(row[: run.shape[1]], run[i], atol=1e-6)
        assert row[run.shape[1] :].abs().sum() == 0


class Longer(nn.Module):
    """As Tagger's embedding, with a token of its own before it, or every other token alone."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.tokens, self.out, self.kind = nn.Embedding(9, 5), nn.Identity(), nn.Linear(5, 3), kind

    def forward(self, tokens, mask):
        found = self.embed(tokens) * mask[..., None]
        found = torch.cat([found[:, :1], found], 1) if self.kind == "one more" else found[:, ::2]
        return self.out(self.tokens(found).sum(1))


@pytest.mark.parametrize("kind", ["one more", "half"])
def test_a_tap_that_is_as_long_as_no_field_is_computed_when_it_is_read(kind, tmp_path):
    model = Model(Longer(kind), ("tokens", "mask"), (Tap("own", "tokens", "tokens", (None, 5)),), ("logits",))
    data = Texts(lengths(300))
    facts, held = stored(tmp_path, model, data, ["own"])
    assert (facts["cached"], facts["untied"]) == (["logits"], ["own"])
    given = data.load([5, 17])
    found = held.outputs(given, ["logits", "own"], CPU)
    n = given["tokens"].shape[1]
    assert found["own"].shape[1] == (n + 1 if kind == "one more" else -(-n // 2))


def test_whole_numbers_stay_whole(tmp_path):
    model = Model(Tagger(n_boxes=True), ("tokens", "mask"), (), ("logits", "tags", "pairs", "boxes"))
    _, held = stored(tmp_path, model, Texts(lengths(30)))
    assert held.outputs(Texts(lengths(30)).load([3]), ["boxes"], CPU)["boxes"].dtype == torch.int64


def test_a_large_tap_is_left_out_and_its_file_is_gone(tmp_path):
    facts, held = stored(tmp_path, tagger(), Texts(lengths(40)), ["embedding"], limit=50)
    assert facts["too_large"] == ["embedding"]
    about = json.loads((tmp_path / "cache.json").read_text())
    kept = {
        each[key] for each in [*about["arrays"].values(), about["checks"]] for key in ("file", "sizes") if key in each
    }
    assert {file.name for file in tmp_path.iterdir()} == {*kept, "cache.json"}
    assert held.outputs(Texts(lengths(40)).load([3]), ["embedding"], CPU)["embedding"].shape[2] == 5


def evaluator(held, kind):
    io = TASK.io(source().fields, source().facts)
    if kind == "recipe":
        return RecipeSite(seed=0, base=None, teachers={"teacher": held}, task=TASK)
    return Evaluator(seed=0, base=None, task=TASK, data=source(), io=io, teachers={"teacher": held})


@pytest.mark.parametrize("kind", ["procedure", "recipe"])
def test_a_changed_batch_with_the_same_ids_is_never_served_stored_rows(kind, tmp_path):
    """Both handed out the rows of the unchanged images."""
    model, data = resnet(1), source()
    _, held = stored(tmp_path, model, data)
    services, given = evaluator(held, kind), data.split("train").load([4, 9, 1])
    calls = counted(model)
    same = services.predict("teacher", given)["logits"]
    extra = services.predict("teacher", given.having(weight=torch.ones(3)))["logits"]
    assert calls == []
    assert torch.equal(same, extra)
    for changed in (given.having(image=-given["image"]), given.having(image=given["image"].roll(1, 0))):
        calls.clear()
        out = services.predict("teacher", changed)["logits"]
        assert calls == [1]
        assert torch.allclose(out, run_model(model, TASK, changed)["logits"], atol=1e-6)


def test_one_element_that_changes_is_enough(tmp_path):
    model, data = resnet(1), source()
    _, held = stored(tmp_path, model, data)
    given = data.split("train").load([4, 9, 1])
    calls = counted(model)
    image = given["image"].clone()
    image[2, 0, 5, 5] = torch.nextafter(image[2, 0, 5, 5], torch.tensor(9.0))
    held.outputs(given.having(image=image), ["logits"], CPU)
    assert calls == [1]


def test_what_a_view_may_read_is_all_of_the_batch(tmp_path):
    """A teacher that is shown the label: other labels, other rows."""
    model = Model(nn.Sequential(nn.Linear(3, 3)), ("shown",), name="shown")

    def view(batch, rng):
        return batch.having(shown=nn.functional.one_hot(batch["label"], 3).float())

    data = source()
    _, held = stored(tmp_path, model, data, view=view)
    given = data.split("train").load([0, 1])
    calls = counted(model)
    held.outputs(given, ["logits"], CPU)
    assert calls == []
    other = given.having(label=(given["label"] + 1) % 3)
    out = held.outputs(other, ["logits"], CPU)["logits"]
    assert calls == [1]
    assert torch.allclose(out, model.module(view(other, None)["shown"]).detach())


def test_a_task_that_calls_in_its_own_way_may_read_every_input(tmp_path):
    class Shifted(Classification):
        def call(self, model, batch):
            out = model.module(batch["image"] + batch["shift"][:, None, None, None])
            return {"logits": out}

    class Source:
        facts, splits = source().facts, ("train",)
        fields = (*source().fields, Field("shift", "vector", ()))
        ids = source().split("train").ids

        def split(self, name):
            return self

        def load(self, index, augment=False, seed=0):
            return source().split("train").load(index).having(shift=torch.arange(40.0)[list(index)])

    model, data, task = resnet(1), Source(), Shifted(ClassificationOptions())
    _, held = stored(tmp_path, model, data, task=task)
    given = data.load([0, 1])
    calls = counted(model)
    held.outputs(given.having(label=1 - given["label"]), ["logits"], CPU)
    assert calls == []
    held.outputs(given.having(shift=given["shift"] + 1), ["logits"], CPU)
    assert calls == [1]


def test_a_file_of_another_length_is_named(tmp_path):
    stored(tmp_path, resnet(1), source())
    file = tmp_path / "0.rows"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"476 of 480 bytes"):
        TeacherCache(tmp_path)


def test_taps_that_a_procedure_asks_for_come_from_the_cache(tmp_path):
    """A plugin had to hide the teacher in a list and run it again in every trial."""
    model, data = resnet(1), source()
    _, held = stored(tmp_path, model, data, ["stage[1]"])
    services, given = evaluator(held, "procedure"), data.split("train").load([4, 9, 1])
    calls = counted(model)
    out = services.predict("teacher", given, taps=["stage[-1]"])
    assert calls == []
    expected = run_model(model, TASK, given, ["stage[1]"])["stage[1]"]
    assert torch.allclose(out["stage[-1]"], expected, atol=1e-6)
    assert not out["stage[1]"].requires_grad
    calls.clear()
    assert services.predict("teacher", given, taps=["stage[0]"])["stage[0]"].shape[0] == 3, "not stored: run for it"
    assert calls == [1]
    assert services.part("teacher", "stage[0]") is model.part("stage[0]")
    with pytest.raises(TapError, match=r"stage\[0\]"):
        services.predict("teacher", given, taps=["stage[7]"])


def test_rows_of_held_out_samples_are_looked_up_last(tmp_path):
    model, data = resnet(1), source()
    _, held = stored(tmp_path / "seen", model, data)
    write_cache(tmp_path / "test", Live(model, TASK, None), data, ["val"], [], CPU, LIMIT)
    calls = counted(model)
    given = data.split("val").load([0, 1])
    held.outputs(given, ["logits"], CPU)
    assert calls == [1]
    held.held_out = TeacherCache(tmp_path / "test")
    held.outputs(given, ["logits"], CPU)
    held.outputs(data.split("train").load([0]), ["logits"], CPU)
    assert calls == [1]


def test_nan_in_the_padding_is_no_answer():
    task = CausalLm(NoOptions())
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    logits = torch.zeros(3, 3, 4)
    logits[0, 2, 1] = logits[1, 1, 3] = torch.nan
    batch = Batch(("a", "b", "c"), {"mask": mask})
    answers = (Field("logits", "logits", (3, 4)), Field("other", "vector", (2,)))
    assert nan_in(task, answers, batch, {"logits": logits}) == ["b"]
    assert nan_in(TASK, answers[:1], batch, {"logits": logits}) == ["a", "b"]
