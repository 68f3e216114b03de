"""Whatever a strategy proposes is of the ranges that the study allows, and what it is told of is seen."""

from __future__ import annotations

import pytest

from kdsearch.builtin.controllers.optuna_trials import Axes
from kdsearch.host import Host
from kdsearch.kinds import Trial
from kdsearch.kinds.options import searchable
from kdsearch.search.axis import encode

HOST = Host.load()
REGIONS = {
    "text_encoder": {
        "kind": "search",
        "heads": {"choices": [2, 8]},
        "ffn": {"choices": [1, 2]},
        "width": {"choices": [32, 64]},
        "embedding": {"choices": [16, 32]},
    },
    "timm": {
        "family": {"choices": ["resnet", "vit"]},
        "dim": {"choices": [48, 192]},
        "heads": {"choices": [3, 6]},
        "widths": {"choices": [8, 32]},
        "depths": {"choices": [1, 3]},
    },
    "mlp": {"depth": {"choices": [1, 2, 3]}, "widths": {"choices": [8, 16]}, "residual": {"choices": [True]}},
    "mobile": {"depths": {"choices": [0, 2]}, "widths": {"choices": [12, 20]}, "kernels": {"choices": [5]}},
}


@pytest.mark.parametrize("strategy", [{}, {"survivors": "best", "sample": 2, "crossover": 0.9, "mutations": 2}])
@pytest.mark.parametrize("name", REGIONS)
def test_evolution_keeps_to_the_region(name, strategy):
    cls = HOST.load_class("search_space", name)
    space = cls(searchable(cls.options_class, REGIONS[name], "student.spec"))
    made = HOST.load_class("controller", "evolution")
    controller = made(made.options_class(population=8, generation=8, **strategy))
    axes, history = Axes(space, ()), []
    for generation in range(8):
        for ask in controller.ask(space, (), history, 8, generation):
            spec = space.parse(dict(ask.spec))
            for path, value in space.values(spec).items():
                allowed = next(dim.range.choices for dim in space.dims if dim.path == path)
                assert encode(value) in map(encode, allowed), (path, value, ask.spec)
            trial = Trial(len(history), {}, ask.spec, "complete", (float(len(history) % 7),), (0.0,))
            assert axes.told(trial, 1) is not None
            history.append(trial)
    assert len(history) >= 12


WHOLE = {
    "mlp": {"depth": {"choices": [1, 2, 3]}, "widths": {"choices": [[8, 16, 32], [32, 16, 8], [5, 5, 64]]}},
    "mobile": {
        "depths": {"choices": [[1, 0, 1, 0, 0], [0, 1, 1, 0, 1]]},
        "widths": {"choices": [[8, 16, 24, 32, 8], [12, 4, 8, 16, 32]]},
    },
    "nb201": {"edges": {"choices": ["skip_connect", "nor_conv_3x3", "avg_pool_3x3"]}},
}


@pytest.mark.parametrize("strategy", [{}, {"survivors": "best", "sample": 2, "crossover": 0.9, "mutations": 2}])
@pytest.mark.parametrize("name", WHOLE)
def test_evolution_asks_for_networks_of_the_region_alone(name, strategy):
    """Where lists are chosen whole, a canonical form may be none of them; what it leads to has to be."""
    cls = HOST.load_class("search_space", name)
    space = cls(searchable(cls.options_class, WHOLE[name], "student.spec"))
    known = {space.key(each) for each in space.every()}
    made = HOST.load_class("controller", "evolution")
    controller = made(made.options_class(population=4, generation=4, **strategy))
    history = []
    for generation in range(10):
        for ask in controller.ask(space, (), history, 4, generation):
            assert space.key(space.parse(dict(ask.spec))) in known, ask.spec
            history.append(Trial(len(history), {}, ask.spec, "complete", (float(len(history) % 7),), (0.0,)))
    assert len(history) >= min(len(known), 16)
