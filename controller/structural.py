"""From a pydantic model to a structural schema, the dialect of OpenAPI that a CustomResourceDefinition speaks.

Pure. The model's JSON schema is rewritten node by node: `$ref` inlined; `title` and null dropped, for the API
server drops null itself; exclusive bounds in the boolean form; `const` as an enumeration of one; a number or a
text as int-or-string; what names of a map may be as a CEL rule. A keyword that has no counterpart is an error,
so that nothing which a model checks is lost in silence.

Rules that span fields stand with the models, as `x-kubernetes-validations` beside the validator in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_RULES = "x-kubernetes-validations"


def structural_schema(model: type[BaseModel], without: Collection[str] = ()) -> Schema:
    """The model's schema, by the names that its fields have in a file, without some keywords.

    Raises ValueError for what cannot be said in a structural schema.
    """
    document = model.model_json_schema(by_alias=True)
    return _Rewriting(document.get("$defs", {}), without).node(document)


class _Rewriting:
    """Of one model's JSON schema."""

    def __init__(self, definitions: Schema, without: Collection[str]) -> None:
        self._definitions = definitions
        self._without = without

    def node(self, schema: Schema) -> Schema:
        """A node and all below it."""
        made: Schema = {}
        for keyword, value in self._without_null(self._inlined(schema)).items():
            for said, what in self._keyword(keyword, value).items():
                # Rules come from names of a map and from the model.
                made[said] = [*made.get(said, []), *what] if said == _RULES else what
        in_order = sorted(made, key=lambda keyword: (keyword != "description", keyword != "type"))
        return {keyword: made[keyword] for keyword in in_order if keyword not in self._without}

    def _keyword(self, keyword: str, value: Any) -> Schema:
        """What a structural schema says instead of one keyword."""
        rewritten: dict[str, Callable[[Any], Schema]] = {
            "properties": self._properties,
            "items": lambda one: {"items": self.node(one)},
            "additionalProperties": self._additional,
            "propertyNames": lambda names: {_RULES: [_rule_for_names(names)]},
            "exclusiveMinimum": lambda bound: {"minimum": bound, keyword: True},
            "exclusiveMaximum": lambda bound: {"maximum": bound, keyword: True},
            "const": lambda only: {"enum": [only]},
            "default": lambda default: {} if default is None else {keyword: _dense(default)},
            "anyOf": _int_or_string,
            "minimum": lambda bound: {keyword: bound} | _fraction(f"self >= {bound}", bound),
            "maximum": lambda bound: {keyword: bound} | _fraction(f"self <= {bound}", bound),
        }
        if keyword in rewritten:
            return rewritten[keyword](value)
        if keyword in _KEPT:
            return {keyword: value}
        if keyword in _DROPPED:
            return {}
        raise ValueError(f"{keyword}: a structural schema has no such keyword")

    def _properties(self, properties: Schema) -> Schema:
        return {"properties": {name: self.node(one) for name, one in properties.items()}}

    def _additional(self, values: Any) -> Schema:
        """Values of a map. A structural schema refuses unknown fields as it is: False needs no words."""
        if isinstance(values, bool):
            return {"x-kubernetes-preserve-unknown-fields": True} if values else {}
        return {"additionalProperties": self.node(values)}

    def _inlined(self, schema: Schema) -> Schema:
        """What a `$ref` points at, with what stands beside it: a field's own description wins over its model's."""
        if "$ref" not in schema:
            return schema
        beside = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        return {**self._definitions[schema["$ref"].removeprefix("#/$defs/")], **beside}

    def _without_null(self, schema: Schema) -> Schema:
        """X of `anyOf: [X, null]`. That a field may be absent is said by `required`."""
        options = [one for one in schema.get("anyOf", []) if one != _NULL]
        if len(options) != 1:
            return schema
        beside = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
        return {**self._inlined(options[0]), **beside}


def _int_or_string(options: list[Schema]) -> Schema:
    """A whole number or a text. Bounds of the one do not hold for the other, so they may stand side by side."""
    kinds = [one.get("type") for one in options]
    if kinds != ["integer", "string"]:
        raise ValueError(f"anyOf {kinds}: a structural schema can say no more than an integer or a string")
    bounds = {keyword: value for one in options for keyword, value in one.items() if keyword != "type"}
    return {"anyOf": [{"type": kind} for kind in kinds], "x-kubernetes-int-or-string": True, **bounds}


def _fraction(rule: str, bound: float) -> Schema:
    """The bound as a rule too: the API server rounds it down before it compares a whole number with it."""
    return {} if float(bound).is_integer() else {_RULES: [{"rule": rule, "message": rule.replace("self", "must be")}]}


def _rule_for_names(names: Schema) -> Schema:
    if "enum" in names:
        known = ", ".join(names["enum"])
        return {"rule": f"self.all(name, name in {names['enum']})", "message": f"there are {known}"}
    least, most = names.get("minLength", 0), names["maxLength"]
    return {
        "rule": f"self.all(name, size(name) >= {least} && size(name) <= {most})",
        "message": f"a name has {least} to {most} characters",
    }


def _dense(value: Any) -> Any:
    """A default without its nulls, which stand for fields that are absent."""
    if isinstance(value, dict):
        return {name: _dense(one) for name, one in value.items() if one is not None}
    return value
