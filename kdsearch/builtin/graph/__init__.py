"""Capabilities that read graphs."""

from kdsearch.builtin.packages import PACKAGES
from kdsearch.hooks import Register

_AT = "kdsearch.builtin.graph"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
    register.task("node_classification", f"{_AT}.task:NodeClassification", about="one of K classes of a node")
    register.dataset("graph", f"{_AT}.data:GraphData", about="a table of nodes and one of edges; a sample is a node")
    about = "1,797 digits tied to those most alike; no file needed"
    register.dataset("bundled_graph", f"{_AT}.data:BundledGraph", about=about, package=PACKAGES["digits"])
