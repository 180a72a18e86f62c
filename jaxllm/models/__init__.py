"""Models: architectures, forward pass, checkpoints, adapters."""

from jaxllm.models.adapters import Adapter, LoraConfig, adapter_axes, init_adapter, merge_adapter, sum_adapters
from jaxllm.models.attention import Cache
from jaxllm.models.heads import init_value_head, text_scores, value_predictions, with_score_head
from jaxllm.models.loading import load_model, load_spec
from jaxllm.models.network import (
    Output,
    Prefix,
    compute_logits,
    forward,
    init_cache,
    init_params,
    logical_axes,
    prefill,
    unembedding,
)
from jaxllm.models.params import Params, stack_layers, unstack_layers
from jaxllm.models.saving import save_model
from jaxllm.models.spec import Head, ModelSpec, Rope

__all__ = [
    "Adapter", "Cache", "Head", "LoraConfig", "ModelSpec", "Output", "Params", "Prefix", "Rope", "adapter_axes",
    "compute_logits", "forward", "init_adapter", "init_cache", "init_params", "init_value_head", "load_model",
    "load_spec", "logical_axes", "merge_adapter", "prefill", "save_model", "stack_layers", "sum_adapters",
    "text_scores", "unembedding", "unstack_layers", "value_predictions", "with_score_head",
]
