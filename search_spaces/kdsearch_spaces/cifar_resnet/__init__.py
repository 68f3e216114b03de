"""Residual networks for small images: three stages of basic blocks, depths and widths searched."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.search_space(
        "cifar_resnet",
        "kdsearch_spaces.cifar_resnet.space:CifarResNetSpace",
        about="three-stage residual networks for images of 8 pixels and more: depths x widths",
    )
    register.search_space(
        "resnet64",
        "kdsearch_spaces.cifar_resnet.resnet64:ResNet64Space",
        about="64 residual networks of widths 16, 32, 64: depths 1, 3, 5 or 7 a stage",
    )
