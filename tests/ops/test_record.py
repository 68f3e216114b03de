"""One place hooks modules; nothing of it stays."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdsearch.ops.record import hooked

ROOT = Path(__file__).parents[2]


def test_hooks_are_set_in_one_place():
    folders = ("kdsearch", "plugins", "search_spaces")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    hooking = {each.name for each in files if ".register_forward" in each.read_text(encoding="utf-8")}
    # A teacher keeps the normalisation that it was trained on; networks have the units of their data; what trains as quantised
    # stays so; what a CPU cannot train channels-last is fed otherwise. Blocks and channels are found by where each module
    # begins and ends.
    assert hooking == {
        "record.py",
        "layout.py",
        "normalize.py",
        "units.py",
        "simulated.py",
        "residual.py",
        "tracing.py",
    }


def test_what_a_function_returns_goes_on_and_none_changes_nothing():
    net, seen = nn.Sequential(nn.Identity(), nn.Identity()), []
    places = [
        (net[0], "input", lambda x, args: seen.append(len(args))),
        (net[0], "output", lambda x, args: x + 1),
        (net[1], "input", lambda x, args: 10 * x),
        (net[1], "output", lambda x, args: None),
    ]
    with hooked(places):
        assert net(torch.tensor(2.0)) == 30
    assert seen == [1]
    assert net(torch.tensor(2.0)) == 2


def test_a_failing_pass_leaves_no_hook():
    net = nn.Sequential(nn.Identity())
    with pytest.raises(ZeroDivisionError), hooked([(net[0], "output", lambda x, args: 1 / 0)]):
        net(torch.tensor(1.0))
    assert not net[0]._forward_hooks
