"""From a pydantic model to a structural schema, the dialect of OpenAPI that a CustomResourceDefinition speaks.

Pure. The model's JSON schema is rewritten node by node: `$ref` inlined; `title` and null dropped, for the API
server drops null itself; exclusive bounds in the boolean form; `const` as an enumeration of one; a number or a
text as int-or-string; what names of a map may be as a CEL rule. A keyword that has no counterpart is an error,
so that nothing which a model checks is lost in silence.

Rules that span fields stand with the models, as `x-kubernetes-validations` beside the validator in Python.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = {
    *("description", "type", "format", "default", "enum", "required"),
    *(
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    ),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations"),
}
_DROPPED = {"title", "$defs", "discriminator"}
_NULL = {"type": "null"}
_INT_OR_STRING = ["integer", "string"]


def structural_schema(model: type[BaseModel], without: Collection[str] = ()) -> Schema:
    """The model's schema, by the names that its fields have in a file, without some keywords.

    Raises ValueError for what cannot be said in a structural schema.
    """
    document = model.model_json_schema(by_alias=True)
    return _node(document, document.get("$defs", {}), without)


def _node(schema: Schema, definitions: Schema, without: Collection[str]) -> Schema:
    schema = _without_null(_inlined(schema, definitions), definitions)
    made: Schema = {}
    for keyword, value in schema.items():
        match keyword:
            case "properties":
                made[keyword] = {name: _node(one, definitions, without) for name, one in value.items()}
            case "items":
                made[keyword] = _node(value, definitions, without)
            case "additionalProperties":
                made |= _additional(value, definitions, without)
            case "propertyNames":
                _add_rules(made, [_rule_for_names(value)])
            case "x-kubernetes-validations":
                _add_rules(made, value)
            case "exclusiveMinimum" | "exclusiveMaximum":
                made |= {keyword.removeprefix("exclusive").lower(): value, keyword: True}
            case "const":
                made["enum"] = [value]
            case "default":
                made |= {} if value is None else {keyword: _dense(value)}
            case "anyOf":
                made |= _int_or_string(value)
            case _ if keyword in _KEPT:
                made[keyword] = value
            case _ if keyword not in _DROPPED:
                raise ValueError(f"{keyword}: a structural schema has no such keyword")
    return {keyword: value for keyword, value in made.items() if keyword not in without}


def _inlined(schema: Schema, definitions: Schema) -> Schema:
    """What a `$ref` points at, with what stands beside it: a field's own description wins over its model's."""
    if "$ref" not in schema:
        return schema
    beside = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
    return {**definitions[schema["$ref"].removeprefix("#/$defs/")], **beside}


def _without_null(schema: Schema, definitions: Schema) -> Schema:
    """X of `anyOf: [X, null]`. That a field may be absent is said by `required`."""
    options = [one for one in schema.get("anyOf", []) if one != _NULL]
    if len(options) != 1:
        return schema
    beside = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
    return {**_inlined(options[0], definitions), **beside}


def _additional(value: bool | Schema, definitions: Schema, without: Collection[str]) -> Schema:  # noqa: FBT001
    """Values of a map. Unknown fields are refused by every structural schema: False needs no words."""
    if isinstance(value, bool):
        return {"x-kubernetes-preserve-unknown-fields": True} if value else {}
    return {"additionalProperties": _node(value, definitions, without)}


def _int_or_string(options: list[Schema]) -> Schema:
    """A whole number or a text. Bounds of the one do not hold for the other, so they may stand side by side."""
    kinds = [one.get("type") for one in options]
    if kinds != _INT_OR_STRING:
        raise ValueError(f"anyOf {kinds}: a structural schema can say no more than an integer or a string")
    bounds = {keyword: value for one in options for keyword, value in one.items() if keyword != "type"}
    return {"anyOf": [{"type": kind} for kind in kinds], "x-kubernetes-int-or-string": True, **bounds}


def _rule_for_names(names: Schema) -> Schema:
    if "enum" in names:
        known = ", ".join(names["enum"])
        return {
            "rule": f"self.all(name, name in {names['enum']})",
            "message": f"there are {known}",
        }
    least, most = names.get("minLength", 0), names["maxLength"]
    return {
        "rule": f"self.all(name, size(name) >= {least} && size(name) <= {most})",
        "message": f"a name has {least} to {most} characters",
    }


def _add_rules(schema: Schema, rules: list[Schema]) -> None:
    schema["x-kubernetes-validations"] = [*schema.get("x-kubernetes-validations", []), *rules]


def _dense(value: Any) -> Any:
    """A default without its nulls, which stand for fields that are absent."""
    if isinstance(value, dict):
        return {name: _dense(one) for name, one in value.items() if one is not None}
    return value
