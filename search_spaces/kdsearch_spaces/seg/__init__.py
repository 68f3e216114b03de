"""Small encoder-decoders for a class a pixel: widths, depth and decoder searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "seg",
        "kdsearch_spaces.seg.space:SegSpace",
        about="three convolutional stages and a top-down decoder, a class for each pixel: widths x depth x decoder",
    )
