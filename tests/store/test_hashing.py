"""Content hashes."""

import pytest
import torch
from torch import nn

from kdsearch.store.hashing import module_digest


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
