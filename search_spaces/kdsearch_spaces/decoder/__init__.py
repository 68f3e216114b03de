"""Networks that foretell the next token: causal transformers, convolutions, LSTMs and GRUs."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "decoder",
        "kdsearch_spaces.decoder.space:DecoderSpace",
        about="the next token of a text: causal transformer, convolutions, LSTM or GRU, with layers, widths, heads and kernels",
    )
