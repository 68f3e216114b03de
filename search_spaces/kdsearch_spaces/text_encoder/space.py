"""Search space `text_encoder`: transformer, BiLSTM and bag of embeddings over token ids, with the cost by formula."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field as Option
from torch import Generator, nn

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Cost, Field, Model, Options, SearchSpace, Tap, searched, vector_output
from kdsearch_spaces.text_encoder.layers import BiLstmLayer, HiddenLayer, Stem, TransformerLayer
from kdsearch_spaces.text_encoder.net import TextEncoder

NAME = "text_encoder"
COMMON = ("layers", "width", "embedding", "pooling", "pair", "dropout", "max_length")
OWN = {"transformer": (*COMMON, "heads", "ffn"), "bilstm": COMMON, "bag": COMMON}  # the fields that a kind reads
LAYERS = (TransformerLayer, BiLstmLayer, HiddenLayer)

Width = Annotated[int, Option(ge=1, le=4096)]


class TextEncoderSpec(Options):
    kind: Annotated[Literal["transformer", "bilstm", "bag"], searched("transformer", "bilstm", "bag")] = Option(
        "transformer", description="what mixes the tokens; a bag is their pooled embeddings, then hidden layers"
    )
    layers: Annotated[int, searched(1, 2, 3, 4, 6)] = Option(
        2, ge=0, le=48, description="of the kind, at least 1; a bag may have 0 hidden layers"
    )
    width: Annotated[Width, searched(64, 128, 256, 384)] = Option(
        128, description="of the layers: a multiple of heads; of a BiLSTM even, both directions together"
    )
    heads: Annotated[int, searched(2, 4, 8, when={"kind": ("transformer",)})] = Option(
        4, ge=1, le=64, description="attention heads of a transformer"
    )
    ffn: Annotated[int, searched(1, 2, 4, when={"kind": ("transformer",)})] = Option(
        4, ge=1, le=16, description="of a transformer: hidden width of the feed-forward part per width"
    )
    embedding: Annotated[Width, searched(32, 64, 128, 256, 384)] = Option(
        128,
        description="width of the token embeddings; a transformer's is at most its width, and projected where smaller",
    )
    pooling: Annotated[Literal["cls", "mean", "max"], searched("cls", "mean", "max")] = Option(
        "mean", description="of the tokens: the first one (not of a bag), their mean or maximum"
    )
    pair: Literal["joined", "compared"] = Option(
        "joined",
        description="of a sample of two texts: pooled as one, or each by itself and compared (not with cls)",
    )
    dropout: float = Option(0.1, ge=0, lt=1, description="share of values dropped in training")
    max_length: int = Option(512, ge=1, le=65536, description="tokens that are read; longer texts are cut")


class TextEncoderSpace(SearchSpace[TextEncoderSpec]):
    """Reads `tokens` (N,) and, where the task has one, their `mask`; N may be open.

    Taps: `stem`, `stage[i]` (tokens of a transformer, a sequence of a BiLSTM; of a bag vectors: the pooled embeddings, then
    the hidden layers), `attention[i]` of a transformer, `penultimate` (what the classifier reads), `logits`. Where a pair is
    compared, what is pooled is four times as wide.
    """

    family_fields: ClassVar[tuple[str, ...]] = ("kind",)

    def is_valid(self, spec: TextEncoderSpec) -> bool:
        return not refused(spec)

    def ignores(self, spec: TextEncoderSpec) -> Collection[str]:
        """What other kinds read, and a width of no layers."""
        return TextEncoderSpec.model_fields.keys() - (
            {*OWN[spec.kind], "kind"} - ({"width"} if not spec.layers else set())
        )

    def narrowed(self, io: IO) -> Self:
        """Where a sample is one text there is nothing to compare."""
        if any(each.separator is not None for each in io.inputs):
            return self
        return self.keeping("pair", lambda pair: pair == "joined", "two texts in each sample, or `pair: joined`")

    def neighbours(self, spec: TextEncoderSpec, rng: Generator, n: int) -> list[TextEncoderSpec]:
        """Those of fields that the kind reads: others would be the same network."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def example_io(self) -> IO:
        """Texts of 64 tokens of a vocabulary of 8,192, 10 classes."""
        inputs = (Field("tokens", "tokens", (64,), "int64", n_values=8192), Field("mask", "mask", (64,), "int64"))
        return IO(inputs, (Field("logits", "logits", (10,)),))

    def teacher_spec(self) -> TextEncoderSpec:
        """A transformer of 6 layers, 384 wide, with 12 heads (the size of MiniLM-L6), that reads as much as the students."""
        length = self.region.fixed.get("max_length", TextEncoderSpec.model_fields["max_length"].default)
        return TextEncoderSpec(layers=6, width=384, heads=12, embedding=384, max_length=length)

    def build(self, spec: TextEncoderSpec, io: IO) -> Model:
        """Raise DataError without a field of token ids that says its vocabulary, StudyError for a spec that is not valid."""
        tokens, mask = text_fields(io)
        n_outputs = vector_output(io, NAME)
        if refused(spec):
            raise StudyError(f"search space '{NAME}': {refused(spec)}", expected="a valid spec")
        if spec.pair == "compared" and tokens.separator is None:
            raise DataError(
                f"search space '{NAME}': pair 'compared', and a sample of '{tokens.name}' is one text",
                expected="two texts in each sample, such as `text: [premise, hypothesis]` of the data set `texts`",
                fix="Set `pair: joined`, or name both columns.",
            )
        net = network(spec, tokens, n_outputs)
        inputs = (tokens.name,) if mask is None else (tokens.name, mask.name)
        return Model(
            net,
            inputs,
            taps_of(spec, read_length(spec, tokens), n_outputs),
            (io.outputs[0].name,),
            blocks_of(net),
            name=f"{NAME}-{spec.kind}",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: TextEncoderSpec, io: IO) -> Cost:
        """params with embeddings, norms and biases; MACs of matrix products for one text (of an open length: `Field.open_size`)."""
        tokens, _ = text_fields(io)
        n = min(tokens.sizes[0], spec.max_length)
        e, d = spec.embedding, spec.width
        assert tokens.n_values is not None
        pooled = pooled_width(spec)
        params, macs, last = (tokens.n_values + 2) * e, 0, pooled
        if spec.kind == "transformer":
            params += position_count(spec, tokens) * e + ((e + 1) * d if e != d else 0) + 2 * d
            params += spec.layers * ((4 + 2 * spec.ffn) * d * d + (9 + spec.ffn) * d)
            macs += n * e * d if e != d else 0
            macs += spec.layers * (n * (4 + 2 * spec.ffn) * d * d + 2 * n * n * d)
        elif spec.kind == "bilstm":
            for d_in in (e, *[d] * (spec.layers - 1)):
                gates = 4 * (d // 2) * (d_in + d // 2)  # of one direction
                params += 2 * gates + 8 * d
                macs += 2 * n * gates
        else:
            widths = (pooled, *[d] * spec.layers)
            macs += sum(a * b for a, b in pairwise(widths))
            params += macs + spec.layers * d
            last = widths[-1]
        k = vector_output(io, NAME)
        return Cost(params + (last + 1) * k, macs + last * k)


def refused(spec: TextEncoderSpec) -> str:
    """Why it is no network; "" where it is one."""
    if spec.pair == "compared" and spec.pooling == "cls":
        return "pair 'compared': only the first text has a first token, pooling 'cls'"
    if spec.kind == "bag":
        return "a bag has no first token: pooling 'cls'" if spec.pooling == "cls" else ""
    if not spec.layers:
        return f"a {spec.kind} of 0 layers"
    if spec.kind == "bilstm":
        return f"width {spec.width} in two directions" if spec.width % 2 else ""
    if spec.width % spec.heads:
        return f"width {spec.width} with {spec.heads} heads"
    return f"embedding {spec.embedding} wider than width {spec.width}" if spec.embedding > spec.width else ""


def text_fields(io: IO) -> tuple[Field, Field | None]:
    """The first field of token ids, and the mask where there is one."""
    shown = ", ".join(f"'{each.name}' ({each.kind}, {each.dtype})" for each in io.inputs) or "nothing"
    found = [each for each in io.inputs if each.kind == "tokens" and not each.torch_dtype.is_floating_point]
    if not found or len(found[0].shape) != 1:
        raise DataError(
            f"search space '{NAME}': the input is {shown}", expected="token ids: a field of kind tokens (N,)"
        )
    if not found[0].n_values:
        expected = "the size of the vocabulary: `n_values` of the data set's field"
        raise DataError(f"search space '{NAME}': field '{found[0].name}' has no n_values", expected=expected)
    return found[0], next((each for each in io.inputs if each.kind == "mask" and each.shape == found[0].shape), None)


def read_length(spec: TextEncoderSpec, tokens: Field) -> int | None:
    """How many tokens are read of each text; None where that depends on the batch."""
    length = tokens.shape[0]
    return None if length is None else min(length, spec.max_length)


def pooled_width(spec: TextEncoderSpec) -> int:
    """Of the texts' vector: of a bag before its hidden layers."""
    width = spec.embedding if spec.kind == "bag" else spec.width
    return 4 * width if spec.pair == "compared" else width


def position_count(spec: TextEncoderSpec, tokens: Field) -> int:
    return read_length(spec, tokens) or spec.max_length


def network(spec: TextEncoderSpec, tokens: Field, n_outputs: int) -> TextEncoder:
    e, d, p = spec.embedding, spec.width, spec.dropout
    is_transformer = spec.kind == "transformer"
    positions = position_count(spec, tokens) if is_transformer else 0
    assert tokens.n_values is not None
    stem = Stem(tokens.n_values, positions, e, d if is_transformer else e, p)
    inner = [
        pooled_width(spec) if spec.kind == "bag" else e,
        *[d] * spec.layers,
    ]  # what each layer reads, and the last one writes
    layers: list[nn.Module] = []
    hidden: list[nn.Module] = []
    for d_in in inner[:-1]:
        if is_transformer:
            layers.append(TransformerLayer(d, spec.heads, spec.ffn, p))
        elif spec.kind == "bilstm":
            layers.append(BiLstmLayer(d_in, d, p))
        else:
            hidden.append(HiddenLayer(d_in, d, p))
    norm = nn.LayerNorm(d) if is_transformer else nn.Identity()
    read = inner[-1] if spec.kind == "bag" else pooled_width(spec)
    separator = tokens.separator if spec.pair == "compared" else None
    return TextEncoder(stem, layers, norm, spec.pooling, hidden, read, n_outputs, p, spec.max_length, separator)


def taps_of(spec: TextEncoderSpec, n: int | None, n_outputs: int) -> tuple[Tap, ...]:
    e, d = spec.embedding, spec.width
    taps: list[Tap] = []
    if spec.kind == "bag":
        taps += [Tap("stem", "stem", "tokens", (n, e)), Tap("stage[0]", "pool", "vector", (pooled_width(spec),))]
        taps += [Tap(f"stage[{i + 1}]", f"hidden.{i}", "vector", (d,)) for i in range(spec.layers)]
    elif spec.kind == "bilstm":
        taps.append(Tap("stem", "stem", "sequence", (n, e)))
        taps += [Tap(f"stage[{i}]", f"layers.{i}", "sequence", (n, d)) for i in range(spec.layers)]
    else:
        taps.append(Tap("stem", "stem", "tokens", (n, d)))
        taps += [Tap(f"stage[{i}]", f"layers.{i}", "tokens", (n, d)) for i in range(spec.layers)]
        maps = (spec.heads, n, n)
        taps += [Tap(f"attention[{i}]", f"layers.{i}.attention.softmax", "attention", maps) for i in range(spec.layers)]
    last = d if spec.kind == "bag" and spec.layers else pooled_width(spec)
    taps.append(Tap("penultimate", "classifier", "vector", (last,), side="input"))
    taps.append(Tap("logits", "classifier", "vector", (n_outputs,)))
    return tuple(taps)


def blocks_of(net: TextEncoder) -> tuple[str, ...]:
    return tuple(path for path, part in net.named_modules() if isinstance(part, LAYERS))
