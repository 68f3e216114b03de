"""Scores in a program of one's own: those of `kdsearch score`, of any inputs, against any teacher."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.errors import DataError, PluginError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Field, NoOptions, Proxy, Task
from kdsearch.search.scoring import Scorer, inits_of
from kdsearch.verbs import commands
from tests.python.tiny_live import teacher

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 10
IMAGE_IO = IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (10,)),))
SMALL = {"depths": [1, 1, 1], "widths": [4, 8, 8]}
WIDER = {"depths": [1, 2, 1], "widths": [8, 8, 16]}


def test_scores_are_those_of_a_scorer_built_by_hand():
    made = kdsearch.scorer("cifar_resnet", ["nwot", {"use": "synflow"}], shape=(1, 16, 16), classes=4, seed=3)
    host = Host.load()
    space = host.load_class("search_space", "cifar_resnet")()
    io = IO((Field("image", "image", (1, 16, 16)),), (Field("logits", "logits", (4,)),))
    proxies = {name: (cls := host.load_class("proxy", name))(cls.options_class()) for name in ("nwot", "synflow")}
    task = (cls := host.load_class("task", "classification"))(cls.options_class())
    own = Scorer(space, io, task, proxies, probe_seed=3, init_seeds=inits_of(3, 1))
    assert made.score(SMALL) == own.score(SMALL)
    assert kdsearch.scorer("cifar_resnet", ["nwot", "synflow"], io=io, seed=3).score(SMALL) == own.score(SMALL)


@pytest.mark.parametrize(("space", "names"), [("mlp", ("auto", "nwot")), ("text_encoder", ("nwot", "relation"))])
def test_rows_are_those_of_the_command(space, names, few_in_reference):
    asked = commands.score(space=space, proxies=names, sample=2, seed=1, progress=False)
    made = kdsearch.scorer(space, names, seed=1)
    found = [row.row() for row in made.score_all([row["spec"] for row in asked["rows"]])]
    assert found == asked["rows"]
    assert tuple(found[0]["scores"]) == names
    assert all(0 < row["scores"].get("auto", 0.5) < 1 for row in found)


def test_rows_do_not_depend_on_the_program_s_threads():
    """Nor does the number of these change for whoever asks."""
    made = kdsearch.scorer("cifar_resnet", ["zico", "jacob_cov"], shape=(1, 28, 28))
    rows, before = [], torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            rows.append(made.score({"depths": [2, 1, 1], "widths": [24, 32, 48]}))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(before)
    assert rows[0] == rows[1]


class Elsewhere(nn.Sequential):
    """A network as on a GPU: what is on the CPU it does not take."""

    is_here = False

    def cpu(self):
        self.is_here = True
        return super().cpu()

    def forward(self, x):
        if not self.is_here:
            raise RuntimeError("expected all tensors to be on the same device")
        return super().forward(x)


def test_a_teacher_may_be_on_a_gpu():
    asked, networks = {"shape": (1, 8, 8)}, [teacher(0), Elsewhere(*teacher(0).children())]
    one, two = (kdsearch.scorer("cifar_resnet", ["relation"], teacher=each, **asked) for each in networks)
    assert one.score(SMALL) == two.score(SMALL)
    assert not networks[1].is_here, "where it is is its owner's affair"


def test_a_composite_needs_no_term_beside_it_and_hides_none(few_in_reference):
    alone, beside = (
        kdsearch.scorer("cifar_resnet", names, shape=(1, 8, 8)) for names in (["auto"], ["synflow", "auto"])
    )
    one, two = alone.score(SMALL).scores, beside.score(SMALL).scores
    assert list(one) == ["auto"]
    assert list(two) == ["synflow", "auto"]
    assert one["auto"] == two["auto"]


def test_own_samples_say_the_shape_and_are_what_proxies_see():
    def score(samples):
        return kdsearch.scorer("cifar_resnet", ["nwot"], samples=samples).score(SMALL).scores["nwot"]

    assert score((IMAGES, LABELS)) == score(({"image": IMAGES}, LABELS))
    assert score((IMAGES, LABELS)) != score((IMAGES.flip(-1) * 2 - 1, LABELS))
    tokens = torch.randint(0, 8192, (4, 6), generator=torch.Generator().manual_seed(0))
    texts = ({"tokens": tokens, "mask": torch.ones_like(tokens)}, torch.tensor([0, 1, 2, 0]))
    made = kdsearch.scorer("text_encoder", ["synflow", "nwot"], samples=texts, classes=3)
    assert [each.shape for each in made.io.inputs] == [(6,), (6,)]
    assert None not in made.score({"kind": "bag", "embedding": 16, "width": 32}).scores.values()


def test_the_teacher_is_the_network_with_fresh_weights_or_a_spec():
    def score(**of):
        return kdsearch.scorer("cifar_resnet", ["relation"], shape=(1, 8, 8), **of).score(SMALL).scores["relation"]

    mine = teacher(0)
    before = copy.deepcopy(mine.state_dict())
    fresh = score(teacher=mine)
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert score(teacher=teacher(1)) == fresh, "trained weights count for nothing"
    assert score(teacher=teacher(0, width=12)) != fresh
    assert score(teacher=mine, seed=1) != fresh
    assert score(teacher=WIDER) != score()


class Weights(Proxy[NoOptions]):
    """How many weights lie in matrices."""

    def score(self, student, probe):
        return float(sum(each.numel() for each in student.module.parameters() if each.ndim == 2))


def test_a_class_is_a_proxy():
    found = kdsearch.scorer("mlp", [Weights], shape=(6,), classes=3).score({"depth": 1, "widths": [16] * 6})
    assert found.scores == {"Weights": 6.0 * 16 + 16 * 3}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"proxies": "auto"}, StudyError, r"proxies: got 'auto'. Expected a list"),
        ({"proxies": []}, StudyError, r"proxies: got \[\]"),
        ({"proxies": ["aut"]}, PluginError, r"unknown proxy 'aut'; did you mean 'auto'"),
        ({"proxies": [{"use": "auto", "options": {"a": 1}}]}, StudyError, "'auto' has no options. Expected options of"),
        ({"proxies": ["nwot", {"use": "swap", "name": "nwot"}]}, StudyError, "two proxies have one name"),
        (
            {"shape": (8, 8)},
            StudyError,
            r"shape: got \(8, 8\). Expected sizes of the space's inputs: image \(3, 32, 32\)",
        ),
        ({"classes": 1}, StudyError, "classes: got 1"),
        ({"samples": (IMAGES, LABELS), "classes": 9}, DataError, "int64 .* up to 9. Expected int64 .* of 0 to 8"),
        ({"samples": (IMAGES, LABELS.float())}, DataError, "labels are torch.float32"),
        ({"samples": (IMAGES, LABELS[:4])}, DataError, r"'image' is \(12, 1, 8, 8\). Expected \(4, 1, 8, 8\)"),
        ({"samples": ({"img": IMAGES}, LABELS)}, DataError, "the inputs are img. Expected image"),
        ({"samples": (IMAGES.double(), LABELS)}, DataError, "'image' is torch.float64. Expected torch.float32"),
        ({"samples": (IMAGES, None)}, DataError, "'label' is NoneType. Expected a torch tensor"),
        ({"samples": ([[0.0]], LABELS)}, DataError, "the inputs are list. Expected a torch tensor"),
        ({"samples": IMAGES}, DataError, r"samples: got Tensor. Expected \(inputs, targets\)"),
        ({"io": IMAGE_IO, "classes": 3}, StudyError, "io: io says shape and classes too"),
        ({"init_seeds": 0}, StudyError, "init_seeds: got 0"),
        ({"shape": 32}, StudyError, "shape: got 32. Expected sizes"),
        ({"teacher": nn.Linear}, StudyError, r"teacher: got the class Linear\. Expected a spec"),
        ({"teacher": lambda x: x}, StudyError, r"teacher: got function\. Expected a spec"),
        ({"teacher": "1,1,1"}, StudyError, "'1,1,1' is no architecture"),
        ({"teacher": {"depth": 1}}, StudyError, "unknown option 'depth'"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))}, StudyError, r"tap 'stage\[-1\]'"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(7, 10))}, DataError, "^teacher cannot read image 3x32x32"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        kdsearch.scorer("cifar_resnet", **{"proxies": ["relation"], **arguments})


def test_what_is_no_space_or_no_architecture_is_named():
    for space in ({"space": "cifar_resnet"}, nn.Linear, 3):
        with pytest.raises(StudyError, match=r"space: got .*\. Expected a search space's name, class or object"):
            kdsearch.scorer(space, ["params"])
    with pytest.raises(StudyError, match=r"spec: got Linear\. Expected a spec of the space"):
        kdsearch.scorer("cifar_resnet", ["params"]).score(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"tokens": torch.zeros(4, 6), "mask": torch.ones(4, 6)}, "'tokens' is torch.float32. Expected torch.int64"),
        (
            {"tokens": torch.full((4, 6), 9000), "mask": torch.ones(4, 6)},
            "'tokens' is from 9000 to 9000. Expected 0 to 8191",
        ),
        (
            {"tokens": torch.zeros(4, 6, dtype=torch.int64), "mask": torch.ones(4, 3)},
            r"'mask' is \(4, 3\). Expected \(4, 6\)",
        ),
        ({"tokens": torch.zeros(4, 6, dtype=torch.int64)}, "the inputs are tokens. Expected tokens, mask"),
    ],
)
def test_texts_that_do_not_fit_are_named(inputs, message):
    with pytest.raises(DataError, match=message):
        kdsearch.scorer("text_encoder", ["nwot"], samples=(inputs, torch.tensor([0, 1, 2, 0])))


class Level(Task[NoOptions]):
    """One number a sample, squared error."""

    def io(self, fields, facts):
        return VECTOR_IO

    def loss(self, out, batch):
        return (out["value"] - batch["level"]).square().mean()

    def dummy(self, io, n, rng):
        return super().dummy(io, n, rng).having(level=torch.randn(n, 1, generator=rng))


VECTOR_IO = IO((Field("vector", "vector", (6,)),), (Field("value", "vector", (1,)),))


class OfLevels(Host.load().load_class("search_space", "mlp")):
    task = "level"

    def example_io(self):
        return VECTOR_IO


def test_a_space_says_its_task_and_the_task_what_targets_are():
    vectors, levels = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 8)[:, None]

    def score(**of):
        made = kdsearch.scorer(OfLevels, ["grad_norm"], **of)
        return made.score({"depth": 1, "widths": [16] * 6}).scores["grad_norm"]

    with pytest.raises(PluginError, match="unknown task 'level'"):
        score()
    assert score(task=Level) > 0, "of its own noise"
    assert score(task=Level, samples=(vectors, levels)) == score(task=Level, samples=(vectors, {"level": levels}))
    assert score(task=Level, samples=(vectors, levels)) != score(task=Level, samples=(vectors, 1 - levels))
    for wrong, message in [
        (levels[:, 0], r"'level' is torch.float32 \(8,\). Expected torch.float32 \(B, 1\)"),
        ({"lvl": levels}, "the targets are lvl. Expected level"),
        (levels[:4], r"'vector' is \(8, 6\). Expected \(4, 6\)"),
    ]:
        with pytest.raises(DataError, match=message):
            score(task=Level, samples=(vectors, wrong))


def test_the_command_asks_for_the_space_s_task(tmp_path):
    lines = ["from kdsearch_spaces.mlp.space import MlpSpace", "", "", "class Own(MlpSpace):", "    task = 'level'"]
    (tmp_path / "own.py").write_text("\n".join(lines))
    name = f"{tmp_path / 'own.py'}:Own"
    with pytest.raises(PluginError, match="unknown task 'level'"):
        commands.score(space=name, proxies=("params",), sample=1, allow_code=(name,), progress=False)


def test_an_architecture_may_be_the_space_s_text():
    made = kdsearch.scorer("nb201", ["params"])
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
    assert made.score(text) == made.score(made.space.decode(text))
