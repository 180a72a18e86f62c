"""Types of the fields of a row, and what is wrong with a value that is not of its type, in words."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


class Message(typing.TypedDict):
    """One turn of a conversation; ``list[Message]`` in a schema means a conversation with at least one."""

    role: str
    content: str


def check_row(row: dict, schema: Mapping[str, tuple[Any, bool]]) -> str | None:
    """What is wrong with a row, or None; whole numbers in float fields become floats, nulls go."""
    for name, (kind, required) in schema.items():
        if row.get(name) is None:
            if required:
                return f"field {name!r} is " + ("null" if name in row else f"missing{_nearest(name, row)}")
            row.pop(name, None)
            continue
        if (reason := mismatch(row[name], kind)) is not None:
            return f"field {name!r}{reason}"
        if kind is float:
            row[name] = float(row[name])
    for name, value in row.items():
        if (reason := _bad_text(value)) is not None:
            return f"field {name!r} holds {reason}"
    return None


def _nearest(name: str, row: dict) -> str:
    return f" (there are {', '.join(map(repr, list(row)[:8]))})" if row else " (there are no fields)"


def mismatch(value: Any, kind: Any) -> str | None:
    """None when `value` is a `kind`, else the rest of a sentence that begins with the field's name."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return None
    if origin in (typing.Union, types.UnionType):
        wrong = [mismatch(value, k) for k in arguments]
        return None if None in wrong else f": expected {kind_name(kind)}, got {describe(value)}"
    if kind is Message:
        return _fits_message(value)
    if origin is list:
        if not isinstance(value, list):
            return f": expected {kind_name(kind)}, got {describe(value)}"
        if not value and arguments[0] is Message:
            return " has no messages"
        wrong = ((i, mismatch(v, arguments[0])) for i, v in enumerate(value, 1))
        return next((f", item {i}{reason}" for i, reason in wrong if reason is not None), None)
    if kind is float:
        fine = isinstance(value, int | float) and not isinstance(value, bool)
        if fine and not _finite(value):
            return f" is {str(value)[:20]}, not a finite number"
    else:
        fine = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return None if fine else f": expected {kind_name(kind)}, got {describe(value)}"


def _fits_message(value: Any) -> str | None:
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


def _bad_text(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    if isinstance(value, str):
        if "\0" in value:
            return "a NUL character"
        try:
            value.encode()
        except UnicodeEncodeError:
            return "a lone surrogate, which is not valid text"
        return None
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return next((reason for item in value if (reason := _bad_text(item)) is not None), None)
    return None


def kind_name(kind: Any) -> str:
    if kind is Message:
        return "{role, content}"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return f"list of {kind_name(arguments[0])}"
    if arguments:
        return " or ".join(map(kind_name, arguments))
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(
        kind, kind.__name__
    )


def describe(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    known = {str: "text", dict: "an object", list: "a list", int: "whole number", float: "number"}
    name = known.get(type(value), type(value).__name__)
    return f"{name} {short(value)}" if isinstance(value, str | int | float) else name


def short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
