"""Capabilities that read texts."""

from kdsearch.hooks import Register

_AT = "kdsearch.builtin.text"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
