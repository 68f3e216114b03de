"""NNI (Neural Network Intelligence 3.0, Microsoft): imported when it is used, and quiet."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from kdsearch.errors import PluginError


@contextmanager
def quiet() -> Iterator[None]:
    """NNI's log lines and the warnings of its own modules are not shown; its logger's level is put back."""
    logger = logging.getLogger("nni")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"nni(\.|$)")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def nni(module: str = "") -> Any:
    """NNI, or the module `nni.MODULE`.

    Raises:
        PluginError: it is not installed.
    """
    is_new = "nni" not in sys.modules
    with quiet():
        try:
            top = import_module("nni")
        except ImportError as error:
            raise PluginError(f"NNI cannot be imported: {error}", fix='Run: pip install "kdsearch[nni]"') from error
        if is_new:
            top.silence_stdout()  # its handler on standard output, which --json needs; a program's own import keeps it
        return import_module(f"nni.{module}") if module else top
