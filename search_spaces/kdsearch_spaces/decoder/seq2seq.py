"""Search space `seq2seq`: an encoder and a decoder, each a part that can be a file of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field as Option
from torch import Generator, Tensor, nn

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field, Model, Options, SearchSpace, Tap, searched
from kdsearch_spaces.decoder.encoder_layers import BothWays, DecoderLayer, EncoderLayer, ReadingGru
from kdsearch_spaces.decoder.layers import Stem, initialise

NAME = "seq2seq"
TRANSFORMER = ("transformer",)


class Seq2SeqSpec(Options):
    kind: Annotated[Literal["transformer", "gru"], searched("transformer", "gru")] = Option(
        "transformer", description="what mixes tokens; both attend from what is written to the text"
    )
    encoder_layers: Annotated[int, searched(1, 2, 3)] = Option(2, ge=1, le=24, description="over the text")
    decoder_layers: Annotated[int, searched(1, 2, 3)] = Option(2, ge=1, le=24, description="over what is written")
    width: Annotated[int, searched(32, 48, 64, 96, 128)] = Option(
        96, ge=2, le=4096, description="of embeddings and layers: a multiple of 2 heads"
    )
    heads: Annotated[int, searched(2, 4)] = Option(4, ge=1, le=64, description="of every attention")
    ffn: Annotated[int, searched(1, 2, 4, when={"kind": TRANSFORMER})] = Option(
        2, ge=1, le=16, description="of a transformer: hidden width of the feed-forward part per width"
    )
    dropout: float = Option(0.0, ge=0, lt=1, description="share of values dropped in training")


class Encoder(nn.Module):
    """Token ids and their mask (B, N) -> memory (B, N, D), 0 at padding."""

    def __init__(self, n_tokens: int, width: int, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = Stem(n_tokens, width)
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        real = mask != 0
        x: Tensor = self.stem(tokens, real)
        for layer in self.layers:
            x = layer(x, real)
        return x


class Decoder(nn.Module):
    """What is written and its mask (B, M), memory (B, N, D) and the text's mask (B, N) -> logits (B, M, V) of what follows."""

    def __init__(self, n_tokens: int, width: int, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = Stem(n_tokens, width)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_tokens)

    def forward(self, prefix: Tensor, prefix_mask: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        written, real = prefix_mask != 0, mask != 0
        x = self.stem(prefix, written)
        for layer in self.layers:
            x = layer(x, written, memory, real)
        logits: Tensor = self.classifier(self.norm(x))
        return logits


class EncoderDecoder(nn.Module):
    """tokens, mask (B, N), prefix, prefix_mask (B, M) -> logits (B, M, V)."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.apply(initialise)

    def forward(self, tokens: Tensor, mask: Tensor, prefix: Tensor, prefix_mask: Tensor) -> Tensor:
        logits: Tensor = self.decoder(prefix, prefix_mask, self.encoder(tokens, mask), mask)
        return logits


class Seq2SeqSpace(SearchSpace[Seq2SeqSpec]):
    """Reads `tokens` and `mask` (N,), `prefix` and `prefix_mask` (M,); answers (M, V). N and M may be open.

    Taps: `stage[i]` of the encoder's layers, then of the decoder's, `memory` (the encoder's answer), `penultimate`, `logits`.
    """

    task: ClassVar[str] = "seq2seq"
    family_fields: ClassVar[tuple[str, ...]] = ("kind",)

    def is_valid(self, spec: Seq2SeqSpec) -> bool:
        return not refused(spec)

    def ignores(self, spec: Seq2SeqSpec) -> Collection[str]:
        """A GRU reads no `ffn`."""
        return () if spec.kind in TRANSFORMER else ("ffn",)

    def neighbours(self, spec: Seq2SeqSpec, rng: Generator, n: int) -> list[Seq2SeqSpec]:
        """Those of fields that the kind reads: others would be the same network."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def example_io(self) -> IO:
        """A text of 24 tokens, a target of 16; 96 tokens there are."""
        names = (("tokens", "mask", 24), ("prefix", "prefix_mask", 16))
        pairs = [(Field(a, "tokens", (n,), "int64", n_values=96), Field(b, "mask", (n,), "int64")) for a, b, n in names]
        return IO((*pairs[0], *pairs[1]), (Field("logits", "logits", (16, 96), mask="prefix_mask"),))

    def teacher_spec(self) -> Seq2SeqSpec:
        return Seq2SeqSpec(encoder_layers=4, decoder_layers=4, width=256, heads=4, ffn=4)

    def build(self, spec: Seq2SeqSpec, io: IO) -> Model:
        """Raise DataError for the fields of another task, StudyError for a spec that is not valid."""
        if [each.kind for each in io.inputs] != ["tokens", "mask", "tokens", "mask"] or len(io.outputs) != 1:
            has = ", ".join(f"{each.name} ({each.kind})" for each in (*io.inputs, *io.outputs))
            expected = "a text and what is written of its target, as of the task seq2seq"
            raise DataError(f"search space '{NAME}': the task has {has}", expected=expected)
        if refused(spec):
            raise StudyError(f"search space '{NAME}': {refused(spec)}", expected="a valid spec")
        tokens, _, prefix, _ = io.inputs
        n_tokens, n_values = tokens.n_values or 0, io.outputs[0].sizes[-1]
        d, heads, ffn, p = spec.width, spec.heads, spec.ffn, spec.dropout
        is_transformer = spec.kind in TRANSFORMER
        reading = [
            EncoderLayer(d, heads, ffn, p) if is_transformer else BothWays(d, p) for _ in range(spec.encoder_layers)
        ]
        writing = [
            DecoderLayer(d, heads, ffn, p) if is_transformer else ReadingGru(d, heads, p)
            for _ in range(spec.decoder_layers)
        ]
        net = EncoderDecoder(Encoder(n_tokens, d, reading), Decoder(n_values, d, writing))
        layers = [(f"encoder.layers.{i}", tokens) for i in range(spec.encoder_layers)]
        layers += [(f"decoder.layers.{i}", prefix) for i in range(spec.decoder_layers)]
        m = prefix.shape[0]
        taps = [Tap(f"stage[{i}]", path, "sequence", (field.shape[0], d)) for i, (path, field) in enumerate(layers)]
        taps.append(Tap("memory", "encoder", "sequence", (tokens.shape[0], d)))
        taps.append(Tap("penultimate", "decoder.classifier", "sequence", (m, d), side="input"))
        taps.append(Tap("logits", "decoder.classifier", "sequence", (m, n_values)))
        inputs, blocks = tuple(each.name for each in io.inputs), tuple(path for path, _ in layers)
        return Model(net, inputs, tuple(taps), (io.outputs[0].name,), blocks, f"{NAME}-{spec.kind}")


def refused(spec: Seq2SeqSpec) -> str:
    """Why it cannot be built; "" where it can."""
    if spec.width % (2 * spec.heads):
        return f"a width of {spec.width} is no multiple of 2 x {spec.heads} heads"
    return ""
