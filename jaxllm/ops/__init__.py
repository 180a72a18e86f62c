"""Pure functions on arrays: losses over the vocabulary, matrix products, quantization."""

from jaxllm.ops.losses import cross_entropy, kl_distillation, masked_sum
from jaxllm.ops.matmul import matmul
from jaxllm.ops.quantize import Quantized, quantize
from jaxllm.ops.top_k import top_k_kl, top_k_logprobs
from jaxllm.ops.vocab import Unembedding, token_divergence, token_entropy, token_logprobs

__all__ = ["Quantized", "Unembedding", "cross_entropy", "kl_distillation", "top_k_logprobs", "top_k_kl",
           "masked_sum", "matmul", "quantize", "token_divergence", "token_entropy",
           "token_logprobs"]
