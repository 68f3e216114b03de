"""Capabilities that read rows of numbers and categories."""

from kdsearch.hooks import Register

_AT = "kdsearch.builtin.tables"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
