"""Temporary folders that go with their owner, also with one that was killed."""

from kdsearch.store.scratch import Scratch

__all__ = ["Scratch"]
