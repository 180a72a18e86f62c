"""Log-probabilities of given continuations, and how likely a model finds each of several answers.

Texts are read packed, several to a row. What prompts begin with alike is read once, and so is a prompt that several
continuations follow: each continuation then is a branch that sees the prompt and itself. Networks whose rotation
depends on a text's length read every text for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.generate.completion import finite
from jaxllm.generate.engine import Work, pack_sizes
from jaxllm.generate.prefixes import families
from jaxllm.generate.slots import padded_prefix
from jaxllm.model import Model
from jaxllm.models import ModelSpec, Params, Prefix, prefill, unembedding, unstack_layers
from jaxllm.ops import token_logprobs
from jaxllm.text.batches import bucket


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probability of one continuation.

    Attributes:
        logprob: nats, summed over the continuation, at temperature 1.
        tokens: number of tokens of the continuation.
    """

    logprob: float
    tokens: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Row:
    """Texts to read, laid one after another; `[N]` int32 each.

    Attributes:
        tokens: their ids.
        positions: places within the text, what it begins with included.
        segments: which prompt, from 1; 0 where nothing lies.
        branches: 0 for the prompt, 1, 2, ... for its continuations; None where each prompt has one.
        parents: where the token stands that this one is predicted from; 0 for the prompt's own.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    branches: np.ndarray | None
    parents: np.ndarray


@partial(jax.jit, static_argnames=("spec", "dtype"))
def row_logprobs(spec: ModelSpec, params: Params, row: _Row, prefix: Prefix | None, dtype: jnp.dtype) -> jax.Array:
    """Log-probability of every token given the one before it, `[N]` float32."""
    branches = None if row.branches is None else row.branches[None]
    hidden, _ = prefill(spec, params, row.tokens[None], row.positions[None], row.segments[None], branches=branches,
                     prefix=prefix, dtype=dtype)
    return token_logprobs(hidden[:, row.parents], unembedding(spec, params), row.tokens[None])[0]


def score(model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 32,
          dtype: jnp.dtype = jnp.float32, work: Work | None = None,
          on_batch: Callable[[int], None] | None = None) -> list[Score]:
    """Scores every `(prompt ids, continuation ids)`.

    Args:
        model: who scores.
        pairs: what is scored; prompts that occur several times are read once, as are common beginnings.
        batch_size: texts that are read together at most; changes speed and memory, not the scores.
        dtype: of activations.
        work: counts what is done.
        on_batch: called with the number of pairs done so far.

    Raises:
        UserError: a prompt has no token, or a pair is longer than the context window.
    """
    work, window = work or Work(), model.spec.max_positions
    for number, (prompt, continuation) in enumerate(pairs):
        if not len(prompt):
            raise UserError("the prompt is empty, and the model has no begin token to start from", f"row {number + 1}")
        if len(prompt) + len(continuation) > window:
            raise UserError(f"{len(prompt)} prompt tokens and {len(continuation)} of the completion do not fit the "
                            f"context window of {window}", f"row {number + 1}", "shorten the row")
    if not pairs:
        return []
    params, results, done = unstack_layers(model.params), [None] * len(pairs), 0
    apart = model.spec.turns_by_length
    groups: dict[object, list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        groups.setdefault(i if apart else tuple(prompt), []).append(i)
    members = list(groups.values())
    prompts = [tuple(pairs[own[0]][0]) for own in members]
    for family in families(prompts, not apart):
        prefix = None
        if family.prefix:
            prefix, _ = padded_prefix(model.spec, params, family.prefix, dtype)
            work.prompt_tokens += len(family.prefix)
        own = [(prompts[i][len(family.prefix):], members[i]) for i in family.members]
        for part in _packs(own, pairs, batch_size, window):
            row, places = _lay(part, pairs, len(family.prefix), window)
            work.prompt_tokens += int((row.segments > 0).sum())
            work.padding += int((row.segments == 0).sum())
            logprobs = np.asarray(row_logprobs(model.spec, params, row, prefix, dtype), np.float64)
            for i, (start, stop) in places.items():
                results[i] = Score(finite(float(logprobs[start:stop].sum())), stop - start)
            done += len(places)
            if on_batch is not None:
                on_batch(done)
    return results


_Group = tuple[Sequence[int], list[int]]  # a prompt's own tokens, and the pairs that it belongs to


def _packs(groups: list[_Group], pairs, batch_size: int, window: int) -> list[list[_Group]]:
    """Groups that are read together, the shortest first; one whose continuations do not fit is cut in several."""
    length = lambda ids, members: len(ids) + sum(len(pairs[i][1]) for i in members)
    largest = pack_sizes(0, window)[-1]
    pieces: list[_Group] = []
    for ids, members in groups:
        left: list[int] = []
        for i in members:
            if left and (length(ids, [*left, i]) > largest or len(left) == batch_size):
                pieces.append((ids, left))
                left = []
            left = [*left, i]
        pieces.append((ids, left))
    packs: list[list[_Group]] = []
    room = texts = 0
    for piece in sorted(pieces, key=lambda piece: length(*piece)):
        if not packs or length(*piece) > room or texts + len(piece[1]) > batch_size:
            packs.append([])
            room, texts = largest, 0
        packs[-1].append(piece)
        room, texts = room - length(*piece), texts + len(piece[1])
    return packs


def _lay(groups: list[_Group], pairs, offset: int, window: int) -> tuple[_Row, dict[int, tuple[int, int]]]:
    """Groups in a row, and where every pair's continuation lies in it."""
    columns: list[tuple[Sequence[int], np.ndarray, int, int, np.ndarray]] = []
    places, at = {}, 0
    for segment, (ids, members) in enumerate(groups, 1):
        columns.append((ids, offset + np.arange(len(ids)), segment, 0, np.zeros(len(ids))))
        at += len(ids)
        last = at - 1
        for branch, i in enumerate(members, 1):
            continuation = pairs[i][1]
            count = len(continuation)
            parents = np.arange(at - 1, at + count - 1)
            parents[:1] = last
            columns.append((continuation, offset + len(ids) + np.arange(count), segment, branch, parents))
            places[i] = at, at + count
            at += count
    size = bucket(at, pack_sizes(at, window))
    join = lambda parts: np.pad(np.concatenate(parts).astype(np.int32), (0, size - at))
    same = lambda place: join([np.full(len(column[0]), column[place]) for column in columns])
    one = all(len(members) == 1 for _, members in groups)
    return _Row(join([column[0] for column in columns]), join([column[1] for column in columns]), same(2),
                None if one else same(3), join([column[4] for column in columns])), places
