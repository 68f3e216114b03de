"""Capabilities that read pictures and answer more than one class a picture."""

from kdsearch.hooks import Register

_AT = "kdsearch.builtin.vision"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
