"""Cache of the teacher's top-k log-probabilities: each target is run through the teacher once per run, not per step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.finetune.distill import Batch, teacher_states
from jaxllm.finetune.packing import PackedTargets
from jaxllm.finetune.targets import EMPTY, Target, collate
from jaxllm.generate import Generator
from jaxllm.models import ModelSpec, unembedding
from jaxllm.models.mesh import put_batch
from jaxllm.models.network import Params
from jaxllm.ops import top_k_logprobs

# Host memory of the cache; when it is full it is emptied, and targets are run through the teacher again.
CACHE_BYTES = 2 * 2**30


@partial(jax.jit, static_argnames=("spec", "k", "temperature", "dtype"))
def teacher_top_k(spec: ModelSpec, teacher: Params, open_book_teacher: Params | None, batch: Batch, *, k: int,
                  temperature: float, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Computes the teacher's k most probable tokens at the student's positions, and their log-probabilities
    `[B, Ts, k]`, or `[R, N, k]` of packed rows."""
    states = teacher_states(spec, teacher, batch, open_book_teacher=open_book_teacher, dtype=dtype)
    return top_k_logprobs(states, unembedding(spec, teacher), k, temperature=temperature)


class TeacherCache:
    """The teacher's top-k log-probabilities at every position of targets, computed once per target.

    Args:
        teacher: the teacher.
        open_book_teacher: teacher of targets with a context, where it differs; see `target_divergence`.
        k: tokens stored per position.
        lengths: lengths of the student's and the teacher's view.
        batch_size: targets of one forward pass.
        temperature: temperature of the distributions.
        dtype: dtype of the forward pass.
        mesh: the devices that share it.
    """

    def __init__(self, teacher: Generator, open_book_teacher: Generator | None, k: int, lengths: tuple[int, int],
                 batch_size: int, temperature: float, dtype: jnp.dtype, mesh: jax.sharding.Mesh):
        self._lengths, self._k, self._batch_size, self._mesh = lengths, k, batch_size, mesh
        self._entries: dict[Target, tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0
        self._run = lambda batch: teacher_top_k(
            teacher.model.spec, teacher.training_params(),
            None if open_book_teacher is None else open_book_teacher.training_params(), batch, k=k,
            temperature=temperature, dtype=dtype)

    def batch(self, targets: Sequence[Target], ahead: Iterable[Target] = ()) -> dict[str, np.ndarray]:
        """Builds `collate` with `teacher_ids` and `teacher_logprobs` `[B, Ts, k]`, undefined in the padding.

        Args:
            targets: targets of the batch.
            ahead: those of the next batches, run at the same time if any of `targets` has to be.
        """
        self._require(targets, ahead)
        ids = np.zeros((len(targets), self._lengths[0], self._k), np.int32)
        logprobs = np.zeros(ids.shape, np.float32)
        for row, target in enumerate(targets):
            length = len(target.student)
            ids[row, :length], logprobs[row, :length] = self._entries[target]
        return collate(targets, *self._lengths) | {"teacher_ids": ids, "teacher_logprobs": logprobs}

    def packed_batch(self, packed: PackedTargets, targets: Sequence[Target], ahead: Iterable[Target] = ()
                     ) -> dict[str, np.ndarray]:
        """Builds the batch of packed rows with `teacher_ids` and `teacher_logprobs` `[R, N, k]`, 0 in the padding.

        Args:
            packed: the targets in rows.
            targets: those that were packed, in the order given to `pack_targets`.
            ahead: see `batch`.
        """
        self._require(targets, ahead)
        ids = np.zeros((*packed.number.shape, self._k), np.int32)
        logprobs = np.zeros(ids.shape, np.float32)
        for number, target in enumerate(targets):
            predictions = packed.number == number
            entry = self._entries[target]
            ids[predictions], logprobs[predictions] = (array[packed.state[predictions]] for array in entry)
        return packed.batch | {"teacher_ids": ids, "teacher_logprobs": logprobs}

    def _require(self, targets: Sequence[Target], ahead: Iterable[Target]) -> None:
        """Fills the cache with `targets`, and then with `ahead` too, unless it holds all of `targets`."""
        if any(target not in self._entries for target in targets):
            self._fill(itertools.chain(targets, ahead))

    def _fill(self, targets: Iterable[Target]) -> None:
        """Runs those targets through the teacher that are not in the cache."""
        if self._bytes > CACHE_BYTES:
            self._entries, self._bytes = {}, 0
        new = [target for target in dict.fromkeys(targets) if target not in self._entries]
        for start in range(0, len(new), self._batch_size):
            part = new[start:start + self._batch_size]
            batch = collate([*part, *[EMPTY] * (self._batch_size - len(part))], *self._lengths)
            with jax.set_mesh(self._mesh):
                ids, logprobs = jax.device_get(self._run(put_batch(batch, self._mesh)))
            for row, target in enumerate(part):
                # Copies, so that the batch's arrays can be freed.
                entry = tuple(array[row, :len(target.student)].copy() for array in (ids, logprobs))
                self._entries[target] = entry
                self._bytes += sum(array.nbytes for array in entry)
