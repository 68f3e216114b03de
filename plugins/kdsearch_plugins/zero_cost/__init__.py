"""Training-free scores that need no teacher, each citing its paper; `params` and `macs` are the baselines to beat."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    here = "kdsearch_plugins.zero_cost"
    register.proxy("params", f"{here}.size:Params", about="log of the number of weights")
    register.proxy("macs", f"{here}.size:Macs", about="log of multiply-accumulates for one sample")
    register.proxy("layers", f"{here}.size:Layers", about="number of layers with weights")
    register.proxy("l2_norm", f"{here}.size:L2Norm", about="norms of the weights")
    register.proxy("snip", f"{here}.saliency:Snip", about="sum of |w dL/dw|")
    register.proxy("plain", f"{here}.saliency:Plain", about="sum of w dL/dw")
    register.proxy("grad_norm", f"{here}.saliency:GradNorm", about="norms of dL/dw")
    register.proxy("grasp", f"{here}.saliency:Grasp", about="what a step takes from the gradient's flow")
    register.proxy("fisher", f"{here}.saliency:Fisher", about="Fisher information of the channels")
    register.proxy("synflow", f"{here}.synflow:SynFlow", about="log of synaptic flow, without data")
    register.proxy("synflow_bn", f"{here}.synflow:SynFlowBn", about="log of synaptic flow, norms kept")
    register.proxy("jacob_cov", f"{here}.jacobian:JacobCov", about="how little samples' Jacobians correlate")
    register.proxy("epe_nas", f"{here}.jacobian:EpeNas", about="correlation of Jacobians within classes")
    register.proxy("nwot", f"{here}.activation:Nwot", about="log-determinant of the activation codes' kernel")
    register.proxy("swap", f"{here}.activation:Swap", about="number of distinct sample-wise activation patterns")
    register.proxy("swap_reg", f"{here}.activation:SwapReg", about="log of swap, falling with the distance from a size")
    register.proxy("zen", f"{here}.zen:Zen", about="how far features move under noise, batch norms undone")
    register.proxy("zico", f"{here}.zico:Zico", about="mean over deviation of gradients, across batches")
    register.proxy("expressivity", f"{here}.az_nas:Expressivity", about="AZ-NAS: entropy of the features' spectra")
    register.proxy("progressivity", f"{here}.az_nas:Progressivity", about="AZ-NAS: least growth of the entropy")
    register.proxy("trainability", f"{here}.az_nas:Trainability", about="AZ-NAS: how near blocks are to isometries")
    register.proxy("complexity", f"{here}.size:Macs", about="AZ-NAS: log of multiply-accumulates")
    register.proxy("az_nas", f"{here}.az_nas:AzNas", about="AZ-NAS: the four terms' log ranks, summed")
