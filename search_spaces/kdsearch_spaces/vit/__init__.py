"""Vision transformers: depth, width, heads, MLP ratio and patch searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "vit",
        "kdsearch_spaces.vit.space:VitSpace",
        about="vision transformers for images of any size: depth, width, heads, MLP ratio, patch, pooling",
    )
