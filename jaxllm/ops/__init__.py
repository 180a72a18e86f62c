"""Mathematics on arrays, nothing else."""

from jaxllm.ops.likeliest import likeliest, likeliest_divergence
from jaxllm.ops.losses import cross_entropy, kl_distillation, masked_sum
from jaxllm.ops.matmul import matmul
from jaxllm.ops.quantise import Quantised, quantise
from jaxllm.ops.vocab import Unembedding, token_divergence, token_entropy, token_logprobs

__all__ = ["Quantised", "Unembedding", "cross_entropy", "kl_distillation", "likeliest", "likeliest_divergence",
           "masked_sum", "matmul", "quantise", "token_divergence", "token_entropy",
           "token_logprobs"]
