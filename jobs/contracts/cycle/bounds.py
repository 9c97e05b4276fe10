"""The bounded types that a cycle's fields are made of, and the base of its models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from jobs.contracts.stages import STAGES

DAY_SECONDS = 86_400
YEAR_SECONDS = 366 * DAY_SECONDS

PATTERN_WORDS: dict[str, str] = {}
"""What a regular expression asks for, in the words of an error message."""


def text(max_length: int, pattern: str | None = None, words: str = "") -> Any:
    """A string of 1 to max_length characters that fits a pattern, which `words` says to people."""
    if pattern:
        PATTERN_WORDS[pattern] = words
    return StringConstraints(min_length=1, max_length=max_length, pattern=pattern)


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Rules of CEL, each with its message, as a schema's extra: the API server's half of a validator in Python."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def _entries(value: Any) -> Any:
    """What the API server makes of a map: null is no entry, and `3.0` is 3, for JSON knows one kind of number."""
    return {key: _whole(one) for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


ENTRIES = BeforeValidator(_entries)
"""On every map of a cycle."""

# Go's \s and \d are ASCII's, pydantic's all of Unicode's: patterns that both read say what they mean.
_WORD = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SOLID = r"[^\t\n\f\r @]"

Name = Annotated[str, text(63, rf"^{_WORD}(\.{_WORD})*$", "lower-case letters and digits, with - or . between them")]
"""A name that may stand in a label, a Job's name and an object key."""
Place = Annotated[str, text(1024)]
"""A path, or a URL."""
Address = Annotated[str, text(320, rf"^{_SOLID}+@{_SOLID}+$", "an address such as ann@example.org")]
Pattern = Annotated[str, text(320)]
"""Compared without regard to case; `*` and `?` stand for any characters and any one."""
LabelKey = Annotated[str, text(317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64), ENTRIES]
Quantity = Annotated[
    Annotated[int, Field(ge=0, le=2**53)]
    | Annotated[
        str,
        text(32, r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$", "a quantity such as 500m or 8Gi"),
    ],
    Field(union_mode="left_to_right"),
]
"""A number, or one with a unit, such as 500m or 8Gi."""
Ratio = Annotated[
    str,
    text(
        16,
        r"^([0-9]{1,4}:[1-9][0-9]{0,3}|0|0?\.[0-9]{1,6})$",
        'replay to new, such as 1:4, or a share below 1, such as "0.2"',
    ),
]
StageName = Literal["parse", "split", "window", "rehearse", "sample", "train", "index", "evaluate", "select", "promote"]
assert get_args(StageName) == tuple(row.name for row in STAGES)


class CycleModel(BaseModel):
    """Base of all: camelCase in the file, unknown fields refused, docstrings as descriptions.

    It takes what the API server takes: no text for a number, and a field that is null is one that is absent.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _as_the_api_server_reads(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
        unknown = {name: one for name, one in value.items() if name not in known}
        return unknown | _entries({name: one for name, one in value.items() if name in known})
