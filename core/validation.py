"""Turns pydantic's findings into the one `InputError` that helps most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .errors import InputError, closest, shorten

__all__ = ["Lines", "field_path", "line_of", "place_of", "to_input_error"]

Location = tuple[Any, ...]
Lines = Mapping[Location, int]
"""Line (from 1) at which each value of a file stands, by its location, e.g. ``("shots", 2, "seconds")``."""

_TYPES = {
    "string_type": "must be text",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping (name: value)",
    "model_type": "must be a mapping (field: value)",
    "model_attributes_type": "must be a mapping (field: value)",
    "finite_number": "must be a finite number",
    "invalid_key": "must have text as field names",
}
_NAME = 40  # longest field name in a message
_BOUNDS = {
    "greater_than": ("must be greater than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
}


def field_path(location: Location) -> str:
    """``("shots", 2, "seconds")`` → ``shots[2].seconds``."""
    text = ""
    for part in location:
        if part == "[key]":
            continue
        name = part if isinstance(part, int) else shorten(str(part), _NAME)
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text or "storyboard"


def line_of(location: Location, lines: Lines) -> int | None:
    """Line of the value at `location`, or of the nearest thing around it."""
    for end in range(len(location), -1, -1):
        if location[:end] in lines:
            return lines[location[:end]]
    return None


def to_input_error(
    error: ValidationError, model_at: Callable[[Location], type[BaseModel] | None], lines: Lines, source: str
) -> InputError:
    """Choose the finding to report and word it.

    Args:
        error: what pydantic found.
        model_at: the model whose fields stand at a location; for field names and examples in the fix.
        lines: lines of the source file, may be empty.
        source: name of the source file, may be empty.
    """
    findings = error.errors(include_url=False)

    def rank(finding: Any) -> int:
        # A misspelt field often shows up twice, as unknown and as missing; the unknown one tells the cure.
        return 0 if finding["type"] == "extra_forbidden" else 1

    finding = min(findings, key=rank)
    location: Location = finding["loc"]
    found = _word(finding, location, model_at)
    path = ".".join(p for p in (field_path(location) if location else "", found.field) if p) or "storyboard"
    line = line_of((*location, *_parse(found.field)), lines)
    return InputError(path, found.rule, found.value, found.fix, place_of(source, line))


def place_of(source: str, line: int | None) -> str:
    """Where in a file, or in a text without a name, a line is: ``film.yaml line 8``, ``line 8``, ``film.yaml``."""
    return " ".join(part for part in (source, f"line {line}" if line else "") if part)


def _parse(path: str) -> list[Any]:
    """``shots[2].seconds`` → ``["shots", 2, "seconds"]``."""
    parts = path.replace("]", "").replace("[", ".").split(".")
    # isdigit() also holds for ² and the like, which int() refuses.
    return [int(p) if p.isascii() and p.isdigit() and len(p) < 10 else p for p in parts if p]


def _example(location: Location, model_at: Callable[[Location], type[BaseModel] | None]) -> str | None:
    for end in range(len(location), 0, -1):
        model = model_at(location[: end - 1])
        field = model.model_fields.get(str(location[end - 1])) if model else None
        if field is not None:
            return _flow(field.examples[0]) if field.examples else None
    return None


def _flow(example: Any) -> str:
    """An example as one would write it in the file."""
    if not isinstance(example, list | dict):
        return str(example)
    return yaml.safe_dump(example, default_flow_style=True, sort_keys=False, width=10**6).strip()


def _word(finding: Any, location: Location, model_at: Callable[[Location], type[BaseModel] | None]) -> InputError:
    """The finding as an InputError whose field is relative to `location`."""
    kind, value, context = finding["type"], finding["input"], finding.get("ctx", {})
    example = _example(location, model_at)
    such = f"write e.g. {example}" if example else "correct it"
    name = location[-1] if location else "storyboard"
    if isinstance(inner := context.get("error"), InputError):
        return inner
    if kind == "extra_forbidden":
        model = model_at(location[:-1])
        known = list(model.model_fields) if model else []
        near = closest(name, known, cutoff=0.72)
        fix = f"did you mean `{near}`?" if near else f"remove it; the fields here are {', '.join(known)}"
        return InputError("", "is not a known field", name, fix)
    if kind == "missing":
        return InputError("", "is required", None, such if example else f"add `{name}`")
    if kind in _TYPES:
        if kind == "string_type" and value is not None and not isinstance(value, list | dict):  # 7, yes, 2024-01-01
            such = "put it in quotes"
        elif kind in ("float_type", "int_type") and isinstance(value, str):
            such = f"write a plain number without quotes or units{f', e.g. {example}' if example else ''}"
        return InputError("", _TYPES[kind], value, such)
    if kind in _BOUNDS:
        rule, bound = _BOUNDS[kind]
        limit = context[bound]
        limit = int(limit) if limit == int(limit) else limit
        return InputError("", rule.format(limit), value, such if example else f"use e.g. {limit}")
    if kind == "multiple_of":
        step = context["multiple_of"]
        below = value // step * step
        return InputError("", f"must be a multiple of {step}", value, f"use {below or step} or {below + step}")
    if kind == "literal_error":
        # pydantic words the choices only as text: 'cut' or 'blend'; terms may hold an apostrophe.
        model = model_at(location[:-1])
        choices = _choices(model, str(name)) if model else []
        near = closest(value, choices) if isinstance(value, str) else None
        fix = f"did you mean `{near}`?" if near else "use one of these"
        return InputError("", f"must be one of {', '.join(choices)}", value, fix)
    if kind == "string_too_long":
        return InputError("", f"must have at most {context['max_length']} characters", f"{len(value)}", "shorten it")
    if kind == "string_too_short":
        return InputError("", "must not be empty", value, such)
    if kind == "string_pattern_mismatch":
        if location and location[-1] == "[key]" and "<>" in context["pattern"]:
            rule = "must be a name of 1 to 40 characters without < > : or line breaks"
        else:
            rule = "must be 1 to 64 letters, digits, - or _, starting with a letter or digit"
        return InputError("", rule, value, "rename it")
    if kind in ("too_long", "too_short"):
        bound = "at most" if kind == "too_long" else "at least"
        count = context["max_length" if kind == "too_long" else "min_length"]
        seen = len(value) if isinstance(value, Sized) else "more"
        return InputError("", f"must hold {bound} {count}", f"{seen} items", such)
    return InputError("", finding["msg"].lower(), value, such)


def _choices(model: type[BaseModel], name: str) -> list[str]:
    schema = model.model_json_schema()["properties"].get(name, {})
    return [str(c) for c in schema.get("enum", [])]
