"""Graph networks on ego-graphs, GCN, GraphSAGE or GAT: kind, layers, width and heads searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "gnn",
        "kdsearch_spaces.gnn.space:GnnSpace",
        about="graph networks on padded ego-graphs (GCN, GraphSAGE, GAT): kind, layers, width, heads",
    )
