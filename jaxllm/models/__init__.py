"""What a network is: description, functions, weights, adapters."""

from jaxllm.models.adapters import Adapter, LoraConfig, adapter_axes, init_adapter, merge_adapter, sum_adapters, unmerge
from jaxllm.models.attention import Cache
from jaxllm.models.heads import init_value_head, text_scores, value_predictions
from jaxllm.models.loading import load_model, load_spec
from jaxllm.models.network import (
    Output,
    Params,
    Prefix,
    compute_logits,
    forward,
    init_cache,
    init_params,
    logical_axes,
    prefill,
    stack_layers,
    unembedding,
    unstack_layers,
)
from jaxllm.models.saving import save_model
from jaxllm.models.spec import Head, ModelSpec, Rope

__all__ = [
    "Adapter", "Cache", "Head", "LoraConfig", "ModelSpec", "Output", "Params", "Prefix", "Rope", "adapter_axes",
    "combine", "forward", "init", "init_adapter", "init_cache", "init_value_head", "load_model", "load_spec",
    "logical_axes", "logits", "merge", "read", "save_model", "stack", "text_scores", "unembedding", "unmerge",
    "unstack", "values",
]
