"""The contract of data recipes, as tests.

# tests/test_my_recipe.py in your package; needs pytest
from kdsearch.testing.data_recipe import DataRecipeContract
from my_package.recipe import MyRecipe


class TestMyRecipe(DataRecipeContract):
    recipe = MyRecipe
    options = {"llm": "writer"}  # as in a study's `options:`

    def source(self):
        return MyTexts()

    def services(self):
        return site(writers={"writer": MyScripted()})
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdsearch.engine.recipe_source import Offered, RecordSource
from kdsearch.engine.setup import Site
from kdsearch.errors import PluginError
from kdsearch.kinds import Batch, DataRecipe, DataSource, Outputs, Predict, Record, Services, Writer
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import require


def site(
    writers: Mapping[str, Writer] | None = None,
    embedders: Mapping[str, Callable[[Sequence[str]], Tensor]] | None = None,
    networks: Mapping[str, Predict] | None = None,
    data: DataSource | None = None,
) -> Services:
    """Services with these text teachers and networks (functions of a batch), and with data for who asks for them."""
    made = _Answering(0, Path(), writers=writers or {}, embedders=embedders or {}, networks=networks or {})
    return made if data is None else replace(made, data=data)


@dataclass
class _Answering(Site):
    networks: Mapping[str, Predict] = field(default_factory=dict)

    def predict(self, model: str, batch: Batch, taps: Sequence[str] = ()) -> Outputs:
        if model not in self.networks:
            return super().predict(model, batch, taps)
        with torch.no_grad():
            return Outputs(self.networks[model](batch), owner=model)


class DataRecipeContract:
    """Inherit it as `TestX`, name the recipe, and give it a small source and the teachers that it asks."""

    recipe: ClassVar[type[DataRecipe[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}

    def source(self) -> DataSource:
        """With a split `train` of a few dozen samples."""
        raise NotImplementedError("override source()")

    def services(self) -> Services:
        return site()

    def made(self) -> DataRecipe[Any]:
        return self.recipe(validate(self.recipe.options_class, self.options))

    def records(self, keys: Sequence[str] | None = None) -> list[Record]:
        source, made = self.offered(), self.made()
        return list(made.make(list(made.keys(source)) if keys is None else keys, source, self.services()))

    def offered(self) -> DataSource:
        return Offered(self.source())

    def test_keys_are_stable_and_each_is_there_once(self) -> None:
        first, again = list(self.made().keys(self.offered())), list(self.made().keys(self.offered()))
        require(first == again, "two recipes of equal options name other keys")
        require(len(first) > 0, "no keys")
        require(len(set(first)) == len(first), "a key is there twice")
        require(all(isinstance(key, str) and key for key in first), "a key is no text")

    def test_there_is_one_record_a_key_in_order(self) -> None:
        keys = list(self.made().keys(self.offered()))
        require(
            [record.key for record in self.records()] == keys, "the records' keys are not those asked for, in order"
        )

    def test_records_are_json(self) -> None:
        for record in self.records():
            read = json.loads(json.dumps(dict(record.fields), allow_nan=False))
            require(read == dict(record.fields), f"record '{record.key}' reads back otherwise")

    def test_records_are_a_function_of_their_keys(self) -> None:
        """Not of the global random streams, of an earlier call, or, where there are chunks, of the others of the chunk."""
        torch.manual_seed(1)
        whole = self.records()
        torch.manual_seed(2)
        require(self.records() == whole, "asked again, the records are others")
        if self.recipe.chunk is not None:
            alone = [record for each in whole[:8] for record in self.records([each.key])]
            require(
                alone == whole[:8], "a record depends on the other keys of its chunk; `chunk = None` makes all at once"
            )

    def test_the_test_split_is_not_read(self) -> None:
        try:
            self.records()
        except PluginError as error:
            require("test split" not in error.problem, error.problem)

    def test_rejected_records_say_why_and_some_are_kept(self) -> None:
        whole = self.records()
        require(all(isinstance(record.rejected, str) for record in whole), "`rejected` is no text")
        require(any(not record.rejected for record in whole), "every record is rejected")

    def test_kept_records_are_data(self) -> None:
        """With a split `train` whose fields are the source's inputs and targets."""
        source = self.offered()
        kept = [record for record in self.records() if not record.rejected]
        found = self.made().open(kept, source) or RecordSource(kept, source)
        split = found.split("train")
        require(len(split.ids) > 0, "`train` is empty")
        require(len(set(split.ids)) == len(split.ids), "`train` has an id twice")
        batch = split.load([0, len(split.ids) - 1])
        for each in source.fields:
            if each.use == "extra":
                continue
            require(each.name in batch, f"a sample has no '{each.name}'")
            got = batch[each.name]
            require(got.dtype == each.torch_dtype, f"'{each.name}' is {got.dtype}, in the source {each.dtype}")
            fits = len(got.shape) == 1 + len(each.shape)
            fits = fits and all(b in (None, a) for a, b in zip(got.shape[1:], each.shape, strict=True))
            require(fits, f"'{each.name}' is {tuple(got.shape[1:])}, in the source {each.shape}")
