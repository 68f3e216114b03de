"""What a stage reads is what its key holds: every key of the schema, every capability's code."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module

import pytest

from kdsearch.host import Host
from kdsearch.stages.keys import part_of
from kdsearch.stages.materials import open_materials
from kdsearch.stages.run import STAGES
from kdsearch.study.load import parse
from kdsearch.study.reading import make_study
from tests.outside.conftest import HERE as OUTSIDE
from tests.stages.every_key import CHANGES, FIXED, TEXT, keys

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(OUTSIDE))
    HOST = Host.load()
    for name in ("recipes", "scripted", "topics"):
        import_module(f"kdsearch_texts.{name}")


@cache
def parts(*sets: str) -> dict[str, str]:
    """Stage -> all that its key holds beside its inputs."""
    materials = open_materials(make_study(parse(TEXT.encode()), HOST, sets=sets), HOST)
    found = {stage.NAME: part_of(stage, materials) for stage in STAGES}
    return {name: json.dumps(part, sort_keys=True) for name, part in found.items()}


def test_every_key_of_the_schema_has_a_change():
    assert set(keys()) == {*CHANGES, *FIXED}


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_redoes_from_the_first_stage_that_reads_it(key):
    change = CHANGES[key]
    before, after = parts(*change.before), parts(*change.before, *change.sets)
    assert next((name for name in before if before[name] != after[name]), "") == change.stage
