"""Lower limits of measures, such as `accuracy=0.7`, by which a job fails a pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.config import check
from jaxllm.errors import LimitError

# Measures are rounded sums: a limit that a measure reaches is reached.
SLACK = 1e-9


def check_limits(limits: Sequence[str], measures: Sequence[str], key: str = "fail_under") -> None:
    """Raises a `UserError` unless every limit is MEASURE=NUMBER with one of the measures."""
    for limit in limits:
        name, _, least = limit.partition("=")
        check(name in measures, key, f"there is no measure {name!r}", f"measures are {', '.join(measures)}")
        check(_is_number(least), key, f"has no number after '=': {limit!r}", f"write {name}=0.7")


def require_limits(limits: Sequence[str], values: Mapping[str, Any], path: Path | None) -> None:
    """Raises a `LimitError` for the first measure that is unknown or below its limit.

    Args:
        limits: checked by `check_limits`.
        values: measure -> number, `{mean, ...}`, or None where it is not known.
        path: result.json, if one is written.
    """
    for limit in limits:
        name, _, least = limit.partition("=")
        value = values.get(name)
        value = value["mean"] if isinstance(value, Mapping) else value
        if value is None:
            raise LimitError(f"{name} is not known, and --fail_under demands {least}", path)
        if value < float(least) - SLACK:
            raise LimitError(f"{name} is {value:.4f}, below --fail_under {least}", path)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
