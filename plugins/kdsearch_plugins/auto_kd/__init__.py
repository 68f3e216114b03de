"""Losses as designs to be searched: transform, distance, weight (after Auto-KD, ICCV 2023, and KD-Zero, NeurIPS 2023)."""

from kdsearch.hooks import Register, hookimpl


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.distiller(
        "composed",
        "kdsearch_plugins.auto_kd.composed:Composed",
        about="a loss put together: transform, distance, weight",
    )
