"""The package's recipes against the contract, and recipes that break it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from kdsearch.engine.splits import arrange
from kdsearch.kinds import DataSource, NoOptions, Record, Services
from kdsearch.testing.contract import failures
from kdsearch.testing.data_recipe import DataRecipeContract, site
from tests.outside.conftest import HERE

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(HERE))
    from kdsearch_texts.recipes import Labelled, Novel, Written
    from kdsearch_texts.scripted import Scripted, ScriptedOptions
    from kdsearch_texts.topics import TopicsOptions, TopicsSource


class OverTexts(DataRecipeContract):
    def source(self) -> DataSource:
        return arrange(TopicsSource(TopicsOptions(n=60)), labeled=12, validation=0.2, test=0.2)

    def services(self) -> Services:
        teacher = Scripted(ScriptedOptions())
        writers = {"writer": teacher.writer(site())}
        return site(writers, {"writer": lambda texts: teacher.embed(texts, site())})


class TestLabelled(OverTexts):
    recipe = Labelled


class TestWritten(OverTexts):
    recipe = Written
    options: ClassVar[Mapping[str, Any]] = {"each": 4}


class TestNovel(OverTexts):
    recipe = Novel

    def source(self) -> DataSource:
        return arrange(TopicsSource(TopicsOptions(n=60)), labeled=1.0, validation=0.2, test=0.2)


def broken(**methods: Any) -> type[DataRecipeContract]:
    class Broken(Labelled):
        options_class = Labelled.options_class

    for name, method in methods.items():
        setattr(Broken, name, method)
    return type("TestBroken", (OverTexts,), {"recipe": Broken})


def drawn(self: Any, keys: Any, source: Any, services: Any) -> Any:
    return (Record(key, {"label": int(torch.randint(3, ()))}) for key in keys)


def counted(self: Any, keys: Any, source: Any, services: Any) -> Any:
    return (Record(key, {"label": min(i, 2)}) for i, key in enumerate(keys))


def peeping(self: Any, keys: Any, source: Any, services: Any) -> Any:
    source.split("test")
    return []


@pytest.mark.parametrize(
    ("methods", "test", "match"),
    [
        ({"make": drawn}, "test_records_are_a_function_of_their_keys", "asked again"),
        ({"make": counted}, "test_records_are_a_function_of_their_keys", "depends on the other keys"),
        ({"make": peeping}, "test_the_test_split_is_not_read", "asked for the test split"),
        ({"keys": lambda self, source: ["a", "a"]}, "test_keys_are_stable_and_each_is_there_once", "twice"),
        (
            {"make": lambda self, keys, source, services: [Record(key, {"label": 0}, "no") for key in keys]},
            "test_rejected_records_say_why_and_some_are_kept",
            "every record is rejected",
        ),
        (
            {"make": lambda self, keys, source, services: [Record(f"new-{key}", {"label": 0}) for key in keys]},
            "test_kept_records_are_data",
            "no 'tokens'",
        ),
    ],
)
def test_the_contract_catches(methods: Any, test: str, match: str) -> None:
    found = failures(broken(**methods))
    assert match in found.get(test, ""), found


def test_a_recipe_without_options_and_teachers_conforms() -> None:
    class Shorter(DataRecipeContract):
        source = OverTexts.source

        class recipe(Labelled):  # noqa: N801 - stands for an attribute
            options_class = NoOptions

            def make(self, keys: Any, source: Any, services: Any) -> Any:
                return (Record(key, {"label": 0}) for key in keys)

    assert failures(Shorter) == {}
