"""The report page and the model cards."""

from kdsearch.report.card import card
from kdsearch.report.page import render

__all__ = ["card", "render"]
