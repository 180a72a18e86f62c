"""Llama and the families with its tensor names."""

from __future__ import annotations

from typing import Any

from jaxllm.models.families.table import (
    ACTIVATION_NAMES,
    Family,
    Keys,
    TensorMap,
    linear,
    norm,
    read_positions,
    read_rope,
    read_window,
    write_rope,
    write_window,
    written_positions,
)
from jaxllm.models.spec import Experts, ModelSpec

LAYER = "model.layers.{i}."
PREFIX, IGNORED = "model.", ("rotary_emb.inv_freq",)


def read_base(keys: Keys, family: str, *, tied: bool = False, eps: float = 1e-6, positions: int = 2048,
              theta: float = 10_000.0, kv_heads: int | None = None, bos: int | None = None,
              eos: int | None = None, pad: int | None = None, mlp_width: int | None = None,
              fraction: float | None = None, original: int | None = None) -> dict[str, Any]:
    """Reads the keys that these families share; returns arguments of `ModelSpec`.

    Arguments are a family's defaults, except for `mlp_width`: its value in families with another key for it. `fraction`
    and `original` are as in `read_rope`.
    """
    width, heads = keys.need("hidden_size"), keys.need("num_attention_heads")
    keys.ignore("attention_dropout", "pretraining_tp", "max_window_layers", "max_sequence_length", "is_llama_config")
    keys.only("rope_interleaved", False)
    rope = read_rope(keys, theta, default_fraction=fraction, positions=positions, original=original)
    return dict(
        family=family, vocab_size=keys.need("vocab_size"), width=width, layers=keys.need("num_hidden_layers"),
        heads=heads, kv_heads=keys.get("num_key_value_heads", kv_heads or heads),
        head_dim=keys.get("head_dim", width // heads),
        mlp_width=keys.need("intermediate_size") if mlp_width is None else mlp_width,
        max_positions=read_positions(keys, rope, positions),
        norm="rms", norm_eps=keys.get("rms_norm_eps", eps), activation=keys.activation("hidden_act", "silu"),
        rope=rope, tied=bool(keys.get("tie_word_embeddings", tied)), **keys.tokens(bos, eos, pad))


def write_base(spec: ModelSpec, architecture: str) -> dict[str, Any]:
    """Returns the keys that these families share, for `config.json`."""
    return {
        "architectures": [architecture], "model_type": spec.family, "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "intermediate_size": spec.mlp_width, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim,
        "max_position_embeddings": written_positions(spec), "rms_norm_eps": spec.norm_eps,
        "hidden_act": ACTIVATION_NAMES[spec.activation], "tie_word_embeddings": spec.tied, **write_rope(spec.rope)}


def without_usual_head_dim(written: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """Drops `head_dim` where it is width / heads, in families without the key; torch reads it there all the same."""
    usual = spec.head_dim * spec.heads == spec.width
    return {key: value for key, value in written.items() if key != "head_dim"} | (
        {} if usual else {"head_dim": spec.head_dim})


def leaves(spec: ModelSpec) -> list[TensorMap]:
    """Returns the maps of all parameters; names depend on the parts that the spec has."""
    maps = outer_leaves(spec) + norm_leaves(spec)
    for name, bias in (("q", spec.qkv_bias), ("k", spec.qkv_bias), ("v", spec.qkv_bias), ("o", spec.out_bias)):
        maps += linear(("layers", "attn", name), f"{LAYER}self_attn.{name}_proj", bias)
    if spec.experts is None:
        for name in ("gate", "up", "down"):
            maps += linear(("layers", "mlp", name), f"{LAYER}mlp.{name}_proj", spec.mlp_bias)
    return maps


def outer_leaves(spec: ModelSpec) -> list[TensorMap]:
    """Returns the maps of embedding, last norm and head."""
    maps = [TensorMap(("embed",), "model.embed_tokens.weight"), *norm(("final_norm",), "model.norm")]
    return maps if spec.tied else [*maps, TensorMap(("head",), "lm_head.weight")]


def norm_leaves(spec: ModelSpec) -> list[TensorMap]:
    """Returns the maps of a layer's norms; their names depend on their number."""
    names = {
        "before": {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
        "after": {"attn_after_norm": "post_attention_layernorm", "mlp_after_norm": "post_feedforward_layernorm"},
        "around": {"attn_norm": "input_layernorm", "attn_after_norm": "post_attention_layernorm",
                   "mlp_norm": "pre_feedforward_layernorm", "mlp_after_norm": "post_feedforward_layernorm"},
    }[spec.norms]
    maps = [leaf for ours, theirs in names.items() for leaf in norm(("layers", ours), LAYER + theirs)]
    if spec.query_norm is not None:
        for name in ("q", "k"):
            maps += norm(("layers", "attn", f"{name}_norm"), f"{LAYER}self_attn.{name}_norm")
    return maps


def expert_leaves(block: str, router: str, names: dict[str, str]) -> list[TensorMap]:
    """Returns the maps of router and experts; `names` are ours -> theirs."""
    maps = [TensorMap(("layers", "mlp", "router"), f"{LAYER}{block}.{router}.weight", True)]
    return maps + [TensorMap(("layers", "mlp", ours), f"{LAYER}{block}.experts.{{e}}.{theirs}.weight", True)
                   for ours, theirs in names.items()]


# --- Llama, Granite, SmolLM 3 ---------------------------------------------------------------------------------------


def _read_llama(keys: Keys) -> ModelSpec:
    bias = bool(keys.get("attention_bias", False))
    return ModelSpec(**read_base(keys, "llama", bos=1, eos=2), qkv_bias=bias, out_bias=bias,
                     mlp_bias=bool(keys.get("mlp_bias", False)))


def _write_llama(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "LlamaForCausalLM") | {"attention_bias": spec.qkv_bias, "mlp_bias": spec.mlp_bias}


def _read_granite(keys: Keys) -> ModelSpec:
    bias = bool(keys.get("attention_bias", False))
    return ModelSpec(**read_base(keys, "granite", bos=1, eos=2), qkv_bias=bias, out_bias=bias,
                     mlp_bias=bool(keys.get("mlp_bias", False)),
                     embed_scale=float(keys.get("embedding_multiplier", 1.0)),
                     attention_scale=float(keys.get("attention_multiplier", 1.0)),
                     residual_scale=float(keys.get("residual_multiplier", 1.0)),
                     logit_scale=1.0 / keys.get("logits_scaling", 1.0))


def _write_granite(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "GraniteForCausalLM") | {
        "attention_bias": spec.qkv_bias, "mlp_bias": spec.mlp_bias, "embedding_multiplier": spec.embed_scale,
        "attention_multiplier": spec.attention_scale, "residual_multiplier": spec.residual_scale,
        "logits_scaling": 1.0 / spec.logit_scale}


def _read_smollm3(keys: Keys) -> ModelSpec:
    base = read_base(keys, "smollm3", tied=True, positions=32768, theta=2e6, kv_heads=4, bos=128000, eos=128001,
                     pad=128004)
    bias, every = bool(keys.get("attention_bias", False)), keys.get("no_rope_layer_interval", 4)
    # 1 marks a layer that rotates, despite the key's name.
    rotated = keys.get("no_rope_layers", [int((i + 1) % every != 0) for i in range(base["layers"])])
    window = read_window(keys, base["layers"], [not rotates for rotates in rotated])
    if not keys.get("use_sliding_window", False):
        window = {}
    return ModelSpec(**base, **window, qkv_bias=bias, out_bias=bias, mlp_bias=bool(keys.get("mlp_bias", False)),
                     unrotated_layers=() if all(rotated) else tuple(not rotates for rotates in rotated))


def _write_smollm3(spec: ModelSpec) -> dict[str, Any]:
    unrotated = spec.unrotated_layers or (False,) * spec.layers
    return write_base(spec, "SmolLM3ForCausalLM") | write_window(spec) | {
        "attention_bias": spec.qkv_bias, "mlp_bias": spec.mlp_bias, "use_sliding_window": spec.window is not None,
        "no_rope_layers": [int(not fixed) for fixed in unrotated]}


# --- Mistral, Qwen, OLMo 2 ------------------------------------------------------------------------------------------


def _read_mistral(keys: Keys) -> ModelSpec:
    base = read_base(keys, "mistral", positions=131072, kv_heads=8, bos=1, eos=2)
    # A missing key means the class's default window, null means no window.
    window = {} if "sliding_window" in keys.config else {"window": 4096}
    return ModelSpec(**base, **(read_window(keys, base["layers"]) or window))


def _write_mistral(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "MistralForCausalLM") | write_window(spec, name_types=False)


def _read_qwen(keys: Keys, family: str, **defaults: Any) -> dict[str, Any]:
    base = read_base(keys, family, positions=32768, **defaults)
    keys.only("use_mrope", False)
    first = keys.get("max_window_layers", 28)
    window = read_window(keys, base["layers"], [i >= first for i in range(base["layers"])], 4096)
    return base | (window if keys.get("use_sliding_window", False) else {})


def _write_qwen(spec: ModelSpec, architecture: str) -> dict[str, Any]:
    return write_base(spec, architecture) | write_window(spec) | {"use_sliding_window": spec.window is not None}


def _read_qwen2(keys: Keys) -> ModelSpec:
    return ModelSpec(**_read_qwen(keys, "qwen2"), qkv_bias=True)


def _write_qwen2(spec: ModelSpec) -> dict[str, Any]:
    written = _write_qwen(spec, "Qwen2ForCausalLM")
    if spec.head_dim * spec.heads == spec.width:
        del written["head_dim"]  # not a key of this family
    return written


def _read_qwen3(keys: Keys) -> ModelSpec:
    base, bias = _read_qwen(keys, "qwen3"), bool(keys.get("attention_bias", False))
    base["head_dim"] = keys.get("head_dim", 128)
    return ModelSpec(**base, qkv_bias=bias, out_bias=bias, query_norm="head")


def _write_qwen3(spec: ModelSpec) -> dict[str, Any]:
    return _write_qwen(spec, "Qwen3ForCausalLM") | {"attention_bias": spec.qkv_bias}


def _read_olmo2(keys: Keys) -> ModelSpec:
    bias = bool(keys.get("attention_bias", False))
    return ModelSpec(**read_base(keys, "olmo2", eps=1e-5, eos=50279, pad=1), qkv_bias=bias, out_bias=bias,
                     norms="after", query_norm="all")


def _write_olmo2(spec: ModelSpec) -> dict[str, Any]:
    return without_usual_head_dim(write_base(spec, "Olmo2ForCausalLM") | {"attention_bias": spec.qkv_bias}, spec)


# --- mixtures of experts --------------------------------------------------------------------------------------------


def _read_mixtral(keys: Keys) -> ModelSpec:
    base = read_base(keys, "mixtral", eps=1e-5, positions=131072, theta=1e6, kv_heads=8, bos=1, eos=2)
    keys.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    experts = Experts(keys.whole("num_local_experts", 8, 1), keys.whole("num_experts_per_tok", 2, 1))
    return ModelSpec(**base, **read_window(keys, base["layers"]), experts=experts)


def _write_mixtral(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "MixtralForCausalLM") | write_window(spec, name_types=False) | {
        "num_local_experts": spec.experts.count, "num_experts_per_tok": spec.experts.chosen}


def _mixtral_leaves(spec: ModelSpec) -> list[TensorMap]:
    return leaves(spec) + expert_leaves("block_sparse_moe", "gate", {"gate": "w1", "up": "w3", "down": "w2"})


def _read_qwen3_moe(keys: Keys) -> ModelSpec:
    keys.only("decoder_sparse_step", 1)
    keys.only("mlp_only_layers", [])
    keys.ignore("output_router_logits", "router_aux_loss_coef")
    bias = bool(keys.get("attention_bias", False))
    keys.ignore("intermediate_size")  # of layers without experts, of which there are none
    base = _read_qwen(keys, "qwen3_moe", kv_heads=4, mlp_width=keys.get("moe_intermediate_size", 768))
    count = keys.whole("num_experts", keys.whole("num_local_experts", 128, 1), 1)
    keys.ignore("num_local_experts")
    if keys.get("use_sliding_window", False):  # every layer is local in this family
        default = None if "sliding_window" in keys.config else 4096
        base |= {"window": keys.get("sliding_window", default), "local_layers": ()}
    experts = Experts(count, keys.whole("num_experts_per_tok", 8, 1), bool(keys.get("norm_topk_prob", False)))
    return ModelSpec(**base, qkv_bias=bias, out_bias=bias, query_norm="head", experts=experts)


def _write_qwen3_moe(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "Qwen3MoeForCausalLM") | {
        "attention_bias": spec.qkv_bias, "moe_intermediate_size": spec.mlp_width, "num_experts": spec.experts.count,
        "num_experts_per_tok": spec.experts.chosen, "norm_topk_prob": spec.experts.normalized,
        "use_sliding_window": spec.window is not None, "sliding_window": spec.window, "decoder_sparse_step": 1,
        "mlp_only_layers": []}


def _qwen3_moe_leaves(spec: ModelSpec) -> list[TensorMap]:
    names = {name: f"{name}_proj" for name in ("gate", "up", "down")}
    return leaves(spec) + expert_leaves("mlp", "gate", names)


FAMILIES = {
    "llama": Family(_read_llama, _write_llama, leaves, PREFIX, IGNORED),
    "mistral": Family(_read_mistral, _write_mistral, leaves, PREFIX, IGNORED),
    "mixtral": Family(_read_mixtral, _write_mixtral, _mixtral_leaves, PREFIX, IGNORED),
    "qwen2": Family(_read_qwen2, _write_qwen2, leaves, PREFIX, IGNORED),
    "qwen3": Family(_read_qwen3, _write_qwen3, leaves, PREFIX, IGNORED),
    "qwen3_moe": Family(_read_qwen3_moe, _write_qwen3_moe, _qwen3_moe_leaves, PREFIX, IGNORED),
    "olmo2": Family(_read_olmo2, _write_olmo2, leaves, PREFIX, IGNORED),
    "granite": Family(_read_granite, _write_granite, leaves, PREFIX, IGNORED),
    "smollm3": Family(_read_smollm3, _write_smollm3, leaves, PREFIX, IGNORED),
}
