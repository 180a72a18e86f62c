"""Gemma 1, 2 and 3 (text): norms of 1 + weight, a scaled embedding, and from the second on local layers."""

from __future__ import annotations

from typing import Any

from jaxllm.errors import UserError
from jaxllm.models.families.llama import IGNORED, PREFIX, leaves, read_base, write_base
from jaxllm.models.families.table import (
    ACTIVATION_NAMES,
    Family,
    Keys,
    read_rope,
    read_window,
    rope_settings,
    write_rope,
    write_window,
)
from jaxllm.models.spec import ModelSpec


def _read_base(keys: Keys, family: str, positions: int) -> dict[str, Any]:
    keys.only("use_bidirectional_attention", False)
    kv_heads = None if family == "gemma" else 4
    base = read_base(keys, family, tied=True, positions=positions, kv_heads=kv_heads, bos=2, eos=1, pad=0)
    bias = bool(keys.get("attention_bias", False))
    return base | dict(head_dim=keys.get("head_dim", 256), norm_offset=True, embed_scale=base["width"] ** 0.5,
                       qkv_bias=bias, out_bias=bias)


def _read_gemma(keys: Keys) -> ModelSpec:
    base = _read_base(keys, "gemma", 8192)
    # The first releases write "gelu" for its tanh form.
    meant = keys.get("hidden_activation") or keys.get("hidden_act", "gelu_pytorch_tanh")
    if meant not in ("gelu", "gelu_pytorch_tanh"):
        raise UserError(f"activation '{meant}' is not supported in this family", keys.where)
    return ModelSpec(**base | {"activation": "gelu_tanh"})


def _write_gemma(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "GemmaForCausalLM") | {
        "attention_bias": spec.qkv_bias, "hidden_act": "gelu_pytorch_tanh"}


def _read_later(keys: Keys, family: str, positions: int, local: list[bool], caps: tuple[float | None, float | None],
                ) -> dict[str, Any]:
    """Reads keys of Gemma 2 and 3; `caps` are the defaults of the soft caps of attention scores and logits."""
    base = _read_base(keys, family, positions) | {"activation": keys.activation("hidden_activation",
                                                                                "gelu_pytorch_tanh")}
    cap = lambda name, default: keys.get(name) if name in keys.config else default
    keys.ignore("attn_logit_softcapping", "final_logit_softcapping", "cache_implementation", "sliding_window_size")
    return base | read_window(keys, base["layers"], local, 4096) | dict(
        norms="around", attention_scale=keys.get("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=cap("attn_logit_softcapping", caps[0]),
        logit_softcap=cap("final_logit_softcapping", caps[1]))


def _read_gemma2(keys: Keys) -> ModelSpec:
    local = [i % 2 == 0 for i in range(keys.need("num_hidden_layers"))]
    return ModelSpec(**_read_later(keys, "gemma2", 8192, local, (50.0, 30.0)))


def _write_later(spec: ModelSpec, architecture: str) -> dict[str, Any]:
    written = write_base(spec, architecture) | write_window(spec) | {
        "attention_bias": spec.qkv_bias, "hidden_activation": ACTIVATION_NAMES[spec.activation],
        "query_pre_attn_scalar": _whole((spec.attention_scale or spec.head_dim**-0.5)**-2),
        "attn_logit_softcapping": spec.attention_softcap, "final_logit_softcapping": spec.logit_softcap}
    del written["hidden_act"]
    if written["sliding_window"] is None:  # no layer is local, but torch needs a number
        written["sliding_window"] = 4096
    return written


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-6 else value


def _write_gemma2(spec: ModelSpec) -> dict[str, Any]:
    return _write_later(spec, "Gemma2ForCausalLM")


def _read_gemma3(keys: Keys) -> ModelSpec:
    """Reads two rotary embeddings: from `rope_parameters`, or from the keys of transformers 4."""
    both, layers = keys.get("rope_parameters") or {}, keys.need("num_hidden_layers")
    every = keys.get("sliding_window_pattern", keys.get("_sliding_window_pattern", 6))
    keys.ignore("sliding_window_pattern", "_sliding_window_pattern", "rope_local_base_freq")
    if "full_attention" in both:
        rope = read_rope(keys, 1e6, rope_settings(keys, both["full_attention"]))
        local_rope = read_rope(keys, 1e4, dict(both.get("sliding_attention") or {}))
        keys.config["rope_parameters"] = None
    else:
        rope = read_rope(keys, 1e6)
        local_rope = read_rope(keys, 1e4, {"rope_theta": keys.get("rope_local_base_freq", 1e4)})
    local = [(i + 1) % every != 0 for i in range(layers)]
    base = _read_later(keys, "gemma3_text", 131072, local, (None, None))
    if base["attention_softcap"] is not None:
        raise UserError(f"config key 'attn_logit_softcapping' is {base['attention_softcap']}; torch passes it over in "
                        "this family", keys.where, "remove the key")
    return ModelSpec(**base | {"rope": rope, "local_rope": local_rope, "query_norm": "head"})


def _write_gemma3(spec: ModelSpec) -> dict[str, Any]:
    local = spec.local_rope or spec.rope
    written = _write_later(spec, "Gemma3ForCausalLM")
    if local.kind == "default":
        return written | {"rope_local_base_freq": local.theta}
    # Transformers 4 has no spelling for this.
    flat = lambda rope: {"rope_theta": rope.theta, "rope_type": rope.kind} | (write_rope(rope)["rope_scaling"] or {})
    other_keys = {name: value for name, value in written.items() if name not in ("rope_theta", "rope_scaling")}
    return other_keys | {"rope_parameters": {"full_attention": flat(spec.rope), "sliding_attention": flat(local)}}


FAMILIES = {
    "gemma": Family(_read_gemma, _write_gemma, leaves, PREFIX, IGNORED),
    "gemma2": Family(_read_gemma2, _write_gemma2, leaves, PREFIX, IGNORED),
    "gemma3_text": Family(_read_gemma3, _write_gemma3, leaves, PREFIX, IGNORED),
}
