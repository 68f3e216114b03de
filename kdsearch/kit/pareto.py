"""Several objectives, to be minimised, and constraints: fronts, crowding, hypervolume, how much is broken."""

from kdsearch.search.pareto import crowding, fronts, hypervolumes, violation

__all__ = ["crowding", "fronts", "hypervolumes", "violation"]
