"""A model prepared for inference: generation and scoring with adapters next to the frozen base weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.devices import DeviceConfig
from jaxllm.errors import UserError
from jaxllm.generate.classify import classify_texts
from jaxllm.generate.completion import Completion
from jaxllm.generate.scheduler import GenerationStats, Scheduler, check_prompt
from jaxllm.generate.scoring import Score, score_pairs
from jaxllm.model import Model
from jaxllm.models import Adapter, Params, adapter_axes, merge_adapter, native, stack_layers
from jaxllm.models.adapters import match_layout
from jaxllm.models.mesh import model_shardings, shardings
from jaxllm.models.params import Weights, own_layers
from jaxllm.models.quantized import scheme_of

Ids = Sequence[int] | np.ndarray


class Generator:
    """Generates from a model and scores with it.

    Weights are placed on the mesh, and their layers unstacked, as decoding needs them, by the first call. Training
    shares them: `training_params` stacks the layers again, and the next generation unstacks them, so that the base is
    in memory once. Models with a scoring head keep their layers as they are.

    Args:
        model: the model; not changed.
        dtype: dtype of activations and KV cache; by default bfloat16 on accelerators and float32 on CPU.
        mesh: splits rows over `data` and `fsdp` and KV heads over `tensor`; weights that are not on it are placed.
            Decoding and scoring split rows; prompts of generation and shared prefixes are prefilled by every group of
            devices, each of which then has their keys and values.
        batch_size: sequences decoded together at most; halved while memory does not suffice. Results depend on it only
            through rounding.
        donate: frees the weights of `model` while their layers are unstacked; the model must not be used afterwards.
    """

    def __init__(self, model: Model, *, dtype: jnp.dtype | None = None, mesh: jax.sharding.Mesh | None = None,
                 batch_size: int = 32, donate: bool = False):
        self.dtype = DeviceConfig().compute_dtype if dtype is None else jnp.dtype(dtype)
        if batch_size < 1:
            raise UserError(f"must be 1 or more, got {batch_size}", "batch_size")
        self.mesh, self.batch_size = mesh, batch_size
        placed = model.params if mesh is None or _is_on(model.params, mesh) else _placed(model, mesh)
        self._model, self._weights = model, Weights(placed, donate, placed is not model.params)

    @property
    def model(self) -> Model:
        """The model with the weights in their present layout."""
        return dataclasses.replace(self._model, params=self.params)

    @property
    def params(self) -> Params:
        """The weights in their present layout; see `training_params`."""
        return self._weights.current

    def training_params(self) -> Params:
        """Returns the weights with stacked layers, which a training step scans and so compiles once.

        Generation and scoring convert them back: the tree must not be used after such a call.
        """
        return self._weights.stacked()

    def _decoding_model(self) -> Model:
        if self._model.spec.head is None:
            self._weights.unstacked()
        return self.model

    def replace_params(self, params: Params, donate: bool = False) -> Generator:
        """Returns a generator with other weights of the same model, prepared likewise."""
        return Generator(dataclasses.replace(self._model, params=params), dtype=self.dtype, mesh=self.mesh,
                         batch_size=self.batch_size, donate=donate)

    def merged(self, adapter: Adapter, donate: bool = False) -> Generator:
        """Returns a generator with an adapter merged into the weights.

        Args:
            adapter: the adapter.
            donate: reuse the memory of these weights; this generator must not be used afterwards.
        """
        params = merge_adapter(self.params, adapter, donate=donate)
        return self.replace_params(params if donate else own_layers(params, self.params), donate=True)

    def generate(self, prompts: Sequence[Ids], sampling: SamplingConfig, *, adapter: Adapter | None = None,
                 seed: int = 0, row_ids: Sequence[int] | None = None, max_tokens: Sequence[int] | None = None,
                 logprob_temperature: float = 1.0, stats: GenerationStats | None = None,
                 on_prompt: Callable[[int, list[Completion]], None] | None = None,
                 mixed: np.ndarray | None = None) -> list[list[Completion]]:
        """Continues every prompt `sampling.n` times.

        A prompt's samples depend on the seed and on its row id only, not on other prompts or the batch size. In
        bfloat16 sums may be rounded differently, and now and then another token is sampled.

        Args:
            prompts: token ids of every prompt, at least one each.
            sampling: settings of all prompts.
            adapter: low-rank adapter applied next to the base weights.
            seed: base of the random streams, unless `sampling` has a seed.
            row_ids: the prompts' numbers in the random streams, 0 or more; by default their indices.
            max_tokens: limit of each prompt, 1 or more; by default `sampling.max_tokens`.
            logprob_temperature: temperature of the recorded log-probabilities.
            stats: counts the work.
            on_prompt: called with a prompt's index and completions as soon as all of these are done.
            mixed: `[len(prompts) / 2, sampling.max_tokens]` bool; prompts 2i and 2i + 1 get the same tokens, token n
                drawn from the distribution after the second of them where `mixed[i, n]` is true, else after the first.
                Each has its own log-probabilities. `sampling.n` must be 1, and `max_tokens` and `row_ids` the same for
                both; see `generate.mixture`.

        Returns:
            The completions of every prompt, in order.

        Raises:
            UserError: a prompt is empty, or exceeds the context window with `max_tokens`, or crosses the original
                window of longrope with it; `row_ids`, `max_tokens` or `mixed` do not fit the prompts; `seed` is
                negative or has more than 32 bits; the log-probabilities are not finite; a logit bias names a token that
                the model does not have; the model has a scoring head.
        """
        model = self._decoding_model()
        spec = model.spec
        model.require_lm("generate text")
        limits = [sampling.max_tokens] * len(prompts) if max_tokens is None else list(max_tokens)
        numbers = list(range(len(prompts))) if row_ids is None else list(row_ids)
        _check_numbers(limits, len(prompts), 1, "max_tokens")
        _check_numbers(numbers, len(prompts), 0, "row_ids")
        _check_numbers([seed], 1, 0, "seed")
        arrays = [np.asarray(ids, np.int32) for ids in prompts]
        for number, (ids, limit) in enumerate(zip(arrays, limits, strict=True)):
            check_prompt(ids, limit, spec, f"prompt {number + 1}")
        if mixed is not None and (sampling.n > 1 or 2 * len(mixed) != len(prompts)):
            raise UserError(f"needs sampling.n of 1 and a row for every two prompts, got {len(mixed)} rows for "
                            f"{len(prompts)} prompts", "mixed")
        if unknown := [token for token in sampling.logit_bias if token >= spec.vocab_size]:
            raise UserError(f"the model has {spec.vocab_size} tokens, and none with the id {unknown[0]}",
                            "sampling.logit_bias")
        _check_temperature(logprob_temperature, "logprob_temperature")
        results: list[list[Any]] = [[None] * sampling.n for _ in arrays]  # completions, once they are done
        left = [sampling.n] * len(prompts)

        def finished(prompt: int, sample: int, completion: Completion) -> None:
            results[prompt][sample] = completion
            left[prompt] -= 1
            if not left[prompt] and on_prompt is not None:
                on_prompt(prompt, results[prompt])

        if arrays:
            Scheduler(model, self._adapter(adapter), arrays, limits, sampling,
                      seed=seed if sampling.seed is None else sampling.seed,
                      row_ids=np.array(numbers, np.uint32),
                      logprob_temperature=logprob_temperature, batch_size=self.batch_size, dtype=self.dtype,
                      mesh=self.mesh, stats=stats or GenerationStats(), mixed=mixed).run(finished)
        return results

    def score(self, pairs: Sequence[tuple[Ids, Ids]], *, adapter: Adapter | None = None, temperature: float = 1.0,
              stats: GenerationStats | None = None, on_batch: Callable[[int], None] | None = None) -> list[Score]:
        """Computes the log-probability of every continuation given its prompt.

        Prompts that occur several times, and shared prefixes, go through the network once.

        Args:
            pairs: `(prompt ids, continuation ids)`.
            adapter: low-rank adapter applied next to the base weights.
            temperature: temperature of the distribution, softmax(logits / temperature).
            stats: counts the work.
            on_batch: called with the number of pairs done so far.

        Raises:
            UserError: a prompt has no token, or a pair is longer than the context window; the log-probabilities are not
                finite; the model has a scoring head.
        """
        model = self._decoding_model()
        model.require_lm("score continuations")
        _check_temperature(temperature, "temperature")
        arrays = [(np.asarray(prompt, np.int32), np.asarray(rest, np.int32)) for prompt, rest in pairs]
        return score_pairs(model, self._adapter(adapter), arrays, temperature=temperature, dtype=self.dtype,
                           mesh=self.mesh, stats=stats or GenerationStats(), on_batch=on_batch)

    def classify(self, texts: Sequence[tuple[Ids, Ids]], *, adapter: Adapter | None = None,
                 on_batch: Callable[[int], None] | None = None) -> list[list[float]]:
        """Computes the outputs of the model's scoring head for every text.

        Args:
            texts: `(ids, types)`, from `Tokenizer.whole`.
            adapter: low-rank adapter applied next to the base weights.
            on_batch: called with the number of texts done so far.

        Raises:
            UserError: a text is empty or longer than the context window, or a score is not finite.
        """
        model = self._decoding_model()
        return classify_texts(model, self._adapter(adapter), texts, batch_size=self.batch_size, dtype=self.dtype,
                              mesh=self.mesh, on_batch=on_batch)

    def _adapter(self, adapter: Adapter | None) -> Adapter | None:
        """The adapter in the layout of the weights and on their devices."""
        if adapter is None:
            return None
        if self.mesh is not None and not _is_on(adapter.params, self.mesh):
            adapter = dataclasses.replace(adapter, params=stack_layers(adapter.params))
            placed = shardings(adapter_axes(adapter), self.mesh, adapter.params)
            adapter = dataclasses.replace(adapter, params=jax.device_put(adapter.params, placed))
        return match_layout(adapter, self.params)


def _placed(model: Model, mesh: jax.sharding.Mesh) -> Params:
    """Places a model's weights on a mesh."""
    params = stack_layers(model.params)
    layout = native.abstract(model.spec, jnp.dtype("float32"), model_shardings(model.spec, mesh), scheme_of(params))
    return jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, layout))


def _is_on(params: Params, mesh: jax.sharding.Mesh) -> bool:
    devices = set(mesh.devices.flat)
    return all(leaf.sharding.device_set == devices for leaf in jax.tree.leaves(params))


def _check_numbers(numbers: Sequence[int], prompts: int, least: int, name: str) -> None:
    """Raises a `UserError` unless there is a number for every prompt, from `least` to the largest of 32 bits."""
    if len(numbers) != prompts:
        raise UserError(f"must have a number for each of {prompts} prompts, got {len(numbers)}", name)
    for number in numbers:
        if number < least or number >= 2**32:
            raise UserError(f"must be {f'{least} or more' if number < least else 'below 2**32'}, got {number}", name)


def _check_temperature(value: float, name: str) -> None:
    if not 0 < value < float("inf"):
        raise UserError(f"must be above 0, got {value:g}", name)


def generate(model: Model, prompts: Sequence[Ids], sampling: SamplingConfig, *, dtype: jnp.dtype | None = None,
             mesh: jax.sharding.Mesh | None = None, batch_size: int = 32, **options) -> list[list[Completion]]:
    """Calls `Generator.generate` once; for several calls make the `Generator`, which prepares the weights once."""
    return Generator(model, dtype=dtype, mesh=mesh, batch_size=batch_size).generate(prompts, sampling, **options)


def score(model: Model, pairs: Sequence[tuple[Ids, Ids]], *, dtype: jnp.dtype | None = None,
          mesh: jax.sharding.Mesh | None = None, **options) -> list[Score]:
    """Calls `Generator.score` once; for several calls make the `Generator`, which prepares the weights once."""
    return Generator(model, dtype=dtype, mesh=mesh).score(pairs, **options)
