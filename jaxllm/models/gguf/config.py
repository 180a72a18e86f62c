"""From the metadata of a GGUF file to the `config.json` of the same network.

Keys are those of llama.cpp (`gguf-py/gguf/constants.py`); what a key does not hold is what llama.cpp computes for that
architecture. A key of the architecture that is not read here and is set to something is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.models.gguf.header import Header, read_header

# Keys that change no result, or are read elsewhere.
HARMLESS = {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "expert_group_count"}
# Keys with one supported value.
SUPPORTED = {"rope.scaling.yarn_ext_factor": 1, "rope.scaling.yarn_attn_factor": 1, "expert_weights_norm": True}
# Llama 3's rotary factors: the settings of all its releases but `factor`.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class Metadata:
    """Keys of the file's architecture that records which were read."""

    def __init__(self, header: Header):
        self.header, self.prefix, self.seen = header, header.architecture + ".", set(HARMLESS)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return self.header.metadata.get(self.prefix + name, default)

    def need(self, name: str) -> int:
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"key '{self.prefix}{name}' must be a whole number of at least 1, found {value!r}",
                            self.header.path)
        return value

    def has(self, tensor: str) -> bool:
        return tensor in self.header.tensors

    def finish(self) -> None:
        """Raises a `UserError` for keys of the architecture that were not read and are set to something."""
        left = {key: value for key, value in self.header.metadata.items() if key.startswith(self.prefix)
                and (name := key.removeprefix(self.prefix)) not in self.seen
                and value not in (0, False, "", [], None, SUPPORTED.get(name))}
        if left:
            listing = ", ".join(f"{key}={str(value)[:80]}" for key, value in sorted(left.items()))
            raise UserError(f"keys that may change the network and are not known: {listing}", self.header.path)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How the network of one architecture of llama.cpp is named in transformers.

    Attributes:
        model_type: name of the family.
        class_name: name of its language model.
        more: reads keys of this architecture that others do not have; its result is added to config.json.
    """

    model_type: str
    class_name: str
    more: Callable[[Metadata], dict[str, Any]] = lambda metadata: {}


def read_config(path: Path) -> dict[str, Any]:
    """Reads the network of a GGUF file as a `config.json`.

    Raises:
        UserError: an unknown architecture, a missing key, or one with an unknown meaning.
    """
    try:
        return _read(read_header(path))
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"its metadata does not describe a network: {error}", path) from error


def _read(header: Header) -> dict[str, Any]:
    metadata, path = Metadata(header), header.path
    architecture = ARCHITECTURES.get(header.architecture)
    if architecture is None:
        raise UserError(f"architecture {header.architecture!r} of a GGUF file is not supported (have: "
                        f"{', '.join(ARCHITECTURES)})", path)
    if "token_embd.weight" not in header.tensors or len(header.tensors["token_embd.weight"].shape) != 2:
        raise UserError("has no embedding (token_embd.weight)", path, "give the file of the language model")
    config = {"architectures": [architecture.class_name], "model_type": architecture.model_type,
              "vocab_size": header.tensors["token_embd.weight"].shape[0],
              "tie_word_embeddings": not metadata.has("output.weight")}
    for token in ("bos", "eos", "padding"):
        value = header.metadata.get(f"tokenizer.ggml.{token}_token_id")
        config[{"padding": "pad"}.get(token, token) + "_token_id"] = value
    if not metadata.get("attention.causal", True):
        raise UserError("attention is bidirectional, which is not supported for a decoder", path)
    config |= _read_gpt2(metadata) if architecture.model_type == "gpt2" else _read_rotary(metadata)
    config |= architecture.more(metadata)
    metadata.finish()
    return config


def _read_gpt2(metadata: Metadata) -> dict[str, Any]:
    metadata.get("attention.head_count_kv")
    return {"n_embd": metadata.need("embedding_length"), "n_layer": metadata.need("block_count"),
            "n_head": metadata.need("attention.head_count"), "n_positions": metadata.need("context_length"),
            "n_inner": metadata.need("feed_forward_length"), "activation_function": "gelu_new",
            "layer_norm_epsilon": metadata.get("attention.layer_norm_epsilon", 1e-5)}


def _read_rotary(metadata: Metadata) -> dict[str, Any]:
    """Reads the keys that architectures with rotary positions share."""
    heads, width = metadata.need("attention.head_count"), metadata.need("embedding_length")
    kv_heads = metadata.get("attention.head_count_kv", heads)
    head_dim = metadata.get("attention.key_length", width // heads)
    if not isinstance(kv_heads, int) or metadata.get("attention.value_length", head_dim) != head_dim:
        raise UserError("layers differ in their heads, or keys and values in their size", metadata.header.path)
    rotated = metadata.get("rope.dimension_count", head_dim)
    config = {
        "hidden_size": width, "num_hidden_layers": metadata.need("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "max_position_embeddings": metadata.need(
            "context_length"), "intermediate_size": metadata.get("feed_forward_length"),
        "rope_theta": metadata.get("rope.freq_base", 10_000.0),
        "rms_norm_eps": metadata.get("attention.layer_norm_rms_epsilon"),
        "layer_norm_eps": metadata.get("attention.layer_norm_epsilon"),
        "partial_rotary_factor": rotated / head_dim if rotated != head_dim else None}
    return config | _read_scaling(metadata, config)


def _read_scaling(metadata: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    """Reads how the context was extended: from keys, or from tensors with a factor for each frequency."""
    scaling = lambda name, default=None: metadata.get(f"rope.scaling.{name}", default)
    factor, original = scaling("factor") or metadata.get("rope.scale_linear"), scaling("original_context_length")
    rope_type, attention = scaling("type") or ("linear" if factor else "none"), scaling("attn_factor")
    settings: dict[str, Any] | None = None
    if metadata.has("rope_factors_long.weight"):
        settings = {"rope_type": "longrope", "attention_factor": attention or 1.0} | {
            f"{length}_factor": _factors(metadata.header, f"rope_factors_{length}.weight")
            for length in ("short", "long")}
        scaling("yarn_log_multiplier")
    elif metadata.has("rope_freqs.weight"):
        settings = _llama3_factors(_factors(metadata.header, "rope_freqs.weight"), config)
    elif rope_type == "linear" and factor not in (None, 0, 1):
        settings = {"rope_type": "linear", "factor": factor}
    elif rope_type == "yarn":
        settings = {"rope_type": "yarn", "factor": factor} | {
            name: value for name in ("beta_fast", "beta_slow")
            if (value := scaling(f"yarn_{name}")) is not None}
        if attention not in (None, 1):
            settings["attention_factor"] = attention * (1 + 0.1 * math.log(factor))
    elif rope_type not in ("none", "linear"):
        raise UserError(f"rotary positions of type {rope_type!r} are not supported", metadata.header.path)
    if settings is None:
        return {}
    above = {} if original is None else {"original_max_position_embeddings": original}
    if settings["rope_type"] == "longrope":  # families read this key next to the settings
        return {"rope_scaling": settings} | above
    return {"rope_scaling": above | settings if settings["rope_type"] != "linear" else settings}


def _factors(header: Header, name: str) -> list[float]:
    info = header.tensors[name]
    if info.type != 0 or len(info.shape) != 1:
        raise UserError(f"{name} must hold a list of float32 numbers", header.path)
    with open(header.path, "rb") as file:
        file.seek(info.start)
        return [float(str(factor)) for factor in np.frombuffer(file.read(info.nbytes), "<f4")]


def _llama3_factors(factors: list[float], config: dict[str, Any]) -> dict[str, Any]:
    """Describes divisors of the frequencies as those of Llama 3, or, where they are others, one by one."""
    factor, rotated = max(factors), 2 * len(factors)
    wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(0, rotated, 2) / rotated)
    turns = LLAMA3["original_max_position_embeddings"] / wavelengths
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0, 1)
    if np.allclose(1 / ((1 - blend) / factor + blend), factors, rtol=1e-4):
        return {"rope_type": "llama3", "factor": factor} | LLAMA3
    return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}


def _llama(metadata: Metadata) -> dict[str, Any]:
    """Llama, Mistral and Mixtral have one architecture."""
    biases = {"attention_bias": metadata.has("blk.0.attn_q.bias"), "mlp_bias": metadata.has("blk.0.ffn_up.bias")}
    experts, chosen = metadata.get("expert_count", 0), metadata.get("expert_used_count", 0)
    window = metadata.get("attention.sliding_window", 0)
    if experts:
        return {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": experts,
                "num_experts_per_tok": chosen, "sliding_window": window or None}
    if window:
        return {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
    return biases


def _qwen3_moe(metadata: Metadata) -> dict[str, Any]:
    return {"num_experts": metadata.need("expert_count"), "num_experts_per_tok": metadata.need("expert_used_count"),
            "moe_intermediate_size": metadata.need("expert_feed_forward_length"), "norm_topk_prob": True}


def _gemma(metadata: Metadata) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh"}


def _later_gemma(metadata: Metadata, largest: int) -> dict[str, Any]:
    """Reads keys of Gemma 2 and 3; llama.cpp scales attention by another width in the `largest`, in layers."""
    heads, width = metadata.need("attention.head_count"), metadata.need("embedding_length")
    is_largest = metadata.need("block_count") == largest
    caps = {name: value for name in ("attn_logit_softcapping", "final_logit_softcapping")
            if (value := metadata.get(name)) is not None}  # both libraries have the same defaults
    return _gemma(metadata) | caps | {
        "query_pre_attn_scalar": width // heads if is_largest else metadata.get("attention.key_length", width // heads),
        "sliding_window": metadata.get("attention.sliding_window", 4096)}


def _gemma2(metadata: Metadata) -> dict[str, Any]:
    return _later_gemma(metadata, largest=46)


def _gemma3(metadata: Metadata) -> dict[str, Any]:
    pattern = metadata.get("attention.sliding_window_pattern", 6)
    layers = {"layer_types": ["sliding_attention" if local else "full_attention" for local in pattern]} if isinstance(
        pattern, list) else {"sliding_window_pattern": pattern}
    return _later_gemma(metadata, largest=62) | layers | {
        "rope_local_base_freq": metadata.get("rope.freq_base_swa", 10_000.0)}


def _phi2(metadata: Metadata) -> dict[str, Any]:
    return {"hidden_act": "gelu_new"}


def _phi3(metadata: Metadata) -> dict[str, Any]:
    return {"sliding_window": metadata.get("attention.sliding_window", 0) or None}


def _neox(metadata: Metadata) -> dict[str, Any]:
    heads = metadata.need("attention.head_count")
    head_dim = metadata.need("embedding_length") // heads
    return {"hidden_act": "gelu", "use_parallel_residual": bool(metadata.get("use_parallel_residual", True)),
            "rotary_emb_base": metadata.get("rope.freq_base", 10_000.0),
            "rotary_pct": metadata.get("rope.dimension_count", head_dim) / head_dim, "head_dim": None}


def _granite(metadata: Metadata) -> dict[str, Any]:
    names = {"embedding_multiplier": "embedding_scale", "attention_multiplier": "attention.scale",
             "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale"}
    head_dim = metadata.get("attention.key_length", metadata.need("embedding_length") // metadata.need(
        "attention.head_count"))
    return {"attention_multiplier": head_dim**-0.5} | {
        ours: value for ours, theirs in names.items() if (value := metadata.get(theirs)) is not None}


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", _llama),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", _qwen3_moe),
    "gemma": Architecture("gemma", "GemmaForCausalLM", _gemma),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", _gemma2),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _gemma3),
    "phi2": Architecture("phi", "PhiForCausalLM", _phi2),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", _phi3),
    "gpt2": Architecture("gpt2", "GPT2LMHeadModel"),
    "gptneox": Architecture("gpt_neox", "GPTNeoXForCausalLM", _neox),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM"),
    "granite": Architecture("granite", "GraniteForCausalLM", _granite),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM"),
}
