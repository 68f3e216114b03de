"""Options of the quantizer `int8`, and what they mean for a network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field as Option

from kdsearch.builtin.int8.ranges import Method
from kdsearch.kinds import Options, searched

LIMIT = 64  # the largest integer of a weight in 7 bits


class Int8Options(Options):
    mode: Literal["auto", "static", "dynamic"] = Option(
        "auto",
        description="static = activation ranges from training samples; dynamic = taken at each call, for matrix products and LSTM; "
        "auto = of transformers and recurrent networks both are made, and the one stays that is better on validation, else faster, "
        "else nearer to fp32, else smaller; static for all others",
    )
    calibration: Method = Option(
        "minmax",
        description="activation ranges: minmax = of all values; percentile = without the outermost 0.1 %; entropy = least "
        "divergence of the values' histogram; mse = least squared error",
    )
    samples: Annotated[int, searched(64, 128, 256, 512)] = Option(
        256, ge=1, description="training samples to calibrate with"
    )
    operators: Literal["auto", "all", "layers"] = Option(
        "auto",
        description="all = also additions and activations between layers; layers = convolutions and matmuls only; "
        "auto = layers in transformers, else all",
    )
    per_channel: bool = Option(
        True,
        description="a scale for every output channel of a weight, not one for all; trained as quantised, weights behind which a "
        "batch norm stands are rounded as in the file with this alone",
    )
    reduce_range: bool = Option(
        True,
        description="weights in 7 bits: x86 processors without VNNI add products of 8-bit weights in 16 bits, which overflow; "
        "false = 8 bits, right on processors with VNNI and on ARM alone",
    )
    equalize: bool = Option(
        False,
        description="bring channels between convolutions to one range first, where only what keeps a scale stands between",
    )
    correct_bias: bool = Option(
        False, description="biases take what rounded weights of convolutions get wrong on average"
    )
    keep_sensitive: int = Option(
        0,
        ge=0,
        description="so many layers stay fp32: those that alone move the outputs most; a quantisation each to find them",
    )
    mixed: bool = Option(
        True,
        description="of a static file that loses more on validation than the study allows, layers go back to fp32: the most "
        "sensitive first, as few as keep the bound",
    )
    keep_first: bool = Option(False, description="leave the first layer, and embeddings of tokens, in fp32")
    keep_last: bool = Option(False, description="leave the last layer in fp32")


def ends_kept(layers: Sequence[str], asked: Int8Options) -> list[str]:
    """Those that stay fp32 at both ends, of all in order: in the file, and where it trains as quantised."""
    return [*(layers[:1] if asked.keep_first else ()), *(layers[-1:] if asked.keep_last else ())]


def limit_of(asked: Int8Options) -> int:
    """The largest integer of a layer's weight."""
    return LIMIT if asked.reduce_range else 127
