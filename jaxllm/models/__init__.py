"""What a network is: description, functions, weights, adapters."""

from jaxllm.models.adapters import Adapter, LoraConfig, adapter_axes, init_adapter, merge, unmerge
from jaxllm.models.attention import Cache
from jaxllm.models.decoder import (
    Output,
    forward,
    init,
    init_cache,
    logical_axes,
    logits,
    stack,
    unembedding,
    unstack,
)
from jaxllm.models.spec import ModelSpec, Rope
from jaxllm.models.weights import load_model, load_spec, save_model

__all__ = [
    "Adapter", "Cache", "LoraConfig", "ModelSpec", "Output", "Rope", "adapter_axes", "forward", "init",
    "init_adapter", "init_cache", "load_model", "load_spec", "logical_axes", "logits", "merge", "save_model",
    "stack", "unembedding", "unmerge", "unstack",
]
