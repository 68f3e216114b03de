"""Text classifiers over token ids: transformer encoders, bidirectional LSTMs, bags of embeddings."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "text_encoder",
        "kdsearch_spaces.text_encoder.space:TextEncoderSpace",
        about="texts as token ids: transformer, BiLSTM or bag of embeddings, with layers, widths and pooling",
    )
