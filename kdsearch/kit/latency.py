"""Milliseconds of a file in onnxruntime, batch 1, and its ratio to another file's: taken once for each graph and machine, alone."""

from kdsearch.deploy.beside import Beside, measure_beside
from kdsearch.deploy.latency import Latency, measure

__all__ = ["Beside", "Latency", "measure", "measure_beside"]
