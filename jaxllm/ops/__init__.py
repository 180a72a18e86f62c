"""Pure functions on arrays: losses over the vocabulary, preference losses, matrix products, quantization."""

from jaxllm.ops.losses import cross_entropy, kl_distillation, masked_sum
from jaxllm.ops.matmul import matmul
from jaxllm.ops.pairs import Pairs, Unpaired, ld_token_weights, nll_scale, wpo_weights
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
)

__all__ = ["Pairs", "PreferenceSettings", "Quantized", "Unembedding", "Unpaired", "class_cross_entropy",
           "cross_entropy", "kl_distillation", "ld_token_weights", "masked_sum", "matmul", "nll_scale",
           "preference_loss", "quantize", "reward_loss", "token_aligned_logprobs", "token_divergence",
           "token_entropy", "token_logprobs", "top_k_kl", "top_k_logprobs", "wpo_weights"]
