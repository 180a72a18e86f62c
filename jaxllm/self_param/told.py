"""What the teacher says of the texts of an injection, asked once of each and kept, instead of in every step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.model import Model
from jaxllm.models import ModelSpec, unembedding
from jaxllm.models.mesh import put_batch
from jaxllm.models.network import Params
from jaxllm.ops import top_k_logprobs
from jaxllm.self_param.loss import Batch, teacher_states
from jaxllm.self_param.targets import Target, collate

# Bytes that are kept on the host; beyond, what came first is forgotten, and asked for again if need be.
ROOM = 2 * 2**30


@partial(jax.jit, static_argnames=("spec", "k", "temperature", "dtype"))
def ask_teacher(spec: ModelSpec, teacher: Params, reader: Params | None, batch: Batch, *, k: int, temperature: float,
               dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """The teacher's k likeliest tokens where the student of a batch is, and their log-probabilities, `[B, Ts, k]`."""
    states = teacher_states(spec, teacher, batch, reader=reader, dtype=dtype)
    return top_k_logprobs(states, unembedding(spec, teacher), k, temperature=temperature)


class Told:
    """The teacher's likeliest tokens at every position of targets.

    Args:
        model: the teacher.
        reader: of documents, where that is another one; see `reading_gap`.
        k: tokens kept of a position.
        lengths: of the student's and the teacher's view.
        rows: targets that run together.
        temperature: of the distributions.
        dtype: of the forward pass.
        mesh: the devices that share it.
    """

    def __init__(self, model: Model, reader: Params | None, k: int, lengths: tuple[int, int], rows: int,
                 temperature: float, dtype: jnp.dtype, mesh: jax.sharding.Mesh):
        self._lengths, self._k, self._rows, self._mesh = lengths, k, rows, mesh
        self._said: dict[Target, tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0
        self._ask = partial(ask_teacher, model.spec, model.params, reader, k=k, temperature=temperature, dtype=dtype)

    def batch(self, targets: Sequence[Target], ahead: Iterable[Target] = ()) -> dict[str, np.ndarray]:
        """`collate`, and `teacher_ids` and `teacher_logprobs` `[B, Ts, k]`; what stands in padding means nothing.

        Args:
            targets: of the batch.
            ahead: those of the next batches, asked about at the same time if any of `targets` has to be.
        """
        if any(target not in self._said for target in targets):
            self._listen(itertools.chain(targets, ahead))
        ids = np.zeros((len(targets), self._lengths[0], self._k), np.int32)
        logprobs = np.zeros(ids.shape, np.float32)
        for row, target in enumerate(targets):
            length = len(target.student)
            ids[row, :length], logprobs[row, :length] = self._said[target]
        return collate(targets, *self._lengths) | {"teacher_ids": ids, "teacher_logprobs": logprobs}

    def _listen(self, targets: Iterable[Target]) -> None:
        """Asks the teacher about those targets that it has not told of yet."""
        if self._bytes > ROOM:
            self._said, self._bytes = {}, 0
        new = [target for target in dict.fromkeys(targets) if target not in self._said]
        for start in range(0, len(new), self._rows):
            some = new[start:start + self._rows]
            batch = collate([*some, *[Target((), (), 0)] * (self._rows - len(some))], *self._lengths)
            with jax.set_mesh(self._mesh):
                ids, logprobs = jax.device_get(self._ask(put_batch(batch, self._mesh)))
            for row, target in enumerate(some):
                # Copies, so that the batch can go.
                said = tuple(part[row, :len(target.student)].copy() for part in (ids, logprobs))
                self._said[target] = said
                self._bytes += sum(part.nbytes for part in said)
