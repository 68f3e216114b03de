"""Content hashes."""

import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.store.hashing import class_digest, module_digest


class Scaled(nn.Module):
    def __init__(self, mean, persistent):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=persistent)

    def forward(self, x):
        return x - self.mean


@pytest.mark.parametrize("persistent", [True, False])
def test_a_modules_digest_is_of_its_buffers_in_its_state_dict_or_not(persistent):
    digest = module_digest(nn.Sequential(Scaled(0.0, persistent)))
    assert digest == module_digest(nn.Sequential(Scaled(0.0, persistent)))
    assert digest != module_digest(nn.Sequential(Scaled(5.0, persistent)))


class Cooled(nn.Module):
    def __init__(self, temperature=1.0, act=torch.relu, size=(1, 2), name=None):
        super().__init__()
        self.temperature, self.act, self.size, self.name = temperature, act, size, name
        self.seen = torch.zeros(3)


@pytest.mark.parametrize(
    "other", [{"temperature": 8.0}, {"act": torch.tanh}, {"act": nn.functional.gelu}, {"size": (1, 3)}, {"name": "a"}]
)
def test_a_modules_digest_is_of_its_settings(other):
    assert module_digest(nn.Sequential(Cooled())) == module_digest(nn.Sequential(Cooled()))
    assert module_digest(nn.Sequential(Cooled(**other))) != module_digest(nn.Sequential(Cooled()))


@dataclass
class Config:
    scale: float


class Configured(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config


@pytest.mark.parametrize(
    "of",
    [
        lambda scale: {"scale": scale},
        lambda scale: {"inner": [{"scale": scale}]},
        lambda scale: {"a", scale},
        lambda scale: Config(scale),
        lambda scale: SimpleNamespace(scale=scale),
        lambda scale: Namespace(scale=scale),
        lambda scale: np.array([scale, 1e9]),
        lambda scale: np.float32(scale),
    ],
    ids=["dict", "nested", "set", "dataclass", "namespace", "arguments", "array", "scalar"],
)
def test_a_modules_digest_is_of_what_configures_a_class_of_ones_own(of):
    one, same, other = (module_digest(nn.Sequential(Configured(of(scale)))) for scale in (1.0, 1.0, 2.0))
    assert one == same
    assert one != other
    assert module_digest(Configured([object()])) == module_digest(Configured([object()]))


def test_what_a_state_has_beside_tensors_counts():
    class Extra(nn.Module):
        def __init__(self, told):
            super().__init__()
            self.told = [object(), told]

        def get_extra_state(self):
            return {"told": self.told[1]}

    one, same, other = (module_digest(Extra(told)) for told in (1, 1, 2))
    assert one == same
    assert one != other


def test_what_a_module_does_is_no_setting_of_it():
    """It is in another mode, and keeps something of what it saw."""
    module = Cooled()
    digest = module_digest(module)
    module.eval()
    module.seen = torch.ones(3)
    assert module_digest(module) == digest


CELL = """
from functools import cached_property, partial
from typing import Annotated

from pydantic import Field, field_validator

from kdsearch.kinds import Distiller, Options, searched

class Table:
    def __init__(self, rows):
        self.rows = rows

def closed(by):
    return lambda self, x: x * by

class MineOptions(Options):
    power: Annotated[float, searched(low=1.0, high=HIGH)] = Field(DEFAULT, gt=0)
    made: list[float] = Field(default_factory=lambda: [MADE])

    @field_validator("power")
    @classmethod
    def bounded(cls, value):
        return min(value, BOUND)

class Mine(Distiller[MineOptions]):
    FACTOR = ATTRIBUTE
    NAMES = {"one", "two", SET}
    TABLE = Table([OBJECT])
    half = partial(max, PARTIAL)
    closure = closed(CLOSURE)

    class Inner:
        rate = NESTED

    @staticmethod
    def static(x):
        return x * STATIC

    @property
    def prop(self):
        return PROPERTY

    @cached_property
    def cached(self):
        return CACHED

    def keyword(self, x, *, k=KEYWORD):
        return x * k

    def terms(self, step):
        super().__init__
        scaled = lambda x: [each * LAMBDA for each in x if each in {"a", "b", "c"}]
        return {"p": self.keyword(scaled(step.student["logits"]), k=DEEP)}
"""
NAMES = (
    *("HIGH", "DEFAULT", "MADE", "BOUND", "ATTRIBUTE", "SET", "OBJECT", "PARTIAL", "CLOSURE", "NESTED"),
    *("STATIC", "PROPERTY", "CACHED", "KEYWORD", "LAMBDA", "DEEP"),
)
NUMBERS = {name: 2.0 + i for i, name in enumerate(NAMES)}


def typed(monkeypatch, above="", **changed):
    """The digests of a class and its options that were typed into a cell: the module has no file."""
    text = CELL
    for name, number in {**NUMBERS, **changed}.items():
        text = text.replace(name, str(number))
    module = ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", module)
    exec(compile(above + text, f"<cell of {above!r} and {changed}>", "exec"), module.__dict__)
    return class_digest(module.Mine), class_digest(module.MineOptions)


@pytest.mark.parametrize("name", NAMES)
def test_an_edited_class_of_a_notebook_is_another_one(name, monkeypatch):
    assert typed(monkeypatch) == typed(monkeypatch, above="# the cell, run again\n\n")
    assert typed(monkeypatch) != typed(monkeypatch, **{name: 99.0})


def test_a_class_of_a_notebook_is_the_same_in_another_process(monkeypatch):
    code = "from tests.store.test_hashing import typed; import pytest; print(*typed(pytest.MonkeyPatch()))"
    other = {**os.environ, "PYTHONHASHSEED": "1"}  # sets in another order
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=other)
    assert found.stdout.split() == list(typed(monkeypatch))
