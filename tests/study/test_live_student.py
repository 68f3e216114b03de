"""A network of the program as a space of one architecture: told by its name, kept apart by its content."""

import torch
from torch import nn

from kdsearch.study.live_student import LiveNetwork


def made(seed):
    torch.manual_seed(seed)
    return LiveNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


def test_reports_say_its_name_and_keys_tell_its_weights():
    one, again, other = made(0), made(0), made(1)
    keys = [space.key(next(space.every())) for space in (one, again, other)]
    assert keys[0] == keys[1] != keys[2]
    assert [space.read(next(space.every())) for space in (one, other)] == [{"network": "Sequential"}] * 2
