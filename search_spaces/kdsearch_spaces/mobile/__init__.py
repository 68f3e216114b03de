"""Inverted residuals: kernel, expansion, depth and width of five stages searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "mobile",
        "kdsearch_spaces.mobile.space:MobileSpace",
        about="five stages of inverted residuals for images of 8 pixels and more: kernels x expansions x depths x widths",
    )
