"""The user's text: a study file or Python call -> a checked Study. Nothing here imports torch before names are checked."""

from kdsearch.study.load import Source
from kdsearch.study.reading import load_study, make_study
from kdsearch.study.schema import Config
from kdsearch.study.study import Study

__all__ = ["Config", "Source", "Study", "load_study", "make_study"]
