"""Services as a study gives them: members of a search space built by seed, paths beside the study, code only where allowed."""

import torch
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace

from kdsearch.engine.setup import Site
from kdsearch.errors import UnsafeCodeError
from kdsearch.kinds import IO, Field

FIELDS = IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (5,)),))
SPEC = {"depths": [1, 1, 1], "widths": [4, 6, 8]}


def site(folder, code=None, io=FIELDS):
    def build(space, spec):
        assert space == "cifar_resnet"
        found = CifarResNetSpace()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return found.build(found.parse(spec), io)

    def code_of(target):
        if target not in (code or {}):
            raise UnsafeCodeError(f"'{target}' would run code", fix=f"--allow-code '{target}'")
        return code[target]

    return Site(seed=0, base=folder, build_of=build, code_of=code_of)


def student(seed=0, io=FIELDS):
    """A small network of the space and its module."""
    space = CifarResNetSpace()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(space.parse(SPEC), io).module.eval()
