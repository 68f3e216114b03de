"""Capabilities that read rows of numbers and categories."""

from kdsearch.builtin.packages import PACKAGES
from kdsearch.hooks import Register

_AT = "kdsearch.builtin.tables"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
    register.task("regression", f"{_AT}.regression:Regression", about="numbers in their own units")
    register.task("multilabel", f"{_AT}.multilabel:Multilabel", about="any of K labels at once, each yes or no")
    register.dataset("table", f"{_AT}.data:TableData", about="CSV or JSON Lines: numbers and categories, and a target")
    about = "cars, cells, wines, and the characters of Unicode; no file needed"
    register.dataset("bundled_table", f"{_AT}.bundled:BundledTable", about=about, package=PACKAGES["bundled_table"])
    for name, cls, about in (
        ("rmse", "Rmse", "root of the mean squared error; less is better"),
        ("mae", "Mae", "mean absolute error; less is better"),
        ("r2", "R2", "share of the variance that is explained"),
    ):
        register.metric(name, f"{_AT}.value_metrics:{cls}", about=about)
    for name, cls, about in (
        ("macro_f1", "MacroF1", "F1 of a label, mean over the labels"),
        ("micro_f1", "MicroF1", "F1 of all labels' answers together"),
        ("map", "MeanAveragePrecision", "average precision of a label, mean over the labels"),
    ):
        register.metric(name, f"{_AT}.label_metrics:{cls}", about=f"{about}; by torchmetrics")
