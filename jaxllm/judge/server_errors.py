"""Failures of requests to a server: whether the same request may succeed later, and whom else they concern."""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Mapping
from typing import Any, Literal

from jaxllm.errors import UserError

# Statuses after which the same request may succeed; so may all from 500 on.
TRANSIENT_STATUSES = {408, 409, 429}
TOO_MANY_REQUESTS = 429
# Statuses of all requests: no key, no money, no permission, no such model.
SHARED_STATUSES = {401, 402, 403, 404}
NO_BALANCE = "insufficient_quota"
LONGEST_RETRY_AFTER_SECONDS = 60.0
# Refusals for the length or the content of one prompt, in the words of several servers.
_OF_PROMPT = re.compile(
    r"context.{0,20}(length|window|size)|maximum (model|sequence|input) length|longer than|too (long|large)|"
    r"content.?(filter|management|policy)|usage polic|flagged|moderation|invalid_prompt", re.IGNORECASE)

Scope = Literal["prompt", "unknown", "all"]


class Unusable(Exception):
    """A response that would be as useless if it was requested again.

    Attributes:
        scope: as in `Failed`.
        fix: advice to the user.
    """

    def __init__(self, what: str, scope: Scope, fix: str | None = None):
        super().__init__(what)
        self.scope, self.fix = scope, fix


class Failed(Exception):
    """A prompt has no answer.

    Attributes:
        error: why.
        scope: whether other prompts have none for the same reason: "prompt" (this one alone), "all", or "unknown".
        pause: seconds to wait at least before a retry; None where a retry would not help.
        limited: the server wants fewer requests, whichever prompt they have.
        message: the text that the server sent; it may hold the key, and is not shown.
    """

    def __init__(self, error: UserError, scope: Scope, pause: float | None = None, limited: bool = False,
                 message: str = ""):
        super().__init__(error.what)
        self.error, self.scope, self.pause, self.limited, self.message = error, scope, pause, limited, message


def is_transient(status: int) -> bool:
    """Whether the same request may succeed after a response with this status."""
    return status in TRANSIENT_STATUSES or status >= 500


def of_status(status: int, error: UserError, message: str, code: Any, headers: Mapping[str, str], key_variable: str
              ) -> Failed:
    """Classifies a response that is an error.

    Args:
        status: status of the response.
        error: the user's view of it.
        message: its text, unchanged.
        code: the server's name for the error.
        headers: headers of the response.
        key_variable: environment variable of the key, for the advice.
    """
    if status == 402 or code == NO_BALANCE:
        return Failed(_fixed(error, "check the balance of the account"), "all")
    if is_transient(status):
        return Failed(error, "unknown", retry_after(headers), status == TOO_MANY_REQUESTS)
    if status == 413 or status in (400, 403, 422) and _OF_PROMPT.search(message):
        return Failed(error, "prompt")
    if status in SHARED_STATUSES:
        return Failed(_fixed(error, "check judge.model and judge.base_url" if status == 404 else
                             f"check the key in {key_variable}"), "all")
    return Failed(error, "unknown", message=message)


def _fixed(error: UserError, fix: str) -> UserError:
    return UserError(error.what, error.where, fix)


def is_unreachable(error: Exception) -> bool:
    """Whether there was no connection to the server at all; an interrupted one may be the fault of a prompt."""
    return type(error.__cause__).__name__ == "ConnectError"  # of httpx or httpx2, depending on the client's version


def retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds that a response demands before the next request, from 0 to 60."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                now = datetime.datetime.now(datetime.UTC)
                seconds = (email.utils.parsedate_to_datetime(value) - now).total_seconds()
            except (TypeError, ValueError):
                continue
        if seconds == seconds:  # not NaN
            return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)
    return 0.0


def unsupported(failed: Failed) -> str | None:
    """Returns the parameter that a server refuses by name; None without one."""
    named = re.search(r"Unsupported (?:parameter|value): '(\w+)'", failed.message)
    return named[1] if named else None
