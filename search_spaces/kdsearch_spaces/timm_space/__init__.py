"""Networks of the timm library with depths and widths searched, their stems fitted to small images."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "timm",
        "kdsearch_spaces.timm_space.space:TimmSpace",
        extra="timm",
        about="timm's ResNet, MobileNetV2, ConvNeXt and ViT: depths x widths, stems fitted to small images",
    )
