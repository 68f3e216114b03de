"""Formats are of the study's exporter."""

from __future__ import annotations

import re

import pytest

from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.study import load_study
from tests.stages.tiny import write_study


def test_an_exporter_that_is_written_as_a_format_is_called_one(tmp_path):
    words = "'openvino' is an exporter: set export.exporter to {use: openvino}, and write openvino-fp32."
    with pytest.raises(StudyError, match=re.escape(words)):
        load_study(write_study(tmp_path), Host.load(), sets=["export.formats=[openvino]", "export.max_drop={}"])
