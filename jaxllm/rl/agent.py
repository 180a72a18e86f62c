"""An agent: a policy with its value function, what it knows about its responses, and its update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.finetune.texts import Batch, RowShape, read_states
from jaxllm.finetune.trainable import as_adapter, init_trained, student_of
from jaxllm.generate import Generator
from jaxllm.models import ModelSpec, unembedding
from jaxllm.models.heads import value_predictions
from jaxllm.models.mesh import put_batch
from jaxllm.models.network import Params
from jaxllm.ops import (
    adapt_kl_coef,
    aggregate,
    gae,
    group_advantages,
    importance_weights,
    init_moments,
    overlong_penalty,
    policy_terms,
    shape_scores,
    token_entropy,
    token_kl,
    token_logprobs,
    token_mean,
    token_rewards,
    token_statistics,
    update_moments,
    value_terms,
    whiten,
)
from jaxllm.ops.advantages import GroupBaseline
from jaxllm.rl.config import RlConfig
from jaxllm.rl.rollouts import Rollout, at_tokens, collect_by_response, make_rollout, place_on_rows, response_batches
from jaxllm.train import (
    ABSENT,
    LossFn,
    SumAndWeight,
    TrainState,
    TrainStep,
    epoch_permutation,
    init_state,
    make_optimizer,
    make_schedule,
    make_train_step,
)

# Seeds are below this.
_SEEDS = 2**31 - 1
CRITIC = 0
"""Purpose of the random draws of a critic, see `drawn_seed`; those of `cory` have other numbers."""


def drawn_seed(seed: int, *purpose: int) -> int:
    """Draws a seed for one purpose of a run: its number, and then (iteration, agent) for example."""
    # With its length: a shorter sequence counts as filled up with zeros.
    return int(np.random.SeedSequence([seed, len(purpose), *purpose]).generate_state(1)[0]) % _SEEDS


def init_agent(base: Generator, config: RlConfig, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh,
               seed: int) -> TrainState:
    """Makes an agent before its first update: the base model with a value of 0 everywhere.

    Args:
        base: the model, which is also the reference.
        config: settings.
        optimizer: from `make_optimizer`.
        mesh: the devices.
        seed: seed of the adapter's initial values.

    Returns:
        A state with, in `extra`, the KL coefficient `kl_coef` and the moments of scores.
    """
    base.training_params()  # stacks the layers of `base.model`
    trained = init_trained(base.model, config.lora, mesh, seed, ["value_head"] if config.own.has_values else [])
    if config.own.has_values and config.policy.value == "separate":
        trained["critic"] = init_trained(base.model, config.lora, mesh, drawn_seed(seed, CRITIC))
    return init_state(trained, optimizer, seed, {"kl_coef": np.float32(config.kl_coef), "moments": init_moments()})


@dataclasses.dataclass(frozen=True)
class Experience:
    """Responses with all that an update needs of them but their scores.

    Attributes:
        rollout: the responses.
        rows: their rows, a batch per minibatch of the first pass, on the host.
        batches: the same on the devices.
        known: float32 `[B, T]` of every token: `logprobs`, `reference_logprobs` and `sampler_logprobs`, `kl` of whole
            distributions, `entropy`, and `values` where the agent has a value function.
    """

    rollout: Rollout
    rows: list[Batch]
    batches: list[Batch]
    known: dict[str, np.ndarray]

    @property
    def kl(self) -> np.ndarray:
        """Divergence from the reference model, summed over the tokens of every response, `[B]` nats."""
        return np.where(self.rollout.mask, self.known["kl"], 0.0).sum(1)


@dataclasses.dataclass(frozen=True)
class Learner:
    """Samples, evaluates and updates agents of one model; holds compiled programs and no weights.

    Attributes:
        spec: spec of the network.
        config: settings.
        shape: rows of batches, see `rollout_shape`.
        advantages: from `make_advantages`, compiled.
        step: the compiled update.
        optimizer: optimizer of the agents.
        mesh: the devices.
    """

    spec: ModelSpec
    config: RlConfig
    shape: RowShape
    advantages: AdvantagesFn
    step: TrainStep
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh

    @classmethod
    def make(cls, spec: ModelSpec, config: RlConfig, shape: RowShape, mesh: jax.sharding.Mesh) -> Learner:
        """Makes the programs of a run."""
        optimizer = make_optimizer(config.train, config.updates)
        step = make_train_step(make_rl_loss(spec, config), optimizer, make_schedule(config.train, config.updates),
                               config.train.accumulate, finish=functools.partial(_skip_large_ratios,
                                                                                 config.policy.max_ratio),
                               extremes={"ratio_error": jnp.maximum})
        return cls(spec, config, shape, jax.jit(make_advantages(config)), step, optimizer, mesh)

    def sample(self, base: Generator, state: TrainState, prompts: Sequence[np.ndarray], limit: int, seed: int
               ) -> Rollout:
        """Samples a response to every prompt.

        Args:
            base: the model.
            state: the agent.
            prompts: ids.
            limit: the most tokens of a response.
            seed: seed of these responses.
        """
        generator, adapter = base, as_adapter(state.params, self.config.lora)
        if adapter is None:
            weights = student_of(state.params, {}, None)[0]
            generator = base.replace_params(weights)
        completions = generator.generate(prompts, self.config.sampling, adapter=adapter, seed=seed,
                                         max_tokens=[limit] * len(prompts),
                                         logprob_temperature=self.config.sampling.temperature)
        return make_rollout(prompts, [own[0] for own in completions], self.config.limit)

    def evaluate(self, base: Generator, state: TrainState, rollout: Rollout, seed: int = 0) -> Experience:
        """Computes what the agent, and the model before training, know about responses.

        Args:
            base: the model.
            state: the agent.
            rollout: the responses.
            seed: seed of their order.
        """
        frozen, count = base.training_params(), len(rollout.prompts)
        rows = response_batches(rollout, self.shape, self._minibatches(count, seed, 0))
        batches = [put_batch(own, self.mesh) for own in rows]
        with jax.set_mesh(self.mesh):
            parts: list[Any] = jax.device_get([evaluate_tokens(
                self.spec, state.params, frozen, batch, self.config.sampling.temperature, scale=self.config.scale,
                dtype=self.config.device.compute_dtype) for batch in batches])
        known = collect_by_response(parts, rows, count)
        return Experience(rollout, rows, batches, known | {"sampler_logprobs": rollout.sampler_logprobs})

    def _minibatches(self, count: int, seed: int, number: int) -> list[np.ndarray]:
        """Deals responses into the minibatches of a pass; a single one keeps their order."""
        size = min(self.config.minibatch_size, count)
        order = np.arange(count) if size == count else epoch_permutation(seed, number, count)
        return [order[start:start + size] for start in range(0, count, size)]

    def update(self, base: Generator, state: TrainState, experience: Experience, scores: np.ndarray,
               groups: np.ndarray, seed: int = 0) -> tuple[TrainState, dict[str, float | None]]:
        """Updates an agent by the scores of its responses.

        Args:
            base: the model.
            state: the agent; donated.
            experience: from `evaluate`, of this state.
            scores: float32 `[B]`, from `penalized`; with two agents the collective ones.
            groups: int32 `[B]`, any number of the prompt, 0 or more; -1 leaves a response out.
            seed: seed of the order of responses, as in `evaluate`.

        Returns:
            The new state, and means over the updates of `approx_kl`, `clip_fraction`, `policy_loss`, `value_loss`,
            `value_clip_fraction`, `grad_norm`, `ratio`, the number of `updates` and of those that were `skipped`; of
            the first update `first_ratio_error`, the largest |ratio - 1|; and of the batch `shaped_score`,
            `advantage_std`, `kl_estimate`, the divergence by the estimator `kl.kind` summed over a response,
            `kl_penalty`, that times the coefficient, and with a value function `return_mean`, `return_std` and
            `explained_variance`, the share of the returns' variance that the values explain before the update. None
            where no token is left.
        """
        rollout, config = experience.rollout, self.config
        extra, targets, measures = self.advantages(
            state.extra, experience.known, rollout.mask, rollout.truncated, np.asarray(scores, np.float32),
            np.asarray(groups, np.int32))
        place = lambda new, old: jax.device_put(new, old.sharding)
        state = dataclasses.replace(state, extra=jax.tree.map(place, extra, state.extra))
        targets = jax.device_get(targets)
        numbers: list[dict[str, jax.Array]] = []
        rows, batches = experience.rows, experience.batches
        for turn in range(config.passes):
            if turn and len(batches) > 1:  # the next pass has another order
                rows = response_batches(rollout, self.shape, self._minibatches(len(rollout.prompts), seed, turn))
                batches = [put_batch(own, self.mesh) for own in rows]
            if not turn or len(batches) > 1:
                batches = [batch | put_batch(place_on_rows(own, targets), self.mesh)
                           for batch, own in zip(batches, rows, strict=True)]
            for batch in batches:
                with jax.set_mesh(self.mesh):
                    state, found = self.step(state, base.training_params(), batch)
                numbers.append(found)
            if config.policy.target_kl is not None and (
                    float(numbers[-1]["policy_kl"]) > 1.5 * config.policy.target_kl):  # not of `ABSENT`, the lowest
                break
        fetched = jax.device_get(numbers)
        # Of updates without a token to train on there is nothing to average.
        mean = lambda name, some: _mean([float(one[name]) for one in some if one[name] != ABSENT])
        means = {name: mean(name, fetched) for name in fetched[0] if name not in ("ratio_error", "skipped")}
        means["first_ratio_error"] = mean("ratio_error", fetched[:1])
        counts = {"updates": len(fetched), "skipped": int(sum(one["skipped"] for one in fetched))}
        return state, means | counts | {name: float(value) for name, value in jax.device_get(measures).items()}

    def adapt(self, state: TrainState, experience: Experience) -> TrainState:
        """Adapts the KL coefficient to the divergence of an iteration's responses, where it is adaptive."""
        if not self.config.kl.adaptive:
            return state
        old, kl = state.extra["kl_coef"], experience.kl
        new = adapt_kl_coef(old, jnp.float32(kl.mean()), len(kl), target=self.config.kl.target,
                            horizon=self.config.kl.horizon)
        return dataclasses.replace(state, extra=state.extra | {"kl_coef": jax.device_put(new, old.sharding)})


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def penalized(config: RlConfig, scores: np.ndarray, rollout: Rollout) -> np.ndarray:
    """Applies the penalties of long responses and of those without an end to an agent's own scores, float32 `[B]`."""
    shaping = config.scores
    if shaping.overlong_tokens:
        scores = scores + np.asarray(overlong_penalty(jnp.asarray(rollout.lengths), config.limit,
                                                      shaping.overlong_tokens))
    if shaping.missing_end == "penalty":
        scores = scores - shaping.missing_end_penalty * rollout.truncated
    elif shaping.missing_end == "replace":
        scores = np.where(rollout.truncated, -shaping.missing_end_penalty, scores)
    return scores.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("spec", "scale", "dtype"))
def evaluate_tokens(spec: ModelSpec, trained: Any, frozen: Params, batch: Batch, temperature: float, *,
                    scale: float | None, dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Computes the numbers of `Experience.known` for a batch, `[R, G, T]`; after the end of a response any number."""
    policy, adapter = student_of(trained, frozen, scale)
    hidden = read_states(spec, policy, adapter, batch, dtype=dtype)
    reference = read_states(spec, frozen, None, batch, dtype=dtype)
    found = token_statistics(hidden, unembedding(spec, policy), reference, unembedding(spec, frozen), batch["labels"],
                             temperature=temperature)
    # By the function that the update calls, so that its first ratio is 1 up to the rounding of two programs.
    found["logprobs"] = token_logprobs(hidden, unembedding(spec, policy), batch["labels"], temperature=temperature)
    if "value_head" in trained:
        found["values"] = token_values(spec, trained, frozen, hidden, batch, scale, dtype=dtype)
    real = batch["slot"] >= 0
    shape = batch["places"].shape
    return {name: at_tokens(jnp.where(real, values, 0.0), batch).reshape(shape) for name, values in found.items()}


def token_values(spec: ModelSpec, trained: Any, frozen: Params, hidden: jax.Array, batch: Batch, scale: float | None,
                 **options: Any) -> jax.Array:
    """Computes the values of states, `[R, N]`: from the policy's hidden states, or those of a critic of its own."""
    if "critic" in trained:
        critic, adapter = student_of(trained["critic"], frozen, scale)
        hidden = read_states(spec, critic, adapter, batch, **options)
    return value_predictions(trained["value_head"], hidden)


AdvantagesFn = Callable[..., tuple[dict[str, Any], dict[str, jax.Array], dict[str, jax.Array]]]
"""`(extra, known, mask, truncated, scores, groups) -> (extra, targets, measures)`, see `make_advantages`."""


def make_advantages(config: RlConfig) -> AdvantagesFn:
    """Makes the function that turns scores into what an update is made of.

    Its arguments are the agent's `extra`; `known` of every token, see `Experience`; `mask` bool `[B, T]`; `truncated`
    bool, `scores` float32 and `groups` int32 `[B]`, -1 for responses that are left out. It returns the new `extra`;
    values of tokens `[B, T]` by the names that `make_rl_loss` reads; and measures.
    """
    shaping, policy, own = config.scores, config.policy, config.own

    def advantages(extra: Mapping[str, Any], known: Mapping[str, jax.Array], mask: jax.Array, truncated: jax.Array,
                   scores: jax.Array, groups: jax.Array):
        chex.assert_rank([mask, truncated, scores, groups], [2, 1, 1, 1])
        chex.assert_type([scores, groups], [float, int])
        moments = update_moments(extra["moments"], scores)
        scores = shape_scores(scores, moments, scale=shaping.scale, center=shaping.center, clip=shaping.clip)
        coef, real = extra["kl_coef"], mask.astype(jnp.float32)
        kl = known["kl"] if config.kl_kind == "full" else token_kl(config.kl_kind, known["logprobs"],
                                                                   known["reference_logprobs"])
        estimate = jnp.where(mask, kl, 0.0)
        penalty = estimate * (config.kl_place == "reward")
        targets = {"old_logprobs": known["logprobs"]}
        if own.has_groups:
            _, numbers = jnp.unique(groups, return_inverse=True, size=len(groups))  # from 0 on
            compared = group_advantages(scores - coef * penalty.sum(1), jnp.where(groups < 0, -1, numbers), len(groups),
                                        baseline=cast(GroupBaseline, own.advantages))
            targets["advantages"] = jnp.where(mask, compared[:, None], 0.0)
        else:
            rewards = token_rewards(scores, penalty, real, coef)
            rewards = whiten(rewards, real, shift_mean=False) if shaping.whiten else rewards
            values = known["values"] if own.has_values else jnp.zeros_like(rewards)
            estimated, returns = gae(rewards, values, real, gamma=policy.gamma,
                                     lam=policy.lam if own.has_values else 1.0)
            targets["advantages"] = whiten(estimated, real)
            if own.has_values:
                targets |= {"returns": returns, "old_values": values}
        if config.kl_in_loss:
            targets["reference_logprobs"] = known["reference_logprobs"]
        if policy.importance_cap is not None:
            targets["importance"] = importance_weights(known["logprobs"], known["sampler_logprobs"], real,
                                                       policy.importance_cap, config.settings.ratio)
        used = mask & (groups >= 0)[:, None] & ~(truncated[:, None] & (shaping.missing_end == "mask"))
        targets["mask"] = used.astype(jnp.float32)
        divergence = estimate.sum(1).mean()
        measures = {"shaped_score": scores.mean(), "advantage_std": jnp.std(targets["advantages"], where=mask),
                    "kl_estimate": divergence, "kl_penalty": coef * divergence}
        if own.has_values:
            measures |= _value_measures(targets["old_values"], targets["returns"], mask)
        return {"kl_coef": coef, "moments": moments}, targets, measures

    return advantages


def _value_measures(values: jax.Array, returns: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Compares values with returns, `[B, T]`, over the tokens of a mask; of equal returns nothing is explained."""
    spread = jnp.var(returns, where=mask)
    error = jnp.var(returns - values, where=mask) / jnp.where(spread > 0, spread, 1.0)
    return {"return_mean": jnp.mean(returns, where=mask), "return_std": jnp.sqrt(spread),
            "explained_variance": jnp.where(spread > 0, 1.0 - error, 0.0)}


def make_rl_loss(spec: ModelSpec, config: RlConfig) -> LossFn:
    """Makes the loss of a batch for `make_train_step`; `frozen` is the base model's weights.

    The batch is that of `response_batches` with values of tokens, `[R, G, T]`: `mask`, `old_logprobs`, `advantages`;
    with a value function `old_values` and `returns`; with a KL penalty in the loss `reference_logprobs`; and perhaps
    `importance`.
    """
    settings, policy, temperature = config.settings, config.policy, config.sampling.temperature
    dtype, remat, scale = config.device.compute_dtype, config.train.remat, config.scale
    value_clip = policy.value_clip or None

    def loss(trained: Any, frozen: Params, batch: Batch, key: jax.Array, extra: Any
             ) -> tuple[SumAndWeight, dict[str, SumAndWeight]]:
        student, adapter = student_of(trained, frozen, scale)
        hidden = read_states(spec, student, adapter, batch, dtype=dtype, remat=remat)
        head = unembedding(spec, student)
        real = batch["slot"] >= 0
        tokens = lambda values: at_tokens(jnp.where(real, values, 0.0), batch)
        given = lambda name: batch[name].reshape(-1, batch[name].shape[-1])
        mask = given("mask")
        logprobs = tokens(token_logprobs(hidden, head, batch["labels"], temperature=temperature))
        losses, measures = policy_terms(settings, logprobs, given("old_logprobs"), given("advantages"), mask,
                                        given("importance") if "importance" in batch else None)
        mean = lambda values: token_mean(values, mask)
        error = jnp.max(jnp.abs(measures["ratio"] - 1.0), where=mask > 0, initial=0.0)
        metrics = {"policy_loss": aggregate(settings.aggregate, losses, mask, config.limit),
                   "clip_fraction": mean(measures["clipped"]), "approx_kl": mean(measures["approx_kl"]),
                   "policy_kl": mean(measures["policy_kl"]), "ratio": mean(measures["ratio"]),
                   "ratio_error": (error, jnp.any(mask > 0).astype(jnp.float32))}
        if "returns" in batch:
            values = tokens(token_values(spec, trained, frozen, hidden, batch, scale, dtype=dtype, remat=remat))
            errors, found = value_terms(values, given("old_values"), given("returns"), mask, clip=value_clip)
            metrics |= {"value_loss": mean(errors), "value_clip_fraction": mean(found["clipped"])}
            losses += policy.value_coef * errors
        if "reference_logprobs" in batch:
            losses += extra["kl_coef"] * jnp.where(mask > 0, token_kl(config.kl_kind, logprobs, jnp.where(
                mask > 0, given("reference_logprobs"), logprobs)), 0.0)
        if policy.entropy_coef:
            entropy = tokens(token_entropy(hidden, head, temperature=temperature))
            losses -= policy.entropy_coef * jnp.where(mask > 0, entropy, 0.0)
        return aggregate(settings.aggregate, losses, mask, config.limit), jax.lax.stop_gradient(metrics)

    return loss


def _skip_large_ratios(most: float, extra: Any, metrics: Mapping[str, jax.Array]) -> tuple[Any, jax.Array]:
    """Skips an update with too large a mean ratio; weights and optimizer stay as they were."""
    return extra, metrics["ratio"] > most
