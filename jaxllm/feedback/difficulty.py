"""Instruction-following difficulty of answers: IFD = perplexity after the prompt / perplexity without it (2308.12032).

In PrefCleanBench's code log-probabilities are taken one position too early; here each token has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.feedback.cleaning_config import Config
from jaxllm.generate import Generator
from jaxllm.model import load
from jaxllm.progress import notice
from jaxllm.text.forms import PairRow, Text
from jaxllm.text.preferences import iter_forms
from jaxllm.text.rows import Rejected, iter_rows

_ANSWER = "assistant: "  # opens an answer to messages


def difficulties(config: Config, ids: Sequence[str]) -> np.ndarray:
    """Returns the difficulty of the chosen and the rejected answer of each pair, `[N, 2]`; NaN where there is none.

    Raises:
        UserError: the file or the model cannot be used.
    """
    if config.ifd.path is not None:
        return _read(config.ifd.path, ids)
    model = load(str(config.ifd.model), config.device.param_dtype)
    model.require_lm("compute perplexities")
    rows = [row for item in iter_forms(config.data.path, "paired", config.data.limit) if not isinstance(item, Rejected)
            for row in item.rows]
    index = {name: number for number, name in enumerate(ids)}
    rows = [row for row in rows if str(row.id) in index]
    return of_rows(Generator(model, dtype=config.device.compute_dtype, batch_size=config.ifd.batch_size), rows,
                   config.ifd.answer_tokens)


def of_rows(generator: Generator, rows: Sequence[PairRow], limit: int = 512) -> np.ndarray:
    """Computes difficulties with a model, `[N, 2]`.

    Texts are plain: the prompt, then the answer; messages are turns with their roles, in lines of their own. Answers of
    one character or one token have none.

    Args:
        generator: the model.
        rows: the pairs.
        limit: the most tokens of the prompt, which keeps its end, and of an answer, which keeps its start; fewer where
            both do not fit the model's positions.
    """
    model, wanted = generator.model, limit
    if not model.start:
        raise UserError("the model has no token to start a text with", "ifd.model", "use another model")
    limit = min(wanted, (model.spec.max_positions - len(model.start)) // 2)
    after, alone, places, shortened = [], [], [], 0
    for number, row in enumerate(rows):
        opening = "" if isinstance(row.prompt, str) else f"\n{_ANSWER}"
        for side, answer in enumerate((_plain(row.chosen), _plain(row.rejected))):
            answer = answer.removeprefix(_ANSWER) if opening else answer
            prompt, ids = model.pair_ids(_plain(row.prompt) + opening, answer)
            if len(answer.strip()) > 1 and len(ids) > 1:
                shortened += limit < min(wanted, max(len(prompt), len(ids)))
                whole = prompt if len(prompt) <= limit else [*model.start, *prompt[-limit:]]
                after.append((whole, ids[:limit]))
                alone.append((list(model.start), ids[:limit]))
                places.append((number, side))
    if shortened:
        notice(f"{shortened:,} prompts or answers are cut to {limit} tokens for their difficulty, to fit the model")
    found = np.full((len(rows), 2), np.nan)
    if places:
        losses = np.array([[-score.logprob / score.tokens for score in generator.score(pairs)]
                         for pairs in (after, alone)])
        found[tuple(np.transpose(places))] = np.exp(losses[0] - losses[1])
    return found


def _plain(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in text)


def _read(path: str, ids: Sequence[str]) -> np.ndarray:
    found, index = np.full((len(ids), 2), np.nan), {name: number for number, name in enumerate(ids)}
    known: set[str] = set()
    # The difficulties are not declared, so that null differs from a column that is absent.
    for item in iter_rows(path, {"id": Any}):
        if isinstance(item, Rejected):
            raise UserError(f"line {item.line} cannot be used: {item.reason}", path)
        name, where = str(item.fields["id"]), f"{path}:{item.line}"
        if lacking := [side for side in ("chosen", "rejected") if side not in item.fields]:
            raise UserError(f"field {lacking[0]!r} of {name!r} is missing", where, "write null for no difficulty")
        if name in known:
            raise UserError(f"the id {name!r} occurs twice", where, "give every pair one line")
        known.add(name)
        both = [item.fields[side] for side in ("chosen", "rejected")]
        if not all(value is None or isinstance(value, int | float) and not isinstance(value, bool)
                   and 0 <= value < np.inf for value in both):
            raise UserError(f"the difficulties of {name!r} must be numbers from 0 (or null)", where)
        if name in index:
            found[index[name]] = [np.nan if value is None else value for value in both]
    if not known & index.keys():
        raise UserError("none of its ids is that of a pair", path)
    if missing := len(index.keys() - known):
        notice(f"{missing:,} pairs have no difficulty in {path}; they are not ranked")
    return found
