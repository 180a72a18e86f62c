"""Types of the fields of a row, and error messages for values of another type."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

T = TypeVar("T")
_NONEMPTY = "not empty"

NonEmpty = Annotated[T, _NONEMPTY]
"""``NonEmpty[str]``: text with at least one visible character; ``NonEmpty[list[...]]``: at least one item."""


class Message(typing.TypedDict):
    """One turn of a conversation; ``list[Message]`` in a schema is a conversation with at least one."""

    role: str
    content: str


def check_row(row: dict, schema: Mapping[str, tuple[Any, bool]], clean: bool = False) -> str | None:
    """Returns the first problem of a row's declared fields, or None. A row without one gets the numbers of the declared
    types (2.0 is the whole number 2, and 2 the float 2.0), and loses its null fields. Undeclared fields are left alone.

    Args:
        row: changed in place.
        schema: field -> (type, required).
        clean: no text in the row can hold NUL or a lone surrogate, so texts need not be searched for them.
    """
    numbers, null = {}, []
    for name, (expected, required) in schema.items():
        value = row.get(name)
        if value is None:
            if required:
                return f"field {name!r} is " + ("null" if name in row else f"missing{_present(row)}")
            if name in row:
                null.append(name)
            continue
        if expected is not Any and (type(value) is not expected or expected is float):
            if (reason := mismatch(value, expected)) is not None:
                return f"field {name!r}{reason}"
            numbers[name] = _with_numbers(value, expected)
        if not (clean and type(value) is str) and (reason := _bad_value(value, clean)) is not None:
            return f"field {name!r} holds {reason}"
    row.update(numbers)
    for name in null:
        del row[name]
    return None


def _present(row: dict) -> str:
    return f" (there are {', '.join(map(repr, list(row)[:8]))})" if row else " (there are no fields)"


def mismatch(value: Any, expected: Any) -> str | None:
    """Returns None if `value` has the type, else the rest of a sentence that starts with the field's name."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return None
    if origin is Annotated:
        if (reason := mismatch(value, arguments[0])) is not None or _NONEMPTY not in arguments[1:]:
            return reason
        return None if (value.strip() if isinstance(value, str) else value) else " is empty"
    if origin in (typing.Union, types.UnionType):
        reasons = [mismatch(value, option) for option in arguments]
        return None if None in reasons else f": expected {type_name(expected)}, got {describe(value)}"
    if expected is Message:
        return _message_mismatch(value)
    if origin is list:
        if not isinstance(value, list):
            return f": expected {type_name(expected)}, got {describe(value)}"
        if not value and arguments[0] is Message:
            return " has no messages"
        items = ((i, mismatch(item, arguments[0])) for i, item in enumerate(value, 1))
        return next((f", item {i}{reason}" for i, reason in items if reason is not None), None)
    if expected in (int, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if fits and float in (expected, type(value)) and not _finite(value):
            return f" is {str(value)[:20]}, not a finite number"
        fits = fits and (expected is float or isinstance(value, int) or _is_whole(value))
    else:
        fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    return None if fits else f": expected {type_name(expected)}, got {describe(value)}"


def _is_whole(value: float) -> bool:
    """Whether a float is a whole number that floats distinguish from its neighbors."""
    return value.is_integer() and abs(value) < 2**53


def _with_numbers(value: Any, expected: Any) -> Any:
    """Converts the numbers in a value that fits its type to the int or float that the type has for them."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected in (int, float):
        return expected(value)
    if origin is Annotated:
        return _with_numbers(value, arguments[0])
    if origin in (typing.Union, types.UnionType) and type(value) not in arguments:
        return _with_numbers(value, next(option for option in arguments if mismatch(value, option) is None))
    if origin is list and arguments[0] not in (Any, str, Message):
        return [_with_numbers(item, arguments[0]) for item in value]
    return value


def _message_mismatch(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f": expected {{role, content}}, got {describe(value)}"
    for key in ("role", "content"):
        if not isinstance(value.get(key), str):
            return f": {key} " + (
                f"must be text, got {describe(value[key])}" if key in value else "is missing"
            )
    return None if value["role"].strip() else ": role is empty"


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float
        return False


def _bad_value(value: Any, clean: bool) -> str | None:
    """Describes the first number that is not finite or, unless `clean`, the first text that is not valid."""
    if isinstance(value, str):
        return None if clean else _bad_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return next((reason for item in value if (reason := _bad_value(item, clean)) is not None), None)
    return None


def _bad_text(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate, which is not valid text"
    return None


def type_name(expected: Any) -> str:
    """Names a type for an error message: ``text``, ``list of a whole number``."""
    if expected is Message:
        return "{role, content}"
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if arguments:
        return " or ".join(map(type_name, arguments))
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(
        expected, expected.__name__
    )


def describe(value: Any) -> str:
    """Names the type of a value and shows the start of a short one: ``text 'abc'``, ``a list``."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    known = {str: "text", dict: "an object", list: "a list", int: "whole number", float: "number"}
    name = known.get(type(value), type(value).__name__)
    return f"{name} {short(value)}" if isinstance(value, str | int | float) else name


def short(value: Any) -> str:
    """Shows the first 40 characters of a value, in ASCII."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
