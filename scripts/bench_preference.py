"""Fine-tuning of an adapter against TRL and PEFT: the same model, rows and batches, in one run, taking turns.

    python scripts/bench_preference.py [--model smollm2] [--steps 8] [--batch 4] [--repeats 2] [--remat] [--json FILE]

Workloads, of supervised fine-tuning (sft) and of DPO with the reference model's log-probabilities computed before:

    ragged    random tokens in the lengths of 64 rows of human preferences
    equal     texts of 128 tokens, half of them the prompt

Both sides train the same LoRA matrices in float32 by AdamW, each in a process of its own that has the CPU cores to
itself. Activations stay in memory, unless --remat lets the backward pass of both sides recompute them. TRL
pads the texts of a batch; jaxllm packs them, and reads a pair's prompt once. Rates are tokens of all texts a second, a
pair's prompt counted twice and padding not at all, over steps for which everything is compiled; making the batches is
part of a step. A ratio is the median over repeats.

Memory: what the compiler reports for the temporaries of a step of DPO on all weights of a small decoder with 128,256
tokens (`memory_analysis`; nothing is run), against the same loss from the logits of all positions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WORKLOADS = {f"{method}, {lengths}": (method, lengths) for method in ("sft", "dpo") for lengths in ("ragged", "equal")}
RANK, ALPHA, LR = 8, 32.0, 1e-4
EQUAL = (64, 64, 64)
# Tokens of prompt, chosen and rejected answer, by SmolLM2's tokenizer: 64 of the 1,725 rows of the harmless-base test
# split of hh-rlhf, drawn at random. Means 144, 43, 52; of all rows 148, 41, 50.
LENGTHS = [
    (71, 12, 17), (44, 40, 24), (279, 11, 157), (285, 8, 54), (40, 21, 11), (181, 86, 38), (167, 20, 30), (270, 47, 40),
    (34, 11, 3), (321, 56, 167), (572, 228, 141), (44, 9, 258), (115, 12, 15), (42, 102, 9), (89, 40, 115),
    (180, 13, 62), (220, 52, 42), (46, 19, 60), (158, 12, 26), (183, 11, 6), (43, 14, 34), (116, 19, 11), (141, 12, 23),
    (98, 26, 30), (134, 21, 6), (158, 7, 22), (69, 54, 50), (65, 19, 11), (105, 14, 31), (74, 7, 7), (154, 29, 68),
    (287, 11, 52), (169, 14, 16), (158, 14, 227), (153, 25, 16), (83, 30, 20), (107, 32, 48), (426, 49, 46),
    (324, 30, 70), (74, 8, 16), (40, 26, 12), (52, 6, 58), (41, 44, 35), (37, 21, 8), (213, 22, 79), (144, 85, 121),
    (217, 46, 27), (208, 115, 128), (501, 173, 176), (41, 123, 32), (69, 110, 17), (178, 18, 41), (125, 31, 30),
    (140, 49, 47), (48, 31, 57), (42, 86, 69), (157, 32, 52), (139, 114, 88), (123, 29, 39), (166, 27, 26),
    (43, 97, 4), (43, 15, 11), (40, 74, 15), (150, 112, 84)]

Row = tuple[list[int], list[int], list[int]]
"""Ids of prompt, chosen and rejected answer."""


def make_batches(lengths: str, vocab: int, window: int, steps: int, batch: int) -> list[list[Row]]:
    """Draws the rows of all steps; rows longer than the model's window are left out."""
    draws = np.random.default_rng(0)
    sizes = [size for size in (LENGTHS if lengths == "ragged" else [EQUAL]) if size[0] + max(size[1:]) <= window]
    rows = [tuple(draws.integers(3, vocab, count).tolist() for count in sizes[i % len(sizes)])
            for i in range(steps * batch)]
    return [rows[i:i + batch] for i in range(0, len(rows), batch)]


def count_tokens(method: str, rows: Sequence[Row]) -> int:
    """Counts the tokens of all texts: one per row for sft, two for dpo."""
    return sum(len(prompt) + len(answer) for prompt, *answers in rows
               for answer in (answers if method == "dpo" else answers[:1]))


def run_ours(model_path: str, method: str, lengths: str, steps: int, batch: int, remat: bool) -> dict[str, Any]:
    """Measures steps of `jaxllm tune`."""
    import jax
    import jax.numpy as jnp

    from jaxllm.devices import make_mesh
    from jaxllm.finetune.objectives import Objective, make_objective_loss
    from jaxllm.finetune.texts import completion_text, row_shape
    from jaxllm.finetune.trainable import init_trained
    from jaxllm.finetune.tune.groups import FixedGroups
    from jaxllm.finetune.tune.run import Runner, compute_reference
    from jaxllm.model import load
    from jaxllm.models import LoraConfig, stack_layers
    from jaxllm.models.mesh import put_batch
    from jaxllm.train import init_state, make_optimizer, make_train_step
    from jaxllm.train.config import TrainConfig

    model = load(model_path, jnp.float32)
    batches = make_batches(lengths, model.spec.vocab_size, model.spec.max_positions, steps, batch)
    text = lambda prompt, answer: completion_text(prompt + answer, [False] * len(prompt) + [True] * len(answer))
    groups = [tuple(text(prompt, answer) for answer in (answers if method == "dpo" else answers[:1]))
              for rows in batches for prompt, *answers in rows]
    data = FixedGroups(groups, {"weight": np.ones(len(groups), np.float32)}, range(len(groups)))
    numbers = [range(i * batch, (i + 1) * batch) for i in range(steps)]
    objective = Objective("pairs", (("sigmoid", 1.0),), reference="values") if method == "dpo" else Objective("sft")
    shape = row_shape([data.take(rows)[0] for rows in numbers], groups, model.spec.width, 1, packed=True)
    mesh, lora = make_mesh(1), LoraConfig(rank=RANK, alpha=ALPHA)
    runner = Runner(model.spec, objective, ALPHA / RANK, shape, batch, mesh, jnp.dtype("float32"), progress=False)
    start = init_trained(model, lora, mesh, 0)
    frozen = stack_layers(model.params)
    del model
    if method == "dpo":
        data = compute_reference(runner, start, frozen, data)
    settings = TrainConfig(lr=LR, schedule="constant", steps=steps, batch_size=batch)
    optimizer = make_optimizer(settings, steps)
    loss = make_objective_loss(runner.spec, objective, ALPHA / RANK, remat="full" if remat else "none")
    step = make_train_step(loss, optimizer)
    state, compiled, losses = init_state(start, optimizer, 0), set(), []

    def make(rows: range) -> float:
        nonlocal state
        began = time.perf_counter()
        state, metrics = step(state, frozen, put_batch(runner.batch(data, rows), mesh))
        losses.append(float(metrics["loss"]))
        return time.perf_counter() - began

    made = [runner.batch(data, rows) for rows in numbers]
    with jax.set_mesh(mesh):
        for rows, one in zip(numbers, made, strict=True):
            if one["tokens"].shape not in compiled:
                compiled.add(one["tokens"].shape)
                make(rows)
        taken = [make(rows) for rows in numbers]
    return {"seconds": taken, "tokens": [count_tokens(method, rows) for rows in batches], "first_loss": losses[0],
            "positions": sum(one["tokens"].size for one in made), "programs": len(compiled)}


def run_trl(model_path: str, method: str, lengths: str, steps: int, batch: int, threads: int, remat: bool
            ) -> dict[str, Any]:
    """Measures steps of TRL's trainer with PEFT; two more come first."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    batches = make_batches(lengths, model.config.vocab_size, model.config.max_position_embeddings, steps, batch)
    warm = [batches[i % steps] for i in range(2)]
    if method == "dpo":
        trainer, config = trl.DPOTrainer, trl.DPOConfig
        more = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": batch}
        as_row = lambda prompt, chosen, rejected: {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    else:
        trainer, config, more = trl.SFTTrainer, trl.SFTConfig, {}
        as_row = lambda prompt, answer, _: {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    class Encoded(trainer):
        """Takes rows of token ids as they are."""

        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    ends: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = config(
            output_dir=folder, max_steps=steps + 2, per_device_train_batch_size=batch, learning_rate=LR,
            lr_scheduler_type="constant", train_sampling_strategy="sequential", use_cpu=True, bf16=False,
            gradient_checkpointing=remat, report_to="none", save_strategy="no", disable_tqdm=True,
            logging_steps=1, max_length=None, **more)
        made = Encoded(
            model, args=arguments, processing_class=transformers.AutoTokenizer.from_pretrained(model_path),
            train_dataset=datasets.Dataset.from_list([as_row(*row) for rows in warm + batches for row in rows]),
            peft_config=peft.LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA,
                target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "gate_proj", "down_proj"]))
        made.pop_callback(transformers.PrinterCallback)
        made.add_callback(Clock())
        made.train()
        losses = [line["loss"] for line in made.state.log_history if "loss" in line]
    texts = lambda rows: [len(prompt) + len(answer) for prompt, *answers in rows
                          for answer in (answers if method == "dpo" else answers[:1])]
    return {"seconds": np.diff(ends)[1:].tolist(), "tokens": [count_tokens(method, rows) for rows in batches],
            "first_loss": losses[0], "positions": sum(len(texts(rows)) * max(texts(rows)) for rows in batches)}


def measure_memory(pairs: int = 4, length: int = 512, vocab: int = 128_256, width: int = 64) -> dict[str, Any]:
    """Computes the temporaries of a step of gradient descent on the DPO loss, both ways, in bytes."""
    import jax
    import jax.numpy as jnp

    from jaxllm.finetune.objectives import Objective, flat, group_values, make_objective_loss, objective_loss
    from jaxllm.finetune.texts import completion_text, make_batch, per_text_sums, row_shape
    from jaxllm.models import ModelSpec, compute_logits, forward, init_params

    spec = ModelSpec("llama", vocab, width, layers=2, heads=4, kv_heads=4, head_dim=width // 4, mlp_width=2 * width,
                     max_positions=length)
    objective = Objective("pairs", (("sigmoid", 1.0),), reference="values")
    text = completion_text(np.ones(length), np.arange(length) > 0)
    groups = [(text, text)] * pairs
    zeros = np.zeros(pairs, np.float32)
    batch = make_batch(groups, row_shape([groups], groups, spec.width, 1, packed=False),
                       {"weight": zeros + 1, "reference_0": zeros, "reference_1": zeros})

    def from_logits(params, frozen, batch, key, extra):
        rows = batch["tokens"].reshape(-1, batch["tokens"].shape[-1])
        hidden = forward(spec, params, rows, remat="full").hidden[:, :-1]
        logprobs = jax.nn.log_softmax(compute_logits(spec, params, hidden))
        own = jnp.take_along_axis(logprobs, rows[:, 1:, None], -1)[..., 0].reshape(pairs, -1)
        sums = per_text_sums(own, batch, 2)
        ones = jnp.ones_like(sums)
        values = flat(group_values(batch))
        outputs = {"logprobs": sums, "tokens": ones, "nll": -sums, "nll_tokens": ones}
        return objective_loss(objective, flat(outputs), values,
                              jnp.stack([values["reference_0"], values["reference_1"]], -1))

    params = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))
    sizes = {}
    for name, loss in (("streamed", make_objective_loss(spec, objective, None, remat="full")), ("logits", from_logits)):
        def step(params, batch, loss=loss):
            gradient = jax.grad(lambda params: loss(params, None, batch, None, None)[0][0])(params)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)

        compiled = jax.jit(step, donate_argnums=0).lower(params, batch).compile()
        sizes[name] = compiled.memory_analysis().temp_size_in_bytes
    return sizes | {"texts": 2 * pairs, "length": length, "vocab": vocab, "width": width}


def child(side: str, *arguments: object, threads: int) -> dict[str, Any]:
    """Runs a side in a fresh process with a number of threads."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1",
                       TOKENIZERS_PARALLELISM="false", PYTHONWARNINGS="ignore", TQDM_DISABLE="1")
    done = subprocess.run([sys.executable, __file__, "--side", side, *map(str, arguments)], env=environment,
                          stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def use_cores(count: int) -> None:
    """Leaves this process its first cores, where the system can: the threads of XLA cannot be counted otherwise."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def run_side(side: str, arguments: Sequence[str]) -> None:
    """What a child does; prints its numbers as the last line."""
    if side == "memory":
        print(json.dumps(measure_memory()))
        return
    model, method, lengths, *numbers = arguments
    steps, batch, remat, threads = map(int, numbers)
    use_cores(threads)
    if side == "ours":
        print(json.dumps(run_ours(model, method, lengths, steps, batch, bool(remat))))
    else:
        print(json.dumps(run_trl(model, method, lengths, steps, batch, threads, bool(remat))))


def compare(name: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one workload on both sides in turn."""
    rate = lambda run: sum(run["tokens"]) / sum(run["seconds"])
    pairs = []
    for _ in range(options.repeats):
        pairs.append([child(side, model, *WORKLOADS[name], options.steps, options.batch, int(options.remat),
                            options.threads, threads=options.threads) for side in ("trl", "ours")])
    theirs, ours = pairs[0]
    # An adapter has no effect at first: both sides have to start at the loss of the base model.
    if abs(theirs["first_loss"] - ours["first_loss"]) > 1e-3 * abs(theirs["first_loss"]):
        raise RuntimeError(f"{name}: the first losses are {theirs['first_loss']} and {ours['first_loss']}")
    total = sum(ours["tokens"])
    return {"workload": name, "batch": options.batch, "tokens_per_step": total / options.steps,
            "trl_tokens_per_s": statistics.median(rate(pair[0]) for pair in pairs),
            "tokens_per_s": statistics.median(rate(pair[1]) for pair in pairs),
            "ratios": [rate(pair[1]) / rate(pair[0]) for pair in pairs],
            "ratio": statistics.median(rate(pair[1]) / rate(pair[0]) for pair in pairs),
            "trl_positions_per_token": theirs["positions"] / total, "positions_per_token": ours["positions"] / total,
            "programs": ours["programs"], "runs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="checkpoint directory, tiny, or smollm2")
    for name, value in (("steps", 8), ("batch", 4), ("repeats", 2), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--only", nargs="+", choices=[*WORKLOADS, "memory"], default=[*WORKLOADS, "memory"])
    parser.add_argument("--json", type=Path, help="also write the numbers here, after every workload")
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from importlib.metadata import PackageNotFoundError, version

    from jaxllm.assets import resolve

    try:
        found: dict[str, Any] = {name: version(name) for name in ("jax", "torch", "trl", "peft", "transformers")}
    except PackageNotFoundError as error:
        parser.error(f"{error}; `make test-oracle` installs it")
    found |= {"model": options.model, "threads": options.threads, "remat": options.remat, "workloads": []}
    print(f"{options.model}, LoRA of rank {RANK}, float32; {os.cpu_count()} cores, {options.threads} threads; "
          + ", ".join(f"{name} {found[name]}" for name in ("jax", "torch", "trl", "peft")))
    print("| workload | rows a step | tokens a step | TRL, tokens/s | jaxllm, tokens/s | ratio | TRL, positions a "
          "token | jaxllm, positions a token | programs |\n|---|---|---|---|---|---|---|---|---|")
    for name in options.only:
        if name == "memory":
            continue
        row = compare(name, resolve(options.model), options)
        found["workloads"].append(row)
        print(f"| {name} | {row['batch']} | {row['tokens_per_step']:.0f} | {row['trl_tokens_per_s']:.0f} | "
              f"{row['tokens_per_s']:.0f} | {row['ratio']:.2f} | {row['trl_positions_per_token']:.2f} | "
              f"{row['positions_per_token']:.2f} | {row['programs']} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    if "memory" in options.only:
        memory = found["memory"] = child("memory", threads=options.threads)
        print(f"\nDPO on {memory['texts']} texts of {memory['length']} tokens, V={memory['vocab']:,}, width "
              f"{memory['width']}, float32\n\n| log-probabilities | temporaries |\n|---|---|")
        for name, label in (("streamed", "streamed"), ("logits", "from logits")):
            print(f"| {label} | {memory[name] / 2**20:,.1f} MiB |")
        print(f"ratio: {memory['logits'] / memory['streamed']:.1f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        sys.path.append(str(Path(__file__).resolve().parents[1]))
        run_side(sys.argv[2], sys.argv[3:])
    else:
        main()
