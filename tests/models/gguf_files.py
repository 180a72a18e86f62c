"""GGUF files as llama.cpp's converter writes them (convert_hf_to_gguf.py), from the config and tensors of the hub."""

import re

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quantize

PERMUTED = ("llama", "granite", "smollm3")


def metadata(architecture, config):
    """The keys of an architecture, without its name in front."""
    get = lambda *names: next((config[name] for name in names if config.get(name) is not None), None)
    heads, width = get("num_attention_heads", "n_head"), get("hidden_size", "n_embd")
    head_dim = get("head_dim") or width // heads
    both = get("rope_parameters") or {}
    settings = {**(get("rope_scaling") or {}), **both.get("full_attention", both)}
    fraction = settings.get("partial_rotary_factor") or get("partial_rotary_factor", "rotary_pct") or 1.0
    keys = {
        "embedding_length": width, "block_count": get("num_hidden_layers", "n_layer"),
        "context_length": get("max_position_embeddings", "n_positions"), "attention.head_count": heads,
        "feed_forward_length": get("intermediate_size", "n_inner") or 4 * width,
        "attention.head_count_kv": get("num_key_value_heads") or heads,
        "attention.layer_norm_rms_epsilon": get("rms_norm_eps"),
        "attention.layer_norm_epsilon": get("layer_norm_eps", "layer_norm_epsilon"),
        "attention.sliding_window": get("sliding_window") if config.get("use_sliding_window", True) else None,
        "use_parallel_residual": get("use_parallel_residual"),
        "attention.sliding_window_pattern": get("_sliding_window_pattern", "sliding_window_pattern"),
        "expert_count": get("num_local_experts", "num_experts"), "expert_used_count": get("num_experts_per_tok"),
        "expert_feed_forward_length": get("moe_intermediate_size"),
        "attn_logit_softcapping": get("attn_logit_softcapping"),
        "final_logit_softcapping": get("final_logit_softcapping"), "embedding_scale": get("embedding_multiplier"),
        "attention.scale": get("attention_multiplier"), "residual_scale": get("residual_multiplier"),
        "logit_scale": get("logits_scaling")}
    if architecture != "gpt2":
        keys |= {"rope.freq_base": settings.get("rope_theta") or get("rope_theta", "rotary_emb_base"),
                 "rope.dimension_count": int(head_dim * fraction), "attention.key_length": head_dim,
                 "attention.value_length": head_dim}
        local = both.get("sliding_attention", {}).get("rope_theta") or get("rope_local_base_freq")
        keys["rope.freq_base_swa"] = local
    if settings.get("rope_type") in ("linear", "yarn"):
        keys |= {"rope.scaling.type": settings["rope_type"], "rope.scaling.factor": settings["factor"],
                 "rope.scaling.original_context_length": settings.get("original_max_position_embeddings")}
    if settings.get("rope_type") == "longrope":
        keys["rope.scaling.original_context_length"] = get("original_max_position_embeddings") or settings.get(
            "original_max_position_embeddings")
        keys["rope.scaling.attn_factor"] = settings.get("attention_factor")
    return {name: value for name, value in keys.items() if value is not None}


def rearranged(architecture, config, name, tensor):
    """A tensor of the hub as llama.cpp has it."""
    heads = config.get("num_attention_heads") or config["n_head"]
    if architecture in PERMUTED and re.search(r"\.[qk]_proj\.", name):
        count = heads if ".q_proj." in name else config["num_key_value_heads"]
        halves = tensor.reshape(count, 2, len(tensor) // count // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "gpt2" and re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name):
        return tensor.T
    if architecture == "gptneox" and ".query_key_value." in name:
        each = tensor.reshape(heads, 3, len(tensor) // heads // 3, *tensor.shape[1:])
        return each.swapaxes(0, 1).reshape(tensor.shape)
    return tensor


def write_gguf(path, architecture, config, tensors, extra=None, block=None, more_tensors=None):
    """Writes a file.

    Args:
        path: the file.
        architecture: as llama.cpp names it.
        config, tensors: `config.json` and tensors, as the hub has them.
        extra: whole keys, such as those of the tokenizer.
        block: format of the layers' matrices; None leaves them in float32.
        more_tensors: tensors under llama.cpp's own names.
    """
    writer, keys = GGUFWriter(path, architecture), metadata(architecture, config)
    for key, value in {**{f"{architecture}.{name}": value for name, value in keys.items()}, **(extra or {})}.items():
        add(writer, key, value)
    names = get_tensor_name_map({name: code for code, name in MODEL_ARCH_NAMES.items()}[architecture],
                                keys["block_count"])
    named, experts = dict(more_tensors or {}), {}
    for name, tensor in tensors.items():
        ours = names.get_name(re.sub(r"\.experts\.\d+\.", ".experts.", name), (".weight", ".bias"))
        if match := re.search(r"\.experts\.(\d+)\.", name):
            experts.setdefault(ours, {})[int(match[1])] = tensor
        else:
            named[ours] = rearranged(architecture, config, name, tensor)
    named |= {name: np.stack([parts[i] for i in range(len(parts))]) for name, parts in experts.items()}
    for name, tensor in named.items():
        tensor = np.ascontiguousarray(tensor)
        if block is not None and name.startswith("blk.") and tensor.ndim > 1:
            writer.add_tensor(name, quantize(tensor, block), raw_dtype=block)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


Q8_0, Q4_0 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0
