"""Several objectives, to be minimised, and constraints: fronts, crowding, hypervolume, how much is broken."""

from kdsearch.search.pareto import contributions, crowding, fronts, hypervolumes, violation

__all__ = ["contributions", "crowding", "fronts", "hypervolumes", "violation"]
