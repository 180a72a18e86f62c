"""Queries from rows, and the observer's prompts."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.cory.config import CoryConfig, QueryConfig, TeamConfig
from jaxllm.errors import UserError
from jaxllm.model import Model
from jaxllm.models import ModelSpec
from jaxllm.text.forms import Text
from jaxllm.text.templates import fields_of, fill


@dataclasses.dataclass(frozen=True)
class Query:
    """One prompt.

    Attributes:
        ids: int32 `[P]`.
        text: the prompt as a text, or messages.
        row: the row of the data.
    """

    ids: np.ndarray
    text: Text
    row: Mapping[str, Any]


def prompt_of(config: QueryConfig, row: Mapping[str, Any]) -> Text:
    """Returns the prompt of a row.

    Raises:
        UserError: the row has none, an empty one, or one that is neither a text nor messages.
    """
    if config.template is not None:
        filled = fill(config.template, row)
        if empty := [name for name in fields_of(config.template) if row[name] in (None, "")]:
            raise UserError(f"the column {empty[0]!r} is empty")
        return filled
    given = [row[name] for name in ("prompt", "messages", "text") if row.get(name) is not None]
    if not given:
        raise UserError("the row has no prompt, messages or text")
    if not given[0]:
        raise UserError("the prompt is empty")
    if not isinstance(given[0], str | list):
        raise UserError(f"the prompt must be a text or messages, got {type(given[0]).__name__}")
    return given[0]


def longest_prompt(config: TeamConfig, spec: ModelSpec) -> int:
    """Returns the most tokens of a prompt, so that a response fits into the window after it, the original one of long
    rope, which no text may cross while it is generated.

    Raises:
        UserError: a response alone fills the model's window.
    """
    window = min((spec.max_positions, *spec.original_windows))
    longest = window - config.limit
    if longest < 1:
        raise UserError(f"a response of {config.limit:,} tokens and a prompt do not fit into the model's "
                        f"{window:,} positions" + (" before the border of long rope" * (window < spec.max_positions)),
                        "sampling.max_tokens" if config.response_tokens is None else "response_tokens", "lower it")
    return longest


def encode_query(model: Model, config: QueryConfig, row: Mapping[str, Any], longest: int,
                 draws: np.random.Generator | None = None) -> Query:
    """Encodes the prompt of a row.

    Args:
        model: its tokenizer.
        config: settings.
        row: the row.
        longest: the most tokens.
        draws: draws the number of leading tokens, where this is a range; None takes the largest.

    Raises:
        UserError: the row has no prompt, or it has more tokens.
    """
    text = prompt_of(config, row)
    if not isinstance(text, str):
        ids = model.tokenizer.chat_prompt(text)
        if not any(str(turn.get("content") or "").strip() for turn in text):
            raise UserError("the prompt is empty")
        if config.tokens is not None:
            raise UserError("query.tokens cuts texts, and the row has messages")
    else:
        ids = model.prompt_ids(text)
        if config.tokens is not None:
            low, high = config.tokens
            count = len(model.prefix) + (high if draws is None else int(draws.integers(low, high + 1)))
            if len(ids) > count:
                ids = ids[:count]
                text = model.tokenizer.decode(ids)
    if len(ids) > longest:
        raise UserError(f"the prompt has {len(ids)} tokens, and with a response {longest} fit")
    return Query(np.asarray(ids, np.int32), text, row)


def observer_prompt(model: Model, config: CoryConfig, query: Query, response: str, longest: int
                    ) -> tuple[np.ndarray, bool]:
    """Encodes the observer's prompt: the query with the pioneer's response, which is cut where it does not fit.

    Args:
        model: its tokenizer.
        config: the template.
        query: the query.
        response: text of the response, without special tokens.
        longest: the most tokens.

    Returns:
        The ids, int32 `[P]`, and whether the response was cut.

    Raises:
        UserError: not even an empty response fits.
    """
    if not config.transfer:
        return query.ids, False
    ids = _observed(model, config, query, response)
    if too_long := len(ids) > longest:
        pieces = model.tokenizer.encode(response)
        cut = lambda count: _observed(model, config, query, model.tokenizer.decode(pieces[:count]))
        if len(ids := cut(0)) > longest:
            raise UserError(f"the observer's prompt has {len(ids)} tokens without a response, and {longest} fit",
                            "cory.observer_template", "shorten it")
        # A prompt grows with its response, and now and then by a token less than that: the last one that fits.
        count = bisect.bisect_right(range(1, len(pieces) + 1), longest, key=lambda count: len(cut(count)))
        while len(ids := cut(count)) > longest:
            count -= 1
    return np.asarray(ids, np.int32), too_long


def check_template(model: Model, config: TeamConfig) -> None:
    """Checks that the observer's template fits, without query and response, so that no row is rejected for it.

    Raises:
        UserError: the template alone has more tokens than a prompt may have, see `longest_prompt`.
    """
    if config.agents == 2 and config.cory.transfer:
        size = len(model.prompt_ids(fill(config.cory.observer_template, {"query": "", "response": ""})))
        if size > (longest := longest_prompt(config, model.spec)):
            raise UserError(f"the template has {size} tokens without query and response, and {longest} fit",
                            "cory.observer_template", "shorten it")


def check_row(model: Model, config: TeamConfig, row: Mapping[str, Any], longest: int) -> None:
    """Checks that the prompt of a row fits, and with two agents that of the observer too, without a response.

    Args:
        model: its tokenizer.
        config: settings.
        row: the row.
        longest: the most tokens.

    Raises:
        UserError: the row has no prompt, or one of the two has more tokens.
    """
    query = encode_query(model, config.query, row, longest)
    if config.agents == 2:
        observer_prompt(model, config.cory, query, "", longest)


def _observed(model: Model, config: CoryConfig, query: Query, response: str) -> Sequence[int]:
    if isinstance(query.text, str):
        return model.prompt_ids(fill(config.observer_template, {"query": query.text, "response": response}))
    *before, last = query.text
    content = fill(config.observer_template, {"query": last["content"], "response": response})
    return model.tokenizer.chat_prompt([*before, {**last, "content": content}])
