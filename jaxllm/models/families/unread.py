"""Keys of a `config.json` that no forward pass here reads: which are without effect, and which may change the network.

Published files hold many keys that change nothing: fields of base classes and of earlier versions, generation settings,
notes of training tools. A file is refused only for a key that could make another network of the same weights.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxllm.models.spec import ModelSpec

# Names that models of transformers read, and fields of its `GenerationConfig`; written by scripts/config_names.py.
NETWORK_KEYS, GENERATION_KEYS = (Path(__file__).with_name(name) for name in ("network_keys.txt", "generation_keys.txt"))

# Spellings of keys that no forward pass depends on. Token types are a tensor, which would have no parameter to go to.
HARMLESS = re.compile(r"^_|_token(_ids?)?$|dropout|_pdrop$|_version$|name_or_path$|gradient_checkpointing|"
                      r"^(torch_)?dtype$|^tie_encoder_decoder$|^cross_attention_hidden_size$|^type_vocab_size$")

# Names, here or in another family, of what a network has -> its value. A key that repeats it changes nothing.
FACTS: dict[str, Callable[[ModelSpec], Any]] = {name: fact for names, fact in {
    "vocab_size n_vocab": lambda spec: spec.vocab_size,
    "hidden_size n_embd d_model dim model_dim emb_size embed_dim embedding_size embedding_dim":
        lambda spec: spec.embed_width or spec.width,
    "num_hidden_layers n_layer n_layers num_layers": lambda spec: spec.layers,
    "num_attention_heads n_head n_heads num_heads": lambda spec: spec.heads,
    "num_key_value_heads num_kv_heads n_kv_heads n_head_kv": lambda spec: spec.kv_heads,
    "head_dim head_size attention_head_size d_head d_kv kv_channels": lambda spec: spec.head_dim,
    "intermediate_size n_inner d_ff ffn_dim hidden_dim ffn_hidden_size": lambda spec: spec.mlp_width,
    "num_experts num_local_experts n_routed_experts": lambda spec: spec.experts.count if spec.experts else 0,
    "num_experts_per_tok": lambda spec: spec.experts.chosen if spec.experts else 0,
    "max_position_embeddings n_positions n_ctx max_seq_len": lambda spec: spec.max_positions,
    "norm_eps rms_norm_eps layer_norm_eps layer_norm_epsilon": lambda spec: spec.norm_eps,
    "rope_theta rotary_emb_base": lambda spec: spec.rope.theta if spec.rope else 0,
    "partial_rotary_factor rotary_pct": lambda spec: spec.rope.fraction if spec.rope else 0,
    "rotary_dim": lambda spec: spec.rope.rotated(spec.head_dim) if spec.rope else 0,
    "use_rope rotary use_rotary use_rotary_embeddings": lambda spec: spec.rope is not None,
    "use_qk_norm qk_norm qk_layernorm": lambda spec: spec.query_norm is not None,
    "is_causal causal": lambda spec: spec.encoder is None,
    "position_embedding_type": lambda spec: "absolute" if spec.rope is None else "rope",
    "scale_attn_weights": lambda spec: spec.attention_scale is None or spec.attention_scale != 1,
    "scale_embedding": lambda spec: spec.embed_scale != 1,
    "use_parallel_residual parallel_attn": lambda spec: spec.parallel is not None,
    "do_layer_norm_before normalize_before": lambda spec: spec.norms in ("before", "around"),
}.items() for name in names.split()}


@functools.cache
def read_names(file: Path) -> frozenset[str]:
    """Reads a file of names, empty if it does not exist yet."""
    return frozenset(file.read_text(encoding="utf-8").split()) if file.is_file() else frozenset()


def may_change_network(name: str, value: Any, spec: ModelSpec) -> bool:
    """Whether a key that was not read could make the network another one than `spec`."""
    if HARMLESS.search(name) or name in read_names(GENERATION_KEYS):
        return False
    if name in FACTS:
        return value != FACTS[name](spec)
    return not _is_off(value) and name in read_names(NETWORK_KEYS)


def _is_off(value: Any) -> bool:
    """Whether a value switches something off."""
    return not value or isinstance(value, str) and value.lower() == "none"
