"""What works outside a step: random streams, values that survive a kill, teachers' doors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Generator, Tensor

from kdsearch.kinds.data import Batch, DataSource
from kdsearch.kinds.model import Model, Outputs

V = TypeVar("V")


@dataclass(frozen=True)
class Reply:
    """A text teacher's answer.

    `finish`: "stop", "length" or "error". `logprobs`: of its tokens, where the access allows. `tokens`, `prompt_tokens`: what it
    cost as the teacher counts, 0 where it does not; of several replies to one prompt the first one has the prompt's.
    """

    text: str
    finish: str = "stop"
    logprobs: tuple[float, ...] = ()
    tokens: int = 0
    prompt_tokens: int = 0


class Writer(Protocol):
    """A teacher that writes text. An attribute `at_once` says how many prompts it is handed at a time; without one, 32."""

    def write(
        self,
        prompts: Sequence[str],
        n: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        max_tokens: int = 256,
    ) -> list[list[Reply]]:
        """n replies a prompt; equal arguments give equal replies."""


class Services(Protocol):
    """Handed to what works outside a step: data sets, recipes, teachers, metrics, compressors."""

    def rng(self, name: str) -> Generator:
        """The named random stream of this study and trial: equal name, equal numbers."""

    @property
    def data(self) -> DataSource:
        """The study's data, labels that it hides hidden; a teacher's `model` and a recipe see them without the test split.

        Raise PluginError where they are not open yet.
        """
        ...

    def once(self, key: str, make: Callable[[], V]) -> V:
        """`make()` the first time, the stored value (tensors by name, or JSON) ever after, also in a resumed run.

        One process makes it while others that ask for it wait. Kept for one training; a teacher's, and those of `Setup.study`,
        for all of the study. `make` never asks for its own key.
        """

    def writer(self, teacher: str) -> Writer:
        """A teacher that writes; its replies are kept. Raise PluginError for one that does not, or that may not be asked here."""

    def embed(self, teacher: str, texts: Sequence[str]) -> Tensor:
        """(N, D), kept by string. Raise PluginError as `writer` does."""

    def predict(self, model: str, batch: Batch, taps: Sequence[str] = ()) -> Outputs:
        """Outputs of a role, and these taps, in eval mode, as constants; a teacher's come from its cache where that has them."""

    def build(self, space: str, spec: Mapping[str, Any]) -> Model:
        """A fresh model of a registered search space, for teachers that are one of its members."""

    def file(self, path: str) -> Path:
        """A path from the study, relative to the study's file. Raise DataError when it does not exist, is neither a file nor a
        folder (FIFOs, devices and sockets are none), or may not be looked at."""

    def code(self, target: str) -> Any:
        """The object at "module:name" or a file "x.py:name"; raise UnsafeCodeError unless --allow-code named it.

        Of a file that is code itself (`.pt2`) its path.
        """
