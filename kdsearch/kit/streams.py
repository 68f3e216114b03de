"""Random numbers that repeat: a generator for each purpose, a function of a seed and the purpose's name."""

from kdsearch.store.hashing import stream

__all__ = ["stream"]
