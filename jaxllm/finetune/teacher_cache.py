"""Cache of the teacher's top-k log-probabilities: each target is run through the teacher once per run, not per step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.finetune.distill import Batch, student_states, target_means, teacher_states
from jaxllm.finetune.packing import (
    PackedShape,
    PackedTargets,
    pack_targets,
    predicting_states,
    row_counts,
    teacher_passes,
)
from jaxllm.finetune.targets import EMPTY, Target, collate
from jaxllm.generate import Generator
from jaxllm.models import ModelSpec, unembedding
from jaxllm.models.mesh import put_batch
from jaxllm.models.network import Params
from jaxllm.ops import masked_sum, token_divergence, top_k_kl, top_k_logprobs
from jaxllm.ops.top_k import top_k_rest

# Host memory of the cache; when it is full it is emptied, and targets are run through the teacher again.
CACHE_BYTES = 2 * 2**30


@partial(jax.jit, static_argnames=("spec", "k", "temperature", "dtype"))
def teacher_top_k(spec: ModelSpec, teacher: Params, batch: Batch, *, k: int, temperature: float, dtype: jnp.dtype
                  ) -> tuple[jax.Array, jax.Array]:
    """Computes the teacher's k most probable tokens at the student's positions, and their log-probabilities
    `[B, Ts, k]`, or `[R, N, k]` of packed rows."""
    states = teacher_states(spec, teacher, batch, dtype=dtype)
    return top_k_logprobs(states, unembedding(spec, teacher), k, temperature=temperature)


def top_k_error(teacher: Generator, targets: Sequence[Target], k: int, lengths: tuple[int, int], temperature: float,
                dtype: jnp.dtype, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """Measures what a cache of the teacher's top k leaves out, before training.

    Args:
        teacher: the teacher, and the student before its first step.
        targets: targets of one pass.
        k, lengths, temperature, dtype, mesh: see `TeacherCache`.

    Returns:
        means over the targets: `rest`, the probability outside the top k, and the loss of the first step in nats per
        token, `kl` over the whole vocabulary and `kl_top_k` as it is trained on.
    """
    rows = -len(targets) % (mesh.shape["data"] * mesh.shape["fsdp"])
    batch = collate([*targets, *[EMPTY] * rows], *lengths)
    with jax.set_mesh(mesh):
        means = _top_k_error(teacher.model.spec, teacher.training_params(), put_batch(batch, mesh), k=k,
                             temperature=temperature, dtype=dtype)
    return {name: float(value) for name, value in means.items()}


@partial(jax.jit, static_argnames=("spec", "k", "temperature", "dtype"))
def _top_k_error(spec: ModelSpec, params: Params, batch: Batch, *, k: int, temperature: float, dtype: jnp.dtype
                 ) -> dict[str, jax.Array]:
    head, student = unembedding(spec, params), student_states(spec, params, None, batch, dtype=dtype)
    teacher = teacher_states(spec, params, batch, dtype=dtype)
    ids, logprobs = top_k_logprobs(teacher, head, k, temperature=temperature)
    values = {"rest": top_k_rest(logprobs),
              "kl": token_divergence(student, head, teacher, head, temperature=temperature) * temperature**2,
              "kl_top_k": top_k_kl(student, head, ids, logprobs, temperature=temperature) * temperature**2}
    sums = {name: masked_sum(*target_means(own, batch)) for name, own in values.items()}
    return {name: total / weight for name, (total, weight) in sums.items()}


class TeacherCache:
    """The teacher's top-k log-probabilities at every position of targets, computed once per target.

    Args:
        teacher: the teacher.
        open_book_teacher: teacher of targets with a context, where it differs.
        k: tokens stored per position.
        lengths: lengths of the student's and the teacher's view.
        batch_size: targets of one forward pass.
        temperature: temperature of the distributions.
        dtype: dtype of the forward pass.
        mesh: the devices that share it.
        packing: shape of rows of the teacher's view, in which a document is read once for several targets; None pads
            every target to a row of its own.
    """

    def __init__(self, teacher: Generator, open_book_teacher: Generator | None, k: int, lengths: tuple[int, int],
                 batch_size: int, temperature: float, dtype: jnp.dtype, mesh: jax.sharding.Mesh,
                 packing: PackedShape | None = None):
        self._lengths, self._k, self._batch_size, self._mesh = lengths, k, batch_size, mesh
        self._packing, self._counts = packing, row_counts(batch_size, mesh.shape["data"] * mesh.shape["fsdp"])
        self._entries: dict[Target, tuple[np.ndarray, np.ndarray]] = {}  # at the predicting states of each target
        self._bytes = 0
        self._teachers = teacher, teacher if open_book_teacher is None else open_book_teacher
        self._run = lambda params, batch: teacher_top_k(teacher.model.spec, params, batch, k=k,
                                                        temperature=temperature, dtype=dtype)

    def batch(self, targets: Sequence[Target], ahead: Iterable[Target] = ()) -> dict[str, np.ndarray]:
        """Builds `collate` with `teacher_ids` and `teacher_logprobs` `[B, Ts, k]`, 0 at states without a loss, in place
        of the teacher's view.

        Args:
            targets: targets of the batch.
            ahead: those of the next batches, run at the same time if any of `targets` has to be.
        """
        self._require(targets, ahead)
        ids = np.zeros((len(targets), self._lengths[0], self._k), np.int32)
        logprobs = np.zeros(ids.shape, np.float32)
        for row, target in enumerate(targets):
            states = predicting_states(target)
            ids[row, states], logprobs[row, states] = self._entries[target]
        return collate(targets, self._lengths[0], None) | {"teacher_ids": ids, "teacher_logprobs": logprobs}

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
            if predictions.any():
                ids[predictions], logprobs[predictions] = self._entries[target]
        return packed.batch | {"teacher_ids": ids, "teacher_logprobs": logprobs}

    def _require(self, targets: Sequence[Target], ahead: Iterable[Target]) -> None:
        """Fills the cache with `targets`, and then with `ahead` too, unless it holds all of `targets`."""
        if any(target not in self._entries for target in targets):
            self._fill(itertools.chain(targets, ahead))

    def _fill(self, targets: Iterable[Target]) -> None:
        """Runs those targets through the teacher that are not in the cache."""
        if self._bytes > CACHE_BYTES:
            self._entries, self._bytes = {}, 0
        new = [target for target in targets if target not in self._entries]
        own, other = self._teachers
        groups = [(own, new)] if own is other else [
            (own, [target for target in new if not target.offset]),
            (other, [target for target in new if target.offset])]
        for teacher, texts in groups:
            for own_pass in teacher_passes(texts, self._batch_size):
                self._run_batch(teacher.training_params(), own_pass)

    def _run_batch(self, params: Params, targets: Sequence[Target]) -> None:
        """Runs at most `batch_size` targets through a teacher."""
        packed = None if self._packing is None else pack_targets(targets, self._packing, self._counts)
        batch = packed.batch if packed is not None else collate(
            [*targets, *[EMPTY] * (self._batch_size - len(targets))], *self._lengths)
        with jax.set_mesh(self._mesh):
            arrays = jax.device_get(self._run(params, put_batch(batch, self._mesh)))
        for row, target in enumerate(targets):
            where = (row, predicting_states(target)) if packed is None else packed.number == row
            # Copies, so that the batch's arrays can be freed.
            ids, logprobs = (np.array(array[where]) for array in arrays)
            self._entries[target] = ids, logprobs
            self._bytes += ids.nbytes + logprobs.nbytes
