"""Search space `resnet64`: the 64 residual networks of DisWOT's rank study (Dong et al., CVPR 2023, arXiv 2303.15678)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from kdsearch.errors import StudyError
from kdsearch.kinds import IO, Cost, Model, Options, SearchSpace, searched
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace, CifarResNetSpec, Depth


class ResNet64Spec(Options):
    depths: Annotated[tuple[Depth, Depth, Depth], searched(1, 3, 5, 7, each=3)] = Field(
        (3, 3, 3), description="basic blocks of each stage, at widths 16, 32, 64"
    )


class ResNet64Space(SearchSpace[ResNet64Spec]):
    """`cifar_resnet` at widths 16, 32, 64; the taps are the same. As text, `7,1,3`; `713`, the paper's name, is read too."""

    def encode(self, spec: ResNet64Spec) -> str:
        return ",".join(str(depth) for depth in spec.depths)

    def decode(self, text: str) -> ResNet64Spec:
        if text.startswith("{"):
            return super().decode(text)
        if not re.fullmatch(r"\d{3}|\d+,\d+,\d+", text):
            raise StudyError(f"'{text[:60]}' is no architecture", expected="three depths, such as 7,1,3")
        return self.parse({"depths": [int(depth) for depth in (text.split(",") if "," in text else text)]})

    def build(self, spec: ResNet64Spec, io: IO) -> Model:
        return replace(CifarResNetSpace().build(_wide(spec), io), name="resnet64")

    def cost(self, spec: ResNet64Spec, io: IO) -> Cost:
        return CifarResNetSpace().cost(_wide(spec), io)

    def teacher_spec(self) -> ResNet64Spec:
        """ResNet-110."""
        return ResNet64Spec(depths=(18, 18, 18))


def _wide(spec: ResNet64Spec) -> CifarResNetSpec:
    return CifarResNetSpec(depths=spec.depths)
