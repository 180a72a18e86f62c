"""Families with names and layouts of their own: GPT-2, GPT-NeoX, OPT, Phi, and Phi-3's fused projections."""

from __future__ import annotations

from typing import Any

from jaxllm.models.families.llama import (
    IGNORED,
    norm_leaves,
    outer_leaves,
    read_base,
    without_usual_head_dim,
    write_base,
)
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
from jaxllm.models.spec import ModelSpec

# --- GPT-2 ----------------------------------------------------------------------------------------------------------


def _read_gpt2(keys: Keys) -> ModelSpec:
    keys.only("scale_attn_weights", True)
    keys.only("scale_attn_by_inverse_layer_idx", False)
    keys.only("add_cross_attention", False)
    keys.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "gradient_checkpointing", "n_ctx",
                "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
                "summary_type", "summary_use_proj", "cross_attention_hidden_size", "tie_encoder_decoder", "n_special",
                "predict_special_tokens")
    width, heads = keys.need("n_embd"), keys.need("n_head")
    return ModelSpec(
        "gpt2", keys.need("vocab_size"), width, keys.need("n_layer"), heads, heads, width // heads,
        keys.get("n_inner", 4 * width), keys.get("n_positions", 1024), norm="layer",
        norm_eps=keys.get("layer_norm_epsilon", 1e-5), activation=keys.activation("activation_function", "gelu_new"),
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, rope=None,
        tied=bool(keys.get("tie_word_embeddings", True)), **keys.tokens(50256, 50256))


def _write_gpt2(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": spec.vocab_size,
        "n_embd": spec.width, "n_layer": spec.layers, "n_head": spec.heads, "n_inner": spec.mlp_width,
        "n_positions": spec.max_positions, "layer_norm_epsilon": spec.norm_eps,
        "activation_function": ACTIVATION_NAMES[spec.activation], "tie_word_embeddings": spec.tied}


def _gpt2_leaves(spec: ModelSpec) -> list[TensorMap]:
    layer, width = "transformer.h.{i}.", spec.width
    maps = [TensorMap(("embed",), "transformer.wte.weight"), TensorMap(("positions",), "transformer.wpe.weight"),
            *norm(("final_norm",), "transformer.ln_f", True), *norm(("layers", "attn_norm"), layer + "ln_1", True),
            *norm(("layers", "mlp_norm"), layer + "ln_2", True)]
    # Conv1D: matrices are stored [in, out], and q, k, v are one tensor.
    linears: list[tuple[str, str, str, tuple[int, int] | None]]
    linears = [("attn", name, "attn.c_attn", (k * width, (k + 1) * width)) for k, name in enumerate("qkv")]
    linears += [("attn", "o", "attn.c_proj", None), ("mlp", "up", "mlp.c_fc", None),
                ("mlp", "down", "mlp.c_proj", None)]
    for module, name, tensor, part in linears:
        maps += [TensorMap(("layers", module, name, "kernel"), f"{layer}{tensor}.weight", part=part),
                 TensorMap(("layers", module, name, "bias"), f"{layer}{tensor}.bias", part=part)]
    return maps if spec.tied else [*maps, TensorMap(("head",), "lm_head.weight")]


# --- GPT-NeoX (Pythia) ----------------------------------------------------------------------------------------------


def _read_neox(keys: Keys) -> ModelSpec:
    keys.ignore("attention_dropout", "hidden_dropout", "classifier_dropout", "rotary_pct", "rotary_emb_base",
                "attention_probs_dropout_prob", "hidden_dropout_prob")
    width, heads = keys.need("hidden_size"), keys.need("num_attention_heads")
    base, share = keys.get("rotary_emb_base", 10_000.0), keys.get("rotary_pct", 0.25)
    if "rope_parameters" not in keys.config:  # torch reads these two keys and not the newer ones
        keys.only("rope_theta", base)
        keys.only("partial_rotary_factor", share)
    rope = read_rope(keys, base, default_fraction=share)
    return ModelSpec(
        "gpt_neox", keys.need("vocab_size"), width, keys.need("num_hidden_layers"), heads, heads, width // heads,
        keys.need("intermediate_size"), read_positions(keys, rope, 2048), norm="layer",
        norm_eps=keys.get("layer_norm_eps", 1e-5), activation=keys.activation("hidden_act", "gelu"), gated_mlp=False,
        parallel="own" if keys.get("use_parallel_residual", True) else None,
        qkv_bias=bool(keys.get("attention_bias", True)), out_bias=bool(keys.get("attention_bias", True)),
        mlp_bias=True, rope=rope, tied=bool(keys.get("tie_word_embeddings", False)), **keys.tokens(0, 2))


def _write_neox(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp_width, "max_position_embeddings": written_positions(spec),
        "layer_norm_eps": spec.norm_eps, "hidden_act": ACTIVATION_NAMES[spec.activation],
        "use_parallel_residual": spec.parallel is not None, "attention_bias": spec.qkv_bias,
        "tie_word_embeddings": spec.tied, "rotary_pct": spec.rope.fraction, "rotary_emb_base": spec.rope.theta,
        "partial_rotary_factor": spec.rope.fraction, **write_rope(spec.rope)}


def _neox_leaves(spec: ModelSpec) -> list[TensorMap]:
    layer, size = "gpt_neox.layers.{i}.", spec.head_dim
    maps = [TensorMap(("embed",), "gpt_neox.embed_in.weight"),
            *norm(("final_norm",), "gpt_neox.final_layer_norm", True),
            *norm(("layers", "attn_norm"), layer + "input_layernorm", True),
            *norm(("layers", "mlp_norm"), layer + "post_attention_layernorm", True)]
    for k, name in enumerate("qkv"):  # q, k and v of the first head, then those of the second
        maps += linear(("layers", "attn", name), layer + "attention.query_key_value", spec.qkv_bias,
                       (k * size, (k + 1) * size), spec.heads)
    for path, tensor, bias in ((("attn", "o"), "attention.dense", spec.out_bias),
                               (("mlp", "up"), "mlp.dense_h_to_4h", True),
                               (("mlp", "down"), "mlp.dense_4h_to_h", True)):
        maps += linear(("layers", *path), layer + tensor, bias)
    return maps if spec.tied else [*maps, TensorMap(("head",), "embed_out.weight")]


# --- OPT ------------------------------------------------------------------------------------------------------------


def _read_opt(keys: Keys) -> ModelSpec:
    keys.only("enable_bias", True)
    keys.only("layer_norm_elementwise_affine", True)
    keys.ignore("dropout", "attention_dropout", "layerdrop", "init_std", "activation_dropout",
                "_remove_final_layer_norm")
    width, heads = keys.need("hidden_size"), keys.need("num_attention_heads")
    before, embed = bool(keys.get("do_layer_norm_before", True)), keys.get("word_embed_proj_dim", width)
    return ModelSpec(
        "opt", keys.need("vocab_size"), width, keys.need("num_hidden_layers"), heads, heads, width // heads,
        keys.need("ffn_dim"), keys.get("max_position_embeddings", 2048), norm="layer", norm_eps=1e-5,
        norms="before" if before else "outside",
        final_norm=before and not keys.get("_remove_final_layer_norm", False),
        activation=keys.activation("activation_function", "relu"), gated_mlp=False, qkv_bias=True, out_bias=True,
        mlp_bias=True, rope=None, position_offset=2, embed_width=None if embed == width else embed,
        tied=bool(keys.get("tie_word_embeddings", True)), **keys.tokens(2, 2, 1))


def _write_opt(spec: ModelSpec) -> dict[str, Any]:
    before = spec.norms == "before"
    return {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "ffn_dim": spec.mlp_width, "max_position_embeddings": spec.max_positions, "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not spec.final_norm,
        "word_embed_proj_dim": spec.embed_width or spec.width,
        "activation_function": ACTIVATION_NAMES[spec.activation], "tie_word_embeddings": spec.tied}


def _opt_leaves(spec: ModelSpec) -> list[TensorMap]:
    outer, layer = "model.decoder.", "model.decoder.layers.{i}."
    maps = [TensorMap(("embed",), outer + "embed_tokens.weight"),
            TensorMap(("positions",), outer + "embed_positions.weight")]
    if spec.final_norm:
        maps += norm(("final_norm",), outer + "final_layer_norm", True)
    if spec.embed_width:
        maps += linear(("embed_in",), outer + "project_in", False)
        maps += linear(("embed_out",), outer + "project_out", False)
    norm_name = "norm" if spec.norms == "before" else "after_norm"
    maps += norm(("layers", f"attn_{norm_name}"), layer + "self_attn_layer_norm", True)
    maps += norm(("layers", f"mlp_{norm_name}"), layer + "final_layer_norm", True)
    for path, tensor in ((("attn", "q"), "self_attn.q_proj"), (("attn", "k"), "self_attn.k_proj"),
                         (("attn", "v"), "self_attn.v_proj"), (("attn", "o"), "self_attn.out_proj"),
                         (("mlp", "up"), "fc1"), (("mlp", "down"), "fc2")):
        maps += linear(("layers", *path), layer + tensor, True)
    return maps if spec.tied else [*maps, TensorMap(("head",), "lm_head.weight")]


# --- Phi 1 and 2 ----------------------------------------------------------------------------------------------------


def _read_phi(keys: Keys) -> ModelSpec:
    keys.ignore("resid_pdrop", "embd_pdrop", "attention_dropout")
    width, heads = keys.need("hidden_size"), keys.need("num_attention_heads")
    rope = read_rope(keys, default_fraction=0.5)
    return ModelSpec(
        "phi", keys.need("vocab_size"), width, keys.need("num_hidden_layers"), heads,
        keys.get("num_key_value_heads", heads), keys.get("head_dim", width // heads), keys.need("intermediate_size"),
        read_positions(keys, rope, 2048), norm="layer", norm_eps=keys.get("layer_norm_eps", 1e-5), parallel="shared",
        query_norm="head" if keys.get("qk_layernorm", False) else None,
        activation=keys.activation("hidden_act", "gelu_new"), gated_mlp=False, qkv_bias=True, out_bias=True,
        mlp_bias=True, head_bias=True, rope=rope, tied=bool(keys.get("tie_word_embeddings", False)),
        **keys.tokens(1, 2))


def _write_phi(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["PhiForCausalLM"], "model_type": "phi", "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads, "intermediate_size": spec.mlp_width,
        "max_position_embeddings": written_positions(spec), "layer_norm_eps": spec.norm_eps,
        "hidden_act": ACTIVATION_NAMES[spec.activation], "qk_layernorm": spec.query_norm is not None,
        "tie_word_embeddings": spec.tied, "partial_rotary_factor": spec.rope.fraction, **write_rope(spec.rope),
        **without_usual_head_dim({}, spec)}


def _phi_leaves(spec: ModelSpec) -> list[TensorMap]:
    layer = "model.layers.{i}."
    maps = [TensorMap(("embed",), "model.embed_tokens.weight"), *norm(("final_norm",), "model.final_layernorm", True),
            *norm(("layers", "attn_norm"), layer + "input_layernorm", True)]
    if spec.query_norm is not None:
        for name in ("q", "k"):
            maps += norm(("layers", "attn", f"{name}_norm"), f"{layer}self_attn.{name}_layernorm", True)
    for path, tensor in ((("attn", "q"), "self_attn.q_proj"), (("attn", "k"), "self_attn.k_proj"),
                         (("attn", "v"), "self_attn.v_proj"), (("attn", "o"), "self_attn.dense"),
                         (("mlp", "up"), "mlp.fc1"), (("mlp", "down"), "mlp.fc2")):
        maps += linear(("layers", *path), layer + tensor, True)
    maps.append(TensorMap(("head_bias",), "lm_head.bias"))
    return maps if spec.tied else [*maps, TensorMap(("head",), "lm_head.weight")]


# --- Phi 3 ----------------------------------------------------------------------------------------------------------


def _read_phi3(keys: Keys) -> ModelSpec:
    keys.ignore("resid_pdrop", "embd_pdrop", "original_max_position_embeddings")
    for name, off in (("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False), ("full_attn_mod", 1),
                      ("interpolate_factor", 1)):
        keys.only(name, off)
    base = read_base(keys, "phi3", eps=1e-5, positions=4096, bos=1, eos=32000, pad=32000, fraction=1.0, original=4096)
    return ModelSpec(**base, **read_window(keys, base["layers"]))


def _write_phi3(spec: ModelSpec) -> dict[str, Any]:
    written = write_base(spec, "Phi3ForCausalLM") | write_window(spec, name_types=False)
    written = without_usual_head_dim(written, spec)
    original = spec.rope.original_positions if spec.rope.kind == "longrope" else spec.max_positions
    return written | {"original_max_position_embeddings": original}


def _phi3_leaves(spec: ModelSpec) -> list[TensorMap]:
    layer, start = "model.layers.{i}.", 0
    maps = outer_leaves(spec) + norm_leaves(spec)
    for name, heads in (("q", spec.heads), ("k", spec.kv_heads), ("v", spec.kv_heads)):
        stop = start + heads * spec.head_dim
        maps += linear(("layers", "attn", name), layer + "self_attn.qkv_proj", False, (start, stop))
        start = stop
    for k, name in enumerate(("gate", "up")):
        part = (k * spec.mlp_width, (k + 1) * spec.mlp_width)
        maps += linear(("layers", "mlp", name), layer + "mlp.gate_up_proj", False, part)
    return [*maps, *linear(("layers", "attn", "o"), layer + "self_attn.o_proj", False),
            *linear(("layers", "mlp", "down"), layer + "mlp.down_proj", False)]


FAMILIES = {
    "gpt2": Family(_read_gpt2, _write_gpt2, _gpt2_leaves, "transformer.", (".attn.bias", ".attn.masked_bias")),
    "gpt_neox": Family(_read_neox, _write_neox, _neox_leaves, "gpt_neox.", (
        "rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")),
    "opt": Family(_read_opt, _write_opt, _opt_leaves, "model.", ()),
    "phi": Family(_read_phi, _write_phi, _phi_leaves, "model.", IGNORED),
    "phi3": Family(_read_phi3, _write_phi3, _phi3_leaves, "model.", IGNORED),
}
