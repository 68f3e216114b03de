"""Model: a module with its input fields, its taps (named internal tensors) and its blocks."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdsearch.errors import PluginError, TapError, nearest
from kdsearch.ops.copies import module_copy
from kdsearch.ops.record import See, Side, hooked
from kdsearch.ops.undisturbed import undisturbed

TapKind = Literal["map", "tokens", "vector", "attention", "sequence"]


@dataclass(frozen=True)
class Tap:
    """A named internal tensor: the output (or first input) of the submodule at `path`.

    Args:
        name: `stage[0]`, ..., `penultimate`, `attention[0]`, `embedding`.
        path: dotted path of the submodule; "" is the model itself.
        kind: map (C, H, W), tokens (N, D), vector (D,), attention (heads, N, N), sequence (T, D).
        shape: without B; None = dynamic.
        stride: pixels of the input per pixel of the map; 0 where that means nothing.
        grid: (H, W) of tokens that lie on a grid, the last H W of N. A map with a grid: the module gives such tokens, and the
            tap is those of the grid as channels.
        side: "output" or "input" (its first positional argument).
        index: which element, where the module returns a tuple; None = the first.
    """

    name: str
    path: str
    kind: TapKind
    shape: tuple[int | None, ...]
    stride: int = 0
    grid: tuple[int, int] | None = None
    side: Literal["output", "input"] = "output"
    index: int | None = None

    def read(self, given: Any) -> Tensor:
        """The tap's tensor in what the submodule returned, or was handed as its first argument."""
        value = self._element(given)
        if self.kind != "map" or self.grid is None:
            return value
        height, width = self.grid
        return value[:, -height * width :].mT.reshape(len(value), -1, height, width)  # (B, D, H, W), a view

    def written(self, given: Any, value: Tensor) -> Any:
        """`given` with `value` in the tap's place: the inverse of `read`; tokens that are not on the grid stay."""
        if self.kind == "map" and self.grid is not None:
            tokens = self._element(given)
            value = torch.cat([tokens[:, : -self.grid[0] * self.grid[1]], value.flatten(2).mT], 1)
        if isinstance(given, Tensor):
            return value
        return tuple(value if i == (self.index or 0) else each for i, each in enumerate(given))

    def _element(self, given: Any) -> Tensor:
        found: Tensor = given if isinstance(given, Tensor) else given[self.index or 0]
        return found


@dataclass(frozen=True)
class Cost:
    """params: trainable and frozen weights; macs: multiply-accumulates of convolutions and matmuls for one sample."""

    params: int
    macs: int


@dataclass
class Model:
    """A student, teacher, peer or previous self. It holds no loss and no device.

    Args:
        module: called with the input fields in order.
        inputs: the batch fields it reads (its modality subset).
        taps: named internal tensors, stages from input to output.
        outputs: names of what it returns, in order.
        blocks: paths of the residual blocks, cells or layers that it is a chain of; empty where it names none.
        cost_of: its cost, by formula where there is one; None = counted when asked.
        spec: what it reads of its spec, as JSON values, where it is a member of a search space: the host says so.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    taps: tuple[Tap, ...] = ()
    outputs: tuple[str, ...] = ("logits",)
    blocks: tuple[str, ...] = ()
    name: str = "model"
    cost_of: Callable[[], Cost] | None = None
    spec: Mapping[str, Any] | None = None

    def tap(self, name: str) -> Tap:
        """The tap called `name`: `stage[-1]` counts from the end, `module:<glob>` is any submodule's output.

        Raises TapError listing every tap there is.
        """
        if name.startswith("module:"):
            pattern = name.removeprefix("module:")
            paths = [path for path, _ in self.module.named_modules() if path and fnmatch.fnmatchcase(path, pattern)]
            if len(paths) == 1:
                return Tap(name, paths[0], "map", ())
            problem = f"tap '{name}' matches {len(paths)} modules of '{self.name}'"
            raise TapError(problem, expected="a glob that matches exactly one module")
        wanted = self._absolute(name)
        for tap in self.taps:
            if tap.name == wanted:
                return tap
        close = nearest(name, [tap.name for tap in self.taps])
        raise TapError(f"tap '{name}': '{self.name}' has {self.describe_taps()}", nearest=close)

    def _absolute(self, name: str) -> str:
        found = re.fullmatch(r"(\w+)\[(-\d+)\]", name)
        if not found:
            return name
        family = [tap.name for tap in self.taps if re.fullmatch(rf"{found[1]}\[\d+\]", tap.name)]
        back = int(found[2])
        return family[back] if -back <= len(family) else name

    def describe_taps(self) -> str:
        shapes = (f"{tap.name} ({'x'.join(str(size) for size in tap.shape)})" for tap in self.taps)
        tapped = {tap.name for tap in self.taps}
        return ", ".join([*shapes, *(each for each in self.outputs if each not in tapped)]) or "no taps"

    def width(self, tap: str) -> int:
        """Channels of a map, width of tokens, a vector or a sequence."""
        if tap in self.outputs and not any(each.name == tap for each in self.taps):
            raise TapError(f"'{tap}' is an output field of '{self.name}'; its width is the task's io")
        found = self.tap(tap)
        size = found.shape[0] if found.kind in ("map", "vector", "attention") else found.shape[-1]
        assert size is not None
        return size

    def part(self, tap: str) -> nn.Module:
        """The submodule behind a tap, to call a stage, borrow a block or read the classifier's weight."""
        found = self.tap(tap)
        return self.module.get_submodule(found.path)

    def copy(self) -> Model:
        """An independent model with equal weights."""
        return replace(self, module=module_copy(self.module))

    def cost(self) -> Cost | None:
        return self.cost_of() if self.cost_of else None


class UnaskedTapError(KeyError):
    """A tap that a method reads and nothing asked for before the run. `owner`: the model's name."""

    def __init__(self, message: str, name: str, owner: str) -> None:
        super().__init__(message)
        self.name, self.owner = name, owner


class Outputs(Mapping[str, Tensor]):
    """Output fields and taps by name. `detach()` gives the same values as constants."""

    def __init__(
        self, tensors: Mapping[str, Tensor], resolve: Callable[[str], str] | None = None, owner: str = ""
    ) -> None:
        self._tensors, self._resolve, self._owner = dict(tensors), resolve or (lambda name: name), owner

    def __getitem__(self, name: str) -> Tensor:
        if name in self._tensors:
            return self._tensors[name]
        resolved = self._resolve(name)
        if resolved in self._tensors:
            return self._tensors[resolved]
        known = ", ".join(self._tensors)
        problem = f"'{name}' of {self._owner or 'a model'} was not asked for before the run; there are {known}"
        raise UnaskedTapError(problem, name, self._owner)

    def __contains__(self, name: object) -> bool:
        """Whether it can be read, by any of its names; a question, so that one that the model does not have is no error."""
        from kdsearch.errors import TapError

        try:
            return isinstance(name, str) and self[name] is not None
        except (KeyError, TapError):
            return False

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def detach(self) -> Outputs:
        return Outputs({name: tensor.detach() for name, tensor in self._tensors.items()}, self._resolve, self._owner)


@dataclass(frozen=True)
class Shapes:
    """Shapes of one model's taps and output fields, without B."""

    model: Model
    fields: Mapping[str, tuple[int | None, ...]]

    def of(self, name: str) -> tuple[int | None, ...]:
        if name in self.fields:
            return self.fields[name]
        return self.model.tap(name).shape

    def map(self, name: str) -> tuple[int, int, int]:
        """(C, H, W). Raise TapShapeError, naming tap and shape, when it is no map."""
        return self._typed(name, "map", 3)  # type: ignore[return-value]

    def vector(self, name: str) -> int:
        """D. Raise TapShapeError, naming tap and shape, when it is no vector."""
        return self._typed(name, "vector", 1)[0]

    def tokens(self, name: str) -> tuple[int, int]:
        """(N, D). Raise TapShapeError, naming tap and shape, when it is no token sequence."""
        return self._typed(name, "tokens", 2)  # type: ignore[return-value]

    def _typed(self, name: str, kind: str, rank: int) -> tuple[int, ...]:
        from kdsearch.errors import TapShapeError

        shape = self.of(name)
        if len(shape) != rank or any(size is None for size in shape):
            shown = "x".join(str(size) for size in shape)
            raise TapShapeError(f"tap '{name}' of '{self.model.name}' is {shown}", expected=f"a {kind} ({rank} sizes)")
        return tuple(size for size in shape if size is not None)


@dataclass(frozen=True)
class TapShapes:
    """What a distiller sees before the first step: shapes of both models' taps and output fields.

    `others`: those of a further model, by its role; None where there is none.
    """

    student: Shapes
    teacher: Shapes
    others: Callable[[str], Shapes] | None = None

    def of(self, role: str) -> Shapes:
        """Shapes of "student", of "teacher" (the one it learns from), of any other teacher by its name in the study, of a peer.

        Raises:
            PluginError: no model has that role here.
        """
        if role in ("student", "teacher"):
            return self.student if role == "student" else self.teacher
        if self.others is None:
            raise PluginError(f"no model in the role '{role}' here", expected="student or teacher")
        return self.others(role)


def traced_taps(
    module: nn.Module, inputs: Sequence[Tensor], paths: Mapping[str, str], sides: Mapping[str, str] | None = None
) -> tuple[Tap, ...]:
    """Taps of an arbitrary module: one eval-mode forward of `inputs` records the shape at each path (name -> path).

    `sides`: name -> "input" for a tap that is a submodule's first argument.
    """
    shapes: dict[str, Any] = {}
    sides = dict(sides or {})

    def kept(name: str) -> See:
        def see(given: Any, _: tuple[Any, ...]) -> None:
            shapes[name] = tuple((given[0] if isinstance(given, tuple | list) else given).shape[1:])

        return see

    def side(name: str) -> Side:
        return "input" if sides.get(name) == "input" else "output"

    places = [(module.get_submodule(path), side(name), kept(name)) for name, path in paths.items()]
    with undisturbed(module, train=False), hooked(places):
        module(*inputs)
    size = inputs[0].shape[-1]
    kinds: dict[int, TapKind] = {3: "map", 2: "tokens", 1: "vector"}
    return tuple(
        Tap(
            name,
            path,
            kinds.get(len(shapes[name]), "map"),
            shapes[name],
            size // shapes[name][-1] if len(shapes[name]) == 3 and shapes[name][-1] else 0,
            side=side(name),
        )
        for name, path in paths.items()
        if name in shapes
    )
