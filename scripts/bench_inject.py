"""Measures what injecting one passage costs, next to torch and PEFT on the same targets.

    python scripts/bench_inject.py [--model smollm2] [--targets 400] [--batch 8] [--compute float32 bfloat16]
                                   [--torch_steps 6] [--padded] [--json FILE]

The passage is the package's own, and the model writes its questions. Both sides take the same steps of distillation on
the same targets: LoRA of rank 16 on q, k, v, up, gate and down, AdamW, forward KL. jaxllm packs the targets and runs
each through the teacher once, of which it stores the 64 most probable tokens; torch pads the targets of a batch, runs
the teacher in every step with the adapter disabled, and takes the KL over the whole vocabulary.

Printed are seconds without compilation, learned tokens (those with a loss) a second, padding, and the bound: what the
matrix products of the least work would take at the rate of XLA's products of this machine in the same dtype. The least
work is every distinct target once through the teacher after one reading of its document, and two passes' worth of
products (forward, and the gradient of activations) for the tokens of a batch with their common prefix once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxllm
from jaxllm.config import SamplingConfig
from jaxllm.devices import DeviceConfig, open_mesh
from jaxllm.finetune.distill import DivergenceConfig
from jaxllm.finetune.packing import count_distinct, pack_targets, row_counts, teacher_passes
from jaxllm.finetune.run import TEACHER_TARGETS, TrainPlan, run_plan
from jaxllm.finetune.targets import Target, interleave
from jaxllm.finetune.trainable import trainable_model
from jaxllm.generate import Generator
from jaxllm.memory import return_freed_memory
from jaxllm.model import Model
from jaxllm.models import LoraConfig
from jaxllm.self_param.chunking import chunk_documents
from jaxllm.self_param.config import InjectConfig, MixtureConfig, QAPairConfig, UnrelatedConfig
from jaxllm.self_param.data import Document
from jaxllm.self_param.injection import method_targets, training_plan
from jaxllm.self_param.prompts import Prompts
from jaxllm.self_param.qa_pairs import make_qa_pairs
from jaxllm.self_param.targets import sample_unrelated
from jaxllm.train.config import TrainConfig

RANK, ALPHA, LR, TOP_K = 16, 32.0, 1e-3, 64
MODULES = ["q", "k", "v", "up", "gate", "down"]


def settings(options: argparse.Namespace, compute: str, top_k: int | None = TOP_K) -> InjectConfig:
    """Makes the settings of configs/self_param/smollm2.yaml, with the options' batches."""
    train = TrainConfig(steps=options.targets // options.batch, batch_size=options.batch, lr=LR, schedule="cosine",
                        warmup_steps=4, clip_norm=1.0, packing=not options.padded)
    return InjectConfig(
        qa_pairs=QAPairConfig(per_document=24, temperature=0.8, max_tokens=24),
        mixture=MixtureConfig(qa=3, continuation=0, unrelated=1),
        unrelated=UnrelatedConfig(tokens=32, train=24, drift=8, with_document=False),
        divergence=DivergenceConfig(top_k=top_k), sampling=SamplingConfig(temperature=0.0, max_tokens=32),
        lora=LoraConfig(rank=RANK, alpha=ALPHA, targets=MODULES), train=train, generation_batch_size=8,
        device=DeviceConfig(compute=compute))


@dataclasses.dataclass(frozen=True)
class Bench:
    """One passage with its targets, in one dtype of computation."""

    generator: Generator
    plan: TrainPlan
    source: Any
    targets: list[Target]


def prepare(options: argparse.Namespace, model: Model, compute: str, pairs: Any = None, texts: Any = None
            ) -> tuple[Bench, Any, Any]:
    """Writes the questions and the unrelated texts, unless they are given, and makes the plan of the training."""
    config = settings(options, compute)
    mesh = open_mesh(config.mesh)
    generator = Generator(trainable_model(model, config.lora, config.device), dtype=config.device.compute_dtype,
                          mesh=mesh, batch_size=config.generation_batch_size)
    asset = resources.files("jaxllm") / "assets/smollm2/passages.jsonl"
    passage = json.loads(asset.read_text("utf-8").splitlines()[0])["context"]
    prompts = Prompts(model, config.format)
    documents = chunk_documents(config, prompts, [Document(passage)])
    if pairs is None:
        pairs = [[passage.selected for passage in own] for own in make_qa_pairs(config, generator, prompts, documents)]
    texts = sample_unrelated(config, generator, None)[0] if texts is None else texts
    own = [one for group in method_targets("self_param", config, prompts, documents, pairs, texts, ())
           for one in group]
    plan = training_plan("self_param", config, generator, prompts, [own], mesh)
    source = interleave(own, 0)
    return Bench(generator, plan, source, [source.target(n) for n in range(options.targets)]), pairs, texts


def learned_tokens(targets: Sequence[Target]) -> int:
    """Counts the tokens with a loss."""
    return sum(len(target.student) - max(target.masked_tokens, 1) for target in targets)


def product_rate(dtype: jnp.dtype, width: int, inner: int, rows: int = 384) -> float:
    """Measures the operations a second of XLA's products of activations with a layer's kernel."""
    a, kernels = jnp.ones((rows, width), dtype), [jnp.full((width, inner), n, dtype) for n in range(8)]
    product = jax.jit(lambda a, kernel: jnp.matmul(a, kernel, preferred_element_type=jnp.float32))
    rates = []
    for _ in range(5):
        jax.block_until_ready([product(a, kernel) for kernel in kernels])
        start = time.perf_counter()
        jax.block_until_ready([product(a, kernel) for _ in range(4) for kernel in kernels])
        rates.append(2 * rows * width * inner * 32 / (time.perf_counter() - start))
    return float(np.median(rates))


def bound(bench: Bench, model: Model, batch: int) -> float:
    """Computes the seconds of the least work's matrix products."""
    spec, targets = model.spec, bench.targets
    vocabulary = spec.vocab_size * spec.width
    layers = sum(leaf.size for leaf in jax.tree.leaves(model.params["layers"]))
    distinct = list(dict.fromkeys(targets))
    student = sum(count_distinct([one.student for one in targets[start:start + batch]])
                  for start in range(0, len(targets), batch))
    teacher = count_distinct([one.teacher for one in distinct])
    operations = 2 * layers * (2 * student + teacher)
    operations += 2 * vocabulary * (3 * learned_tokens(targets) + learned_tokens(distinct))
    return operations / product_rate(bench.plan.dtype, spec.width, spec.mlp_width)


def padding(bench: Bench, batch: int) -> tuple[float, float]:
    """Computes the share of padding among the positions that the student and, once per target, the teacher compute."""
    plan, distinct = bench.plan, list(dict.fromkeys(bench.targets))
    if plan.packing is None or plan.teacher_packing is None:
        return (1 - float(np.mean([len(one.student) for one in bench.targets])) / plan.student_length,
                1 - float(np.mean([len(one.teacher) for one in distinct])) / plan.teacher_length)
    steps = [bench.targets[start:start + batch] for start in range(0, len(bench.targets), batch)]
    views = (("student", steps, plan.packing, batch),
             ("teacher", teacher_passes(distinct, TEACHER_TARGETS), plan.teacher_packing, TEACHER_TARGETS))
    student, teacher = (1 - float(np.concatenate(
        [pack_targets(own, shape, row_counts(size, 1)).batch[f"{name}_segments"].ravel() for own in passes]
    ).astype(bool).mean()) for name, passes, shape, size in views)
    return student, teacher


def time_torch(options: argparse.Namespace, model: Model, targets: Sequence[Target]) -> float:
    """Measures the seconds of a step of torch and PEFT, the median after a first one."""
    import torch
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from jaxllm.models import save_model, stack_layers

    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(Path(scratch) / "model", model.spec, stack_layers(model.params), options.model)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = PeftLora(r=RANK, lora_alpha=ALPHA, target_modules=[f"{name}_proj" for name in MODULES])
    network = get_peft_model(network, lora)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=LR)

    def logits_of(sequences: Sequence[Sequence[int]]) -> Any:
        length = max(map(len, sequences))
        ids = torch.tensor([[*own, *[0] * (length - len(own))] for own in sequences])
        mask = torch.tensor([[1] * len(own) + [0] * (length - len(own)) for own in sequences])
        return network(input_ids=ids, attention_mask=mask).logits

    seconds = []
    for step in range(options.torch_steps + 1):
        batch = targets[step * options.batch:(step + 1) * options.batch]
        start = time.perf_counter()
        with torch.no_grad(), network.disable_adapter():
            open_book = logits_of([one.teacher for one in batch])
        student, total = logits_of([one.student for one in batch]), torch.zeros(())
        for row, one in enumerate(batch):
            states = range(max(one.masked_tokens - 1, 0), len(one.student) - 1)
            ours = student[row, states].log_softmax(-1)
            theirs = open_book[row, [state + one.offset for state in states]].log_softmax(-1)
            total = total + (theirs.exp() * (theirs - ours)).sum(-1).mean()
        optimizer.zero_grad()
        (total / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--targets", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--compute", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--torch_steps", type=int, default=6, help="0 leaves torch out")
    parser.add_argument("--padded", action="store_true", help="pad every target to a row of its own")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    return_freed_memory()
    model, pairs, texts = jaxllm.load(options.model), None, None
    lines, tokens = [], 0
    for compute in options.compute:
        bench, pairs, texts = prepare(options, model, compute, pairs, texts)
        tokens = learned_tokens(bench.targets)
        run_plan(bench.generator, bench.source, bench.plan, progress=False)  # compiles
        start = time.perf_counter()
        result = run_plan(bench.generator, bench.source, bench.plan, progress=False)
        seconds = time.perf_counter() - start
        least = bound(bench, model, options.batch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        lines.append({"side": f"jaxllm, {compute}", "seconds": seconds, "tokens_per_second": tokens / seconds,
                      "padding": padding(bench, options.batch), "bound": least, "of_bound": least / seconds,
                      "loss": result.metrics["loss"], "peak_gb": peak})
    if options.torch_steps:
        seconds = time_torch(options, model, bench.targets) * (options.targets // options.batch)
        lines.append({"side": "torch, PEFT, float32", "seconds": seconds, "tokens_per_second": tokens / seconds})
    print(f"{options.targets} targets, {tokens:,} tokens with a loss, batches of {options.batch}")
    print("| side | seconds | learned tokens/s | padding, student / teacher | bound, s | of bound | peak, GB |")
    print("|---|---|---|---|---|---|---|")
    show = lambda value, style: "–" if value is None else format(value, style)
    for line in lines:
        print(f"| {line['side']} | {line['seconds']:.1f} | {line['tokens_per_second']:.0f} | "
              f"{' / '.join(f'{share:.1%}' for share in line.get('padding', ())) or '–'} | "
              f"{show(line.get('bound'), '.1f')} | "
              f"{show(line.get('of_bound'), '.0%')} | {show(line.get('peak_gb'), '.2f')} |")
    if options.json:
        options.json.write_text(json.dumps(lines, indent=2))


if __name__ == "__main__":
    main()
