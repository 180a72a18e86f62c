"""What a network is: description, functions, weights, adapters."""

from jaxllm.models.adapters import Adapter, LoraConfig, adapter_axes, combine, init_adapter, merge, unmerge
from jaxllm.models.attention import Cache
from jaxllm.models.heads import init_value_head, text_scores, values
from jaxllm.models.loading import load_model, load_spec
from jaxllm.models.network import (
    Output,
    Params,
    Prefix,
    forward,
    init,
    init_cache,
    logical_axes,
    logits,
    read,
    stack,
    unembedding,
    unstack,
)
from jaxllm.models.saving import save_model
from jaxllm.models.spec import Head, ModelSpec, Rope

__all__ = [
    "Adapter", "Cache", "Head", "LoraConfig", "ModelSpec", "Output", "Params", "Prefix", "Rope", "adapter_axes",
    "combine", "forward", "init", "init_adapter", "init_cache", "init_value_head", "load_model", "load_spec",
    "logical_axes", "logits", "merge", "read", "save_model", "stack", "text_scores", "unembedding", "unmerge",
    "unstack", "values",
]
