"""Capabilities that read graphs."""

from kdsearch.hooks import Register

_AT = "kdsearch.builtin.graph"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
