"""Data: batches of named tensors with stable sample ids, splits, sources."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from kdsearch.errors import DataError, TapShapeError, nearest, one_of

HIDDEN = -100  # the label of a sample whose label is not known; torch's ignore_index
OPEN_SIZE = 8  # what a dynamic size is in noise, shapes and costs where a field says no other
CHOOSING = (
    "logits",
    "scores",
    "class",
    "detections",
)  # kinds of outputs that decide: a class, yes or no a label, what is there


@dataclass(frozen=True)
class Field:
    """One named tensor of a batch, an output or a graph. `shape` is without B; None in it is a dynamic size.

    `kind` says what the host may do with it, among others

        image     (C, H, W) floats, normalised
        tokens    (N,) integer ids
        mask      (N,), not 0 where a token counts; padding comes last. Of a field that a sample may lack, and where there are
                  several sequences, it is named `<field>_mask`
        present   () bool or float, named `present_<field>`: not 0 in a sample that has that field. Where it is 0 the field and
                  its mask read zeros, which mean nothing: no answer, loss or gradient may depend on them
        label     () a class index; HIDDEN where nobody knows it
        labels    (K,) 1 or 0 for each label by itself; HIDDEN among integers and NaN among floats where nobody knows it
        logits    one class a position, the largest: files are compared by the share of equal classes
        scores    K answers that are decided one by one, as in sigmoid(score) > 0.5: by the share of equal decisions at 0
        class     a class index a position, as an output: by the share of equal ones
        detections    (K, 6) x1, y1, x2, y2, score, class, as an output; of class -1 where there is none. A set: by the share that
                  overlap one of their class by half
        value     real numbers in the target's own unit, both the target and the answer
        vector, map, sequence    numbers that decide nothing
        categories    (C,) ids of categories, which mean nothing by their size

    Args:
        n_values: of an integer field, whose values are 0 .. n_values - 1; of tokens the size of the vocabulary.
        classes_at: of logits, the axis of `shape` that softmax goes over; None = the first of a map (K, H, W), else the last, as in
            (K,) and (T, K).
        padding: what fills a row of open length up to the batch's longest; None = 0, in targets HIDDEN (integers) or NaN.
        open_size: what a dynamic size is where one is needed, in noise, params, MACs and latency; a data set says its typical one.
        separator: of tokens, the id between the texts of a sample; None = a sample is one text.
        mask: of an output with positions, the input that says which of them count; "" = all.
        mean, std: of numbers in units of their own, one each along the last axis, over the training samples: networks of a search
            space standardise by them (`kinds.units`), and read the mean in place of NaN.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    use: Literal["input", "target", "extra"] = "input"
    n_values: int | None = None
    classes_at: int | None = None
    padding: float | None = None
    open_size: int = OPEN_SIZE
    separator: int | None = None
    mask: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def fill(self) -> float:
        """What pads it."""
        if self.padding is not None:
            return self.padding
        if self.use != "target" and self.kind != "label":
            return 0
        return math.nan if self.torch_dtype.is_floating_point else HIDDEN

    @property
    def is_class(self) -> bool:
        """Whether an output's numbers are classes, of which two are equal or not, and never near."""
        return self.kind == "class"

    @property
    def is_set(self) -> bool:
        """Whether the rows of an output may stand in any order, so that each is compared with the nearest one."""
        return self.kind == "detections"

    @property
    def class_axis(self) -> int:
        """The class axis of a batch (B, *shape) of logits."""
        axis = self.classes_at if self.classes_at is not None else (0 if len(self.shape) == 3 else -1)
        return axis % len(self.shape) + 1

    def rows(self, tensor: Tensor, counted: Tensor | None = None) -> Tensor:
        """Logits (B, *shape) as (N, K), or one value a position, such as labels, as (N,): N are all positions of all samples.

        Args:
            counted: (B, ...) which positions stay; one value a sample counts for all of its positions. None = all.

        Raises:
            TapShapeError: the tensor has another number of axes.
        """
        if tensor.ndim == len(self.shape) + 1:
            spread = tensor.movedim(self.class_axis, -1)
            positions, rows = spread.shape[:-1], spread.flatten(0, -2)
        elif tensor.ndim == len(self.shape):
            positions, rows = tensor.shape, tensor.flatten()
        else:
            expected = f"{len(self.shape) + 1} axes, or {len(self.shape)} without the classes"
            shown = "x".join(map(str, tensor.shape))
            raise TapShapeError(f"a tensor of '{self.name}' is {shown} with its batch", expected=expected)
        if counted is None:
            return rows
        counted = counted.bool().reshape(*counted.shape, *[1] * (len(positions) - counted.ndim))
        return rows[counted.expand(positions).flatten()]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape, a dynamic size as `open_size`."""
        return tuple(size or self.open_size for size in self.shape)

    def blank(self, n: int = 1, device: str = "cpu") -> Tensor:
        """(n, *sizes) zeros; a mask and what says that a field is present read 1: there is no padding, and nothing is missing."""
        fill = torch.ones if self.kind in ("mask", "present") else torch.zeros
        return fill((n, *self.sizes), dtype=self.torch_dtype, device=device)

    def noise(self, n: int, rng: Generator) -> Tensor:
        """(n, *sizes) valid values: N(0, 1), or as `mean` and `std` say; integers uniform, 0 or 1 without `n_values`; masks of 1
        to N tokens, padding last; of a field that may be missing, present in most samples and in the first.
        """
        shape, dtype = (n, *self.sizes), self.torch_dtype
        if self.kind == "mask" and len(shape) == 2:
            lengths = torch.randint(1, shape[1] + 1, (n, 1), generator=rng)
            return (torch.arange(shape[1]) < lengths).to(dtype)
        if self.kind == "present":
            there = torch.rand(shape, generator=rng) < 0.75
            there[:1] = True
            return there.to(dtype)
        if dtype.is_floating_point:
            drawn = torch.randn(shape, generator=rng, dtype=dtype)
            return drawn * drawn.new_tensor(self.std) + drawn.new_tensor(self.mean) if self.mean else drawn
        return torch.randint(0, self.n_values or 2, shape, generator=rng, dtype=dtype)

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


@dataclass(frozen=True)
class Batch:
    """Flat: named tensors (B, ...), lists of ragged tensors and texts, with the samples' stable ids."""

    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    lists: Mapping[str, list[Tensor]] = field(default_factory=dict)
    texts: Mapping[str, list[str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise KeyError(f"batch has no field '{name}'; it has {', '.join(self.tensors)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __len__(self) -> int:
        return len(self.ids)

    def having(self, **tensors: Tensor) -> Batch:
        """This batch with further or replaced tensors."""
        return replace(self, tensors={**self.tensors, **tensors})

    def rows(self, index: Tensor) -> Batch:
        """The samples at `index` (N,), in that order."""
        at = index.tolist()
        return Batch(
            tuple(self.ids[i] for i in at),
            {name: tensor[index] for name, tensor in self.tensors.items()},
            {name: [items[i] for i in at] for name, items in self.lists.items()},
            {name: [items[i] for i in at] for name, items in self.texts.items()},
        )

    def to(self, device: torch.device) -> Batch:
        """On a device; maps (B, C, H, W) channels-last, which convolutions run fastest in."""
        return replace(
            self,
            tensors={name: placed(tensor, device) for name, tensor in self.tensors.items()},
            lists={name: [item.to(device) for item in items] for name, items in self.lists.items()},
        )


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
    return tensor.to(device, non_blocking=True, memory_format=layout)


class Split(Protocol):
    """Samples in a fixed order; `ids` are stable for ever and unique within the data set."""

    @property
    def ids(self) -> Sequence[str]: ...

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        """Collate the samples at `index`. With `augment`, sample i is changed by a generator seeded by (seed, its id)."""


class DataSource(Protocol):
    """An opened data set. `facts`: JSON-able: `classes` (names), `source`, licence, `notes` (sentences that the
    study's own notes begin with), and whatever a report should show."""

    @property
    def fields(self) -> tuple[Field, ...]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def split(self, name: str) -> Split:
        """Raise DataError naming the splits there are. A data set has at least `train`."""

    @property
    def splits(self) -> tuple[str, ...]: ...


def split_of(splits: Mapping[str, Split], name: str) -> Split:
    """One of a source's splits. Raise DataError, which names those that are there."""
    if name not in splits:
        raise DataError(f"no split '{name}'", nearest=nearest(name, splits), expected=one_of(splits))
    return splits[name]


@runtime_checkable
class Measured(Protocol):
    """A source whose samples depend on statistics of its training samples, such as a mean: it can take them anew.

    The host asks for it after the splits are made, so that nothing held out is measured.
    """

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> DataSource:
        """The same samples by what those of `train` with these `ids` hold; of targets, by those of `labeled` alone.

        `labeled` are the ones of `ids` whose targets the study sees: it hides the others'.
        """


@runtime_checkable
class Carries(Protocol):
    """A source that makes inputs of something else, such as a tokenizer of texts: what that takes goes along with a student."""

    def files(self) -> Mapping[str, bytes]:
        """Name -> content, written beside the exported files and named in their cards.

        One of them may be `prepare.py`, a Python file without kdsearch that has `inputs(sample: str, files: Mapping[str, Path])
        -> dict[str, numpy array]`: the input fields of one sample, (1, ...) each, as a batch has them. `sample` is what a user
        types, `files` has the paths of these files by name. `predict.py` beside the files calls it.
        """


@runtime_checkable
class Encodes(Protocol):
    """A source of texts: gives for a text what its own samples hold of theirs, so that a recipe's texts become samples too."""

    def encode(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Tensor]:
        """Field -> (B, ...) of B texts by name, as `load` would collate them."""


@runtime_checkable
class Decodes(Protocol):
    """A source of tokens that says what they stand for, so that figures show what networks write."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these token ids; padding and boundaries are nothing."""
