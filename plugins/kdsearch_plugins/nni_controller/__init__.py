"""NNI's tuners as a controller: TPE, evolution, random and grid search, and lists of candidates."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.controller(
        "nni",
        "kdsearch_plugins.nni_controller.controller:Nni",
        extra="nni",
        about="NNI's tuners: TPE, Evolution, Random, GridSearch, Batch",
    )
