"""The cell space of NAS-Bench-201: six edges, five operations, 15,625 cells."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "nb201",
        "kdsearch_spaces.nb201.space:Nb201Space",
        about="cells of four nodes and six edges with five operations (NAS-Bench-201), 6,466 of them different",
    )
