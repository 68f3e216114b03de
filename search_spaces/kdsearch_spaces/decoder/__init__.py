"""Networks that write a token after another: of a text itself, or of the target of a text that an encoder reads."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "decoder",
        "kdsearch_spaces.decoder.space:DecoderSpace",
        about="the next token of a text: causal transformer, convolutions, LSTM or GRU, with layers, widths, heads and kernels",
    )
    register.search_space(
        "seq2seq",
        "kdsearch_spaces.decoder.seq2seq:Seq2SeqSpace",
        about="reads a text and writes its target: transformer or GRU encoder and decoder, with layers, widths and heads",
    )
