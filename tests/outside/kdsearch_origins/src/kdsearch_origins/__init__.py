"""Which package a function is from, by whatever there is of it: documentation, parameters, body. Some lack one or two of these."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.task("origins", "kdsearch_origins.task:Origins", about="a class, by any of several modalities")
    register.dataset("functions", "kdsearch_origins.data:Functions", about="functions of Python's standard library")
    register.search_space("fusion", "kdsearch_origins.space:Fusion", about="an encoder a modality, then their mean")
    register.metric("any_subset", "kdsearch_origins.metric:AnySubset", about="accuracy over all that may be missing")
    register.teacher("experts", "kdsearch_origins.teacher:Experts", about="naive Bayes, an expert a modality")
    register.data_recipe("agreed", "kdsearch_origins.recipes:Agreed", about="labels that several experts agree on")
    register.data_recipe("modules", "kdsearch_origins.recipes:Modules", about="adds what modules say of themselves")
    register.distiller("blinded", "kdsearch_origins.distiller:Blinded", about="part of a sample answered as the whole")
    register.pruner("spare", "kdsearch_origins.spare:Spare", about="drops the modality that is needed least")
