"""Pure functions on arrays: losses over the vocabulary, preference losses, reinforcement learning, quantization."""

from jaxllm.ops.advantages import combined_reward, gae, group_advantages, token_rewards, whiten
from jaxllm.ops.controllers import (
    adapt_kl_coef,
    init_moments,
    overlong_penalty,
    shape_scores,
    standard_deviation,
    update_moments,
)
from jaxllm.ops.losses import cross_entropy, kl_distillation, masked_sum
from jaxllm.ops.matmul import matmul
from jaxllm.ops.pairs import Pairs, Unpaired, ld_token_weights, nll_scale, wpo_weights
from jaxllm.ops.policy import (
    PolicySettings,
    aggregate,
    importance_weights,
    policy_terms,
    token_kl,
    token_mean,
    value_terms,
)
from jaxllm.ops.preference import PreferenceSettings, preference_loss
from jaxllm.ops.quantize import Quantized, quantize
from jaxllm.ops.rewards import class_cross_entropy, reward_loss
from jaxllm.ops.top_k import top_k_kl, top_k_logprobs
from jaxllm.ops.vocab import (
    Unembedding,
    token_aligned_logprobs,
    token_divergence,
    token_entropy,
    token_logprobs,
    token_statistics,
)

__all__ = ["Pairs", "PolicySettings", "PreferenceSettings", "Quantized", "Unembedding", "Unpaired", "adapt_kl_coef",
           "aggregate", "class_cross_entropy", "combined_reward", "cross_entropy", "gae", "group_advantages",
           "importance_weights", "init_moments", "kl_distillation", "ld_token_weights", "masked_sum", "matmul",
           "nll_scale", "overlong_penalty", "policy_terms", "preference_loss", "quantize", "reward_loss",
           "shape_scores", "standard_deviation", "token_aligned_logprobs", "token_divergence", "token_entropy",
           "token_kl", "token_logprobs", "token_mean", "token_rewards", "token_statistics", "top_k_kl",
           "top_k_logprobs", "update_moments", "value_terms", "whiten", "wpo_weights"]
