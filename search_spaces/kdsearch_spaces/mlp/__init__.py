"""Multilayer perceptrons for vectors and flattened images: depth, widths, activation, norm, shortcuts searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "mlp",
        "kdsearch_spaces.mlp.space:MlpSpace",
        about="multilayer perceptrons for vectors (tabular data) and flattened images: depth, widths, activation, norm",
    )
