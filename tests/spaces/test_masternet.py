"""The space of super blocks: its contract, hand-counted networks and torchvision's, mutations, one text a network."""

from functools import partial
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdsearch_spaces.masternet.mutation import MOVES, crossed, mutated, mutated_block, scaled
from kdsearch_spaces.masternet.space import INITIAL, MasterNetSpace, MasterNetSpec
from kdsearch_spaces.masternet.structure import SuperBlock, n_layers, normal, read, stages, write
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from kdsearch.builtin.controllers.evolution import Evolution, EvolutionOptions
from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Batch, Field, Graph, Trial
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract

TINY = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,8,1,8,1)SuperResK1K5K1(8,16,2,8,2)SuperConvK1BNRELU(16,24,1,1)"
RESNET50 = (
    "SuperConvK7BNRELU(3,64,2,1)SuperResK1K3K1(64,256,2,64,3)SuperResK1K3K1(256,512,2,128,4)"
    "SuperResK1K3K1(512,1024,2,256,6)SuperResK1K3K1(1024,2048,2,512,3)"
)


class TestMasterNet(SearchSpaceContract):
    space = MasterNetSpace
    spec: ClassVar = {"initial": TINY}


class TestNarrow(SearchSpaceContract):
    space = MasterNetSpace
    spec: ClassVar = {"initial": TINY, "mutations": "narrow", "residual": False, "max_layers": 6}
    samples = 2


class TestOneNetwork(SearchSpaceContract):
    space = MasterNetSpace
    spec: ClassVar = {"structure": TINY}
    samples = 1


class SameNeighbours(MasterNetSpace):
    def neighbours(self, spec, rng, n):
        return [spec] * n


class StrangeChildren(MasterNetSpace):
    def crossover(self, a, b, rng):
        return self.start


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (SameNeighbours, "test_neighbours_differ_in_one_dimension"),
        (StrangeChildren, "test_children_take_every_value_from_a_parent"),
    ],
)
def test_broken_spaces_of_blocks_are_caught(broken, caught):
    contract = type("Broken", (TestMasterNet,), {"space": broken, "samples": 2})
    with pytest.raises(AssertionError):
        getattr(contract(), caught)()


def io(channels=3, height=32, width=32, n_classes=10):
    return IO((Field("image", "image", (channels, height, width)),), (Field("logits", "logits", (n_classes,)),))


def space_of(**spec):
    return MasterNetSpace(searchable(MasterNetSpec, spec, "student.spec"))


def rng_of(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_net_of_one_unit_costs_what_a_hand_counts():
    text = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,24,1)"
    conv1, conv2, projection = 9 * 8 * 24, 9 * 24 * 16, 8 * 16
    params = (9 * 3 * 8 + 16) + (conv1 + 48) + (conv2 + 32) + (projection + 32) + (16 * 10 + 10)
    macs = 9 * 3 * 8 * 32 * 32 + (conv1 + conv2 + projection) * 16 * 16 + 160
    cost = MasterNetSpace().cost(MasterNetSpec(structure=text), io())
    assert (cost.params, cost.macs) == (params, macs)
    plain = MasterNetSpace().cost(MasterNetSpec(structure=text, residual=False), io())
    assert (cost.params - plain.params, cost.macs - plain.macs) == (projection + 32, projection * 16 * 16)


def test_a_bottleneck_is_strided_in_the_middle():
    text = "SuperConvK3BNRELU(3,8,1,1)SuperResK1K5K1(8,8,2,4,2)"
    first = 8 * 4 * 32 * 32 + (25 * 4 * 4 + 4 * 8 + 8 * 8) * 16 * 16
    second = (8 * 4 + 25 * 4 * 4 + 4 * 8) * 16 * 16
    assert MasterNetSpace().cost(MasterNetSpec(structure=text), io()).macs == 27 * 8 * 1024 + first + second + 80


@pytest.mark.parametrize(
    ("text", "params"),  # torchvision's networks of 1,000 classes; a first stage of stride 2 needs a projection
    [(INITIAL["resnet18"], 11_689_512 + 64 * 64 + 128), (RESNET50, 25_557_032)],
)
def test_parameters_are_those_of_resnets(text, params):
    space, fields = space_of(structure=text), io(height=224, width=224, n_classes=1000)
    assert space.cost(space.start, fields).params == params
    assert space.build(space.start, fields).cost().params == params


def test_the_default_teacher_is_resnet34_shaped():
    space = space_of(initial="resnet18")
    teacher = space.teacher_spec()
    assert space.cost(teacher, io(n_classes=1000)).params == 21_797_672 + 64 * 64 + 128
    assert space.is_valid(teacher)
    assert "SuperResK3K3(128,256,2,256,3)SuperResK3K3(256,256,1,256,3)" in teacher.structure
    assert MasterNetSpace().teacher_spec().structure.endswith("SuperResK3K3(64,128,2,128,3)")
    assert space_of(max_layers=12).teacher_spec() is None
    assert space_of(initial=TINY).teacher_spec() is None


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (BasicBlock, INITIAL["resnet18"].replace(",2)", ",1)")),
        (Bottleneck, RESNET50.replace(",4)", ",1)").replace(",3)", ",1)").replace(",6)", ",1)")),
    ],
)
def test_the_network_is_torchvision_s(block, text):
    """With its pooling left out and its first stage strided, and the same weights in the same order."""
    torch.manual_seed(0)
    theirs = ResNet(block, [1, 1, 1, 1], num_classes=7, norm_layer=partial(nn.BatchNorm2d, eps=1e-3))
    theirs.maxpool, theirs.inplanes = nn.Identity(), 64
    theirs.layer1 = theirs._make_layer(block, 64, 1, stride=2)
    ours = space_of(structure=text).build(MasterNetSpec(structure=text), io(n_classes=7)).module
    ordered = [each for name, each in theirs.state_dict().items()]
    assert [each.shape for each in ours.state_dict().values()] == [each.shape for each in ordered]
    ours.load_state_dict(dict(zip(ours.state_dict(), ordered, strict=True)))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-4, atol=1e-5)


def test_taps_end_each_resolution():
    built = MasterNetSpace().build(MasterNetSpec(structure=TINY), io(1, 9, 16, 5))
    taps = {tap.name: (tap.path, tap.shape, tap.stride) for tap in built.taps}
    assert taps == {
        "stem": ("stem", (8, 9, 16), 1),
        "stage[0]": ("stages.0", (8, 9, 16), 1),
        "stage[1]": ("stages.1", (24, 5, 8), 2),  # the last convolution belongs to it
        "penultimate": ("pool", (24,), 0),
        "logits": ("classifier", (5,), 0),
    }
    assert built.blocks == ("stages.0.0", "stages.1.0", "stages.1.1")


def test_links_are_what_residual_switches():
    torch.manual_seed(0)
    linked, plain = (
        MasterNetSpace().build(MasterNetSpec(structure=TINY, residual=residual), io()).module
        for residual in (True, False)
    )
    unit = linked.stages[0][0]
    nn.init.zeros_(unit.branch.bn2.weight)
    x = torch.rand(2, 8, 6, 6)  # positive: the last ReLU lets it through
    torch.testing.assert_close(unit(x), x)
    nn.init.zeros_(plain.stages[0][0].branch.bn2.weight)
    assert plain.stages[0][0](x).abs().max() == 0
    assert all(each.eps == 1e-3 for each in linked.modules() if isinstance(each, nn.BatchNorm2d))
    assert all((each.weight == 1).all() for each in linked.stages[1].modules() if isinstance(each, nn.BatchNorm2d))


blocks = st.builds(
    SuperBlock,
    kind=st.sampled_from(["kxk", "k1kxk1"]),
    kernel=st.sampled_from([3, 5]),
    c_out=st.sampled_from([8, 16]),
    stride=st.sampled_from([1, 2]),
    bottleneck=st.sampled_from([8, 24]),
    sublayers=st.integers(1, 14),
)
convs = st.builds(
    SuperBlock, kind=st.just("conv"), kernel=st.sampled_from([1, 3, 5, 7]), c_out=st.sampled_from([8, 16])
)
structures = st.tuples(convs, st.lists(blocks | convs, min_size=1, max_size=6)).map(lambda each: (each[0], *each[1]))


@given(structures)
def test_reading_undoes_writing(structure):
    assert read(write(structure)) == structure


@given(structures)
def test_one_network_has_one_normal_form(structure):
    """The units that are built stay the same, no block is long, and joining or splitting blocks changes nothing."""
    one = normal(structure)
    assert max(block.sublayers for block in one) < 6
    assert normal(one) == one
    assert n_layers(one) == n_layers(structure)
    assert layers_of(one) == layers_of(structure)
    cut = [part for block in structure for part in halves(block)]
    assert normal(tuple(cut)) == one
    assert [stage[-1].c_out for stage in stages(one)] == [stage[-1].c_out for stage in stages(structure)]


def layers_of(structure):
    return [
        (each.kind, each.kernel, each.c_out, each.bottleneck, 1 if i else each.stride)
        for each in structure
        for i in range(each.sublayers)
    ]


def halves(block):
    if block.sublayers == 1:
        return [block]
    first = SuperBlock(block.kind, block.kernel, block.c_out, block.stride, block.bottleneck, 1)
    return [first, SuperBlock(block.kind, block.kernel, block.c_out, 1, block.bottleneck, block.sublayers - 1)]


def test_equal_networks_have_one_key():
    space = MasterNetSpace()
    stem = "SuperConvK3BNRELU(3,8,1,1)"
    long = f"{stem}SuperResK3K3(8,16,2,8,7)"
    split = f"{stem}SuperResK3K3(8,16,2,8,3)SuperResK3K3(16,16,1,8,4)"
    other = f"{stem}SuperResK3K3(8,16,2,8,5)SuperResK3K3(16,16,1,8,2)"
    keys = {space.key(MasterNetSpec(structure=text)) for text in (long, split, other)}
    assert keys == {f'{{"residual":true,"structure":"{split}"}}'}
    strided = f"{stem}SuperResK3K3(8,16,2,8,3)SuperResK3K3(16,16,2,8,4)"
    assert space.key(MasterNetSpec(structure=strided)) not in keys


@pytest.mark.parametrize(
    ("channels", "factor", "expected"),
    [
        (16, 1.25, 24),
        (16, 1 / 1.25, 16),
        (16, 1 / 2.5, 8),
        (8, 1 / 2.5, 8),
        (1024, 2.5, 2048),
        (64, 1.5, 96),
        (24, 0.5, 16),
    ],
)
def test_channels_are_multiples_of_8(channels, factor, expected):
    assert scaled(channels, factor) == expected


def test_mutations_of_a_block_are_the_paper_s():
    block = SuperBlock("kxk", 5, 160, 2, 80, 2)
    rng = rng_of()
    drawn = [mutated_block(block, MOVES["wide"], rng) for _ in range(4000)]
    assert {each.c_out for each in drawn} == {400, 320, 240, 200, 160, 128, 104, 80, 64}
    assert {each.bottleneck for each in drawn} == {200, 160, 120, 104, 80, 64, 56, 40, 32}
    assert {each.sublayers for each in drawn} == {1, 2, 3, 4}  # 2 - 2 is 1: a block is never without any
    assert {(each.kind, each.kernel) for each in drawn} == {(kind, k) for kind in ("kxk", "k1kxk1") for k in (3, 5, 7)}
    assert {each.stride for each in drawn} == {2}
    narrow = [mutated_block(block, MOVES["narrow"], rng) for _ in range(2000)]
    assert {each.c_out for each in narrow} == {240, 200, 160, 128, 104}
    assert {each.sublayers for each in narrow} == {1, 2, 3}
    assert {(each.kind, each.kernel) for each in narrow} == {("kxk", k) for k in (3, 5, 7)}
    stem = [mutated_block(SuperBlock("conv", 3, 16), MOVES["wide"], rng) for _ in range(300)]
    assert {(each.kind, each.kernel, each.stride, each.sublayers) for each in stem} == {("conv", 3, 1, 1)}
    assert {each.c_out for each in stem} == {8, 16, 24, 32, 40}


def test_a_mutation_changes_one_block_and_reaches_every_one():
    start = read(INITIAL["small"])
    rng, touched = rng_of(), set()
    for _ in range(200):
        other = mutated(start, MOVES["narrow"], rng)
        assert len(other) == len(start)
        changed = [i for i, pair in enumerate(zip(start, other, strict=True)) if pair[0] != pair[1]]
        assert len(changed) <= 1
        touched.update(changed)
    assert touched == set(range(len(start)))


def test_long_blocks_are_split_by_mutation():
    start = read("SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,5)")
    lengths = {tuple(b.sublayers for b in mutated(start, MOVES["wide"], rng_of(i))) for i in range(80)}
    assert lengths == {(1, 3), (1, 4), (1, 5), (1, 3, 3), (1, 3, 4)}


def test_children_have_whole_stages_of_their_parents():
    space, rng, chosen = MasterNetSpace(), rng_of(), set()
    for _ in range(40):
        a, b = (read(space.sample(rng).structure) for _ in range(2))
        child = crossed(a, b, rng)
        families = [(each[:1], *stages(each)) for each in (child, a, b)]
        for i, (mine, left, right) in enumerate(zip(*families, strict=True)):
            assert layers_of(mine) in (layers_of(left), layers_of(right))
            if layers_of(left) != layers_of(right):
                chosen.add((i, layers_of(mine) == layers_of(left)))
    assert chosen == {(i, is_first) for i in range(5) for is_first in (True, False)}
    assert crossed(read(TINY), read(INITIAL["small"]), rng) is None
    a, b = MasterNetSpec(structure=TINY), MasterNetSpec(structure=INITIAL["small"])
    assert space.crossover(a, b, rng) == a


def test_no_sample_has_more_layers_than_a_study_allows():
    space, rng = space_of(max_layers=11), rng_of()
    specs = [space.sample(rng) for _ in range(60)]
    layers = [n_layers(read(spec.structure)) for spec in specs]
    assert max(layers) == 11
    assert min(layers) < 9
    assert not space.is_valid(MasterNetSpec(structure=TINY.replace(",8,2)", ",8,9)")))
    assert len({space.key(spec) for spec in specs}) > 50
    assert all(space.parse(spec.model_dump(mode="json")) == spec for spec in specs)
    assert space.size() is None


def test_texts_say_what_json_says():
    space = MasterNetSpace()
    assert space.decode(f" {TINY.replace(')', ') ')}\n") == MasterNetSpec(structure=TINY)
    assert space.encode(MasterNetSpec(structure=TINY)) == TINY
    plain = MasterNetSpec(structure=TINY, residual=False)
    assert space.encode(plain) != TINY
    assert space.decode(space.encode(plain)) == plain
    assert space.decode("{}").structure is None
    assert space.encode(space.decode("{}")) == INITIAL["small"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SuperConvK3BNRELU(3,8,1,1)", "at least one block after"),
        ("SuperResK3K3(3,8,1,8,1)SuperResK3K3(8,8,1,8,1)", "SuperConv block as the stem"),
        (TINY.replace("K1K5K1", "K1K4K1"), "not 'SuperResK1K4K1'"),
        (TINY.replace("K3K3(", "K3K5("), "not 'SuperResK3K5'"),
        (TINY.replace("(8,16,2,8,2)", "(16,16,2,8,2)"), "8 channels into block 3"),
        (TINY.replace("(8,8,1,8,1)", "(8,8,3,8,1)"), "stride 1 or 2"),
        (TINY.replace("(8,8,1,8,1)", "(8,8,1,8,0)"), "sublayers from 1"),
        (TINY.replace("(8,8,1,8,1)", "(8,8,1,8)"), "(in,out,stride,bottleneck,sublayers)"),
        (TINY.replace("(8,8,1,8,1)", "(8,8,1,8,,1)"), "(in,out,stride,bottleneck,sublayers)"),
        (TINY.replace("(3,8,1,1)", "(3,8,1,2)"), "one sublayer"),
        (TINY + "!", "not '!'"),
        ("", "SuperConv block as the stem"),
    ],
)
def test_texts_that_are_no_network_are_named(text, expected):
    with pytest.raises(StudyError) as caught:
        MasterNetSpace().decode(text)
    assert caught.value.path == "structure"
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "path", "expected"),
    [
        ({"max_layers": 8}, "student.spec.max_layers", "has 9 layers"),
        ({"residual": {"choices": [True, False]}}, "student.spec.residual", "mutates blocks"),
        ({"initial": "resnet81"}, "student.spec.initial", "'small', 'resnet18' or a structure"),
        ({"structure": "small"}, "student.spec.structure", "blocks such as"),
        ({"mutations": "wild"}, "student.spec.mutations", "did you mean"),
    ],
)
def test_studies_that_do_not_fit_are_named(spec, path, expected):
    given_last = {"residual": "search", "mutations": "search", **spec}
    with pytest.raises(StudyError) as caught:
        space_of(**given_last)
    assert expected in str(caught.value)
    assert path in str(caught.value) or caught.value.path == path


def test_optuna_says_that_there_are_no_dimensions_and_evolution_goes_on():
    space = space_of(initial=TINY)
    with pytest.raises(StudyError, match="strategy evolution"):
        Optuna(OptunaOptions()).ask(space, (), [], 1, 0)
    strategy, history = Evolution(EvolutionOptions(population=8, sample=4)), []
    for seed in range(6):
        for ask in strategy.ask(space, (), history, 8, seed):
            layers = n_layers(read(ask.spec["structure"]))
            history.append(Trial(len(history), {}, ask.spec, "complete", (-float(layers),), ()))
    assert len({trial.spec["structure"] for trial in history}) == len(history) == 48
    first, last = history[:8], history[-8:]
    assert min(trial.losses[0] for trial in last) < min(trial.losses[0] for trial in first)


def test_its_file_answers_as_it_does(tmp_path):
    fields = io(3, 16, 16, 5)
    built = MasterNetSpace().build(MasterNetSpec(structure=TINY), fields)
    exporter = OnnxExporter(OnnxOptions(engine="torchscript"))
    x = torch.randn(3, 3, 16, 16)
    graph = Graph(built.module, fields.inputs, fields.outputs)
    exporter.write(graph, Batch(("a", "b", "c"), {"image": x}), tmp_path / "net.onnx")
    with torch.no_grad():
        torch.testing.assert_close(exporter.load(tmp_path / "net.onnx")(x)["logits"], built.module.eval()(x))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [(io(height=7), "at least 8"), (io(width=None), "fixed size"), (IO((), io().outputs), "image")],
)
def test_inputs_that_do_not_fit_are_named(fields, expected):
    with pytest.raises(DataError, match=expected):
        MasterNetSpace().build(MasterNetSpec(), fields)
    with pytest.raises(DataError, match=expected):
        MasterNetSpace().cost(MasterNetSpec(), fields)
