"""Well-known distillers, each citing its paper."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    here = "kdsearch_plugins.classics"
    register.distiller("kd", f"{here}.kd:Kd", about="softened logits (Hinton et al. 2015)")
    register.distiller("dkd", f"{here}.dkd:Dkd", about="target and non-target classes apart (Zhao et al. 2022)")
    register.distiller("fitnet", f"{here}.fitnet:FitNet", about="a hidden map by regression (Romero et al. 2015)")
    register.distiller("cwd", f"{here}.cwd:Cwd", about="where each channel of a map looks (Shu et al. 2021)")
    register.distiller("sp", f"{here}.sp:Sp", about="which samples look alike (Tung and Mori 2019)")
    about = "outputs that are no class logits: mse, huber, cosine, binary_kl (Ba and Caruana 2014; Yang et al. 2023)"
    register.distiller("match", f"{here}.match:Match", about=about)
