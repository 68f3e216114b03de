"""Training-free scores that need no teacher, each citing its paper; `params` and `macs` are the baselines to beat."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    here = "kdsearch_plugins.zero_cost"
    register.proxy("params", f"{here}.size:Params", about="log of the number of weights")
    register.proxy("macs", f"{here}.size:Macs", about="log of multiply-accumulates for one sample")
    register.proxy("nwot", f"{here}.activation:Nwot", about="log-determinant of the activation codes' kernel")
    register.proxy("swap", f"{here}.activation:Swap", about="number of distinct sample-wise activation patterns")
    register.proxy("synflow", f"{here}.synflow:SynFlow", about="log of synaptic flow, without data")
