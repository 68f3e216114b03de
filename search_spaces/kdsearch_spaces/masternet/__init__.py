"""Plain networks of super blocks (Zen-NAS), searched by mutation."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "masternet",
        "kdsearch_spaces.masternet.space:MasterNetSpace",
        about="residual super blocks of any kernel, width and depth, changed block by block; for evolution or random search",
    )
