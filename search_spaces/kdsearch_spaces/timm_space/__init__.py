"""Networks of the timm library with depths and widths searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "timm",
        "kdsearch_spaces.timm_space.space:TimmSpace",
        extra="timm",
        about="timm's ResNet, RegNet, MobileNets, EfficientNet, ConvNeXt, ViT, Mixer, and any other network of it by name",
    )
