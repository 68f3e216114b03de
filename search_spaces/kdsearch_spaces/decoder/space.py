"""Search space `decoder`: networks that foretell the next token at each place, with the cost by formula."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field as Option
from torch import Generator, Tensor, nn

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Cost, Field, Model, Options, SearchSpace, Tap, searched
from kdsearch_spaces.decoder.layers import ConvLayer, RecurrentLayer, Stem, TransformerLayer, initialise

NAME = "decoder"
COMMON = ("layers", "width", "dropout")
OWN = {"transformer": ("heads", "ffn"), "conv": ("kernel", "ffn"), "lstm": (), "gru": ()}  # fields that one kind reads
CYCLE = 10  # convolutions, after which the distances begin again: WaveNet's limit of 512
WITH_FFN, WITH_HEADS, WITH_KERNEL = ("transformer", "conv"), ("transformer",), ("conv",)


class DecoderSpec(Options):
    kind: Annotated[Literal["transformer", "conv", "lstm", "gru"], searched("transformer", "conv", "lstm", "gru")] = (
        Option("transformer", description="what mixes a token with those before it")
    )
    layers: Annotated[int, searched(1, 2, 3, 4, 6)] = Option(2, ge=1, le=48, description="of that kind")
    width: Annotated[int, searched(32, 64, 96, 128, 192, 256)] = Option(
        128, ge=2, le=4096, description="of embeddings and layers; of a transformer a multiple of 2 heads"
    )
    heads: Annotated[int, searched(2, 4, 8, when={"kind": WITH_HEADS})] = Option(
        4, ge=1, le=64, description="attention heads of a transformer"
    )
    kernel: Annotated[int, searched(3, 5, 7, 9, when={"kind": WITH_KERNEL})] = Option(
        5,
        ge=2,
        le=63,
        description="places that a convolution sees, 1, 2, 4, ..., 512 apart from layer to layer, then 1 again",
    )
    ffn: Annotated[int, searched(1, 2, 4, when={"kind": WITH_FFN})] = Option(
        2,
        ge=1,
        le=16,
        description="hidden width of the part that mixes channels per width, of transformers and convolutions",
    )
    dropout: float = Option(0.0, ge=0, lt=1, description="share of values dropped in training")


class Decoder(nn.Module):
    """Token ids (B, N) and their mask (B, N), padding last -> logits (B, N, V) of what follows each."""

    def __init__(self, n_tokens: int, layers: Sequence[nn.Module], norm: nn.Module, width: int) -> None:
        super().__init__()
        self.stem = Stem(n_tokens, width)
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.classifier = nn.Linear(width, n_tokens)
        self.apply(initialise)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        real = mask != 0
        x = self.stem(tokens, real)
        for layer in self.layers:
            x = layer(x, real)
        logits: Tensor = self.classifier(self.norm(x))
        return logits


class DecoderSpace(SearchSpace[DecoderSpec]):
    """Reads `tokens` (N,) and their `mask`; answers (N, V). N may be open, and any length is read.

    Taps: `stem`, `stage[i]`, `attention[i]` of a transformer, `penultimate` (what the classifier reads), `logits`.
    """

    task: ClassVar[str] = "causal_lm"
    family_fields: ClassVar[tuple[str, ...]] = ("kind",)

    def is_valid(self, spec: DecoderSpec) -> bool:
        return not refused(spec)

    def ignores(self, spec: DecoderSpec) -> Collection[str]:
        """What other kinds read."""
        return DecoderSpec.model_fields.keys() - {*COMMON, *OWN[spec.kind], "kind"}

    def neighbours(self, spec: DecoderSpec, rng: Generator, n: int) -> list[DecoderSpec]:
        """Those of fields that the kind reads: others would be the same network."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def example_io(self) -> IO:
        """Texts of 64 of 96 tokens, as characters are."""
        inputs = (Field("tokens", "tokens", (64,), "int64", n_values=96), Field("mask", "mask", (64,), "int64"))
        return IO(inputs, (Field("logits", "logits", (64, 96), mask="mask"),))

    def teacher_spec(self) -> DecoderSpec:
        return DecoderSpec(layers=6, width=384, heads=6, ffn=4)

    def build(self, spec: DecoderSpec, io: IO) -> Model:
        """Raise DataError for other fields than tokens, their mask and an answer each; StudyError for a spec that is not valid."""
        tokens, mask, n_values = token_fields(io)
        if refused(spec):
            raise StudyError(f"search space '{NAME}': {refused(spec)}", expected="a valid spec")
        d = spec.width
        norm = nn.LayerNorm(d) if spec.kind in WITH_FFN else nn.Identity()
        net = Decoder(n_values, [layer_of(spec, i) for i in range(spec.layers)], norm, d)
        taps = taps_of(spec, tokens.shape[0], n_values)
        blocks = tuple(f"layers.{i}" for i in range(spec.layers))
        name = f"{NAME}-{spec.kind}"
        inputs, outputs = (tokens.name, mask.name), (io.outputs[0].name,)
        return Model(net, inputs, taps, outputs, blocks, name, cost_of=lambda: self.cost(spec, io))

    def cost(self, spec: DecoderSpec, io: IO) -> Cost:
        """params with embeddings, norms and biases; MACs of matrix products, convolutions and cells for one text."""
        tokens, _, v = token_fields(io)
        n, d, layers, ffn = tokens.sizes[0], spec.width, spec.layers, spec.ffn
        params, macs = 2 * v * d + v, n * v * d
        if spec.kind in WITH_FFN:
            params += 2 * d
        if spec.kind == "transformer":
            params += layers * ((4 + 2 * ffn) * d * d + (9 + ffn) * d)
            macs += layers * (n * (4 + 2 * ffn) * d * d + 2 * n * n * d)
        elif spec.kind == "conv":
            params += layers * (2 * ffn * d * d + (4 + ffn + spec.kernel) * d)
            macs += layers * n * (2 * ffn * d * d + spec.kernel * d)
        else:
            gates = 4 if spec.kind == "lstm" else 3
            params += layers * gates * (2 * d * d + 2 * d)
            macs += layers * n * gates * 2 * d * d
        return Cost(params, macs)


def token_fields(io: IO) -> tuple[Field, Field, int]:
    """Tokens, their mask, and V of the one output (N, V). Raise DataError for others."""
    problem = f"search space '{NAME}': the task has the inputs " + ", ".join(
        f"{each.name} ({each.kind})" for each in io.inputs
    )
    tokens = [each for each in io.inputs if each.kind == "tokens" and len(each.shape) == 1]
    masks = [each for each in io.inputs if each.kind == "mask"]
    if len(tokens) != 1 or len(masks) != 1 or tokens[0].n_values is None:
        raise DataError(
            problem, expected="token ids that say their vocabulary, and their mask, as of the task causal_lm"
        )
    shape = io.outputs[0].shape if len(io.outputs) == 1 else ()
    if len(shape) != 2 or shape[0] != tokens[0].shape[0] or shape[1] != tokens[0].n_values:
        shown = ", ".join(f"{each.name} {each.shape}" for each in io.outputs)
        raise DataError(
            f"search space '{NAME}': the task's outputs are {shown}",
            expected=f"logits of {tokens[0].n_values} tokens at each place, as of the task causal_lm",
        )
    return tokens[0], masks[0], tokens[0].n_values


def refused(spec: DecoderSpec) -> str:
    """Why it cannot be built; "" where it can."""
    if spec.kind == "transformer" and spec.width % (2 * spec.heads):
        return f"a width of {spec.width} is no multiple of 2 x {spec.heads} heads"
    return ""


def layer_of(spec: DecoderSpec, i: int) -> nn.Module:
    if spec.kind == "transformer":
        return TransformerLayer(spec.width, spec.heads, spec.ffn, spec.dropout)
    if spec.kind == "conv":
        return ConvLayer(spec.width, spec.kernel, 2 ** (i % CYCLE), spec.ffn, spec.dropout)
    return RecurrentLayer(spec.kind, spec.width, spec.width, spec.dropout)


def taps_of(spec: DecoderSpec, n: int | None, n_values: int) -> tuple[Tap, ...]:
    d = spec.width
    taps = [Tap("stem", "stem", "sequence", (n, d))]
    taps += [Tap(f"stage[{i}]", f"layers.{i}", "sequence", (n, d)) for i in range(spec.layers)]
    if spec.kind == "transformer":
        maps = (spec.heads, n, n)
        taps += [Tap(f"attention[{i}]", f"layers.{i}.attention.softmax", "attention", maps) for i in range(spec.layers)]
    taps.append(Tap("penultimate", "classifier", "sequence", (n, d), side="input"))
    taps.append(Tap("logits", "classifier", "sequence", (n, n_values)))
    return tuple(taps)
