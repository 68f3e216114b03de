"""DisWOT: student architecture search for distillation without training (Dong et al., CVPR 2023)."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    here = "kdsearch_plugins.diswot"
    register.proxy("diswot", f"{here}.proxy:Diswot", about="M_r + M_s against a random teacher")
    register.proxy("diswot_mr", f"{here}.proxy:DiswotMr", about="M_r alone: relations between samples")
    register.proxy("diswot_ms", f"{here}.proxy:DiswotMs", about="M_s alone: the classifier's gradient")
    register.distiller("diswot", f"{here}.distiller:DiswotLoss", about="the two similarities as losses")
