"""Parity with torch transformers in float32, as a table.

    python scripts/parity.py [--json FILE] [--stories DIR]

Random tiny models of every family are made by torch, saved, read here, and compared: logits, log-probabilities,
loss, gradients, 64 greedy tokens, cached against full forward, and the way back to torch. Norms and biases are
perturbed, since at their usual 1 and 0 a loader's mistakes pass. Differences are relative: the largest absolute
one over the largest absolute value of torch's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jaxllm.config import SamplingConfig
from jaxllm.generate.engine import generate
from jaxllm.models import forward, init_cache, load_model, logits, save_model, unembedding, unstack
from jaxllm.models.weights import load_spec
from jaxllm.ops import cross_entropy, token_logprobs
from jaxllm.text.model import Model, load

GREEDY = 64
LIMIT = 1e-4


def networks() -> dict[str, transformers.PretrainedConfig]:
    """A configuration per family and per setting that changes what is computed."""
    small = dict(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                 max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    grouped = small | dict(num_key_value_heads=2)
    llama3 = dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)
    yarn = dict(rope_type="yarn", rope_theta=1e4, factor=8.0, original_max_position_embeddings=32)
    experts = dict(num_experts_per_tok=2, hidden_act="silu")
    # Longer than the context it was made for from the first token on; the short factors are those of the other one.
    longrope = lambda original: dict(
        rope_type="longrope", rope_theta=1e4, short_factor=[1.0 + 0.1 * i for i in range(8)],
        long_factor=[1.0 + i for i in range(8)], original_max_position_embeddings=original)
    window, hf = dict(sliding_window=16), transformers
    return {
        "llama 1": hf.LlamaConfig(**small),
        "llama 2, grouped heads": hf.LlamaConfig(**grouped, rms_norm_eps=1e-5),
        "llama 3, llama3 rope, tied": hf.LlamaConfig(**grouped, head_dim=24, tie_word_embeddings=True,
                                                     rope_parameters=llama3),
        "llama, biases, linear rope": hf.LlamaConfig(**small, attention_bias=True, mlp_bias=True, rope_parameters=dict(
            rope_type="linear", rope_theta=1e4, factor=4.0)),
        "llama, yarn rope": hf.LlamaConfig(**small, rope_parameters=yarn),
        "llama, dynamic rope": hf.LlamaConfig(**small | dict(max_position_embeddings=32), rope_parameters=dict(
            rope_type="dynamic", rope_theta=1e4, factor=4.0)),
        "mistral, window": hf.MistralConfig(**grouped, **window, head_dim=16),
        "mixtral": hf.MixtralConfig(**grouped, **experts, num_local_experts=4, sliding_window=None),
        "qwen2, window in upper layers": hf.Qwen2Config(**grouped, **window, use_sliding_window=True,
                                                        max_window_layers=1),
        "qwen3": hf.Qwen3Config(**grouped, head_dim=24),
        "qwen3 moe": hf.Qwen3MoeConfig(**grouped, **experts, head_dim=24, num_experts=6, moe_intermediate_size=48,
                                       norm_topk_prob=True, decoder_sparse_step=1),
        "gemma": hf.GemmaConfig(**grouped, head_dim=24),
        "gemma 2": hf.Gemma2Config(**grouped, **window, head_dim=24, query_pre_attn_scalar=20,
                                   attn_logit_softcapping=1.5, final_logit_softcapping=5.0),
        "gemma 3": hf.Gemma3TextConfig(**grouped | dict(num_hidden_layers=6), **window, head_dim=24,
                                       query_pre_attn_scalar=20, rope_parameters={
            "full_attention": dict(rope_type="linear", rope_theta=1e6, factor=8.0),
            "sliding_attention": dict(rope_type="default", rope_theta=1e4)}),
        "phi": hf.PhiConfig(**small, qk_layernorm=True, rope_parameters=dict(
            rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)),
        "phi 3": hf.Phi3Config(**grouped, **window),
        "phi 3, longrope, long": hf.Phi3Config(**grouped, original_max_position_embeddings=4,
                                               rope_parameters=longrope(4)),
        "phi 3, longrope, short": hf.Phi3Config(**grouped, original_max_position_embeddings=128,
                                                rope_parameters=longrope(128)),
        "olmo 2": hf.Olmo2Config(**grouped),
        "granite": hf.GraniteConfig(**grouped, embedding_multiplier=3.0, attention_multiplier=0.2,
                                    residual_multiplier=0.5, logits_scaling=2.0),
        "smollm 3": hf.SmolLM3Config(**grouped | dict(num_hidden_layers=4)),
        "gpt-neox": hf.GPTNeoXConfig(**small),
        "gpt-neox, not parallel": hf.GPTNeoXConfig(**small, use_parallel_residual=False),
        "opt": hf.OPTConfig(**{k: v for k, v in small.items() if k != "intermediate_size"}, ffn_dim=96,
                            word_embed_proj_dim=64),
        "opt, norms outside, projected": hf.OPTConfig(**{k: v for k, v in small.items() if k != "intermediate_size"},
                                                      ffn_dim=96, word_embed_proj_dim=32, do_layer_norm_before=False),
        "gpt2": hf.GPT2Config(vocab_size=160, n_embd=64, n_layer=3, n_head=4, n_positions=256, bos_token_id=1,
                              eos_token_id=2),
    }


def torch_model(config: transformers.PretrainedConfig) -> torch.nn.Module:
    """A random model with every one-dimensional parameter perturbed and matrices large enough to matter."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.05))
    return model


def relative(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def relative_gradients(ours, theirs) -> float:
    """The worst leaf, each relative to its own size.

    A gradient that is zero by symmetry, as that of a key's bias is without rotation, is rounding on both sides;
    leaves below a thousandth of the largest gradient are compared at that scale.
    """
    floor = 1e-3 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    worst = lambda a, b: float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), floor))
    return max(jax.tree.leaves(jax.tree.map(worst, ours, theirs)))


def compare(config: transformers.PretrainedConfig, folder: Path) -> dict[str, float | bool | None]:
    """One row of the table; None where a comparison has no meaning."""
    theirs = torch_model(config)
    theirs.save_pretrained(folder / "torch")
    spec, params = load_model(folder / "torch")
    ids = np.random.default_rng(0).integers(3, spec.vocab_size, (2, 40))
    tokens = jnp.asarray(ids, jnp.int32)
    labels = torch.tensor(ids)

    scores = theirs(labels).logits
    torch_logprobs = torch.log_softmax(scores[:, :-1].float(), -1).gather(-1, labels[:, 1:, None])[..., 0]
    (-torch_logprobs.mean()).backward()

    def loss(params):
        hidden = forward(spec, params, tokens).hidden[:, :-1]
        total, weight = cross_entropy(hidden, unembedding(spec, params), tokens[:, 1:], jnp.ones((2, 39)))
        return total / weight

    hidden = forward(spec, params, tokens).hidden
    value, gradient = jax.value_and_grad(loss)(params)
    # torch's gradients, read back through the checkpoint format: names and layouts are checked as well.
    gradients = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for place, parameter in zip(gradients.parameters(), theirs.parameters(), strict=True):
            place.copy_(parameter.grad)
    gradients.save_pretrained(folder / "gradients")
    _, torch_gradient = load_model(folder / "gradients")
    save_model(folder / "back", spec, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder / "back")
    return {
        "logits": relative(logits(spec, params, hidden), scores.detach()),
        "logprobs": relative(token_logprobs(hidden[:, :-1], unembedding(spec, params), tokens[:, 1:]),
                             torch_logprobs.detach()),
        "loss": relative(value, (-torch_logprobs.mean()).detach()),
        "gradients": relative_gradients(gradient, torch_gradient),
        "greedy": greedy_agrees(theirs, spec, params, ids[:, :8]),
        # Dynamic rope turns a text's first tokens otherwise once it is longer: keys in a cache stay as they were.
        "cached": None if spec.rope and spec.rope.kind == "dynamic" else cached_difference(spec, params, tokens),
        "round trip": all(torch.equal(a, b) for a, b in zip(
            theirs.state_dict().values(), again.state_dict().values(), strict=True)) and load_spec(
                folder / "back") == spec,
    }


def greedy_agrees(theirs: torch.nn.Module, spec, params, prompts: np.ndarray) -> bool:
    """Whether both continue the prompts with the same tokens."""
    expected = theirs.generate(torch.tensor(prompts), max_new_tokens=GREEDY, do_sample=False, eos_token_id=None,
                               pad_token_id=0)[:, prompts.shape[1]:]
    endless = dataclasses.replace(spec, eos_ids=())  # torch was told to go on as well
    ours = generate(Model(endless, params, Silent()), prompts.tolist(),
                    SamplingConfig(temperature=0.0, max_tokens=GREEDY))
    return [row[0].token_ids for row in ours] == expected.tolist()


class Silent:
    """Stands for a tokenizer where only ids matter."""

    stop_ids = ()

    def decode(self, ids) -> str:
        return ""


def cached_difference(spec, params, tokens) -> float:
    """Largest relative difference between decoding with a cache and the full forward."""
    flat, cache, parts = unstack(params), init_cache(spec, 2, 40), []
    for start, stop in ((0, 20), (20, 21), (21, 40)):
        positions = jnp.tile(jnp.arange(start, stop), (2, 1))
        out = forward(spec, flat, tokens[:, start:stop], positions=positions, cache=cache)
        cache, parts = out.cache, [*parts, out.hidden]
    return relative(jnp.concatenate(parts, 1), forward(spec, params, tokens).hidden)


def stories(folder: Path) -> dict[str, float | bool]:
    """The real checkpoint against its reference, which an independent float64 program computed."""
    reference = json.loads((folder / "reference.json").read_text())
    model = load(folder)
    exact, worst = True, 0.0
    for case in reference["cases"]:
        count = len(case["greedy_ids"])
        made = generate(model, [case["prompt_ids"]], SamplingConfig(temperature=0.0, max_tokens=count))[0][0]
        exact &= made.token_ids == case["greedy_ids"][:len(made.token_ids)]
        hidden = forward(model.spec, model.params, jnp.asarray([case["prompt_ids"]])).hidden[0, -1]
        scores = np.asarray(logits(model.spec, model.params, hidden))
        for entry in case["last_prompt_logits_top5"]:
            index, value = entry if isinstance(entry, list) else (entry["id"], entry["logit"])
            worst = max(worst, abs(float(scores[index]) - value))
    return {"greedy ids exact": exact, "logits, largest difference": worst}


def show(cell: float | bool | None) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "NO"
    return "–" if cell is None else f"{cell:.1e}".replace("e-0", "e-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--stories", type=Path,
                        default=Path(__file__).resolve().parents[2] / "shared/data/models/stories260k",
                        help="the stories260k checkpoint with its reference.json")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    table = {}
    for name, config in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            table[name] = compare(config, Path(folder))
        if len(table) == 1:
            print(f"| | {' | '.join(table[name])} |\n|---{'|---' * len(table[name])}|")
        print(f"| {name} | {' | '.join(map(show, table[name].values()))} |", flush=True)
    fine = all(cell in (True, None) or not isinstance(cell, bool) and cell <= LIMIT
               for row in table.values() for cell in row.values())
    if options.stories.is_dir():
        table["stories260k"] = stories(options.stories)
        print("stories260k: " + ", ".join(f"{k} {v}" for k, v in table["stories260k"].items()))
        fine &= table["stories260k"]["greedy ids exact"] and table["stories260k"]["logits, largest difference"] <= LIMIT
    else:
        print(f"stories260k: not at hand ({options.stories})")
    print(f"all within {LIMIT:g}: {fine}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
