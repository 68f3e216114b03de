"""The study's JSON Schema for editors: names of what is installed, and by the name its options with what may be searched."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdsearch.errors import KdsearchError
from kdsearch.study.names import COMPOSITES, SEARCHED
from kdsearch.study.schema import Config

if TYPE_CHECKING:
    from kdsearch.host import Host

Json = dict[str, Any]

# section -> kind, where a section stands for one kind only
_SECTIONS = {
    "Data": "dataset",
    "Teacher": "teacher",
    "DistillerUse": "distiller",
    "Prune": "pruner",
    "Sparsify": "sparsifier",
    "Quantize": "quantizer",
}
# (section, key) -> kind, where the plain `Use` stands
_PLACES = {
    ("Config", "task"): "task",
    ("Config", "metrics"): "metric",
    ("Data", "recipes"): "data_recipe",
    ("Recipe", "procedure"): "procedure",
    ("Search", "proxy"): "proxy",
    ("Search", "strategy"): "controller",
    ("Refine", "controller"): "controller",
    ("Refine", "stopper"): "stopper",
    ("Export", "exporter"): "exporter",
    ("Run", "executor"): "executor",
    ("Run", "log"): "logger",
}
_RANGE: Json = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "log": {"type": "boolean"}},
            "required": ["low", "high"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"choices": {"type": "array", "minItems": 1}},
            "required": ["choices"],
            "additionalProperties": False,
        },
    ]
}


def study_schema(host: Host) -> Json:
    """JSON Schema (draft 2020-12). A capability that cannot be imported is named without its options."""
    schema = Config.model_json_schema()
    defs: Json = schema["$defs"]
    plain = defs.pop("Use")
    for section, kind in _SECTIONS.items():
        _narrow(defs, defs[section], host, kind)
    for (section, key), kind in _PLACES.items():
        owner = schema if section == "Config" else defs[section]
        name = f"Use_{kind}"
        if name not in defs:
            defs[name] = copy.deepcopy(plain)
            _narrow(defs, defs[name], host, kind)
        owner["properties"][key] = _repoint(owner["properties"][key], "#/$defs/Use", f"#/$defs/{name}")
    _student(defs, host)
    _searched_settings(defs)
    alone = {name: _names(host, kind) for name, kind in _SECTIONS.items()}
    alone |= {f"Use_{kind}": _names(host, kind) for kind in _PLACES.values()}
    alone["Student"] = {"anyOf": defs["Student"]["properties"]["space"]["anyOf"]}
    alone["Schedule"] = {"enum": defs["Schedule"]["properties"]["kind"]["enum"]}
    alone["Compress"] = {
        "type": "array",
        "items": {"$ref": "#/$defs/CompressStep"},
    }  # a list alone is that of its steps
    schema = _or_name(schema, alone)
    _proxy(schema["$defs"]["Search"]["properties"]["proxy"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "kdsearch study"}


def _or_name(schema: Any, alone: Mapping[str, Json]) -> Any:
    """Wherever one of these sections may stand, its short form may too: mostly its capability's name alone."""
    if isinstance(schema, list):
        return [_or_name(each, alone) for each in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name in alone:
        about = {key: value for key, value in schema.items() if key != "$ref"}
        return {**about, "anyOf": [alone[name], {"$ref": schema["$ref"]}]}
    return {key: _or_name(value, alone) for key, value in schema.items()}


def _names(host: Host, kind: str) -> Json:
    return {
        "anyOf": [
            {"enum": [*(COMPOSITES if kind == "proxy" else ()), *host.names(kind), *host.members(kind)]},
            {"type": "string", "pattern": f"^[^:]+:{kind}:[^:]+$"},
        ]
    }


def _narrow(defs: Json, section: Json, host: Host, kind: str) -> None:
    """`use` is one of the installed names; by the name, `options` are that capability's."""
    section["properties"]["use"] = {**section["properties"]["use"], **_names(host, kind)}
    section["properties"]["use"].pop("type", None)
    by_name = [
        {
            "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
            "then": {"properties": {"options": options}},
        }
        for name, options in _every(defs, host, kind, ranges=kind in SEARCHED)
    ]
    section |= {"allOf": by_name} if by_name else {}  # of some kinds nothing may be installed


def _proxy(schema: Json) -> None:
    """A name, or a list of names and sections: other texts are none."""
    text = {"type": "string"}
    for branch in schema["anyOf"]:
        if branch.get("type") == "array":
            branch["items"]["anyOf"] = [each for each in branch["items"]["anyOf"] if each != text]
    schema["anyOf"] = [each for each in schema["anyOf"] if each != text]


def _student(defs: Json, host: Host) -> None:
    section = defs["Student"]
    names = _names(host, "search_space")
    names["anyOf"].append({"type": "string", "pattern": r"\.py:"})
    section["properties"]["space"] = {**section["properties"]["space"], **names}
    section["properties"]["space"].pop("type", None)
    section["allOf"] = [
        {
            "if": {"properties": {"space": {"const": name}}, "required": ["space"]},
            "then": {"properties": {"spec": spec}},
        }
        for name, spec in _every(defs, host, "search_space", ranges=True)
    ]


def _every(defs: Json, host: Host, kind: str, ranges: bool) -> list[tuple[str, Json]]:
    found = []
    for name in (*host.names(kind), *host.members(kind)):
        try:
            cls = host.load_class(kind, name)
        except KdsearchError:
            continue
        prefix = f"{kind}.{name}."
        options = cls.options_class.model_json_schema(ref_template="#/$defs/" + prefix + "{model}")
        for inner, schema in options.pop("$defs", {}).items():
            defs[prefix + inner] = schema
        if ranges:
            options["properties"] = {key: _or_range(value) for key, value in options.get("properties", {}).items()}
            options.pop("required", None)
        found.append((name, options))
    return found


def _or_range(schema: Json) -> Json:
    about: Json = {key: schema[key] for key in ("description", "default", "title") if key in schema}
    bare = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": [bare, {"const": "search"}, *_RANGE["anyOf"]]}


def _searched_settings(defs: Json) -> None:
    """Weights and training settings, which the section's own schema leaves open."""
    from kdsearch.study.recipe import Searched

    weight = {"type": "number", "minimum": 0}
    distiller = defs["DistillerUse"]["properties"]
    distiller["weight"] = _or_range({**distiller["weight"], **weight})
    distiller["weights"] = {**distiller["weights"], "additionalProperties": _or_range(weight)}
    recipe = defs["Recipe"]["properties"]
    recipe["task_weight"] = _or_range({**recipe["task_weight"], **weight})
    train, searched = defs["Train"]["properties"], Searched.model_json_schema()["properties"]
    for name, schema in searched.items():
        train[name] = _or_range({**schema, **{key: train[name][key] for key in ("description", "default")}})


def _repoint(schema: Any, old: str, new: str) -> Any:
    if isinstance(schema, dict):
        return {
            key: new if key == "$ref" and value == old else _repoint(value, old, new) for key, value in schema.items()
        }
    return [_repoint(each, old, new) for each in schema] if isinstance(schema, list) else schema
