"""Families: how `config.json` and the tensor names of a Hugging Face checkpoint map to ours and back.

Each family is two functions and a table. A key of `config.json` is either read, checked to have the one
value that is supported, or known not to matter; anything else is an error, since a key that is passed
over may be the one that changes what the network computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.models.spec import ModelSpec, Rope

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh",
               "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}

# Keys that never change what a forward pass computes.
BOOKKEEPING = frozenset("""
    _attn_implementation _name_or_path architectures attn_implementation auto_map bad_words_ids
    begin_suppress_tokens chunk_size_feed_forward decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label initializer_range is_decoder is_encoder_decoder
    label2id length_penalty max_length max_new_tokens min_length model_type no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_scores pad_token_id
    prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    transformers.js_config typical_p use_bfloat16 use_cache
""".split())


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Where one of our parameters lives in a checkpoint.

    Attributes:
        path: keys into our parameters.
        name: tensor name; `{i}` stands for the layer.
        transpose: the checkpoint holds `[out, in]`.
        part: `(k, n)`: the k-th of n equal parts along the last axis of a fused tensor.
    """

    path: tuple[str, ...]
    name: str
    transpose: bool = False
    part: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Family:
    """One row of the table of families.

    Attributes:
        read: `config.json` (through a `Keys`) -> `ModelSpec`.
        write: `ModelSpec` -> `config.json`.
        leaves: `ModelSpec` -> the place of every parameter.
        prefix: what some checkpoints put before the names of all tensors but the head, others not.
        ignored: ends of names of tensors that hold no parameters (masks, rotary tables).
    """

    read: Callable[[Keys], ModelSpec]
    write: Callable[[ModelSpec], dict[str, Any]]
    leaves: Callable[[ModelSpec], list[Leaf]]
    prefix: str
    ignored: tuple[str, ...]


class Keys:
    """`config.json` being read: remembers what was asked for, to name what nobody asked for."""

    def __init__(self, config: dict[str, Any], where: Path | str):
        self.config, self.where, self.seen = config, where, set(BOOKKEEPING)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        value = self.config.get(name)
        return default if value is None else value

    def need(self, name: str, kind: type = int) -> Any:
        value = self.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"config key '{name}' must be {kind.__name__}, found {value!r}", self.where)
        return value

    def only(self, name: str, supported: Any) -> None:
        value = self.get(name, supported)
        if value != supported:
            raise UserError(f"config key '{name}' is {value!r}; only {supported!r} is supported", self.where)

    def ignore(self, *names: str) -> None:
        self.seen.update(names)

    def activation(self, name: str) -> str:
        value = self.need(name, str)
        if value not in ACTIVATIONS:
            raise UserError(f"activation '{value}' is not supported (have: {', '.join(ACTIVATIONS)})", self.where)
        return ACTIVATIONS[value]

    def tokens(self) -> dict[str, Any]:
        """Begin and end tokens, for the spec."""
        end = self.get("eos_token_id", ())
        ids = (end,) if isinstance(end, int) else tuple(end)
        return {"bos_id": self.get("bos_token_id"), "eos_ids": ids}

    def finish(self) -> None:
        """Raises on keys that nobody read and that are set to something."""
        left = {k: v for k, v in self.config.items() if k not in self.seen and v is not None}
        if left:
            listing = ", ".join(f"{key}={value!r}" for key, value in sorted(left.items()))
            raise UserError(
                f"config keys that this library does not know and that may change the network: {listing}",
                self.where, "remove the keys from config.json if they do not change what the model computes")


def read_rope(keys: Keys) -> Rope:
    """Rotary settings in the spelling of transformers 5 (`rope_parameters`) or 4 (`rope_scaling`)."""
    settings = {**keys.get("rope_scaling", {}), **keys.get("rope_parameters", {})}
    theta = settings.pop("rope_theta", None) or keys.get("rope_theta", 10_000.0)
    keys.ignore("rope_theta")
    named = settings.pop("rope_type", None), settings.pop("type", None)
    kind = named[0] or named[1] or "default"
    if settings.pop("partial_rotary_factor", None) not in (None, 1.0) or kind not in ("default", "linear", "llama3"):
        raise UserError(f"rotary positions of type '{kind}' with {settings} are not supported "
                        "(have: default, linear, llama3)", keys.where)
    rename = {"factor": "factor", "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor",
              "original_max_position_embeddings": "original_positions"}
    wanted = {"default": (), "linear": ("factor",), "llama3": tuple(rename)}[kind]
    missing = [name for name in wanted if name not in settings]
    unknown = [name for name in settings if name not in rename]
    if missing or unknown:
        raise UserError(f"rotary positions of type '{kind}' lack {missing} or have unknown {unknown}", keys.where)
    return Rope(float(theta), kind, **{rename[name]: settings[name] for name in wanted})


def write_rope(rope: Rope) -> dict[str, Any]:
    """The spelling of transformers 4, which 5 reads as well."""
    scaling: dict[str, Any] | None = None
    if rope.kind != "default":
        scaling = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "llama3":
        scaling |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor,
                    "original_max_position_embeddings": rope.original_positions}
    return {"rope_theta": rope.theta, "rope_scaling": scaling}


def _read_llama(keys: Keys) -> ModelSpec:
    width, heads = keys.need("hidden_size"), keys.need("num_attention_heads")
    keys.ignore("attention_dropout", "pretraining_tp", "max_window_layers")
    bias = bool(keys.get("attention_bias", False))
    return ModelSpec(
        "llama", keys.need("vocab_size"), width, keys.need("num_hidden_layers"), heads,
        keys.get("num_key_value_heads", heads), keys.get("head_dim", width // heads),
        keys.need("intermediate_size"), keys.get("max_position_embeddings", 2048),
        norm="rms", norm_eps=keys.get("rms_norm_eps", 1e-6), activation=keys.activation("hidden_act"),
        gated_mlp=True, qkv_bias=bias, out_bias=bias, mlp_bias=bool(keys.get("mlp_bias", False)),
        rope=read_rope(keys), tied=bool(keys.get("tie_word_embeddings", False)), **keys.tokens())


def _write_llama(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "intermediate_size": spec.mlp_width, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim,
        "max_position_embeddings": spec.max_positions, "rms_norm_eps": spec.norm_eps,
        "hidden_act": ACTIVATION_NAMES[spec.activation], "attention_bias": spec.qkv_bias,
        "mlp_bias": spec.mlp_bias, "tie_word_embeddings": spec.tied, **write_rope(spec.rope)}


def _llama_leaves(spec: ModelSpec) -> list[Leaf]:
    layer = "model.layers.{i}."
    leaves = [Leaf(("embed",), "model.embed_tokens.weight"), Leaf(("final_norm", "scale"), "model.norm.weight"),
              Leaf(("layers", "attn_norm", "scale"), layer + "input_layernorm.weight"),
              Leaf(("layers", "mlp_norm", "scale"), layer + "post_attention_layernorm.weight")]
    if not spec.tied:
        leaves.append(Leaf(("head",), "lm_head.weight"))
    places = [("attn", name, f"self_attn.{name}_proj", bias) for name, bias in
              (("q", spec.qkv_bias), ("k", spec.qkv_bias), ("v", spec.qkv_bias), ("o", spec.out_bias))]
    places += [("mlp", name, f"mlp.{name}_proj", spec.mlp_bias) for name in ("gate", "up", "down")]
    for module, name, tensor, bias in places:
        leaves.append(Leaf(("layers", module, name, "kernel"), f"{layer}{tensor}.weight", transpose=True))
        if bias:
            leaves.append(Leaf(("layers", module, name, "bias"), f"{layer}{tensor}.bias"))
    return leaves


def _read_gpt2(keys: Keys) -> ModelSpec:
    keys.only("scale_attn_weights", True)
    keys.only("scale_attn_by_inverse_layer_idx", False)
    keys.only("add_cross_attention", False)
    keys.only("tie_word_embeddings", True)
    keys.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "gradient_checkpointing", "n_ctx",
                "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
                "summary_type", "summary_use_proj", "cross_attention_hidden_size", "tie_encoder_decoder")
    width, heads = keys.need("n_embd"), keys.need("n_head")
    return ModelSpec(
        "gpt2", keys.need("vocab_size"), width, keys.need("n_layer"), heads, heads, width // heads,
        keys.get("n_inner", 4 * width), keys.need("n_positions"), norm="layer",
        norm_eps=keys.get("layer_norm_epsilon", 1e-5), activation=keys.activation("activation_function"),
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, rope=None, tied=True, **keys.tokens())


def _write_gpt2(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": spec.vocab_size,
        "n_embd": spec.width, "n_layer": spec.layers, "n_head": spec.heads, "n_inner": spec.mlp_width,
        "n_positions": spec.max_positions, "layer_norm_epsilon": spec.norm_eps,
        "activation_function": ACTIVATION_NAMES[spec.activation], "tie_word_embeddings": True}


def _gpt2_leaves(spec: ModelSpec) -> list[Leaf]:
    layer, leaves = "transformer.h.{i}.", []
    norms = ((("final_norm",), "transformer.ln_f"), (("layers", "attn_norm"), layer + "ln_1"),
             (("layers", "mlp_norm"), layer + "ln_2"))
    for path, tensor in norms:
        leaves += [Leaf((*path, "scale"), f"{tensor}.weight"), Leaf((*path, "bias"), f"{tensor}.bias")]
    # Conv1D: matrices are stored [in, out], and q, k, v are one tensor.
    places = [("attn", name, "attn.c_attn", (k, 3)) for k, name in enumerate("qkv")]
    places += [("attn", "o", "attn.c_proj", (0, 1)), ("mlp", "up", "mlp.c_fc", (0, 1)),
               ("mlp", "down", "mlp.c_proj", (0, 1))]
    for module, name, tensor, part in places:
        leaves += [Leaf(("layers", module, name, "kernel"), f"{layer}{tensor}.weight", part=part),
                   Leaf(("layers", module, name, "bias"), f"{layer}{tensor}.bias", part=part)]
    return leaves + [Leaf(("embed",), "transformer.wte.weight"), Leaf(("positions",), "transformer.wpe.weight")]


FAMILIES = {
    "llama": Family(_read_llama, _write_llama, _llama_leaves, "model.", ("rotary_emb.inv_freq",)),
    "gpt2": Family(_read_gpt2, _write_gpt2, _gpt2_leaves, "transformer.", (".attn.bias", ".attn.masked_bias")),
}


def read_config(config: dict[str, Any], where: Path | str) -> ModelSpec:
    """The network that a `config.json` describes.

    Raises:
        UserError: an unknown architecture, a missing key, or one whose meaning is not supported.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"architecture {kind!r} is not supported (have: {', '.join(FAMILIES)})", where)
    if "quantization_config" in config:
        raise UserError("the checkpoint is quantised", where, "use the unquantised checkpoint")
    keys = Keys(config, where)
    keys.only("pruned_heads", {})
    try:
        spec = FAMILIES[kind].read(keys)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"the configuration does not describe a network: {error}", where) from error
    keys.finish()
    return spec


def write_config(spec: ModelSpec, dtype: str) -> dict[str, Any]:
    """`config.json` of a network whose weights have `dtype`; transformers 4 and 5 read it."""
    end = spec.eos_ids[0] if len(spec.eos_ids) == 1 else list(spec.eos_ids) or None
    return FAMILIES[spec.family].write(spec) | {
        "torch_dtype": dtype, "bos_token_id": spec.bos_id, "eos_token_id": end}
