"""Batches of texts for fine-tuning: the states of each text that a loss reads, and the texts in rows of static shape.

A *group* is one unit of a loss: a text (supervised fine-tuning, classification), or a preference pair, two texts with
the same prompt. Groups are placed in rows in one of two ways:

    packed    several groups share a row; a prompt is read once, and its completions are branches after it
    padded    every text has a row of its own

Positions and attention of a text are the same in both, so the losses are equal up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.finetune.packing import gather_states, row_cost
from jaxllm.models import Adapter, ModelSpec, forward
from jaxllm.models.heads import feature_index
from jaxllm.models.network import Params, Remat
from jaxllm.text.batches import bucket, bucket_sizes

# Row lengths that are tried, as multiples of the longest group, and the longest of them that is tried at all.
_MULTIPLES, _LONGEST_ROW = tuple(1.1**k for k in range(30)), 2048
# Numbers of rows that batches are padded to, each a compiled program; more only where a batch needs it.
_ROW_COUNTS = 4

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Text:
    """A token sequence and the states of it that a loss reads.

    Attributes:
        ids: int32 `[N]`.
        states: int32 `[n]`, ascending: indices of the tokens before those with a loss, or of the last token for a head.
        weights: float32 `[n]`: 1 for tokens of the completion, 0 for tokens that count in an NLL term only.
        types: int32 `[N]`, token types of an encoder; None is all 0.
    """

    ids: np.ndarray
    states: np.ndarray
    weights: np.ndarray
    types: np.ndarray | None = None


def completion_text(ids: Sequence[int] | np.ndarray, loss_mask: Sequence[bool] | np.ndarray, *,
                    with_prompt: bool = False) -> Text:
    """Makes the text of a prompt with its completion, or of a conversation.

    Args:
        ids: all tokens.
        loss_mask: tokens with a loss; the first one never has one.
        with_prompt: the other tokens are read too, with weight 0, for an NLL term over the whole text.
    """
    mask = np.asarray(loss_mask, bool)[1:]
    states = np.arange(len(mask)) if with_prompt else np.flatnonzero(mask)
    return Text(np.asarray(ids, np.int32), states.astype(np.int32), mask[states].astype(np.float32))


def joined_text(prompt: np.ndarray, completion: np.ndarray, loss_mask: np.ndarray, longest: int) -> Text:
    """Makes the text of a prompt with a completion, and of its tokens with a loss, cut to `longest` tokens."""
    mask = np.concatenate([np.zeros(len(prompt), bool), loss_mask])
    return completion_text(np.concatenate([prompt, completion])[:longest], mask[:longest])


def scored_text(spec: ModelSpec, ids: Sequence[int] | np.ndarray, types: Sequence[int] | np.ndarray | None = None
                ) -> Text:
    """Makes the text that a scoring head reads, of the one state that represents it; see `feature_index`."""
    ids = np.asarray(ids, np.int32)
    return Text(ids, np.array([feature_index(spec, ids)], np.int32), np.ones(1, np.float32),
                None if types is None else np.asarray(types, np.int32))


Group = tuple[Text, ...]


def _shared(group: Group) -> int:
    """Counts the tokens at the start that all texts of a group have in common; every text keeps a token of its own."""
    if len(group) == 1:
        return 0
    first = group[0].ids
    shared = min(len(text.ids) for text in group) - 1
    for text in group[1:]:
        differing = np.flatnonzero(first[:shared] != text.ids[:shared])
        shared = int(differing[0]) if len(differing) else shared
    return shared


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Static shape of the rows of a run.

    Attributes:
        length: tokens of a row; of a text in padded rows, where it is the longest and shorter ones are used in buckets.
        states: the most states of a row that are read.
        groups: the most groups of a row.
        counts: numbers of rows that batches are padded to, ascending.
        packed: groups share rows.
    """

    length: int
    states: int
    groups: int
    counts: tuple[int, ...]
    packed: bool


def _size(group: Group) -> tuple[int, int]:
    """Counts the tokens of a group in a packed row, and its states."""
    shared = _shared(group)
    return shared + sum(len(text.ids) - shared for text in group), sum(len(text.states) for text in group)


def _assign(sizes: Sequence[tuple[int, int]], length: int, states: int, groups: int) -> list[list[int]]:
    """Assigns groups to rows by first fit, longest first."""
    rows: list[list[int]] = []
    free: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][0]):
        need = (*sizes[i], 1)
        fits = lambda left, need=need: all(a >= b for a, b in zip(left, need, strict=True))
        row = next((r for r, left in enumerate(free) if fits(left)), len(rows))
        if row == len(rows):
            rows.append([])
            free.append([length, states, groups])
        rows[row].append(i)
        free[row] = [a - b for a, b in zip(free[row], need, strict=True)]
    return rows


def row_shape(batches: Sequence[Sequence[Group]], largest: Sequence[Group], width: int, multiple: int, *, packed: bool
              ) -> RowShape:
    """Chooses the shape of a run's rows.

    Packed rows get the length at which the batches take the fewest positions, attention counted, and at most four
    numbers of rows unless a batch needs more.

    Args:
        batches: some of the batches of the run.
        largest: groups with as many tokens and states as any of the run.
        width: width of the network.
        multiple: number that divides every number of rows: microbatches times devices that split rows.
        packed: pack several groups into a row.
    """
    most = -(-max(map(len, batches)) // multiple) * multiple
    if not packed:
        texts = [text for group in largest for text in group]
        longest = max(len(text.ids) for text in texts)
        return RowShape(longest, max(len(text.states) for text in texts), 1, (most,), False)
    sizes = [[_size(group) for group in batch] for batch in batches]
    longest, most_states = (max(column) for column in zip(*map(_size, largest), strict=True))
    average = np.mean([tokens for batch in sizes for tokens, _ in batch])
    best: tuple[float, RowShape] | None = None
    for factor in _MULTIPLES:
        length = _rounded(longest * factor)
        if best is not None and length > _LONGEST_ROW:
            break
        per_row = math.ceil(2 * length / average)
        assigned = [_assign(batch, length, length, per_row) for batch in sizes]
        counts = sorted(-(-len(rows) // multiple) * multiple for rows in assigned)
        common = tuple(dict.fromkeys(counts[round(q * (len(counts) - 1))] for q in np.linspace(0, 1, _ROW_COUNTS)))
        states = max(sum(batch[i][1] for i in row) for batch, rows in zip(sizes, assigned, strict=True) for row in rows)
        cost = float(np.mean([bucket(count, common) for count in counts])) * row_cost(length, width)
        if best is None or cost < 0.98 * best[0]:
            later = tuple(count for count in range(common[-1] + multiple, most + 1, multiple))
            states = min(_rounded(max(states, most_states)), length)
            best = cost, RowShape(length, max(states, most_states), per_row, (*common, *later), True)
    assert best is not None
    return best[1]


def _rounded(length: float) -> int:
    """Rounds up to a multiple of 16 below 256, and of 64 above."""
    step = 16 if length <= 256 else 64
    return math.ceil(length / step) * step


def make_batch(groups: Sequence[Group], shape: RowShape,
               values: Mapping[str, Sequence[float] | np.ndarray] | None = None) -> Batch:
    """Places groups in rows.

    Args:
        groups: groups of equal numbers of texts.
        shape: from `row_shape`.
        values: values of every group, by name.

    Returns:
        Arrays of R rows with S texts at most each:
        `tokens`, `segments`, `positions` int32 `[R, L]`, and `branches` where prompts are shared; of padded rows
        `tokens`, `types` int32 `[R, S, L]` and `lengths` `[R, S]`;
        `state_index` (state within the row), `labels` (the token after it), `slot` (text within the row, -1 for
        padding) int32 and `token_weights` float32, all `[R, N]`;
        `group` int32 `[R, G]`, the number of the group in the list, -1 for none, and every value, float32 `[R, G]`;
        `row` int32 `[R]`, number of the row.
    """
    per_group = len(groups[0])
    if shape.packed:
        assigned = _assign([_size(group) for group in groups], shape.length, shape.states, shape.groups)
    else:
        assigned = [[i] for i in range(len(groups))]
    count = bucket(len(assigned), shape.counts)
    states = shape.states * (1 if shape.packed else per_group)
    batch: Batch = {name: np.zeros((count, states), np.int32) for name in ("state_index", "labels")}
    batch["slot"] = np.full((count, states), -1, np.int32)
    batch["token_weights"] = np.zeros((count, states), np.float32)
    batch["group"] = np.full((count, shape.groups), -1, np.int32)
    batch["row"] = np.arange(count, dtype=np.int32)
    longest = max(len(text.ids) for group in groups for text in group)
    length = shape.length if shape.packed else bucket(longest, bucket_sizes(shape.length))
    index = (_place_packed if shape.packed else _place_padded)(batch, groups, assigned, length)
    for row, members in enumerate(assigned):
        filled = 0
        for place, number in enumerate(members):
            batch["group"][row, place] = number
            for k, text in enumerate(groups[number]):
                where = slice(filled, filled + len(text.states))
                batch["state_index"][row, where] = index[number][k][text.states]
                following = np.minimum(text.states + 1, len(text.ids) - 1)
                batch["labels"][row, where] = text.ids[following]
                batch["slot"][row, where] = place * per_group + k
                batch["token_weights"][row, where] = text.weights
                filled += len(text.states)
    for name, given in (values or {}).items():
        batch[name] = np.where(batch["group"] >= 0, np.asarray(given, np.float32)[batch["group"]], 0.0)
    return batch


def _place_packed(batch: Batch, groups: Sequence[Group], assigned: Sequence[Sequence[int]], length: int
                  ) -> dict[int, list[np.ndarray]]:
    """Fills the tokens of packed rows; returns the row index of every token of every text, by group."""
    count = len(batch["row"])
    names = ("tokens", "segments", "positions", *(("branches",) if len(groups[0]) > 1 else ()))
    batch |= {name: np.zeros((count, length), np.int32) for name in names}
    index: dict[int, list[np.ndarray]] = {}
    for row, members in enumerate(assigned):
        end = 0
        for segment, number in enumerate(members, 1):
            group, shared, first = groups[number], _shared(groups[number]), end
            index[number] = []
            for branch, text in enumerate(group, 1):
                # The first text brings the prompt along.
                begin = 0 if branch == 1 else shared
                where = slice(end, end + len(text.ids) - begin)
                batch["tokens"][row, where] = text.ids[begin:]
                batch["segments"][row, where] = segment
                batch["positions"][row, where] = np.arange(begin, len(text.ids))
                if "branches" in batch:
                    batch["branches"][row, where] = np.where(np.arange(begin, len(text.ids)) < shared, 0, branch)
                index[number].append(np.concatenate([first + np.arange(shared),
                                                     end + np.arange(shared - begin, len(text.ids) - begin)]))
                end = where.stop
    return index


def _place_padded(batch: Batch, groups: Sequence[Group], assigned: Sequence[Sequence[int]], length: int
                  ) -> dict[int, list[np.ndarray]]:
    """As `_place_packed`, for padded rows; texts count as laid out one after the other, padded."""
    count, per_group = len(batch["row"]), len(groups[0])
    batch |= {name: np.zeros((count, per_group, length), np.int32) for name in ("tokens", "types")}
    batch["lengths"] = np.zeros((count, per_group), np.int32)
    for row, [number] in enumerate(assigned):
        for k, text in enumerate(groups[number]):
            batch["tokens"][row, k, :len(text.ids)] = text.ids
            if text.types is not None:
                batch["types"][row, k, :len(text.ids)] = text.types
            batch["lengths"][row, k] = len(text.ids)
    return {number: [k * length + np.arange(len(text.ids)) for k, text in enumerate(groups[number])]
            for [number] in assigned}


def read_states(spec: ModelSpec, params: Params, adapter: Adapter | None, batch: Batch, *,
                dtype: jnp.dtype = jnp.float32, remat: Remat = "none", dropout_key: jax.Array | None = None
                ) -> jax.Array:
    """Computes the hidden states at the positions with a loss, `[R, N, D]`.

    Args:
        spec, params, adapter: the model.
        batch: from `make_batch`.
        dtype, remat: see `forward`.
        dropout_key: key of the adapter's dropout; None drops nothing.
    """
    tokens = batch["tokens"]
    rows = batch["row"]
    keys = None if dropout_key is None else jax.vmap(lambda row: jax.random.fold_in(dropout_key, row))(rows)
    if tokens.ndim == 2:
        view = {name: batch[name] for name in ("segments", "positions", "branches") if name in batch}
        hidden = forward(spec, params, tokens, **view, adapter=adapter, dtype=dtype, remat=remat,
                         dropout_keys=keys).hidden
        return gather_states(hidden, batch["state_index"])
    count, per_group, length = tokens.shape
    flat = lambda x: x.reshape(count * per_group, *x.shape[2:])
    if keys is not None:
        keys = flat(jax.vmap(lambda key: jax.random.split(key, per_group))(keys))
    hidden = forward(spec, params, flat(tokens), lengths=flat(batch["lengths"]), types=flat(batch["types"]),
                     adapter=adapter, dtype=dtype, remat=remat, dropout_keys=keys).hidden
    return gather_states(hidden.reshape(count, per_group * length, -1), batch["state_index"])


def per_text_sums(values: jax.Array, batch: Batch, texts: int) -> jax.Array:
    """Sums `values` over the states of every text.

    Args:
        values: `[R, N]`, or `[R, N, ...]`.
        batch: from `make_batch`.
        texts: K, texts of a group.

    Returns:
        float32 `[R, G, K]` or `[R, G, K, ...]`; 0 where there is no text.
    """
    chex.assert_type(values, float)
    groups = batch["group"].shape[1]
    chosen = jax.nn.one_hot(batch["slot"], groups * texts, dtype=jnp.float32)
    real = (batch["slot"] >= 0).reshape(*batch["slot"].shape, *(1,) * (values.ndim - 2))
    sums = jnp.einsum("rn...,rns->rs...", jnp.where(real, values, 0.0), chosen, precision="highest")
    return sums.reshape(len(sums), groups, texts, *sums.shape[2:])
