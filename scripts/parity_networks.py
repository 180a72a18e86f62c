"""Tiny networks of every family for parity tests, built, written and read by torch.

Language models, transformers' text classifiers, and reward models of classes that transformers does not have; their
checkpoints differ only in the names of the head's tensors. Norms and biases are perturbed: at their usual 1 and 0 a
mistake in loading them would not show.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

SMALL = dict(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GROUPED = SMALL | dict(num_key_value_heads=2)


@dataclasses.dataclass(frozen=True)
class Reward:
    """Head of a reward model of a class that transformers does not have.

    Attributes:
        name: name of its tensors, where transformers' classifier has `score`.
        layers: builds the head for a width.
    """

    name: str
    layers: Callable[[int], torch.nn.Module]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to compare.

    Attributes:
        config: config of transformers.
        scores: whether it scores texts; otherwise it predicts the next token.
        reward: its head, where transformers has no class for it.
    """

    config: transformers.PretrainedConfig
    scores: bool = False
    reward: Reward | None = None

    @property
    def loader(self) -> type:
        """The auto class of transformers for such networks."""
        return transformers.AutoModelForSequenceClassification if self.scores else transformers.AutoModelForCausalLM


def networks() -> dict[str, Network]:
    """Returns all networks by name, language models first."""
    return {name: Network(config) for name, config in decoders().items()} | {
        name: Network(config, scores=True) for name, config in classifiers().items()} | {
        name: Network(transformers.LlamaConfig(**GROUPED, num_labels=1), scores=True, reward=reward)
        for name, reward in REWARDS.items()}


def decoders() -> dict[str, transformers.PretrainedConfig]:
    """Returns a configuration per family and per setting that changes the computation."""
    small, grouped = SMALL, GROUPED
    llama3 = dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)
    yarn = dict(rope_type="yarn", rope_theta=1e4, factor=8.0, original_max_position_embeddings=32)
    experts = dict(num_experts_per_tok=2, hidden_act="silu")
    # With `original` 4 every text uses the long factors, with 128 the short ones.
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


def classifiers() -> dict[str, transformers.PretrainedConfig]:
    """Returns a configuration per family of encoders, and of some decoders that score texts."""
    hf, window = transformers, dict(sliding_window=16)
    encoder = {name: value for name, value in SMALL.items() if not name.endswith("token_id")} | dict(
        max_position_embeddings=64)
    deberta = encoder | dict(relative_attention=True, norm_rel_ebd="layer_norm", share_att_key=True,
                             pos_att_type=["p2c", "c2p"])
    return {
        "bert": hf.BertConfig(**encoder, num_labels=3),
        "roberta": hf.RobertaConfig(**encoder, num_labels=2),
        "distilbert": hf.DistilBertConfig(vocab_size=160, dim=64, hidden_dim=96, n_layers=3, n_heads=4, num_labels=5,
                                          max_position_embeddings=64),
        "deberta 3": hf.DebertaV2Config(**deberta, num_labels=3, position_buckets=8, position_biased_input=False,
                                        type_vocab_size=0),
        "deberta 2, convolution": hf.DebertaV2Config(**deberta, num_labels=1, conv_kernel_size=3, conv_act="gelu",
                                                     type_vocab_size=2, max_relative_positions=16),
        "llama, classifier": hf.LlamaConfig(**GROUPED, num_labels=3),
        "mistral, window, classifier": hf.MistralConfig(**GROUPED, **window, num_labels=2),
        "qwen2, classifier": hf.Qwen2Config(**GROUPED, num_labels=1),
        "qwen3, classifier": hf.Qwen3Config(**GROUPED, head_dim=24, num_labels=3),
        "gemma 2, classifier": hf.Gemma2Config(**GROUPED, **window, head_dim=24, num_labels=4),
    }


REWARDS = {
    "llama, reward": Reward("v_head", lambda width: torch.nn.Linear(width, 1, bias=False)),
    "llama, reward, bias": Reward("v_head", lambda width: torch.nn.Linear(width, 1)),
    "llama, reward, two layers": Reward("score", lambda width: torch.nn.Sequential(
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))),
}


def build(network: Network) -> torch.nn.Module:
    """Builds the network in torch, as its class initializes it."""
    model = network.loader.from_config(network.config, attn_implementation="eager").eval()
    if network.reward is not None:
        model.score = network.reward.layers(network.config.hidden_size)
    return model


def torch_model(network: Network) -> torch.nn.Module:
    """Builds a random model with all one-dimensional parameters perturbed and large matrices."""
    torch.manual_seed(0)
    model = build(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.05))
    return model


def write(network: Network, model: torch.nn.Module, folder: Path) -> None:
    """Writes a checkpoint directory of the network, or of its gradients."""
    model.save_pretrained(folder)
    if network.reward is not None:
        tensors = load_file(folder / "model.safetensors")
        save_file({_renamed(name, "score", network.reward.name): value for name, value in tensors.items()},
                  folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForRewardModel"]}
        (folder / "config.json").write_text(json.dumps(config))


def read(network: Network, folder: Path) -> torch.nn.Module:
    """Loads the network of a checkpoint directory in torch; raises unless its tensors are exactly the needed ones."""
    if network.reward is None:
        model, report = network.loader.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
        if any(report.values()):
            raise ValueError(f"torch does not find all tensors in {folder}: {report}")
        return model.eval()
    model = build(dataclasses.replace(network, config=transformers.AutoConfig.from_pretrained(folder)))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({_renamed(name, network.reward.name, "score"): value for name, value in tensors.items()})
    return model


def _renamed(name: str, old: str, new: str) -> str:
    """Replaces the head's prefix in a tensor's name."""
    return new + name.removeprefix(old) if name.startswith(f"{old}.") else name
