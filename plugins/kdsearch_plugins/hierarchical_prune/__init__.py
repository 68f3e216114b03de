"""HierarchicalPrune: depth pruning by position and measured contribution, then gentle distillation (Kwon et al., AAAI 2026)."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    here = "kdsearch_plugins.hierarchical_prune"
    about = "residual blocks and their components, by position and measured contribution"
    register.pruner("hierarchical_prune", f"{here}.pruner:HierarchicalPrune", about=about)
