"""Log-probabilities of given continuations.

Texts are packed, several to a row. Shared prefixes are computed once, those within others too (a rubric for all
prompts, a program for some of them). Where few texts begin alike (two questions about one pair of answers, several
continuations of one prompt) they share a segment of a row: the rest of each is a branch that attends to their common
tokens and to itself. Rotary embeddings that depend on the text's length (dynamic NTK, longrope) rule this out: every
text is then computed on its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.generate.completion import check_finite
from jaxllm.generate.prefixes import SMALLEST_SHARED_TOKENS, PrefixNode, common_tokens, prefix_tree
from jaxllm.generate.scheduler import GenerationStats, growing_sizes, pack_sizes
from jaxllm.generate.slots import extended_prefix
from jaxllm.model import Model, check_ids
from jaxllm.models import Adapter, ModelSpec, Params, Prefix, prefill, unembedding
from jaxllm.models.mesh import batch_sharding, replicated
from jaxllm.ops import token_logprobs
from jaxllm.text.batches import bucket

# Numbers of states of a row that are read: the fewest, each this many times the one before, and all.
_FEWEST_STATES, _STATES_FACTOR = 32, 4

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probability of one continuation.

    Attributes:
        logprob: sum of `logprobs`, in nats.
        tokens: number of tokens of the continuation, N.
        logprobs: `[N]` float32 log-probability of every token under softmax(logits / temperature).
    """

    logprob: float
    tokens: int
    logprobs: np.ndarray = dataclasses.field(compare=False, repr=False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedPairs:
    """Prompts and continuations concatenated into rows; `[B, T]` int32 each, and `[B, N]` for continuations.

    Attributes:
        tokens: token ids.
        positions: positions within the text, shared prefix included.
        segments: number within the row of the texts that begin alike, from 1; 0 is padding.
        branches: 0 for their common tokens, 1, 2, ... for the rest of each; None where each has a segment to itself.
        labels: `[B, N]`, tokens of the continuations; 0 for padding.
        state_index: `[B, N]`, index in the row of the token that predicts each of `labels`.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    branches: np.ndarray | None
    labels: np.ndarray
    state_index: np.ndarray


@partial(jax.jit, static_argnames=("spec", "dtype"))
def packed_logprobs(spec: ModelSpec, params: Params, adapter: Adapter | None, rows: PackedPairs, prefix: Prefix | None,
                    temperature: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Computes the log-probability of every token of the continuations, `[B, N]` float32."""
    chex.assert_rank([rows.tokens, rows.positions, rows.segments, rows.labels, rows.state_index], 2)
    hidden, _ = prefill(spec, params, rows.tokens, rows.positions, rows.segments, branches=rows.branches,
                        prefix=prefix, adapter=adapter, dtype=dtype)
    predicting = jnp.take_along_axis(hidden, rows.state_index[..., None], 1)
    return token_logprobs(predicting, unembedding(spec, params), rows.labels, temperature=temperature)


def score_pairs(model: Model, adapter: Adapter | None, pairs: Pairs, *, temperature: float, dtype: jnp.dtype,
                mesh: jax.sharding.Mesh | None, stats: GenerationStats,
                on_batch: Callable[[int], None] | None) -> list[Score]:
    """Scores every `(prompt ids, continuation ids)`, `[T]` and `[N]` int32; see `Generator.score`."""
    window = model.spec.max_positions
    for number, (prompt, continuation) in enumerate(pairs, 1):
        if not len(prompt):
            raise UserError("the prompt is empty, and the model has no begin token to start from", f"row {number}")
        if len(prompt) + len(continuation) > window:
            raise UserError(f"{len(prompt)} prompt tokens and {len(continuation)} of the completion do not fit the "
                            f"context window of {window}", f"row {number}", "shorten the row")
        check_ids(prompt, model.spec, f"row {number}")
        check_ids(continuation, model.spec, f"row {number}")
    if not pairs:
        return []
    whole, by_row, count = (None, None, 1) if mesh is None else (
        replicated(mesh), batch_sharding(mesh), mesh.shape["data"] * mesh.shape["fsdp"])
    results: list[Any] = [None] * len(pairs)  # Score, once it is computed
    separate, done = model.spec.rope_depends_on_length, 0
    by_prompt: dict[object, list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        by_prompt.setdefault(i if separate else prompt.tobytes(), []).append(i)
    members = list(by_prompt.values())
    prompts = [pairs[own[0]][0] for own in members]
    temperature = jax.device_put(np.float32(temperature), whole)

    # Depth first with a stack of `(node, parent, the parent's prefix)`: a recursive closure would be a reference cycle,
    # which holds its arrays until the garbage collector runs.
    root = prefix_tree(prompts, not separate)
    waiting: list[tuple[PrefixNode, PrefixNode, Prefix | None]] = [(root, root, None)]
    while waiting:
        node, parent, prefix = waiting.pop()
        if node is not root:
            tokens = prompts[node.example][parent.length:node.length]
            stats.prompt_tokens += len(tokens)
            prefix = extended_prefix(model.spec, model.params, adapter, prefix, parent.length, tokens, dtype, whole)
        texts = [text for i in node.members
                 for text in _texts(i, prompts[i][node.length:], members[i], pairs, separate)]
        packs = _packs(texts, window, separate)
        for start in range(0, len(packs), count):
            rows, ranges = _rows(packs[start:start + count], pairs, node.length, window, count)
            stats.prompt_tokens += int((rows.segments > 0).sum())
            stats.padding += int((rows.segments == 0).sum())
            logprobs = jax.device_get(packed_logprobs(model.spec, model.params, adapter, jax.device_put(rows, by_row),
                                                      prefix, temperature, dtype))
            for i, (row, first, last) in ranges.items():
                own = np.array(logprobs[row, first:last])
                results[i] = Score(check_finite(float(own.sum(dtype=np.float64))), last - first, own)
            done += len(ranges)
            if on_batch is not None:
                on_batch(done)
        waiting += [(child, node, prefix) for child in reversed(node.children)]
    return results


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text to compute: a prompt after its shared prefix, with the tokens of a continuation that predict others.

    Attributes:
        ids: `[T]` int32.
        prompt: number of the prompt.
        pairs: indices of the pairs that read states of this text.
        first: index of the first state that is read, the prompt's last token.
    """

    ids: np.ndarray
    prompt: int
    pairs: list[int]
    first: int


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Texts that share their first `stem` tokens, one segment of a row: the stem, then the rest of each as a branch."""

    stem: int
    texts: list[_Text]

    @property
    def tokens(self) -> int:
        """Number of tokens in the row."""
        return self.stem + sum(len(text.ids) - self.stem for text in self.texts)

    def joined(self, text: _Text) -> _Piece | None:
        """Returns the piece with one more text, or None where that would not save tokens."""
        stem = common_tokens(self.texts[0].ids[:self.stem], text.ids)
        if stem < SMALLEST_SHARED_TOKENS and text.prompt != self.texts[-1].prompt:
            return None
        saved = self.stem * (len(self.texts) - 1)
        return _Piece(stem, [*self.texts, text]) if stem * len(self.texts) > saved else None


def _texts(number: int, ids: np.ndarray, members: Sequence[int], pairs: Pairs, separate: bool) -> list[_Text]:
    """Lists the texts for the continuations `members` of prompt `number`, of which `ids` are left to compute.

    A continuation's last token predicts nothing that is read. It counts only where positions depend on the length.
    """
    texts: dict[object, _Text] = {}
    for i in members:
        continuation = pairs[i][1]
        predicting = continuation if separate else continuation[:-1]
        texts.setdefault(i if separate else predicting.tobytes(), _Text(
            np.concatenate([ids, predicting]), number, [], len(ids) - 1)).pairs.append(i)
    return list(texts.values())


def _packs(texts: list[_Text], window: int, separate: bool) -> list[list[_Piece]]:
    """Joins texts that begin alike into pieces, and fills packs with these, the shortest first."""
    largest = pack_sizes(0, window)[-1]
    pieces: list[_Piece] = []
    for text in sorted(texts, key=lambda text: text.ids.astype(">u4").tobytes()):
        joined = pieces[-1].joined(text) if pieces and not separate else None
        if joined is None or joined.tokens > largest:
            pieces.append(_Piece(len(text.ids), [text]))
        else:
            pieces[-1] = joined
    packs: list[list[_Piece]] = []
    free = 0
    for piece in sorted(pieces, key=lambda piece: piece.tokens):
        if not packs or piece.tokens > free:
            packs.append([])
            free = largest
        packs[-1].append(piece)
        free -= piece.tokens
    return packs


def _rows(packs: Sequence[list[_Piece]], pairs: Pairs, offset: int, window: int,
          count: int) -> tuple[PackedPairs, dict[int, tuple[int, int, int]]]:
    """Lays each pack into a row; the rows, `count` in all, and `(row, first, last)` of every pair's labels."""
    laid = [_row(pack, pairs, offset) for pack in packs]
    longest, most = max(one.shape[1] for one, _, _ in laid), max(read.shape[1] for _, read, _ in laid)
    size = bucket(longest, pack_sizes(longest, window))
    largest = size
    while largest < most:  # several continuations of one token read the same state
        largest *= _STATES_FACTOR
    states = bucket(most, growing_sizes(_FEWEST_STATES, largest, _STATES_FACTOR))
    arrays, read = np.zeros((4, count, size), np.int32), np.zeros((2, count, states), np.int32)
    for row, (columns, own, _) in enumerate(laid):
        arrays[:, row, :columns.shape[1]] = columns
        read[:, row, :own.shape[1]] = own
    single = all(len(piece.texts) == 1 for pack in packs for piece in pack)
    tokens, positions, segments, branches = arrays
    ranges = {i: (row, *span) for row, (*_, spans) in enumerate(laid) for i, span in spans.items()}
    return PackedPairs(tokens, positions, segments, None if single else branches, *read), ranges


def _row(pack: list[_Piece], pairs: Pairs, offset: int) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[int, int]]]:
    """Makes one row: its columns `[4, T]` and `[2, N]`, in the order of `PackedPairs`, and `(first, last)` of the
    labels of every pair."""
    columns: list[tuple[np.ndarray, np.ndarray, int, int]] = []
    read: list[np.ndarray] = []
    spans, end, found = {}, 0, 0
    for segment, piece in enumerate(pack, 1):
        start, stem = end, piece.stem
        columns.append((piece.texts[0].ids[:stem], offset + np.arange(stem), segment, 0))
        end += stem
        for branch, text in enumerate(piece.texts, 1):
            rest = text.ids[stem:]
            columns.append((rest, offset + stem + np.arange(len(rest)), segment, branch))
            places = np.concatenate([start + np.arange(stem), end + np.arange(len(rest))])
            for i in text.pairs:
                continuation = pairs[i][1]
                read.append(np.stack([continuation, places[text.first:text.first + len(continuation)]]))
                spans[i] = found, found + len(continuation)
                found += len(continuation)
            end += len(rest)
    joined = [np.concatenate([np.broadcast_to(column[field], len(column[0])) for column in columns])
              for field in range(4)]
    return np.stack(joined).astype(np.int32), np.concatenate(read, 1).astype(np.int32), spans
