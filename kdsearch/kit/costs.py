"""Weights and multiply-accumulates of any network, counted."""

from kdsearch.deploy.cost import count_module

__all__ = ["count_module"]
