"""Templates of prompts with named fields in braces."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jaxllm.errors import UserError

_FIELD = re.compile(r"\{(\w+)\}")


def fields_of(template: str) -> list[str]:
    """Returns the names of the fields of a template, in order of their first occurrence."""
    return list(dict.fromkeys(_FIELD.findall(template)))


def fill(template: str, fields: Mapping[str, object]) -> str:
    """Replaces `{name}` by the value of every field, in one pass: braces in a value stay text.

    Raises:
        UserError: a field of the template has no value.
    """
    missing = [name for name in fields_of(template) if name not in fields]
    if missing:
        raise UserError(f"the template needs the field {missing[0]!r}, and there is none", "template",
                        f"fields are {', '.join(map(str, fields))}")
    return _FIELD.sub(lambda match: str(fields[match[1]]), template)
