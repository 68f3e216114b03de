"""A capability's options in words: name, type, default, valid range, search range, description."""

from __future__ import annotations

from typing import Any

from kdsearch.kinds.options import Capability, Options, Range, declared_range

_BOUNDS = {"exclusiveMinimum": "> {}", "minimum": ">= {}", "exclusiveMaximum": "< {}", "maximum": "<= {}"}
_LENGTHS = {"minItems": "at least {} items", "maxItems": "at most {} items", "pattern": "like {}"}


def options_of(cls: type[Capability]) -> list[dict[str, Any]]:
    """One dictionary of JSON values an option, in the order of declaration."""
    options: type[Options] = cls.options_class
    schema = options.model_json_schema()
    found = []
    for name, info in options.model_fields.items():
        declared, own = declared_range(options, name), schema["properties"][name]
        found.append(
            {
                "name": name,
                "type": type_in_words(own, schema.get("$defs", {})),
                "required": info.is_required(),
                "default": own.get("default"),
                "range": bounds(own),
                "search": range_in_words(declared) if declared else "",
                "description": info.description or "",
            }
        )
    return found


def range_in_words(declared: Range) -> str:
    """`1..8 (log)`, `1, 3`; `each` where it holds for every element."""
    if declared.choices:
        text = ", ".join(str(choice) for choice in declared.choices)
    else:
        text = f"{declared.low:g}..{declared.high:g}" + (" (log)" if declared.log else "")
    text += f" for each of {declared.each}" if declared.each else ""
    for name, values in declared.when:
        text += f", where {name} is {' or '.join(map(str, values))}"
    return text


def type_in_words(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """A JSON Schema's type as a reader would say it."""
    if "$ref" in schema:
        return type_in_words(defs.get(schema["$ref"].rpartition("/")[2], {}), defs)
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(type_in_words(each, defs) for each in schema[several]))
    kind = schema.get("type", "any")
    if kind == "array":
        inner = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {type_in_words(inner, defs)}" if inner else "list"
    if kind == "object":
        return "section" if "properties" in schema else "keys and values"
    words = {"integer": "int", "number": "float", "string": "text", "boolean": "bool", "null": "none"}
    return words.get(str(kind), str(kind))


def bounds(schema: dict[str, Any]) -> str:
    """`> 0, <= 1`, or ""; of a union, those of its first branch that has some."""
    found = [text.format(schema[key]) for key, text in {**_BOUNDS, **_LENGTHS}.items() if key in schema]
    if found:
        return ", ".join(found)
    branches = [bounds(each) for each in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ()))]
    return next((each for each in branches if each), "")
