"""Small hierarchical transformers for a class a pixel: widths, depths and reductions searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "tiny_mit",
        "kdsearch_spaces.tiny_mit.space:TinyMitSpace",
        about="three transformer stages on overlapping patches, an MLP decoder, a class for each pixel: widths x depths",
    )
