"""Parity with torch transformers in float32, as a table.

    python scripts/parity.py [--json FILE] [--stories DIR]

Random tiny networks (`parity_networks`) are made by torch, saved, read here, and compared. The columns:

    load        every tensor is used: none missing, unused, ignored, or of another shape
    logits      of every token; of networks that score texts the scores, padded on the right and on the left
    loss        of every token and of all; of scores, transformers' own
    gradients   of that loss, the worst parameter
    greedy      64 tokens
    cached      hidden states with a cache against without
    export      the saved checkpoint in torch: the same bits
    LoRA        logits under a random adapter that PEFT made and saved
    quantized   int8 / int4 / nf4 against full precision, here: mean KL of the next token in nats; of scores the
                mean change over their standard deviation across texts. For information: it has no limit

Differences are relative: the largest absolute one over the largest absolute value of torch's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import torch
import transformers

from jaxllm.config import SamplingConfig
from jaxllm.generate import generate
from jaxllm.model import Model, load
from jaxllm.models import (
    compute_logits,
    init_cache,
    load_model,
    load_spec,
    save_model,
    text_scores,
    unembedding,
    unstack_layers,
)
from jaxllm.models import forward as plain_forward
from jaxllm.models.matching import match_tensors
from jaxllm.models.peft import load_adapter
from jaxllm.models.quantized import quantize_params
from jaxllm.models.tensors import Tensors
from jaxllm.ops import cross_entropy, token_logprobs

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a script has only its own folder on the path
from scripts.parity_networks import Network, build, networks, read, torch_model, write

GREEDY = 64
LIMIT = 1e-4
SCHEMES = ("int8", "int4", "nf4")

forward = jax.jit(plain_forward, static_argnames="spec")


@dataclasses.dataclass(frozen=True)
class Texts:
    """Input of the networks.

    Attributes:
        ids: `[B, T]`.
        mask: `[B, T]`, 0 for padding.
        types: `[B, T]`, 0 or 1.
    """

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray

    @property
    def left(self) -> Texts:
        """The same texts with padding on the left."""
        lengths = self.mask.sum(1)
        turn = lambda rows: np.stack([np.roll(row, -length) for row, length in zip(rows, lengths, strict=True)])
        return Texts(turn(self.ids), turn(self.mask), turn(self.types))

    def torch(self) -> dict[str, torch.Tensor]:
        """Returns them as arguments of torch's networks."""
        named = {"input_ids": self.ids, "attention_mask": self.mask}
        if self.types.any():
            named["token_type_ids"] = self.types
        return {name: torch.tensor(value) for name, value in named.items()}


def random_texts(network: Network) -> Texts:
    """Draws two full rows to predict, or six texts of different lengths to score, with two token types if there are.

    Padding is the configuration's padding token: transformers' classifiers look for it.
    """
    lengths = np.array([40, 33, 25, 18, 7, 1] if network.scores else [40, 40])[:, None]
    positions = np.arange(40)
    mask = (positions < lengths).astype(int)
    ids = np.random.default_rng(0).integers(3, network.config.vocab_size, mask.shape)
    two = getattr(network.config, "type_vocab_size", 0) == 2
    types = mask * (positions >= lengths // 2) * two
    return Texts(np.where(mask, ids, network.config.pad_token_id or 0), mask, types)


def outputs(spec, params, texts: Texts, adapter=None) -> jax.Array:
    """Computes logits `[B, T, V]`, or scores `[B, labels]`."""
    ids, mask, types = jnp.asarray(texts.ids), jnp.asarray(texts.mask), jnp.asarray(texts.types)
    hidden = forward(spec, params, ids, segments=mask, types=types, adapter=adapter).hidden
    return compute_logits(spec, params, hidden) if spec.head is None else text_scores(spec, params, hidden, mask, ids)


def relative(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} against {theirs.shape}")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def relative_gradients(ours, theirs) -> float:
    """Returns the largest difference of a leaf, each relative to its own size.

    A gradient that is zero by symmetry (a key's bias without rotation) is rounding on both sides: leaves
    below a thousandth of the largest gradient are compared at that scale.
    """
    floor = 1e-3 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    worst = lambda a, b: float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), floor))
    return max(jax.tree.leaves(jax.tree.map(worst, ours, theirs)))


def compare(network: Network, folder: Path) -> dict[str, float | bool | None]:
    """Computes one row of the table without its last column; None where a comparison does not apply."""
    theirs, texts = torch_model(network), random_texts(network)
    write(network, theirs, folder / "torch")
    spec, params = load_model(folder / "torch")
    torch_outputs, losses, gradient = (score_losses if network.scores else token_losses)(theirs, spec, params, texts)
    sides = (texts, texts.left) if network.scores else (texts,)
    # torch's gradients are read through the checkpoint format, which checks names and layouts as well.
    torch_gradient = build(network)
    with torch.no_grad():
        for target, parameter in zip(torch_gradient.parameters(), theirs.parameters(), strict=True):
            target.copy_(torch.zeros_like(target) if parameter.grad is None else parameter.grad)
    write(network, torch_gradient, folder / "gradients")
    save_model(folder / "back", spec, params)
    again = read(network, folder / "back")
    # Dynamic rope depends on the length: cached keys keep the rotation of the shorter text.
    no_cache = spec.encoder is not None or spec.rope is not None and spec.rope.kind == "dynamic"
    return {
        "load": everything_fits(folder / "torch"),
        "logits": max(relative(outputs(spec, params, side), torch_outputs) for side in sides),
        "loss": losses,
        "gradients": relative_gradients(gradient, load_model(folder / "gradients")[1]),
        "greedy": None if network.scores else greedy_agrees(theirs, spec, params, texts.ids[:, :8]),
        "cached": None if no_cache else cached_difference(spec, params, jnp.asarray(texts.ids[:2])),
        "export": load_spec(folder / "back") == spec and all(
            torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), again.state_dict().values(), strict=True)),
        # Not on `theirs`: torch's dynamic rope stores the largest length so far, here that of the greedy text.
        "LoRA": adapted_difference(again, spec, params, texts, folder / "adapter"),
    }


def everything_fits(folder: Path) -> bool:
    """Whether the checkpoint's tensors are exactly those that the network needs."""
    with Tensors(folder) as tensors:
        match = match_tensors(load_spec(folder), tensors)
    return not (match.missing or match.unused or match.passed_over or match.reshaped)


def token_losses(theirs: torch.nn.Module, spec, params, texts: Texts) -> tuple[torch.Tensor, float, Any]:
    """Returns torch's logits, relative difference of next-token losses, and our gradient; torch's is in `theirs`."""
    tokens, labels = jnp.asarray(texts.ids), torch.tensor(texts.ids)
    scores = theirs(**texts.torch()).logits
    torch_logprobs = torch.log_softmax(scores[:, :-1].float(), -1).gather(-1, labels[:, 1:, None])[..., 0]
    torch_loss = -torch_logprobs.mean()
    torch_loss.backward()

    def loss(params):
        hidden = forward(spec, params, tokens).hidden[:, :-1]
        total, weight = cross_entropy(hidden, unembedding(spec, params), tokens[:, 1:], jnp.ones(tokens[:, 1:].shape))
        return total / weight, token_logprobs(hidden, unembedding(spec, params), tokens[:, 1:])

    (value, logprobs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    difference = max(relative(value, torch_loss.detach()), relative(logprobs, torch_logprobs.detach()))
    return scores.detach(), difference, gradient


def score_losses(theirs: torch.nn.Module, spec, params, texts: Texts) -> tuple[torch.Tensor, float, Any]:
    """Does the same as `token_losses` for scores: cross-entropy of labels, or the squared error of a single score."""
    single, draws = spec.head.labels == 1, np.random.default_rng(1)
    labels = (draws.normal(size=len(texts.ids)).astype(np.float32) if single else
              draws.integers(0, spec.head.labels, len(texts.ids)))
    result = theirs(**texts.torch(), labels=torch.tensor(labels))
    result.loss.backward()

    def loss(params):
        scores = outputs(spec, params, texts)
        if single:
            return jnp.mean((scores[:, 0] - labels) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(scores, jnp.asarray(labels)).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    # With labels and a single score, torch's DeBERTa gives its scores without their last axis.
    scores = result.logits.detach().reshape(len(labels), -1)
    return scores, relative(value, result.loss.detach()), gradient


def greedy_agrees(theirs: torch.nn.Module, spec, params, prompts: np.ndarray) -> bool:
    """Whether both continue the prompts with the same tokens."""
    expected = theirs.generate(torch.tensor(prompts), max_new_tokens=GREEDY, do_sample=False, eos_token_id=None,
                               pad_token_id=0)[:, prompts.shape[1]:]
    endless = dataclasses.replace(spec, eos_ids=())  # torch does not stop either
    ours = generate(Model(endless, params, Silent()), prompts.tolist(),
                    SamplingConfig(temperature=0.0, max_tokens=GREEDY))
    return [row[0].token_ids for row in ours] == expected.tolist()


class Silent:
    """A tokenizer stub where only ids matter."""

    stop_ids = ()

    def decode(self, ids) -> str:
        return ""


def cached_difference(spec, params, tokens) -> float:
    """Computes the largest relative difference between decoding with a cache and the full forward pass."""
    flat, cache, parts = unstack_layers(params), init_cache(spec, 2, 40), []
    for start, stop in ((0, 20), (20, 21), (21, 40)):
        out = forward(spec, flat, tokens[:, start:stop], cache=cache)
        cache, parts = out.cache, [*parts, out.hidden]
    return relative(jnp.concatenate(parts, 1), forward(spec, params, tokens).hidden)


def adapted_difference(theirs: torch.nn.Module, spec, params, texts: Texts, folder: Path) -> float:
    """Computes the largest relative difference with a random adapter on every linear layer; changes `theirs`.

    Experts are not linear layers in torch: in mixtures of experts only the attention is adapted.
    """
    linear = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    targets = [name for name, module in theirs.named_modules()
               if isinstance(module, linear) and re.search(r"\.\d+\.", name)]
    config = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=targets,
                             fan_in_fan_out=spec.family == "gpt2")
    adapted = peft.get_peft_model(theirs, config).eval()
    adapted.save_pretrained(folder, save_embedding_layers=False)
    with torch.no_grad():
        expected = adapted(**texts.torch()).logits
    return relative(outputs(spec, params, texts, load_adapter(folder, spec)), expected)


def quantized_changes(network: Network, folder: Path) -> list[float]:
    """Computes the change of outputs by each quantization scheme; see the module's docstring."""
    spec, params = load_model(folder)
    texts = random_texts(network)
    full = outputs(spec, params, texts)
    changes = []
    for scheme in SCHEMES:
        other = outputs(spec, quantize_params(params, scheme), texts)
        if network.scores:
            changes.append(float(jnp.abs(other - full).mean() / jnp.sqrt(full.var(0).mean())))
        else:
            changes.append(float(optax.kl_divergence(jax.nn.log_softmax(other), jax.nn.softmax(full)).mean()))
    return changes


def stories(folder: Path) -> dict[str, float | bool]:
    """Compares stories260k with its reference, which an independent float64 program computed."""
    reference = json.loads((folder / "reference.json").read_text())
    model = load(folder)
    exact, worst = True, 0.0
    for case in reference["cases"]:
        count = len(case["greedy_ids"])
        made = generate(model, [case["prompt_ids"]], SamplingConfig(temperature=0.0, max_tokens=count))[0][0]
        exact &= made.token_ids == case["greedy_ids"][:len(made.token_ids)]
        hidden = forward(model.spec, model.params, jnp.asarray([case["prompt_ids"]])).hidden[0, -1]
        scores = np.asarray(compute_logits(model.spec, model.params, hidden))
        for entry in case["last_prompt_logits_top5"]:
            index, value = entry if isinstance(entry, list) else (entry["id"], entry["logit"])
            worst = max(worst, abs(float(scores[index]) - value))
    return {"greedy ids exact": exact, "logits, largest difference": worst}


def show(cell: float | bool | list[float] | None) -> str:
    if isinstance(cell, list):
        return " / ".join(map(show, cell))
    if isinstance(cell, bool):
        return "yes" if cell else "NO"
    return "–" if cell is None else f"{cell:.1e}".replace("e-0", "e-") if cell else "0"


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
    table, fine = {}, True
    for name, network in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            row = compare(network, Path(folder))
            fine &= all(cell in (True, None) or not isinstance(cell, bool) and cell <= LIMIT for cell in row.values())
            table[name] = row | {"quantized": quantized_changes(network, Path(folder) / "torch")}
        if len(table) == 1:
            print(f"| | {' | '.join(table[name])} |\n|---{'|---' * len(table[name])}|")
        print(f"| {name} | {' | '.join(map(show, table[name].values()))} |", flush=True)
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
