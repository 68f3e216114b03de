"""Weights in files: safetensors, and torch's own as far as they hold nothing but tensors. Nothing is unpickled."""

from kdsearch.store.weights import alone, load_into, read, read_metadata, write

__all__ = ["alone", "load_into", "read", "read_metadata", "write"]
