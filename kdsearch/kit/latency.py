"""Milliseconds of a file in onnxruntime, batch 1: taken once for each graph and machine, alone, and then read."""

from kdsearch.deploy.latency import Latency, measure

__all__ = ["Latency", "measure"]
