"""From a file to a RetrainCycle, or to one message that says what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from jobs.contracts.cycle.bounds import PATTERN_WORDS, StageName
from jobs.contracts.cycle.spec import RetrainCycle
from jobs.contracts.errors import ConfigError
from jobs.contracts.yaml_file import Document, Location, read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def load_cycle(path: Path, fill: Callable[[Any], Any] = lambda value: value) -> RetrainCycle:
    """The cycle of a YAML file, `-` for standard input; `fill` makes what is checked of what the file holds.

    Raises MissingInputError, and one ConfigError that names the first wrong field and its line.
    """
    document = read_yaml(path)
    try:
        return RetrainCycle.model_validate(fill(document.value), by_alias=True, by_name=False)
    except ValidationError as error:
        raise _config_error(path, document, error) from error


def json_schema() -> dict[str, Any]:
    """JSON schema of the file, for editors."""
    return RetrainCycle.model_json_schema(by_alias=True)


def _config_error(path: Path, document: Document, error: ValidationError) -> ConfigError:
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: document.line(problem["loc"]))
    location = first["loc"]
    what, hint = _words(first)
    if len(problems) > 1:
        hint = "\n  ".join(filter(None, (hint, f"({len(problems) - 1} more in this file)")))
    return ConfigError(what, where=f"{path}, line {document.line(location)}: {_dotted(location)}", hint=hint)


def _words(problem: ErrorDetails) -> tuple[str, str]:
    """What is wrong, and what to do, in words for people."""
    given = _shown(problem["input"])
    match problem["type"]:
        case "missing":
            return "is required", ""
        case "extra_forbidden":
            return "there is no such field", _nearest(problem["loc"])
        case "value_error":
            return str(problem["ctx"]["error"]), ""
        case "string_pattern_mismatch":
            return f"should be {PATTERN_WORDS[problem['ctx']['pattern']]}, not {given}", ""
        case "model_type" | "model_attributes_type":
            return f"should be a map of fields, not {given}", ""
        case _:
            is_bare = problem["type"] == "string_type" and isinstance(problem["input"], int | float)
            hint = f'put it in quotation marks: "{given}"' if is_bare else ""
            return f"{problem['msg'][:1].lower()}{problem['msg'][1:]}, not {given}", hint


def _dotted(location: Location) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location if step != "[key]")
    return text.removeprefix(".") or "the file"


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(location: Location) -> str:
    """A hint with the fields that a misspelt one may have been."""
    model: type[BaseModel] | None = RetrainCycle
    for step in location[:-1]:
        if isinstance(step, str) and model is not None:
            model = _field_model(model, step)
    names = [field.alias or name for name, field in model.model_fields.items()] if model else []
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]}?" if close else f"the fields here are {', '.join(names)}" if names else ""


def _field_model(model: type[BaseModel], step: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if step in (name, field.alias):
            candidates = [field.annotation, *get_args(field.annotation)]
            return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return model if step in get_args(StageName) else None
