"""Text encoders: the contract, costs by hand, layers against torch's own, and padding that nothing sees."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_spaces.text_encoder.layers import BiLstmLayer, Pool, TransformerLayer
from kdsearch_spaces.text_encoder.space import TextEncoderSpace, TextEncoderSpec
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.parity import compare, module_call
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Batch, Cost, Field
from kdsearch.kinds.forward import recorded
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract

VOCABULARY = 31
LOGITS = Field("logits", "logits", (5,))
SMALL = {"choices": [16, 24]}
KINDS = ("transformer", "bilstm", "bag")
POOLED = [(kind, pooling) for kind in KINDS for pooling in ("cls", "mean", "max") if (kind, pooling) != ("bag", "cls")]


def tokens(length=None):
    return Field("tokens", "tokens", (length,), "int64", n_values=VOCABULARY)


def mask(length=None, dtype="int64"):
    return Field("mask", "mask", (length,), dtype)


OPEN = IO((tokens(), mask()), (LOGITS,))
PAIR = IO((replace(tokens(), separator=2), mask()), (LOGITS,))  # two texts in a sample


def spec_of(kind="transformer", **fields):
    return TextEncoderSpec(kind=kind, **{"layers": 2, "width": 16, "embedding": 8, "dropout": 0.0, **fields})


def built(spec, io=OPEN, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextEncoderSpace().build(spec, io)


class TestTextEncoder(SearchSpaceContract):
    space = TextEncoderSpace
    spec: ClassVar = {"width": SMALL, "embedding": {"choices": [8, 16]}, "max_length": 6}

    def io(self):
        return OPEN


class TestTextEncoderOfFixedLengthWithoutMask(TestTextEncoder):
    samples = 3

    def io(self):
        return IO((tokens(5),), (LOGITS,))


class TestBiLstm(TestTextEncoder):
    spec: ClassVar = {
        "kind": "bilstm",
        "width": SMALL,
        "embedding": {"choices": [8, 32]},
        "layers": {"choices": [1, 2]},
    }
    samples = 2


class TestBag(TestTextEncoder):
    spec: ClassVar = {"kind": "bag", "width": SMALL, "embedding": 8, "layers": {"low": 0, "high": 2}}
    samples = 2


class TestComparedPairs(TestTextEncoder):
    spec: ClassVar = {
        "kind": {"choices": ["bag", "bilstm"]},
        "pair": "compared",
        "pooling": "max",
        "width": SMALL,
        "embedding": 8,
        "layers": 1,
    }
    samples = 2

    def io(self):
        return PAIR


@pytest.mark.parametrize(("kind", "pooling"), [("transformer", "mean"), ("bilstm", "max"), ("bag", "mean")])
def test_a_compared_pair_is_pooled_apart_and_together(kind, pooling):
    """From the taps, with plain Python: u, v, |u - v|, u v of the tokens before and after the separator."""
    model = built(spec_of(kind, pooling=pooling, layers=1, pair="compared"), PAIR)
    ids = torch.tensor([[4, 5, 2, 6, 7, 8], [9, 2, 5, 0, 0, 0], [0, 3, 0, 2, 6, 7]])
    real = (ids != 0).long()
    tap = "stem" if kind == "bag" else "stage[0]"
    with recorded(model, [model.tap(tap), model.tap("penultimate")]) as seen:
        model.module(ids, real)
    x = seen[tap] if kind != "transformer" else model.module.norm(seen[tap])
    read = model.module.hidden[0] if kind == "bag" else nn.Identity()
    parts = [([0, 1], [3, 4, 5]), ([0], [2]), ([0], [2, 3])]  # after the padding of the third is moved to its end
    for row, (first, rest) in enumerate(parts):
        u, v = ((x[row, at].mean(0) if pooling == "mean" else x[row, at].amax(0)) for at in (first, rest))
        expected = read(torch.cat([u, v, (u - v).abs(), u * v])[None])[0]
        assert torch.allclose(seen["penultimate"][row], expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_pair_whose_second_text_is_cut_away_is_finite(pooling):
    model = built(spec_of("bag", pooling=pooling, pair="compared", max_length=3), PAIR)
    ids = torch.tensor([[4, 5, 6, 2, 7], [4, 5, 6, 2, 9], [4, 5, 6, 0, 0]])
    out = model.module(ids, (ids != 0).long())
    assert torch.equal(out[0], out[1])
    assert torch.allclose(out[0], out[2])
    assert bool(out.isfinite().all())


def test_a_single_text_has_nothing_to_compare():
    with pytest.raises(DataError, match="pair 'compared', and a sample of 'tokens' is one text"):
        built(spec_of("bag", pair="compared"))


def test_costs_by_hand():
    io = IO((tokens(5), mask(5)), (LOGITS,))
    cost = TextEncoderSpace().cost
    # embedding 31x8, 5 positions of 8, norm 16, projection 8x16+16, final norm 32, classifier 16x5+5
    # layer: two norms 64, qkv 16x48+48, out 16x16+16, ffn 16x32+32 and 32x16+16
    layer = 64 + 816 + 272 + 544 + 528
    assert cost(spec_of(ffn=2), io) == Cost(
        248 + 40 + 16 + 144 + 2 * layer + 32 + 85,
        5 * 128 + 2 * (5 * (768 + 256 + 512 + 512) + 2 * 5 * 5 * 16) + 80,
    )
    assert cost(spec_of(ffn=2, embedding=16, layers=1), io) == Cost(
        496 + 80 + 32 + layer + 32 + 85, 5 * 2048 + 2 * 5 * 5 * 16 + 80
    )
    # each direction has 4 gates of 8 units, which read 8 (then 16) inputs and 8 states; and two biases a gate
    assert cost(spec_of("bilstm"), io) == Cost(
        248 + 16 + 2 * (32 * 16 + 64) + 2 * (32 * 24 + 64) + 85, 5 * 2 * 32 * 16 + 5 * 2 * 32 * 24 + 80
    )
    assert cost(spec_of("bag"), io) == Cost(248 + 16 + 144 + 272 + 85, 128 + 256 + 80)
    assert cost(spec_of("bag", layers=0), io) == Cost(248 + 16 + 45, 40)
    assert cost(spec_of("bag", layers=0, pair="compared"), io) == Cost(248 + 16 + 165, 160)
    assert cost(spec_of("bag", layers=1, pair="compared"), io) == Cost(248 + 16 + 32 * 16 + 16 + 85, 512 + 80)


def test_only_read_tokens_cost():
    cost = TextEncoderSpace().cost
    long, cut = (IO((tokens(n), mask(n)), (LOGITS,)) for n in (9, 4))
    assert cost(spec_of(max_length=4), long) == cost(spec_of(), cut)
    assert cost(spec_of(max_length=50), OPEN).params - cost(spec_of(max_length=20), OPEN).params == 30 * 8
    assert cost(spec_of(), OPEN).macs == cost(spec_of(), IO((tokens(8),), (LOGITS,))).macs


REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_transformer_layer_is_torch_s():
    ours = TransformerLayer(12, 3, 2, 0.0).double()
    torch_s = nn.TransformerEncoderLayer(12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True).double()
    weights = {
        "self_attn.in_proj_weight": ours.attention.qkv.weight,
        "self_attn.in_proj_bias": ours.attention.qkv.bias,
        "self_attn.out_proj.weight": ours.attention.out.weight,
        "self_attn.out_proj.bias": ours.attention.out.bias,
        **{f"linear1.{name}": value for name, value in ours.ffn[0].named_parameters()},
        **{f"linear2.{name}": value for name, value in ours.ffn[3].named_parameters()},
        **{f"norm1.{name}": value for name, value in ours.norm1.named_parameters()},
        **{f"norm2.{name}": value for name, value in ours.norm2.named_parameters()},
    }
    torch_s.load_state_dict(weights)
    x = noise(3, 5, 12)
    expected = torch_s(x, src_key_padding_mask=~REAL)
    assert torch.allclose(ours(x, REAL)[REAL], expected[REAL], atol=1e-12)
    assert ours(x, REAL)[~REAL].abs().max() == 0


def test_the_lstm_layer_is_torch_s_on_packed_sequences():
    ours, torch_s = BiLstmLayer(6, 8, 0.0).double(), nn.LSTM(6, 4, batch_first=True, bidirectional=True).double()
    weights = dict(ours.onward.named_parameters())
    weights |= {f"{name}_reverse": value for name, value in ours.back.named_parameters()}
    torch_s.load_state_dict(weights)
    x = noise(3, 5, 6)
    packed = pack_padded_sequence(x, REAL.sum(1), batch_first=True)
    expected, _ = pad_packed_sequence(torch_s(packed)[0], batch_first=True)
    assert torch.allclose(ours(x, REAL), expected, atol=1e-12)


def test_pooling_by_hand():
    x = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [9.0, 9.0]], [[5.0, 5.0], [7.0, 7.0], [8.0, 8.0]]])
    real = torch.tensor([[True, True, False], [False, False, False]])
    assert Pool("cls")(x, real).tolist() == [[1, -4], [0, 0]]
    assert Pool("mean")(x, real).tolist() == [[2, -3], [0, 0]]
    assert Pool("max")(x, real).tolist() == [[3, -2], [0, 0]]


@pytest.mark.parametrize(("kind", "pooling"), POOLED)
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_padding_changes_nothing(kind, pooling, data):
    """Wherever it lies, however much of it there is, whatever id it has, and whoever else is in the batch."""
    text = data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6))
    places = sorted(data.draw(st.sets(st.integers(0, 11), min_size=len(text), max_size=len(text))))
    length = data.draw(st.integers(places[-1] + 1, 14))
    padding = data.draw(st.sampled_from([0, 7, -1, 10**6]))
    model = built(spec_of(kind, pooling=pooling))
    model.module.double().eval()
    alone = torch.tensor([text])
    spread = torch.full((1, length), padding)
    spread[0, places] = alone[0]
    real = torch.zeros(1, length, dtype=torch.long)
    real[0, places] = 1
    other = torch.arange(length)[None] % VOCABULARY
    with torch.no_grad():
        with recorded(model, model.taps) as expected:
            model.module(alone, torch.ones_like(alone))
        with recorded(model, model.taps) as got:
            model.module(torch.cat([other, spread]), torch.cat([torch.ones_like(real), real]))
    n = len(text)
    for tap in model.taps:
        want, have = expected[tap.name][0], got[tap.name][1]
        if tap.kind in ("tokens", "sequence"):
            assert have[n:].abs().sum() == 0
            have = have[:n]
        elif tap.kind == "attention":
            assert have[:, :, n:].abs().sum() == 0
            have = have[:, :n, :n]
        assert torch.allclose(want, have, atol=1e-10), tap.name


@pytest.mark.parametrize("dtype", ["bool", "float32", "int32"])
def test_a_mask_may_be_of_any_type_and_none_means_all(dtype):
    inputs = (tokens(4), mask(4, dtype))
    model, alone = built(spec_of(), IO(inputs, (LOGITS,))), built(spec_of(), IO(inputs[:1], (LOGITS,)))
    assert (model.inputs, alone.inputs) == (("tokens", "mask"), ("tokens",))
    ids = torch.tensor([[3, 1, 4, 1]])
    whole = torch.ones(1, 4, dtype=getattr(torch, dtype))
    assert torch.equal(model.module(ids, whole), alone.module(ids))
    whole[0, 3] = 0
    assert torch.allclose(model.module(ids, whole), alone.module(ids[:, :3]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_texts_are_cut(kind):
    model = built(spec_of(kind, max_length=3))
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 1, 2]])
    out = model.module(ids, torch.ones_like(ids))
    assert torch.equal(out[0], out[1])
    assert torch.allclose(out, model.module(ids[:, :3], torch.ones(2, 3)), atol=1e-6)


@pytest.mark.parametrize(("kind", "pooling"), POOLED)
def test_a_text_without_tokens_is_finite_and_so_are_its_gradients(kind, pooling):
    model = built(spec_of(kind, pooling=pooling))
    ids = torch.tensor([[4, 4, 4], [1, 2, 3]])
    out = model.module(ids, torch.tensor([[0, 0, 0], [1, 1, 0]]))
    out.square().sum().backward()
    assert bool(out.isfinite().all())
    assert all(bool(weight.grad.isfinite().all()) for weight in model.module.parameters())


def test_order_matters_but_to_a_bag():
    ids = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    for kind in KINDS:
        out = built(spec_of(kind)).module(ids, torch.ones_like(ids))
        assert torch.allclose(out[0], out[1], atol=1e-6) == (kind == "bag")


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated"
)  # torch's own formulas of forward mode are scripts
def test_the_transformer_has_second_derivatives_and_forward_mode():
    net = built(spec_of(layers=1)).module
    ids, ones = torch.tensor([[1, 2, 3]]), torch.ones(1, 3)
    weights = dict(net.named_parameters())

    def of(values):
        return torch.func.functional_call(net, values, (ids, ones)).square().sum()

    gradients = torch.autograd.grad(of(weights), [*weights.values()], create_graph=True)
    weight = net.layers[0].attention.qkv.weight
    sum(each.square().sum() for each in gradients).backward()
    assert weight.grad.abs().sum() > 0
    with forward_ad.dual_level():
        still = {name: value.detach() for name, value in weights.items()}
        along = forward_ad.unpack_dual(of({name: forward_ad.make_dual(each, each) for name, each in still.items()}))
        expected = sum((g * w).sum() for g, w in zip(gradients, still.values(), strict=True))
        assert along.tangent.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_and_taps_name_what_is_there(kind):
    model = built(spec_of(kind, layers=3))
    assert len({id(model.module.get_submodule(path)) for path in model.blocks}) == 3
    kinds = {"transformer": "tokens", "bilstm": "sequence", "bag": "vector"}
    assert model.tap("stage[-1]").kind == kinds[kind]
    assert model.tap("stem").shape[0] is None
    assert model.width("penultimate") == 16
    if kind == "transformer":
        assert model.tap("attention[2]").shape == (4, None, None)
    assert isinstance(model.part("logits"), nn.Linear)


def test_the_penultimate_is_what_the_classifier_reads_in_train_mode_too():
    model = built(spec_of(dropout=0.5))
    ids = torch.tensor([[1, 2, 3]])
    with recorded(model, [model.tap("penultimate")]) as seen:
        logits = model.module.train()(ids, torch.ones_like(ids))
    assert torch.allclose(model.part("logits")(seen["penultimate"]), logits)


@given(st.integers(0, 2**31), st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=60)
def test_fields_that_a_kind_does_not_read_change_nothing(seed, heads, ffn):
    space = TextEncoderSpace()
    spec = space.sample(torch.Generator().manual_seed(seed))
    other = spec.model_copy(update={"heads": heads, "ffn": ffn})
    same = space.key(spec) == space.key(other)
    assert same == (spec.kind != "transformer" or (spec.heads, spec.ffn) == (heads, ffn))
    if same:
        assert space.cost(spec, OPEN) == space.cost(other, OPEN)
    assert space.is_valid(space.canonical(spec))
    near = space.neighbours(spec, torch.Generator().manual_seed(seed), 4)
    assert all(space.key(each) != space.key(spec) for each in near)


def test_of_a_spec_a_reader_sees_what_the_network_reads():
    space = TextEncoderSpace()
    every = {"kind", "layers", "width", "heads", "ffn", "embedding", "pooling", "pair", "dropout", "max_length"}
    assert set(space.read(spec_of())) == every
    assert set(space.read(spec_of("bilstm"))) == every - {"heads", "ffn"}
    assert set(space.read(spec_of("bag", layers=0))) == every - {"heads", "ffn", "width"}
    fixed = TextEncoderSpace(searchable(TextEncoderSpec, {"kind": "bag", "heads": 8, "layers": 1}, "student.spec"))
    assert set(fixed.read(spec_of("bag", heads=8, layers=1))) == every - {"heads", "ffn"}


def test_a_bag_without_layers_has_no_width():
    space = TextEncoderSpace()
    assert space.key(spec_of("bag", layers=0, width=16)) == space.key(spec_of("bag", layers=0, width=64))
    assert space.key(spec_of("bag", layers=1, width=16)) != space.key(spec_of("bag", layers=1, width=64))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (spec_of(heads=3), "width 16 with 3 heads"),
        (spec_of(layers=0), "transformer of 0 layers"),
        (spec_of("bilstm", layers=0), "bilstm of 0 layers"),
        (spec_of(embedding=32), "embedding 32 wider than width 16"),
        (spec_of("bilstm", width=15), "width 15 in two directions"),
        (spec_of("bag", pooling="cls"), "no first token"),
        (spec_of(pooling="cls", pair="compared"), "only the first text has a first token"),
    ],
)
def test_what_is_no_network_is_refused(spec, why):
    assert not TextEncoderSpace().is_valid(spec)
    with pytest.raises(StudyError, match=why):
        TextEncoderSpace().build(spec, OPEN)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((Field("image", "image", (3, 8, 8)),), "kind tokens"),
        ((), "kind tokens"),
        ((Field("tokens", "tokens", (4, 8)),), "kind tokens"),
        ((Field("tokens", "tokens", (4, 8), "int64", n_values=9),), "kind tokens"),
        ((Field("tokens", "tokens", (4,), "int64"),), "size of the vocabulary"),
    ],
)
def test_other_inputs_are_refused_by_build_and_cost(inputs, expected):
    for use in (TextEncoderSpace().build, TextEncoderSpace().cost):
        with pytest.raises(DataError, match=expected):
            use(spec_of(), IO(inputs, (LOGITS,)))


def test_the_default_teacher_is_a_network_of_the_space_and_reads_what_students_read():
    space = TestTextEncoder().made()
    teacher = space.teacher_spec()
    assert teacher.max_length == 6
    costs = [space.cost(space.sample(torch.Generator().manual_seed(i)), OPEN).params for i in range(20)]
    assert space.cost(teacher, OPEN).params > max(costs)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("engine", ["auto", "torchscript"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_answers_as_the_network_at_any_length(kind, engine, tmp_path):
    """The example is longer than what is read; the io names the mask first."""
    task = Classification(ClassificationOptions())
    io = IO((mask(), PAIR.inputs[0]), (LOGITS,))
    pooled = {"pooling": "max", "pair": "compared"} if kind == "bag" else {"pooling": "cls"}
    model = built(spec_of(kind, layers=1, max_length=6, **pooled), io)
    graph = task.product(model, io).graphs["model"]
    exporter, file = OnnxExporter(OnnxOptions(engine=engine)), tmp_path / "text.onnx"
    exporter.write(graph, task.dummy(io, 2, torch.Generator().manual_seed(0)), file)
    call = exporter.load(file)
    for length in (1, 2, 6, 11):
        lengths = torch.tensor([[0], [1], [length // 2], [length]])
        real = (torch.arange(length) < lengths).long()
        real[2] = real[2].flip(0)  # padding first
        ids = torch.randint(VOCABULARY, (4, length), generator=torch.Generator().manual_seed(length))
        batch = Batch(tuple("abcd"), {"tokens": ids, "mask": real})
        assert compare(module_call(graph), call, graph.inputs, graph.outputs, batch).max_abs < 1e-5
