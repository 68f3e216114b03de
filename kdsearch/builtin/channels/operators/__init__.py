"""What each operator of torch (ATen) does to the axes of its inputs. One that is not here freezes what it reads."""

from kdsearch.builtin.channels.operators import computing as computing
from kdsearch.builtin.channels.operators import moving as moving
from kdsearch.builtin.channels.operators.rules import RULES, Axes, pointwise

__all__ = ["RULES", "Axes", "pointwise"]
