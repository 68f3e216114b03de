"""The recipe that a paper trains by, as a study's `recipe:`: what its plugin ships of it, checked as a study is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdsearch.errors import KdsearchError, PluginError, one_of
from kdsearch.study.complaints import as_study_error
from kdsearch.study.schema import Recipe

if TYPE_CHECKING:
    from kdsearch.host import Host

KINDS = ("distiller", "procedure")


def paper_recipe(host: Host, name: str) -> dict[str, Any]:
    """The keys of `recipe:` for a distiller or procedure of that name: its `paper_recipe`, in the paper's own constants.

    Raises:
        PluginError: it is neither, or what it ships is no recipe, with the key.
    """
    kind, _, bare = name.rpartition(":")
    kinds = [each for each in KINDS if kind in ("", each) and bare in host.names(each)]
    if not kinds:
        expected = f"one of {one_of(found for each in KINDS for found in host.names(each))}"
        raise PluginError(f"'{name}' is no distiller and no procedure: it has no recipe", expected=expected)
    cls = host.load_class(kinds[0], bare)
    fields = cls.options_class.model_fields
    usual = {
        name: info.get_default(call_default_factory=True) for name, info in fields.items() if not info.is_required()
    }
    named = {"use": bare, **({"options": usual} if usual else {})}
    use = {"distillers": [named]} if kinds[0] == "distiller" else {"procedure": named}
    found = json.loads(json.dumps({"task_weight": 1.0, "normalize": False, **use, **cls.paper_recipe}))
    try:
        recipe = Recipe.model_validate_json(json.dumps(found))
        _check_options(host, recipe)
    except ValidationError as error:
        problem = str(as_study_error(error, Recipe, found))
        raise PluginError(f"the recipe of {kinds[0]} '{bare}' is none: {problem}") from None
    except KdsearchError as error:
        raise PluginError(f"the recipe of {kinds[0]} '{bare}' is none: {error}") from None
    return found  # type: ignore[no-any-return]


def _check_options(host: Host, recipe: Recipe) -> None:
    from kdsearch.kinds.options import searchable
    from kdsearch.study.recipe import Searched

    uses = [("distiller", each, f"distillers[{i}]") for i, each in enumerate(recipe.distillers)]
    for kind, use, path in [*uses, ("procedure", recipe.procedure, "procedure")]:
        searchable(host.load_class(kind, use.use).options_class, use.options, f"{path}.options")
    written = recipe.train.model_dump()
    searchable(Searched, {name: written[name] for name in Searched.model_fields}, "train")
