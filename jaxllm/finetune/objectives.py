"""Objectives of fine-tuning on examples and preferences, from the outputs of a model on groups of texts.

`group_outputs` runs the model; `objective_loss` is a function of its outputs and of the rows' values alone, so that the
same few lines serve a training step, and an evaluation over all held-back rows at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.finetune.texts import Batch, per_text_sums, read_states
from jaxllm.finetune.trainable import student_of
from jaxllm.models import Adapter, ModelSpec, unembedding
from jaxllm.models.heads import score_features
from jaxllm.models.network import Params, Remat
from jaxllm.ops import token_entropy, token_logprobs, top_k_logprobs
from jaxllm.ops.losses import SumAndWeight
from jaxllm.ops.pairs import Pairs, Unpaired, wpo_weights
from jaxllm.ops.preference import preference_loss
from jaxllm.ops.preference_losses import COUPLED, SORTED, PreferenceSettings
from jaxllm.ops.rewards import class_cross_entropy, reward_loss
from jaxllm.ops.vocab import token_aligned_logprobs
from jaxllm.train import FinishFn, LossFn

Kind = Literal["sft", "pairs", "unpaired", "reward", "classify"]
TEXTS: dict[Kind, int] = {"sft": 1, "pairs": 2, "unpaired": 1, "reward": 2, "classify": 1}
"""Texts of a group: the completion, or chosen and rejected. KTO has the completion of another prompt as the second."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimized.

    Attributes:
        kind: form of the rows and of the loss.
        losses: names and weights of the losses of pairs or unpaired rows.
        settings: their settings.
        wpo: weight pairs by how probable the policy finds them (WPO, 2406.11827).
        reference: where the reference model's log-probabilities come from: of the base model in the same step, of the
            state's `extra`, given as values of the batch, or nowhere.
        centering: weight of the squared sum of a pair's rewards.
    """

    kind: Kind
    losses: tuple[tuple[str, float], ...] = ()
    settings: PreferenceSettings = PreferenceSettings()
    wpo: bool = False
    reference: Literal["none", "values", "base", "extra"] = "none"
    centering: float = 0.0

    @property
    def texts(self) -> int:
        """Number of texts in a group."""
        return 2 if self.mismatched else TEXTS[self.kind]

    @property
    def mismatched(self) -> bool:
        """Whether the loss reads the completion of another prompt, as KTO does for its reference point."""
        return any(name == "kto" for name, _ in self.losses)

    @property
    def coupled(self) -> bool:
        """Whether the loss of a row depends on the other rows of its batch."""
        return any(name in COUPLED for name, _ in self.losses)

    @property
    def sorts(self) -> bool:
        """Whether the loss is one of sorted values, which belong to no single row."""
        return any(name in SORTED for name, _ in self.losses)

    @property
    def shifted(self) -> bool:
        """Whether the loss subtracts the mean reward of all steps, which the state's `extra` holds."""
        return any(name == "bco" for name, _ in self.losses)

    @property
    def scores(self) -> bool:
        """Whether the outputs are those of a scoring head."""
        return self.kind in ("reward", "classify")


def group_outputs(spec: ModelSpec, params: Params, adapter: Adapter | None, batch: Batch, objective: Objective, *,
                  dtype: jnp.dtype = jnp.float32, remat: Remat = "none", dropout_key: jax.Array | None = None,
                  measure: bool = False) -> dict[str, jax.Array]:
    """Runs a model on a batch and sums over the tokens of every text.

    Args:
        spec, params, adapter: the model.
        batch: from `make_batch`.
        objective: decides what is computed.
        dtype, remat, dropout_key: see `read_states`.
        measure: also count correct tokens and sum entropies, which take passes over the vocabulary of their own.

    Returns:
        float32 arrays `[R, G, K]` of K texts in G groups of R rows. Of a scoring head: `scores` `[R, G, K, labels]`. Of
        a language model: `logprobs`, sums of the log-probabilities of the completion's tokens under their weights;
        `tokens`, how many these are; `nll` and `nll_tokens`, the same of all tokens that are read, negated and without
        weights; with WPO `aligned`, the mean of log p - log sum_v p_v^2; and if `measure` `correct` and `entropy`, sums
        over the completion's tokens.
    """
    hidden = read_states(spec, params, adapter, batch, dtype=dtype, remat=remat, dropout_key=dropout_key)
    sums = lambda values: per_text_sums(values, batch, objective.texts)
    if objective.scores:
        return {"scores": sums(score_features(spec, params, hidden))}
    head, labels, weights = unembedding(spec, params), batch["labels"], batch["token_weights"]
    logprobs = token_logprobs(hidden, head, labels)
    counted = (weights > 0).astype(jnp.float32)
    outputs = {"logprobs": sums(logprobs * weights), "tokens": sums(counted), "nll": sums(-logprobs),
               "nll_tokens": sums(jnp.ones_like(weights))}
    if objective.wpo:
        aligned = token_aligned_logprobs(lax.stop_gradient(hidden), lax.stop_gradient(head), labels)
        outputs["aligned"] = lax.stop_gradient(sums(aligned * counted)) / jnp.maximum(outputs["tokens"], 1)
    if measure:
        best, _ = top_k_logprobs(hidden, head, 1)
        outputs["correct"] = sums((best[..., 0] == labels) * counted)
        outputs["entropy"] = sums(token_entropy(hidden, head) * counted)
    return outputs


def objective_loss(objective: Objective, outputs: Mapping[str, jax.Array], values: Mapping[str, jax.Array],
                   reference: jax.Array | None = None) -> tuple[SumAndWeight, dict[str, SumAndWeight]]:
    """Computes the loss of P groups.

    Args:
        objective: the loss.
        outputs: from `group_outputs`, `[P, K]` or `[P, K, labels]`.
        values: `[P]`: `weight`, 0 for padding; of pairs `label_probability` (absent for plain labels), `margin` and
            `nll_scale`; of unpaired rows `desirable` and, for KTO, `mismatched`, the weight of the second text; of
            texts with classes `label`. For BCO also `earlier_rewards` `[2]` in training, and `reward_shift` in an
            evaluation, see `Pairs`.
        reference: log-probabilities of the reference model, `[P, K]`.

    Returns:
        `(sum, weight)` of the loss and of every metric, under TRL's names.
    """
    weight = values["weight"]
    if objective.kind == "sft":
        tokens = jnp.sum(weight * outputs["nll_tokens"][:, 0])
        return (jnp.sum(weight * outputs["nll"][:, 0]), tokens), _token_metrics(objective, outputs, weight)
    if objective.kind == "classify":
        return class_cross_entropy(outputs["scores"][:, 0], values["label"].astype(jnp.int32), weight)
    if objective.kind == "reward":
        scores = outputs["scores"][..., 0]
        return reward_loss(scores[:, 0], scores[:, 1], weight, margin=values["margin"],
                           label_probability=values.get("label_probability"), centering=objective.centering)
    reference = jnp.zeros_like(outputs["logprobs"]) if reference is None else reference
    chex.assert_equal_shape([outputs["logprobs"], outputs["tokens"], reference])
    loss, metrics = _preference_loss(objective, outputs, values, reference)
    return loss, metrics | _token_metrics(objective, outputs, weight)


def _token_metrics(objective: Objective, outputs: Mapping[str, jax.Array], weight: jax.Array
                   ) -> dict[str, SumAndWeight]:
    """Computes means over the tokens of completions: how often the right token is the most probable one, and entropy.

    Of pairs the former is over the chosen completions, the latter over both. Empty where they are not in the outputs.
    """
    of_rows = lambda name, texts: jnp.sum(weight[:, None] * outputs[name][:, :texts])
    both = 2 if objective.kind == "pairs" else 1
    return {metric: (of_rows(name, texts), of_rows("tokens", texts)) for metric, name, texts in (
        ("mean_token_accuracy", "correct", 1), ("entropy", "entropy", both)) if name in outputs}


def _preference_loss(objective: Objective, outputs: Mapping[str, jax.Array], values: Mapping[str, jax.Array],
                     reference: jax.Array) -> tuple[SumAndWeight, dict[str, SumAndWeight]]:
    """Computes the loss of pairs or unpaired rows; see `objective_loss`."""
    weight, losses = values["weight"], dict(objective.losses)
    logprobs, tokens = outputs["logprobs"], outputs["tokens"]
    if objective.kind == "unpaired":
        rows = Unpaired(policy=logprobs[:, 0], reference=reference[:, 0], weight=weight, desirable=values["desirable"])
        if objective.mismatched:
            log_ratios = lax.stop_gradient(logprobs[:, 1]) - reference[:, 1]
            rows = dataclasses.replace(rows, kl=log_ratios, kl_weight=values["mismatched"])
        return preference_loss(losses, rows, objective.settings)
    importance = wpo_weights(outputs["aligned"][:, 0], outputs["aligned"][:, 1]) if objective.wpo else None
    return preference_loss(losses, Pairs(
        chosen=logprobs[:, 0], rejected=logprobs[:, 1], chosen_tokens=tokens[:, 0], rejected_tokens=tokens[:, 1],
        weight=weight, reference_chosen=reference[:, 0], reference_rejected=reference[:, 1],
        label_probability=values.get("label_probability"), chosen_nll_scale=values.get("nll_scale"),
        importance=importance, chosen_nll=outputs["nll"][:, 0], rejected_nll=outputs["nll"][:, 1],
        chosen_nll_tokens=outputs["nll_tokens"][:, 0], rejected_nll_tokens=outputs["nll_tokens"][:, 1],
        reward_shift=values.get("reward_shift"), earlier_rewards=values.get("earlier_rewards")),
        objective.settings)


def metric_names(objective: Objective) -> list[str]:
    """Returns the names of the loss and of the metrics of an evaluation."""
    one = jnp.ones(1)
    outputs = dict.fromkeys(("logprobs", "tokens", "nll", "nll_tokens", "aligned", "correct", "entropy"),
                            jnp.ones((1, objective.texts)))
    values = dict.fromkeys(("weight", "margin", "nll_scale", "desirable", "mismatched", "label"), one)
    scores = jnp.ones((1, objective.texts, 2 if objective.kind == "classify" else 1))
    _, metrics = objective_loss(objective, outputs | {"scores": scores}, values, outputs["logprobs"])
    return ["loss", *metrics, *(["rewards/margins"] if objective.kind == "unpaired" else [])]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens arrays `[R, G, ...]` of groups in rows to `[R * G, ...]`."""
    return {name: x.reshape(-1, *x.shape[2:]) for name, x in values.items()}


def group_values(batch: Batch) -> dict[str, Any]:
    """Selects the values `[R, G]` that `make_batch` was given; groups that are not there have weight 0."""
    return {name: batch[name] for name in ("weight", "label_probability", "margin", "nll_scale", "desirable",
                                           "mismatched", "label", "reference_0", "reference_1") if name in batch}


def make_objective_loss(spec: ModelSpec, objective: Objective, adapter_scale: float | None, *, dropout: float = 0.0,
                        dtype: jnp.dtype = jnp.float32, remat: Remat = "none") -> LossFn:
    """Makes the loss of one batch for `make_train_step`; `frozen` is the base model's weights.

    Args:
        spec: spec of the network.
        objective: the loss.
        adapter_scale: scale of the trained adapter; None trains all weights.
        dropout: rate of dropout on the adapter's inputs; its masks depend on seed, step and row number.
        dtype, remat: settings of the forward passes.
    """

    def loss(trained: Any, frozen: Any, batch: Batch, key: jax.Array, extra: Any):
        student, adapter = student_of(trained, frozen, adapter_scale, dropout)
        outputs = flat(group_outputs(spec, student, adapter, batch, objective, dtype=dtype, remat=remat,
                                     dropout_key=key if dropout else None))
        values = flat(group_values(batch))
        if objective.shifted:
            values["earlier_rewards"] = extra["earlier_rewards"]
        return objective_loss(objective, outputs, values, reference_logprobs(
            spec, objective, frozen, extra, adapter_scale, batch, values, dtype))

    return loss


def make_finish(objective: Objective) -> FinishFn | None:
    """Makes the update of the state's `extra` after a step: of the mean reward for BCO; None without one."""
    if not objective.shifted:
        return None

    def finish(extra: Any, metrics: Mapping[str, jax.Array]) -> tuple[Any, jax.Array]:
        mean = jnp.stack([metrics["reward_shift"], extra["earlier_rewards"][1] + metrics["weight"]])
        mean = jnp.where(metrics["weight"] > 0, mean, extra["earlier_rewards"])
        return extra | {"earlier_rewards": mean}, jnp.zeros((), bool)

    return finish


def reference_logprobs(spec: ModelSpec, objective: Objective, frozen: Params, extra: Any, adapter_scale: float | None,
                       batch: Batch, values: Mapping[str, jax.Array], dtype: jnp.dtype) -> jax.Array | None:
    """Returns the reference model's log-probabilities `[P, K]`, without a gradient; None where there is none."""
    if objective.reference == "none":
        return None
    if objective.reference == "values":
        return jnp.stack([values[f"reference_{text}"] for text in range(objective.texts)], -1)
    params, adapter = frozen, None
    if objective.reference == "extra":
        params, adapter = student_of(extra["reference"], frozen, adapter_scale)
    params, adapter = lax.stop_gradient((params, adapter))
    outputs = group_outputs(spec, params, adapter, batch, dataclasses.replace(objective, wpo=False), dtype=dtype)
    return lax.stop_gradient(flat(outputs)["logprobs"])
