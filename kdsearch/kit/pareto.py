"""Several objectives, to be minimised, and constraints: fronts, crowding, how much is broken."""

from kdsearch.search.pareto import crowding, fronts, violation

__all__ = ["crowding", "fronts", "violation"]
