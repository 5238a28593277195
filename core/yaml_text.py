"""YAML from outside as plain data with line numbers: bounded in size, depth and expansion, in linear time."""

from __future__ import annotations

from typing import Any

import yaml

from .errors import InputError, shorten
from .limits import MAX_DEPTH, MAX_VALUES

__all__ = ["Location", "read_yaml"]

Location = tuple[Any, ...]

# libyaml is thirty times as fast as the parser in Python. It composes documents by recursion, which deep nesting could
# overflow; therefore its flat stream of events is counted first.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DIRECTIVES = 10  # they are compared with each other
_MAX_NUMBER = 400  # digits; longer ones take quadratic time (1:1:1:… to the base of 60) and mean nothing
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + "int", _TAG + "float"}


def read_yaml(text: str, name: str) -> tuple[Any, dict[Location, int]]:
    """Parse a YAML document with the safe loader.

    Args:
        text: the document.
        name: what it is called in errors.

    Returns:
        The plain data, and the line (from 1) of every value by its location.

    Raises:
        InputError: no YAML, a field given twice, or deeper, longer or more than `limits` allows.
    """
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line, seen = text[: bad.start()].count("\n") + 1, f"U+{ord(bad[0]):04X}"
        raise InputError(f"{name} line {line}", "must not hold control characters", seen, "delete that character")
    if text.startswith("%") + text.count("\n%") > _MAX_DIRECTIVES:
        raise InputError(name, f"must have at most {_MAX_DIRECTIVES} lines that start with %", "more", "remove them")
    try:
        _count(text, name)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines = _walk(node, name) if node is not None else {}
            return (loader.construct_document(node) if node is not None else None), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, name) from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # An impossible date, a tag such as !!float on text: PyYAML lets its own slips through.
        raise InputError(name, "holds a value that YAML cannot read", str(error), "put the value in quotes") from None


def _count(text: str, name: str) -> None:
    """Refuse depth and number of values before anything recursive runs."""
    loader = _Loader(text)
    depth = values = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    line = event.start_mark.line + 1 if event.start_mark else 0
                    where = f"{name} line {line}"
                    raise InputError(where, f"must not nest deeper than {MAX_DEPTH}", "deep nesting", "flatten it")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            values += 1
            if values > 3 * MAX_VALUES:  # a name, a value and an end for each
                raise InputError(name, f"must hold at most {MAX_VALUES} values", "more", "give a smaller document")
    finally:
        loader.dispose()


def _syntax(error: yaml.MarkedYAMLError, text: str, name: str) -> InputError:
    mark = error.problem_mark or error.context_mark
    rows = text.splitlines()
    row = rows[mark.line].strip() if mark and mark.line < len(rows) else None
    problem = error.problem or error.context or "cannot be parsed"
    if "nesting" in problem:  # libyaml's own limit
        return InputError(name, f"must not nest deeper than {MAX_DEPTH}", "deep nesting", "flatten it")
    where = f"{name} line {mark.line + 1}, column {mark.column + 1}" if mark else name
    fix = "correct the YAML there: indent with spaces, quote text that holds : or #"
    return InputError(where, f"is not valid YAML: {shorten(problem, 120)}", row, fix)


def _walk(root: yaml.Node, name: str) -> dict[Location, int]:
    """Lines of all values. Refuses what safe_load lets through: fields given twice, and alias bombs."""
    lines: dict[Location, int] = {}
    count = 0

    def visit(node: yaml.Node, location: Location, line: int) -> None:
        nonlocal count
        count += 1
        if count > MAX_VALUES:
            where = f"{name} line {node.start_mark.line + 1}"
            fix = "use fewer aliases, or split it"
            raise InputError(where, f"must not expand to more than {MAX_VALUES} values", "more", fix)
        if len(location) > MAX_DEPTH:
            where = f"{name} line {node.start_mark.line + 1}"
            raise InputError(where, f"must not nest deeper than {MAX_DEPTH}", "deep nesting", "flatten it")
        lines.setdefault(location, line)
        if isinstance(node, yaml.ScalarNode):
            _check_number(node, name)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                visit(item, (*location, i), item.start_mark.line + 1)
        elif isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, value in node.value:
                at = key.start_mark.line + 1
                here = f"{name} line {at}"
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError(here, "must have text as field names", "a list or mapping", "quote it")
                if (key.tag, key.value) in seen:
                    raise InputError(here, "must not give a field twice", key.value, "keep one of the two")
                seen.add((key.tag, key.value))
                _check_number(key, name)
                visit(value, (*location, key.value), at)

    visit(root, (), root.start_mark.line + 1)
    return lines


def _check_number(node: yaml.ScalarNode, name: str) -> None:
    if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER:
        where = f"{name} line {node.start_mark.line + 1}"
        rule = f"must not hold numbers of more than {_MAX_NUMBER} digits"
        raise InputError(where, rule, node.value, "write a shorter number, or put text in quotes")
