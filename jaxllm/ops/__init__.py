"""Pure functions on arrays: losses over the vocabulary, preference losses, reinforcement learning, quantization,
consistency of preferences."""

from jaxllm.ops.advantages import combined_reward, gae, group_advantages, token_rewards, whiten
from jaxllm.ops.consistency import (
    commutativity,
    debias,
    negation_invariance,
    order_accuracy,
    pairwise_accuracy,
    position_bias,
    preference_graph,
)
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
from jaxllm.ops.preference_graphs import (
    acyclic,
    cyclic_triads,
    hodge_rank,
    kendall_zeta,
    sampled_transitivity,
    transitivity,
)
from jaxllm.ops.quantize import Quantized, quantize
from jaxllm.ops.rewards import class_cross_entropy, reward_loss
from jaxllm.ops.top_k import top_k_kl, top_k_logprobs
from jaxllm.ops.unembedding import Unembedding
from jaxllm.ops.vocab import (
    token_aligned_logprobs,
    token_divergence,
    token_entropy,
    token_logprobs,
    token_statistics,
)

__all__ = ["Pairs", "PolicySettings", "PreferenceSettings", "Quantized", "Unembedding", "Unpaired", "acyclic",
           "adapt_kl_coef", "aggregate", "class_cross_entropy", "combined_reward", "commutativity", "cross_entropy",
           "cyclic_triads", "debias", "gae", "group_advantages", "hodge_rank", "importance_weights", "init_moments",
           "kendall_zeta", "kl_distillation", "ld_token_weights", "masked_sum", "matmul", "negation_invariance",
           "nll_scale", "order_accuracy", "overlong_penalty", "pairwise_accuracy", "policy_terms", "position_bias",
           "preference_graph", "preference_loss", "quantize", "reward_loss", "sampled_transitivity", "shape_scores",
           "standard_deviation", "token_aligned_logprobs", "token_divergence", "token_entropy", "token_kl",
           "token_logprobs", "token_mean", "token_rewards", "token_statistics", "top_k_kl", "top_k_logprobs",
           "transitivity", "update_moments", "value_terms", "whiten", "wpo_weights"]
